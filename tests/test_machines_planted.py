"""Every check of the machine models is shown to fail: the real ones pass it, and one with a known bug planted does not."""

# ruff: noqa: E501 - one planted bug a line: the table is read down its columns

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import machine_checks as checks
import pytest
from machine_checks import Tools
from planted import mutated

from lepton_ref.numerics import machine_units, machines, philox, tensor_core
from lepton_ref.plain import machine_dot
from lepton_ref.plain import philox as plain_philox

Check = Callable[[Tools], None]

DOT, MACHINES, UNITS, CORE, PHILOX = machine_dot, machines, machine_units, tensor_core, philox

PLANTED: dict[str, tuple[ModuleType, str, str, Check]] = {
    # the scalar specification
    "inputs are not rounded": (DOT, "x = [unit.flush(round_to(value, found.inputs), found.inputs) for value in x]", "x = list(x)", checks.inputs_are_rounded),
    "weights are not rounded": (DOT, "w = [unit.flush(round_to(value, found.inputs), found.inputs) for value in w]", "w = list(w)", checks.inputs_are_rounded),
    "a tensor core's inputs are not rounded": (DOT, "x, w = [round_to(value, core.inputs) for value in x], [round_to(value, core.inputs) for value in w]", "pass", checks.inputs_are_rounded),
    "a product is not rounded": (DOT, "self.add(c, self.multiply(a, b))", "self.multiply_add(a, b, c)", checks.products_are_rounded),
    "fma rounds the product": (DOT, "self.multiply_add(a, b, c) if self.machine.fused else self.add(c, self.multiply(a, b))", "self.add(c, self.multiply(a, b))", checks.products_are_rounded),
    "a sum is rounded twice": (DOT, "_exact(a) * _exact(b) + _exact(c), a * b + c)", "Fraction(a * b + c) if math.isfinite(a * b + c) else Fraction(0), a * b + c)", checks.nothing_is_rounded_twice),
    "a product is rounded by way of fp32": (DOT, "self.round(_exact(a) * _exact(b), a * b)", "self.round(_exact(round_to(a * b, 'fp32')), a * b)", checks.nothing_is_rounded_twice),
    "a sum begins with 0": (DOT, "total = unit.multiply(x[0], w[0])\n    for", "total = unit.add(0.0, unit.multiply(x[0], w[0]))\n    for", checks.a_bias_comes_last),
    "from right to left": (DOT, "    total = unit.multiply(x[0], w[0])\n    for", "    x, w = x[::-1], w[::-1]\n    total = unit.multiply(x[0], w[0])\n    for", checks.order_of_addition),
    "pairs of halves": (DOT, "n = 1 << (len(x) - 1).bit_length() - 1", "n = len(x) // 2", checks.order_of_addition),
    "a block is one too long": (DOT, "n = unit.machine.block", "n = unit.machine.block + 1", checks.order_of_addition),
    "a block is one too short": (DOT, "n = unit.machine.block", "n = max(unit.machine.block - 1, 1)", checks.order_of_addition),
    "a block's products go on to the total": (DOT, "total = unit.add(total, _sequential(x[start : start + n], w[start : start + n], unit))", "total = _sequential([total, *x[start : start + n]], [1.0, *w[start : start + n]], unit)", checks.order_of_addition),
    "Kahan's correction has the other sign": (DOT, "unit.add_product(a, b, -correction)", "unit.add_product(a, b, correction)", checks.kahan),
    "Kahan's correction is lost": (DOT, "correction = unit.add(unit.add(new, -total), -y)", "correction = 0.0", checks.kahan),
    "Kahan's correction is exact": (DOT, "correction = unit.add(unit.add(new, -total), -y)", "correction = float(_exact(new) - _exact(total) - _exact(y))", checks.kahan),
    "a bias comes first": (DOT, "    total = _ORDERS[found.order](x, w, unit) if x else 0.0\n", "    x, w = [*([] if bias is None else [bias]), *x], [*([] if bias is None else [1.0]), *w]\n    bias = None\n    total = _ORDERS[found.order](x, w, unit) if x else 0.0\n", checks.a_bias_comes_last),
    "a bias is lost": (DOT, "    if bias is None:\n        return total\n    return unit", "    return total\n    return unit", checks.a_bias_comes_last),
    "a bias is not rounded": (DOT, "unit.flush(round_to(bias, found.accumulate), found.accumulate)", "bias", checks.a_bias_comes_last),
    "a tensor core's bias is cut off": (DOT, "return round_to(exact, core.result, zero=total + last)", "return round_to(exact, core.result, zero=total + last, mode='zero')", checks.a_bias_comes_last),
    "subnormal results stay": (DOT, "return self.flush(round_to(exact, accumulate, mode=mode, chance=chance, zero=otherwise), accumulate)", "return round_to(exact, accumulate, mode=mode, chance=chance, zero=otherwise)", checks.subnormals_are_flushed),
    "subnormal inputs stay": (DOT, "x = [unit.flush(round_to(value, found.inputs), found.inputs) for value in x]", "x = [round_to(value, found.inputs) for value in x]", checks.subnormals_are_flushed),
    "subnormal biases stay": (DOT, "unit.flush(round_to(bias, found.accumulate), found.accumulate)", "round_to(bias, found.accumulate)", checks.subnormals_are_flushed),
    "the least normal number is flushed": (DOT, "abs(value) < 2.0", "abs(value) <= 2.0", checks.subnormals_are_flushed),
    "a flushed number loses its sign": (DOT, "math.copysign(0.0, value) if", "0.0 if", checks.subnormals_are_flushed),
    "what rounds up to a normal number is flushed": (DOT, "        if not math.isfinite(otherwise):\n", "        exact = Fraction(self.flush(otherwise, accumulate)) if math.isfinite(otherwise) else exact\n        if not math.isfinite(otherwise):\n", checks.subnormals_are_flushed),
    "every mode is to nearest": (DOT, "mode=mode, chance=chance, zero=otherwise", "zero=otherwise", checks.rounding_toward_zero),
    "stochastic rounding counts from 1": (DOT, "roundings: int = 0", "roundings: int = 1", checks.stochastic_rounding),
    "stochastic rounding forgets the feature": (DOT, "self.feature, self.roundings)", "0, self.roundings)", checks.stochastic_rounding),
    "stochastic rounding forgets the step": (DOT, "self.feature, self.roundings)", "self.feature, 0)", checks.stochastic_rounding),
    "stochastic rounding goes the wrong way": (DOT, "chance = Fraction(", "chance = 1 - Fraction(1, 1 << 64) - Fraction(", checks.stochastic_rounding),
    "an infinite sum is 0": (DOT, "if not math.isfinite(otherwise):", "if math.isnan(otherwise):", checks.special_values),
    "every F is one more": (DOT, "largest - core.fraction_bits", "largest - core.fraction_bits - 1", checks.measured),
    "every F is one less": (DOT, "largest - core.fraction_bits", "largest - core.fraction_bits + 1", checks.steps_of_a_tensor_core),
    "rows: every F is one less": (DOT, "largest - core.fraction_bits", "largest - core.fraction_bits + 1", checks.measured),
    "products are rounded to nearest as they are aligned": (DOT, "math.trunc(Fraction(value) / unit)", "round(Fraction(value) / unit)", checks.measured),
    "products are rounded down as they are aligned": (DOT, "math.trunc(Fraction(value) / unit)", "math.floor(Fraction(value) / unit)", checks.measured),
    "products are not cut off": (DOT, "math.trunc(Fraction(value) / unit)", "Fraction(value) / unit", checks.measured),
    "the sum is cut off, not its terms": (DOT, "sum(math.trunc(Fraction(value) / unit) for value, _ in terms)", "math.trunc(sum(Fraction(value) for value, _ in terms) / unit)", checks.measured),
    "aligned to the products only": (DOT, "terms.append((total, _exponent(total, _record(core.result))))", "terms.append((total, -999))", checks.measured),
    "aligned to C only": (DOT, "*(exponent for _, exponent in terms))", "*([terms[-1][1]] if total else [e for _, e in terms]))", checks.measured),
    "C is lost": (DOT, "    if total != 0:\n", "    if total != total:\n", checks.measured),
    "products are normalised before they are aligned": (DOT, "_exponent(a, inputs) + _exponent(b, inputs)", "_exponent(p, _record('fp32'))", checks.measured),
    "by hand: products are normalised": (DOT, "_exponent(a, inputs) + _exponent(b, inputs)", "_exponent(p, _record('fp32'))", checks.exponents_of_a_tensor_core),
    "subnormals are normalised before they are aligned": (DOT, "max(exponent_of(abs(Fraction(value))), format.emin)", "exponent_of(abs(Fraction(value)))", checks.exponents_of_a_tensor_core),
    "a zero takes part": (DOT, " if p != 0]\n", "]\n", checks.exponents_of_a_tensor_core),
    "the least exponent is forgotten": (DOT, "max(core.least_exponent, *(", "max(-10**6, *(", checks.exponents_of_a_tensor_core),
    "fp32 results to nearest": (DOT, 'kept, mode="zero")', "kept)", checks.measured),
    "fp32 results away from zero": (DOT, 'round_to(total, kept, mode="zero")', 'round_to(total, kept, mode="up" if total > 0 else "down")', checks.steps_of_a_tensor_core),
    "fp16 results toward zero": (DOT, 'round_to(total, "fp16")', 'round_to(total, "fp16", mode="zero")', checks.results_of_a_tensor_core),
    "fp8 results keep 23 bits": (DOT, "8, core.kept_bits, 127", "8, 23, 127", checks.steps_of_a_tensor_core),
    "overflow stops at the largest number": (DOT, "return math.inf if total > 0 else -math.inf", "pass", checks.results_of_a_tensor_core),
    "∞ loses its sign": (DOT, "return round_to(sum(products, total), core.result)", "return round_to(abs(sum(products, total)), core.result)", checks.special_values),
    "one product too many in a step": (DOT, "total, n = 0.0, core.products", "total, n = 0.0, core.products + 1", checks.steps_of_a_tensor_core),
    "one product too few in a step": (DOT, "total, n = 0.0, core.products", "total, n = 0.0, core.products - 1", checks.steps_of_a_tensor_core),
    # the vectorised twin
    "panels: inputs are not rounded": (MACHINES, "rounded = round_array(x, format)", "rounded = x", checks.inputs_are_rounded),
    "panels: the bias is lost": (MACHINES, "    return unit.add(total, np.broadcast_to(last, total.shape))", "    return total", checks.a_bias_comes_last),
    "panels: a bias is not rounded": (MACHINES, "last = _rounded(bias, machine.accumulate, flush).astype(total.dtype)", "last = bias", checks.a_bias_comes_last),
    "panels: a tensor core's bias is not rounded": (MACHINES, "return round_array(added.astype(np.float64), core.result)", "return added.astype(np.float64)", checks.a_bias_comes_last),
    "panels: subnormal inputs stay": (MACHINES, "return rounded * (np.abs(rounded) >= 2.0 ** float_record(format).emin) if flush else rounded", "return rounded", checks.subnormals_are_flushed),
    "panels: NaN keeps its sign": (MACHINES, "y[np.isnan(y)] = np.nan", "pass", checks.special_values),
    "panels: features count from 0": (MACHINES, "first_feature + columns.start", "columns.start", checks.stochastic_rounding),
    "panels: pairs of halves": (MACHINES, "middle = start + (1 << (stop - start - 1).bit_length() - 1)", "middle = (start + stop) // 2", checks.as_numpy_computes),
    "panels: a block is one too long": (MACHINES, "n = unit.machine.block", "n = unit.machine.block + 1", checks.order_of_addition),
    "panels: from right to left": (MACHINES, "    for k in range(start + 1, stop):\n        total = unit.add_product(k, total)", "    for k in range(stop - 1, start, -1):\n        total = unit.add_product(k, total)", checks.as_numpy_computes),
    "panels: Kahan's correction has the other sign": (MACHINES, "unit.add_product(k, -correction)", "unit.add_product(k, correction)", checks.as_numpy_computes),
    "panels: Kahan subtracts in the other order": (MACHINES, "unit.add(unit.add(new, -total), -y)", "unit.add(new, -unit.add(total, y))", checks.kahan),
    "float32: a product is not rounded": (UNITS, "return self._round(self.x[k][:, None] * self.w[k])", "return self.x[k][:, None] * self.w[k]", checks.as_numpy_computes),
    "float32: a sum is not rounded": (UNITS, "self._round(np.add(a, b, dtype=np.float32))", "np.add(a, b, dtype=np.float32)", checks.as_numpy_computes),
    "float32: subnormal results stay": (UNITS, "            value *= np.abs(value) >= self.least\n        return value\n\n\nclass", "            pass\n        return value\n\n\nclass", checks.subnormals_are_flushed),
    "float32 wherever the mode is to nearest": (UNITS, "2 * float_record(machine.inputs).precision <= 24", "True", checks.nothing_is_rounded_twice),
    "float32 near the end of its range": (UNITS, "least >= 2.0**-100", "True", checks.nothing_is_rounded_twice),
    "bf16 ties go up": (UNITS, "carry += np.uint32(0x7FFF)", "carry = carry * np.uint32(0) + np.uint32(0x8000)", checks.kahan_and_ties_in_bf16),
    "bf16 is cut off": (UNITS, "    carry += np.uint32(0x7FFF)\n    carry += bits", "    carry = bits", checks.kahan_and_ties_in_bf16),
    "fp16 keeps a bit too many": (UNITS, "np.uint32(13 << 23 | 1 << 22)", "np.uint32(12 << 23 | 1 << 22)", checks.as_numpy_computes),
    "fp16 ties go by another bit": (UNITS, "np.uint32(13 << 23 | 1 << 22)", "np.uint32(13 << 23 | 1 << 22 | 1)", checks.order_of_addition),
    "fp16 has no subnormals": (UNITS, "np.maximum(magic, np.uint32(127 - 14 << 23), out=magic)", "pass", checks.subnormals_of_fp16),
    "fp16 has no ∞": (UNITS, "    result *= np.float32(2.0**112)\n    result *= np.float32(2.0**-112)\n", "", checks.rounding_toward_zero),
    "fp16 forgets the sign of zero": (UNITS, "out |= bits & np.uint32(0x80000000)", "pass", checks.a_bias_comes_last),
    "float64: a sum is rounded twice": (UNITS, "value if error is None else to_odd(value, error)", "value", checks.nothing_is_rounded_twice),
    "to odd, away from the sum": (UNITS, ">> 63 | 1", ">> 63 ^ -1 | 1", checks.nothing_is_rounded_twice),
    "fma rounds the product, in panels": (UNITS, "self.x[k][:, None] * self.w[k] if self.machine.fused else self.multiply(k), c", "self.multiply(k), c", checks.as_the_processor_fuses),
    "float64: subnormal results stay": (UNITS, "            value *= np.abs(value) >= self.least\n        return value\n\n    def", "            pass\n        return value\n\n    def", checks.subnormals_are_flushed),
    "a stochastic sum forgets its error": (UNITS, "low=_finite(low)", "low=None", checks.far_stochastic_sums),
    "chances are compared with a cut fraction": (UNITS, "np.ceil(fraction, out=fraction)", "np.floor(fraction, out=fraction)", checks.far_stochastic_sums),
    "a chance is one too low": (UNITS, ".astype(np.uint64) > bits", ".astype(np.uint64) >= bits", checks.far_stochastic_sums),
    "by chance, the spacing of subnormals goes on": (UNITS, "np.clip(spacing, 2.0**format.emin,", "np.clip(spacing, 2.0**-1000,", checks.far_stochastic_sums),
    "by chance, no overflow": (UNITS, "steps[steps > format.largest] = np.inf", "pass", checks.far_stochastic_sums),
    "by chance, no sign": (UNITS, "np.copysign(steps, value, out=steps)", "steps", checks.far_stochastic_sums),
    "draws do not go on": (UNITS, "self.roundings += 1", "self.roundings += 0", checks.stochastic_rounding),
    "the key stays": (PHILOX, "left, right = left + WEYL[0] & WORD, right + WEYL[1] & WORD", "pass", checks.stochastic_rounding),
    "the counter's words change places": (PHILOX, "steps & _WORD, steps >> _HALF, features & _WORD, features >> _HALF", "features & _WORD, features >> _HALF, steps & _WORD, steps >> _HALF", checks.stochastic_rounding),
    "a seed of 32 bits": (PHILOX, "seed & WORD, seed >> 32", "seed & WORD, 0", checks.stochastic_rounding),
    "panels: every F is one more": (CORE, "scale = power_of_two(core.fraction_bits - largest)", "scale = power_of_two(core.fraction_bits - largest + 1) * 0.5 * 2", checks.measured),
    "panels: products are rounded to nearest": (CORE, "np.trunc(product, out=product)", "np.rint(product, out=product)", checks.measured),
    "panels: products are rounded down": (CORE, "np.trunc(product, out=product)", "np.floor(product, out=product)", checks.measured),
    "panels: C is not cut off": (CORE, "total = np.trunc(total * scale)", "total = total * scale", checks.measured),
    "panels: aligned to the products only": (CORE, "largest = exponents(total, float_record(core.result).emin)", "largest = exponents(total * 0, float_record(core.result).emin)", checks.measured),
    "panels: a zero takes part": (CORE, "np.isfinite(x) & (x != 0), found, NO_PART", "np.isfinite(x), found, NO_PART", checks.exponents_of_a_tensor_core),
    "panels: the least exponent is forgotten": (CORE, "np.maximum(largest, core.least_exponent, out=largest)", "np.maximum(largest, -300, out=largest)", checks.exponents_of_a_tensor_core),
    "panels: −0 stays": (CORE, "total += 0.0", "pass", checks.zeros_of_a_tensor_core),
    "panels: subnormal results are cut as normal ones": (CORE, "if small.any():", "if False:", checks.results_of_a_tensor_core),
    "panels: overflow goes on": (CORE, "cut[size >= 2.0**128] *= np.inf", "pass", checks.results_of_a_tensor_core),
    "panels: a bit too many is dropped": (CORE, "(1 << 52 - core.kept_bits) - 1", "(1 << 53 - core.kept_bits) - 1", checks.measured),
    "panels: a bit too few is dropped": (CORE, "(1 << 52 - core.kept_bits) - 1", "(1 << 51 - core.kept_bits) - 1", checks.measured),
}  # fmt: skip
"""Bug → (module, its text, what the bug makes of it, the check that must see it)."""

RECORDS: dict[str, tuple[str, dict[str, object], Check]] = {
    "Volta cuts at 24 bits": ("v100-fp16", {"fraction_bits": 24}, checks.measured),
    "Ampere cuts at 23 bits": ("a100-fp16", {"fraction_bits": 23}, checks.measured),
    "Ampere cuts at 25 bits": ("a100-fp16", {"fraction_bits": 25}, checks.measured),
    "Ampere cuts TF32 at 23 bits": ("a100-tf32", {"fraction_bits": 23}, checks.measured),
    "Hopper cuts at 24 bits": ("h100-fp16", {"fraction_bits": 24}, checks.measured),
    "Hopper cuts FP8 at 14 bits": ("h100-fp8", {"fraction_bits": 14}, checks.measured),
    "Hopper keeps 14 bits of FP8 sums": ("h100-fp8", {"kept_bits": 14}, checks.steps_of_a_tensor_core),
    "Hopper multiplies FP8 as Blackwell does": ("h100-fp8", {"fraction_bits": 25, "kept_bits": 23}, checks.steps_of_a_tensor_core),
    "Blackwell multiplies FP8 as Hopper does": ("b200-fp8", {"fraction_bits": 13, "kept_bits": 13}, checks.steps_of_a_tensor_core),
    "Volta takes eight at once": ("v100-fp16", {"products": 8}, checks.measured),
    "Ampere takes four at once": ("a100-fp16", {"products": 4}, checks.measured),
    "Hopper takes eight at once": ("h100-fp16", {"products": 8}, checks.measured),
    "Hopper takes 16 of FP8 at once": ("h100-fp8", {"products": 16}, checks.measured),
    "Volta gives fp32 for fp16": ("v100-fp16-fp16", {"result": "fp32"}, checks.results_of_a_tensor_core),
    "sequential sums in pairs": ("sequential-fp16", {"order": "pairwise"}, checks.sequential_fp16_of_length_4096),
    "sequential sums in fp32": ("sequential-fp16", {"accumulate": "fp32"}, checks.sequential_fp16_of_length_4096),
    "blocks of 33": ("blocked-fp16", {"block": 33}, checks.order_of_addition),
}  # fmt: skip
"""Bug → (machine, what is wrong in its record, the check that must see it)."""


def changed(module: ModuleType, text: str, bug: str) -> Tools:
    """The tools with a bug in one module, and the modules that are built on it wired to that one."""
    if module is machine_dot:
        wrong = mutated(module, text, bug)
        return Tools(dot=wrong.dot, step=wrong.step)
    fresh: dict[ModuleType, ModuleType] = {}
    for original in (philox, machine_units, tensor_core, machines):
        docstring = '"""\n\nfrom __future__'
        new = mutated(original, text, bug) if original is module else mutated(original, docstring, docstring)
        for lower, replaced in fresh.items():
            for name, thing in vars(lower).items():
                if vars(new).get(name) is thing and getattr(thing, "__module__", None) == lower.__name__:
                    setattr(new, name, getattr(replaced, name))
        fresh[original] = new
    return Tools(
        matmul=fresh[machines].machine_matmul, array_step=fresh[tensor_core].step, unit=fresh[machine_units].GeneralUnit
    )


PUBLIC = [
    check
    for check in vars(checks).values()
    if inspect.isfunction(check) and list(inspect.signature(check).parameters) == ["tools"]
]


@pytest.mark.parametrize("check", PUBLIC, ids=lambda check: check.__name__)
def test_the_real_machines_pass(check: Check) -> None:
    check(Tools())


@pytest.mark.parametrize(
    "module", [machine_dot, machines, machine_units, tensor_core, philox], ids=lambda m: m.__name__
)
def test_wiring_by_itself_changes_nothing(module: ModuleType) -> None:
    docstring = '"""\n\nfrom __future__'
    for check in (checks.nothing_is_rounded_twice, checks.stochastic_rounding, checks.measured):
        check(changed(module, docstring, docstring))


@pytest.mark.parametrize("bug", PLANTED)
def test_the_check_sees_the_planted_bug(bug: str) -> None:
    module, text, replacement, check = PLANTED[bug]
    with pytest.raises(AssertionError):
        check(changed(module, text, replacement))


@pytest.mark.parametrize("bug", RECORDS)
def test_the_check_sees_the_wrong_record(bug: str) -> None:
    name, wrong, check = RECORDS[bug]
    records = dict(Tools().machines)
    records[name] = replace(records[name], **wrong)
    with pytest.raises(AssertionError):
        check(Tools(machines=records))


@pytest.mark.parametrize("text", ["a, b, c, d = second", "(*_words(step), *_words(feature))"])
def test_a_bug_in_the_scalar_generator_is_seen(text: str) -> None:
    bug = {"a, b, c, d = second": "b, a, c, d = second"}.get(text, "(*_words(feature), *_words(step))")
    assert mutated(plain_philox, text, bug).random_bits(1, 2, 3) != plain_philox.random_bits(1, 2, 3)


def test_every_check_has_a_bug_that_it_sees() -> None:
    seen = {check.__name__ for *_, check in PLANTED.values()} | {check.__name__ for *_, check in RECORDS.values()}
    assert seen == {check.__name__ for check in PUBLIC}
