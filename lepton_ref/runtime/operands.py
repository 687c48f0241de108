"""Weights as a precision's linear layers multiply them."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np

from lepton_ref.models.program import Program
from lepton_ref.numerics import Precision
from lepton_ref.storage import Weight
from lepton_ref.storage.encoded import as_operand


def operands(program: Program, weights: Mapping[str, Weight], precision: Precision) -> dict[str, Weight]:
    """The matrices of the program's linear layers, by name, encoded or unrounded where the precision asks for it.

    Args:
        program: the op list.
        weights: as stored; those that the program does not multiply by are left out of the result.
        precision: how the model computes.

    Raises:
        ValueError: an override that no op's name matches, or two layers of one matrix that multiply it differently.
    """
    _require_matches(program, precision)
    chosen: dict[str, tuple[str, bool]] = {}
    for op in program.ops:
        if op.kind != "linear" or op.weights["w"] not in weights:
            continue
        name, how = op.weights["w"], precision.at(op.name)
        wanted = (how.operands, how.machine is not None)
        if chosen.setdefault(name, wanted) != wanted:
            raise ValueError(f"{name} serves two layers, of which one takes it as {wanted[0]} and one otherwise")
    return {name: as_operand(weights[name], how, encode_all=every) for name, (how, every) in chosen.items()}


def kept_dtype(program: Program, precision: Precision) -> np.dtype[np.floating]:
    """What decoded weights are kept as: float32 where every linear layer sums in it."""
    linear = [precision.at(op.name) for op in program.ops if op.kind == "linear"]
    fast = bool(linear) and all(how.accumulate == "float32" for how in linear)
    return np.dtype(np.float32 if fast else np.float64)


def _require_matches(program: Program, precision: Precision) -> None:
    for pattern, _ in precision.overrides:
        if not any(fnmatchcase(op.name, pattern) for op in program.ops):
            names = ", ".join(op.name for op in program.ops[:3])
            raise ValueError(f"no op is named like {pattern!r}; names are such as {names}")
