"""Who may see whom: a boolean for each query and key.

Tokens are counted, not slots: `order` is a token's number among the unmasked tokens of its sequence. So padding on
either side, and chunks, leave causality and windows as they are, and queries are aligned with the end of the keys
(bottom-right), because theirs are the highest numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def attention_mask(
    order_bt: NDArray[np.int64],
    order_bs: NDArray[np.int64],
    valid_bs: NDArray[np.bool_],
    *,
    causal: bool,
    window: int | None,
) -> NDArray[np.bool_]:
    """(B, T), (B, S), (B, S) -> (B, T, S), True where the query sees the key.

    Args:
        order_bt: each query's number in its sequence.
        order_bs: each key's number in its sequence.
        valid_bs: False for padding.
        causal: a query sees no key after itself.
        window: a causal query sees the last `window` keys, itself included; otherwise keys less than `window` away.

    Raises:
        ValueError: a window below 1, shapes that disagree, or a `valid_bs` that does not hold booleans.
    """
    if order_bs.shape != valid_bs.shape or order_bt.shape[:1] != order_bs.shape[:1]:
        raise ValueError(
            f"queries (B, T), keys (B, S) and validity (B, S) must agree, "
            f"got {order_bt.shape}, {order_bs.shape} and {valid_bs.shape}"
        )
    if valid_bs.dtype != np.bool_:
        raise ValueError(f"validity must hold booleans, False for padding, got {valid_bs.dtype}")
    if window is not None and not isinstance(window, (int, np.integer)):
        raise ValueError(f"a window must be a whole number of keys, got {window!r}")
    if window is not None and window < 1:
        raise ValueError(f"a window holds at least the query itself, got {window}; None is no window")
    distance = order_bt[:, :, None] - order_bs[:, None, :]
    seen = np.broadcast_to(valid_bs[:, None, :], distance.shape)
    if causal:
        seen = seen & (distance >= 0)
    if window is not None:
        seen = seen & (np.abs(distance) < window)
    return seen
