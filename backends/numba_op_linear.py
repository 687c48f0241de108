"""The kernel of linear layers by themselves: weights are packed once, and held as long as their weight lives."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from lepton_ref.backends.numba_dot import Isa
from lepton_ref.backends.numba_integer import integer_linear, quantise_rows, scratch_bytes
from lepton_ref.backends.numba_ops import Arena, Shares, counted, declining, form_of, singles
from lepton_ref.backends.numba_panels import Panels, pack
from lepton_ref.backends.numba_panels_dense import F32
from lepton_ref.backends.numba_panels_real import pack_real, pack_unrounded
from lepton_ref.backends.numba_real import prepare_rows, real_linear
from lepton_ref.backends.numba_real_call import prepared_sizes, scratch_size
from lepton_ref.backends.numba_threads import Teams
from lepton_ref.numerics.operands import activations
from lepton_ref.storage.base import Weight
from lepton_ref.storage.encoded import Encoded, Unrounded, WithMinima
from lepton_ref.storage.kept import Joined, Kept

INTEGERS = ("w8a8", "w4a8")
"""Operands under which integers are multiplied."""

KNOWN = ("stored", "fp8", *INTEGERS)
"""Operands that kernels have: integers times integers, or float32 numbers, which scaled activations are as a rule."""


class LinearKernel:
    """`lepton_ref.ops.linear` for weights of every storage class that has panels.

    Args:
        isa: the instruction set.
        teams: the threads.
    """

    def __init__(self, isa: Isa, teams: Teams) -> None:
        self.isa, self.teams = isa, teams
        self.packed: WeakKeyDictionary[Weight, dict[bool, Panels | None]] = WeakKeyDictionary()
        self.lock = threading.Lock()
        self.call = declining(self._call)

    def panels(self, weight: Weight, *, integer: bool) -> Panels | None:
        """What the op multiplies by, packed; None where there are no panels that are worth the same."""
        with self.lock:
            known = self.packed.setdefault(weight, {})
            if integer not in known:
                known[integer] = _pack(weight, integer=integer)
            return known[integer]

    def _call(self, x: Any, w_oi: Any, b_o: Any = None, *, backend: Any, precision: Any) -> Any:
        form, inputs = form_of(precision), singles(x) if b_o is None else singles(x, b_o)
        if form is None or inputs is None or precision.operands not in KNOWN:
            return NotImplemented
        if isinstance(w_oi, (Kept, Joined)) and w_oi.backend is not backend:
            return NotImplemented  # which the op refuses
        integer = precision.operands in INTEGERS
        found = [self.panels(part, integer=integer) for part in (w_oi.parts if isinstance(w_oi, Joined) else [w_oi])]
        parts = [panels for panels in found if panels is not None]
        if len(parts) < len(found):
            return NotImplemented
        outputs, width = w_oi.shape
        scaled = precision.operands == "fp8" or (integer and any(panels.kind >= F32 for panels in parts))
        moved = _scaled(inputs[0], precision.operands, backend) if scaled else []
        if moved is None:
            return NotImplemented
        arena = Arena([*inputs, *moved], x.size // width * outputs)
        bias = arena.starts[1] if b_o is not None else -1
        column = 0
        for panels in parts:
            whole = integer and panels.kind < F32
            start = arena.starts[-1 if scaled and not whole else 0]
            if not self._multiply(panels, arena, start, outputs, column, bias, form, integer=whole):
                return NotImplemented
            column += panels.outputs
        return counted("linear", arena.output((*x.shape[:-1], outputs)))

    def _multiply(
        self, panels: Any, arena: Arena, x: int, outputs: int, column: int, bias: int, form: int, *, integer: bool
    ) -> bool:
        """One part of a weight times what lies at x; whether nothing is left open."""
        rows, width = arena.size // outputs, panels.width
        F, y, isa, shares = arena.memory, arena.y + column, self.isa, Shares(self.teams)
        b, elements = bias if bias < 0 else bias + column, rows * width * panels.outputs // 16
        if integer:
            blocks, room = panels.blocks, scratch_bytes(width, rows)
            q, d = np.empty(32 * rows * blocks, dtype=np.int8), np.empty(rows * blocks)
            sums, lengths = np.empty(2 * rows * blocks, dtype=np.int32), np.empty(2 * rows)
            bytes_ = np.empty((shares.team.size, room), dtype=np.uint8)
            quantise_rows(F, x, width, 0, rows, width, q, d, sums, lengths)

            def integers(number: int, first: int, last: int, stuck: Any) -> None:
                integer_linear(
                    isa, panels.kind, panels.data, 0, panels.at, q, d, sums, lengths, rows, F, y, outputs, first, last,
                    panels.outputs, width, F, b, form, bytes_[number], stuck,
                )  # fmt: skip

            return bool(shares.run(panels.panels, elements, integers))
        doubles, digits = prepared_sizes(panels.kind, rows, width)
        P, D = np.empty(doubles), np.empty(digits, dtype=np.int8)
        scratch = np.empty((shares.team.size, scratch_size(panels.kind, rows, width)))
        prepare_rows(panels.kind, F, x, width, rows, width, 0, rows, P, 0, D, 0)

        def reals(number: int, first: int, last: int, stuck: Any) -> None:
            real_linear(
                isa, panels.kind, panels.data, 0, panels.at, F, x, width, rows, y, outputs, first, last,
                panels.outputs, width, F, b, form, P, 0, D, 0, scratch[number], 0, stuck,
            )  # fmt: skip

        return bool(shares.run(panels.panels, elements, reals))


def _pack(weight: Weight, *, integer: bool) -> Panels | None:
    """A weight as the op multiplies it, which is not what a precision would have made of it before."""
    while isinstance(weight, Kept):
        weight = weight.base
    if len(weight.shape) != 2 or isinstance(weight, (Joined, WithMinima)):
        return None
    if isinstance(weight, (Encoded, Unrounded)):
        panels = pack(weight) if integer else None
        return pack_unrounded(weight) if panels is None else panels
    return pack_real(weight)


def _scaled(x: Any, operands: str, backend: Any) -> Any:
    """What the op multiplies by instead of x; None where it is no float32 numbers."""
    numbers = x.reshape(-1, x.shape[-1]).astype(np.float64)
    with np.errstate(all="ignore"):  # what overflows float32, or is too small for it, is not equal to it
        return singles(activations(numbers, operands, backend=backend))


def storage_classes() -> list[type[Weight]]:
    """The classes of weights that the kernel is asked for; each has examples in the conformance suite."""
    from lepton_ref.storage.affine import Affine
    from lepton_ref.storage.awq import AWQ
    from lepton_ref.storage.blocks import BlockQuantised
    from lepton_ref.storage.bnb4 import BitsAndBytes4
    from lepton_ref.storage.dense import Dense
    from lepton_ref.storage.fp8 import FP8
    from lepton_ref.storage.gptq import GPTQ
    from lepton_ref.storage.mx import MX
    from lepton_ref.storage.nvfp4_two_level import NVFP4TwoLevel
    from lepton_ref.storage.pack_quantized import PackQuantized

    packed: list[type[Weight]] = [Affine, AWQ, BitsAndBytes4, FP8, GPTQ, MX, NVFP4TwoLevel, PackQuantized]
    return [Dense, BlockQuantised, Encoded, Unrounded, Kept, *packed]
