"""Linear layers on activations as they are, from Python: packing, sizes of scratch, one layer at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_dot import Isa, chosen
from lepton_ref.backends.numba_panels import Panels
from lepton_ref.backends.numba_panels_dense import F32
from lepton_ref.backends.numba_real import ROWS, prepare_rows, real_linear
from lepton_ref.backends.numba_real_digits import FACTORS
from lepton_ref.backends.numba_real_rows import COLUMNS
from lepton_ref.backends.numba_real_tile import BREADTH, HEIGHT
from lepton_ref.backends.numba_threads import Team


def prepared_sizes(kind: int, rows: int, width: int) -> tuple[int, int]:
    """Doubles of P and bytes of D that `prepare_rows` fills for one call."""
    blocks = -(-width // 32)
    if kind >= F32:
        return _padded(rows) * (width + 1), 0
    return _padded(rows) + FACTORS * blocks * rows, 160 * blocks * rows


def scratch_size(kind: int, rows: int, width: int) -> int:
    """Doubles of S, of each thread."""
    more = BREADTH * min(_padded(rows), ROWS) if kind >= F32 else 16 * rows + 96 * -(-width // 32)
    return int(BREADTH * COLUMNS + more)


def _padded(rows: int) -> int:
    return int(-(-rows // HEIGHT) * HEIGHT)


def linear(
    x: NDArray[np.float32], panels: Panels, bias: NDArray[np.float32] | None = None, form: int = 0,
    isa: Isa | None = None, threads: int = 1,
) -> tuple[NDArray[np.float32], list[tuple[int, int]]]:  # fmt: skip
    """`(M, I), (O, I), (O) -> (M, O)`, and the places that are still to be repaired.

    Raises:
        ValueError: x is no matrix of float32 as wide as the panels, or the bias does not fit.
    """
    if x.ndim != 2 or x.dtype != np.float32 or x.shape[1] != panels.width:
        raise ValueError(f"x must be float32 of shape (M, {panels.width}), got {x.dtype} {x.shape}")
    if bias is not None and (bias.dtype != np.float32 or bias.shape != (panels.outputs,)):
        raise ValueError(f"a bias must be float32 of shape ({panels.outputs},), got {bias.dtype} {bias.shape}")
    rows = len(x)
    arena = np.zeros(x.size + rows * panels.outputs, dtype=np.float32)
    arena[: x.size] = x.reshape(-1)
    doubles, digits = prepared_sizes(panels.kind, rows, panels.width)
    prepared, cut = np.empty(doubles), np.empty(digits, dtype=np.int8)
    scratch = [np.empty(scratch_size(panels.kind, rows, panels.width)) for _ in range(threads)]
    stuck = np.zeros(1 + arena.size, dtype=np.int64)
    which = chosen() if isa is None else isa
    biases = np.zeros(0, dtype=np.float32) if bias is None else bias
    prepare_rows(panels.kind, arena, 0, panels.width, rows, panels.width, 0, rows, prepared, 0, cut, 0)

    def share(number: int, size: int, *_: Any) -> None:
        first, last = panels.panels * number // size, panels.panels * (number + 1) // size
        real_linear(
            which, panels.kind, panels.data, 0, panels.at, arena, 0, panels.width, rows, x.size, panels.outputs,
            first, last, panels.outputs, panels.width, biases, -1 if bias is None else 0, form,
            prepared, 0, cut, 0, scratch[number], 0, stuck,
        )  # fmt: skip

    Team(threads).run(share)
    places = [(int(place) >> 32, int(place) & 0xFFFFFFFF) for place in stuck[1 : 1 + stuck[0]]]
    return arena[x.size :].reshape(rows, panels.outputs).copy(), places
