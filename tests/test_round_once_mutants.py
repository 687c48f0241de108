"""Bugs planted in the proof itself: a bound that is too small, a repair that is skipped, a tie to the wrong side.

Ordinary data hardly ever shows such a bug, so each check builds the case that does: a backend that sums from left to
right, as it may, and numbers of which that order loses all that it can, next to a midpoint.
"""

# ruff: noqa: E501 - one planted bug a line: the table is read down its columns

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import PRECISIONS, counting
from lepton_ref.numerics.double_double import Pair
from lepton_ref.numerics.rounding import Repair
from lepton_ref.plain import ops as plain
from lepton_ref.plain.formats import FORMATS, round_to
from lepton_ref.plain.quantise import activations as plain_activations
from lepton_ref.plain.real import Real
from lepton_ref.storage import Dense

Host = NDArray[Any]
U = 2.0**-53
MIDPOINT = 1 + 2.0**-24
"""Between 1 and the next float32; a tie goes to 1."""
ABOVE = np.float32(1 + 2.0**-23)


class LeftToRight(NumpyBackend):
    """Sums from left to right, one of the orders that a backend may take."""

    def matmul(self, a: Host, b: Host, /, *, accumulate: str) -> Host:
        assert accumulate == "float64"
        return np.add.accumulate(a[..., :, :, None] * b[..., None, :, :], axis=-2)[..., -1, :]

    def sum(self, a: Host, /, *, axis: int, keepdims: bool, accumulate: str) -> Host:
        assert accumulate == "float64"
        found = np.take(np.add.accumulate(a, axis=axis, dtype=np.float64), -1, axis=axis)
        return np.expand_dims(found, axis) if keepdims else found


ORDERED: dict[str, Any] = {"backend": LeftToRight(), "precision": PRECISIONS["reference"]}
REFERENCE: dict[str, Any] = {"backend": NumpyBackend(), "precision": PRECISIONS["reference"]}
BF16: dict[str, Any] = {"backend": NumpyBackend(), "precision": PRECISIONS["bf16"]}


def bits(x: Host) -> list[int]:
    return x.astype(np.float32).view(np.uint32).ravel().tolist()


def want(values: list[plain.Value], format: str = "fp32") -> list[int]:
    return bits(np.array([plain.rounded(value, format) for value in values]))


def lost_terms(count: int, below: int) -> tuple[Host, Host]:
    """x and w with one product `below` units under the midpoint and `count` that vanish beside it, one by one."""
    x = np.array([[1.0, *[2.0**-26] * count]])
    w = np.array([[MIDPOINT - below * 2.0**-52, *[2.0**-27 * (1 - 2.0**-10)] * count]])
    return x, w


def linear_bound_covers_any_order(m: ModuleType) -> None:
    """63 lost terms are 31.5 units of 2⁻⁵², the bound is 34: 25 units under the midpoint the sum is above it."""
    for below in (3, 25, 31, 32, 40):
        x, w = lost_terms(63, below)
        got = m.linear(x, Dense(w, format="F64"), **ORDERED)
        assert bits(got) == want(plain.linear(x[0].tolist(), w.tolist()))


def linear_bound_counts_the_bias(m: ModuleType) -> None:
    """A bias that cancels the sum leaves its error: all that is left is below the bias's last bit."""
    x, w = np.full((1, 3), 2.0**-30), np.array([[2.0**30, 2.0**30, 2.0**-24]])
    for b in (-2.0, -2.0 + 2.0**-52):
        got = m.linear(x, Dense(w, format="F64"), np.array([b]), **REFERENCE)
        assert bits(got) == want(plain.linear(x[0].tolist(), w.tolist(), [b]))


def linear_signs_zeros(m: ModuleType) -> None:
    x = np.array([[0.0, -0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=np.float32)
    w = np.array([[-1.0, 1.0, 1.0], [1.0, 1.0, -1.0], [-0.0, -0.0, -0.0], [1.0, -2.0, 1.0]], dtype=np.float32)
    w = np.concatenate([w, [[-1.0, 1.0, -1.0]]]).astype(np.float32)
    for b in (None, np.float32([-0.0, -0.0, -0.0, 0.0, 0.0])):
        got = m.linear(x, Dense(w, format="F32"), b, **REFERENCE)
        rows = [plain.linear(row.tolist(), w.tolist(), None if b is None else b.tolist()) for row in x]
        assert bits(got) == [each for row in rows for each in want(row)]


def linear_sums_beyond_float64(m: ModuleType) -> None:
    """Terms of 2¹⁰²³ that overflow on the way, cancel in the end, or do not; an infinity among them stays one."""
    big = 2.0**1023
    w = np.array([[big, big, -big, -big, 1.5], [big, big, 1.0, 1.0, 1.0], [big, big, -big, -np.inf, 0.0]])
    for x in (1.0, 2.0**-1000):
        got = m.linear(np.full((1, 5), x), Dense(w, format="F64"), **ORDERED)
        assert bits(got) == want(plain.linear([x] * 5, w.tolist()))


def rms_norm_bound_covers_any_order(m: ModuleType) -> None:
    """The sum of squares loses 63 terms: y comes out 31.5 units of 2⁻⁵³ too large; the bound is 40."""
    x = np.array([[1.0, *[math.sqrt(U * (1 - 2.0**-10))] * 63]])
    for above in (2, 10, 25, 30, 35):
        w = np.full(64, MIDPOINT * (1 + above * U) / 8)
        got = m.rms_norm(x, w, eps=2.0**-300, **ORDERED)
        assert bits(got)[0] == want(plain.rms_norm(x[0].tolist(), w.tolist(), eps=2.0**-300)[:1])[0]


def layer_norm_bound_covers_the_mean(m: ModuleType) -> None:
    """A mean far from zero: x − μ keeps few of the mean's right bits."""
    rng = np.random.default_rng(0)
    for scale in (1e7, 1e9, 1e11):
        x = (rng.standard_normal((4, 9)) + scale).astype(np.float64)
        w = rng.standard_normal(9)
        got = m.layer_norm(x, w, eps=1e-5, **ORDERED)
        assert bits(got) == [each for row in x for each in want(plain.layer_norm(row.tolist(), w.tolist(), eps=1e-5))]


def attention_bound_covers_any_order(m: ModuleType) -> None:
    """1023 weights just under 2⁻⁵³ vanish in the denominator, and their values in the numerator: 2046 units in all."""
    s = 1024
    q, k = np.ones((1, 1, 1, 1)), np.full((1, s, 1, 1), -36.7369)
    k[0, 0] = 0.0
    mask = np.ones((1, 1, s), dtype=bool)
    for above in (100, 1300, 1800):
        v = np.full((1, s, 1, 1), -MIDPOINT)
        v[0, 0] = MIDPOINT * (1 + above * U)
        got = m.attention(q, k, v, mask, scale=1.0, **ORDERED)
        exact = plain.attention([1.0], k[0, :, 0].tolist(), v[0, :, 0].tolist(), [True] * s, scale=1.0)
        assert bits(got) == want(exact)


def attention_signs_zeros(m: ModuleType) -> None:
    q, k, mask = np.ones((1, 1, 1, 1)), np.zeros((1, 2, 1, 1)), np.ones((1, 1, 2), dtype=bool)
    for values in ([-0.0, -0.0], [0.0, -0.0], [1.0, -1.0], [2.0**-149, -0.0]):
        v = np.array(values).reshape(1, 2, 1, 1)
        got = m.attention(q, k, v, mask, scale=1.0, **REFERENCE)
        assert bits(got) == want(plain.attention([1.0], [[0.0], [0.0]], v[0, :, 0].tolist(), [True, True], scale=1.0))


def softmax_counts_the_row(m: ModuleType) -> None:
    """Of 1024 numbers, 1022 vanish beside the first two in a sum from left to right: some 770 units of y."""
    middle = 0.75 + 2.0**-25
    for above in (200, 500):
        x = np.full((1, 1024), -36.7369)
        x[0, :2] = 0.0, math.log(1 / (middle * (1 + above * U)) - 1)
        got = m.softmax(x, **ORDERED)
        assert bits(got)[:1] == want(plain.softmax(x[0].tolist())[:1])


def residual_sums_exactly(m: ModuleType) -> None:
    x = np.array([2.0**24, 2.0**24, 2.0**24, 2.0**60, -(2.0**24), 1.0, 0.0, -0.0])
    f = np.array([1.0, 1.0 + 2.0**-23, 1.0 - 2.0**-24, 1.0, -1.0 - 2.0**-23, 2.0**-54, -0.0, -0.0])
    x[3], f[3] = 1 + 2.0**-24, 2.0**-80  # a midpoint, and something that float64 loses
    got = m.add(x, f, **REFERENCE)
    assert bits(got) == want(plain.add(x.tolist(), f.tolist()))


def fake_repair(exact: list[Fraction], *, error: float = 0.0) -> Repair:
    """Elements whose real numbers are known; their double-doubles are right within `error`."""
    highs = [float(value) for value in exact]
    lows = [float(value - Fraction(high)) for value, high in zip(exact, highs, strict=True)]

    def side(places: tuple[Host, ...], middle: Host) -> Host:
        pairs = zip(places[0].tolist(), middle.tolist(), strict=True)
        return np.array([(exact[at] > Fraction(m)) - (exact[at] < Fraction(m)) for at, m in pairs], dtype=np.int8)

    return Repair(
        plain=lambda place: Real.rational(exact[place[0]]),
        double=lambda places: (Pair(np.array(highs)[places], np.array(lows)[places]), np.full(len(places[0]), error)),
        side=side,
    )


def every_stage_settles(m: ModuleType) -> None:
    """Numbers on midpoints, a hair beside them, beyond the largest, and around zero, by double-double and by side."""
    hair = Fraction(1, 2**90)
    tie = Fraction(MIDPOINT)
    exact = [tie, tie + hair, tie - hair, Fraction(1 + 3 * 2.0**-24), -hair, hair, Fraction(0)]
    exact += [Fraction(2**128) - 2**103, Fraction(2**128) - 2**103 - hair, Fraction(1 + 2.0**-9), Fraction(1, 2**150)]
    for form in ("fp32", "bf16"):
        expected = bits(np.array([round_to(value, FORMATS[form]) for value in exact]))
        for error in (0.0, 2.0**-80, 2.0**30):
            value = np.array([float(each) for each in exact])
            bound = np.abs(value) * 2.0**-50 + 2.0**-60
            how = {"backend": NumpyBackend(), "precision": PRECISIONS[{"fp32": "reference"}.get(form, form)]}
            got = m.round_once(value, bound, op="t", repair=fake_repair(exact, error=error), **how)
            assert bits(got) == expected, (form, error)


def the_test_sees_both_ends(m: ModuleType) -> None:
    """A value just below a midpoint whose exact number is just above, and the other way round."""
    exact = [Fraction(MIDPOINT) + Fraction(1, 2**60), Fraction(MIDPOINT) - Fraction(1, 2**60)]
    value = np.array([MIDPOINT - 2.0**-50, MIDPOINT + 2.0**-50])
    got = m.round_once(value, np.full(2, 2.0**-49), op="t", repair=fake_repair(exact), **REFERENCE)
    assert bits(got) == bits(np.array([ABOVE, 1.0]))


def zeros_keep_their_sign(m: ModuleType) -> None:
    exact = [Fraction(-1, 2**200), Fraction(1, 2**200), Fraction(0), Fraction(0)]
    value, bound = np.array([0.0, -0.0, -0.0, 0.0]), np.array([2.0**-190, 2.0**-190, 0.0, 0.0])
    got = m.round_once(value, bound, op="t", repair=fake_repair(exact), **REFERENCE)
    assert bits(got) == [0x80000000, 0, 0x80000000, 0]


def every_element_is_counted(m: ModuleType) -> None:
    beside = Fraction(MIDPOINT) + Fraction(1, 2**70)
    exact = [Fraction(1), Fraction(MIDPOINT), beside, beside]
    with counting() as counts:
        m.round_once(
            np.array([1.0, *[MIDPOINT] * 3]),
            2.0**-50,
            op="t",
            repair=fake_repair(exact, error=2.0**-75),
            **REFERENCE,
        )
    found = counts.of("t")
    assert (found.elements, found.proven, found.in_double_double, found.exactly) == (4, 1, 2, 1)


def casts_round_once(m: ModuleType) -> None:
    x = np.array(
        [
            1 + 2.0**-8 + 2.0**-30,
            1 + 2.0**-8,
            1 + 3 * 2.0**-8,
            2.0**-133,
            1.5 * 2.0**-134,
            2.0**-134,
            3.39e38,
            3.4e38,
            1e300,
            -0.0,
            -(2.0**-140),
            np.inf,
            65519.9,
            65520.0,
            2.0**-25,
            1.5 * 2.0**-25,
            6e-8,
        ]
    )
    for form in ("bf16", "fp16", "fp32"):
        got = m.cast(x, form, backend=NumpyBackend())
        assert bits(got) == bits(np.array([round_to(float(value), FORMATS[form]) for value in x])), form


def bf16_is_rounded_once(m: ModuleType) -> None:
    x, w = np.ones((1, 2)), np.array([[1 + 2.0**-8, 2.0**-30], [1 + 3 * 2.0**-8, -(2.0**-30)]])
    got = m.linear(x, Dense(w, format="F64"), **BF16)
    assert bits(got) == want(plain.linear(x[0].tolist(), w.tolist()), "bf16")


def activations_are_quantised_as_specified(m: ModuleType) -> None:
    rng = np.random.default_rng(3)
    ties = np.array([127.0, 0.5, 1.5, -0.5, -2.5, 126.5, 63.5, 1.0] * 4) * 1.0625
    rows = [ties, rng.standard_normal(40) * 10.0 ** rng.integers(-40, 30, 40), np.zeros(33), np.full(70, 2.0**-149)]
    rows += [np.array([448.0, 17.0, 19.0, 2.0**-10, 3 * 2.0**-10, -0.3])]
    for operands in ("w8a8", "fp8"):
        for row in rows:
            x = row.astype(np.float32).astype(np.float64)[None]
            got = m.activations(x, operands, backend=NumpyBackend())
            assert got[0].tolist() == plain_activations(x[0].tolist(), operands), operands


OPS, NUMERICS = "lepton_ref.ops.", "lepton_ref.numerics."
Check = Callable[[ModuleType], None]
"""A check takes the module, real or mutated, within `np.errstate(all="ignore")`: ops run in silence."""
MUTANTS: dict[str, tuple[str, str, str, Check]] = {
    "linear's bound is halved": (OPS + "linear", "float(gamma(rows.shape[1] + 4))", "float(gamma(rows.shape[1] + 4)) / 2", linear_bound_covers_any_order),
    "linear's bound without its K": (OPS + "linear", "float(gamma(rows.shape[1] + 4))", "float(gamma(4))", linear_bound_covers_any_order),
    "linear's bound without w": (OPS + "linear", "(sizes * unit) * panel.lengths", "sizes * unit * 0.5", linear_bound_covers_any_order),
    "linear's bound is the result's": (OPS + "linear", "(sizes * unit) * panel.lengths", "xp.abs(value) * (4 * UNIT)", linear_bound_covers_any_order),
    "the bias is no part of the sum": (OPS + "linear", "return (value, bound) if bias is None else (value + bias, bound + xp.abs(bias) * unit)", "return value, bound", linear_bound_counts_the_bias),
    "an empty sum is +0": (OPS + "linear", "xp.where(agreement == -float(rows.shape[1]), -0.0, 0.0)", "agreement * 0.0 + 0.0", linear_signs_zeros),
    "an empty sum is -0 by majority": (OPS + "linear", "agreement == -float(rows.shape[1])", "agreement < 0.0", linear_signs_zeros),
    "zero rows are left to BLAS": (OPS + "linear", "xp.where(empty, _zeros(x, rows, backend), value)", "value + 0.0", linear_signs_zeros),
    "what overflows on the way is infinite": (OPS + "linear", "xp.where(xp.isfinite(value), value, 0.0), special)", "value, special)", linear_sums_beyond_float64),
    "what overflows beside an infinity is NaN": (OPS + "linear", "xp.where(xp.isfinite(value), value, 0.0), special)", "xp.where(xp.isfinite(value), value, 0.0), value)", linear_sums_beyond_float64),
    "rms_norm's bound is halved": (OPS + "rms_norm", "float(gamma(math.ceil(width / 2) + 8))", "float(gamma(math.ceil(width / 2) + 8)) / 2", rms_norm_bound_covers_any_order),
    "rms_norm's bound without its D": (OPS + "rms_norm", "float(gamma(math.ceil(width / 2) + 8))", "float(gamma(8))", rms_norm_bound_covers_any_order),
    "layer_norm's bound without the mean": (OPS + "layer_norm", "bound = size * relative + moved", "bound = size * relative", layer_norm_bound_covers_the_mean),
    "layer_norm's mean counts half of D": (OPS + "layer_norm", "1.01 * float(gamma(width)) / width", "float(gamma(width)) / width / 64", layer_norm_bound_covers_the_mean),
    "attention's bound is halved": (OPS + "attention", "* (1 + 2.0**-7)\n", "* 0.5\n", attention_bound_covers_any_order),
    "attention's bound without its S": (OPS + "attention", "2 * float(gamma(s + 3)) + 6 * UNIT", "6 * UNIT", attention_bound_covers_any_order),
    "attention's bound forgets the numerator": (OPS + "attention", "2 * float(gamma(s + 3)) + 6 * UNIT", "float(gamma(s + 3)) + 6 * UNIT", attention_bound_covers_any_order),
    "attention's zero is the matrix product's": (OPS + "attention", "xp.where(zeros, xp.where(all_minus, -0.0, 0.0), value)", "value + 0.0", attention_signs_zeros),
    "softmax's bound without its n": (OPS + "softmax", "units = n + math.log(max(n, 1)) + 4 * backend.ulps + 3", "units = 4 * backend.ulps + 3", softmax_counts_the_row),
    "a residual's bound is an ulp of what is lost": (OPS + "residual", "xp.where(lost == 0.0, 0.0, xp.abs(total) * 2.0**-51)", "0.0", residual_sums_exactly),
    "a residual's low part is dropped": (OPS + "residual", "return Pair(high, low), np.zeros(high.shape)", "return Pair(high, low * 0.0), np.zeros(high.shape)", residual_sums_exactly),
    "no test": (NUMERICS + "rounding", "open_ = low != high\n", "open_ = low != low\n", the_test_sees_both_ends),
    "the test steps down alone": (NUMERICS + "rounding", "below, above = value - bound, value + bound", "below, above = value - bound, value + 0.0 * bound", the_test_sees_both_ends),
    "the test steps up alone": (NUMERICS + "rounding", "below, above = value - bound, value + bound", "below, above = value + 0.0 * bound, value + bound", the_test_sees_both_ends),
    "the repair is skipped": (NUMERICS + "rounding", "result[places], exactly = settle(places, repair, format)", "exactly = settle(places, repair, format)[1]", the_test_sees_both_ends),
    "the repair rounds the high part": (NUMERICS + "rounding", "high = round_array(pair.high, format, low=pair.low + error)", "low = high = round_array(pair.high, format)", every_stage_settles),
    "the repair forgets its error": (NUMERICS + "rounding", "high = round_array(pair.high, format, low=pair.low + error)", "low = high = round_array(pair.high, format, low=pair.low)", every_element_is_counted),
    "a tie goes up": (NUMERICS + "rounding", "np.where(found > 0, upper, even)", "np.where(found >= 0, upper, even)", every_stage_settles),
    "a tie goes down": (NUMERICS + "rounding", "np.where(found < 0, lower,", "np.where(found <= 0, lower,", every_stage_settles),
    "sides are swapped": (NUMERICS + "rounding", "np.where(found < 0, lower, np.where(found > 0, upper, even))", "np.where(found > 0, lower, np.where(found < 0, upper, even))", every_stage_settles),
    "zeros are equal": (NUMERICS + "rounding", "open_ = open_ | ((low == 0.0)", "open_ = open_ | ((low == 1.0)", zeros_keep_their_sign),
    "elements in double-double are counted as exact": (NUMERICS + "rounding", "count.in_double_double += places[0].size - exactly", "count.in_double_double += exactly", every_element_is_counted),
    "bf16 is rounded twice": (OPS + "linear", "parts.append(round_once(value, bound,", "parts.append(round_once(value.astype('f4').astype('f8'), 0.0 * bound,", bf16_is_rounded_once),
    "a cast by way of float32": (NUMERICS + "cast", "    form = float_format(format)\n", "    form = float_format(format)\n    value = value.astype('f4').astype('f8')\n", casts_round_once),
    "a bit too many": (NUMERICS + "cast", "(1.5 * 2.0 ** (52 - precision))", "(1.5 * 2.0 ** (51 - precision))", casts_round_once),
    "a bit too few": (NUMERICS + "cast", "(1.5 * 2.0 ** (52 - precision))", "(1.5 * 2.0 ** (53 - precision))", casts_round_once),
    "subnormals have all their bits": (NUMERICS + "cast", "xp.where(above < least, least, above)", "above", casts_round_once),
    "overflow stays": (NUMERICS + "cast", "xp.where((rounded > largest) |", "xp.where((rounded > math.inf) |", casts_round_once),
    "the sign of a small number is lost": (NUMERICS + "cast", "xp.where((x < 0) | ((x == 0) & (1.0 / x < 0)), -rounded, rounded)", "xp.where(x < 0, -rounded, rounded)", casts_round_once),
    "a scale of 12 bits": (NUMERICS + "operands", "SCALE_BITS = 11", "SCALE_BITS = 12", activations_are_quantised_as_specified),
    "one scale for a row of blocks": (NUMERICS + "operands", "BLOCK = 32", "BLOCK = 64", activations_are_quantised_as_specified),
    "q is cut off": (NUMERICS + "operands", "(quotient + INTEGER) - INTEGER", "backend.xp.where(quotient < 0, -1.0, 1.0) * ((backend.xp.abs(quotient) - 0.5 + INTEGER) - INTEGER)", activations_are_quantised_as_specified),
    "E4M3 without subnormals": (NUMERICS + "operands", "emin=-6", "emin=-20", activations_are_quantised_as_specified),
    "an integer's scale is amax/128": (NUMERICS + "operands", "INT8_LARGEST, E4M3_LARGEST = 127.0, 448.0", "INT8_LARGEST, E4M3_LARGEST = 128.0, 448.0", activations_are_quantised_as_specified),
}  # fmt: skip
"""Bug → (module, its text, what the bug makes of it, the check that must see it)."""


def mutated(name: str, text: str, bug: str) -> ModuleType:
    original = importlib.import_module(name)
    source = inspect.getsource(original)
    assert source.count(text) == 1, f"{text!r} stands {source.count(text)} times in {name}; the bug has no place there"
    module = ModuleType(name)
    source = source.replace(text, bug).replace(
        "import math\n", "import math\n\nimport numpy as np\nfrom lepton_ref.numerics.bounds import UNIT\n", 1
    )
    exec(compile(source, f"<{name}, mutated>", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(("name", "check"), dict.fromkeys((m, c.__name__) for m, _, _, c in MUTANTS.values()))
def test_the_real_module_passes(name: str, check: str) -> None:
    with np.errstate(all="ignore"):
        globals()[check](importlib.import_module(name))


@pytest.mark.parametrize("bug", MUTANTS)
def test_the_mutant_is_killed(bug: str) -> None:
    name, text, replacement, check = MUTANTS[bug]
    with pytest.raises(AssertionError), np.errstate(all="ignore"):
        check(mutated(name, text, replacement))


def test_there_are_forty_mutants_of_the_proof() -> None:
    assert len(MUTANTS) >= 40
