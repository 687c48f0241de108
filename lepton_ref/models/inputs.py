"""What a caller gives, checked and completed: ids, mask, positions, token types."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def ids_array(input_ids: Any, /) -> NDArray[np.int64]:
    """-> (B, T) from nested lists or an array; one flat sequence becomes a batch of one.

    Raises:
        TypeError: not integers.
        ValueError: no tokens, rows of unequal length, or more than two axes.
    """
    try:
        ids = np.asarray(input_ids)
    except ValueError as error:
        raise ValueError("input_ids has rows of unequal lengths; pad them and say where with attention_mask") from error
    if ids.size == 0:
        raise ValueError(f"input_ids is empty (shape {ids.shape}); give at least one token")
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"input_ids must be integers, got {ids.dtype}; tokenise text first")
    if ids.ndim == 1:
        ids = ids[None, :]
    if ids.ndim != 2:
        raise ValueError(f"input_ids must be of shape (B, T), got {ids.shape}")
    return ids.astype(np.int64)


def require_in_vocabulary(ids: NDArray[np.int64], mask: NDArray[np.bool_], /, *, vocab_size: int) -> None:
    """Raise ValueError for the first unmasked id outside [0, vocab_size)."""
    outside = mask & ((ids < 0) | (ids >= vocab_size))
    if outside.any():
        b, t = np.argwhere(outside)[0]
        raise ValueError(
            f"input_ids[{b}, {t}] is {ids[b, t]}, outside the vocabulary of {vocab_size}; is the tokenizer another model's?"
        )


def mask_array(attention_mask: Any, shape: tuple[int, int], /, *, past: int) -> NDArray[np.bool_]:
    """-> (B, T) booleans for the new tokens; all True where nothing is given.

    Args:
        attention_mask: 0/1 or booleans, for the new tokens or for the cache's and the new ones together.
        shape: (B, T).
        past: slots in the cache.

    Raises:
        ValueError: another shape, or values other than 0 and 1.
    """
    if attention_mask is None:
        return np.ones(shape, dtype=np.bool_)
    mask = np.asarray(attention_mask)
    mask = mask[None, :] if mask.ndim == 1 else mask
    if mask.shape == (shape[0], past + shape[1]):
        mask = mask[:, past:]
    if mask.shape != shape:
        raise ValueError(f"attention_mask must be of shape {shape}, got {mask.shape}")
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("attention_mask must hold 0 for padding and 1 for tokens only")
    return mask.astype(np.bool_)


def integers_like(name: str, given: Any, default: NDArray[np.int64], /) -> NDArray[np.int64]:
    """-> (B, T): what was given, or the default where nothing was.

    Raises:
        TypeError: not integers.
        ValueError: a shape that does not broadcast over the batch, or a negative number.
    """
    if given is None:
        return default
    array = np.asarray(given)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    array = array[None, :] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != default.shape[1] or array.shape[0] not in (1, default.shape[0]):
        raise ValueError(f"{name} must be of shape {default.shape}, got {array.shape}")
    if array.min() < 0:
        raise ValueError(f"{name} must not be negative, got {array.min()}")
    return np.ascontiguousarray(np.broadcast_to(array, default.shape), dtype=np.int64)
