"""What the tests of the Numba backend's row kernels share: numbers, an arena with margins, comparison, planted bugs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import Precision

Floats = NDArray[np.float32]

FORMS = ("fp32", "bf16", "fp16")
PRECISIONS = [Precision(f"rounds to {form}", activations=form) for form in FORMS]
BACKEND = NumpyBackend()
MARGIN, MARK = 24, np.float32(7.25)

SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 65504.0, 65520.0, 1.0, -1.0, 88.0, -104.0],
    dtype=np.float32,
)
seeds = st.integers(0, 2**32 - 1)


def numbers(seed: int, *shape: int, spread: float = 1.0, special: float = 0.0) -> Floats:
    """Normal numbers of many sizes, of which a share is special."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=shape) * np.exp(rng.normal(size=shape) * spread)
    picked = rng.choice(SPECIAL, size=shape)
    with np.errstate(over="ignore"):
        return np.where(rng.random(shape) < special, picked, drawn.astype(np.float32)).astype(np.float32)


class Arena:
    """Arrays one after the other in a kernel's memory, with margins between them that nothing may touch."""

    def __init__(self, *arrays: Floats) -> None:
        parts: list[Any] = [np.full(MARGIN, MARK)]
        self.starts = []
        for array in arrays:
            self.starts.append(sum(part.size for part in parts))
            parts += [array.ravel(), np.full(MARGIN, MARK)]
        self.memory = np.concatenate(parts).astype(np.float32)
        self.arrays = arrays
        self.before = self.memory.copy()

    def part(self, number: int) -> Floats:
        """An array as it is now; all others and the margins must be as they were."""
        start, array = self.starts[number], self.arrays[number]
        inside = np.zeros(self.memory.size, dtype=bool)
        inside[start : start + array.size] = True
        np.testing.assert_array_equal(self.memory[~inside].view(np.int32), self.before[~inside].view(np.int32))
        return self.memory[start : start + array.size].reshape(array.shape)


def stuck_list(room: int = 100_000) -> NDArray[np.int64]:
    """An empty list of elements left open."""
    return np.zeros(1 + room, dtype=np.int64)


def same_bits(y: Floats, expected: Any, stuck: NDArray[np.int64], *, most: int | None = None) -> None:
    """Rows of y are the op's to the bit but for what is named as stuck, of which there are no more than `most`."""
    rows = y.reshape(len(y), -1)
    wrong = rows.view(np.int32) != np.asarray(expected, dtype=np.float32).reshape(rows.shape).view(np.int32)
    for place in stuck[1 : 1 + stuck[0]].tolist():
        wrong[place >> 32, place & 0xFFFFFFFF] = False
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} differ, the first at {np.argwhere(wrong)[0]}"
    assert most is None or stuck[0] <= most, f"{stuck[0]} elements of {wrong.size} are left open"


def mutant(original: ModuleType, text: str, bug: str, **others: Any) -> Any:
    """The module with a bug, compiled anew without a cache; `others` are names to be replaced in it as well."""
    source = inspect.getsource(original)
    assert source.count(text) == 1, f"{text!r} stands {source.count(text)} times; the bug has no place there"
    module = ModuleType(original.__name__)
    plain = source.replace(text, bug).replace("nogil=True, cache=True", "nogil=True")
    exec(compile(plain, f"<{original.__name__}, mutated>", "exec"), module.__dict__)
    module.__dict__.update(others)
    return module


def caught(*checks: Callable[[], None]) -> None:
    """At least one of the checks fails."""

    def every() -> None:
        for check in checks:
            check()

    with pytest.raises(AssertionError):
        every()
