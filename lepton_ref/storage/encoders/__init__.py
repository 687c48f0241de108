"""How numbers become blocks: the choice of scales and codes, one family of formats a file.

The files here follow ggml's reference encoders where there is one, operation by operation in float32, so that the bytes
are those that everybody's files have. K-quants, and what has weights, are searched for in another way than ggml's, with
less error, and still with the same bytes on every machine. What looks at activations is `lepton_ref.compress`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.numerics.formats import round_array
from lepton_ref.storage.dense import FORMATS as DENSE_FORMATS
from lepton_ref.storage.encoders import fp4, iq4, iq_lattice, k_quants, legacy, ternary

Floats = NDArray[np.float32]
Encoder: TypeAlias = Callable[[Floats, Floats | None], NDArray[np.uint8]]
"""`(N, length) float32, weights of that shape or None -> (N, nbytes) uint8`."""

ENCODERS: Mapping[str, Encoder] = MappingProxyType(
    {
        "Q1_0": legacy.encode_q1_0,
        "Q2_0": legacy.encode_q2_0,
        "Q4_0": legacy.encode_q4_0,
        "Q4_1": legacy.encode_q4_1,
        "Q5_0": legacy.encode_q5_0,
        "Q5_1": legacy.encode_q5_1,
        "Q8_0": legacy.encode_q8_0,
        "Q8_1": legacy.encode_q8_1,
        "Q8_K": legacy.encode_q8_k,
        "Q2_K": k_quants.encode_q2_k,
        "Q3_K": k_quants.encode_q3_k,
        "Q4_K": k_quants.encode_q4_k,
        "Q5_K": k_quants.encode_q5_k,
        "Q6_K": k_quants.encode_q6_k,
        "TQ1_0": ternary.encode_tq1_0,
        "TQ2_0": ternary.encode_tq2_0,
        "MXFP4": fp4.encode_mxfp4,
        "NVFP4": fp4.encode_nvfp4,
        "IQ4_NL": iq4.encode_iq4_nl,
        "IQ4_XS": iq4.encode_iq4_xs,
        "IQ3_S": iq_lattice.encode_iq3_s,
        "IQ3_XXS": iq_lattice.encode_iq3_xxs,
        "IQ2_S": iq_lattice.encode_iq2_s,
        "IQ2_XS": iq_lattice.encode_iq2_xs,
        "IQ2_XXS": iq_lattice.encode_iq2_xxs,
        "IQ1_M": iq_lattice.encode_iq1_m,
        "IQ1_S": iq_lattice.encode_iq1_s,
    }
)
"""Name → encoder of a block format."""

ONE_LEVEL = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")
K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
WEIGHTED: frozenset[str] = frozenset({*ONE_LEVEL, *K_QUANTS, "IQ4_NL", "IQ4_XS", *iq_lattice.FORMS})
"""The formats whose encoders take weights."""

AT_ONCE = 1 << 16
"""Elements that are encoded at a time, so that the temporaries of an encoder stay in a core's cache."""


def encode_dense(name: str, array: HostArray) -> NDArray[np.uint8]:
    """`(..., N) -> (..., bytes)` each number rounded once, to nearest even; NaN and infinities stay.

    Raises:
        ValueError: not an array of floats, or no axis.
    """
    if array.ndim == 0 or array.dtype.kind != "f" or array.dtype.itemsize > 8:  # longer ones would round twice
        raise ValueError(f"{name} encodes an array of float16, 32 or 64, got {array.dtype} {array.shape}")
    dtype = DENSE_FORMATS[name]
    with np.errstate(all="ignore"):
        if name == "BF16":
            wide = round_array(array.astype(np.float64), "bf16").astype(np.float32)
            stored = (wide.view(np.uint32) >> np.uint32(16)).astype(dtype)
        else:
            stored = array.astype(dtype)
    return np.ascontiguousarray(stored).view(np.uint8).reshape(*array.shape[:-1], array.shape[-1] * dtype.itemsize)


def encode_blocks(name: str, array: HostArray, weights: HostArray | None) -> NDArray[np.uint8]:
    """`(..., elements) -> (..., bytes of whole blocks)`; see `lepton_ref.storage.encode`."""
    from lepton_ref.storage import FORMATS

    if name not in ENCODERS:
        raise ValueError(f"there is no encoder of {name!r}; known: {', '.join([*DENSE_FORMATS, *ENCODERS])}")
    block = FORMATS[name]
    if array.ndim == 0 or array.shape[-1] % block.length:
        raise ValueError(
            f"{name} stores blocks of {block.length} along the last axis, got {array.shape}; pad or use Q8_0"
        )
    x = np.ascontiguousarray(_floats("the array", array)).reshape(-1, block.length)
    many: Floats | None = None
    if weights is not None:
        if name not in WEIGHTED:
            raise ValueError(
                f"{name} has one encoding and takes no weights; those that do: {', '.join(sorted(WEIGHTED))}"
            )
        many = _for_each(_floats("weights", weights), array.shape).reshape(-1, block.length)
        if many.size and many.min() < 0:
            raise ValueError(f"weights must not be negative, got {many.min():g}")
    out = np.empty((len(x), block.nbytes), dtype=np.uint8)
    step = max(1, AT_ONCE // block.length)
    for at in range(0, len(x), step):
        here = slice(at, at + step)
        with np.errstate(all="ignore"):  # a scale beyond fp16 is infinite, 1/d of a tiny one too
            out[here] = ENCODERS[name](x[here], None if many is None else many[here])
    return out.reshape(*array.shape[:-1], array.shape[-1] // block.length * block.nbytes)


def _for_each(weights: Floats, shape: tuple[int, ...]) -> Floats:
    """The weights, one for each element."""
    try:
        return np.broadcast_to(weights, shape)
    except ValueError:
        raise ValueError(f"weights of {weights.shape} are neither one a column nor of the shape {shape}") from None


def _floats(what: str, array: HostArray) -> Floats:
    """The array as float32, which must hold its numbers exactly."""
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{what} must be numbers, got {array.dtype}")
    with np.errstate(over="ignore"):
        x = array.astype(np.float32)
    if not np.isfinite(x).all():
        at = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(x)))
        raise ValueError(f"{what} has {array[at]} at {at}; blocks hold finite float32 numbers alone")
    if x.dtype != array.dtype and not np.array_equal(x.astype(array.dtype), array):
        raise ValueError(f"{what} has numbers that float32 does not hold; round them to float32 yourself")
    return x
