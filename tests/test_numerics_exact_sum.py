"""Exact sums against Python's fractions, on every size of float64, and with planted mistakes."""

from __future__ import annotations

import dataclasses
import math
import sys
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated

from lepton_ref.numerics import error_free, exact_sum, sums
from lepton_ref.plain.formats import FORMATS, MODES, CodebookFormat, round_to

Reals = NDArray[np.float64]
LARGEST, LEAST = sys.float_info.max, 5e-324
FINITE = st.floats(allow_nan=False, allow_infinity=False)
MODERATE = st.floats(-1e6, 1e6)
GRADED = st.builds(math.ldexp, st.integers(-(2**53), 2**53), st.integers(-120, 120))
FINE = Fraction(1, 2**1074)


def rows_of(numbers: st.SearchStrategy[float], most: int = 12) -> st.SearchStrategy[Reals]:
    """(R, N) arrays, R = 1 … 4."""
    sizes = st.tuples(st.integers(1, 4), st.integers(0, most))
    return sizes.flatmap(
        lambda size: st.lists(numbers, min_size=size[0] * size[1], max_size=size[0] * size[1]).map(
            lambda flat: np.array(flat, dtype=np.float64).reshape(size)
        )
    )


def fractions(terms: Reals) -> list[Fraction]:
    return [sum(map(Fraction, row), Fraction(0)) for row in terms.tolist()]


def products(x: Reals, w: Reals) -> list[Fraction]:
    pairs = zip(x.tolist(), w.tolist(), strict=True)
    return [sum((Fraction(a) * Fraction(b) for a, b in zip(*row, strict=True)), Fraction(0)) for row in pairs]


def nearest(value: Fraction) -> float:
    try:
        return float(value)  # Python rounds a quotient of integers once, to nearest even
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def odd(value: Fraction) -> float:
    """Truncated to a float64, with an odd last bit if that lost anything; the largest float64 beyond the range."""
    near = nearest(abs(value))
    if math.isinf(near) or Fraction(near) > abs(value):
        near = math.nextafter(near, 0.0)
    if Fraction(near) != abs(value) and np.float64(near).view(np.int64) % 2 == 0:
        near = math.nextafter(near, math.inf)
    return near if value >= 0 else -near


def check(got: Any, want: list[Fraction]) -> None:
    """All that a `Sums` says is so, bit for bit, and its pair within the stated error."""
    assert got.sign().dtype == np.int8
    assert got.sign().tolist() == [(value > 0) - (value < 0) for value in want]
    assert got.odd().tobytes() == np.array([odd(value) for value in want]).tobytes()
    assert got.nearest().tobytes() == np.array([nearest(value) + 0.0 for value in want]).tobytes()
    pair = got.pair()
    for high, low, value in zip(pair.high.tolist(), pair.low.tolist(), want, strict=True):
        if math.isinf(high):
            assert (high, low) == (nearest(value), 0.0)
        else:
            assert high + low == high
            assert abs(Fraction(high) + Fraction(low) - value) <= abs(value) / 2**105 + FINE


def hard_rows() -> Reals:
    """Cancellation, wide exponents, carries through many digits, bits far below."""
    rng = np.random.default_rng(5)
    wide = np.ldexp(rng.standard_normal((40, 30)), rng.integers(-300, 300, (40, 30)))
    near = np.ldexp(rng.standard_normal((40, 30)), rng.integers(-30, 30, (40, 30)))
    cancelling = np.concatenate([wide[:, :15], -wide[:, :15][:, ::-1]], axis=1)
    cancelling[::2, 3] += cancelling[::2, 3] * 2.0**-52
    carries = np.zeros((4, 30))
    carries[:, 0] = [2.0**60, -(2.0**60), 2.0**60, 1.0]
    carries[:, 1] = [-(2.0**-90), 2.0**-90, -LEAST, LEAST]
    carries[:, 2] = [0.0, 0.0, 2.0**-130, -(2.0**-53)]
    return np.concatenate([wide, near, cancelling, carries])


def check_sums(module: ModuleType) -> None:
    terms = hard_rows()
    check(module.exact_sums(terms), fractions(terms))
    terms = np.random.default_rng(6).standard_normal((9, 5000))  # two chunks
    terms[:3] = abs(terms[:3]) + 4  # digits whose sums are large
    check(module.exact_sums(terms), fractions(terms))
    terms = np.full((2, 4096), 1 - 2.0**-53)
    check(module.exact_sums(terms), fractions(terms))


def check_dots(module: ModuleType) -> None:
    rng = np.random.default_rng(7)
    x, w = rng.standard_normal((2, 60, 9))
    x[::3], w[::3] = x[::3].astype(np.float32), w[::3].astype(np.float32)
    x[1::3] *= np.exp2(rng.integers(-800, 800, (20, 1)))
    w[1::3] *= np.exp2(rng.integers(-800, 800, (20, 1)))
    x[2::6] *= np.exp2(rng.integers(-900, 900, (10, 9)))
    w[2::6] *= np.exp2(rng.integers(-900, 900, (10, 9)))
    x[5] = w[5] = 0.0
    x[6], w[6] = LARGEST, 1.0
    x[7], w[7] = 3 * 2.0**-540, 5 * 2.0**-540  # a sum far below the least subnormal
    x[8, :3], w[8, :3] = [2.0**900, -(2.0**900), 2.0**-600], [2.0**900, 2.0**900, 2.0**-400]
    x[8, 3:] = 0.0
    check(module.dot_sums(x, w), products(x, w))
    bits33 = np.array([[1 + 2.0**-32, 3.0]])
    check(module.dot_sums(bits33, bits33, -(bits33**2)), [Fraction(1, 2**64)])
    plus = -np.array([[value] for value in module.dot_sums(x, w).odd()])
    both = [p + t for p, t in zip(products(x, w), fractions(plus), strict=True)]
    check(module.dot_sums(x, w, plus), both)
    rows, columns = rng.integers(0, 60, (2, 200))
    every = products(x[rows], w[columns])
    check(module.gathered_dot_sums(x, w, rows, columns), every)
    more = [p + t for p, t in zip(every, fractions(plus[columns]), strict=True)]
    check(module.gathered_dot_sums(x, w, rows, columns, plus), more)
    many = module.gathered_dot_sums(x, w, np.tile(rows, 80), np.tile(columns, 80)).odd()  # more than one block
    assert np.array_equal(many, np.tile(module.gathered_dot_sums(x, w, rows, columns).odd(), 80))
    short = np.array([[1.5, 3.0], [0.0, 1.0]], dtype=np.float32).astype(np.float64)
    pairs = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    check(module.gathered_dot_sums(short, short, *pairs), products(short[pairs[0]], short[pairs[1]]))
    check(module.gathered_dot_sums(short, short, *pairs, short), [Fraction(n) for n in (15.75, 7.5, 4, 2)])


def test_sums_and_dots() -> None:
    check_sums(exact_sum)
    check_dots(exact_sum)


def test_literals() -> None:
    terms = np.array([[1.0, 1e100, 1.0, -1e100], [1.0, 2.0**-200, -1.0, 0.0], [0.1, 0.2, -0.3, 0.0], [1, 2, -3, -0.0]])
    got = exact_sum.exact_sums(terms)
    assert got.sign().tolist() == [1, 1, 1, 0]
    assert got.odd().tolist() == [2.0, 2.0**-200, 2.0**-55, 0.0]
    assert got.nearest().tolist() == [2.0, 2.0**-200, 2.0**-55, 0.0]
    assert not np.signbit(got.odd()).any()
    odd_one = exact_sum.exact_sums(np.array([[1.0, 2.0**-300], [1.0, -(2.0**-300)]])).odd()
    assert odd_one.tolist() == [1 + 2.0**-52, 1 - 2.0**-53]


@given(rows_of(FINITE))
def test_any_finite_terms(terms: Reals) -> None:
    check(exact_sum.exact_sums(terms), fractions(terms))


@given(rows_of(GRADED))
def test_terms_that_cancel(terms: Reals) -> None:
    both = np.concatenate([terms, -terms[:, ::-1], np.ldexp(terms[:, :1], -150)], axis=1)
    check(exact_sum.exact_sums(both), fractions(both))


@given(rows_of(FINITE, 8), rows_of(FINITE, 2))
def test_dot_products_of_any_finite_numbers(both: Reals, plus: Reals) -> None:
    half = both.shape[1] // 2
    x, w = both[:, :half], both[:, half : 2 * half]
    plus = np.resize(plus, (len(x), plus.shape[1])) if plus.size else np.zeros((len(x), 0))
    want = [p + t for p, t in zip(products(x, w), fractions(plus), strict=True)]
    check(exact_sum.dot_sums(x, w, plus), want)


@given(rows_of(MODERATE), st.randoms(use_true_random=False))
def test_neither_order_nor_company_matters(terms: Reals, random: Any) -> None:
    order = list(range(terms.shape[1]))
    random.shuffle(order)
    whole, shuffled = exact_sum.exact_sums(terms), exact_sum.exact_sums(np.ascontiguousarray(terms[:, order]))
    alone = [exact_sum.exact_sums(row[None]) for row in terms]
    for name in ("odd", "nearest"):
        bits = getattr(whole, name)().tobytes()
        assert bits == getattr(shuffled, name)().tobytes()
        assert bits == b"".join(getattr(one, name)().tobytes() for one in alone)
    assert whole.pair().low.tobytes() == shuffled.pair().low.tobytes()


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if not isinstance(f, CodebookFormat)])
def test_one_rounding_to_every_format(name: str) -> None:
    rng = np.random.default_rng(8)
    terms = np.concatenate([np.ldexp(rng.standard_normal((30, 6)), rng.integers(-8, 4, (30, 6))), np.zeros((1, 6))])
    terms[10:20, 1:] = 0.0
    terms[10:20, 0] = np.arange(10) * 0.25 + 0.125  # ties of the small formats
    terms[10:15, 1] = 2.0**-140 * np.array([1, -1, 1, -1, 1])  # and hair's breadths beside them
    if name == "e8m0":
        terms = np.abs(terms) + 1.0
    modes = ["even"] if name == "fp64" else [mode for mode in MODES if mode != "stochastic"]
    for mode in modes:
        for saturate in (False, True) if name != "fp64" else (False,):
            got = exact_sum.sums_to(exact_sum.exact_sums(terms), name, mode=mode, saturate=saturate)
            want = [round_to(value, name, mode=mode, saturate=saturate) for value in fractions(terms)]
            assert got.tobytes() == np.array(want).tobytes(), mode


def test_many_blocks_of_rows() -> None:
    x, w = np.random.default_rng(10).standard_normal((2, 700, 400))
    got = exact_sum.dot_sums(x, w)
    some = [0, 326, 327, 328, 655, 699]
    assert got.odd()[some].tobytes() == exact_sum.dot_sums(x[some], w[some]).odd().tobytes()


def test_float32_is_multiplied_in_float64() -> None:
    x = np.random.default_rng(13).standard_normal((3, 8)).astype(np.float32)
    check(exact_sum.dot_sums(x, x), products(x, x))
    check(exact_sum.exact_sums(x[:, ::2]), fractions(x[:, ::2]))


def test_nothing_to_sum() -> None:
    assert exact_sum.exact_sums(np.zeros((3, 0))).odd().tolist() == [0.0] * 3
    assert exact_sum.exact_sums(np.zeros((0, 3))).pair().high.shape == (0,)
    assert exact_sum.dot_sums(np.zeros((2, 0)), np.zeros((2, 0))).sign().tolist() == [0, 0]


@given(st.lists(st.tuples(FINITE, FINITE), min_size=1))
def test_two_sum_is_exact(pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs).T / 4
    total, rest = exact_sum.two_sum(a, b)
    for p, q, s, e in zip(a.tolist(), b.tolist(), total.tolist(), rest.tolist(), strict=True):
        assert s == p + q
        assert Fraction(s) + Fraction(e) == Fraction(p) + Fraction(q)


def check_products(module: ModuleType) -> None:
    rng = np.random.default_rng(11)
    a, b = np.ldexp(rng.standard_normal((2, 2000)), rng.integers(-470, 490, (2, 2000)))
    a[:4], b[:4] = [0.0, 1 + 2.0**-52, 2.0**995, -0.0], [2.0**995, 1 + 2.0**-52, 2.0**5, 3.0]
    inside = module.products_in_range(a, b)
    assert inside.sum() > 1900
    product, rest = module.two_product(a, b)
    for x, y, p, e in zip(a[inside].tolist(), b[inside].tolist(), product[inside], rest[inside], strict=True):
        assert p == x * y
        assert Fraction(float(p)) + Fraction(float(e)) == Fraction(x) * Fraction(y)


def test_two_product_is_exact_in_its_range() -> None:
    check_products(error_free)
    halves = np.array(error_free.split(np.array([math.pi, 1 + 2.0**-52, LARGEST / 2**30])))
    assert not (halves.view(np.uint64) & np.uint64(2**27 - 1)).any()  # 26 bits at most
    outside = np.array([[1e-200, 1e200, 2.0**996, np.nan, np.inf, 0.0, 0.0]])
    other = np.array([[1e-200, 1e200, 1.0, 1.0, 0.0, np.inf, 1e305]])
    assert not error_free.products_in_range(outside, other).any()


def test_terms_of_a_dot_product() -> None:
    short = np.random.default_rng(12).standard_normal((3, 4)).astype(np.float32).astype(np.float64)
    assert exact_sum.dot_terms(short, short).shape == (3, 4)
    assert exact_sum.dot_terms(short / 3, short).shape == (3, 8)
    assert exact_sum.dot_terms(short / 3, np.ones((3, 4))).shape == (3, 4)


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        (exact_sum.exact_sums, (np.zeros(3),), r"shape \(3,\)"),
        (exact_sum.exact_sums, (np.array([[1.0, np.nan]]),), "NaN or infinite"),
        (exact_sum.exact_sums, (np.array([[1.0, -np.inf]]),), "NaN or infinite"),
        (exact_sum.dot_sums, (np.zeros((2, 3)), np.zeros((3, 2))), r"\(2, 3\) and w \(3, 2\)"),
        (exact_sum.dot_sums, (np.zeros((2, 3)), np.zeros((2, 3)), np.zeros(2)), r"plus has shape \(2,\)"),
        (exact_sum.dot_sums, (np.array([[np.inf]]), np.array([[0.0]])), "NaN or infinity"),
        (exact_sum.dot_sums, (np.array([[1.0]]), np.array([[1.0]]), np.array([[np.nan]])), "NaN or infinit"),
        (exact_sum.exact_sums, (np.ones((1, 2), dtype=np.int64),), "terms is int64"),
        (exact_sum.dot_sums, (np.zeros(2), np.zeros(2)), r"x has shape \(2,\)"),
        (exact_sum.gathered_dot_sums, (*[np.zeros((2, 3))] * 2, np.array([2]), np.array([0])), "row 2 … 2 of 2"),
        (exact_sum.gathered_dot_sums, (*[np.zeros((2, 3))] * 2, np.array([0]), np.array([-1])), "column -1 … -1 of 2"),
        (exact_sum.gathered_dot_sums, (np.zeros((2, 3)), np.zeros((2, 4)), *[np.array([0])] * 2), "w .2, 4."),
        (exact_sum.gathered_dot_sums, (*[np.zeros((2, 3))] * 2, np.array([0, 1]), np.array([0])), "one of each"),
        (exact_sum.gathered_dot_sums, (*[np.zeros((2, 3))] * 2, *[np.array([0])] * 2, np.zeros((1, 1))), "plus has"),
        (exact_sum.dot_terms, (np.array([[1e-200]]), np.array([[1e-200]])), "use dot_sums"),
    ],
)
def test_bad_input_is_named(function: Any, args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(*args)


def test_float64_is_rounded_to_nearest_only() -> None:
    some = exact_sum.exact_sums(np.ones((1, 1)))
    with pytest.raises(ValueError, match="only fp64, even"):
        exact_sum.sums_to(some, "fp64", mode="up")
    with pytest.raises(ValueError, match="fp31"):
        exact_sum.sums_to(some, "fp31")


SUM_BUGS = {
    "a carry lost": ("digits[j - 1] += digits[j] >> bits", "pass"),
    "a slice too wide": ("bits = 51 - max", "bits = 56 - max"),
    "no middle of the binade": ("np.full(live.size, 1.5)", "np.full(live.size, 1.0)"),
    "a row dropped early": ("left = rest.any(axis=1)", "left = rest[:, :1].any(axis=1)"),
    "the sign kept in the digits": ("digits[:, below_zero] *= -1", "pass"),
    "a sticky bit lost": ("more |= rest != 0", "pass"),
    "the tail not aligned": ("tails << space", "tails"),
    "one chunk's digits put at the wrong rows": ("at * step : at * step + some", "0 : 0 + some"),
}

DOT_BUGS = {
    "low parts dropped": ("return np.concatenate([high, low], axis=1) if low.any() else high", "return high"),
    "exactness told from too few bits": ("int(bits) & (2**27 - 1)", "int(bits) & (2**20 - 1)"),
    "the far rows' scale forgotten": ("np.add(sums.exponents, shifts, out=sums.exponents)", "pass"),
    "gathered rows of the wrong matrix": ("zip((x, w), here", "zip((x, w), here[::-1]"),
    "a gathered row's addend of its number": ("[terms, more[here[1]]]", "[terms, more[here[0]]]"),
    "gathered blocks overlap": ("columns[at : at + step]\n", "columns[: step]\n"),
    "far rows cut off": (">= -960)", ">= -3000)"),
    "the addend forgotten": ("np.concatenate([_terms(x, w), more], axis=1) if more.size else", ""),
}


@pytest.mark.parametrize("bug", SUM_BUGS)
def test_planted_mistakes_in_sums_are_caught(bug: str) -> None:
    broken = mutated(exact_sum, *SUM_BUGS[bug])
    with pytest.raises((AssertionError, ValueError)):
        check_sums(broken)


@pytest.mark.parametrize("bug", DOT_BUGS)
def test_planted_mistakes_in_dots_are_caught(bug: str) -> None:
    broken = mutated(exact_sum, *DOT_BUGS[bug])
    with pytest.raises((AssertionError, ValueError)):
        check_dots(broken)


ROUNDING_BUGS = {
    "no tail in the odd bit": ("(kept << shift != self.heads) | (self.tails != 0)", "(kept << shift != self.heads)"),
    "no rest in the odd bit": ("(self.tails != 0) | self.more\n        size", "(self.tails != 0)\n        size"),
    "ties up": ("(beyond | (kept % 2 == 1))", "(beyond | True)"),
    "a tie that is none": ("(beyond | (kept % 2 == 1))", "(kept % 2 == 1)"),
    "no subnormals": ("-1074 - self.exponents", "-2000 - self.exponents"),
    "the tail's float dropped": ("rest + scaled(self.tails.astype(np.float64), -WORD)", "rest"),
    "bits counted one too many": ("((a >> np.maximum(lengths - 1, 0) == 0) & (a != 0))", "0"),
}


@pytest.mark.parametrize("bug", ROUNDING_BUGS)
def test_planted_mistakes_in_roundings_are_caught(bug: str) -> None:
    def check_all(module: ModuleType) -> None:
        x = np.full((3, 1), 3 * 2.0**-540)
        terms = np.array(
            [[1, 2.0**-100, 0], [1, 2.0**-53, 0], [1, 2.0**-53, 2.0**-300], [2.0**62 - 2.0**9, 2.0**9 - 1, 2.0**-70]]
        )
        all_of = [(exact_sum.exact_sums(t), fractions(t)) for t in (hard_rows(), terms)]
        all_of.append((exact_sum.dot_sums(x, x), products(x, x)))
        for got, want in all_of:
            fields = (getattr(got, field.name) for field in dataclasses.fields(got))
            check(module.Sums(*fields), want)

    check_all(sums)
    with pytest.raises(AssertionError):
        check_all(mutated(sums, *ROUNDING_BUGS[bug]))


def test_planted_mistakes_in_products_are_caught() -> None:
    for text, bug in (("return product, rest + a_low * b_low", "return product, rest"), ("2.0**27 + 1", "2.0**30 + 1")):
        with pytest.raises((AssertionError, ValueError)):
            check_products(mutated(error_free, text, bug))
