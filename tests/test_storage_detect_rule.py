"""The rule of an MX matrix's scales, found from its codes: never the wrong one, and not guessed where two agree."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated

from lepton_ref.storage import detect_rule as module
from lepton_ref.storage.detect_rule import detect_rule, intervals
from lepton_ref.storage.encoders.mx import RULES, encode_mx, shared_exponents
from lepton_ref.storage.mx import ELEMENTS, MX

each_format = pytest.mark.parametrize("format", ELEMENTS)
each_rule = pytest.mark.parametrize("rule", RULES)


def ordinary(rows: int, seed: int = 1) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((rows, 256)).astype(np.float32)


@each_format
@each_rule
@given(amax=st.floats(2.0**-80, 2.0**80, width=32))
def test_the_intervals_are_the_rules(format: str, rule: str, amax: float) -> None:
    e = int(shared_exponents(np.array([amax]), format=format, rule=rule)[0])
    low, high = (Fraction(end) for end in intervals(format)[rule])
    size = Fraction(amax) / Fraction(2) ** e
    if rule in ("FLOOR", "EVEN"):
        assert low <= size < high
    else:
        assert low < size <= high


@each_format
@each_rule
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 4))
def test_the_rule_that_was_used_is_not_excluded(format: str, rule: str, seed: int, rows: int) -> None:
    verdict = detect_rule(encode_mx(ordinary(rows, seed), format=format, rule=rule))
    assert rule in verdict.rules
    assert verdict.blocks == 8 * rows


@pytest.mark.parametrize("format", [name for name in ELEMENTS if name != "MXINT8"])
@each_rule
def test_the_rule_is_found_but_floor_and_even_are_one(format: str, rule: str) -> None:
    verdict = detect_rule(encode_mx(ordinary(64), format=format, rule=rule))
    assert verdict.rules == (("FLOOR", "EVEN") if rule in ("FLOOR", "EVEN") else (rule,))


def test_the_reason_names_a_number() -> None:
    verdict = detect_rule(encode_mx(ordinary(64), format="MXFP4", rule="RCEIL"))
    assert verdict.reason == (
        "RCEIL, by 512 blocks: FLOOR never makes 3 a block's largest number; CEIL never makes 6 a block's largest "
        "number; EVEN never makes 3 a block's largest number"
    )
    assert (
        "RCEIL would make 3 one, which none has"
        in detect_rule(encode_mx(ordinary(64), format="MXFP4", rule="FLOOR")).reason
    )


def test_what_says_nothing_excludes_nothing() -> None:
    x = ordinary(2)
    x[0, :32], x[0, 32] = 0.0, np.nan
    x[1] *= np.float32(2.0**-130)
    verdict = detect_rule(encode_mx(x, format="MXFP4", rule="FLOOR"))
    assert verdict.blocks == 6
    zero = detect_rule(encode_mx(0 * ordinary(2), format="MXFP4", rule="FLOOR"))
    assert (zero.rules, zero.blocks) == (("FLOOR", "CEIL", "RCEIL", "EVEN"), 0)
    strange = MX(np.full((1, 16), 0x11, dtype=np.uint8), np.full((1, 1), 127, dtype=np.uint8), format="MXFP4")
    assert detect_rule(strange).rules == ()
    assert detect_rule(strange).reason.startswith("none of the four rules, by 1 blocks")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown MX format 'MXFP5'"):
        intervals("MXFP5")


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ('"FLOOR": (2.0**emax, 2.0 ** (emax + 1))', '"FLOOR": (2.0 ** (emax - 1), 2.0**emax)'),
        ('"CEIL": (2.0 ** (emax - 1), 2.0**emax)', '"CEIL": (2.0**emax, 2.0 ** (emax + 1))'),
        ("(codes > 0) & (codes < 254)", "codes >= 0"),
        ("< WONDER", "< 0"),
    ],
)
def test_a_wrong_detector_is_caught(text: str, bug: str) -> None:
    wrong = mutated(module, text, bug)
    tiny = ordinary(2) * np.float32(2.0**-130)
    cases = [encode_mx(x, format="MXFP4", rule=rule) for x in (ordinary(64), tiny) for rule in RULES]
    right, found = ([m.detect_rule(weight).rules for weight in cases] for m in (module, wrong))
    assert right != found
