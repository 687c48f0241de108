"""A model's ops one at a time in float64, with a look and a hand in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref import ops
from lepton_ref.interface import HostArray
from lepton_ref.models.batch import Batch
from lepton_ref.models.execute import HANDLERS, Run
from lepton_ref.models.program import Op
from lepton_ref.numerics import get_precision
from lepton_ref.ops.base import silence

Reals = NDArray[np.float64]
Changes = Callable[[Op, int, Reals], Reals]
"""(op, number of the input, its value) -> the value that the op is given instead."""


def float64_run(model: Any, batch: Batch, /) -> Run:
    """A run of the model's weights in float64, without a cache and with every linear op on its own."""
    weights, backend = model.parts.weights, model.backend
    vectors = {name: backend.from_numpy(w.decode()) for name, w in weights.items() if len(w.shape) == 1}
    return Run(weights, vectors, batch, None, backend, get_precision("float64"))


def replay(
    run: Run, program: Sequence[Op], values: dict[str, HostArray], /, *, change: Changes | None = None
) -> Iterator[tuple[Op, list[Reals], Reals]]:
    """Yield (op, inputs, output) for each op in order, on the host.

    Args:
        run: see `float64_run`.
        program: the ops.
        values: what the ops read by name. Outputs join it under the ops' names, where whoever iterates may replace
            them before the next op reads them.
        change: what to make of an input before the op has it.
    """
    for op in program:
        inputs = [np.asarray(values[name], dtype=np.float64) for name in op.inputs]
        if change is not None:
            inputs = [change(op, number, value) for number, value in enumerate(inputs)]
        with silence():
            given = [run.backend.from_numpy(value) for value in inputs]
            output = np.asarray(run.backend.to_numpy(HANDLERS[op.kind](run, op, *given)), dtype=np.float64)
        values[op.name] = output
        yield op, inputs, output


def frequencies(run: Run, rope: ops.Rope, /) -> Reals:
    """(B, 1, R/2), or (1, 1, R/2) where the length does not matter: radians per position, rounded to float64."""
    lengths = run.batch.rope_lengths if rope.depends_on_length else run.batch.rope_lengths[:1]
    return np.stack([ops.frequencies(rope, length=int(length)) for length in lengths])[:, None]
