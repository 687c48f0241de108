"""The golden hashes of logits, and the many ways of running a model that must all give them.

`lepton_ref.golden.hash_goldens` says what is hashed. A way takes a model and a list of texts and gives the list of
the texts' outputs without padding; only the way differs, never the texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from golden_cases import GOLDEN
from numpy.typing import NDArray
from tiny_models import BACKEND, load

from lepton_ref import Model
from lepton_ref.golden.hash_goldens import Text, alone, digest
from lepton_ref.models.program import Op, Program
from lepton_ref.numerics import Precision, get_precision
from lepton_ref.runtime.operands import operands
from lepton_ref.storage.dense import Dense

Outputs = list[NDArray[Any]]
Way = Callable[[Model, Sequence[Text]], Outputs]
Order = NDArray[np.int64]

BLOCK = 32
"""How many inputs share a scale under w8a8 and w4a8."""


@cache
def tiny() -> dict[str, dict[str, dict[str, str]]]:
    """Checkpoint → precision → list of texts → SHA-256."""
    found: dict[str, dict[str, dict[str, str]]] = _read("tiny")
    return found


@cache
def smollm2() -> tuple[dict[str, list[Text]], dict[str, dict[str, str]]]:
    """The lists of texts, and precision → list → SHA-256."""
    golden = _read("smollm2")
    short, long = ({"input_ids": golden["ids"][name]} for name in ("short", "long"))
    hashes: dict[str, dict[str, str]] = golden["hashes"]
    return {"short": [short], "long": [long], "both": [short, long]}, hashes


def _read(group: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / "hashes" / group / "hashes.json").read_text(encoding="utf-8"))
    return found


def differing(model: Model, texts: Mapping[str, Sequence[Text]], want: Mapping[str, str], way: Way) -> list[str]:
    """The lists of texts whose outputs, run that way, have another hash.

    Raises:
        ValueError: lists and hashes are not of the same names.
    """
    if texts.keys() != want.keys() or not texts:
        raise ValueError(f"texts {sorted(texts)} against hashes {sorted(want)}")
    return [name for name, some in texts.items() if digest(way(model, some)) != want[name]]


def one_by_one(model: Model, texts: Sequence[Text]) -> Outputs:
    """Each text in a batch of one."""
    return [alone(model, text) for text in texts]


def padded(texts: Sequence[Text], side: str, *, by: int = 0) -> dict[str, NDArray[np.int64]]:
    """The inputs of a batch of these texts; junk in place of padding, `by` more of it than the longest needs."""
    length = by + max(len(text["input_ids"]) for text in texts)
    names = {name for text in texts for name in text}
    shape = (len(texts), length)
    batch = {**{name: np.ones(shape, dtype=np.int64) for name in names}, "attention_mask": np.zeros(shape, np.int64)}
    for b, text in enumerate(texts):
        count = len(text["input_ids"])
        place = slice(length - count, length) if side == "left" else slice(0, count)
        for name in names:
            batch[name][b, place] = text.get(name, np.zeros(count, np.int64))
        batch["attention_mask"][b, place] = 1
    return batch


def batched(side: str, *, by: int = 0, copies: int = 1) -> Way:
    """All texts in one batch, padded on that side, each `copies` times; the last copies are looked at."""

    def way(model: Model, texts: Sequence[Text]) -> Outputs:
        batch = padded([*texts] * copies, side, by=by)
        output = model.forward(**batch)
        return _unpadded(output, batch["attention_mask"])[-len(texts) :]

    return way


def chunked(size: int, side: str = "left") -> Way:
    """All texts in one batch with a cache that is fed `size` tokens at a time."""

    def way(model: Model, texts: Sequence[Text]) -> Outputs:
        batch = padded(texts, side)
        mask = batch["attention_mask"]
        kept = model.new_cache(batch=len(texts), capacity=mask.shape[1])
        starts = range(0, mask.shape[1], size)
        pieces = ({name: whole[:, start : start + size] for name, whole in batch.items()} for start in starts)
        return _unpadded(np.concatenate([model.forward(**piece, cache=kept) for piece in pieces], axis=1), mask)

    return way


def _unpadded(output: NDArray[Any], mask: NDArray[np.int64]) -> Outputs:
    """(B, T, V) -> B times (T_b, V); a classifier's (B, C) -> B times (C,)."""
    return [*output] if output.ndim == 2 else [row[kept != 0] for row, kept in zip(output, mask, strict=True)]


# ---- another order of the same numbers ----

SAME_ORDER = {"add", "activate", "gated", "softcap", "layer_norm", "last", "first"}
"""Ops whose output k depends on their inputs' k and on sums over all, so that one order serves input and output."""


def groups_of_one_order(program: Program) -> tuple[dict[str, str], set[str]]:
    """Op → the name of the group that shares an order, and the groups whose order has a meaning: that of heads."""
    group = {op.name: op.name for op in program.ops}
    heads = set()

    def merge(names: Iterable[str]) -> None:
        old = {group[name] for name in names}
        for name, at in group.items():
            if at in old:
                group[name] = min(old)

    for op in program.ops:
        if op.kind in SAME_ORDER or (op.kind == "rms_norm" and op.options["heads"] == 1):
            merge([op.name, *op.inputs])
        elif op.kind not in ("embed", "linear"):
            heads |= {op.name, *op.inputs}
        for embed in program.ops:
            if op.kind == "linear" and embed.kind == "embed" and embed.weights["w"] == op.weights["w"]:
                merge([embed.name, *op.inputs])  # a tied head: its columns are the embedding's
    return group, {group[name] for name in heads}


def shuffled(count: int, rng: np.random.Generator, *, blocks: bool) -> Order:
    """Numbers 0 … count − 1 in another order; with `blocks`, each 32 stay together though not where they were.

    Within a block the largest magnitude, and with it the scale, does not depend on the order; a last block that is not
    full stays last.
    """
    if not blocks:
        return rng.permutation(count)
    whole = [rng.permutation(BLOCK) + BLOCK * block for block in rng.permutation(count // BLOCK)]
    return np.concatenate([*whole, rng.permutation(np.arange(count // BLOCK * BLOCK, count))]).astype(np.int64)


def permuted(path: Path, precision: str, *, seed: int = 5, blocks: bool | None = None) -> tuple[Model, Order, Order]:
    """The same model with hidden width, inner width and vocabulary in another order.

    Under `reference`, `bf16`, `fp16` and `fp8` any order is exact: sums are exact, and a scale is that of a whole row.
    Under `w8a8` and `w4a8` it must keep blocks of 32 together. Machine models add in an order; none serves them.

    Args:
        path: a checkpoint of dense weights.
        precision: by name.
        seed: of the orders.
        blocks: whether blocks are kept; None for what the precision needs.

    Returns:
        The model, the order of its outputs (output k is the original's number order[k]), and what ids become.
    """
    parts, how = load(path).parts, get_precision(precision)
    rng = np.random.default_rng(seed)
    group, heads = groups_of_one_order(parts.program)
    together = how.operands in ("w8a8", "w4a8") if blocks is None else blocks
    orders = {
        group[op.name]: np.arange(op.width) if group[op.name] in heads else shuffled(op.width, rng, blocks=together)
        for op in parts.program.ops
    }
    tables = {op.weights["w"] for op in parts.program.ops if op.options.get("of") == "input_ids"}
    last = parts.program.ops[-1]
    tied = {op.weights["w"]: group[op.name] for op in parts.program.ops if op.kind == "linear"}
    ids = np.arange(parts.config.vocab_size)
    for name in tables & tied.keys():
        orders[tied[name]] = _keeping(orders[tied[name]], getattr(parts.config, "pad_token_id", None))
        ids = np.argsort(orders[tied[name]])
    weights = {}
    for op in parts.program.ops:
        for role, name in op.weights.items():
            value = _in_order(op, role, np.asarray(parts.weights[name].decode()), group, orders)
            if name not in tables or op.kind == "embed":
                rows = orders[tied[name]] if name in tables and name in tied else slice(None)
                weights[name] = Dense(np.ascontiguousarray(value[rows], dtype="<f4"), format="F32")
    weights |= operands(parts.program, weights, how)
    model = Model(replace(parts, weights=weights), backend=BACKEND, precision=how)
    return model, orders[group[last.name]], ids


def _keeping(order: Order, number: int | None) -> Order:
    """The order with one number put back in its own place: RoBERTa counts positions of all ids but the padding's."""
    if number is None:
        return order
    order = order.copy()
    order[order == number], order[number] = order[number], number
    return order


def _in_order(op: Op, role: str, value: NDArray[Any], group: Mapping[str, str], orders: Mapping[str, Order]) -> Any:
    out = orders[group[op.name]]
    if op.kind == "embed":
        return value[:, out]
    if op.kind == "linear" and role == "w":
        return value[out][:, orders[group[op.inputs[0]]]]
    return value[out] if len(value) == len(out) else value  # a norm of every head has one head's weights


def in_another_order(path: Path, precision: str | Precision, texts: Sequence[Text], **how: Any) -> Outputs:
    """The outputs of `permuted`, put back into the original's order."""
    model, order, ids = permuted(path, str(precision), **how)
    renamed = [{**text, "input_ids": [int(ids[token]) for token in text["input_ids"]]} for text in texts]
    return [output[..., np.argsort(order)] for output in one_by_one(model, renamed)]
