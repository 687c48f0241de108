"""compressed-tensors' pack-quantized: codes of 1 to 8 bits packed along the inputs. Value s·(q − z).

    weight_packed       int32 (O, words): u = q + 2^(b−1), a line a row; q is signed
    weight_shape        int64 (2,): O and I
    weight_scale        (O, G), F16, BF16 or F32; (O, 1) or (O,) for a channel each, (1,) for the whole tensor
    weight_zero_point   absent where symmetric (z = 0); int32 (words, G): z + 2^(b−1) packed along the outputs; or the
                        z themselves as int8 of the scale's shape, as for a whole tensor
    weight_g_idx        int32 (I,): the group of each input; absent, input i is in group ⌊i/group_size⌋

Lines are dense streams, or aligned to words as older versions wrote them. The two differ for 3, 5, 6 and 7 bits and
bear one name; the number of words tells: `lepton_ref.storage.detect.alignment`.

Engines. compressed-tensors computes (q − z)·s in the scale's dtype, one rounding that ours does not have.
Source: compressed-tensors 0.20.0 and 0.10.2, compressors/…/pack_quantized.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.storage import detect
from lepton_ref.storage.bitstream import pick, places, unpack, words_for
from lepton_ref.storage.dense import Dense
from lepton_ref.storage.layout import Bits, Part
from lepton_ref.storage.packed import Packed, require_groups, require_scales, require_words, scaled, stored_number


class PackQuantized(Packed):
    """A matrix of a compressed-tensors checkpoint.

    Args:
        packed: weight_packed.
        scale: weight_scale.
        shape: what weight_shape says.
        bits: of a code.
        zero_point: weight_zero_point.
        g_idx: weight_g_idx.
        group_size: inputs of a group where there are groups and no g_idx; None takes equal ones.
        aligned: whether each word has whole codes; None asks the number of words.

    Raises:
        ValueError: a tensor of another dtype or shape, bits outside 1 … 8, a shape that is not weight_packed's, or a
            group that is not there.
    """

    tensors = {  # noqa: RUF012 - a constant mapping
        "s": "weight_scale",
        "u": "weight_packed",
        "z": "weight_zero_point",
        "g": "weight_g_idx",
    }

    def __init__(
        self,
        packed: HostArray,
        scale: Dense,
        *,
        shape: tuple[int, ...],
        bits: int,
        zero_point: HostArray | None = None,
        g_idx: HostArray | None = None,
        group_size: int | None = None,
        aligned: bool | None = None,
    ) -> None:
        self.packed = require_words("weight_packed", packed)
        if len(shape) != 2 or shape[0] != len(packed) or shape[1] < 0:
            raise ValueError(f"weight_shape is {list(shape)}, which weight_packed {packed.shape} cannot hold")
        outputs, inputs = (int(n) for n in shape)
        self.bits, self.shape = bits, (outputs, inputs)
        self.aligned = _aligned(packed.shape[1], inputs, bits) if aligned is None else aligned
        if words_for(inputs, bits, aligned=self.aligned) != packed.shape[1]:
            raise ValueError(f"weight_packed {packed.shape} does not hold {inputs} codes of {bits} bits a row")
        self.scale = scale
        self.stored_scales = _as_matrix(scale, outputs)
        groups = self.stored_scales.shape[1]
        self.g_idx, self.zero_point = g_idx, zero_point
        self.groups = _groups(g_idx, group_size, inputs, groups)
        if zero_point is not None:
            self._require_zeros(zero_point, groups)
        self.format = f"PACKED{bits}"
        self.formula = f"s·(u − {1 << (bits - 1)}{'' if zero_point is None else ' − z'})"
        extra = sum(part.nbytes for part in (zero_point, g_idx) if part is not None)
        self.nbytes = packed.nbytes + scale.nbytes + extra

    def _require_zeros(self, zero: HostArray, groups: int) -> None:
        packed = (words_for(self.shape[0], self.bits, aligned=self.aligned), groups)
        if zero.dtype == np.int8 and zero.size == self.stored_scales.array.size:
            return
        if zero.dtype != np.int32 or zero.shape != packed or len(self.stored_scales.array) != self.shape[0]:
            raise ValueError(
                f"weight_zero_point must be int32 {packed} or int8 like the scale, got {zero.dtype} {zero.shape}"
            )

    def codes(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """`(N,) -> (N, I)` the codes u of these rows."""
        return unpack(self.packed[index], self.bits, self.shape[1], aligned=self.aligned)

    def zeros(self, index: NDArray[np.int64]) -> NDArray[np.int16]:
        """`(N,) -> (N, G)` z + 2^(b−1) of these rows."""
        offset = 1 << (self.bits - 1)
        if self.zero_point is None:
            return np.full((len(index), self.stored_scales.shape[1]), offset, dtype=np.int16)
        if self.zero_point.dtype == np.int8:
            z = self.zero_point.reshape(self.stored_scales.shape)
            return z[index if len(z) == self.shape[0] else np.zeros_like(index)].astype(np.int16) + np.int16(offset)
        return pick(self.zero_point, self.bits, index, axis=0, aligned=self.aligned).astype(np.int16)

    def _scales(self, index: NDArray[np.int64]) -> HostArray:
        return self.stored_scales.take(self._scale_row(index))

    def _scale_row(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        return index if self.stored_scales.shape[0] == self.shape[0] else np.zeros_like(index)

    def _values(self, index: NDArray[np.int64], dtype: np.dtype[Any]) -> HostArray:
        zeros = 1 << (self.bits - 1) if self.zero_point is None else self.zeros(index)
        return scaled(self.codes(index), zeros, self._scales(index), self.groups, dtype)

    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """Scale and code, and zero and group where they are stored, of one element."""
        self._require_element(row, column)
        at, group = np.array([row]), int(self.groups[column])
        number = int(self._scale_row(at)[0]) * self.stored_scales.shape[1] + group
        u = int(pick(self.packed[at], self.bits, np.array([column]), aligned=self.aligned)[0, 0])
        where = places(self.packed.shape, self.bits, column, row, aligned=self.aligned)
        parts = [
            stored_number("s", self.stored_scales.array, number, float(self._scales(at)[0, group])),
            Part("u", where, u, float(u)),
        ]
        if self.zero_point is not None:
            parts.append(self._zero(row, group, number))
        if self.g_idx is not None:
            parts.append(stored_number("g", self.g_idx, column, float(group)))
        return tuple(parts)

    def _zero(self, row: int, group: int, number: int) -> Part:
        assert self.zero_point is not None
        shifted = int(self.zeros(np.array([row]))[0, group])
        z = shifted - (1 << (self.bits - 1))
        if self.zero_point.dtype == np.int8:
            return Part("z", (Bits(number, 0, 8),), z & 255, float(z))
        where = places(self.zero_point.shape, self.bits, row, group, axis=0, aligned=self.aligned)
        return Part("z", where, shifted, float(z))


def _aligned(words: int, inputs: int, bits: int) -> bool:
    verdict = detect.alignment(words, inputs, bits)
    if verdict.answer is None:
        raise ValueError(f"weight_packed: {verdict.reason}; {verdict.remedy or 'is it another layer?'}")
    return verdict.answer == "aligned"


def _as_matrix(scale: Dense, outputs: int) -> Dense:
    """The scales as (O, G), or (1, 1) for the whole tensor."""
    shape = scale.shape if isinstance(scale, Dense) else ()
    if len(shape) == 1:
        shape = (shape[0], 1)
    if len(shape) != 2 or shape[0] not in (1, outputs) or (shape[0] != outputs and shape[1] != 1) or shape[1] == 0:
        raise ValueError(f"weight_scale must have shape ({outputs}, groups), ({outputs},) or (1,), got {shape}")
    return require_scales("weight_scale", Dense(scale.array.reshape(shape), format=scale.format), shape)


def _groups(g_idx: HostArray | None, group_size: int | None, inputs: int, groups: int) -> NDArray[np.int64]:
    if g_idx is not None:
        return require_groups("weight_g_idx", g_idx, inputs, groups)
    size = group_size
    if size is None:
        size = inputs // groups if inputs % groups == 0 else 0
    if size < 1 and inputs:
        raise ValueError(f"{inputs} inputs are not {groups} equal groups; pass group_size or weight_g_idx")
    if inputs and -(-inputs // size) != groups:
        raise ValueError(
            f"{inputs} inputs in groups of {size} make {-(-inputs // size)}, but weight_scale has {groups}"
        )
    return np.arange(inputs) // max(1, size)
