"""The IQ encoders: the least error there is (IQ4_NL), never more than rounding to nearest, less than ggml's own."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from golden_cases import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.storage import FORMATS, decode, encode
from lepton_ref.storage.encoders import iq4, iq_lattice, lattice
from lepton_ref.storage.iq4_nl import LEVELS
from lepton_ref.storage.iq_grids import points

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Encode = Callable[[Floats, Floats | None], Bytes]

LATTICES = tuple(iq_lattice.FORMS)
NAMES = ("IQ4_NL", "IQ4_XS", *LATTICES)
CODED = ("IQ2_XXS", "IQ2_XS", "IQ3_XXS")
KINDS = ("normal", "tails", "ties", "huge", "subnormal", "constant", "zeros", "one", "largest", "positive")

each_name = pytest.mark.parametrize("name", NAMES)
each_lattice = pytest.mark.parametrize("name", LATTICES)


def numbers(kind: str, count: int, seed: int) -> Floats:
    """`(count, 256)` numbers of one kind."""
    rng = np.random.default_rng(seed)
    shape = (count, 256)
    x = rng.standard_normal(shape)
    match kind:
        case "tails":
            x = rng.standard_t(2, size=shape)
        case "ties":
            x = rng.integers(-20, 21, shape) / 2.0
        case "huge":
            x[:, rng.integers(256)] = 1e6
        case "subnormal":
            x = rng.integers(-(2**20), 2**20, shape) * 2.0**-149
        case "constant":
            x = np.full(shape, rng.choice([-0.3, 1.0, 7e-6]))
        case "zeros":
            x = rng.choice([0.0, -0.0], shape)
        case "one":
            x = np.zeros(shape)
            x[:, rng.integers(256)] = rng.choice([-1.0, 1.0, 3.0])
        case "largest":
            x = x / 8 * np.finfo(np.float32).max
        case "positive":
            x = np.abs(x)
    return x.astype(np.float32)


def some_weights(kind: str, count: int, seed: int) -> Floats | None:
    rng = np.random.default_rng([seed, 1])
    if kind == "none":
        return None
    w = rng.exponential(size=(count, 256)) if kind == "random" else rng.integers(0, 2, (count, 256))
    return w.astype(np.float32)


def error(x: Floats, w: Floats | None, value: Floats | Doubles) -> Doubles:
    """`(N, L) -> (N,)` Σw(x − v)², in float64."""
    weights = np.ones(x.shape) if w is None else np.where(w.max(axis=1, keepdims=True) > 0, w, 1).astype(np.float64)
    return np.asarray((weights * np.square(x.astype(np.float64) - value)).sum(axis=1))


def magnitude(x: Floats, w: Floats | None, value: Floats | Doubles) -> Doubles:
    """`(N, L) -> (N,)` Σw(|x| + |v|)²: what roundings are measured against."""
    return error(np.abs(x), w, -np.abs(value))


examples = given(
    kind=st.sampled_from(KINDS), weights=st.sampled_from(["none", "random", "some"]), seed=st.integers(0, 2**32 - 1)
)

# --- IQ4_NL: no scale and no codes are better -------------------------------------------------------------------------

SCALES = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
SCALES = SCALES[np.isfinite(SCALES)]


def least_errors(x: Floats, w: Floats | None) -> tuple[Doubles, Doubles]:
    """`(L,) -> (scales,) twice`: the error of every fp16 scale with the best codes, and the bound of its rounding."""
    weights = np.ones(len(x)) if w is None or not w.any() else w.astype(np.float64)
    best = np.zeros(SCALES.shape)
    for value, weight in zip(x.astype(np.float64), weights, strict=True):
        off = np.full(SCALES.shape, np.inf)
        for level in LEVELS:
            np.minimum(off, np.abs(value - SCALES * level), out=off)
        best += weight * off * off
    reach = np.abs(x.astype(np.float64))[:, np.newaxis] + 128 * np.abs(SCALES)
    return best, (weights[:, np.newaxis] * reach * reach).sum(axis=0)


def excess(x: Floats, w: Floats | None, encoded: Encode) -> int:
    """How many fp16 scales are better for some block than the one that was chosen.

    The encoder compares d(2Σwxk − dΣwk²) in float64. A sum has at most 258 terms, the sums of their sizes being at most
    128·Σw|x| and 128²·Σw; 265 roundings of 2⁻⁵³ each make the comparison wrong by at most 2⁻⁴⁴·Σw(|x| + 128|d|)².
    """
    raw = encoded(x, w)
    chosen = raw[:, :2].copy().view("<f2").astype(np.float64)[:, 0]
    got = error(x, w, FORMATS["IQ4_NL"].values(raw))
    worse = 0
    for i, block in enumerate(x):
        best, reach = least_errors(block, None if w is None else w[i])
        own = np.flatnonzero(chosen[i] == SCALES)[0]
        worse += int((got[i] > best + 2.0**-43 * (reach + reach[own])).sum())
    return worse


@settings(max_examples=25)
@examples
def test_no_scale_is_better_than_the_one_that_iq4_nl_stores(kind: str, weights: str, seed: int) -> None:
    x, w = numbers(kind, 1, seed), some_weights(weights, 1, seed)
    at = 32 * (seed % 8)
    cut = slice(at, at + 32)
    assert excess(x[:, cut], None if w is None else w[:, cut], iq4.encode_iq4_nl) == 0


@given(seed=st.integers(0, 2**32 - 1))
def test_what_iq4_nl_holds_exactly_comes_back(seed: int) -> None:
    raw = np.random.default_rng(seed).integers(0, 256, (20, 18), dtype=np.uint8)
    raw[:, 1] &= 0xFB  # finite
    held = decode("IQ4_NL", raw)
    np.testing.assert_array_equal(decode("IQ4_NL", encode("IQ4_NL", held)), held)


@given(seed=st.integers(0, 2**32 - 1))
def test_what_iq4_xs_holds_exactly_with_a_group_of_the_largest_scale_comes_back(seed: int) -> None:
    raw = np.random.default_rng(seed).integers(0, 256, (6, 136), dtype=np.uint8)
    raw[:, 1] &= 0xFB
    raw[:, 2] &= 0xFC  # s of the first group is 0, its multiple of d −32
    raw[:, 4] &= 0xF0
    held = decode("IQ4_XS", raw)
    np.testing.assert_array_equal(decode("IQ4_XS", encode("IQ4_XS", held)), held)


# --- no more error than rounding to nearest with the scale of the largest number ------------------------------------


def half(d: Doubles) -> Doubles:
    return np.minimum(np.abs(d), 65504.0).astype(np.float16).astype(np.float64) * np.sign(d)


def to_nearest_iq4(name: str, x: Floats) -> Doubles:
    """`(N, 256)` the nearest values: each group's largest number becomes −127 times its scale."""
    groups = x.astype(np.float64).reshape(-1, 32)
    top = np.take_along_axis(groups, np.abs(groups).argmax(axis=1)[:, np.newaxis], axis=1)[:, 0] / -127
    if name == "IQ4_NL":
        scale = half(top)
    else:
        by_block = top.reshape(-1, 8)
        d = half(np.take_along_axis(by_block, np.abs(by_block).argmax(axis=1)[:, np.newaxis], axis=1) / -32)
        k = np.clip(np.rint(by_block / np.where(d == 0, np.inf, d)), -32, 31)
        scale = (d * k).reshape(-1)
    held = scale[:, np.newaxis, np.newaxis] * np.array(LEVELS)
    at = np.abs(groups[:, :, np.newaxis] - held).argmin(axis=2)
    return np.take_along_axis(held[:, 0], at, axis=1).reshape(x.shape)


def to_nearest_lattice(name: str, x: Floats, w: Floats | None) -> Doubles:
    """`(N, 256)` the nearest points, largest coordinate for the largest number; signs as the format can have them."""
    form = iq_lattice.FORMS[name]
    g = points(form.table).astype(np.float64)
    shifts = (0.125, -0.125) if form.shifted else (0.0,)
    weights = np.ones(x.shape) if w is None else np.where(w.max(axis=1, keepdims=True) > 0, w, 1).astype(np.float64)
    sign = np.ones(x.shape)
    if not form.shifted:
        sign = np.where(x < 0, -1.0, 1.0)
        if name in CODED:
            sign *= np.where(np.signbit(iq_lattice.even_signs(form, x, weights.astype(np.float32))[0]), -1, 1)
    top = np.abs(x).astype(np.float64).reshape(len(x), -1, form.group).max(axis=2) / max(
        np.abs(g + s).max() for s in shifts
    )
    d = half(top.max(axis=1, keepdims=True) / (form.unit * (2 * form.most + 1)))
    s = np.clip(np.rint((top / np.where(d == 0, np.inf, d * form.unit) - 1) / 2), 0, form.most)
    c = np.repeat(d * form.unit * (2 * s + 1), form.group // g.shape[1], axis=1).reshape(-1, 1)
    u, wu = (x * sign).reshape(-1, g.shape[1]), weights.reshape(-1, g.shape[1])
    found = []
    for shift in shifts:
        cost = (
            (wu * u * u).sum(axis=1)[:, np.newaxis]
            - 2 * c * ((wu * u) @ (g + shift).T)
            + c * c * (wu @ ((g + shift) ** 2).T)
        )
        value = c * (g + shift)[cost.argmin(axis=1)]
        found.append((value, (wu * np.square(u - value)).sum(axis=1)))
    value = found[0][0]
    if form.shifted:
        share = form.shifted
        down = [np.repeat(part[1].reshape(-1, share).sum(axis=1), share) for part in found]
        value = np.where((down[1] < down[0])[:, np.newaxis], found[1][0], value)
    return np.asarray(value.reshape(x.shape) * sign)


def over_nearest(name: str, x: Floats, w: Floats | None, encoded: Encode) -> int:
    """How many blocks have more error than rounding to nearest makes, or than zeros.

    The lattices' errors are compared in float32: at most 40 roundings of 2⁻²⁴, each of a part of Σw(|x| + |v|)². Those
    of IQ4 in float64.
    """
    block = FORMATS[name]
    got = block.values(encoded(x.reshape(-1, block.length), None if w is None else w.reshape(-1, block.length)))
    got = got.reshape(x.shape)
    plain = to_nearest_iq4(name, x) if name.startswith("IQ4") else to_nearest_lattice(name, x, w)
    unit = 2.0**-43 if name.startswith("IQ4") else 2.0**-18
    shape = (-1, block.length)  # each block by itself
    x, got, plain = x.reshape(shape), got.reshape(shape), plain.reshape(shape)
    w = None if w is None else w.reshape(shape)
    limit = np.minimum(error(x, w, plain) + unit * magnitude(x, w, plain), error(x, w, np.zeros(x.shape)))
    return int((error(x, w, got) > limit + unit * magnitude(x, w, got)).sum())


def encoder(name: str) -> Encode:
    page = iq4 if name.startswith("IQ4") else iq_lattice
    return getattr(page, f"encode_{name.lower()}")  # type: ignore[no-any-return]


@each_name
@settings(max_examples=12)
@examples
def test_the_error_is_never_more_than_that_of_rounding_to_nearest(
    name: str, kind: str, weights: str, seed: int
) -> None:
    x, w = numbers(kind, 2, seed), some_weights(weights, 2, seed)
    assert over_nearest(name, x, w, lambda x, w: encode(name, x, weights=w)) == 0


# --- less error than ggml's -----------------------------------------------------------------------------------------


def ratio_to_ggml(name: str, encoded: Encode) -> float:
    """The largest of the weighted errors with an imatrix and with equal weights, over ggml's own, of six rows."""
    block = FORMATS[name]
    with np.load(GOLDEN / "storage_iq_encoders" / "encoders.npz", allow_pickle=False) as golden:
        x, imatrix = golden["x"], np.broadcast_to(golden["imatrix"], golden["x"].shape)
        theirs = [block.values(golden[f"{name}_{what}"]) for what in ("weighted", "flat")]
    worst = 0.0
    for w, their in zip((imatrix, None), theirs, strict=True):
        parts = x.reshape(-1, block.length), None if w is None else w.reshape(-1, block.length)
        ours = block.values(encoded(*parts)).reshape(x.shape)
        worst = max(worst, float(error(x, w, ours).sum() / error(x, w, their).sum()))
    return worst


@each_name
def test_the_error_is_less_than_that_of_ggmls_encoder(name: str) -> None:
    assert ratio_to_ggml(name, lambda x, w: encode(name, x, weights=w)) < 1


# --- the stored points are the nearest ------------------------------------------------------------------------------


@each_lattice
def test_the_search_by_halves_finds_the_nearest_point(name: str) -> None:
    table = iq_lattice.FORMS[name].table
    rng = np.random.default_rng(2)
    g = points(table).astype(np.float64)
    x = (rng.standard_normal((g.shape[1], 200)) * np.abs(g).max() / 2).astype(np.float32)
    w = rng.exponential(size=x.shape).astype(np.float32)
    c = rng.uniform(0.5, 1.5, 200).astype(np.float32)
    for shift in (0.0, 0.125, -0.125):
        code, cost = lattice.nearest(table, x, w, c, shift)
        all_costs = (
            w.T[:, np.newaxis] * np.square(x.T[:, np.newaxis] - c[:, np.newaxis, np.newaxis] * (g + shift))
        ).sum(axis=2)
        mine = all_costs[np.arange(200), code]
        reach = (w * np.square(np.abs(x) + c * (np.abs(g).max() + 1))).sum(axis=0)
        assert (mine <= all_costs.min(axis=1) + 2.0**-20 * reach).all()
        assert (np.abs(cost - mine) <= 2.0**-20 * reach).all()
        np.testing.assert_array_equal(lattice.least_error(table, x, w, c, shift), cost)


@pytest.mark.parametrize("name", CODED)
@examples
def test_the_sign_that_changes_is_the_cheapest(name: str, kind: str, weights: str, seed: int) -> None:
    x, w = numbers(kind, 2, seed), some_weights(weights, 2, seed)
    form, w = iq_lattice.FORMS[name], np.ones(x.shape, dtype=np.float32) if w is None else w
    size, minus = iq_lattice.even_signs(form, x, w)
    np.testing.assert_array_equal(np.abs(size), np.abs(x))
    signs = np.where(np.unpackbits(minus, axis=1, bitorder="little") == 1, -1, 1)
    assert (signs.reshape(-1, 8).prod(axis=1) == 1).all()
    np.testing.assert_array_equal(signs * size, x)
    g = np.array(sorted({abs(int(level)) for level in points(form.table).ravel()}))
    c = 0.8 * np.repeat(np.abs(x).astype(np.float64).reshape(2, -1, form.group).max(axis=2), form.group, axis=1) / g[-1]
    best = np.square(np.abs(x)[..., np.newaxis] - c[..., np.newaxis] * g).min(axis=2)
    price = (w * (np.square(np.abs(x) + c * g[0]) - best)).reshape(-1, 8)
    changed = np.signbit(size).reshape(-1, 8)
    assert (changed.sum(axis=1) == (x < 0).reshape(-1, 8).sum(axis=1) % 2).all()
    reach = (w * np.square(np.abs(x) + c * g[-1])).reshape(-1, 8).max(axis=1)
    dearer = np.where(changed, price, 0).sum(axis=1) - np.where(changed.any(axis=1), price.min(axis=1), 0)
    assert (dearer <= 2.0**-20 * reach).all()  # a dozen roundings to float32


# --- what encoders owe ------------------------------------------------------------------------------------------------


@each_name
def test_shapes_and_blocks_alone_or_among_others(name: str) -> None:
    x = numbers("tails", 6, 3).reshape(2, 3, 256)
    w = np.abs(numbers("normal", 6, 4)).reshape(2, 3, 256)
    raw = encode(name, x, weights=w)
    assert raw.shape == (2, 3, 256 // FORMATS[name].length * FORMATS[name].nbytes)
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(encode(name, x[1, 2], weights=w[1, 2]), raw[1, 2])
    assert encode(name, x[:0]).shape == (0, *raw.shape[1:])
    many = numbers("normal", 70, 5)  # more than are searched together
    np.testing.assert_array_equal(encode(name, many[66:]), encode(name, many)[66:])


@each_name
def test_equal_weights_are_no_weights_and_their_scale_does_not_count(name: str) -> None:
    x, w = numbers("normal", 2, 6), some_weights("random", 2, 6)
    assert w is not None
    np.testing.assert_array_equal(encode(name, x, weights=np.ones(256)), encode(name, x))
    np.testing.assert_array_equal(encode(name, x, weights=np.zeros(256)), encode(name, x))
    np.testing.assert_array_equal(encode(name, x, weights=np.float32(8) * w), encode(name, x, weights=w))
    assert (encode(name, x, weights=w) != encode(name, x)).any()


@each_name
def test_a_power_of_two_goes_into_the_scale(name: str) -> None:
    x = numbers("tails", 3, 7)
    four = decode(name, encode(name, np.float32(4) * x))
    np.testing.assert_array_equal(four, 4 * decode(name, encode(name, x)))


@each_name
def test_zeros_are_zeros(name: str) -> None:
    raw = encode(name, numbers("zeros", 2, 8))
    assert not decode(name, raw).any()
    np.testing.assert_array_equal(raw, encode(name, np.zeros((2, 256), dtype=np.float32)))


@each_name
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=10)
def test_every_value_is_finite(name: str, kind: str, seed: int) -> None:
    assert np.isfinite(decode(name, encode(name, numbers(kind, 1, seed), weights=some_weights("some", 1, seed)))).all()


@each_name
def test_bad_input_is_refused(name: str) -> None:
    length = FORMATS[name].length
    with pytest.raises(
        ValueError, match=rf"{name} stores blocks of {length} along the last axis, got \({length - 1},\)"
    ):
        encode(name, np.zeros(length - 1, dtype=np.float32))
    with pytest.raises(ValueError, match=r"the array has nan at \(3,\)"):
        encode(name, np.array([0.0] * 3 + [np.nan] + [0.0] * (length - 4)))
    with pytest.raises(ValueError, match="weights must not be negative, got -1"):
        encode(name, np.zeros(length, dtype=np.float32), weights=np.array(-1.0))


# --- each check is shown to fail --------------------------------------------------------------------------------------

OPTIMUM = [
    ("k² grows wrongly", "np.diff(_UP**2)", "np.diff(_UP)"),
    ("negative scales never tried", "for sign in (1.0, -1.0):", "for sign in (1.0,):"),
    ("nibbles swapped", "q[:, :16] | (q[:, 16:] << np.uint8(4))", "q[:, 16:] | (q[:, :16] << np.uint8(4))"),
    ("the sign of the scale lost", "sign * d[at]", "d[at]"),
    ("weights forgotten", "return np.where(w.max(axis=1, keepdims=True) > 0, w, 1.0)", "return np.ones(x.shape)"),
]
TO_NEAREST = [
    ("IQ4_XS", iq4, "the offset of the scales", "(k + 32)", "(k + 31)"),
    ("IQ4_XS", iq4, "high bits of the scales", "(s >> 4) << np.arange(0, 16, 2", "(s >> 4) << np.arange(14, -2, -2"),
    ("IQ2_XXS", iq_lattice, "the dearest sign is flipped", "np.argmin((w * (np", "np.argmax((w * (np"),
    ("IQ2_XS", iq_lattice, "sign codes in the wrong place", "& 127) << 9", "& 127) << 8"),
    ("IQ2_S", iq_lattice, "high bits of the codes lost", "(found.codes >> 8).reshape", "(found.codes >> 9).reshape"),
    ("IQ3_S", iq_lattice, "scales of the wrong group", "q[:, ::2] | q[:, 1::2] << 4", "q[:, 1::2] | q[:, ::2] << 4"),
    ("IQ1_S", iq_lattice, "sign of δ", "found.s << 12 | codes[:, :, 0] >> 11 << 15", "found.s << 12"),
    ("IQ1_M", iq_lattice, "pieces of d reversed", "np.arange(0, 16, 4) & 15", "np.arange(12, -4, -4) & 15"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "text", "bug"), OPTIMUM)
def test_a_scale_that_is_not_the_best_is_caught(what: str, text: str, bug: str) -> None:
    x, w = numbers("tails", 3, 9)[:, :32], some_weights("random", 3, 9)
    assert w is not None
    assert excess(x, w[:, :32], iq4.encode_iq4_nl) == 0
    assert excess(x, w[:, :32], mutated(iq4, text, bug).encode_iq4_nl) > 0, what


@pytest.mark.parametrize(("name", "module", "what", "text", "bug"), TO_NEAREST)
def test_bytes_that_are_worse_than_rounding_to_nearest_are_caught(
    name: str, module: ModuleType, what: str, text: str, bug: str
) -> None:
    wrong = getattr(mutated(module, text, bug), f"encode_{name.lower()}")
    x, w = numbers("normal", 4, 10), some_weights("random", 4, 10)
    assert over_nearest(name, x, w, encoder(name)) == 0
    assert over_nearest(name, x, w, wrong) > 0 or ratio_to_ggml(name, wrong) >= 1, what


def test_a_group_that_keeps_its_first_scale_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(self: lattice._Search, top: Floats) -> tuple[Floats, Floats]:
        return top, self.moments(self.choose(top)[0])[1]

    monkeypatch.setattr(lattice._Search, "wanted", first)
    assert max(ratio_to_ggml(name, encoder(name)) for name in LATTICES) >= 1
