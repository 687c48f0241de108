"""Linear layers under w8a8 and w4a8 as kernels: a panel at a time, for one row or many, the same bits for all.

    y[r, o] = Σ_b d[r, b]·(scale[o, b]·Σ_k code·q + minimum[o, b]·Σ_k q) + bias[o], rounded once

x comes as `numba_integer_rows.quantise_rows` leaves it, w as `numba_panels.pack`. What the float64 sum leaves open,
one element in a hundred thousand, `numba_integer_repair` computes exactly at once; only where a number is NaN or
infinite an element goes to the list of the stuck.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.backends.numba_bytes import address
from lepton_ref.backends.numba_dot import Isa, chosen
from lepton_ref.backends.numba_integer_finish import finish, reach_of, unit_of
from lepton_ref.backends.numba_integer_matmul import many_rows, scratch_bytes
from lepton_ref.backends.numba_integer_matvec import integers, k_quant, q4_0, q4_1, q5, q6_k, q8_0, terms
from lepton_ref.backends.numba_integer_repair import repair_open
from lepton_ref.backends.numba_integer_rows import quantise_rows
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_panels import Panels


@njit(nogil=True)
def one_row(isa: Any, kind: Any, places: Any, q: Any, d: Any, sums: Any, panel: Any, blocks: Any) -> Any:
    """Sixteen sums. places: addresses of codes, scales, fine scales, high bits; the blocks that share a scale."""
    codes, scales, fine, high, shared = places
    p, s, h = codes + 256 * blocks * panel, scales, high
    if kind == 0:
        return q8_0(isa, p + 256 * blocks * panel, s + 32 * blocks * panel, q, d, sums, blocks)
    if kind == 1:
        return q4_0(isa, p, s + 32 * blocks * panel, q, d, sums, blocks)
    if kind == 2:
        return q4_1(isa, p, s + 64 * blocks * panel, q, d, sums, blocks)
    if kind in (3, 4):
        least = kind == 4
        s += (64 if least else 32) * blocks * panel
        return q5(isa, p, s, h + 64 * blocks * panel, least, q, d, sums, blocks)
    groups, f = (blocks + shared - 1) // shared, fine + 32 * blocks * panel
    if kind in (5, 6):
        s += 64 * groups * panel
        return k_quant(isa, p, s, f, h + 64 * blocks * panel, kind == 6, q, d, sums, blocks)
    if kind == 7:
        return q6_k(isa, p, s + 32 * groups * panel, f, h + 128 * blocks * panel, q, d, sums, blocks)
    wide = kind == 8
    p += 256 * blocks * panel if wide else 0
    return integers(isa, p, s + 128 * groups * panel, wide, shared, q, d, sums, blocks)


@njit(nogil=True, cache=True)
def integer_linear(
    isa: Any, kind: Any, W: Any, w0: Any, at: Any, q: Any, d: Any, sums: Any, lengths: Any, rows: Any, F: Any,
    y0: Any, ystride: Any, first_panel: Any, last_panel: Any, outputs: Any, width: Any, bias: Any, bias0: Any,
    form: Any, scratch: Any, stuck: Any,
) -> None:  # fmt: skip
    """Panels [first, last) of a layer for all rows, into F[y0 + row·ystride + output]."""
    blocks = (width + 31) // 32
    unit = unit_of(terms(kind) * blocks)
    if rows > 1:
        many_rows(
            isa, kind, W, w0, at, q, d, sums, lengths, rows, F, y0, ystride, first_panel, last_panel, outputs, width,
            bias, bias0, form, unit, scratch, stuck,
        )  # fmt: skip
        return
    base, ys, biases = address(W) + w0, address(F), address(bias)
    Q, D, N, lengths_of = address(q), address(d), address(sums), base + at[4]
    places = (base + at[0], base + at[1], base + at[2], base + at[3], at[5])
    for panel in range(first_panel, last_panel):
        count = min(np.int64(16), outputs - 16 * panel)
        bias_at = bias0 + 16 * panel if bias0 >= 0 else np.int64(-1)
        bias_place = biases + 4 * bias_at if bias0 >= 0 else np.int64(0)
        value = one_row(isa, kind, places, Q, D, N, panel, blocks)
        y, far = y0 + 16 * panel, lengths_of + 128 * panel
        opened = finish(
            value, unit, lengths[0], lengths[1], far, reach_of(far), bias_place, ys + 4 * y, count, form
        )  # fmt: skip
        if opened:
            repair_open(opened, kind, W, w0, at, q, d, sums, 0, 16 * panel, width, bias, bias_at, form, F, y, stuck)


def linear(
    x: NDArray[np.float32],
    panels: Panels,
    bias: NDArray[np.float32] | None = None,
    form: int = 0,
    isa: Isa | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """`(M, I), (O, I), (O) -> (M, O)`: a whole layer on one thread, and the list of the stuck.

    Raises:
        ValueError: x is no float32 matrix of the weight's width.
    """
    if x.dtype != np.float32 or x.ndim != 2 or x.shape[1] != panels.width:
        raise ValueError(f"x must be float32 of shape (M, {panels.width}), got {x.dtype} {x.shape}")
    rows, blocks = len(x), panels.blocks
    arena = np.zeros(rows * (panels.width + panels.outputs), dtype=np.float32)
    arena[: x.size] = x.reshape(-1)
    q, d = np.empty(32 * rows * blocks, dtype=np.int8), np.empty(rows * blocks)
    sums, lengths = np.empty(2 * rows * blocks, dtype=np.int32), np.empty(2 * rows)
    stuck = np.zeros(1 + rows * panels.outputs, dtype=np.int64)
    scratch = np.empty(scratch_bytes(panels.width, rows), dtype=np.uint8)
    some = np.zeros(0, dtype=np.float32) if bias is None else bias
    quantise_rows(arena, 0, panels.width, 0, rows, panels.width, q, d, sums, lengths)
    integer_linear(
        chosen() if isa is None else isa, panels.kind, panels.data, 0, panels.at, q, d, sums, lengths, rows, arena,
        x.size, panels.outputs, 0, panels.panels, panels.outputs, panels.width, some, -1 if bias is None else 0, form,
        scratch, stuck,
    )  # fmt: skip
    return arena[x.size :].reshape(rows, panels.outputs), stuck[1 : 1 + stuck[0]]
