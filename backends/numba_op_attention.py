"""The kernel of attention by itself: keys and values lie as they are given, one block for each sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_ref.backends.numba_attention import (
    BATCH,
    BLOCK,
    FIELDS,
    HEADS,
    KV_HEADS,
    MASK,
    MASK_STRIDE,
    Q_STRIDE,
    QUERIES,
    SEEN,
    STRIDE_BLOCK,
    STRIDE_HEAD,
    STRIDE_SLOT,
    TABLE,
    TABLE_STRIDE,
    TOKENS,
    WIDTH,
    Y_STRIDE,
    Q,
    Y,
    attention,
    queries_at_once,
    scratch_size,
    units,
)  # fmt: skip
from lepton_ref.backends.numba_cache_map import _ranges as seen_ranges
from lepton_ref.backends.numba_ops import Arena, Shares, counted, declining, form_of, singles, usual
from lepton_ref.backends.numba_threads import Teams


def attention_kernel(teams: Teams) -> Any:
    """`lepton_ref.ops.attention`, without sinks, for values as wide as keys."""

    def kernel(
        q_bthk: Any, k_bsgk: Any, v_bsgk: Any, mask_bts: Any, sinks_h: Any = None, *, scale: Any, cap: Any = None,
        backend: Any, precision: Any,
    ) -> Any:  # fmt: skip
        form, inputs = form_of(precision), singles(q_bthk, k_bsgk, v_bsgk)
        if form is None or inputs is None or sinks_h is not None or precision.attended is not None:
            return NotImplemented
        if not usual(scale) or not (cap is None or usual(cap)) or not _fits(q_bthk, k_bsgk, v_bsgk, mask_bts):
            return NotImplemented
        (b, t, h, width), (_, s, g, _) = q_bthk.shape, k_bsgk.shape
        ranges, holes, _ = seen_ranges(mask_bts, 0)
        fields, arena = np.zeros(FIELDS, dtype=np.int64), Arena(inputs[:1], q_bthk.size)
        queries, shares = queries_at_once(t, h, g, s), Shares(teams)
        fields[[BATCH, TOKENS, HEADS, KV_HEADS, WIDTH, QUERIES]] = b, t, h, g, width, queries
        fields[[Q, Q_STRIDE, Y, Y_STRIDE]] = arena.starts[0], h * width, arena.y, h * width
        fields[[TABLE, TABLE_STRIDE, BLOCK]] = FIELDS, 1, s
        fields[[STRIDE_BLOCK, STRIDE_HEAD, STRIDE_SLOT]] = s * g * width, width, g * width
        fields[[SEEN, MASK, MASK_STRIDE]] = FIELDS + b, -1 if holes is None else 0, s
        integers = np.concatenate([fields, np.arange(b), ranges.reshape(-1)])
        masks = np.zeros(1, dtype=np.uint8) if holes is None else holes.reshape(-1)
        scratch = np.empty((shares.team.size, scratch_size(queries, h, g, width, s)))
        keys, values = (np.array(array, order="C").reshape(-1) for array in inputs[1:])

        def work(number: int, first: int, last: int, stuck: Any) -> None:
            attention(
                arena.memory, keys, values, integers, 0, masks, float(scale), 0.0 if cap is None else float(cap),
                first, last, scratch[number], 0, form, stuck,
            )  # fmt: skip

        settled = shares.run(int(units(t, b, g, queries)), q_bthk.size * s, work)
        return counted("attention", arena.output(q_bthk.shape)) if settled else NotImplemented

    return declining(kernel)


def _fits(q: Any, k: Any, v: Any, mask: Any) -> bool:
    """Whether the shapes are attention's."""
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        return False
    (b, t, h, width), (batch, s, g, keys) = q.shape, k.shape
    return bool(batch == b and keys == width and h % g == 0 and mask.shape == (b, t, s))
