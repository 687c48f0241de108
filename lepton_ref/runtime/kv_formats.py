"""Keys and values as small numbers with scales: what a cache made with `kv_cache="int8"` remembers of them.

Each vector of a head, one token's key or value, is encoded alone and once, when it is appended, in groups of 32 or 64
along the head's width (the last may be smaller). With amax the group's largest |x|:

    int8    s = amax/127    q = x/s to an integer, −127 … 127           a byte
    int4    s = amax/7      q = x/s to an integer, −7 … 7               half a byte, the even element in the low half
    fp8     s = amax/448    q = x/s to E4M3FN, beyond ±448 the largest  a byte

s is rounded to bfloat16, at least 2⁻¹³³, its least number; x/s is the quotient by that s; both to nearest even. A group
of zeros has s = 1; one with NaN or an infinity is NaN throughout. What attention is given is s·q, rounded once to the
format of activations: s has 8 bits and q 7, and neither is below 2⁻¹³³ and 2⁻⁹, so that s·q is a float32 number, but at
the very end of float32, where it may overflow. Queries are not encoded, and a run without a cache encodes nothing.

Because no number of a group comes from another token, sequence or head, the results do not depend on the batch, on how
a prompt is cut into chunks, or on the machine. Why float64 rounds the quotients once: x has 24 bits (activations of 53,
under "float64", are taken as float64 divides them), s 8 and a midpoint at most 9; amax likewise, 127 and a midpoint of
bfloat16: what is not a midpoint is 2⁻³³ of itself away from one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.formats import decode_array, encode_array, round_array
from lepton_ref.storage.byte_codes import pack, row_bytes, unpack
from lepton_ref.storage.dense import decode_bf16

Codes = NDArray[np.uint8]
ScaleBits = NDArray[np.uint16]

DENSE = "dense"
"""The name of a cache that keeps keys and values as they are."""

LEAST_SCALE = 2.0**-133


@dataclass(frozen=True)
class KVFormat:
    """How a cache stores a vector.

    Attributes:
        name: what `lepton_ref.load(kv_cache=…)` and `new_cache(kv_cache=…)` take.
        number: the number format of q.
        largest: the greatest |q|.
        bits: the width of a code.
        group: neighbours of a vector that share a scale.
    """

    name: str
    number: str
    largest: float
    bits: int
    group: int

    def code_bytes(self, width: int) -> int:
        """Bytes of the codes of a vector of this width."""
        return row_bytes(width, self.bits)

    def groups(self, width: int) -> int:
        """Scales of a vector of this width; each takes two bytes."""
        return -(-width // self.group)

    def encode(self, x: NDArray[np.floating]) -> tuple[Codes, ScaleBits]:
        """`(..., K) -> (..., bytes of codes), (..., groups)` float32 or float64 to codes and bfloat16 scales."""
        width = x.shape[-1]
        wide = self.groups(width) * self.group
        padded = np.zeros((*x.shape[:-1], wide))  # zeros change no group's largest number
        padded[..., :width] = x
        blocks = padded.reshape(*x.shape[:-1], self.groups(width), self.group)
        healthy: NDArray[np.bool_] = np.asarray(np.isfinite(blocks).all(axis=-1))
        amax = np.where(healthy, np.abs(np.where(healthy[..., None], blocks, 0.0)).max(axis=-1), 0.0)
        quotient = np.where(amax > 0, amax / self.largest, 1.0)
        scale = np.maximum(round_array(quotient, "bf16", saturate=True), LEAST_SCALE)
        exact = np.where(healthy[..., None], blocks, 0.0) / scale[..., None]
        q = np.clip(round_array(exact, self.number, saturate=True), -self.largest, self.largest)
        codes = encode_array(q.reshape(padded.shape)[..., :width], self.number)
        bits = encode_array(np.where(healthy, scale, np.nan), "bf16")
        return pack(codes.astype(np.uint8), self.bits), bits.astype(np.uint16)

    def decode(self, codes: Codes, scales: ScaleBits, *, width: int, activations: str) -> NDArray[np.float32]:
        """`(..., bytes of codes), (..., groups) -> (..., K)` float32, numbers of the format of activations."""
        values = decode_array(np.arange(1 << self.bits), self.number).astype(np.float32)
        q: NDArray[np.float32] = values[unpack(codes, self.bits, width)]
        with np.errstate(over="ignore"):
            q *= np.repeat(decode_bf16(scales), self.group, axis=-1)[..., :width]
        if activations in ("fp32", "fp64"):
            return q
        return round_array(q.astype(np.float64), activations).astype(np.float32)


def _formats(name: str, number: str, largest: float, bits: int) -> list[KVFormat]:
    return [KVFormat(name if g == 32 else f"{name}-{g}", number, largest, bits, g) for g in (32, 64)]


KV_FORMATS: Mapping[str, KVFormat] = MappingProxyType(
    {
        each.name: each
        for each in [
            *_formats("int8", "int8", 127.0, 8),
            *_formats("int4", "int4", 7.0, 4),
            *_formats("fp8", "e4m3fn", 448.0, 8),
        ]
    }
)
"""Name → format: groups of 32, or of 64 where the name says so."""


def get_kv_format(name: str, /) -> KVFormat | None:
    """The format of that name; None for "dense".

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name == DENSE:
        return None
    if not isinstance(name, str) or name not in KV_FORMATS:
        raise ValueError(f"unknown kv_cache {name!r}; known: {', '.join([DENSE, *KV_FORMATS])}")
    return KV_FORMATS[name]
