r"""The codes of a block apart from its scales, for those who choose codes and keep the scales.

In each format of `CODED` the closed form of an element is

    v = s·L[q] + m

q its code, L the format's levels (the whole numbers, or a small table), s and m what the scale fields of its block
make of its place: of Q4_0 they are d and −8·d, of Q4_K d·sc and −dmin·mn. Neither is read from the fields here. Where
a code's bits lie is what `read` of the format says; s and m are the line through what two codes decode to:

    s = (v₁ − v₀)/(L₁ − L₀),   m = v₀ − s·L₀

which is exact in float64, since every closed form is a multiple of 2⁻²⁴ of at most 2²⁸ (see
`lepton_ref.storage.blocks`), or, where there is no m, a scale of at most 18 bits times a level of at most 8.

The formats with codes of a lattice, whose code says several elements, are not among these, nor TQ1_0, five of whose
codes share a byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.blocks import BlockFormat
from lepton_ref.storage.formats import FORMATS

Bytes = NDArray[np.uint8]
Reals = NDArray[np.float64]

CODED = (
    "Q1_0", "Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS", "MXFP4", "NVFP4", "TQ2_0",
)  # fmt: skip
"""The formats each of whose elements has a code of its own bits."""

AT_ONCE = 1 << 14
"""Blocks whose bits are spread out at a time."""


@dataclass(frozen=True, eq=False)
class Code:
    """How a format holds codes.

    Attributes:
        format: which.
        bits: of a code.
        levels: (2^bits) float64, what each code stands for in the format's formula.
        places: (bits, length) int64, the bit of the block that holds each bit of each element's code, the one that is
            worth least first; bit 8b + i is bit i of byte b.
    """

    format: BlockFormat
    bits: int
    levels: Reals
    places: NDArray[np.int64]


@cache
def code_of(name: str, /) -> Code:
    """How the format of this name holds codes.

    Raises:
        ValueError: a format that is not in `CODED`.
    """
    if name not in CODED:
        raise ValueError(f"{name!r} has no code of its own for each element; those that have: {', '.join(CODED)}")
    block = FORMATS[name]
    assert block.read is not None, "every format of the table has it"
    places = []
    for e in range(block.length):
        (q,) = (part for part in block.read(bytes(block.nbytes), e) if part.name == "q")
        places.append([8 * bits.byte + bits.low + i for bits in q.where for i in range(bits.width)])
    bits = len(places[0])
    spread = np.zeros((2**bits, 8 * block.nbytes), dtype=np.uint8)
    spread[:, places[0]] = np.arange(2**bits)[:, None] >> np.arange(bits) & 1
    each = np.packbits(spread, axis=1, bitorder="little")
    levels = [next(part.value for part in block.read(one.tobytes(), 0) if part.name == "q") for one in each]
    return Code(block, bits, np.array(levels, dtype=np.float64), np.array(places).T)


def codes(name: str, raw: Bytes, /) -> Bytes:
    """`(..., bytes of whole blocks) -> (..., elements)` uint8, the code of each element.

    Raises:
        ValueError: a format that is not in `CODED`, or rows that are not whole blocks.
    """
    code = code_of(name)
    blocks = _blocks(code.format, raw)
    out = np.zeros((len(blocks), code.format.length), dtype=np.uint8)
    for at in range(0, len(blocks), AT_ONCE):
        spread = np.unpackbits(blocks[at : at + AT_ONCE], axis=1, bitorder="little")
        for bit, places in enumerate(code.places):
            out[at : at + AT_ONCE] |= spread[:, places] << np.uint8(bit)
    return out.reshape(*raw.shape[:-1], _elements(code, raw))


def with_codes(name: str, raw: Bytes, chosen: Bytes, /) -> Bytes:
    """`(..., bytes of whole blocks), (..., elements) -> (..., bytes)` the same blocks with these codes.

    Raises:
        ValueError: a format that is not in `CODED`, rows that are not whole blocks, or codes that there are not.
    """
    code = code_of(name)
    blocks = _blocks(code.format, raw)
    wanted = (*raw.shape[:-1], _elements(code, raw))
    if chosen.dtype != np.uint8 or chosen.shape != wanted:
        raise ValueError(f"codes of {chosen.dtype} {chosen.shape}; give uint8 {wanted}, one for each element")
    if code.bits < 8 and chosen.size and chosen.max() >= 2**code.bits:
        raise ValueError(f"a code of {chosen.max()}; those of {name} are 0 to {2**code.bits - 1}")
    every = chosen.reshape(len(blocks), code.format.length)
    out = np.empty_like(blocks)
    for at in range(0, len(blocks), AT_ONCE):
        here = slice(at, at + AT_ONCE)
        spread = np.unpackbits(blocks[here], axis=1, bitorder="little")
        for bit, places in enumerate(code.places):
            spread[:, places] = every[here] >> np.uint8(bit) & np.uint8(1)
        out[here] = np.packbits(spread, axis=1, bitorder="little")
    return out.reshape(raw.shape)


def lines(name: str, raw: Bytes, /) -> tuple[Reals, Reals]:
    """`(..., bytes of whole blocks) -> (..., elements) twice`: s and m of each element, exact.

    Raises:
        ValueError: a format that is not in `CODED`, or rows that are not whole blocks.
    """
    code = code_of(name)
    _blocks(code.format, raw)
    near = int(np.argmin(np.abs(code.levels)))
    far = int(np.argmin(code.levels))
    if far == near:
        far = int(np.argmax(code.levels))
    first, second = (_decoded(code, raw, q) for q in (near, far))
    with np.errstate(invalid="ignore"):  # a scale that is infinite
        s = (second - first) / (code.levels[far] - code.levels[near])
        return s, first - s * code.levels[near]


def _decoded(code: Code, raw: Bytes, q: int) -> Reals:
    """The closed form where every code is q."""
    same = np.full((*raw.shape[:-1], _elements(code, raw)), q, dtype=np.uint8)
    return np.asarray(code.format.values(with_codes(code.format.name, raw, same), rounded=False), dtype=np.float64)


def _blocks(block: BlockFormat, raw: Bytes) -> Bytes:
    if raw.dtype != np.uint8 or raw.ndim == 0 or raw.shape[-1] % block.nbytes:
        raise ValueError(
            f"{block.name} takes uint8 rows of whole {block.nbytes}-byte blocks, got {raw.dtype} {raw.shape}"
        )
    return np.ascontiguousarray(raw).reshape(raw.size // block.nbytes, block.nbytes)


def _elements(code: Code, raw: Bytes) -> int:
    """Elements of a row."""
    return int(raw.shape[-1]) // code.format.nbytes * code.format.length
