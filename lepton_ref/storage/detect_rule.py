"""By which rule the shared scales of an MX matrix were chosen: what its codes say, with the reason.

With amax the largest |x| of a block, a rule puts amax/2^E into an interval, and rounding puts the block's largest |q|
into the numbers of the format there:

    FLOOR    [2^emax, 2^(emax+1))                     → 2^emax … largest
    EVEN     [½·c, c), c = 2^(emax+1) − 2^(emax−m−1)  → 2^emax … largest
    CEIL     (2^(emax−1), 2^emax]                     → 2^(emax−1) … 2^emax
    RCEIL    (½·largest, largest]                     → the numbers from ½·largest, rounded to even, to largest

A block outside a rule's numbers excludes it. FLOOR's numbers are among RCEIL's, so a rule is excluded, too, if one of
its numbers is missing in so many blocks that it would be a wonder: fewer than one in 2²⁰, were amax/2^E spread evenly
over the logarithm of the interval. Blocks of zeros, of NaN, and with E at an end of E8M0 say nothing. FLOOR and EVEN
leave the same numbers and are not told apart; nothing is guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.formats import decode_array, round_array
from lepton_ref.plain.formats import FloatFormat, get_format
from lepton_ref.storage.mx import BLOCK, ELEMENTS, MX

WONDER = 2.0**-20
"""The chance below which a rule is excluded by what is missing."""


@dataclass(frozen=True)
class RuleVerdict:
    """What the codes of a matrix say about the rule of its scales.

    Attributes:
        rules: those that the codes do not exclude.
        reason: one sentence.
        blocks: how many blocks say something.
    """

    rules: tuple[str, ...]
    reason: str
    blocks: int


def intervals(format: str, /) -> dict[str, tuple[float, float]]:
    """Rule → between which numbers it puts amax/2^E, in a format of `lepton_ref.storage.mx.ELEMENTS`.

    Raises:
        ValueError: an unknown format.
    """
    if format not in ELEMENTS:
        raise ValueError(f"unknown MX format {format!r}; known: {', '.join(ELEMENTS)}")
    number, unit = ELEMENTS[format]
    f = get_format(number)
    largest = f.largest * unit
    emax, fraction = (f.emax, f.mantissa_bits) if isinstance(f, FloatFormat) else (0, 6)
    top = 2.0 ** (emax + 1) - 2.0 ** (emax - fraction - 1)
    return {
        "FLOOR": (2.0**emax, 2.0 ** (emax + 1)),
        "CEIL": (2.0 ** (emax - 1), 2.0**emax),
        "RCEIL": (largest / 2, largest),
        "EVEN": (top / 2, top),
    }


def detect_rule(weight: MX, /) -> RuleVerdict:
    """Which of the four rules may have chosen the scales of a matrix."""
    return rule_of(largest(weight), weight.elements)


def rule_of(sizes: NDArray[np.float64], format: str, /) -> RuleVerdict:
    """Which of the four rules may have chosen the scales of blocks whose largest |q| these are.

    Args:
        sizes: (N), of blocks that say something.
        format: a key of `lepton_ref.storage.mx.ELEMENTS`.

    Raises:
        ValueError: an unknown format.
    """
    rules = intervals(format)
    if sizes.size == 0:
        return RuleVerdict(tuple(rules), "no block has a scale that says anything", 0)
    seen = np.unique(sizes)
    left, why = [], []
    for rule, (low, high) in rules.items():
        chances = _chances(format, low, high)
        strange = [float(size) for size in seen if float(size) not in chances]
        missing = {size: (1 - chance) ** sizes.size for size, chance in chances.items() if size not in seen}
        if strange:
            why.append(f"{rule} never makes {strange[0]:g} a block's largest number")
        elif missing and min(missing.values()) < WONDER:
            why.append(f"{rule} would make {min(missing, key=lambda size: missing[size]):g} one, which none has")
        else:
            left.append(rule)
    found = " or ".join(left) if left else "none of the four rules"
    return RuleVerdict(tuple(left), f"{found}, by {sizes.size} blocks: {'; '.join(why)}", int(sizes.size))


def largest(weight: MX, /) -> NDArray[np.float64]:
    """`(N)` the largest |q| of each block that says something."""
    found = []
    step = max(1, (1 << 18) // max(1, weight.shape[1]))
    for start in range(0, weight.shape[0], step):
        rows = np.arange(start, min(start + step, weight.shape[0]))
        codes = weight.exponents.array[rows]
        with np.errstate(invalid="ignore"):
            blocks = np.abs(weight.unrounded(rows)).reshape(len(rows), -1, BLOCK).max(axis=2)
        inside = (codes > 0) & (codes < 254)
        found.append((blocks / decode_array(codes, "e8m0"))[inside])
    sizes = np.concatenate(found) if found else np.zeros(0)
    return sizes[sizes > 0]


def _chances(format: str, low: float, high: float) -> dict[float, float]:
    """The numbers that amax/2^E of an interval rounds to, and how often, spread evenly over its logarithm."""
    number, unit = ELEMENTS[format]
    spots = low * np.exp2(np.linspace(0, math.log2(high / low), 4097))
    spots[[0, -1]] = np.nextafter(low, np.inf), high
    rounded = round_array(spots / unit, number, saturate=True) * unit
    sizes, counts = np.unique(rounded, return_counts=True)
    return {float(size): float(count) / len(spots) for size, count in zip(sizes, counts, strict=True)}
