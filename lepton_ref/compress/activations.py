"""The inputs of every linear layer over a calibration set, one layer at a time, in bounded memory.

A program's ops are run in order, each over all sequences before the next one: breadth first. When a linear op's turn
comes, all of its inputs are there, and those of other layers are not: what is held is the live intermediates of the
set, which is two or three arrays of (tokens, width), and what the caller makes of one layer, such as one Hessian. Each
weight is decoded once.

Every sequence runs on its own, from position 0, without padding. Under the precision `reference` the inputs are the
definition's float32 numbers, so they do not depend on the backend, on threads or on how sequences are grouped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lepton_ref.interface import Array, HostArray
from lepton_ref.models.execute import HANDLERS, Run
from lepton_ref.models.inputs import make_batch
from lepton_ref.models.program import Op, Program
from lepton_ref.numerics.philox import random_bits
from lepton_ref.ops.base import silence
from lepton_ref.plain.shown import shown
from lepton_ref.storage import Weight

Progress = Callable[[int, int, str], None]
"""(ops done, ops in all, the name of the next) → whatever shows it."""

LENGTH = 512
"""Tokens of a sequence, where one long text is cut."""


@dataclass(frozen=True)
class Corpus:
    """What is looked at.

    Attributes:
        sequences: each (T) int64.
        tokens: how many there are in all.
        sha256: of each sequence's length and ids, as little-endian int64, one after the other.
        seed: what chose the sequences, or None where nothing was drawn.
    """

    sequences: tuple[NDArray[np.int64], ...]
    tokens: int
    sha256: str
    seed: int | None


@dataclass(frozen=True)
class Seen:
    """The input of the linear ops that read it.

    Attributes:
        input: the name of the op that gave it.
        ops: the linear ops, in the program's order.
        sequences: each (T, I), as the ops are given it.
    """

    input: str
    ops: tuple[Op, ...]
    sequences: tuple[HostArray, ...]


def corpus(ids: Any, /, *, length: int = LENGTH, samples: int | None = None, seed: int | None = None) -> Corpus:
    """Sequences to calibrate on.

    Args:
        ids: a flat list of ids, cut into sequences of `length` with a shorter last one; or a list of lists, taken as
            they are.
        length: tokens of a sequence that is cut.
        samples: how many of the sequences to draw, without putting back; None for all, in order.
        seed: of the drawing; needed where there is one, and refused where there is none.

    Raises:
        ValueError: no token at all, an empty sequence, a length below 1, more samples than sequences, a seed without
            samples or the other way round.
        TypeError: ids that are not integers.
    """
    if type(length) is not int or length < 1:
        raise ValueError(f"sequences of length {shown(length)}; give at least 1")
    many = isinstance(ids, Sequence) or (isinstance(ids, np.ndarray) and ids.ndim > 0)
    if many and len(ids) and np.ndim(ids[0]) == 1:
        found = [_integers(f"sequence {number}", row) for number, row in enumerate(ids)]
    else:
        flat = _integers("the calibration set", ids)
        found = [flat[at : at + length] for at in range(0, len(flat), length)]
    if (samples is None) != (seed is None):
        given = f"samples={shown(samples)} with seed={shown(seed)}"
        raise ValueError(f"{given}; a drawing takes both, all sequences take neither")
    if samples is not None and seed is not None:
        if type(samples) is not int or not 1 <= samples <= len(found):
            raise ValueError(f"samples={shown(samples)} of {len(found)} sequences; give 1 to {len(found)}")
        drawn = random_bits(seed, np.arange(len(found), dtype=np.uint64), np.zeros(len(found), dtype=np.uint64))
        chosen = np.sort(np.argsort(drawn, kind="stable")[:samples])  # the same with every version of NumPy
        found = [found[number] for number in chosen]
    digest = hashlib.sha256()
    for row in found:
        digest.update(np.array([len(row)], dtype="<i8").tobytes() + row.astype("<i8").tobytes())
    return Corpus(tuple(found), sum(map(len, found)), digest.hexdigest(), seed)


def _integers(what: str, ids: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(ids)
    if array.size == 0 or array.ndim != 1:
        raise ValueError(f"{what} has shape {array.shape}; give at least one token, in a flat list")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{what} must hold integers, got {array.dtype}; tokenise text first")
    return array.astype(np.int64)


def groups(program: Program, /) -> dict[str, tuple[Op, ...]]:
    """The linear ops by the name of the input that they share, in the program's order."""
    found: dict[str, list[Op]] = {}
    for op in program.ops:
        if op.kind == "linear":
            found.setdefault(op.inputs[0], []).append(op)
    return {name: tuple(some) for name, some in found.items()}


@silence()
def stream(
    model: Any,
    over: Corpus,
    /,
    *,
    weights: MutableMapping[str, Weight] | None = None,
    progress: Progress | None = None,
) -> Iterator[Seen]:
    """Yield the input of each group of linear ops, before any of them runs.

    Args:
        model: a `lepton_ref.Model`.
        over: from `corpus`.
        weights: what to run with, by name; the model's own where None. Whoever iterates may replace those of the ops
            just seen, so that later layers see what the quantised ones give.
        progress: called before each op.

    Raises:
        ValueError: an id outside the vocabulary, or an input with NaN or infinity; the message names the op.
        TypeError: what is no model or no corpus, or progress that cannot be called.
        ContextOverflowError: a sequence longer than the positions that the model has learned.
    """
    if not (hasattr(model, "parts") and hasattr(model, "program")):
        raise TypeError(f"model must be a lepton_ref.Model, got {shown(model)}; lepton_ref.load makes one")
    if not isinstance(over, Corpus):
        raise TypeError(f"what is looked at is a Corpus, got {shown(over)}; activations.corpus makes one of ids")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be called with (ops done, ops in all, name), got {shown(progress)}")
    used: MutableMapping[str, Weight] = dict(model.parts.weights) if weights is None else weights
    program: Program = model.program
    runs = [_run(model, row, used) for row in over.sequences]
    linears = groups(program)
    firsts = {some[0].name: some for some in linears.values()}
    last_use = {name: number for number, op in enumerate(program.ops) for name in op.inputs}
    end = max((number for number, op in enumerate(program.ops) if op.name in firsts), default=-1)
    values: list[dict[str, Array]] = [{} for _ in runs]
    for number, op in enumerate(program.ops[: end + 1]):
        if progress is not None:
            progress(number, end + 1, op.name)
        if op.name in firsts:
            found = tuple(_host(model, each[op.inputs[0]], op) for each in values)
            yield Seen(op.inputs[0], firsts[op.name], found)
        if number == end and op.name not in last_use:
            break
        for run, each in zip(runs, values, strict=True):
            each[op.name] = HANDLERS[op.kind](run, op, *(each[name] for name in op.inputs))
            for name in set(op.inputs):
                if last_use[name] == number:
                    del each[name]
    if progress is not None:
        progress(end + 1, end + 1, "")


def _run(model: Any, row: NDArray[np.int64], weights: MutableMapping[str, Weight]) -> Run:
    batch = make_batch(
        model.program, model.config, row, attention_mask=None, position_ids=None, token_type_ids=None, cache=None,
        last_only=False,
    )  # fmt: skip
    vectors = _Vectors(model, weights)
    return Run(weights, vectors, batch, None, model.backend, model.precision)


class _Vectors(dict[str, Array]):
    """Norm weights and biases on the backend, as they are asked for: a caller may replace them too."""

    def __init__(self, model: Any, weights: MutableMapping[str, Weight]) -> None:
        super().__init__()
        self._model, self._weights = model, weights

    def __missing__(self, name: str) -> Array:
        vector: Array = self._model.backend.from_numpy(self._weights[name].decode())
        return vector


def _host(model: Any, value: Array, op: Op) -> HostArray:
    """(1, T, I) on the backend -> (T, I) on the host, finite."""
    x: HostArray = np.asarray(model.backend.to_numpy(value))[0]
    wrong = np.argwhere(~np.isfinite(x))
    if len(wrong):
        t, i = map(int, wrong[0])
        raise ValueError(f"the input of {op.name} is {x[t, i]} at token {t}, channel {i}; does the model run at all?")
    return x
