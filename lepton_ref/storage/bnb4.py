"""bitsandbytes' NF4 and FP4: codes of 4 bits in flat blocks that each have a scale. Value T[q]·a.

    weight               uint8 (⌈O·I/2⌉, 1), or the same bytes as another dtype: element e of the matrix, row by row, is
                         the HIGH nibble of byte ⌊e/2⌋ where e is even, the low one where it is odd
    weight.quant_map     F32 (16,): the table T of NF4 or of FP4
    weight.absmax        F32 (blocks,): a of block ⌊e/blocksize⌋; blocks run on over the ends of rows
    with double quantisation: weight.absmax holds uint8 codes c, and a = A[c]·m + offset, where
    weight.nested_quant_map  F32 (256,): is A
    weight.nested_absmax     F32: m of ⌊block/nested blocksize⌋ (256)

Shape, block sizes and offset stand in `weight.quant_state.bitsandbytes__nf4` (or fp4), JSON as bytes.

T[q]·a is rounded once, exactly: without double quantisation the product of two float32 is one operation. With it,
T[q]·(A[c]·m + offset) has too many bits for float64; two roundings of float64 are off by less than a part in 2⁵¹, and
where that leaves the float32 open, fractions decide. `unrounded` is the one of float64.

Engines. bitsandbytes rounds to float32 after A[c]·m, after + offset and after ·T[q], then to the dtype of the layer: up
to four roundings. Its kernels have T built in and do not look at quant_map, which must therefore be T. Code 8 of FP4 is
+0 in the table and −0 in its CUDA kernel. Its CPU kernel begins blocks anew with each row where I is even and no
multiple of the block size; its own quantiser does not, and the values that it gives there are wrong.
Source: bitsandbytes 0.50.2, functional.py (QuantState, get_4bit_type), backends/default/ops.py, backends/cpu/ops.py.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.plain.formats import round_to
from lepton_ref.storage.dense import Dense
from lepton_ref.storage.layout import Bits, Part
from lepton_ref.storage.packed import Packed, require_float32, stored_number

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
FP4 = (
    0.0, 1 / 192, 2 / 3, 1.0, 1 / 3, 1 / 2, 1 / 6, 1 / 4, 0.0, -1 / 192, -2 / 3, -1.0, -1 / 3, -1 / 2, -1 / 6, -1 / 4,
)  # fmt: skip
TABLES = {"nf4": NF4, "fp4": FP4}
"""quant_type → the table, each number rounded to float32 in files."""

NESTED_TENSORS = {
    "q": "weight",
    "c": "weight.absmax",
    "m": "weight.nested_absmax",
    "offset": "weight.quant_state",
}
"""Part of a doubly quantised element → its tensor; the offset is a number in JSON."""

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)


class Nested:
    """Scales that are quantised themselves: a = A[c]·m + offset.

    Args:
        codes: `(blocks,)` uint8.
        table: `(256,)` F32.
        absmax: `(⌈blocks/blocksize⌉,)` F32.
        offset: a float32 number.
        blocksize: codes c of one m.

    Raises:
        ValueError: a tensor of another dtype or shape, or an offset that float32 does not hold.
    """

    def __init__(self, codes: HostArray, table: Dense, absmax: Dense, *, offset: float, blocksize: int = 256) -> None:
        if codes.dtype != np.uint8 or codes.ndim != 1:
            raise ValueError(f"absmax must be a uint8 vector, got {codes.dtype} {codes.shape}")
        if blocksize < 1:
            raise ValueError(f"nested_blocksize must be positive, got {blocksize}")
        wanted = {"nested_quant_map": (table, 256), "nested_absmax": (absmax, -(-len(codes) // blocksize))}
        for name, (part, count) in wanted.items():
            require_float32(name, part, count)
        with np.errstate(over="ignore"):
            if np.isfinite(offset) and float(np.float32(offset)) != offset:
                raise ValueError(f"nested_offset {offset!r} is no float32 number; bitsandbytes stores one")
        self.codes, self.table, self.absmax = codes, table, absmax
        self.offset, self.blocksize = float(offset), blocksize
        self.nbytes = codes.nbytes + table.nbytes + absmax.nbytes

    def scales(self, blocks: NDArray[np.int64]) -> NDArray[np.float64]:
        """`(N,) -> (N,)` the scales of these blocks, rounded once: the products are exact, having 24 + 24 bits."""
        product = self.table.array[self.codes[blocks]].astype(np.float64)
        return product * self.absmax.array[blocks // self.blocksize].astype(np.float64) + self.offset

    def read(self, block: int) -> tuple[Part, ...]:
        """The parts of one block's scale, A[c]·m + offset."""
        c, number = int(self.codes[block]), block // self.blocksize
        return (
            Part("c", (Bits(block, 0, 8),), c, float(self.table.array[c])),
            stored_number("m", self.absmax.array, number, float(self.absmax.array[number])),
            Part("offset", (), 0, self.offset),
        )

    def exact(self, block: int) -> Fraction:
        """The scale of one block, all of whose parts must be finite."""
        factor, scale = self.table.array[self.codes[block]], self.absmax.array[block // self.blocksize]
        return Fraction(float(factor)) * Fraction(float(scale)) + Fraction(self.offset)


class BitsAndBytes4(Packed):
    """A matrix of a 4-bit bitsandbytes checkpoint.

    Args:
        packed: the bytes, uint8 of any shape.
        absmax: F32 for simple, None for double quantisation.
        shape: (O, I).
        kind: "nf4" or "fp4".
        blocksize: elements of a block.
        nested: of double quantisation.

    Raises:
        ValueError: a tensor of another dtype or length, an unknown kind or block size, or both or neither of absmax and
            nested.
    """

    def __init__(
        self,
        packed: NDArray[np.uint8],
        absmax: Dense | None,
        *,
        shape: tuple[int, ...],
        kind: str,
        blocksize: int = 64,
        nested: Nested | None = None,
    ) -> None:
        if kind not in TABLES:
            raise ValueError(f"quant_type must be 'nf4' or 'fp4', got {kind!r}")
        if blocksize not in BLOCK_SIZES:
            raise ValueError(f"blocksize must be one of {', '.join(map(str, BLOCK_SIZES))}, got {blocksize!r}")
        if len(shape) != 2 or min(shape) < 0:
            raise ValueError(f"shape must be (O, I), got {tuple(shape)}")
        count = int(shape[0]) * int(shape[1])
        if packed.dtype != np.uint8 or packed.size != -(-count // 2):
            raise ValueError(
                f"weight must be {-(-count // 2)} bytes for shape {shape}, got {packed.dtype} {packed.shape}"
            )
        if (absmax is None) == (nested is None):
            raise ValueError("a 4-bit weight has either absmax or nested scales; give one of the two")
        blocks = -(-count // blocksize)
        if absmax is not None and (
            not isinstance(absmax, Dense) or absmax.format != "F32" or absmax.shape != (blocks,)
        ):
            raise ValueError(f"absmax must be F32 of shape ({blocks},), got {absmax}")
        if nested is not None and nested.codes.shape != (blocks,):
            raise ValueError(f"absmax must be uint8 of shape ({blocks},), got {nested.codes.shape}")
        self.packed = packed.reshape(-1)
        self.absmax, self.nested, self.blocksize, self.kind = absmax, nested, blocksize, kind
        self.table = np.array(TABLES[kind], dtype=np.float32)
        self.format = kind.upper() + ("" if nested is None else "_DQ")
        self.formula = "T[q]·a" if nested is None else "T[q]·(A[c]·m + offset)"
        self.tensors = {"q": "weight", "a": "weight.absmax"} if nested is None else NESTED_TENSORS
        self.shape = (int(shape[0]), int(shape[1]))
        scales = nested.nbytes if nested is not None else absmax.nbytes if absmax is not None else 0
        self.nbytes = packed.nbytes + 4 * len(self.table) + scales

    def _values(self, index: NDArray[np.int64], dtype: np.dtype[Any]) -> HostArray:
        inputs = self.shape[1]
        if inputs % self.blocksize == 0 and inputs:
            return self._whole_blocks(index, dtype)
        flat = index[:, np.newaxis] * inputs + np.arange(inputs)
        high = flat % 2 == 0
        byte = self.packed[flat // 2]
        codes = np.where(high, byte >> 4, byte & 15)
        blocks, which = np.unique(flat // self.blocksize, return_inverse=True)
        tables = self._block_tables(blocks, dtype)
        return np.asarray(tables[which.reshape(flat.shape), codes])

    def _whole_blocks(self, index: NDArray[np.int64], dtype: np.dtype[Any]) -> HostArray:
        """Rows of whole blocks: nothing straddles."""
        inputs, size = self.shape[1], self.blocksize
        byte = self.packed.reshape(-1, inputs // 2)[index]
        blocks = (index[:, np.newaxis] * (inputs // size) + np.arange(inputs // size)).reshape(-1)
        if self.absmax is not None:
            every = np.arange(256)
            pairs = np.stack([self.table[every >> 4], self.table[every & 15]], axis=-1).astype(dtype)
            values = np.take(pairs, byte, axis=0).reshape(-1, size)
            values *= self.absmax.take(blocks).astype(dtype)[:, np.newaxis]
            return values.reshape(len(index), inputs)
        codes = np.stack([byte >> 4, byte & 15], axis=-1).reshape(-1, size).astype(np.intp)
        codes += 16 * np.arange(len(blocks))[:, np.newaxis]
        return np.take(self._block_tables(blocks, dtype).reshape(-1), codes).reshape(len(index), inputs)

    def _block_tables(self, blocks: NDArray[np.int64], dtype: np.dtype[Any]) -> HostArray:
        """`(N,) -> (N, 16)` T[q]·a of every code q in these blocks."""
        if self.absmax is not None:
            scale = self.absmax.take(blocks).astype(dtype)
            return np.asarray(self.table.astype(dtype) * scale[:, np.newaxis])
        assert self.nested is not None
        products: HostArray = self.table.astype(np.float64) * self.nested.scales(blocks)[:, np.newaxis]
        if dtype != np.float32:
            return products
        rounded: HostArray = products.astype(np.float32)
        # two roundings err by less than a part in 2⁵¹: both ends of that give the one float32, but next to a midpoint
        ends = [(products * (1 + sign * 2.0**-51)).astype(np.float32).view(np.uint32) for sign in (-1, 1)]
        for n, q in np.argwhere((ends[0] != ends[1]) & np.isfinite(products)):
            exact = Fraction(float(self.table[q])) * self.nested.exact(int(blocks[n]))
            rounded[n, q] = round_to(exact, "fp32")
        return rounded

    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """Code and scale of one element; a code's value is what it stands for in its table."""
        self._require_element(row, column)
        e = row * self.shape[1] + column
        low = 0 if e % 2 else 4
        q = (int(self.packed[e // 2]) >> low) & 15
        code = Part("q", (Bits(e // 2, low, 4),), q, float(self.table[q]))
        block = e // self.blocksize
        if self.absmax is not None:
            return code, stored_number("a", self.absmax.array, block, float(self.absmax.array[block]))
        assert self.nested is not None
        return code, *self.nested.read(block)
