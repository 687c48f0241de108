"""One vector for each text: run the encoder, pool its hidden states, perhaps normalise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref import ops
from lepton_ref.interface import HostArray
from lepton_ref.models import FAMILIES, GGUF_FAMILIES
from lepton_ref.models.names import bind
from lepton_ref.models.program import Program
from lepton_ref.ops.checks import as_read
from lepton_ref.runtime.operands import operands
from lepton_ref.runtime.parts import Parts
from lepton_ref.runtime.progress import track
from lepton_ref.runtime.sentence import KINDS, Sentence, read_sentence

if TYPE_CHECKING:
    from lepton_ref.runtime.model import Model
    from lepton_ref.text import Tokenizer


def embed(
    model: Model,
    texts: Any,
    *,
    pooling: str | None = None,
    normalise: bool | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> HostArray:
    """N texts or lists of ids -> (N, D), one vector each, in the order in which they came.

    Args:
        model: an encoder, with any head; or a decoder.
        texts: strings, cut to the length that the model's files name; or lists of ids, taken as they are.
        pooling: "mean", "cls", "max", "last" or "pooler"; None for what the model's files say, else the mean.
        normalise: divide each vector by its length; None for what the model's files say, else False.
        batch_size: texts in one run; texts of like length run together.
        progress: draw a bar, where `rich` is installed.

    Returns:
        float32, or float64 under precision "float64". No texts give (0, D).

    Raises:
        TypeError: one string, or elements that are neither strings nor lists of ids.
        ValueError: no ids in an element, an unknown pooling, a batch size below 1, or what `Model.forward` refuses.
    """
    items = _checked(texts, batch_size)
    base = under_head(model, "base")
    width = base.program.ops[-1].width
    how = Sentence()
    if pooling is None or normalise is None or _any_text(items):
        how = read_sentence(model.parts, width=width, steps=pooling is None or normalise is None)
    how = replace(
        how,
        pooling=how.pooling if pooling is None else pooling,
        normalise=how.normalise if normalise is None else normalise,
    )
    if how.pooling not in KINDS:
        raise ValueError(f"unknown pooling {how.pooling!r}; known: {', '.join(KINDS)}")
    runner = under_head(model, "pooler") if how.pooling == "pooler" else base
    ids = _tokenised(model, base.program, items, how)
    vectors = np.zeros((len(ids), width), dtype=model.precision.dtype)
    by_length = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
    batches = [by_length[start : start + batch_size] for start in range(0, len(ids), batch_size)]
    for batch in track(batches, "embedding", wanted=progress):
        vectors[batch] = _pooled(runner, [ids[number] for number in batch], how)
    return vectors


def under_head(model: Model, head: str) -> Model:
    """The model's weights under another head of its family: "base" for hidden states, "pooler" for BERT's own pooling.

    Raises:
        ValueError: the family has no such head.
        WeightsError: the file lacks the head's tensors.
    """
    parts = model.parts
    if head == parts.head:
        return model
    gguf = parts.file.kind == "gguf"
    family = GGUF_FAMILIES[parts.architecture] if gguf else FAMILIES[parts.fields["model_type"]]
    try:
        program = family.program(parts.config, head)
    except KeyError as error:
        raise ValueError(f"{parts.architecture} has no {head}; choose another pooling") from error
    weights = dict(parts.weights)
    if not weights.keys() >= program.weights.keys():
        names = family.gguf.names if gguf and family.gguf is not None else family.names
        bound = bind(program, names, parts.file.tensors, config=parts.config, where=str(parts.path))
        added = {name: weight for name, weight in bound.items() if name not in weights}
        weights = {**weights, **added, **operands(program, added, model.precision)}
    weights = {name: weights[name] for name in program.weights}
    changed = Parts(**{**vars(parts), "head": head, "program": program, "weights": weights})
    return type(model)(changed, backend=model.backend, precision=model.precision, threads=model.threads)


def _checked(texts: Any, batch_size: int) -> list[Any]:
    """The elements, each a string or a one-dimensional array of ids."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
    if isinstance(texts, (str, bytes)) or not (isinstance(texts, Sequence) or np.ndim(texts) == 2):
        raise TypeError(
            f"texts must be a list of strings or of lists of ids, got {type(texts).__name__}; wrap one text"
        )
    items: list[Any] = []
    for number, item in enumerate(texts):
        if isinstance(item, str):
            items.append(item)
            continue
        ids = np.asarray(item) if isinstance(item, (Sequence, np.ndarray)) and not isinstance(item, bytes) else None
        if ids is not None and ids.ndim == 1 and ids.size == 0:
            raise ValueError(f"texts[{number}] has no ids; leave it out")
        if ids is None or ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise TypeError(f"texts[{number}] must be a string or a list of ids, got {type(item).__name__}")
        items.append(ids)
    return items


def _any_text(items: list[Any]) -> bool:
    return any(isinstance(item, str) for item in items)


def _tokenised(model: Model, program: Program, items: list[Any], how: Sentence) -> list[NDArray[np.int64]]:
    """Texts as ids, cut to what the files and the learned positions allow; lists of ids as they are."""
    if not _any_text(items):
        return items
    limits = [limit for limit in (how.max_length, _room(program, model.config)) if limit is not None]
    longest = min(limits, default=None)
    before, after = _around(model.tokenizer)
    control = model.tokenizer.control_tokens if how.lower_case else frozenset()
    found: list[NDArray[np.int64]] = []
    for number, item in enumerate(items):
        if not isinstance(item, str):
            found.append(item)
            continue
        text = how.prompt + item
        if how.lower_case:
            text = _lower(text, control)
        ids = model.tokenizer.encode(text)
        if longest is not None and len(ids) > longest:
            ids = ids[: max(longest - len(after), before)] + after
        if len(ids) == 0:
            raise ValueError(f"texts[{number}] is {item!r}, which has no tokens; leave it out")
        found.append(np.asarray(ids, dtype=np.int64))
    return found


def _lower(text: str, control: frozenset[str]) -> str:
    """The text in lower case but for its control tokens; each letter alone, as tokenizers does: no final sigma."""
    spelled = "|".join(map(re.escape, sorted(control, key=len, reverse=True))) or r"(?!)"
    pieces = re.split(f"({spelled})", text)  # text and control tokens in turns
    pieces[::2] = ["".join(letter.lower() for letter in piece) for piece in pieces[::2]]
    return "".join(pieces)


def _around(tokenizer: Tokenizer) -> tuple[int, list[int]]:
    """How many special tokens stand before a text, and which stand after it: a cut text keeps them."""
    bare, whole = tokenizer.encode("a", add_special=False), tokenizer.encode("a")
    start = next(at for at in range(len(whole) + 1) if whole[at : at + len(bare)] == bare)
    return start, whole[start + len(bare) :]


def _room(program: Program, config: Any) -> int | None:
    """Tokens for which the model has learned positions, or None where they have no end."""
    rooms = []
    for op in program.ops:
        if op.options.get("of") in ("position_ids", "roberta_positions"):
            rows = program.weights[op.weights["w"]][0] - op.options["offset"]
            rooms.append(rows - (config.pad_token_id + 1 if op.options["of"] == "roberta_positions" else 0))
    return min(rooms, default=None)


def _pooled(model: Model, rows: list[NDArray[np.int64]], how: Sentence) -> HostArray:
    """One batch of ids of unequal lengths -> (N, D)."""
    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.bool_)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = row, True
    hidden = model.forward(ids, attention_mask=mask)
    kind = how.pooling
    if kind == "pooler":
        if not how.normalise:
            return hidden
        hidden, mask, kind = hidden[:, None], mask[:, :1], "cls"
    if kind == "last":
        hidden, mask, kind = hidden[:, ::-1], mask[:, ::-1], "cls"
    backend = model.backend
    x, seen = (backend.from_numpy(np.ascontiguousarray(array)) for array in (hidden, mask))
    x = as_read(x, backend=backend, precision=model.precision)
    y = ops.pool(x, seen, kind=kind, normalise=how.normalise, backend=backend, precision=model.precision)
    return backend.to_numpy(y)
