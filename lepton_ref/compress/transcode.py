r"""From one storage format to another: without loss where that is proven, else with a certificate of the error.

Proofs, all in real numbers; d is the block's fp16 scale, which is taken over bit by bit, so NaN and infinite scales are
covered but where a minimum is made.

    F16, BF16 → F32 → F64    every number of the first is one of the next
    any block format → F32   what `decode` gives is a float32 number
    Q4_0 → Q5_0    d·(q − 8) = d·(q' − 16) with q' = q + 8, and 8 ≤ q' ≤ 23 has five bits
    Q4_0 → Q8_0    d·(q − 8) = d·q' with q' = q − 8, and −8 ≤ q' ≤ 7 is an int8
    Q5_0 → Q8_0    d·(q − 16) = d·q' with q' = q − 16, and −16 ≤ q' ≤ 15 is an int8
    IQ4_NL → Q8_0  d·K[q] = d·q' with q' = K[q], and every level is an int8
    Q4_1 → Q5_1    d·q + m with the same d, q and m
    Q4_0 → Q4_1    d·(q − 8) = d·q + m with m = −8d: eight times an fp16 number is one, subnormal or not, unless it is
                   beyond 65504; a block where it is, or whose d is not finite, refuses. A zero that was −0 becomes +0.
    Q5_0 → Q5_1    the same with m = −16d

Elsewhere rows are decoded and encoded again. The certificate's `largest` is |Δ| over every element, of the closed
forms, rounded up: a bound for this tensor. `bound` is one for any tensor, where there is one. For Q8_0, |x/d₀ − q| ≤ ½
with d₀ = amax/127, and fp16 moves d₀ by at most 2⁻¹¹ of itself or 2⁻²⁵, hence |Δ| ≤ d₀/2 + 127·max(2⁻¹¹·d₀, 2⁻²⁵),
and 2⁻²⁰ of it for float32's own roundings. For F16 and BF16 it is half a unit of the largest number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.storage import DENSE_FORMATS, FORMATS, decode, encode
from lepton_ref.storage.bits import nibbles

Bytes = NDArray[np.uint8]

FP16_LARGEST = 65504.0
"""Below it no scale of any format overflows."""


@dataclass(frozen=True)
class Certificate:
    """What a transcoding did to the values.

    Attributes:
        source: the format before.
        target: the format after.
        lossless: every value is proven to be the same.
        largest: the largest |Δ| of all elements, rounded up; 0 where it is lossless.
        bound: what |Δ| can be at most by theorem; None where no theorem is known.
    """

    source: str
    target: str
    lossless: bool
    largest: float
    bound: float | None

    def __str__(self) -> str:
        if self.lossless:
            return f"{self.source} → {self.target}: lossless"
        shown = "" if self.bound is None else f", proven ≤ {self.bound:.9g}"
        return f"{self.source} → {self.target}: |Δ| ≤ {self.largest:.9g} measured{shown}"


def transcode(source: str, target: str, raw: Bytes, /) -> tuple[Bytes, Certificate]:
    """`(..., bytes of whole blocks) -> (..., bytes of whole blocks)` rows of one format in another.

    Args:
        source: the format of `raw`.
        target: another format, or the same.
        raw: uint8, as `lepton_ref.storage.decode` takes it.

    Raises:
        ValueError: an unknown format, rows that are not whole blocks of either, or values that blocks cannot hold.
    """
    exact = lossless(source, target, raw)
    if exact is not None:
        return exact, Certificate(source, target, True, 0.0, 0.0)
    values = decode(source, raw)
    made = encode(target, values)
    return made, Certificate(source, target, False, _largest(source, target, raw, made), _bound(target, values))


def lossless(source: str, target: str, raw: Bytes, /) -> Bytes | None:
    """The same values in another format, by one of the proofs above; None where none holds for these bytes.

    Raises:
        ValueError: an unknown source, or rows that are not whole blocks.
    """
    values = decode(source, raw[..., :0])  # checks the format and the dtype
    if source == target:
        return raw.copy()
    if target == "F64" and source in DENSE_FORMATS:
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            return encode("F64", decode(source, raw).astype(np.float64))
    if target == "F32" and values.dtype == np.float32:
        return encode("F32", decode(source, raw))
    if (source, target) not in MAPS:
        return None
    length, nbytes = FORMATS[source].length, FORMATS[source].nbytes
    if raw.shape[-1] % nbytes:
        raise ValueError(f"{source} takes rows of whole {nbytes}-byte blocks, got {raw.shape}")
    assert FORMATS[target].length == length, "the formats of the table have blocks of one length"
    made = MAPS[source, target](np.ascontiguousarray(raw).reshape(-1, nbytes))
    if made is None:
        return None
    return made.reshape(*raw.shape[:-1], raw.shape[-1] // nbytes * FORMATS[target].nbytes)


def _codes_4(packed: Bytes) -> Bytes:
    return nibbles(packed).reshape(len(packed), 32)


def _codes_5(blocks: Bytes) -> Bytes:
    """The codes of Q5_0: d, qh, qs."""
    high = np.unpackbits(blocks[:, 2:6], axis=1, bitorder="little")
    return np.asarray(_codes_4(blocks[:, 6:]) | high << 4, dtype=np.uint8)


def _as_5(head: Bytes, codes: Bytes) -> Bytes:
    """`head` before qh and qs of these five-bit codes."""
    high = np.packbits(codes >> 4, axis=1, bitorder="little")
    low = codes & 15
    return np.concatenate([head, high, low[:, :16] | low[:, 16:] << 4], axis=1)


def _as_8(scale: Bytes, codes: NDArray[np.int16]) -> Bytes:
    return np.concatenate([scale, codes.astype(np.int8).view(np.uint8)], axis=1)


def _minimum(scale: Bytes, times: int) -> Bytes | None:
    """−times·d as fp16, exact; None where some block has none."""
    with np.errstate(invalid="ignore"):  # a signalling NaN
        d = np.ascontiguousarray(scale).view("<f2").astype(np.float64)
        m = -times * d
    if not (np.abs(m) <= 65504).all():  # NaN fails too
        return None
    return m.astype("<f2").view(np.uint8)


def _q4_0_to_q4_1(blocks: Bytes) -> Bytes | None:
    m = _minimum(blocks[:, :2], 8)
    return None if m is None else np.concatenate([blocks[:, :2], m, blocks[:, 2:]], axis=1)


def _q5_0_to_q5_1(blocks: Bytes) -> Bytes | None:
    m = _minimum(blocks[:, :2], 16)
    return None if m is None else np.concatenate([blocks[:, :2], m, blocks[:, 2:]], axis=1)


def _iq4_nl_to_q8_0(blocks: Bytes) -> Bytes:
    from lepton_ref.storage.iq4_nl import LEVELS

    return _as_8(blocks[:, :2], np.array(LEVELS, dtype=np.int16).take(_codes_4(blocks[:, 2:])))


MAPS: Mapping[tuple[str, str], Callable[[Bytes], Bytes | None]] = MappingProxyType(
    {
        ("Q4_0", "Q5_0"): lambda b: _as_5(b[:, :2], _codes_4(b[:, 2:]) + np.uint8(8)),
        ("Q4_0", "Q8_0"): lambda b: _as_8(b[:, :2], _codes_4(b[:, 2:]).astype(np.int16) - 8),
        ("Q5_0", "Q8_0"): lambda b: _as_8(b[:, :2], _codes_5(b).astype(np.int16) - 16),
        ("IQ4_NL", "Q8_0"): _iq4_nl_to_q8_0,
        ("Q4_1", "Q5_1"): lambda b: _as_5(b[:, :4], _codes_4(b[:, 4:])),
        ("Q4_0", "Q4_1"): _q4_0_to_q4_1,
        ("Q5_0", "Q5_1"): _q5_0_to_q5_1,
    }
)
"""(source, target) → from blocks to blocks of the same values."""


def _closed(name: str, raw: Bytes) -> NDArray[np.float64]:
    """The closed form of the values."""
    if name in FORMATS:
        return np.asarray(FORMATS[name].values(raw, rounded=False), dtype=np.float64)
    return decode(name, raw).astype(np.float64)


def _largest(source: str, target: str, raw: Bytes, made: Bytes) -> float:
    with np.errstate(invalid="ignore"):
        a, b = _closed(source, raw), _closed(target, made)
        error = np.abs(np.where(a == b, 0.0, a - b))
    if not error.size:
        return 0.0
    worst = float(error.max())  # NaN where a number was lost
    return math.inf if math.isnan(worst) else 0.0 if worst == 0 else math.nextafter(worst, math.inf)


def _bound(target: str, values: HostArray) -> float | None:
    amax = float(np.max(np.abs(values), initial=0.0))
    if not math.isfinite(amax):
        return None
    if target == "Q8_0":
        d = amax / 127
        return (d / 2 + 127 * max(d * 2.0**-11, 2.0**-25)) * (1 + 2.0**-20) if d <= 65504 else None
    if target == "F16":
        return max(amax * 2.0**-11, 2.0**-25) if amax <= 65504 else None
    if target == "BF16":
        return max(amax * 2.0**-8, 2.0**-134)
    return None


def require_reached(x: HostArray, raw: NDArray[np.uint8], name: str, /) -> None:
    """Raise ValueError where bytes that were made of finite numbers decode to others: a scale was beyond its format.

    Args:
        x: (..., N) what was encoded.
        raw: (..., bytes) its encoding.
        name: in which format.
    """
    finite = np.isfinite(x)
    reach = float(np.max(np.abs(x), initial=0.0, where=finite))
    if name != "F64" and reach > FP16_LARGEST and not np.isfinite(decode(name, raw)[finite]).all():
        raise ValueError(f"it reaches {reach:g}, which {name} cannot hold; give it F32 or BF16, by --tensor NAME=BF16")
