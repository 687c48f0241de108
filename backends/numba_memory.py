"""Memory by its address: how a compiled function reaches weights and caches that are many arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from lepton_ref.backends.numba_jit import njit


@intrinsic
def _at(typing: Any, address: Any) -> Any:
    """`(int64) -> void *`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), emit


@njit(nogil=True)
def floats_at(address: Any, count: Any) -> Any:
    """`(address, count) -> float32[count]`."""
    return carray(_at(address), (count,), np.float32)


@njit(nogil=True)
def doubles_at(address: Any, count: Any) -> Any:
    """`(address, count) -> float64[count]`."""
    return carray(_at(address), (count,), np.float64)


@njit(nogil=True)
def bytes_at(address: Any, count: Any) -> Any:
    """`(address, count) -> uint8[count]`."""
    return carray(_at(address), (count,), np.uint8)


@njit(nogil=True)
def integers_at(address: Any, count: Any) -> Any:
    """`(address, count) -> int64[count]`."""
    return carray(_at(address), (count,), np.int64)
