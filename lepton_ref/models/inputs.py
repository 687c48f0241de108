"""What a caller gives, checked and completed: ids, mask, positions, token types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lepton_ref.models.batch import Batch, Cache
from lepton_ref.models.program import Program

PLAIN = frozenset({"input_ids"})
"""What a model reads that has neither learned positions nor token types."""

ALONE, ZERO = np.broadcast_to(np.True_, (1, 1)), np.broadcast_to(np.int64(0), (1, 1))
"""The mask of one token, and its type; neither can be written."""

INPUTS = ("attention_mask", "position_ids", "token_type_ids", "cache", "last_only")
"""The arguments of `forward` beside input_ids."""

OTHER_INPUTS = ("decoder_input_ids", "encoder_hidden_states", "input_features", "inputs_embeds", "pixel_values")
"""What models of other kinds read, by the names transformers gives them: refused, except where it is None."""


class ContextOverflowError(ValueError):
    """More tokens than a cache, or a model's learned positions, have room for."""


def host_array(name: str, given: Any, /) -> NDArray[Any]:
    """Nested lists or an array as NumPy's; the given one itself where it is NumPy's already.

    Raises:
        ValueError: rows of unequal length.
    """
    try:
        return np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{name} has rows of unequal lengths; pad them and say where with attention_mask") from error


def int64(name: str, array: NDArray[Any], /) -> NDArray[np.int64]:
    """Integers of any width as int64.

    Raises:
        ValueError: a number of 2⁶³ or more, which would come out negative.
    """
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        place = tuple(map(int, np.unravel_index(array.argmax(), array.shape)))
        raise ValueError(f"{name}{[*place]} is {array.max()}, which is no int64; is it an unsigned −1?")
    return array.astype(np.int64)


def refuse_others(architecture: str, others: Mapping[str, Any], /) -> None:
    """Raise TypeError for an argument of an unknown name, ValueError for an input that other kinds of models read."""
    for name, value in others.items():
        if name not in OTHER_INPUTS:
            raise TypeError(f"forward takes no argument {name!r}; it takes input_ids, {', '.join(INPUTS)}")
        if value is not None:
            raise ValueError(f"{architecture} takes no {name}; it reads input_ids")


def ids_array(input_ids: Any, /) -> NDArray[np.int64]:
    """-> (B, T) from nested lists or an array; one flat sequence becomes a batch of one.

    Raises:
        TypeError: not integers.
        ValueError: no tokens, rows of unequal length, or more than two axes.
    """
    ids = host_array("input_ids", input_ids)
    if ids.size == 0:
        raise ValueError(f"input_ids is empty (shape {ids.shape}); give at least one token")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"input_ids must be integers of at most 64 bits, got {ids.dtype}; tokenise text first")
    if ids.ndim == 1:
        ids = ids[None, :]
    if ids.ndim != 2:
        raise ValueError(f"input_ids must be of shape (B, T), got {ids.shape}")
    return int64("input_ids", ids)


def require_in_vocabulary(ids: NDArray[np.int64], mask: NDArray[np.bool_], /, *, vocab_size: int) -> None:
    """Raise ValueError for the first unmasked id outside [0, vocab_size)."""
    outside = mask & ((ids < 0) | (ids >= vocab_size))
    if outside.any():
        b, t = np.argwhere(outside)[0]
        raise ValueError(
            f"input_ids[{b}, {t}] is {ids[b, t]}, outside the vocabulary of {vocab_size}; "
            "is the tokenizer another model's?"
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
    mask = host_array("attention_mask", attention_mask)
    mask = mask[None, :] if mask.ndim == 1 else mask
    if mask.shape == (shape[0], past + shape[1]):
        mask = mask[:, past:]
    if mask.shape != shape:
        raise ValueError(f"attention_mask must be of shape {shape}, got {mask.shape}")
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("attention_mask must hold 0 for padding and 1 for tokens only")
    return mask.astype(np.bool_)


def integers_like(name: str, given: Any, default: NDArray[np.int64], mask: NDArray[np.bool_], /) -> NDArray[np.int64]:
    """-> (B, T): what was given, or the default where nothing was; 0 at padding, whatever was given there.

    Raises:
        TypeError: not integers.
        ValueError: a shape that does not broadcast over the batch, or a negative number.
    """
    if given is None:
        return np.where(mask, default, 0)
    array = host_array(name, given)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    array = array[None, :] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != default.shape[1] or array.shape[0] not in (1, default.shape[0]):
        raise ValueError(f"{name} must be of shape {default.shape}, got {array.shape}")
    whole = np.where(mask, int64(name, array), 0)
    if whole.min() < 0:
        b, t = np.argwhere(whole < 0)[0]
        raise ValueError(f"{name}[{b}, {t}] is {whole[b, t]}, but must not be negative")
    return whole


class Slots(Cache, Protocol):
    """What building a batch asks of a cache."""

    @property
    def length(self) -> int:
        """Slots in use."""

    @property
    def rope_length(self) -> int | NDArray[np.int64]:
        """The length that length-dependent RoPE takes: one for all sequences, or (B)."""

    def begin(self, mask_bt: NDArray[np.bool_], /) -> NDArray[np.int64]:
        """(B, T) -> (B, T), the numbers of new tokens in their sequences."""


def make_batch(
    program: Program,
    config: Any,
    input_ids: Any,
    *,
    attention_mask: Any,
    position_ids: Any,
    token_type_ids: Any,
    cache: Slots | None,
    last_only: bool,
) -> Batch:
    """Everything that a run is given, from what `Model.forward` was given.

    Raises:
        TypeError, ValueError: see the functions above.
        ContextOverflowError: more positions than the model has learned.
    """
    ids = ids_array(input_ids)
    plain = attention_mask is None and position_ids is None and token_type_ids is None
    if ids.size == 1 and plain and cache is not None and program.reads == PLAIN and config.vocab_size > ids[0, 0] >= 0:
        return one_more_token(program, ids, cache=cache, last_only=last_only)
    mask = mask_array(attention_mask, (ids.shape[0], ids.shape[1]), past=0 if cache is None else cache.length)
    require_in_vocabulary(ids, mask, vocab_size=config.vocab_size)
    order = np.maximum(np.cumsum(mask, axis=1) - 1, 0) if cache is None else cache.begin(mask)
    reads = program.reads
    if token_type_ids is not None and "token_type_ids" not in reads:
        raise ValueError("this model takes no token_type_ids; leave them out")
    _require_outputs(program, last_only)
    integers = {
        "input_ids": np.where(mask, ids, 0),
        "position_ids": integers_like("position_ids", position_ids, order, mask),
        "token_type_ids": integers_like("token_type_ids", token_type_ids, np.zeros_like(ids), mask),
    }
    positions = integers["position_ids"]
    if "roberta_positions" in reads:
        counted = position_ids is None
        integers["roberta_positions"] = roberta_positions(ids, mask, pad=config.pad_token_id) if counted else positions
    require_rows(program, integers, mask)
    lengths = positions.max(axis=1) + 1
    if cache is not None:
        lengths = np.full(len(ids), cache.rope_length)
    return Batch(integers, mask, order, positions, lengths, last_only)


def one_more_token(program: Program, ids: NDArray[np.int64], *, cache: Slots, last_only: bool) -> Batch:
    """What `make_batch` gives for one token of the vocabulary, (1, 1), behind those in a cache.

    It is asked once for every token of a text, just after the weights have passed through the processor's caches and
    swept Python out of them: a dozen calls of NumPy fewer are a tenth of a millisecond.
    """
    order = cache.begin(ALONE)
    _require_outputs(program, last_only)
    integers = {"input_ids": ids, "position_ids": order, "token_type_ids": ZERO}
    return Batch(integers, ALONE, order, order, np.full(1, cache.rope_length), last_only)


def _require_outputs(program: Program, last_only: bool) -> None:
    if last_only and "last" not in program.kinds:
        raise ValueError("this model gives one output for each sequence; leave last_only out")


def roberta_positions(ids: NDArray[np.int64], mask: NDArray[np.bool_], /, *, pad: int) -> NDArray[np.int64]:
    """(B, T) -> (B, T): RoBERTa counts tokens other than padding from pad + 1, and puts padding itself at pad."""
    counted = mask & (ids != pad)
    return np.where(counted, np.cumsum(counted, axis=1), 0) + pad


def require_rows(program: Program, integers: Mapping[str, NDArray[np.int64]], mask: NDArray[np.bool_], /) -> None:
    """Raise ContextOverflowError where a position has no learned row, ValueError where a token type has none.

    RoPE has no rows, and no end.
    """
    if program.reads == {"input_ids"}:
        return
    for op in program.ops:
        name = op.options.get("of", "input_ids")
        if name == "input_ids":
            continue
        rows = program.weights[op.weights["w"]][0] - op.options["offset"]
        wrong = np.argwhere(mask & (integers[name] >= rows))
        if wrong.size == 0:
            continue
        if name != "token_type_ids":
            longest = int(integers[name].max()) + 1
            raise ContextOverflowError(f"{longest} positions overflow the {rows} that the model has learned")
        b, t = wrong[0]
        value = integers[name][b, t]
        raise ValueError(f"token_type_ids[{b}, {t}] is {value}, but the model has learned {rows} types, from 0 on")
