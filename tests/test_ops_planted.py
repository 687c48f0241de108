"""Every check of an op is shown to fail: the real module passes it, and a module with a known bug planted does not."""

# ruff: noqa: E501 - one planted bug a line: the table is read down its columns

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType

import op_checks as checks
import pytest

Check = Callable[[ModuleType], None]
OPS = "lepton_ref.ops."

PLANTED: dict[str, tuple[str, str, str, Check]] = {
    "a bias is lost": (OPS + "linear", "value, bound = value if bias is None else value + bias, 0.0", "bound = 0.0", checks.linear),
    "every panel takes the first panel's bias": (OPS + "linear", "b_o[panel.start : panel.stop]", "b_o[: panel.stop - panel.start]", checks.linear),
    "panels are joined in reverse": (OPS + "linear", "xp.concat(parts, axis=-1)", "xp.concat(parts[::-1], axis=-1)", checks.linear),
    "products are summed in float32": (OPS + "linear", 'backend.matmul(x64, xp.permute_dims(rows, (1, 0)), accumulate="float64")', '(x64.astype("f4") @ rows.astype("f4").T).astype("f8")', checks.linear_sums_in_float64),
    "the embedding's scale is lost": (OPS + "embed", "value = backend.from_numpy(rows) * scale", "value = backend.from_numpy(rows)", checks.embed),
    "a negative id counts from the end": (OPS + "embed", "(ids < 0) | (ids >= w_vd.shape[0])", "(ids < -w_vd.shape[0]) | (ids >= w_vd.shape[0])", checks.embed_refuses_ids_outside),
    "the residual is subtracted": (OPS + "residual", "total = a + b", "total = a - b", checks.add),
    "a residual broadcasts": (OPS + "residual", "if x.shape != f.shape:", "if x.ndim != f.ndim:", checks.add_does_not_broadcast),
    "epsilon outside RMSNorm's root": (OPS + "rms_norm", "backend.xp.sqrt(square + eps)", "(backend.xp.sqrt(square) + eps)", checks.rms_norm),
    "Gemma's offset is forgotten": (OPS + "rms_norm", "lift(w_d, backend=backend) + offset", "lift(w_d, backend=backend)", checks.rms_norm),
    "RMSNorm divides by D - 1": (OPS + "rms_norm", "/ width\n    value", "/ (width - 1)\n    value", checks.rms_norm),
    "RMSNorm subtracts the mean": (OPS + "rms_norm", "square = backend.sum(x64 * x64", "x64 = x64 - x64.mean(-1, keepdims=True)\n    square = backend.sum(x64 * x64", checks.rms_norm),
    "RMSNorm rounds before the weight": (OPS + "rms_norm", "x64 / backend.xp.sqrt(square + eps) * w64", '(x64 / backend.xp.sqrt(square + eps)).astype("f4").astype("f8") * w64', checks.rms_norm_rounds_once),
    "LayerNorm divides by D - 1": (OPS + "layer_norm", 'sum(centred * centred, axis=-1, keepdims=True, accumulate="float64") / width', 'sum(centred * centred, axis=-1, keepdims=True, accumulate="float64") / (width - 1)', checks.layer_norm),
    "epsilon outside LayerNorm's root": (OPS + "layer_norm", "value = centred / xp.sqrt(square) * w64", "value = centred / (xp.sqrt(square - eps) + eps) * w64", checks.layer_norm),
    "LayerNorm's bias is lost": (OPS + "layer_norm", "value, size = value + bias, size + xp.abs(bias)", "size = size + xp.abs(bias)", checks.layer_norm),
    "LayerNorm's variance cancels": (OPS + "layer_norm", 'backend.sum(centred * centred, axis=-1, keepdims=True, accumulate="float64") / width', "(x64 * x64).mean(-1, keepdims=True) - mean * mean", checks.layer_norm),
    "gelu by tanh where erf is meant": (OPS + "activation", '"gelu": _gelu,', '"gelu": _gelu_tanh,', checks.activations),
    "gelu by erf where tanh is meant": (OPS + "activation", '"gelu_tanh": _gelu_tanh,', '"gelu_tanh": _gelu,', checks.activations),
    "gelu's left tail cancels": (OPS + "activation", "0.5 * x * erfc(-x / math.sqrt(2.0), backend=backend)", "x * (1 - 0.5 * erfc(x / math.sqrt(2.0), backend=backend))", checks.activations),
    "quick-GELU's constant cut short": (OPS + "activation", "QUICK_GELU_SCALE = 1.702", "QUICK_GELU_SCALE = 1.7", checks.activations),
    "silu without the factor x": (OPS + "activation", "return x * sigmoid(x, backend=backend)", "return sigmoid(x, backend=backend)", checks.activations),
    "the gate's product is taken with the gate": (OPS + "activation", "up64 = lift(up, backend=backend)", "up64 = lift(gate, backend=backend)", checks.activations),
    "the activation goes to the other half": (OPS + "activation", "if gate.shape != up.shape:", "gate, up = up, gate\n    if gate.shape != up.shape:", checks.activations),
    "relu by a product makes NaN of -inf": (OPS + "activation", "backend.xp.where(x <= 0, 0.0, x)", "backend.xp.where(x < 0, 0.0 * x, x)", checks.activations_of_special_values),
    "relu hides NaN": (OPS + "activation", "backend.xp.where(x <= 0, 0.0, x)", "backend.xp.where(x > 0, x, 0.0)", checks.activations_of_special_values),
    "the soft cap forgets to divide": (OPS + "softcap", "lift(x, backend=backend) / cap", "lift(x, backend=backend)", checks.softcap),
    "softmax over the wrong axis": (OPS + "softmax", "backend.sum(exps, axis=-1", "backend.sum(exps, axis=0", checks.softmax),
    "softmax without the shift": (OPS + "softmax", "x64 - backend.xp.max(x64, axis=-1, keepdims=True)", "x64", checks.softmax_does_not_overflow),
    "log-softmax as the logarithm of softmax": (OPS + "softmax", "value = shifted - log_total", "value = xp.log(xp.exp(shifted) / total)", checks.softmax_does_not_overflow),
    "softmax lets a NaN pass by": (OPS + "softmax", "x64 = lift(x, backend=backend)", "x64 = backend.xp.where(lift(x, backend=backend) == x, lift(x, backend=backend), -math.inf)", checks.softmax_of_a_row_that_holds_an_infinity),
    "RoPE pairs neighbours for halves": (OPS + "rope", "half = x.shape[-1] // 2\n    return x[..., :half], x[..., half:]", "return x[..., 0::2], x[..., 1::2]", checks.rope_halves),
    "RoPE pairs halves for neighbours": (OPS + "rope", "return x[..., 0::2], x[..., 1::2]", "return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]", checks.rope_interleaved),
    "RoPE leaves interleaved pairs apart": (OPS + "rope", "if not interleaved:", "if True:", checks.rope_interleaved),
    "RoPE turns the wrong way": (OPS + "rope", "first * cos - second * sin, first * sin + second * cos", "first * cos + second * sin, second * cos - first * sin", checks.rope_turns_by_the_angle),
    "partial RoPE on the wrong end": (OPS + "rope", "x64[..., :rotary], x64[..., rotary:]", "x64[..., -rotary:], x64[..., :-rotary]", checks.rope_partial),
    "RoPE's factor on the cosine alone": (OPS + "rope_tables", "cos, sin = cos * factor, sin * factor", "cos = cos * factor", checks.tables_take_the_attention_factor),
    "RoPE starts at position 1": (OPS + "rope_tables", "fraction = (position * turn + half)", "fraction = ((position + 1) * turn + half)", checks.tables_are_of_the_angles),
    "half a turn is no turn": (OPS + "rope_tables", "% whole - half", "% half", checks.tables_are_of_the_angles),
    "an angle of float64": (OPS + "rope_tables", "float(fraction - int(top))", "0.0", checks.tables_are_of_the_angles),
    "2π of float64": (OPS + "rope_tables", "Pair.rational(Fraction((functions.pi(60) * 2).low))", "Pair.of(np.array(6.283185307179586))", checks.tables_are_of_the_angles),
    "the causal mask is aligned at the start": (OPS + "masks", "order_bt[:, :, None] - order_bs[:, None, :]", "np.arange(order_bt.shape[1])[None, :, None] - np.arange(order_bs.shape[1])[None, None, :]", checks.masks),
    "a query does not see itself": (OPS + "masks", "distance >= 0", "distance > 0", checks.masks),
    "the window is one too wide": (OPS + "masks", "np.abs(distance) < window", "np.abs(distance) <= window", checks.masks),
    "padding is seen": (OPS + "masks", "np.broadcast_to(valid_bs[:, None, :], distance.shape)", "np.ones(distance.shape, dtype=bool)", checks.masks),
    "key/value heads are tiled": (OPS + "attention", "xp.permute_dims(xp.reshape(lift(q_bthk, backend=backend), (b, t, g, h // g, k)), (0, 2, 3, 1, 4))", "xp.permute_dims(xp.reshape(lift(q_bthk, backend=backend), (b, t, h // g, g, k)), (0, 3, 2, 1, 4))", checks.attention),
    "the scale is squared": (OPS + "attention", 'accumulate="float64") * scale', 'accumulate="float64") * scale * scale', checks.attention),
    "the cap is taken before the scale": (OPS + "attention", "xp.tanh(scores / cap) * cap", "xp.tanh(scores / scale / cap) * cap * scale", checks.attention),
    "the mask is -1e10": (OPS + "attention", "weights = xp.where(mask, xp.exp(distance), 0.0)", "distance = xp.where(mask, distance, -1e10 - top)\n    weights = xp.exp(distance - distance.max(-1, keepdims=True))", checks.attention_masks_whatever_the_score),
    "the cap is taken after the mask": (OPS + "attention", "            scores = xp.tanh(scores / cap) * cap\n", "            scores = xp.tanh(xp.where(mask, scores, -math.inf) / cap) * cap\n            mask = mask | True\n", checks.attention_masks_whatever_the_score),
    "a row without a key is NaN": (OPS + "attention", "xp.where(seen, summed / total, 0.0)", "summed / total", checks.attention_without_a_key_gives_zero),
    "a row without a key is the mean": (OPS + "attention", "weights = xp.where(mask, xp.exp(distance), 0.0)", "weights = xp.where(mask, xp.exp(distance), 0.0)\n    weights = xp.where(seen, weights, 1.0)\n    seen = seen | True", checks.attention_without_a_key_gives_zero),
    "NaN under a mask leaks": (OPS + "attention", "if backend.to_numpy(xp.all(finite)):", "if True:", checks.attention_of_masked_nan),
    "NaN in a masked key leaks": (OPS + "attention", "scores = xp.where(mask, scores, -math.inf)\n    top", "scores = scores + xp.where(mask, 0.0, -math.inf)\n    top", checks.attention_of_masked_nan),
    "a seen NaN is dropped": (OPS + "attention", "summed = summed + xp.where(mask[..., at] & ~finite[..., at, :], column, 0.0)", "pass", checks.attention_of_masked_nan),
    "a seen NaN strikes every query": (OPS + "attention", "mask[..., at] & ~finite[..., at, :]", "~finite[..., at, :]", checks.attention_of_masked_nan),
    "the sink is given a value": (OPS + "attention", "summed = _matmul_of_seen(weights, distance, values, mask, backend)", "summed = _matmul_of_seen(weights, distance, values, mask, backend)\n    if sinks is not None:\n        summed = summed + xp.exp(sinks - top) * values[..., :1, :]", checks.attention_with_a_sink),
    "the sink is left out of the sum": (OPS + "attention", "total = total + xp.where(sinks == top, 1.0, xp.exp(sinks - top))", "pass", checks.attention_with_a_sink),
    "an infinite sink is NaN": (OPS + "attention", "xp.where(sinks == top, 1.0, xp.exp(sinks - top))", "xp.exp(sinks - top)", checks.attention_with_a_sink),
    "a sink spoils a row of -inf": (OPS + "attention", "xp.where(top < sinks, sinks, top)", "xp.where(top < sinks, sinks + 0.0 * top, top)", checks.attention_with_special_scores),
    "a weight underflows to 0 and makes NaN of inf": (OPS + "attention", "weights = xp.where(underflowed, 1.0, weights)", "pass", checks.attention_with_special_scores),
    "every tile takes the first tile's mask": (OPS + "attention", "mask_bts[:, start:stop, :]", "mask_bts[:, : stop - start, :]", checks.attention_in_tiles),
    "tiles are joined along the heads": (OPS + "attention", "xp.concat(parts, axis=3)", "xp.concat(parts, axis=2)", checks.attention_in_tiles),
    "the mean is taken over padding": (OPS + "pool", "xp.where(mask, x64, 0.0)", "x64", checks.pool),
    "the mean is divided by T": (OPS + "pool", 'backend.sum(xp.astype(mask, xp.float64), axis=1, keepdims=False, accumulate="float64")', "x64.shape[1]", checks.pool),
    "the maximum is taken over padding": (OPS + "pool", "xp.where(mask, x64, -math.inf)", "x64", checks.pool),
    "the first position is taken, padding or not": (OPS + "pool", "backend.to_numpy(mask_bt).argmax(axis=1)", "np.zeros(b, dtype=np.int64)", checks.pool),
    "normalised by the sum of squares": (OPS + "pool", "length = xp.sqrt(", "length = (", checks.pool),
    "a zero vector is normalised to NaN": (OPS + "pool", "value / xp.where(length < NORMALISE_EPS, NORMALISE_EPS, length)", "value / length", checks.pool_of_special_values),
    "padding is multiplied by 0": (OPS + "pool", "xp.where(mask, x64, 0.0)", "x64 * mask", checks.pool_of_special_values),
    "`axis or -1` loses axis 0": ("lepton_ref.backends.numpy_backend", "_SUM(a, axis=axis,", "_SUM(a, axis=axis or -1,", checks.sums),
    "a sum in the array's own dtype": ("lepton_ref.backends.numpy_backend", "keepdims=keepdims, dtype=np.float64", "keepdims=keepdims", checks.sums),
    "erfc rounds the square of its argument": ("lepton_ref.numerics.special", "xp.exp(-high * high) * xp.exp(-(z - high) * (z + high))", "xp.exp(-z * z)", checks.erfc),
    "erfc's clamp swallows NaN": ("lepton_ref.numerics.special", "xp.where(z > 28.0, 28.0, z)", "xp.where(z <= 28.0, z, 28.0)", checks.erfc),
}  # fmt: skip
"""Bug → (module, its text, what the bug makes of it, the check that must see it)."""

CHECKS = {(module, check.__name__): check for module, _, _, check in PLANTED.values()}


def mutated(name: str, text: str, bug: str) -> ModuleType:
    """The module of that name with one place of its source changed."""
    original = importlib.import_module(name)
    source = inspect.getsource(original)
    assert source.count(text) == 1, f"{text!r} stands {source.count(text)} times in {name}; the bug has no place there"
    module = ModuleType(name)
    source = source.replace(text, bug).replace("import math\n", "import math\n\nimport numpy as np\n", 1)
    exec(compile(source, f"<{name}, mutated>", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize(("name", "check"), CHECKS, ids=lambda part: part)
def test_the_real_module_passes(name: str, check: str) -> None:
    CHECKS[name, check](importlib.import_module(name))


@pytest.mark.parametrize("bug", PLANTED)
def test_the_check_sees_the_planted_bug(bug: str) -> None:
    name, text, replacement, check = PLANTED[bug]
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(mutated(name, text, replacement))


def test_every_check_has_a_bug_that_it_sees() -> None:
    public = {
        name for name, value in vars(checks).items() if inspect.isfunction(value) and value.__module__ == "op_checks"
    }
    helpers = {"numbers", "assert_exact", "attention_inputs", "_rope", "float64", "half_ulp"}
    assert {check.__name__ for *_, check in PLANTED.values()} == public - helpers
