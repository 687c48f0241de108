"""RoPE's angles and the turn itself, against the formulas in decimals of 90 digits, and what is known of ties."""

# ruff: noqa: E501 - one planted bug a line: the table is read down its columns

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from types import ModuleType

import exact
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.ops import Rope
from lepton_ref.plain import rope, turn
from lepton_ref.plain.formats import round_to
from lepton_ref.plain.real import Value, rounded

LINEAR = Rope(theta=10000.0, width=8, kind="linear", factor=3.0)
DYNAMIC = Rope(theta=10000.0, width=8, kind="dynamic", factor=2.0, original_length=100)
LLAMA3 = Rope(theta=500000.0, width=16, kind="llama3", factor=8.0, original_length=64)
YARN = Rope(theta=10000.0, width=16, kind="yarn", factor=4.0, original_length=4096)
LONGROPE = Rope(
    theta=10000.0, width=4, kind="longrope", factor=4.0, original_length=16,
    short_factors=(1.0, 1.1), long_factors=(3.0, 7.5),
)  # fmt: skip
PROPORTIONAL = Rope(theta=500.0, width=6, kind="proportional", short_factors=(1.0, 2.5, math.inf))


@exact.in_digits
def powers(theta: Decimal, width: int) -> list[Decimal]:
    return [(theta.ln() * (-2 * j) / width).exp() for j in range(width // 2)]


@exact.in_digits
def linear_by_decimals(r: Rope, length: int) -> list[Decimal]:
    return [f / Decimal(r.factor) for f in powers(Decimal(r.theta), r.width)]


@exact.in_digits
def dynamic_by_decimals(r: Rope, length: int) -> list[Decimal]:
    """θ·(s·L/M − (s − 1))^(R/(R − 2)), as the paper's authors write it."""
    stretch = Decimal(r.factor) * max(length, r.original_length) / r.original_length - (Decimal(r.factor) - 1)
    return powers(Decimal(r.theta) * (stretch.ln() * r.width / (r.width - 2)).exp(), r.width)


@exact.in_digits
def llama3_by_decimals(r: Rope, length: int) -> list[Decimal]:
    """By wavelengths, as the authors' code has it."""
    found = []
    for f in powers(Decimal(r.theta), r.width):
        wavelength = 2 * exact.PI / f
        low, high = Decimal(r.low_freq_factor), Decimal(r.high_freq_factor)
        if wavelength < r.original_length / high:
            found.append(f)
        elif wavelength > r.original_length / low:
            found.append(f / Decimal(r.factor))
        else:
            smooth = (r.original_length / wavelength - low) / (high - low)
            found.append((1 - smooth) * f / Decimal(r.factor) + smooth * f)
    return found


@exact.in_digits
def yarn_by_decimals(r: Rope, length: int) -> list[Decimal]:
    """A mask of how much is kept, as the authors' code has it."""

    def dimension(turns: float) -> Decimal:
        return r.width * (r.original_length / (Decimal(turns) * 2 * exact.PI)).ln() / (2 * Decimal(r.theta).ln())

    low, high = dimension(r.beta_fast), dimension(r.beta_slow)
    if r.truncate:
        low, high = Decimal(math.floor(low)), Decimal(math.ceil(high))
    low, high = max(low, Decimal(0)), min(high, Decimal(r.width - 1))
    high += Decimal("0.001") if low == high else 0
    found = []
    for j, f in enumerate(powers(Decimal(r.theta), r.width)):
        mask = 1 - min(max((j - low) / (high - low), Decimal(0)), Decimal(1))
        found.append(f / Decimal(r.factor) * (1 - mask) + f * mask)
    return found


def divided_by_decimals(r: Rope, length: int) -> list[Decimal]:
    lists = r.long_factors if r.kind == "longrope" and length > r.original_length else r.short_factors
    with exact.localcontext(exact.Context(prec=exact.DIGITS)):
        return [f / Decimal(divisor) for f, divisor in zip(powers(Decimal(r.theta), r.width), lists, strict=True)]


ORACLES: dict[str, Callable[[Rope, int], list[Decimal]]] = {
    "default": lambda r, length: powers(Decimal(r.theta), r.width),
    "linear": linear_by_decimals,
    "dynamic": dynamic_by_decimals,
    "llama3": llama3_by_decimals,
    "yarn": yarn_by_decimals,
    "longrope": divided_by_decimals,
    "proportional": divided_by_decimals,
}
IN_THE_GAP = 4096 / (2 * math.pi * 10000.0 ** (2 * 3.9995 / 16))
"""So many times turns what would be pair 3.9995: the gap of 0.001 lies about pair 4."""
RECORDS = [
    Rope(theta=10000.0, width=6), Rope(theta=1.5, width=2), LINEAR, DYNAMIC, LLAMA3, LONGROPE, PROPORTIONAL,
    replace(LLAMA3, low_freq_factor=1.5, high_freq_factor=1.75, theta=10.0),
    YARN, replace(YARN, truncate=False), replace(YARN, original_length=64), replace(YARN, beta_fast=1.0),
    replace(YARN, beta_fast=1.0, truncate=False), replace(YARN, beta_slow=1e-6), replace(YARN, theta=0.25),
    replace(YARN, beta_fast=IN_THE_GAP, beta_slow=IN_THE_GAP, truncate=False),
]  # fmt: skip


def formulas(module: ModuleType) -> None:
    """40 digits, and 12 that contain them, against decimals that err by less than 10⁻⁸⁰."""
    for record in RECORDS:
        for length in (16, 17, 100, 101, 5000):
            for pair, want in enumerate(ORACLES[record.kind](record, length)):
                turn_by = module.frequency(record, pair, length=length)
                for digits, bound in ((40, "1e-33"), (12, "1e-5")):
                    box = turn_by(digits)
                    assert box.low <= want * (1 + Decimal("1e-25")), (record, pair, length)
                    assert box.high >= want * (1 - Decimal("1e-25")), (record, pair, length)
                    assert box.high - box.low <= want * Decimal(bound), (record, pair, length)


def angles_are_positions_times_frequencies(module: ModuleType) -> None:
    """Position 2³¹ costs no digits."""
    box = module.angle(Rope(theta=16.0, width=4), 2**31, 1, length=1)(30)
    assert box.low <= 2**29 <= box.high
    assert box.high - box.low <= Decimal(2**29) * Decimal("1e-28")


def first_pair_is_exact(module: ModuleType) -> None:
    box = module.frequency(Rope(theta=10000.0, width=4), 0, length=1)(30)
    assert box.low == box.high == 1


def factors(module: ModuleType) -> None:
    """1 where nothing is scaled, the stored one where there is one, the papers' own otherwise."""
    ln4 = Decimal(4).ln(exact.Context(prec=50))
    for record, want in (
        (LINEAR, Fraction(1)),
        (replace(YARN, attention_factor=1.25), Fraction(5, 4)),
        (replace(YARN, factor=1.0), Fraction(1)),
        (replace(YARN, factor=0.5), Fraction(1)),
        (YARN, Fraction(1 + ln4 / 10)),
        (replace(YARN, mscale=2.0, mscale_all_dim=0.0), Fraction(1 + ln4 / 10)),
        (replace(YARN, mscale=2.0, mscale_all_dim=2.0), Fraction(1)),
        (replace(YARN, mscale=2.0, mscale_all_dim=0.5), Fraction(1 + ln4 / 5) / Fraction(1 + ln4 / 20)),
        (LONGROPE, Fraction(Decimal("1.5").sqrt(exact.Context(prec=50)))),
        (replace(LONGROPE, attention_factor=1.5), Fraction(3, 2)),
    ):
        got = module.attention_factor(record)
        assert abs(Fraction(got.enclose(40).low) - want) < Fraction(1, 10**25), record
        assert (got.exact is not None) == (want.denominator < 100), record


def algebraic_angles(module: ModuleType) -> None:
    def known(record: Rope) -> list[bool]:
        return [module.is_algebraic(record, pair, length=200) for pair in range(record.width // 2)]

    for record in (Rope(theta=10000.0, width=6), LINEAR, DYNAMIC, LONGROPE, PROPORTIONAL, YARN):
        assert all(known(record)), record
    assert known(LLAMA3) == [True, False, True, True, True, True, True, True]  # 10.2 turns, then 1.97, then 0.38
    assert known(replace(YARN, truncate=False)) == [True, True, True, False, False, False, True, True]


def algebraic_factors(module: ModuleType) -> None:
    """Of 4 and 16, ln 4/ln 16 = ½; of 6 and 16 the quotient is transcendental, and so is yarn's 1 + 0.1·ln 4."""
    assert module.factor_is_algebraic(LINEAR)
    assert module.factor_is_algebraic(LONGROPE)
    assert not module.factor_is_algebraic(replace(LONGROPE, factor=6.0))
    assert not module.factor_is_algebraic(YARN)
    assert module.factor_is_algebraic(replace(YARN, attention_factor=1.5))
    root = module.attention_factor(replace(LONGROPE, factor=16.0**3))  # √(1 + 3) = 2
    assert root.compare(2) == 0
    assert root.compare(-2) == 1
    assert module.attention_factor(replace(LONGROPE, factor=6.0)).compare(2) == -1


def common_powers(module: ModuleType) -> None:
    for s, m, want in ((4, 64, Fraction(1, 3)), (32, 64, Fraction(5, 6)), (64, 4, Fraction(3)), (7, 7, Fraction(1)),
                       (216, 36, Fraction(3, 2)), (6, 64, None), (12, 144, Fraction(1, 2)), (12, 8, None),
                       (Fraction(3, 2), 9, None), (2, 3, None), (131072, 2, Fraction(17))):  # fmt: skip
        assert module.common_power(Fraction(s), m) == want, (s, m)


def still_pairs(module: ModuleType) -> None:
    assert module.stands_still(LINEAR, 0, 1, length=9)
    assert not module.stands_still(LINEAR, 1, 1, length=9)
    assert module.stands_still(PROPORTIONAL, 5, 2, length=9)
    assert not module.stands_still(PROPORTIONAL, 5, 1, length=9)


BUGS = {
    "the exponent lacks the 2": ("Fraction(-2 * pair, rope.width))", "Fraction(-pair, rope.width))", formulas),
    "the exponent is rounded": ("Fraction(-2 * pair, rope.width))", "Fraction(-2 * pair / rope.width))", formulas),
    "linear multiplies": ("_plain(rope, pair, digits) / rope.factor", "_plain(rope, pair, digits) * Fraction(rope.factor)", formulas),
    "dynamic shrinks below the original length": ("(max(length, m) - m)", "(length - m)", formulas),
    "dynamic's exponent is R/R": ("Fraction(-2 * pair, width - 2)", "Fraction(-2 * pair, width)", formulas),
    "llama3 blends the wrong way": ("_stretched(rope, 1 - llama3_blend(rope, pair, digits))", "_stretched(rope, llama3_blend(rope, pair, digits))", formulas),
    "llama3 counts radians for turns": ("rope.original_length / (pi(digits) * 2)", "rope.original_length", formulas),
    "llama3's blend is not cut": ("return _cut((turns - low) / (high - low))", "return (turns - low) / (high - low)", formulas),
    "yarn blends the wrong way": ("_stretched(rope, yarn_ramp(rope, pair, digits))", "_stretched(rope, 1 - yarn_ramp(rope, pair, digits))", formulas),
    "yarn's first bound is rounded up": ("_whole(rope, rope.beta_fast, ROUND_FLOOR)", "_whole(rope, rope.beta_fast, ROUND_CEILING)", formulas),
    "yarn's last bound is rounded down": ("_whole(rope, rope.beta_slow, ROUND_CEILING)", "_whole(rope, rope.beta_slow, ROUND_FLOOR)", formulas),
    "yarn always truncates": ("    if rope.truncate:\n        first", "    if True:\n        first", formulas),
    "yarn's first bound may be negative": ("Interval(max(first.low, zero), max(first.high, zero), digits)", "first", formulas),
    "yarn's last bound may exceed the width": ("Interval(min(last.low, end), min(last.high, end), digits)", "last", formulas),
    "yarn's gap is 0.01": ("Fraction(1, 1000)", "Fraction(1, 100)", formulas),
    "longrope is long one position too soon": ("length > rope.original_length", "length >= rope.original_length", formulas),
    "a factor of infinity is none": ("return lambda digits: Interval.of(0, digits)", "return lambda digits: _plain(rope, pair, digits)", formulas),
    "the angle is that of the next position": ("turn(digits + len(str(position))) * position", "turn(digits + len(str(position))) * (position + 1)", angles_are_positions_times_frequencies),
    "the angle loses the position's digits": ("turn(digits + len(str(position))) * position", "turn(digits - 8) * position", angles_are_positions_times_frequencies),
    "the power 0 is computed": ("Interval.of(1, base.digits) if exponent == 0 else power(base, exponent)", "power(base, exponent) + Fraction(1, 10**40)", first_pair_is_exact),
    "yarn's slope is 0.2": ("YARN_SLOPE = Fraction(1, 10)", "YARN_SLOPE = Fraction(1, 5)", factors),
    "the stored factor is ignored": ("if rope.attention_factor is not None:", "if False:", factors),
    "a factor below 1 is scaled": ("if rope.factor <= 1:", "if rope.factor < 0:", factors),
    "an mscale of 0 counts": ("or above == 0 or below == 0", "", factors),
    "longrope's factor without the root": ("Real(lambda digits: sqrt(Interval.of(1 + ratio, digits))", "Real(lambda digits: Interval.of(1 + ratio, digits)", factors),
    "llama3 is algebraic": ("return _is_cut(llama3_blend(rope, pair, FIRST))", "return True", algebraic_angles),
    "yarn is algebraic": ("return rope.truncate or _is_cut(yarn_ramp(rope, pair, FIRST))", "return True", algebraic_angles),
    "yarn is never algebraic": ("return rope.truncate or _is_cut(yarn_ramp(rope, pair, FIRST))", "return False", algebraic_angles),
    "longrope's factor is never algebraic": ("return rope.kind == \"longrope\" and", "return False and", algebraic_factors),
    "every factor is algebraic": ("return rope.kind == \"longrope\" and common_power(Fraction(rope.factor), rope.original_length) is not None", "return True", algebraic_factors),
    "no common root is looked for": ("for exponent in range(m.bit_length(), 0, -1):", "for exponent in (1,):", common_powers),
    "the quotient is upside down": ("return Fraction(times, exponent) if rest == 1 else None", "return Fraction(exponent, max(times, 1)) if rest == 1 else None", common_powers),
    "any number is a power": ("if rest == 1 else None", "if rest else None", common_powers),
    "only position 0 stands still": ("return position == 0 or frequency(rope, pair, length=length)(FIRST).sign == 0", "return position == 0", still_pairs),
}  # fmt: skip
CHECKS = [
    formulas, angles_are_positions_times_frequencies, first_pair_is_exact, factors, algebraic_angles, algebraic_factors,
    common_powers, still_pairs,
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS)
def test_angles(check: Callable[[ModuleType], None]) -> None:
    check(rope)


@pytest.mark.parametrize("bug", BUGS)
def test_the_check_of_angles_sees_the_planted_bug(bug: str) -> None:
    text, replacement, check = BUGS[bug]
    with pytest.raises((AssertionError, ValueError, ZeroDivisionError)):
        check(mutated(rope, text, replacement))


def test_the_pair_of_an_integer_is_never_decided_wrongly() -> None:
    """A bound beside an integer by 10⁻¹² is rounded to the right side of it."""
    for offset, want in ((1e-12, 3), (-1e-12, 4)):  # the pair that turns `times` times falls as `times` grows
        theta, width, length = 10000.0, 16, 4096
        times = length / (2 * math.pi * theta ** (2 * 4 / width)) * (1 + offset)
        record = Rope(theta=theta, width=width, kind="yarn", factor=4.0, original_length=length, beta_fast=times)
        low = Decimal(width) * (length / (Decimal(times) * 2 * exact.PI)).ln() / (2 * Decimal(theta).ln())
        assert math.floor(low) == want
        ramp = [rope.yarn_ramp(record, pair, 30) for pair in (want, want + 1)]
        assert ramp[0].high == 0 < ramp[1].low


def test_bad_records_are_refused_in_one_line() -> None:
    for call, message in (
        (lambda: rope.frequency(LINEAR, 4, length=1), "^a rotary width of 8 has pairs 0 … 3, got 4$"),
        (lambda: rope.frequency(LINEAR, -1, length=1), "^a rotary width of 8 has pairs 0 … 3, got -1$"),
        (lambda: turn.rope([1.0, 2.0], 1, LINEAR, length=1), "^the rotary width 8 exceeds the head width 2$"),
        (lambda: turn.rope([1.0] * 8, -1, LINEAR, length=1), "^a position must not be negative, got -1$"),
        (lambda: rope.frequency(replace(PROPORTIONAL, short_factors=(0.0, 1.0, 1.0)), 0, length=1), r"^RoPE's frequency of pair 0 is divided by 0\.0; give a number other than zero$"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()


# The turn itself


def bits(values: list[Value], name: str = "fp64") -> list[str]:
    return [rounded(value, name).hex() for value in values]


def turns(module: ModuleType) -> None:
    """Against complex numbers in decimals, in three formats; frequencies 1 and ¼ are exact floats."""
    record = Rope(theta=16.0, width=4)
    positions = exact.np.array([0, 1, 3, 17, 131071])
    x = exact.np.random.default_rng(3).standard_normal((5, 4)).astype(exact.np.float32)
    x[3] = [0.0, 1.0, -2.0, 0.0]
    want = exact.rope_of_halves(x, positions, exact.np.array([1.0, 0.25]), factor=1.0)
    for t, position in enumerate(positions):
        got = module.rope(x[t].tolist(), int(position), record, length=1)
        for name in ("fp64", "fp32", "bf16"):
            assert bits(got, name) == [round_to(Fraction(y), name).hex() for y in want[t]], (t, name)


def turns_interleaved(module: ModuleType) -> None:
    halves = module.rope([1.0, 2.0, 3.0, 4.0], 5, Rope(theta=16.0, width=4), length=1)
    pairs = module.rope([1.0, 3.0, 2.0, 4.0], 5, Rope(theta=16.0, width=4, interleaved=True), length=1)
    assert bits([pairs[0], pairs[2], pairs[1], pairs[3]]) == bits(halves)


def passes_what_lies_beyond(module: ModuleType) -> None:
    got = module.rope([1.0, 2.0, -0.0, math.nan, math.inf, 7.5], 5, Rope(theta=16.0, width=2), length=1)
    assert bits(got[2:]) == ["-0x0.0p+0", "nan", "inf", (7.5).hex()]


def scales_by_the_factor(module: ModuleType) -> None:
    """At position 0 and elsewhere, by a rational factor and by √(3/2), also of a pair that does not turn."""
    x = [3.0, -5.0, 0.5, 7.0]
    plain = module.rope(x, 2, replace(LONGROPE, attention_factor=1.0), length=16)
    twice = module.rope(x, 2, replace(LONGROPE, attention_factor=2.0), length=16)
    assert [2 * rounded(a, "fp32") for a in plain] == [rounded(b, "fp32") for b in twice]
    root = math.sqrt(1.5)
    still = [rounded(y, "fp64") for y in module.rope(x, 0, LONGROPE, length=16)]
    assert all(abs(y - root * a) <= abs(y) * 2**-52 for y, a in zip(still, x, strict=True))
    assert bits(module.rope(x, 3, replace(LONGROPE, attention_factor=0.0), length=16)) == [(0.0).hex()] * 4


def ties_at_position_0(module: ModuleType) -> None:
    """Where A is √(1 + 3) = 2, y is rational and a tie: 2·(1 + 2⁻²⁴) rounds to even; digits alone never end."""
    record = replace(LONGROPE, factor=16.0**3)
    y = module.rope([1 + 2.0**-24, 3.0, 0.0, 0.0], 0, record, length=1)
    assert rounded(y[0], "fp32") == 2.0
    assert y[0].compare(Fraction(2) + Fraction(1, 2**23)) == 0


def never_rational(module: ModuleType) -> None:
    """An algebraic angle: equality is ruled out; llama3's blended pair: nothing is claimed, and the digits decide."""
    known = module.rope([1.0] * 16, 3, LLAMA3, length=1)
    assert known[0].equals is not None
    assert not known[0].equals(Fraction(1))
    assert known[1].equals is None
    assert known[1].compare(0) in (-1, 1)
    assert module.rope([1.0] * 16, 3, YARN, length=1)[0].equals is None  # the factor is transcendental


def signs_of_zeros(module: ModuleType) -> None:
    """(x₀·cos − x₁·sin, x₁·cos + x₀·sin): at position 1 both are positive, at 3 the cosine is negative, at 4 both are."""
    record = Rope(theta=10000.0, width=2)
    for position, cos, sin in ((0, 1.0, 0.0), (1, 1.0, 1.0), (3, -1.0, 1.0), (4, -1.0, -1.0), (6, 1.0, -1.0)):
        for a in (0.0, -0.0):
            for b in (0.0, -0.0):
                want = [(a * cos - b * sin).hex(), (b * cos + a * sin).hex()]
                assert bits(module.rope([a, b], position, record, length=1)) == want, (position, a, b)
    assert bits(module.rope([-0.0, 5.0], 0, record, length=1)) == ["-0x0.0p+0", (5.0).hex()]
    negative = replace(LONGROPE, attention_factor=-1.0)
    assert bits(module.rope([0.0, 0.0, -0.0, -0.0], 0, negative, length=1))[:2] == ["-0x0.0p+0"] * 2


def not_finite(module: ModuleType) -> None:
    record, inf, nan = Rope(theta=10000.0, width=2), math.inf, math.nan
    for x, position, want in (
        ([inf, 1.0], 1, [inf, inf]), ([inf, 1.0], 3, [-inf, inf]), ([1.0, inf], 1, [-inf, inf]),
        ([inf, inf], 1, [nan, inf]), ([-inf, inf], 1, [-inf, nan]), ([nan, 1.0], 1, [nan, nan]),
        ([inf, 1.0], 0, [inf, nan]), ([1.0, inf], 0, [nan, inf]),
    ):  # fmt: skip
        assert bits(module.rope(x, position, record, length=1)) == [y.hex() for y in want], (x, position)


TURN_BUGS = {
    "the turn is the wrong way": ("_turned(x[i], -x[j], record", "_turned(x[i], x[j], record", turns),
    "halves are neighbours": ("if record.interleaved else (pair, pair + pairs)", "", turns),
    "neighbours are halves": ("(2 * pair, 2 * pair + 1) if record.interleaved else", "", turns_interleaved),
    "what lies beyond is scaled": ("y = [plain(number) for number in x]", "y = [scaled(plain(number), 2.0) for number in x]", passes_what_lies_beyond),
    "the factor is lost": ("(cos * a + sin * b) * factor.enclose(digits)", "cos * a + sin * b", scales_by_the_factor),
    "the factor is lost at position 0": ("scaled(factor, a) if a != 0", "plain(a) if a != 0", scales_by_the_factor),
    "ties at position 0 are denied": ("scaled(factor, a) if a != 0", "Real(lambda digits: factor.enclose(digits) * a, lambda m: False) if a != 0", ties_at_position_0),
    "every angle is known": ("(lambda m: False) if known else None", "lambda m: False", never_rational),
    "no angle is known": ("(lambda m: False) if known else None", "None", never_rational),
    "the angle alone is asked": (" and angles.factor_is_algebraic(record)", "", never_rational),
    "zeros are positive": ("zero = Real.rational(0, zero=zero_of_sum([a * cos, b * sin]))", "zero = Real.rational(0)", signs_of_zeros),
    "zeros ignore the cosine": ("zero=zero_of_sum([a * cos, b * sin])", "zero=zero_of_sum([a, b])", signs_of_zeros),
    "the factor's sign is lost": ("return scaled(zero, stand_in(factor)) if", "return zero if", signs_of_zeros),
    "infinity ignores the cosine": ("special = special_sum([a * cos, b * sin])", "special = special_sum([a, b])", not_finite),
    "at position 0 infinity times 0 is 0": ("(1.0, 0.0) if still else", "(1.0, 1.0) if still else", not_finite),
}  # fmt: skip
TURN_CHECKS = [
    turns, turns_interleaved, passes_what_lies_beyond, scales_by_the_factor, ties_at_position_0, never_rational,
    signs_of_zeros, not_finite,
]  # fmt: skip


@pytest.mark.parametrize("check", TURN_CHECKS)
def test_turns(check: Callable[[ModuleType], None]) -> None:
    check(turn)


@pytest.mark.parametrize("bug", TURN_BUGS)
def test_the_check_of_turns_sees_the_planted_bug(bug: str) -> None:
    text, replacement, check = TURN_BUGS[bug]
    with pytest.raises((AssertionError, ArithmeticError, IndexError, AttributeError)):
        check(mutated(turn, text, replacement))


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2),
    st.integers(0, 200000),
    st.integers(0, 3),
)
def test_a_turn_keeps_the_length(x: list[float], position: int, pair: int) -> None:
    """y₀² + y₁² = x₀² + x₁² within what rounding to float64 moves."""
    record = Rope(theta=10000.0, width=8)
    row = [0.0] * 8
    row[pair], row[pair + 4] = x
    y = [Fraction(rounded(value, "fp64")) for value in turn.rope(row, position, record, length=1)]
    before, after = sum(Fraction(a) ** 2 for a in row), sum(b * b for b in y)
    assert abs(after - before) <= before * Fraction(3, 2**53) + Fraction(1, 2**1073) * (
        abs(y[pair]) + abs(y[pair + 4]) + 1
    )


@given(st.integers(0, 500), st.integers(0, 500))
def test_turning_twice_is_turning_by_the_sum(first: int, second: int) -> None:
    """cos(a + b) = cos a·cos b − sin a·sin b, enclosed."""
    record = Rope(theta=500.0, width=6)
    for pair in range(3):
        (a, b), (c, d), (e, _) = (rope.cos_sin_of_turn(record, p, pair, 1, 30) for p in (first, second, first + second))
        both = a * c - b * d
        assert both.low <= e.high
        assert e.low <= both.high
