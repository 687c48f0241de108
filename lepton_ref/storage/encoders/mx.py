"""From numbers to the MX formats: the rule for the shared scale 2^E of a block, and the elements given the scale.

With amax the largest |x| of the block, `largest` the format's largest number (448, 57344, 28, 7.5, 6, 127/64), emax its
exponent (8, 15, 4, 2, 2, 0) and m its fraction bits (3, 2, 2, 3, 1, 6), all in exact arithmetic:

    FLOOR    E = ⌊log₂ amax⌋ − emax                OCP's rule; a block whose amax is above largest·2^E is clipped
    CEIL     E = ⌈log₂ amax⌉ − emax
    RCEIL    E = ⌈log₂(amax/largest)⌉              the least scale that clips nothing
    EVEN     E = ⌊log₂ round(amax)⌋ − emax         amax rounded to m fraction bits, a tie away from zero, as torchao
                                                   and Quark do: one more than FLOOR from (2 − 2^−(m+1))·2^k on

E is kept within −127 … 127. An element is x/2^E, exact, rounded once to nearest even; beyond the largest number it is
the largest (−127/64 … 127/64 in MXINT8: −2 is not used). A block of zeros has E = −127, and zeros keep their signs
where the format has −0. A block with NaN or an infinity has scale 0xFF, NaN, and elements of code 0.

Theorem. FLOOR clips exactly the blocks with amax > largest·2^E: of each binade of amax the upper half (E2M1, from 1.5
on), quarter (E4M3, E5M2, E3M2, from 1.75), eighth (E2M3) or 64th (INT8). There RCEIL's E is one larger, elsewhere both
are equal, and RCEIL and CEIL clip nothing but what E8M0's ends force them to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.numerics.formats import encode_array, round_array
from lepton_ref.plain.formats import FloatFormat, get_format
from lepton_ref.storage.byte_codes import pack
from lepton_ref.storage.encoders.tile_scales import matrix, row_steps
from lepton_ref.storage.mx import BLOCK, ELEMENTS, MX

Floats = NDArray[np.float64]
Exponents = NDArray[np.int64]

LEAST, LARGEST = -127, 127
"""What E8M0 holds."""


def _floor(amax: Floats, format: str) -> Exponents:
    return np.asarray(np.frexp(amax)[1] - 1 - _element(format)[1], dtype=np.int64)


def _ceil(amax: Floats, format: str) -> Exponents:
    significand, exponent = np.frexp(amax)
    return np.asarray(exponent - (significand == 0.5) - _element(format)[1], dtype=np.int64)


def _rceil(amax: Floats, format: str) -> Exponents:
    significand, exponent = np.frexp(amax)
    top, of_top = np.frexp(_element(format)[0])
    return np.asarray(exponent - of_top + (significand > top), dtype=np.int64)


def _even(amax: Floats, format: str) -> Exponents:
    _, emax, fraction = _element(format)
    significand, exponent = np.frexp(amax)
    carried = 2 * significand >= 2 - 2.0 ** -(fraction + 1)
    return np.asarray(exponent - 1 - emax + carried, dtype=np.int64)


RULES: Mapping[str, Callable[[Floats, str], Exponents]] = MappingProxyType(
    {"FLOOR": _floor, "CEIL": _ceil, "RCEIL": _rceil, "EVEN": _even}
)
"""Rule → E of the largest number of each block, which is above 0, in a format, before it is kept within E8M0."""


def shared_exponents(amax: Floats, /, *, format: str, rule: str) -> Exponents:
    """`(...) -> (...)` the E of blocks whose largest |x| is this, within −127 … 127; −127 for 0.

    Raises:
        ValueError: an unknown format or rule.
    """
    if format not in ELEMENTS:
        raise ValueError(f"unknown MX format {format!r}; known: {', '.join(ELEMENTS)}")
    if rule not in RULES:
        raise ValueError(f"unknown rule for the shared scale {rule!r}; known: {', '.join(RULES)}")
    found = np.clip(RULES[rule](np.where(amax > 0, amax, 1.0), format), LEAST, LARGEST)
    return np.where(amax > 0, found, LEAST).astype(np.int64)


def encode_mx(array: HostArray, /, *, format: str, rule: str) -> MX:
    """`(O, I) -> (O, I)` in blocks of 32 along the rows.

    Args:
        array: float32, or what float32 holds exactly; NaN and infinities make their block NaN.
        format: a key of `lepton_ref.storage.mx.ELEMENTS`.
        rule: "FLOOR", "CEIL", "RCEIL" or "EVEN".

    Raises:
        ValueError: an unknown format or rule, rows that are not whole blocks, or numbers that are not float32's.
    """
    shared_exponents(np.zeros(0), format=format, rule=rule)
    x = matrix("the weight", array, finite=False)
    if x.shape[1] % BLOCK:
        raise ValueError(f"{format} takes rows of whole blocks of {BLOCK}, got {x.shape}; pad the rows with zeros")
    packed, exponents = [], []
    for rows in row_steps((x.shape[0], x.shape[1])):
        blocks = x[rows].astype(np.float64).reshape(len(rows), -1, BLOCK)
        healthy: NDArray[np.bool_] = np.asarray(np.isfinite(blocks).all(axis=2))
        blocks = np.where(healthy[:, :, np.newaxis], blocks, 0.0)
        e = shared_exponents(np.abs(blocks).max(axis=2), format=format, rule=rule)
        exponents.append(np.where(healthy, e + 127, 255).astype(np.uint8))
        packed.append(_elements(blocks, e[:, :, np.newaxis], format).reshape(len(rows), -1))
    return MX(np.concatenate(packed), np.concatenate(exponents), format=format)


def _elements(blocks: Floats, e: Exponents, format: str) -> NDArray[np.uint8]:
    """`(N, blocks, 32) -> (N, blocks, bytes of a block)`."""
    number, unit = ELEMENTS[format]
    quotient = np.ldexp(blocks, -e.astype(np.intc)) / unit
    rounded = round_array(quotient, number, saturate=True)
    if number == "int8":
        rounded = np.maximum(rounded, -127.0)
    return pack(encode_array(rounded, number), get_format(number).bits)


def _element(format: str) -> tuple[float, int, int]:
    """The largest number of a format's elements, its exponent, and the fraction bits of a number of that size."""
    number, unit = ELEMENTS[format]
    f = get_format(number)
    if isinstance(f, FloatFormat):
        return f.largest, f.emax, f.mantissa_bits
    return f.largest * unit, 0, 6
