"""What every format of packed folders begins with and ends in: matrices by the module's name, tensors and a config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lepton_ref.compress.integer_codes import IntegerCodes, integer_codes
from lepton_ref.files.stored import Stored
from lepton_ref.interface import HostArray
from lepton_ref.storage import Weight

Tensor: TypeAlias = Weight | HostArray | Stored


@dataclass(frozen=True)
class Matrices:
    """The matrices of a model's linear layers, by the module's name in the file.

    Attributes:
        packed: those that are to be packed.
        dense: the modules that stay dense, a tied head among them.
        layers: those of all these that are in a layer.
        turned: those that the model keeps as (I, O): GPT-2's Conv1D.
    """

    packed: Mapping[str, Weight]
    dense: tuple[str, ...] = ()
    layers: frozenset[str] = frozenset()
    turned: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Packing:
    """What a folder is to hold.

    Attributes:
        tensors: name → what is stored.
        config: `quantization_config`.
        notes: what its readers may not do.
    """

    tensors: dict[str, Tensor]
    config: dict[str, Any]
    notes: tuple[str, ...] = ()


def require(module: str, holds: bool, what: str) -> None:
    """A condition of a format.

    Raises:
        ValueError: it does not hold: the module, and what of it.
    """
    if not holds:
        raise ValueError(f"{module} {what}")


def require_some(matrices: Matrices, format: str) -> None:
    """There is something to pack.

    Raises:
        ValueError: there is not.
    """
    if not matrices.packed:
        raise ValueError(f"no matrix is quantised, so there is nothing for {format} to say; give at least one")


def require_layers(matrices: Matrices, format: str, *, others: Sequence[str] = ()) -> None:
    """Only matrices of layers, and these others, are packed.

    Raises:
        ValueError: another is.
    """
    for module in matrices.packed:
        inside = module in matrices.layers or module in others
        require(module, inside, f"is in no layer; {format} leaves it dense: do so, or take compressed-tensors")


def require_upright(matrices: Matrices, format: str) -> None:
    """No matrix is a Conv1D.

    Raises:
        ValueError: one is.
    """
    for module in matrices.packed:
        require(module, module not in matrices.turned, f"is a Conv1D, unknown to {format}; take gptq")


def each_of(matrices: Matrices) -> Iterator[tuple[str, IntegerCodes]]:
    """Yield each matrix that is to be packed, in integers; one is held at a time.

    Raises:
        ValueError: one that is not kept so; the message names the module.
    """
    for module, weight in matrices.packed.items():
        try:
            codes = integer_codes(weight)
        except ValueError as error:
            raise ValueError(f"{module} {error}") from error
        yield module, codes
