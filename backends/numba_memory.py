"""Memory by its address: how a compiled function reaches weights and caches that are many arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array
from numpy.typing import NDArray

ALIGNED = 64
"""Bytes of a cache line, and of a vector."""


def aligned(count: int) -> NDArray[np.uint8]:
    """Fresh bytes whose first lies at a multiple of 64."""
    room = np.empty(count + ALIGNED, dtype=np.uint8)
    start = -room.ctypes.data % ALIGNED
    return room[start : start + count]


def _emit(kind: Any, context: Any, builder: Any, place: Any, shape: list[Any]) -> Any:
    """An array of that type: rows follow one another."""
    size = context.get_constant(types.intp, kind.dtype.bitwidth // 8)
    strides = [size] if len(shape) == 1 else [builder.mul(size, shape[1]), size]
    array = make_array(kind)(context, builder)
    populate_array(
        array,
        data=builder.inttoptr(place, context.get_data_type(kind.dtype).as_pointer()),
        shape=cgutils.pack_array(builder, shape),
        strides=cgutils.pack_array(builder, strides),
        itemsize=size,
        meminfo=None,
    )
    return array._getvalue()


def _viewer(dtype: Any) -> Any:
    """`(address, count) -> array`: a flat array over memory that somebody else keeps."""
    kind = types.Array(dtype, 1, "C")

    @intrinsic
    def view(typing: Any, address: Any, count: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _emit(kind, context, builder, args[0], [args[1]])

        return kind(types.int64, types.int64), emit

    return view


def _table_viewer(dtype: Any) -> Any:
    """`(address, rows, columns) -> array`: the same with two axes."""
    kind = types.Array(dtype, 2, "C")

    @intrinsic
    def view(typing: Any, address: Any, rows: Any, columns: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _emit(kind, context, builder, args[0], [args[1], args[2]])

        return kind(types.int64, types.int64, types.int64), emit

    return view


floats_at, doubles_at, bytes_at = _viewer(types.float32), _viewer(types.float64), _viewer(types.uint8)
codes_at, words_at, integers_at = _viewer(types.int8), _viewer(types.int32), _viewer(types.int64)
integers_in_rows, doubles_in_rows = _table_viewer(types.int64), _table_viewer(types.float64)
bytes_in_rows = _table_viewer(types.uint8)
