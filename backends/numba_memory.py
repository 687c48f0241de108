"""Memory by its address: how a compiled function reaches weights and caches that are many arrays."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array


def _viewer(dtype: Any) -> Any:
    """`(address, count) -> array`: a flat array over memory that somebody else keeps."""
    kind = types.Array(dtype, 1, "C")

    @intrinsic
    def view(typing: Any, address: Any, count: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            element = context.get_data_type(dtype)
            size = context.get_constant(types.intp, dtype.bitwidth // 8)
            array = make_array(kind)(context, builder)
            populate_array(
                array,
                data=builder.inttoptr(args[0], element.as_pointer()),
                shape=cgutils.pack_array(builder, [args[1]]),
                strides=cgutils.pack_array(builder, [size]),
                itemsize=size,
                meminfo=None,
            )
            return array._getvalue()

        return kind(types.int64, types.int64), emit

    return view


floats_at, doubles_at = _viewer(types.float32), _viewer(types.float64)
bytes_at = _viewer(types.uint8)
