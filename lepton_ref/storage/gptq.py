"""GPTQ checkpoints: codes of 2, 3, 4 or 8 bits packed along the inputs. Value s·(q − z).

    qweight   int32 (⌈I·b/32⌉, O): the codes of output o run down column o, a dense stream of b bits
    qzeros    int32 (G, ⌈O·b/32⌉): the zeros of group g run along row g
    scales    (G, O), F16, BF16 or F32
    g_idx     int32 (I,): the group of each input; absent, input i is in group ⌊i/group_size⌋

Version 1 stores z − 1 modulo 2^b, version 2 stores z: `lepton_ref.storage.detect.gptq_version`. Of the stored zero
2^b − 1 in version 1 engines make 0, 2^b or a carry into the next zero; here it is 0, and loading refuses such a file.
A code of 3 bits may lie in two words: code 10 has two bits in word 0 and one in word 1, code 21 one in word 1 and two
in word 2.

Engines. AutoGPTQ and GPTQModel compute scales·(q − z) in the scales' dtype: one rounding to float16 or bfloat16, which
ours does not have. For the stored zero 2^b − 1 of version 1 AutoGPTQ's cuda-old layer gives z = 0 and its cuda layer
z = 2^b; GPTQModel adds 1 to every field of the packed words, carries and all. Kernels made for `desc_act: false` do not
look at g_idx.
Source: AutoGPTQ 0.7.1, nn_modules/qlinear/qlinear_cuda_old.py and qlinear_cuda.py; GPTQModel 7, utils/model.py and
nn_modules/qlinear/__init__.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.storage import detect
from lepton_ref.storage.bitstream import pick, places, unpack, words_for
from lepton_ref.storage.dense import Dense
from lepton_ref.storage.layout import Part
from lepton_ref.storage.packed import (
    Packed,
    columns,
    require_groups,
    require_scales,
    require_words,
    scaled,
    stored_number,
)

BITS = (2, 3, 4, 8)


class GPTQ(Packed):
    """A matrix of a GPTQ checkpoint.

    Args:
        qweight: the packed codes.
        qzeros: the packed zeros.
        scales: `(G, O)`.
        bits: of a code: 2, 3, 4 or 8.
        version: 1 where z − 1 is stored, 2 where z is.
        g_idx: `(I,)` the group of each input.
        group_size: inputs of a group where there is no g_idx; −1 is all.

    Raises:
        ValueError: a tensor of another dtype or shape, bits or a version that there is not, a group that is not there,
            or neither g_idx nor group_size.
    """

    formula = "s·(q − z)"
    tensors = {"q": "qweight", "z": "qzeros", "s": "scales", "g": "g_idx"}  # noqa: RUF012 - a constant mapping

    def __init__(
        self,
        qweight: HostArray,
        qzeros: HostArray,
        scales: Dense,
        *,
        bits: int,
        version: int,
        g_idx: HostArray | None = None,
        group_size: int | None = None,
    ) -> None:
        if bits not in BITS:
            raise ValueError(f"GPTQ codes have 2, 3, 4 or 8 bits, got {bits!r}")
        if version not in (1, 2):
            raise ValueError(f"GPTQ has versions 1 (z − 1 is stored) and 2 (z is), got {version!r}")
        self.qweight = require_words("qweight", qweight)
        self.qzeros = require_words("qzeros", qzeros)
        self.bits, self.version = int(bits), int(version)
        groups, outputs = len(qzeros), qweight.shape[1]
        if isinstance(scales, Dense) and detect.packing(qweight.shape, scales.shape, bits).answer == "awq":
            raise ValueError(f"qweight {qweight.shape} beside scales {scales.shape} is AWQ's layout; set quant_method")
        self.scales = require_scales("scales", scales, (groups, outputs))
        if qzeros.shape[1] != words_for(outputs, bits):
            wanted = words_for(outputs, bits)
            raise ValueError(f"qzeros {qzeros.shape} must have {wanted} columns for {outputs} outputs of {bits} bits")
        inputs = len(qweight) * 32 // bits if g_idx is None else g_idx.size
        if words_for(inputs, bits) != len(qweight):
            raise ValueError(f"qweight {qweight.shape} of {bits} bits does not hold {inputs} inputs, as g_idx says")
        self.g_idx = g_idx
        self.groups = require_groups("g_idx", _groups(g_idx, group_size, inputs, groups), inputs, groups)
        self.format = f"GPTQ{bits}_v{version}"
        self.shape = (outputs, inputs)
        self.nbytes = sum(part.nbytes for part in (qweight, qzeros, scales)) + (0 if g_idx is None else g_idx.nbytes)

    def codes(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """`(N,) -> (N, I)` the codes q of these rows."""
        return unpack(np.ascontiguousarray(self.qweight[:, index].T), self.bits, self.shape[1])

    def zeros(self, index: NDArray[np.int64]) -> NDArray[np.int16]:
        """`(N,) -> (N, G)` the zeros z of these rows, the 1 of version 1 added."""
        stored = pick(self.qzeros, self.bits, index, axis=1).T.astype(np.int16)
        return (stored + 1) & ((1 << self.bits) - 1) if self.version == 1 else stored

    def _values(self, index: NDArray[np.int64], dtype: np.dtype[Any]) -> HostArray:
        return scaled(self.codes(index), self.zeros(index), columns(self.scales, index), self.groups, dtype)

    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """Scale, code, zero and, where it is stored, the group of one element. A part's value is what it stands for."""
        self._require_element(row, column)
        at, group = np.array([row]), int(self.groups[column])
        q, z = int(self.codes(at)[0, column]), int(self.zeros(at)[0, group])
        stored = int(pick(self.qzeros, self.bits, at, axis=1)[group, 0])
        s = float(columns(self.scales, at)[0, group])
        parts = (
            stored_number("s", self.scales.array, group * self.shape[0] + row, s),
            Part("q", places(self.qweight.shape, self.bits, column, row, axis=0), q, float(q)),
            Part("z", places(self.qzeros.shape, self.bits, row, group), stored, float(z)),
        )
        return parts if self.g_idx is None else (*parts, stored_number("g", self.g_idx, column, float(group)))


def _groups(g_idx: HostArray | None, group_size: int | None, inputs: int, groups: int) -> HostArray:
    if g_idx is not None:
        return g_idx
    if group_size is None or group_size == 0 or group_size < -1:
        raise ValueError(f"without g_idx group_size must be positive, or -1 for all inputs; got {group_size}")
    size = max(1, inputs) if group_size == -1 else group_size
    if -(-inputs // size) != groups:
        raise ValueError(
            f"{inputs} inputs in groups of {size} make {-(-inputs // size)} groups, but scales have {groups}"
        )
    return np.arange(inputs) // size
