"""Examples of the formats whose matrices lie in several tensors of a file, or in a cache of keys and values."""

from __future__ import annotations

import numpy as np
from format_samples import Sample, Tensors, codes, matrix, scales, stream
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.numerics.formats import decode_array
from lepton_ref.runtime.kv_formats import KV_FORMATS
from lepton_ref.storage import Dense, Weight
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.awq import AWQ, pack_awq
from lepton_ref.storage.bitstream import pack, words_for
from lepton_ref.storage.bnb4 import BitsAndBytes4, Nested
from lepton_ref.storage.bnb8 import BitsAndBytes8
from lepton_ref.storage.byte_codes import bits_of
from lepton_ref.storage.byte_codes import pack as pack_bytes
from lepton_ref.storage.dense import decode_bf16
from lepton_ref.storage.fp8 import FP8
from lepton_ref.storage.gptq import GPTQ
from lepton_ref.storage.layout import Bits, Part
from lepton_ref.storage.mx import BLOCK, ELEMENTS, MX
from lepton_ref.storage.nvfp4_two_level import GROUP, NAMES, NVFP4TwoLevel
from lepton_ref.storage.pack_quantized import PackQuantized
from lepton_ref.storage.scales import Per, Scales, tile_of, tiles

Shape = tuple[int, int]


def gptq(title: str, shape: Shape, *, bits: int, version: int, group: int) -> Sample:
    """Zeros are such that version 1 stores none as 2^b − 1, which is refused."""
    outputs, inputs = shape
    groups = inputs // group
    zeros = codes("z", (groups, outputs), bits) >> 1
    tensors = {
        "qweight": pack(codes("qweight", (inputs, outputs), bits), bits, axis=0),
        "qzeros": pack(zeros, bits, axis=1),
        "scales": scales((groups, outputs), "F16"),
    }

    def make(t: Tensors) -> Weight:
        stored = Dense(t["scales"], format="F16")
        return GPTQ(t["qweight"], t["qzeros"], stored, bits=bits, version=version, group_size=group)

    return matrix(title, tensors, make)


def awq(title: str, shape: Shape, *, group: int) -> Sample:
    """Codes and zeros of 4 bits."""
    outputs, inputs = shape
    tensors = {
        "qweight": pack_awq(codes("AWQ", (inputs, outputs), 4)),
        "qzeros": pack_awq(codes("z", (inputs // group, outputs), 4)),
        "scales": scales((inputs // group, outputs), "F16"),
    }
    return matrix(title, tensors, lambda t: AWQ(t["qweight"], t["qzeros"], Dense(t["scales"], format="F16")))


def packed(
    title: str, shape: Shape, *, bits: int, group: int, zeros: bool = False, aligned: bool = False
) -> Sample:  # fmt: skip
    """compressed-tensors' pack-quantized, symmetric or with packed zeros."""
    outputs, inputs = shape
    groups = inputs // group
    tensors: dict[str, HostArray] = {
        "weight_packed": pack(codes("packed", shape, bits), bits, aligned=aligned),
        "weight_scale": scales((outputs, groups), "BF16"),
    }
    if zeros:
        tensors["weight_zero_point"] = pack(codes("z", (outputs, groups), bits), bits, axis=0)

    def make(t: Tensors) -> Weight:
        return PackQuantized(
            t["weight_packed"], Dense(t["weight_scale"], format="BF16"), shape=shape, bits=bits,
            zero_point=t.get("weight_zero_point"), aligned=aligned,
        )  # fmt: skip

    assert words_for(inputs, bits, aligned=aligned) == tensors["weight_packed"].shape[1]
    return matrix(title, tensors, make)


def bnb4(title: str, shape: Shape, *, kind: str, double: bool = False) -> Sample:
    """Blocks of 64; A of double quantisation is c/255 here, where files have a table of their own."""
    count = shape[0] * shape[1]
    blocks = count // 64
    tensors: dict[str, HostArray] = {"weight": stream(kind, count // 2)}
    if not double:
        tensors["weight.absmax"] = scales((blocks,), "F32")
        return matrix(
            title, tensors,
            lambda t: BitsAndBytes4(t["weight"], Dense(t["weight.absmax"], format="F32"), shape=shape, kind=kind),
        )  # fmt: skip
    tensors["weight.absmax"] = stream("absmax", blocks)
    tensors["weight.nested_absmax"] = scales((-(-blocks // 256),), "F32")
    table = Dense((np.arange(256) / 255).astype("<f4"), format="F32")

    def make(t: Tensors) -> Weight:
        nested = Nested(t["weight.absmax"], table, Dense(t["weight.nested_absmax"], format="F32"), offset=0.0625)
        return BitsAndBytes4(t["weight"], None, shape=shape, kind=kind, nested=nested)

    return matrix(title, tensors, make)


def bnb8(title: str, shape: Shape) -> Sample:
    """A signed byte an element."""
    tensors = {
        "weight": stream("BNB8", shape[0] * shape[1]).view(np.int8).reshape(shape),
        "SCB": scales(shape[:1], "F32"),
    }
    return matrix(title, tensors, lambda t: BitsAndBytes8(t["weight"], Dense(t["SCB"], format="F32")))


def fp8(title: str, shape: Shape, *, format: str, per: Per) -> Sample:
    """A byte an element, without the codes of NaN and infinity: they lie at the end and at 0x80."""
    tile = tile_of(per, shape)
    tensors = {
        "weight": (stream(format, shape[0] * shape[1]) % 0x78).reshape(shape),
        "weight_scale": scales(tiles(shape, tile), "F32"),
    }
    return matrix(
        title, tensors, lambda t: FP8(t["weight"], Scales(t["weight_scale"], "F32"), format=format, tile=tile)
    )


def mx(title: str, shape: Shape, *, format: str) -> Sample:
    """Blocks of 32 with scales about 2⁻⁶."""
    number, _ = ELEMENTS[format]
    bits = {"e4m3fn": 8, "e5m2": 8, "int8": 8, "e3m2": 6, "e2m3": 6, "e2m1": 4}[number]
    some = codes(format, shape, bits)
    some = some % 0x78 if bits == 8 and number != "int8" else some
    exponents = (121 + np.arange(shape[0] * shape[1] // BLOCK)[:, np.newaxis] % 3).astype(np.uint8)
    tensors = {"weight_packed": pack_bytes(some, bits), "weight_scale": exponents.reshape(shape[0], -1)}
    return matrix(title, tensors, lambda t: MX(t["weight_packed"], t["weight_scale"], format=format))


def nvfp4(title: str, shape: Shape, *, convention: str) -> Sample:
    """Groups of 16 below one number for the whole matrix."""
    groups, names = shape[1] // GROUP, NAMES[convention]
    tensors = {
        names["q"]: stream("NVFP4", shape[0] * shape[1] // 2).reshape(shape[0], -1),
        names["s"]: (0x50 + 5 * np.arange(shape[0] * groups) % 0x20).astype(np.uint8).reshape(shape[0], groups),
        names["G"]: np.array([1e-3 if convention == "multiply" else 1e3], dtype="<f4"),
    }

    def make(t: Tensors) -> Weight:
        return NVFP4TwoLevel(t[names["q"]], t[names["s"]], float(t[names["G"]][0]), convention=convention)

    return matrix(title, tensors, make)


def affine(title: str, shape: Shape, *, bits: int, per: Per, zeros: bool) -> Sample:
    """Small integers, symmetric or with zero points."""
    tile = tile_of(per, shape)
    tensors: dict[str, HostArray] = {
        "weight": pack_bytes(codes("affine", shape, bits), bits),
        "weight_scale": scales(tiles(shape, tile), "F32"),
    }
    if zeros:
        tensors["weight_zero_point"] = codes("z", tiles(shape, tile), bits)

    def make(t: Tensors) -> Weight:
        return Affine(
            t["weight"], Scales(t["weight_scale"], "F32"), t.get("weight_zero_point"),
            bits=bits, columns=shape[1], tile=tile,
        )  # fmt: skip

    return matrix(title, tensors, make)


class Cached(Weight):
    """Vectors of one head in a cache, as a matrix (tokens, head width) that says where its elements lie."""

    formula = "s·q"
    tensors = {"q": "codes", "s": "scales"}  # noqa: RUF012 - a constant mapping

    def __init__(self, codes: NDArray[np.uint8], scales: NDArray[np.uint16], *, format: str, width: int) -> None:
        self.codes, self.scales, self.kv = codes, scales, KV_FORMATS[format]
        self.format, self.shape, self.nbytes = f"KV_{format}", (len(codes), width), codes.nbytes + scales.nbytes

    def rows(self, start: int, stop: int, /) -> HostArray:
        """`(stop - start, K)` float32, as attention is given them."""
        return self.kv.decode(self.codes[start:stop], self.scales[start:stop], width=self.shape[1], activations="fp32")

    def take(self, index: NDArray[np.int64], /) -> HostArray:
        """`(N,) -> (N, K)`."""
        return self.kv.decode(self.codes[index], self.scales[index], width=self.shape[1], activations="fp32")

    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """The scale of the group and the code."""
        group = column // self.kv.group
        at = 2 * (row * self.scales.shape[1] + group)
        where = bits_of(row * self.codes.shape[1], column, self.kv.bits)
        stored, code, shift = self.codes.tobytes(), 0, 0
        for bits in where:
            code |= bits.of(stored) << shift
            shift += bits.width
        s = self.scales[row, group]
        return (
            Part("s", (Bits(at, 0, 8), Bits(at + 1, 0, 8)), int(s), float(decode_bf16(s[np.newaxis])[0])),
            Part("q", where, code, float(decode_array(np.array([code]), self.kv.number)[0])),
        )


def cached(title: str, shape: Shape, *, format: str) -> Sample:
    """What is encoded are multiples of 1/16 between −2 and 2."""
    x = ((37 * np.arange(shape[0] * shape[1]) % 64 - 31.5) / 16).reshape(shape)
    found, bits = KV_FORMATS[format].encode(x)
    tensors: dict[str, HostArray] = {"codes": found, "scales": bits}
    return matrix(title, tensors, lambda t: Cached(t["codes"], t["scales"], format=format, width=shape[1]))
