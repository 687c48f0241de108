"""From a program's weights to a folder's tensors: which matrices are to be packed, and what else is stored.

A file's tensor may hold several weights of the program, as rows of one matrix (Phi-3's qkv_proj, GPT-2's c_attn), and
may hold a matrix the other way round. Matrices that are one in the file are packed as one, so all of them are quantised
or none, and alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from lepton_ref.compress.integer_codes import joined
from lepton_ref.compress.packing import Matrices, Tensor
from lepton_ref.files.stored import small_floats
from lepton_ref.models import FAMILIES
from lepton_ref.models.names import NameTable, Part, WeightsError
from lepton_ref.models.packed import Grouped, group
from lepton_ref.models.program import Program
from lepton_ref.models.reader import Reader
from lepton_ref.storage import Dense, RowView, Weight
from lepton_ref.storage.encoded import Encoded, Unrounded
from lepton_ref.storage.kept import Kept
from lepton_ref.storage.packed import Packed

Pieces = list[tuple[str, Part]]
"""The program's weights that a file's tensor holds, and which part of it each is."""


@dataclass(frozen=True)
class Plan:
    """What a folder is to hold.

    Attributes:
        matrices: of linear layers, packed or not.
        others: name → tensor: all that is not packed.
        elements: how many numbers all have.
    """

    matrices: Matrices
    others: dict[str, Tensor]
    elements: int


def plan(parts: Any, weights: Mapping[str, Weight], /) -> Plan:
    """What the folder of a model holds with these weights in place of its own.

    Args:
        parts: the `lepton_ref.runtime.parts.Parts` of a model that was read from a folder.
        weights: name in the program → weight.

    Raises:
        ValueError: a weight that the model does not have, of another shape, or that cannot be stored where it belongs.
    """
    file, program = parts.file, parts.program
    table = FAMILIES[parts.fields["model_type"]].names
    grouped = _grouped(parts)
    weights = {name: _as_stored(weight) for name, weight in weights.items()}
    _require_known(program, weights)
    pieces = _pieces(program, table, grouped.tensors)
    packed: dict[str, Weight] = {}
    others: dict[str, Tensor] = {}
    copies = {copy for copy, original in table.copies.items() if original in weights}
    for name, tensor in grouped.tensors.items():
        given = [(weight, part) for weight, part in pieces.get(name, []) if weight in weights]
        if not given and isinstance(tensor, Dense):
            if name in pieces or name not in copies:  # a copy of what is changed is left out
                others[name] = tensor
        elif given and all(isinstance(weights[weight], Dense) for weight, _ in given):
            others[name] = _dense(tensor, given, weights, parts.config)
        else:
            packed[_module(name)] = _packed(name, tensor, pieces.get(name, []), weights, parts.config)
    for name in grouped.others:
        if name in file.refused and name not in file.codes:
            raise ValueError(f"tensor {name!r} is stored as {file.refused[name]}, which is not written; remove it")
        others[name] = small_floats(*file.codes[name]) if name in file.codes else file.integers[name]
    _require_linear(program, weights)
    elements = sum(prod(each.shape) for each in (*packed.values(), *others.values()))
    return Plan(_matrices(program, table, pieces, packed, others), others, elements)


def _as_stored(weight: Weight) -> Weight:
    """The weight itself, of one that a loaded model keeps decoded or multiplies in another form."""
    while isinstance(weight, Kept | Unrounded | Encoded):
        weight = weight.base
    if isinstance(weight, RowView) and isinstance(weight.base, Dense):
        return Dense(weight.base.array[weight.index], format=weight.format)
    return weight


def _grouped(parts: Any) -> Grouped:
    """The source's tensors, what is packed in it made one weight each."""
    file, where = parts.file, str(parts.path)
    settings = Reader(parts.fields, where=where).section("quantization_config")
    others = [*file.integers, *file.refused]
    return group(settings, file.tensors, file.integers, others=others, where=where, codes=file.codes)


def _require_known(program: Program, weights: Mapping[str, Weight]) -> None:
    for name, weight in weights.items():
        if name not in program.weights:
            raise ValueError(f"the model has no weight {name!r}; it has {', '.join(list(program.weights)[:3])}, …")
        if weight.shape != program.weights[name]:
            raise ValueError(f"{name} has shape {weight.shape}, the model's is {program.weights[name]}; is it another?")


def _require_linear(program: Program, weights: Mapping[str, Weight]) -> None:
    """Only what linear layers alone read is packed."""
    for op in program.ops:
        for role, name in op.weights.items():
            if name in weights and not isinstance(weights[name], Dense) and (op.kind, role) != ("linear", "w"):
                told = "only matrices that linear layers alone read are packed"
                raise ValueError(f"{name} is {weights[name].format}, but {op.name} ({op.kind}) reads it; {told}")


def _pieces(program: Program, table: NameTable, tensors: Mapping[str, Weight]) -> dict[str, Pieces]:
    bare = bool(table.prefix) and not any(name.startswith(table.prefix) for name in tensors)
    found: dict[str, Pieces] = {}
    for weight in program.weights:
        part, name = table.source(weight)
        found.setdefault(table.found_as(name, tensors, bare=bare), []).append((weight, part))
    return found


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _rows(part: Part, config: Any, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(count) if part.rows is None else part.rows(config)


def _dense(tensor: Weight, given: Pieces, weights: Mapping[str, Weight], config: Any) -> Dense:
    """The given weight, where it is all of the tensor; else the tensor with these parts in it, in F32, or F64."""
    first = weights[given[0][0]]
    if isinstance(first, Dense) and given[0][1].rows is None and not given[0][1].transpose:
        return first
    turned = given[0][1].transpose and len(tensor.shape) == 2
    stored = tensor.decode()
    whole = np.array(stored.T if turned and not isinstance(tensor, Packed) else stored)
    for name, part in given:
        new = weights[name].decode()
        whole = whole.astype(np.promote_types(whole.dtype, new.dtype), copy=False)
        whole[_rows(part, config, len(whole))] = new
    out = np.ascontiguousarray(whole.T if turned else whole)
    return Dense(out, format="F64" if out.dtype == np.float64 else "F32")


def _packed(name: str, tensor: Weight, pieces: Pieces, weights: Mapping[str, Weight], config: Any) -> Weight:
    """The matrix that is to be packed under this name: the given one, the given ones joined, or as it was."""
    given = [weight for weight, _ in pieces if weight in weights]
    if not given:
        return tensor
    dense = [weight for weight in given if isinstance(weights[weight], Dense)]
    left = [weight for weight, _ in pieces if weight not in weights]
    if dense or left:
        whole, one = ", ".join(weight for weight, _ in pieces), [*dense, *left][0]
        raise ValueError(f"{name} is one matrix of {whole}, but {one} is not quantised; quantise all of them, or none")
    if len(pieces) == 1 and pieces[0][1].rows is None:
        return weights[given[0]]
    total = tensor.shape[-1] if pieces[0][1].transpose and not isinstance(tensor, Packed) else tensor.shape[0]
    try:
        return joined([(_rows(part, config, total), weights[weight]) for weight, part in pieces], total)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _matrices(
    program: Program,
    table: NameTable,
    pieces: Mapping[str, Pieces],
    packed: Mapping[str, Weight],
    others: Mapping[str, Tensor],
) -> Matrices:
    linear = {op.weights["w"] for op in program.ops if op.kind == "linear"}
    looked_up = {op.weights["w"] for op in program.ops if op.kind == "embed"}
    dense, layers, turned = set(), set(), set()
    for name, parts in pieces.items():
        module, (weight, part) = _module(name), parts[0]
        if weight in linear and re.search(r"\.\d+\.", weight) is not None:
            layers.add(module)
        if part.transpose:
            turned.add(module)
        if weight in linear and weight not in looked_up and module not in packed:
            dense.add(module)
    for op in program.ops:  # a tied head is a module of its own without a tensor of its own
        if op.kind == "linear" and op.weights["w"] in looked_up:
            try:
                dense.add(_module(table.source(f"{op.name}.weight")[1]))
            except WeightsError:
                continue
    tables = {name for name, parts in pieces.items() if parts[0][0] in looked_up}
    for name, tensor in others.items():  # matrices of heads that the program does not have
        if name.endswith(".weight") and len(tensor.shape) == 2 and name not in tables and name not in pieces:
            dense.add(_module(name))
    return Matrices(packed, tuple(sorted(dense)), frozenset(layers), frozenset(turned))
