"""How a model computes: the format of activations, what linear layers multiply, and what is proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from types import MappingProxyType

import numpy as np

from lepton_ref.numerics.cast import ACTIVATIONS
from lepton_ref.numerics.machines import MACHINES, Machine
from lepton_ref.plain.shown import shown

OPERANDS = ("stored", "w8a8", "w4a8", "fp8", "ggml")
"""What a linear layer multiplies; see `Precision`."""


@dataclass(frozen=True)
class Precision:
    """How ops compute.

    Attributes:
        name: what `lepton_ref.load(precision=…)` and `--precision` take.
        activations: the format that every op's output is rounded to: "fp32", "bf16", "fp16" or "fp64".
        proven: every rounding is proven to be the exact value's, or repaired: equal bits everywhere.
        operands: what linear layers multiply. "stored": activations and weights as they are. "w8a8" and "w4a8":
            activations as int8 in blocks of 32, quantised weights unrounded, dense ones encoded to Q8_0 or Q4_0.
            "fp8": activations as E4M3 with a scale for each token, dense weights as E4M3 with a scale for each row.
            "ggml": activations in the blocks that ggml multiplies the weight's format by, weights unrounded.
        attended: the format that attention takes queries, keys and values in, as llama.cpp's cache is fp16; or None.
        accumulate: "float64", or "float32" for the backend's own fast sums.
        machine: the hardware whose sums linear layers and attention take, step by step; None for real numbers.
        overrides: (pattern, precision) pairs: an op whose name matches takes that precision; the first match counts.
            What "float64" gives is rounded to float32 where an op of another precision reads it.

    Raises:
        ValueError: a format, an operand or an accumulation that there is not, or a proof of what has none.
    """

    name: str
    activations: str = "fp32"
    proven: bool = True
    operands: str = "stored"
    accumulate: str = "float64"
    machine: Machine | None = None
    overrides: tuple[tuple[str, Precision], ...] = ()
    attended: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"a precision's name must be text, got {self.name!r}")
        if self.machine is not None and not isinstance(self.machine, Machine):
            raise ValueError(f"precision {self.name!r}: machine must be a Machine, got {self.machine!r}; see MACHINES")
        for what, value, known in (
            ("activations", self.activations, ACTIVATIONS),
            ("operands", self.operands, OPERANDS),
            ("accumulate", self.accumulate, ("float64", "float32")),
            ("attended", self.attended, (None, "fp16", "bf16")),
        ):
            if value not in known:
                raise ValueError(
                    f"precision {self.name!r}: unknown {what} {value!r}; known: {', '.join(map(str, known))}"
                )
        if self.operands == "ggml" and (self.machine is not None or self.accumulate == "float32"):
            raise ValueError(
                f"precision {self.name!r}: ggml's blocks are multiplied in real numbers; leave the rest out"
            )
        if self.proven and (self.activations == "fp64" or self.accumulate == "float32"):
            raise ValueError(
                f"precision {self.name!r}: there is no proof for activations in {self.activations} with sums in "
                f"{self.accumulate}; set proven=False"
            )

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """The NumPy dtype that holds an activation: float32 also for the formats that are smaller."""
        return np.dtype(np.float64 if self.activations == "fp64" else np.float32)

    @property
    def widest(self) -> np.dtype[np.floating]:
        """The dtype that holds the activations of every op, overrides included."""
        return max(
            [self.dtype, *(precision.dtype for _, precision in self.overrides)], key=lambda dtype: dtype.itemsize
        )

    def at(self, op: str, /) -> Precision:
        """The precision of the op of this name."""
        return next((precision for pattern, precision in self.overrides if fnmatchcase(op, pattern)), self)

    def override(self, patterns: Mapping[str, str | Precision], /) -> Precision:
        """The same precision, but for the ops whose names match: `{"layers.0.*": "bf16", "head": "float64"}`.

        Raises:
            ValueError: no mapping of text, an unknown name, or a precision that has overrides itself.
        """
        if not isinstance(patterns, Mapping) or not all(isinstance(pattern, str) for pattern in patterns):
            raise ValueError(f'overrides are a mapping such as {{"head": "bf16"}}, got {patterns!r}')
        added = tuple((pattern, get_precision(how)) for pattern, how in patterns.items())
        for pattern, how in added:
            if how.overrides:
                raise ValueError(f"the override of {pattern!r} has overrides itself; give a plain precision")
        return replace(self, overrides=(*added, *self.overrides))


def _of_machine(machine: Machine) -> Precision:
    """Activations in the format that the machine's inputs have; fp8 inputs are scaled, so activations stay fp32."""
    if machine.inputs == "e4m3fn":
        return Precision(machine.name, operands="fp8", machine=machine)
    narrow = machine.inputs if machine.inputs in ("bf16", "fp16") else "fp32"
    return Precision(machine.name, activations=narrow, machine=machine)


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        precision.name: precision
        for precision in (
            Precision("reference"),
            Precision("bf16", activations="bf16"),
            Precision("fp16", activations="fp16"),
            Precision("fp8", operands="fp8"),
            Precision("w8a8", operands="w8a8"),
            Precision("w4a8", operands="w4a8"),
            Precision("ggml", operands="ggml", attended="fp16"),
            Precision("float64", activations="fp64", proven=False),
            Precision("fast", proven=False, accumulate="float32"),
            *(_of_machine(machine) for machine in MACHINES.values()),
        )
    }
)
"""Name → precision: those rounded once, `float64` and `fast`, and every machine model under its own name."""


def get_precision(precision: str | Precision, /) -> Precision:
    """The precision of that name, or the record itself.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if isinstance(precision, Precision):
        return precision
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"unknown precision {shown(precision)}; known: {', '.join(PRECISIONS)}")
    return PRECISIONS[precision]
