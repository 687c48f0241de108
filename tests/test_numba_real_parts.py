"""Parts of the Numba backend's linear layers against integers and fractions, with bugs that each check catches."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.typing import NDArray
from strategies import Fill, any_numbers, few_bits

from lepton_ref.backends import (
    numba_real_digits,
    numba_real_exact,
    numba_real_quantised,
    numba_real_round,
    numba_real_tile,
)
from lepton_ref.backends.numba_dot import available, chosen
from lepton_ref.backends.numba_panels_dense import pack_dense
from lepton_ref.backends.numba_real_kinds import eight, spread, store_some
from lepton_ref.backends.numba_types import F64X16
from lepton_ref.backends.numba_vectors import storer
from lepton_ref.plain.formats import get_format
from lepton_ref.plain.real import Real
from lepton_ref.storage.dense import Dense

FORMS = ("fp32", "bf16", "fp16")
store_f64 = storer(F64X16)
Floats = NDArray[np.float64]


def bugged(module: ModuleType, text: str, bug: str) -> Any:
    """The module compiled anew with this text, which stands in it once, replaced."""
    source = inspect.getsource(module)
    assert source.count(text) == 1, f"{text!r} stands {source.count(text)} times; the bug has no place there"
    plain = re.sub(r"@njit\([^)]*\)", "@njit(nogil=True)", source.replace(text, bug))
    changed = ModuleType(module.__name__)
    exec(compile(plain, f"<{module.__name__}, mutated>", "exec"), changed.__dict__)
    return changed


def caught(check: Callable[[Any], None], module: ModuleType, text: str, bug: str) -> None:
    """The check fails for the module with the bug."""
    with pytest.raises(AssertionError):
        check(bugged(module, text, bug))


# --- exact sums ---


def sums_of(module: Any) -> Callable[[Floats, NDArray[np.float32], int], tuple[NDArray[np.float32], int]]:
    add_products, decide, zero = module.add_products, module.decide, module.splat_f64

    @njit(nogil=True)
    def run(weights: Any, x: Any, form: Any, out: Any) -> Any:
        sums = add_products(weights, 0, x.size, x, 0, (zero(-0.0), zero(-0.0), zero(0.0)))
        rounded, still = decide(sums, form)
        store_some(out, 0, 16, rounded)
        return still

    def call(weights: Floats, x: NDArray[np.float32], form: int) -> tuple[NDArray[np.float32], int]:
        out = np.zeros(16, dtype=np.float32)
        return out, int(run(weights, x, form, out))

    return call


def check_sums(module: Any, cases: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> None:
    """Against fractions: w (16, K), x (K)."""
    call = sums_of(module)
    for w, x in cases:
        weights = np.zeros((len(x), 32))
        weights[:, :16] = w.T
        terms = [[Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, x, strict=True)] for row in w]
        minus = [all(np.signbit(float(a) * float(b)) for a, b in zip(row, x, strict=True)) for row in w]
        for form, name in enumerate(FORMS):
            got, still = call(weights.reshape(-1), x, form)
            for lane in range(16):
                zero = -0.0 if minus[lane] and not any(terms[lane]) else 0.0
                expected = Real.rational(sum(terms[lane], Fraction(0)), zero).round(get_format(name))  # type: ignore[arg-type]
                if not still >> lane & 1:
                    assert np.float32(expected).tobytes() == got[lane].tobytes(), (name, lane, expected, got[lane])


TIES = np.array([[1, 2.0**-24, 2.0**-70, 2.0**-8, 2.0**-11]], dtype=np.float32)[0]
SIGNS = np.array(np.meshgrid([1], [1, -1], [0, 1, -1], [0, 1, -1], [0])).reshape(5, -1).T[:16].astype(np.float32)
SIGNS = np.concatenate([SIGNS, -SIGNS])[:16]


def usual_sums(module: Any) -> None:
    rng = np.random.default_rng(0)
    wide = (rng.standard_normal((16, 40)) * np.exp2(rng.integers(-60, 60, (16, 40)))).astype(np.float32)
    zeros = np.zeros((16, 3), np.float32)
    lost = np.array([1, 2.0**-24, 2.0**-70, 2.0**-140, -(2.0**-70)], dtype=np.float32)
    ones, turned = np.ones((16, 40), np.float32), (SIGNS[:, ::-1].copy(), TIES[::-1].copy())
    cases = [(ones[:, :5], lost), (SIGNS, TIES), turned, (wide, ones[0]), (-wide[:, ::-1].copy(), ones[0])]
    cases += [(zeros, np.array(signs, np.float32)) for signs in ([-1, -1, -1], [1, -1, 1])]
    check_sums(module, cases)


def test_sums_are_exact() -> None:
    usual_sums(numba_real_exact)


@settings(max_examples=40)
@given(st.one_of(any_numbers(), few_bits()), st.integers(1, 12))
def test_sums_of_any_numbers_are_exact(fill: Fill, count: int) -> None:
    w, x = fill((16, count)), fill((count,))
    w, x = (np.where(np.isfinite(array), array, np.float32(1)) for array in (w, x))
    check_sums(numba_real_exact, [(w, x)])


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("select(even, moved, bits)", "bits"),  # not to odd
        ("(a - (s - t)) + (b - t)", "b - t"),  # half of what is lost
        ("return s, c, b + absolute(lost)", "return s, c, b"),  # what c loses is forgotten
        ("(s == zero) & (c == zero) & (b == zero)", "(s != s)"),  # the sign of zeros
    ],
)
def test_bugs_in_sums_are_caught(text: str, bug: str) -> None:
    caught(usual_sums, numba_real_exact, text, bug)


# --- tiles ---


def check_tile(module: Any, isa: str = chosen().name) -> None:
    tile, count = module.tile, 5

    @njit(nogil=True)
    def run(isa: Any, x: Any, w: Any, c: Any, count: Any) -> None:
        tile(isa, x, 12, w, 32, c, 7, count)

    rng = np.random.default_rng(1)
    x, w = (rng.integers(-99, 99, (count + 2, width)).astype(np.float64) for width in (6, 32))
    c = rng.integers(-99, 99, 7 + 6 * 32 + 9).astype(np.float64)
    expected = c.copy()
    expected[7 : 7 + 192] += (x[2 : 2 + count].T @ w[1 : 1 + count]).reshape(-1)
    run(chosen(isa), x.reshape(-1), w.reshape(-1), c, count)
    assert c.tolist() == expected.tolist()


@pytest.mark.parametrize("isa", available())
def test_a_tile(isa: str) -> None:
    check_tile(numba_real_tile, isa)


def test_bugs_in_tiles_are_caught() -> None:
    caught(check_tile, numba_real_tile, "_times(builder, step, HEIGHT)", "_times(builder, step, 1)")
    caught(check_tile, numba_real_tile, "builder.fadd(_load(builder, c, at, vector), value)", "value")


# --- digits ---


def cut_rows(module: Any, x: NDArray[np.float32]) -> tuple[NDArray[np.int8], Floats, float]:
    blocks = -(-x.size // 32)
    digits, prepared = np.zeros((blocks, 5, 32), dtype=np.int8), np.zeros((blocks, 5))
    left = module.cut(x, 0, x.size, digits.reshape(-1), 0, prepared.reshape(-1), 0)
    return digits, prepared, float(left)


def check_cut(module: Any, x: NDArray[np.float32]) -> None:
    """The digits are X, their sums Σ X, and the remainder is as long as is said, and short."""
    digits, prepared, left = cut_rows(module, x)
    padded = np.zeros(32 * len(digits))
    padded[: x.size] = x
    whole = sum(digits[:, j].astype(np.int64) << 8 * j for j in range(5))
    unit = prepared[:, 0]
    assert prepared[:, 1].tolist() == (unit * 2**16).tolist()
    assert prepared[:, 2].tolist() == (unit * 2**32).tolist()
    assert prepared[:, 3].tolist() == (unit * whole[:, :16].sum(axis=1)).tolist()
    assert prepared[:, 4].tolist() == (unit * whole[:, 16:].sum(axis=1)).tolist()
    rest = padded.reshape(whole.shape) - whole * prepared[:, :1]
    assert (np.abs(rest) <= prepared[:, :1] / 2).all()
    assert np.sqrt((rest * rest).sum()) <= left <= 1.001 * np.sqrt((rest * rest).sum())
    assert (np.abs(whole) <= 2**38).all()


def usual_cuts(module: Any) -> None:
    rng = np.random.default_rng(2)
    for width in (1, 16, 17, 40, 64):
        check_cut(module, rng.standard_normal(width).astype(np.float32))
        check_cut(module, (rng.standard_normal(width) * np.exp2(rng.integers(-60, 60, width))).astype(np.float32))
        check_cut(module, np.full(width, -1.0, dtype=np.float32))


def test_cuts() -> None:
    usual_cuts(numba_real_digits)


@settings(max_examples=50)
@given(any_numbers(), st.integers(1, 70))
def test_cuts_of_any_finite_numbers(fill: Fill, width: int) -> None:
    x = fill((width,))
    check_cut(numba_real_digits, np.where(np.isfinite(x), x, np.float32(0)))


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("BIAS = 0x8080808080", "BIAS = 0x8000808080"),
        ("squares = fma(rest, rest, squares)", "squares = squares"),
        ("_numbers(F, at + 16, left - 16)", "_numbers(F, at + 16, left)"),  # reads behind the row's end
        ("SHIFT = 38", "SHIFT = 40"),  # the first digit overflows
    ],
)
def test_bugs_in_cuts_are_caught(text: str, bug: str) -> None:
    caught(usual_cuts, numba_real_digits, text, bug)


# --- blocks ---


def check_block(module: Any, isa: str = chosen().name) -> None:
    """Random codes and digits, and the largest: of bytes, and of what were nibbles, whose first digit is 65 at most."""
    block_sum = module.block_sum

    @njit(nogil=True)
    def run(isa: Any, nibbles: Any, w: Any, d: Any, factors: Any, out: Any) -> None:
        if nibbles:
            store_f64(out, 0, block_sum(isa, spread(), w, 3, 0, d, 7, factors, 1, -5.0))
        else:
            store_f64(out, 0, block_sum(isa, eight(), w, 3, 0, d, 7, factors, 1, -5.0))

    rng, factors = np.random.default_rng(3), np.array([7.0, 1.0, 2.0**16, 2.0**32])
    for nibbles, code, top in ((False, 255, 128), (True, 15, 65)):
        drawn = rng.integers(0, code + 1, (8, 16, 4)), rng.integers(-128, 128, (5, 32))
        for codes, digits in (drawn, (np.full((8, 16, 4), code), np.full((5, 32), -128))):
            w, d, out = np.zeros(520, np.uint8), np.zeros(200, np.int8), np.zeros(16)
            digits[4] = np.clip(digits[4], -top, top - 1)
            w[3 : 3 + 512], d[7 : 7 + 160] = codes.reshape(-1), digits.reshape(-1)
            run(chosen(isa), nibbles, w, d, factors, out)
            whole = sum(digits[j].astype(object) * 256**j for j in range(5)).reshape(8, 1, 4)
            assert [int(each) for each in out] == ((codes.astype(object) * whole).sum(axis=(0, 2)) - 5).tolist()


@pytest.mark.parametrize("isa", available())
def test_a_block(isa: str) -> None:
    check_block(numba_real_quantised, isa)


def test_bugs_in_blocks_are_caught() -> None:
    caught(check_block, numba_real_quantised, "_joined(builder, parts[1], sums[4], 16)", "parts[1]")
    caught(check_block, numba_real_quantised, "splatted(builder, args[9], 16)", "factors[0]")
    caught(check_block, numba_real_quantised, 'stored.stored in ("four", "spread")', "True")
    caught(check_block, numba_real_quantised, "32 * j + 4 * number", "32 * j + 4 * (7 - number)")


# --- the end ---


def check_end(module: Any) -> None:
    """1 + 2⁻²⁴·(1 ± 2⁻³⁰), of which float64 sees a tie; a panel of thirteen rows, and what lies behind them in y."""
    round_panel, w = module.round_panel, np.zeros((13, 3), np.float32)
    w[:, :2] = 1
    w[:, 2] = np.arange(13) - 6
    x = np.array([1.0, 2.0**-24, 2.0**-54], dtype=np.float32)
    panels = pack_dense(Dense(w, format="F32"))
    assert panels is not None
    arena = np.concatenate([x, np.full(16, 77, np.float32)])
    scratch, stuck = np.zeros(32 * 128 + 16), np.zeros(40, np.int64)
    scratch[-16:] = 1 + 2.0**-24
    lengths = np.array([1.001])
    nothing = np.zeros(0, np.float32)
    round_panel(
        32, panels.data, 0, panels.at, arena, 0, 3, 0, 1, 3, 13, 0, 13, 3, nothing, -1, 0, lengths, 0, 10 * 2.0**-53,
        32 * 128, 16, scratch, 0, stuck,
    )  # fmt: skip
    up = np.float32(1 + 2.0**-23)
    assert arena[3:].tolist() == [1.0] * 7 + [up] * 6 + [77.0] * 3
    assert stuck[0] == 0


def check_zeros(module: Any) -> None:
    """Sums of −0 alone: all of them, or all but the last column's."""
    w = np.full((2, 160), -1.0, dtype=np.float32)
    w[1, 159] = 1.0
    panels = pack_dense(Dense(w, format="F32"))
    assert panels is not None
    arena, stuck, nothing = np.zeros(162, np.float32), np.zeros(40, np.int64), np.zeros(0, np.float32)
    scratch = np.full(32 * 128 + 16, -0.0)
    module.round_panel(
        32, panels.data, 0, panels.at, arena, 0, 160, 0, 1, 160, 2, 0, 2, 160, nothing, -1, 0, np.zeros(1), 0, 1e-10,
        32 * 128, 16, scratch, 0, stuck,
    )  # fmt: skip
    assert np.signbit(arena[160:]).tolist() == [True, False]
    assert stuck[0] == 0


def test_the_end() -> None:
    check_end(numba_real_round)
    check_zeros(numba_real_round)


def test_a_bug_in_zeros_is_caught() -> None:
    caught(check_zeros, numba_real_round, " & open_ == 0:\n            break", " & 0 == 0:\n            break")


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("splat_f64(P[p0 + top + row] * unit)", "splat_f64(P[p0 + top + row] * 0.0)"),  # no bound
        ("mask = (1 << live) - 1", "mask = (1 << (live - 1)) - 1"),  # the last output is never settled
        ("store_some(F, here, live, rounded)", "store_some(F, here, 16, rounded)"),  # stored behind the end
    ],
)
def test_bugs_at_the_end_are_caught(text: str, bug: str) -> None:
    caught(check_end, numba_real_round, text, bug)
