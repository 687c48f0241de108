"""From a file's tensor names to a program's weights: one table a family, missing and left-over tensors named."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.models.program import Program
from lepton_ref.storage import Dense, RowView, Weight
from lepton_ref.storage.packed import Packed


class WeightsError(ValueError):
    """A checkpoint whose tensors are not those of its model."""


@dataclass(frozen=True)
class Part:
    """Some rows of a tensor, or a tensor stored the other way round.

    Attributes:
        name: the tensor's name in the file, without ".weight" or ".bias".
        rows: from the config, which rows in which order; None for all as they stand.
        transpose: the file holds (I, O).
    """

    name: str
    rows: Callable[[Any], NDArray[np.int64]] | None = None
    transpose: bool = False


@dataclass(frozen=True)
class NameTable:
    """How a family's checkpoints name their tensors.

    Attributes:
        names: a program's op, "{l}" for the layer → the file's name without ".weight" or ".bias", or a `Part`.
        prefix: what stands before the base model's names, and is absent from a bare base model's file.
        ignored: regular expressions of tensors that carry no weight of the model (buffers, other heads).
        older: how a name ends → how older files end it; looked for where the name itself is not in the file.
        copies: tensors of tied weights that some files hold a second time → the program's weight that they must equal.
    """

    names: Mapping[str, str | Part]
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    older: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)

    def source(self, weight: str) -> tuple[Part, str]:
        """A program's weight → the part of the file that holds it, and the tensor's full name."""
        op, _, suffix = weight.rpartition(".")
        layer = re.search(r"\.(\d+)\.", op)
        key = op if layer is None else op.replace(layer[0], ".{l}.", 1)
        if key not in self.names:
            raise WeightsError(f"the family's table has no name for {weight!r}")
        part = self.names[key]
        part = part if isinstance(part, Part) else Part(part)
        name = part.name if layer is None else part.name.replace("{l}", layer[1])
        return part, f"{name}.{suffix}"

    def found_as(self, name: str, tensors: Mapping[str, Weight], *, bare: bool) -> str:
        """The name under which a file has the tensor, or how it should: without the prefix, or as older files end."""
        name = name.removeprefix(self.prefix) if bare else name
        if name not in tensors:
            for end, old in self.older.items():
                if name.endswith(end) and name.removesuffix(end) + old in tensors:
                    return name.removesuffix(end) + old
        return name


def bind(
    program: Program,
    table: NameTable,
    tensors: Mapping[str, Weight],
    *,
    others: Iterable[str] = (),
    spare: Container[str] = (),
    config: object,
    where: str,
) -> dict[str, Weight]:
    """A program's weights out of a file's tensors.

    Args:
        program: the op list.
        table: the family's names.
        tensors: the file's weights.
        others: the names of the file's tensors that are no weights: as little may be left over.
        spare: the names of tensors that may be left over.
        config: what the program was made from.
        where: the file, for messages.

    Raises:
        WeightsError: a tensor missing, left over, or of another shape; the message names each, up to five.
    """
    bare = bool(table.prefix) and not any(name.startswith(table.prefix) for name in tensors)
    bound: dict[str, Weight] = {}
    used: set[str] = set()
    missing: list[str] = []
    taken: dict[str, list[int]] = {}
    for weight, shape in program.weights.items():
        part, name = table.source(weight)
        name = table.found_as(name, tensors, bare=bare)
        used.add(name)
        if name not in tensors:
            missing.append(name)
            continue
        bound[weight] = _fit(tensors[name], part, shape, config=config, where=f"{where}: {name}")
        stored = tensors[name].shape[-1 if _turned(part, tensors[name]) else 0]
        taken.setdefault(name, [stored]).append(shape[0])
    for name, (stored, *parts) in taken.items():
        if sum(parts) != stored:
            shown = " + ".join(map(str, parts))
            raise WeightsError(f"{where}: {name}: {stored} outputs, but the config needs {shown}")
    uses = Counter(weight for op in program.ops for weight in op.weights.values())
    ignored = re.compile("|".join(f"(?:{pattern})" for pattern in table.ignored) or r"(?!)")
    copies = [name for name in table.copies if name in tensors and name not in used]
    known = {*used, *copies}
    left = [name for name in (*tensors, *others) if name not in known and not ignored.fullmatch(name)]
    left = [name for name in left if name not in spare]
    if missing:
        remedy = "the file is incomplete, or the config is another model's"
        raise WeightsError(f"{where}: {_listed(missing)} missing; {remedy}")
    if left:
        raise WeightsError(f"{where}: {_listed(left)} left over: the config describes a model without")
    for name in copies:
        if uses[table.copies[name]] > 1 and not _equal(tensors[name], bound[table.copies[name]]):
            original = table.source(table.copies[name])[1]
            remedy = "where it is a head of its own, set tie_word_embeddings to false in config.json"
            raise WeightsError(f"{where}: tensor {name} differs from {original}, to which the config ties it; {remedy}")
    return bound


def _turned(part: Part, tensor: Weight) -> bool:
    """Whether the file holds (I, O). What packs codes turns GPT-2's matrices first: packed ones are (O, I) always."""
    return part.transpose and not isinstance(tensor, Packed)


def _fit(tensor: Weight, part: Part, shape: tuple[int, ...], *, config: object, where: str) -> Weight:
    if _turned(part, tensor) and len(tensor.shape) == 2:
        if not isinstance(tensor, Dense):
            raise WeightsError(f"{where}: stored (in, out) as {tensor.format}; only dense tensors can be transposed")
        tensor = Dense(tensor.array.T, format=tensor.format)
    if part.rows is not None:
        if shape[0] > tensor.shape[0]:  # before numbers are made for so many rows
            raise WeightsError(f"{where}: shape is {tensor.shape}, but the config needs {shape[0]} rows of it")
        rows = part.rows(config)
        if len(rows) and (rows.max() >= tensor.shape[0] or tensor.shape[1:] != shape[1:]):
            raise WeightsError(f"{where}: shape {tensor.shape} does not hold the rows of {shape} that the config needs")
        tensor = RowView(tensor, rows)
    if tensor.shape != shape:
        raise WeightsError(f"{where}: shape is {tensor.shape}, but the config needs {shape}; is it another model's?")
    return tensor


def _equal(a: Weight, b: Weight) -> bool:
    """Whether two weights hold the same numbers, looked at in blocks of rows."""
    rows = range(0, a.shape[0], 4096)
    return a.shape == b.shape and all(
        np.array_equal(
            a.rows(start, min(start + 4096, rows.stop)), b.rows(start, min(start + 4096, rows.stop)), equal_nan=True
        )
        for start in rows
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    more = "" if len(names) <= 5 else f" and {len(names) - 5} more"
    return f"tensor{'s' if len(names) > 1 else ''} {shown}{more}"
