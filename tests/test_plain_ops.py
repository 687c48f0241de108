"""Every op on Python numbers: against decimals in three formats, ties, zeros, what is not finite, and planted bugs."""

# ruff: noqa: E501 - one planted bug a line: the table is read down its columns

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from types import ModuleType

import exact
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.plain import algebraic, attention, exponentials, ops, special, transcendental
from lepton_ref.plain.formats import round_to
from lepton_ref.plain.real import Real, UndecidedError, Value, rounded

INF, NAN = math.inf, math.nan
HALF_STEP = 2.0**-24
"""Half of fp32's step from 1 up: 1 + this is a tie, and rounds to 1."""
FORMATS = ("fp64", "fp32", "bf16", "fp16")


def bits(values: Iterable[Value], name: str = "fp64", mode: str = "even") -> list[str]:
    return [rounded(value, name, mode=mode).hex() for value in values]


def hexes(numbers: Iterable[float]) -> list[str]:
    return [float(number).hex() for number in numbers]


def expect(values: Sequence[Value], want: Iterable[float]) -> None:
    assert bits(values) == hexes(want)


def agree(values: Sequence[Value], want: Iterable[object]) -> None:
    """With decimals that err by 10⁻⁸⁰, in four formats; the sign of a decimal's zero is not compared."""
    numbers = list(want)
    assert len(values) == len(numbers)
    for name in FORMATS:
        for value, number in zip(values, numbers, strict=True):
            assert rounded(value, name) == round_to(Fraction(number), name), (name, number)


def numbers(*shape: int, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


# Rational ops and roots


def sums(module: ModuleType) -> None:
    x, w, b = numbers(9), numbers(4, 9, seed=1), numbers(4, seed=2)
    agree(module.linear(x.tolist(), w.tolist(), b.tolist()), exact.linear(x, w, b))
    agree(module.linear(x.tolist(), w.tolist()), exact.linear(x, w))
    agree(module.add(b.tolist(), w[:, 0].tolist()), exact.plus(exact.decimals(b), exact.decimals(w[:, 0])))
    expect(module.embed(1, [[1.0, 2.0], [3.0, -0.0]], scale=0.5), [1.5, -0.0])
    expect(module.linear([2.0], [[Fraction(1, 3)]], [1.0]), [5 / 3])


def sums_have_no_order(module: ModuleType) -> None:
    """Terms of 2⁶⁰⁰ cancel and leave 2⁻⁶⁰⁰, which decides a tie."""
    for tiny, want in ((0.0, 1.0), (2.0**-600, 1 + 2 * HALF_STEP), (-(2.0**-600), 1.0)):
        x = [2.0**600, 1.0, tiny, HALF_STEP, -(2.0**600)]
        assert rounded(module.linear(x, [[1.0] * 5])[0], "fp32") == want
    assert rounded(module.linear([1.0, 1.0], [[1.0, 3 * HALF_STEP]])[0], "fp32") == 1 + 4 * HALF_STEP


def zeros_of_sums(module: ModuleType) -> None:
    """−0 if every term is −0."""
    expect(module.linear([-0.0, 1.0], [[1.0, -0.0], [1.0, 0.0], [-1.0, 0.0]]), [-0.0, 0.0, 0.0])
    expect(module.linear([-0.0, 1.0], [[1.0, -0.0]] * 3, [-0.0, 0.0, 2.0]), [-0.0, 0.0, 2.0])
    expect(module.linear([2.0, 1.0], [[1.0, -2.0]]), [0.0])
    expect(module.add([-0.0, -0.0, 0.0, 5.0], [-0.0, 0.0, 0.0, -5.0]), [-0.0, 0.0, 0.0, 0.0])
    expect(module.embed(0, [[0.0, -0.0]], scale=-1.0), [-0.0, 0.0])
    tiny = module.linear([-1e-300], [[1e-300]])[0]  # not 0, though float64 would say so
    assert tiny.compare(0) == -1
    assert bits([tiny], "fp64") == ["-0x0.0p+0"]


def sums_of_what_is_not_finite(module: ModuleType) -> None:
    expect(module.linear([INF, 1.0], [[1.0, 1e300], [0.0, 1.0], [-1.0, 1.0], [NAN, 1.0]]), [INF, NAN, -INF, NAN])
    expect(module.linear([INF, INF], [[1.0, 1.0], [1.0, -1.0]], [1.0, 1.0]), [INF, NAN])
    expect(module.linear([1.0], [[1.0]] * 3, [INF, -INF, NAN]), [INF, -INF, NAN])
    expect(module.add([INF, INF, NAN], [1.0, -INF, 1.0]), [INF, NAN, NAN])
    expect(module.linear([1e308, 1e308], [[1e308, -1e308]]), [0.0])
    expect(module.embed(0, [[INF, -INF, NAN]], scale=-2.0), [-INF, INF, NAN])
    assert rounded(module.linear([1e308, 1e308, -1e308], [[1.0, 1.0, 1.0]])[0], "fp64") == 1e308  # no overflow between
    assert rounded(module.linear([1e308], [[1e308]])[0], "fp32") == INF


def norms(module: ModuleType) -> None:
    for spread, eps in ((1.0, 1e-5), (1e-3, 1e-6), (1e15, 1e-5)):
        x, w, b = numbers(7, spread=spread), numbers(7, seed=1), numbers(7, seed=2)
        for offset in (0.0, 1.0):
            got = module.rms_norm(x.tolist(), w.tolist(), eps=eps, offset=offset)
            agree(got, exact.rms_norm(x, w, eps=eps, offset=offset))
        agree(module.layer_norm(x.tolist(), w.tolist(), b.tolist(), eps=eps), exact.layer_norm(x, w, b, eps=eps))
        agree(module.layer_norm(x.tolist(), w.tolist(), eps=eps), exact.layer_norm(x, w, 0 * b, eps=eps))


def ties_of_norms(module: ModuleType) -> None:
    """4/√(4² + 9) = 4/5 exactly, so that w = (1 + 2⁻²⁴)·5/4 gives a tie; the next ε down gives more, up gives less."""
    weight = 1.25 * (1 + HALF_STEP)
    for eps, want in ((9.0, 1.0), (math.nextafter(9, 0), 1 + 2 * HALF_STEP), (math.nextafter(9, 10), 1.0)):
        for sign in (1.0, -1.0):
            assert rounded(module.rms_norm([4.0 * sign], [weight], eps=eps)[0], "fp32") == sign * want
            y = module.layer_norm([4.0 * sign, -4.0 * sign], [weight, weight], eps=eps)
            assert [rounded(v, "fp32") for v in y] == [sign * want, -sign * want]
            shifted = module.layer_norm([4.0 * sign, -4.0 * sign], [weight - 5, weight], [4.0 * sign, 0.0], eps=eps)
            assert rounded(shifted[0], "fp32") == sign * (1.0 if eps == 9.0 else 1.0 if eps < 9 else 1 + 2 * HALF_STEP)
    three = module.rms_norm([4.0], [1.25 * (1 + 3 * HALF_STEP)], eps=9.0)[0]
    assert rounded(three, "fp32") == 1 + 4 * HALF_STEP
    assert three.compare(Fraction(1) + 3 * Fraction(HALF_STEP)) == 0


def zeros_of_norms(module: ModuleType) -> None:
    expect(module.rms_norm([0.0, -0.0, 0.0], [1.0, 1.0, -1.0], eps=1e-5), [0.0, -0.0, -0.0])
    expect(module.rms_norm([1.0, -1.0], [-0.0, -0.0], eps=3.0), [0.0, -0.0])  # offset 0 + w −0 is +0
    expect(module.rms_norm([1.0, -1.0], [-1.0, -1.0], eps=3.0, offset=1.0), [0.0, -0.0])
    expect(module.rms_norm([0.0, 0.0], [1.0, 1.0], eps=0.0), [NAN, NAN])
    expect(module.layer_norm([-0.0, 0.0], [1.0, 1.0], eps=1.0), [-0.0, 0.0])  # −0 − (+0) is −0
    expect(module.layer_norm([-0.0, -0.0], [1.0, 1.0], eps=1.0), [0.0, 0.0])  # −0 − (−0) is +0
    expect(module.layer_norm([5.0, 5.0], [1.0, -1.0], eps=1.0), [0.0, -0.0])
    expect(module.layer_norm([5.0, 5.0], [-1.0, 1.0], [-0.0, -0.0], eps=1.0), [-0.0, 0.0])
    expect(module.layer_norm([4.0, -4.0], [1.25, 1.25], [-1.0, 1.0], eps=9.0), [0.0, 0.0])  # 1 − 1 cancels
    expect(module.layer_norm([2.0, 2.0], [1.0, 1.0], eps=0.0), [NAN, NAN])


def norms_of_what_is_not_finite(module: ModuleType) -> None:
    expect(module.rms_norm([INF, 1.0, -1.0, -0.0], [1.0, -1.0, -1.0, 1.0], eps=1.0), [NAN, -0.0, 0.0, -0.0])
    expect(module.rms_norm([INF, 1.0], [1.0, INF], eps=1.0), [NAN, NAN])
    expect(module.rms_norm([NAN, 1.0], [1.0, 1.0], eps=1.0), [NAN, NAN])
    expect(module.rms_norm([-1.0, 0.0, 1.0], [INF, INF, NAN], eps=1.0), [-INF, NAN, NAN])
    expect(module.layer_norm([INF, 1.0], [1.0, 1.0], eps=1.0), [NAN, NAN])
    expect(module.layer_norm([1.0, -1.0, 0.0], [INF, 1.0, INF], eps=1.0)[::2], [INF, NAN])
    expect(module.layer_norm([1.0, -1.0], [INF, 1.0], [-INF, -INF], eps=1.0), [NAN, -INF])
    expect(module.rms_norm([3e38, 3e38], [1.0, 1.0], eps=0.0), [1.0, 1.0])  # the squares do not overflow
    expect(module.rms_norm([1.0], [1.5e308], offset=1.5e308, eps=0.0), [INF])  # only the rounding does


def pools(module: ModuleType) -> None:
    x = numbers(3, 5, seed=4)
    rows = x.tolist()
    agree(module.pool(rows, kind="mean", normalise=False), exact.mean_pool(x, normalise=False))
    agree(module.pool(rows, kind="mean", normalise=True), exact.mean_pool(x, normalise=True))
    expect(module.pool(rows, kind="cls", normalise=False), rows[0])
    expect(module.pool(rows, kind="max", normalise=False), x.max(axis=0).tolist())
    expect(module.pool([[3.0, -4.0]], kind="cls", normalise=True), [0.6, -0.8])
    expect(module.pool([[2.0**-50, 0.0]], kind="cls", normalise=True), [5.0**12 * 2.0**-38, 0.0])  # over 10⁻¹²
    expect(module.pool([[-0.0, 0.0], [0.0, -0.0]], kind="max", normalise=False), [0.0, 0.0])
    expect(module.pool([[-0.0, 0.0]], kind="cls", normalise=True), [-0.0, 0.0])
    expect(module.pool([[-0.0, 1.0, -0.0], [-0.0, -1.0, 0.0]], kind="mean", normalise=True), [-0.0, 0.0, 0.0])
    expect(module.pool([[1.0, NAN], [NAN, 1.0]], kind="max", normalise=False), [NAN, NAN])
    expect(module.pool([[INF, -1.0, 0.0]], kind="cls", normalise=True), [NAN, -0.0, 0.0])
    expect(module.pool([[INF, 1.0], [-INF, 1.0]], kind="mean", normalise=True), [NAN, NAN])


# Activations


LINE = [*np.linspace(-30, 9, 40).astype(np.float32).tolist(), -1e-30, 1e-30, 1e-3, -104.0, 88.0]


def activations(module: ModuleType) -> None:
    up = numbers(len(LINE), seed=5)
    for kind in exact.ACTIVATIONS:
        want = exact.activation(np.array(LINE), kind=kind)
        agree(module.activate(LINE, kind), want)
        agree(module.gated(LINE, up.tolist(), kind), exact.times(want, exact.decimals(up)))
    line = [-1e4, -100.0, -1.0, 1e-20, 0.5, 30.0, 90.0]
    agree(module.softcap(line, 30.0), exact.softcap(np.array(line), cap=30.0))


def activations_at_special_values(module: ModuleType) -> None:
    x = [-INF, -0.0, 0.0, INF, NAN]
    for kind, want in {
        "relu": [0.0, 0.0, 0.0, INF, NAN],
        "relu2": [0.0, 0.0, 0.0, INF, NAN],
        "sigmoid": [0.0, 0.5, 0.5, 1.0, NAN],
        "tanh": [-1.0, -0.0, 0.0, 1.0, NAN],
        "silu": [NAN, -0.0, 0.0, INF, NAN],
        "quick_gelu": [NAN, -0.0, 0.0, INF, NAN],
        "gelu": [NAN, -0.0, 0.0, INF, NAN],
        "gelu_tanh": [NAN, -0.0, 0.0, INF, NAN],
    }.items():
        expect(module.activate(x, kind), want)
    expect(module.softcap(x, 2.0), [-2.0, -0.0, 0.0, 2.0, NAN])


def beside_their_limits(module: ModuleType) -> None:
    """However far out, a function is strictly below its limit, or above: rounding down and up sees it."""
    below_one = 1 - HALF_STEP
    for x in (30.0, 1e4, 2.0**100, 2.0**124):
        assert bits(module.activate([x], "tanh"), "fp32", "down") == hexes([below_one])
        assert bits(module.activate([-x], "tanh"), "fp32", "up") == hexes([-below_one])
        for kind in ("tanh", "sigmoid"):
            assert bits(module.activate([x], kind), "fp32", "up") == hexes([1.0])
        assert bits(module.activate([x * 4], "sigmoid"), "fp32", "down") == hexes([below_one])
        assert bits(module.activate([-x * 8], "sigmoid"), "fp32", "up") == hexes([2.0**-149])
        for kind in ("silu", "quick_gelu", "gelu", "gelu_tanh"):
            if x > 1e3:
                assert bits(module.activate([x], kind), "fp32") == hexes([np.float32(x)]), (kind, x)
                assert bits(module.activate([x], kind), "fp32", "down") == hexes([before(x)]), (kind, x)
            assert bits(module.activate([-x * 8], kind), "fp32", "up") == ["-0x0.0p+0"]
            assert bits(module.activate([-x * 8], kind), "fp32", "down") == hexes([-(2.0**-149)]), (kind, x)
        assert bits(module.softcap([x * 50], 50.0), "fp32", "down") == hexes([before(50.0)])


def before(x: float) -> float:
    """The largest float32 below x > 0."""
    nearest = np.float32(x)
    return float(nearest if nearest < x else np.nextafter(nearest, np.float32(0)))


def small_arguments(module: ModuleType) -> None:
    """tanh x < x for x > 0, and silu x > x/2: seen at 10⁻³⁰ and at float64's least."""
    for x in (1e-3, 2.0**-100, 5e-324):
        assert module.tanh(x).compare(Fraction(x)) == -1
        assert module.tanh(-x).compare(-Fraction(x)) == 1
        assert module.silu(x).compare(Fraction(x) / 2) == 1
        assert module.silu(-x).compare(-Fraction(x) / 2) == 1


def known_ties(module: ModuleType) -> None:
    """sigmoid, tanh and their products are rational at 0 alone; of the GELUs nothing is said."""
    third = Fraction(1, 3)
    for kind in ("sigmoid", "tanh", "silu", "quick_gelu"):
        (value,) = module.activate([1.0], kind)
        assert value.equals is not None, kind
        assert not value.equals(third), kind
    for kind in ("gelu", "gelu_tanh"):
        (value,) = module.activate([1.0], kind)
        assert value.equals is None, kind
        assert value.sign == 1
        assert module.activate([0.0], kind)[0].exact == 0
    assert module.gated([0.0], [3.0], "sigmoid")[0].exact == Fraction(3, 2)
    assert module.gated([3.0], [1 / 3 + 0.0], "relu")[0].exact == 3 * Fraction(1 / 3)
    assert module.activate([1.0 + 2.0**-30], "relu2")[0].exact == Fraction(1.0 + 2.0**-30) ** 2


def gates(module: ModuleType) -> None:
    """Signs of zeros multiply; 0·∞ is NaN; a product is rounded once, after the activation."""
    expect(module.gated([-0.0, 0.0, -1.0, 2.0], [3.0, -3.0, 0.0, -0.0], "silu"), [-0.0, -0.0, -0.0, -0.0])
    expect(module.gated([-5.0, -5.0, 0.0], [1.0, -1.0, -1.0], "relu"), [0.0, -0.0, -0.0])
    expect(module.gated([-5.0, 5.0, 0.0, -5.0], [INF, -INF, INF, NAN], "silu"), [-INF, -INF, NAN, NAN])
    expect(module.gated([-5.0, 5.0], [INF, INF], "relu"), [NAN, INF])
    expect(module.gated([INF, -INF, NAN], [0.0, 1.0, 1.0], "sigmoid"), [0.0, 0.0, NAN])


# Softmax and attention


def softmaxes(module: ModuleType) -> None:
    for spread in (1.0, 30.0):
        x = numbers(6, seed=7, spread=spread)
        x[4] = x[1]
        agree(module.softmax(x.tolist()), exact.softmax(x))
        agree(module.log_softmax(x.tolist()), exact.log_softmax(x))
    expect(module.softmax([2.0, 2.0, -INF, 2.0]), [1 / 3, 1 / 3, 0.0, 1 / 3])
    expect(module.softmax([-3e38]), [1.0])
    expect(module.log_softmax([-3e38, -INF]), [0.0, -INF])
    for row in ([INF, 0.0], [NAN, 0.0], [0.0, NAN], [-INF, -INF]):
        expect(module.softmax(row), [NAN, NAN])
        expect(module.log_softmax(row), [NAN, NAN])


def softmaxes_far_out(module: ModuleType) -> None:
    """A probability of exp(−10³⁸) is above 0, and the other one below 1."""
    for gap in (200.0, 1e6, 1e38):
        likely, unlikely = module.softmax([0.0, -gap])
        assert bits([likely, unlikely], "fp32") == hexes([1.0, 0.0])
        assert rounded(likely, "fp32", mode="down") == 1 - HALF_STEP
        assert rounded(unlikely, "fp32", mode="up") == 2.0**-149
        near, far = module.log_softmax([0.0, -gap])
        assert bits([near], "fp32") == ["-0x0.0p+0"]
        assert rounded(near, "fp32", mode="down") == -(2.0**-149)
        assert rounded(far, "fp32") == -float(np.float32(gap))
        assert rounded(far, "fp32", mode="down") == float(np.nextafter(np.float32(-gap), np.float32(-INF)))


def ties_of_softmaxes(module: ModuleType) -> None:
    half, _ = module.softmax([1.5, 1.5])
    assert half.compare(Fraction(1, 2)) == 0
    first, _, _ = module.softmax([1.0, 1.0, 0.0])
    assert first.compare(Fraction(1, 2)) == -1
    assert first.difference(Fraction(0), 30).sign == 1
    two, *_ = module.log_softmax([0.0, 0.0, -1.0])
    assert two.compare(-1) == 1


def all_seen(
    module: ModuleType, q: Sequence[float], keys: Sequence[float], values: Sequence[float], **how: object
) -> Value:
    """Keys and values of one number."""
    (value,) = module.attention(q, [[k] for k in keys], [[v] for v in values], [True] * len(keys), scale=1.0, **how)
    return value


def attentions(module: ModuleType) -> None:
    q, k, v = numbers(1, 5, seed=1), numbers(6, 5, seed=2), numbers(6, 3, seed=3)
    mask = np.array([[True, False, True, True, True, False]])
    for cap in (None, 1.5):
        for sink in (None, 0.3, -4.0):
            got = module.attention(
                q[0].tolist(), k.tolist(), v.tolist(), mask[0].tolist(), scale=0.7, cap=cap, sink=sink
            )
            agree(got, exact.attention(q, k, v, mask, sink, scale=0.7, cap=cap)[0])


def ties_of_attention(module: ModuleType) -> None:
    """Equal scores, or a mean that is exact, make ties; the sign of what is left decides, however small."""
    step = 2 * HALF_STEP
    for cap in (None, 50.0):
        for keys in ([0.0, 0.0], [3.0, 3.0], [1e5, 1e5]):
            even = all_seen(module, [1.0], keys, [1.0, 1 + step], cap=cap)
            assert even.compare(1 + Fraction(HALF_STEP)) == 0
            assert rounded(even, "fp32") == 1.0
        for far in (5.0, 400.0, 1e6, 1e30):
            up = all_seen(module, [1.0], [far, 2 * far], [1.0, 1 + step], cap=cap)
            down = all_seen(module, [1.0], [2 * far, far], [1.0, 1 + step], cap=cap)
            assert [rounded(up, "fp32"), rounded(down, "fp32")] == [1 + step, 1.0], (cap, far)
        above = all_seen(module, [1.0], [0.0, -1e30], [1 + HALF_STEP, 5.0], cap=cap)
        ordered = all_seen(module, [1.0], [1e6, 2e6], [-3.0, -1.0], cap=cap, sink=-1e30)
        assert ordered.compare(-2) == 1
        below = all_seen(module, [1.0], [0.0, -1e30], [1 + 3 * HALF_STEP, -5.0], cap=cap)
        assert [rounded(above, "fp32"), rounded(below, "fp32")] == [1 + step, 1 + step]


def ties_of_saturated_scores(module: ModuleType) -> None:
    """Three capped scores that no digits tell apart: of exp(±(cap − δ)) the smallest score has the largest δ.

    The mean of the values is compared with itself; the smallest score's value lies below, in the middle, or above it.
    """
    for place, values in enumerate(([1.0, 9.0, 5.0], [1.0, 4.0, 9.0], [9.0, 1.0, 5.0])):
        mean = sum(map(Fraction, values)) / 3
        for z in (1001.0, 1e6, 1e30):
            for keys in ([z, 1.5 * z, 2 * z], [z, 2 * z, 1.5 * z], [z, INF, 2 * z]):
                weighs_less = all_seen(module, [1.0], [2 * k for k in keys], values, cap=2.0)
                weighs_more = all_seen(module, [-1.0], [2 * k for k in keys], values, cap=2.0)
                assert weighs_less.compare(mean) == [1, 1, -1][place]
                assert weighs_more.compare(mean) == [-1, -1, 1][place]
                assert weighs_less.compare(mean - Fraction(1, 10**30)) == 1
    assert module.sign_of_sum(module.grouped([(module.Exponent(Fraction(5), Fraction(1)), Fraction(3))]), 30).sign == 1


def ties_with_a_sink(module: ModuleType) -> None:
    """A sink of the scores' own size halves the mean, exactly; a capped score of 0 is 0 too."""
    for cap in (None, 7.0):
        value = all_seen(module, [1.0], [0.0], [2 * (1 + HALF_STEP)], sink=0.0, cap=cap)
        assert value.compare(1 + Fraction(HALF_STEP)) == 0
        assert rounded(value, "fp32") == 1.0
        assert rounded(all_seen(module, [1.0], [0.0], [1 + HALF_STEP], sink=-1e30, cap=cap), "fp32") == 1.0
        assert (
            rounded(all_seen(module, [1.0], [0.0], [1 + 3 * HALF_STEP], sink=-1e30, cap=cap), "fp32")
            == 1 + 2 * HALF_STEP
        )


def zeros_of_attention(module: ModuleType) -> None:
    expect([all_seen(module, [1.0], [0.0, 2.0], [-0.0, -0.0])], [-0.0])
    expect([all_seen(module, [1.0], [0.0, 2.0], [-0.0, 0.0])], [0.0])
    expect([all_seen(module, [1.0], [3.0, 3.0], [-7.0, 7.0])], [0.0])
    expect([all_seen(module, [1.0], [3.0, 3.0], [-7.0, 7.0], cap=2.0, sink=1.0)], [0.0])
    expect([all_seen(module, [1.0], [0.0], [-0.0], sink=1.0)], [-0.0])
    nothing = module.attention([1.0], [[1.0]], [[-5.0, NAN]], [False], scale=1.0, sink=3.0)
    expect(nothing, [0.0, 0.0])


def masked_keys_take_no_part(module: ModuleType) -> None:
    for bad in (NAN, INF, -INF):
        got = module.attention([1.0], [[0.0], [bad]], [[3.0], [bad]], [True, False], scale=1.0)
        expect(got, [3.0])
    expect(module.attention([1.0], [[-1e12], [5.0]], [[3.0], [100.0]], [True, False], scale=1.0), [3.0])


def attention_to_what_is_not_finite(module: ModuleType) -> None:
    for keys, values, sink, want in (
        ([-INF, 0.0], [5.0, 7.0], None, 7.0),
        ([-INF, -INF], [5.0, 7.0], 0.0, 0.0),
        ([-INF, -INF], [-5.0, -7.0], 0.0, -0.0),
        ([-INF, -INF], [5.0, 7.0], None, NAN),
        ([-INF, -INF], [5.0, 7.0], -INF, NAN),
        ([INF, 0.0], [5.0, 7.0], None, NAN),
        ([NAN, 0.0], [5.0, 7.0], None, NAN),
        ([-2000.0, 0.0], [INF, 7.0], None, INF),
        ([-INF, 0.0], [INF, 7.0], None, NAN),
        ([0.0, 0.0], [INF, -INF], None, NAN),
        ([0.0, 0.0], [3.0, 6.0], -INF, 4.5),
        ([0.0, 0.0], [3.0, 6.0], INF, 0.0),
        ([0.0, 0.0], [3.0, -INF], INF, NAN),
        ([0.0, 0.0], [3.0, 6.0], 1e38, 0.0),
        ([0.0, 0.0], [3.0, 6.0], NAN, NAN),
        ([0.0, 0.0], [3.0, 6.0], 0.0, 3.0),
    ):
        expect([all_seen(module, [1.0], keys, values, sink=sink)], [want])
    capped = all_seen(module, [1.0], [INF, -INF], [1.0, 0.0], cap=2.0)  # 1/(1 + exp(−4))
    agree([capped], exact.activation(np.array([4.0]), kind="sigmoid"))


ALGEBRAIC = [sums, sums_have_no_order, zeros_of_sums, sums_of_what_is_not_finite, norms, ties_of_norms, zeros_of_norms, norms_of_what_is_not_finite, pools]  # fmt: skip
TRANSCENDENTAL = [activations, activations_at_special_values, beside_their_limits, small_arguments, known_ties, gates]
ATTENTION = [softmaxes, softmaxes_far_out, ties_of_softmaxes, attentions, ties_of_attention, ties_of_saturated_scores, ties_with_a_sink, zeros_of_attention, masked_keys_take_no_part, attention_to_what_is_not_finite]  # fmt: skip
EACH = [(algebraic, check) for check in ALGEBRAIC] + [(transcendental, check) for check in TRANSCENDENTAL] + [(attention, check) for check in ATTENTION]  # fmt: skip


@pytest.mark.parametrize(("module", "check"), EACH, ids=lambda part: part.__name__.split(".")[-1])
def test_ops(module: ModuleType, check: Callable[[ModuleType], None]) -> None:
    check(module)


A, T, S, E = algebraic, transcendental, attention, exponentials
BUGS: dict[str, tuple[ModuleType, str, str, Callable[[ModuleType], None]]] = {
    "the bias is lost": (A, "return [dot([*x, 1.0], [*w, b])", "return [dot(x, w)", sums),
    "the residual is subtracted": (A, "[dot([a, b], [1.0, 1.0])", "[dot([a, b], [1.0, -1.0])", sums),
    "the embedding's scale is lost": (A, "scaled(plain(w), scale)", "plain(w)", sums),
    "a sum in float64": (A, "sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction(0))", "Fraction(sum(float(a) * float(b) for a, b in pairs))", sums_have_no_order),
    "a sum that is rounded to float64": (A, "return Real.rational(total, zero", "total = Fraction(float(total))\n    return Real.rational(total, zero", sums_have_no_order),
    "every zero is positive": (A, "zero=zero_of_sum(float(a) * float(b) for a, b in pairs)", "zero=0.0", zeros_of_sums),
    "a zero has the first term's sign": (A, "zero=zero_of_sum(float(a) * float(b) for a, b in pairs)", "zero=float(pairs[0][0]) * float(pairs[0][1])", zeros_of_sums),
    "overflow counts as infinity": (A, "for a, b in pairs if not finite(a, b)", "for a, b in pairs", sums_of_what_is_not_finite),
    "epsilon outside the root": (A, "mean_of([Fraction(a) ** 2 for a in x]) + Fraction(eps)", "mean_of([Fraction(a) ** 2 for a in x])", norms),
    "the offset is lost": (A, "dot([offset, b], [1.0, 1.0])", "plain(b)", norms),
    "the mean is not taken off": (A, "centred = [Fraction(a) - mean for a in x]", "centred = [Fraction(a) for a in x]", norms),
    "the variance over D − 1": (A, "variance = mean_of([c * c for c in centred])", "variance = mean_of([c * c for c in centred]) * len(x) / (len(x) - 1)", norms),
    "the weight is lost": (A, "over_root(top * exact(weight), square", "over_root(top, square", norms),
    "the bias is subtracted": (A, "Fraction(0 if bias is None else bias)", "-Fraction(0 if bias is None else bias)", norms),
    "roots are compared without signs": (A, "return z * abs(z)", "return z * z", ties_of_norms),
    "roots are compared without the bias": (A, "_signed_square(m - shift)", "_signed_square(m)", ties_of_norms),
    "roots are compared with the wrong square": (A, "_signed_square(top) / square", "_signed_square(top) / (square + Fraction(1, 2**60))", ties_of_norms),
    "the norm's zero is positive": (A, "Fraction(0 if bias is None else bias), zero_of_sum(terms))", "Fraction(0 if bias is None else bias))", zeros_of_norms),
    "−0 − 0 is +0": (A, "return x - zero_mean if x == 0 else 0.0", "return 0.0", zeros_of_norms),
    "−0 − −0 is −0": (A, "return x - zero_mean if x == 0 else 0.0", "return x", zeros_of_norms),
    "0/0 is 0": (A, "if square == 0:", "if square < 0:", zeros_of_norms),
    "an infinite x gives zeros": (A, "if math.isfinite(a) else math.nan for a in x]", "for a in x]", norms_of_what_is_not_finite),
    "a NaN strikes itself alone": (A, "if any(map(math.isnan, x)):", "if all(map(math.isnan, x)):", norms_of_what_is_not_finite),
    "an infinite weight is not seen": (A, "if special is not None:\n        return special\n    return over_root", "if special is not None:\n        return 0.0\n    return over_root", norms_of_what_is_not_finite),
    "the mean is a sum": (A, "[Fraction(1, len(column))] * len(column)", "[Fraction(1)] * len(column)", pools),
    "−0 may be the largest": (A, "key=lambda x: (x, math.copysign(1.0, x))", "key=lambda x: x", pools),
    "the largest of NaN": (A, "if any(map(math.isnan, column)):", "if False:", pools),
    "not normalised": (A, "return _normalised(value) if normalise else value", "return value", pools),
    "a zero vector is divided by zero": (A, "NORMALISE_EPS**2)", "Fraction(1, 10**30))", pools),
    "a normalised zero is positive": (A, "return [over_root(v, square, zero=sign)", "return [over_root(v, square)", pools),
    "an infinite length is finite": (A, "if any(map(math.isinf, signs)):", "if False:", pools),
    "quick-GELU's constant cut short": (T, "Fraction(1702, 1000)", "Fraction(17, 10)", activations),
    "the cube's constant is a float32's": (T, "Fraction(44715, 10**6)", "Fraction(0.044715000331401825)", activations),
    "√(π/2) for √(2/π)": (T, "functions.sqrt(2 / functions.pi(digits))", "functions.sqrt(functions.pi(digits) / 2)", activations),
    "Φ(−x) for Φ(x)": (T, "Interval.of(-x * sign, digits)", "Interval.of(x * sign, digits)", activations),
    "Φ without the root": (T, "Interval.of(-x * sign, digits) / root", "Interval.of(-x * sign, digits)", activations),
    "silu without the factor": (T, "return scaled(sigmoid(x), x)\n\n\ndef quick", "return sigmoid(x)\n\n\ndef quick", activations),
    "gelu by tanh": (T, '"gelu": gelu,', '"gelu": gelu_tanh,', activations),
    "the gate is multiplied by itself": (T, "scaled(_activation(kind)(g), u)", "scaled(_activation(kind)(g), g)", activations),
    "the cap is forgotten inside": (T, "_tanh(Fraction(a) / Fraction(cap), a)", "_tanh(Fraction(a), a)", activations),
    "relu hides NaN": (T, "Real.rational(0) if x <= 0 else plain(x)", "plain(x) if x > 0 else Real.rational(0)", activations_at_special_values),
    "relu keeps −0": (T, "Real.rational(0) if x <= 0 else plain(x)", "Real.rational(0) if x < 0 else plain(x)", activations_at_special_values),
    "silu of −∞ is 0": (T, "return scaled(sigmoid(x), x)\n\n\ndef quick", "return Real.rational(0) if x == -math.inf else scaled(sigmoid(x), x)\n\n\ndef quick", activations_at_special_values),
    "the soft cap's zero is positive": (T, "_tanh(Fraction(a) / Fraction(cap), a)", "_tanh(Fraction(a) / Fraction(cap), 0.0)", activations_at_special_values),
    "sigmoid may be 1": (T, "        if not 0 < m < 1:\n            return Interval.of(-1 if m > 0 else 1, digits)\n        if positive:", "        if m == 1:\n            return Interval.of(0, digits)\n        if positive:", beside_their_limits),
    "tanh is decided by digits alone": (T, "if not -1 < m < 1:", "if False:", beside_their_limits),
    "tanh beyond its limits is turned round": (T, "        if not -1 < m < 1:\n            return Interval.of(-1 if m > 0 else 1, digits)", "        if not -1 < m < 1:\n            return Interval.of(1 if m > 0 else -1, digits)", beside_their_limits),
    "Φ is decided by digits alone": (T, "            return Interval.of(-1 if m > 0 else 1, digits)\n        return Interval.of(1 - m, digits) - phi", "            pass\n        return Interval.of(1 - m, digits) - phi", beside_their_limits),
    "tanh rises faster than x": (T, "        if abs(x) < 1:\n            return functions.tanh(Interval.of(x, digits)) - m", "        if abs(x) < 1:\n            return Interval.of(x, digits) - m", small_arguments),
    "a tie of gelu is denied": (T, "Real(lambda digits: phi(1, digits), None,", "Real(lambda digits: phi(1, digits), _never,", known_ties),
    "a tie of gelu_tanh is denied": (T, "_sigmoid_of(argument, x > 0, None)", "_sigmoid_of(argument, x > 0, _never)", known_ties),
    "a tie of silu is possible": (T, "_sigmoid_of(lambda digits: Interval.of(x, digits), x > 0, _never)", "_sigmoid_of(lambda digits: Interval.of(x, digits), x > 0, None)", known_ties),
    "sigmoid of 0 is not exact": (T, "    if x == 0:\n        return Real.rational(Fraction(1, 2))\n    return _sigmoid_of", "    return _sigmoid_of", known_ties),
    "relu2 is relu": (T, "return scaled(relu(x), 0.0 if x <= 0 else x)", "return relu(x)", known_ties),
    "the gate forgets the other sign": (T, "scaled(_activation(kind)(g), u)", "scaled(_activation(kind)(g), u if u else 0.0)", gates),
    "softmax is not divided": (S, "exp(Interval.of(score - top, digits)) / _total([s - top for s in kept], digits)", "exp(Interval.of(score - top, digits))", softmaxes),
    "log-softmax of the total": (S, "Interval.of(score - top, digits) - log", "Interval.of(score - top, digits) + log", softmaxes),
    "softmax lets −∞ alone pass": (S, "and max(x) > -math.inf", "", softmaxes),
    "softmax lets NaN pass": (S, "math.isnan(score) or score == math.inf", "score == math.inf", softmaxes),
    "softmax is compared by its enclosure": (S, "return Real(enclose, sign=1, difference=difference)", "return Real(enclose, sign=1)", softmaxes_far_out),
    "log-softmax is compared by its enclosure": (S, "return Real(enclose, sign=-1, difference=difference)", "return Real(enclose)", softmaxes_far_out),
    "equal scores are not grouped": (E, "sums[exponent] = sums.get(exponent, Fraction(0)) + coefficient", "sums[Exponent(exponent.score, exponent.cap if exponent not in sums else Fraction(10**9))] = coefficient", ties_of_softmaxes),
    "the last of equal scores counts": (E, "sums.get(exponent, Fraction(0)) + coefficient", "coefficient", ties_of_softmaxes),
    "the scale is lost": (S, "score = exact(product) * Fraction(scale)", "score = exact(product)", attentions),
    "the cap is lost": (S, "None if cap is None or score == 0 else Fraction(cap)", "None", attentions),
    "the cap is not multiplied by": (E, "return tanh(Interval.of(self.score / self.cap, digits)) * self.cap", "return tanh(Interval.of(self.score / self.cap, digits))", attentions),
    "the sink has no weight": (S, "everyone = weighing if sink is None else [*weighing, sink]", "everyone = weighing", attentions),
    "masked values are kept": (S, "zip(*(value for value, see in zip(values, seen, strict=True) if see), strict=True)", "zip(*(value for value, see in zip(values, seen[::-1], strict=True) if see), strict=True)", attentions),
    "the order does not decide": (E, "if partial and (min(partial) >= 0 or max(partial) <= 0):", "if False:", ties_of_attention),
    "the order decides the wrong way": (E, "Interval.of(1 if max(partial) > 0 else -1, digits)", "Interval.of(-1 if max(partial) > 0 else 1, digits)", ties_of_attention),
    "the order is turned round": (E, "return sorted(exponents, key=lambda e: e.score, reverse=True)", "return sorted(exponents, key=lambda e: e.score)", ties_of_attention),
    "saturated scores are as any others": (E, "    if saturated is not None:\n        return saturated\n", "", ties_of_saturated_scores),
    "saturated scores weigh the wrong way": (E, "return -total if", "return total if", ties_of_saturated_scores),
    "saturated scores have one sign": (E, "-total if next(iter(terms)).score > 0 else total", "-total", ties_of_saturated_scores),
    "a saturated sum is 0 to begin with": (E, " or sum(terms.values(), Fraction(0)) != 0:", ":", ties_of_saturated_scores),
    "attention is compared by its enclosure": (S, "return Real(enclose, zero=zero_of_sum(products), difference=difference)", "return Real(enclose, zero=zero_of_sum(products))", ties_of_attention),
    "a sink is not compared": (S, "_grouped(terms if sink is None else [*terms, (sink, -m)])", "_grouped(terms)", ties_with_a_sink),
    "attention's zero is positive": (S, "return Real.rational(numbers[0] if numbers else 0, zero=zero_of_sum(products))", "return Real.rational(numbers[0] if numbers else 0)", zeros_of_attention),
    "attention to nothing is NaN": (S, "return [Real.rational(0)] * len(values[0])", "return [math.nan] * len(values[0])", zeros_of_attention),
    "masked keys are scored": (S, "for key, see in zip(keys, seen, strict=True) if see]", "for key, see in zip(keys, seen, strict=True)]", masked_keys_take_no_part),
    "0·∞ is 0": (S, "(0.0 if e is None else 1.0) * v", "(0.0 if e is None else v)", attention_to_what_is_not_finite),
    "an infinite sink is NaN": (S, "if math.isnan(sink) or", "if not sink < math.inf or", attention_to_what_is_not_finite),
    "a score of +∞ wins": (S, "e is None or e == Exponent(math.inf) for e", "e is None for e", attention_to_what_is_not_finite),
    "−∞ alone is 0": (S, "return sink == -math.inf and all(e == Exponent(-math.inf) for e in scores)", "return False", attention_to_what_is_not_finite),
    "a capped ∞ stays": (S, "None if math.isnan(infinite) else Exponent(infinite, None if cap is None else Fraction(cap))", "None if math.isnan(infinite) else Exponent(infinite)", attention_to_what_is_not_finite),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_the_check_sees_the_planted_bug(bug: str) -> None:
    module, text, replacement, check = BUGS[bug]
    with pytest.raises((AssertionError, ArithmeticError, ValueError, TypeError, IndexError)):
        check(broken(module, text, replacement))


def broken(module: ModuleType, text: str, replacement: str) -> ModuleType:
    """The mutated module; of the sums of exponentials, the attention that reads them."""
    if module is not exponentials:
        return mutated(module, text, replacement)
    sums_of = mutated(exponentials, text, replacement)
    reader = mutated(attention, "def softmax(", "def softmax(")
    for name in ("Exponent", "grouped", "sign_of_sum"):
        setattr(reader, name, getattr(sums_of, name))
    return reader


def test_the_rules_of_what_is_not_finite() -> None:
    assert special.special_sum([1.0, 2.0]) is None
    assert special.special_sum([1.0, INF]) == INF
    assert math.isnan(special.special_sum([INF, -INF]))
    assert hexes([special.zero_of_sum([-0.0, -0.0]), special.zero_of_sum([-0.0, 0.0])]) == hexes([-0.0, 0.0])
    assert hexes([special.zero_of_product(-1.0, 0.0), special.zero_of_product(-1.0, -0.0)]) == hexes([-0.0, 0.0])
    assert hexes(map(special.stand_in, [Real.rational(-7), Real.rational(0, zero=-0.0), NAN])) == hexes(
        [-1.0, -0.0, NAN]
    )
    with pytest.raises(TypeError, match=r"^a rational number is needed here, got inf$"):
        special.exact(INF)


# Properties

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
any_float = st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, INF, -INF, NAN, 1e-45, 3.4e38]))
small = st.floats(-40, 40, width=32)


@given(st.lists(st.tuples(any_float, any_float), min_size=1, max_size=6), st.randoms())
def test_a_linear_layer_has_no_order(pairs: list[tuple[float, float]], random: object) -> None:
    x, w = zip(*pairs, strict=True)
    want = bits(ops.linear(list(x), [list(w)]), "fp32")
    shuffled = list(pairs)
    random.shuffle(shuffled)
    x, w = zip(*shuffled, strict=True)
    assert bits(ops.linear(list(x), [list(w)]), "fp32") == want


@given(st.lists(finite, min_size=1, max_size=6))
def test_a_sum_is_fsum(x: list[float]) -> None:
    """math.fsum rounds the exact sum once to float64, and so does this."""
    got = rounded(ops.linear(x, [[1.0] * len(x)])[0], "fp64")
    assert got == math.fsum(x)


@given(any_float, any_float)
def test_a_sum_of_two_is_ieee_754s(a: float, b: float) -> None:
    (value,) = ops.add([a], [b])
    assert bits([value]) == hexes([a + b])


@given(any_float, any_float)
def test_a_product_is_ieee_754s(a: float, b: float) -> None:
    assert bits(ops.linear([a], [[b]])) == hexes([a * b])


@given(st.lists(any_float, min_size=1, max_size=5), st.integers(-20, 20))
def test_powers_of_two_pass_through_a_norm(x: list[float], exponent: int) -> None:
    """Without ε, a norm does not see the scale of its input."""
    w = [1.5] * len(x)
    scaled_x = [value * 2.0**exponent for value in x]
    for norm in (ops.rms_norm, ops.layer_norm):
        assert bits(norm(x, w, eps=0.0), "fp32") == bits(norm(scaled_x, w, eps=0.0), "fp32")


@given(small, st.sampled_from(sorted(exact.ACTIVATIONS)))
def test_activations_are_rounded_decimals(x: float, kind: str) -> None:
    (want,) = exact.activation(np.array([x]), kind=kind)
    agree(ops.activate([x], kind), [want])


@given(any_float)
def test_odd_functions_are_odd(x: float) -> None:
    for function in (lambda a: ops.activate([a], "tanh"), lambda a: ops.softcap([a], 5.0)):
        (there,), (back,) = bits(function(x), "bf16"), bits(function(-x), "bf16")
        assert float.fromhex(there) == -float.fromhex(back) or there == back == "nan"


@given(
    st.lists(st.one_of(small, st.sampled_from([0.0, -INF, 1e30, -1e30])), min_size=1, max_size=5), st.integers(-8, 8)
)
def test_softmax_is_unchanged_by_a_shift(x: list[float], shift: int) -> None:
    shifted = [Fraction(value) + shift if math.isfinite(value) else value for value in x]
    exact_shift = [float(value) for value in shifted]
    if all(Fraction(a) == b for a, b in zip(exact_shift, shifted, strict=True) if math.isfinite(a)):
        for function in (ops.softmax, ops.log_softmax):
            assert bits(function(x), "fp32") == bits(function(exact_shift), "fp32")


@given(st.lists(st.tuples(small, any_float), min_size=1, max_size=5), st.randoms(), st.sampled_from([None, 3.0]))
def test_attention_has_no_order(pairs: list[tuple[float, float]], random: object, cap: float | None) -> None:
    def run(given_pairs: list[tuple[float, float]]) -> list[str]:
        keys, values = [[k] for k, _ in given_pairs], [[v] for _, v in given_pairs]
        return bits(ops.attention([1.0], keys, values, [True] * len(keys), scale=0.5, cap=cap), "fp32")

    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert run(shuffled) == run(pairs)


@given(st.lists(st.tuples(small, finite), min_size=1, max_size=5))
def test_attention_lies_between_its_values(pairs: list[tuple[float, float]]) -> None:
    keys, values = [[k] for k, _ in pairs], [[v] for _, v in pairs]
    (value,) = ops.attention([1.0], keys, values, [True] * len(keys), scale=1.0)
    assert min(values)[0] <= rounded(value, "fp32") <= max(values)[0]


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=3), st.integers(2, 4))
def test_attention_to_repeated_keys_is_attention_to_one(pairs: list[tuple[float, float]], times: int) -> None:
    """n copies of every key weigh as one of each."""
    keys, values = [[k] for k, _ in pairs], [[v] for _, v in pairs]
    once = ops.attention([1.0], keys, values, [True] * len(keys), scale=1.0)
    often = ops.attention([1.0], keys * times, values * times, [True] * (len(keys) * times), scale=1.0)
    assert bits(once, "fp32") == bits(often, "fp32")


def test_what_no_theorem_decides_is_said() -> None:
    """Three capped scores and a sink whose order decides nothing, and a sum of 0 to 2000 digits: nobody guesses."""
    values = [1.0, 1 + 6 * HALF_STEP, 1.0 - 4 * HALF_STEP]
    value = all_seen(attention, [1.0], [1e9, 2e9, 3e9], values, cap=2.0, sink=-1e30)
    with pytest.raises(UndecidedError):
        value.compare(sum(map(Fraction, values)) / 3)


def test_bad_input_is_refused_in_one_line() -> None:
    for call, message in (
        (lambda: ops.embed(3, [[1.0]] * 3), "^id 3 is outside the table of 3 rows$"),
        (lambda: ops.embed(-1, [[1.0]] * 3), "^id -1 is outside the table of 3 rows$"),
        (lambda: ops.linear([1.0], [[1.0, 2.0]]), "^the length of a row of weights is 2, but must be 1$"),
        (lambda: ops.linear([1.0], [[1.0]], [1.0, 2.0]), "^the length of the bias is 2, but must be 1$"),
        (lambda: ops.add([1.0], [1.0, 2.0]), "^the length of what is added is 2, but must be 1$"),
        (lambda: ops.rms_norm([1.0], [1.0, 2.0], eps=0.0), "^the length of the norm's weight is 2, but must be 1$"),
        (lambda: ops.rms_norm([1.0], [1.0], eps=-1.0), r"^a norm's eps must be a number from 0 up, got -1\.0$"),
        (lambda: ops.layer_norm([1.0], [1.0], eps=NAN), "^a norm's eps must be a number from 0 up, got nan$"),
        (lambda: ops.layer_norm([1.0], [1.0], [], eps=0.0), "^the length of the norm's bias is 0, but must be 1$"),
        (lambda: ops.pool([[1.0]], kind="sum", normalise=False), "^unknown pooling 'sum'; known: mean, cls, max$"),
        (
            lambda: ops.pool([], kind="max", normalise=False),
            "^a sequence has no unmasked position to pool; leave empty",
        ),
        (lambda: ops.activate([1.0], "swish"), "^unknown activation 'swish'; known: relu, relu2, sigmoid, tanh, silu"),
        (lambda: ops.gated([1.0], [], "silu"), "^the length of up is 0, but must be 1$"),
        (lambda: ops.softcap([1.0], 0.0), r"^a soft cap must be positive and finite, got 0\.0; leave it out where"),
        (lambda: ops.softcap([1.0], NAN), "^a soft cap must be positive and finite, got nan"),
        (lambda: ops.softmax([]), "^softmax over an empty axis has no value; give at least one score$"),
        (lambda: ops.attention([1.0], [], [], [], scale=1.0), "^attention needs at least one key, got none; mask what"),
        (lambda: ops.attention([1.0], [[1.0]], [[1.0]], [], scale=1.0), "^the length of the mask is 0, but must be 1$"),
        (lambda: ops.attention([1.0], [[1.0]], [], [True], scale=1.0), "^the number of values is 0, but must be 1$"),
        (lambda: ops.attention([1.0], [[1.0]], [[1.0]], [True], scale=1.0, cap=-1.0), "^a soft cap must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
