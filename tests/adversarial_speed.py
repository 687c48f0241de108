"""How much longer an op takes where float64 decides nothing than on ordinary numbers of the same shapes.

    python tests/adversarial_speed.py

prints a row for each of `adversaries.ADVERSARIES` that is ambiguous throughout. The least of several runs is taken of
each, since other programs only add time.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from adversaries import ADVERSARIES
from op_cases import Drawn

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import PRECISIONS, Precision, counting

ELEMENTS = 4096
"""About as many outputs each call has."""

TIMES = 4

BACKEND = NumpyBackend()


@dataclass(frozen=True)
class Row:
    """Seconds of one op on ordinary and on adversarial numbers, and what became of the elements of the latter."""

    name: str
    elements: int
    ambiguous: int
    exactly: int
    ordinary: float
    adversarial: float

    @property
    def ratio(self) -> float:
        return self.adversarial / self.ordinary

    def __str__(self) -> str:
        return (
            f"{self.name:<32}{self.elements:>7}{self.ambiguous:>7}{self.exactly:>7}"
            f"{self.ordinary * 1e3:>10.2f}{self.adversarial * 1e3:>12.2f}{self.ratio:>9.1f}"
        )


HEADER = f"{'adversary':<32}{'outputs':>7}{'ambig.':>7}{'exact':>7}{'usual ms':>10}{'adverse ms':>12}{'ratio':>9}"


def seconds(call: Drawn, precision: Precision, times: int = 5) -> float:
    """The least of several runs."""
    found = []
    for _ in range(times):
        started = time.process_time()
        call.run(BACKEND, precision)
        found.append(time.process_time() - started)
    return min(found)


def ordinary(call: Drawn) -> Drawn:
    """The same call on normally distributed numbers; its masks stay."""
    rng = np.random.default_rng(0)
    inputs = [
        array if array.dtype == np.bool_ else rng.standard_normal(array.shape).astype(array.dtype)
        for array in call.inputs
    ]
    return replace(call, inputs=tuple(inputs))


def rows(names: tuple[str, ...] = tuple(ADVERSARIES), *, most: float = math.inf) -> Iterator[Row]:
    """One of each adversary, of about `ELEMENTS` outputs; one above `most` is measured up to `TIMES` times.

    Processor time is no measure of one program alone where others share the cores and their caches. They can only add
    to it, and an input that really takes longer does so every time.
    """
    for name in names:
        adversary, precision = ADVERSARIES[name], PRECISIONS[ADVERSARIES[name].precision]
        few = adversary.draw(4).run(BACKEND, precision).size
        size = 64 if name.startswith("linear") else max(4, 4 * ELEMENTS // few)
        hard = adversary.draw(size)
        with counting() as counts:
            hard.run(BACKEND, precision)
        total = counts.total
        if total.ambiguous == total.elements:
            usual, adverse = math.inf, math.inf
            for _ in range(TIMES):
                usual = min(usual, seconds(ordinary(hard), precision))
                adverse = min(adverse, seconds(hard, precision))
                if adverse <= most * usual:
                    break
            yield Row(name, total.elements, total.ambiguous, total.exactly, usual, adverse)


if __name__ == "__main__":
    sys.stdout.write(HEADER + "\n")
    for row in rows(tuple(sys.argv[1:]) or tuple(ADVERSARIES)):
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
