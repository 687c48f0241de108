"""Threads of single ops on the Numba backend: as many take part as a run, or else the backend, may have."""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import golden_cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import numbers
from planted import mutated

import lepton_ref
from lepton_ref import interface, ops
from lepton_ref.backends import (
    numba_activation,
    numba_crew,
    numba_norm,
    numba_op_attention,
    numba_op_linear,
    numba_ops,
    numba_residual,
    numba_rope,
)
from lepton_ref.backends.numba_backend import NumbaBackend
from lepton_ref.backends.numba_threads import Teams
from lepton_ref.models import execute
from lepton_ref.numerics import PRECISIONS
from lepton_ref.ops.rope_frequencies import Rope
from lepton_ref.runtime import threads as limits
from lepton_ref.runtime.threads import ThreadLimit
from lepton_ref.storage import FORMATS, BlockQuantised, Dense, encode
from lepton_ref.storage.encoded import as_operand

TINY = golden_cases.GOLDEN / "tiny"
KERNELS: list[tuple[Any, str]] = [
    *((numba_norm, name) for name in ("rms_norm", "layer_norm")),
    *((numba_activation, name) for name in ("gated", "activate", "softcap")),
    *((numba_op_linear, name) for name in ("real_linear", "integer_linear")),
    *((numba_rope, "rope"), (numba_residual, "add"), (numba_op_attention, "attention")),
]
Seen = dict[str, set[int]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Kernel → the threads that were given a share of its work; every work is large enough to be shared.

    Nothing is computed: what the kernels give is not looked at here, and they take most of a minute to compile.
    """
    found: Seen = defaultdict(set)

    def watched(name: str) -> Callable[..., None]:
        return lambda *_: found[name].add(threading.get_ident())

    NumbaBackend()  # whatever else calls these kernels has them by now
    monkeypatch.setattr(numba_ops, "ALONE", 0)
    for module, name in KERNELS:
        monkeypatch.setattr(module, name, watched(name))
    return found


def sizes(seen: Seen) -> dict[str, int]:
    return {name: len(threads) for name, threads in seen.items()}


def every_op(backend: NumbaBackend) -> None:
    """Each op with a kernel once, with work for at least four threads."""
    how: dict[str, Any] = {"backend": backend, "precision": PRECISIONS["reference"]}
    x, w, heads = numbers(0, 4, 64), numbers(1, 64), numbers(2, 4, 4, 2, 8)
    matrix = BlockQuantised(encode("Q8_0", numbers(3, 64, 64)), format=FORMATS["Q8_0"])
    ops.rms_norm(x, w, eps=1e-5, **how)
    ops.layer_norm(x, w, eps=1e-5, **how)
    ops.gated(x, x, kind="silu", **how)
    ops.activate(x, kind="silu", **how)
    ops.softcap(x, cap=30.0, **how)
    ops.add(x, x, **how)
    ops.rope(heads, ops.rope_tables(np.arange(4)[None], Rope(theta=1e4, width=8), backend=backend), **how)
    ops.attention(heads, heads, heads, np.ones((4, 4, 4), dtype=bool), scale=0.5, **how)
    ops.linear(x, Dense(numbers(4, 64, 64), format="F32"), **how)
    ops.linear(x, as_operand(matrix, "w8a8"), backend=backend, precision=PRECISIONS["w8a8"])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_an_op_on_its_own_has_the_backend_s_threads(threads: int, seen: Seen) -> None:
    every_op(NumbaBackend(threads=threads))
    assert sizes(seen) == dict.fromkeys((name for _, name in KERNELS), threads)


def test_within_a_limit_it_has_as_many_as_that(seen: Seen) -> None:
    with ThreadLimit(3), ThreadLimit(2):
        every_op(NumbaBackend(threads=1))
    assert set(sizes(seen).values()) == {2}


@pytest.mark.parametrize(("limit", "threads"), [(1, 1), (2, 2), (None, 3)])
def test_a_watched_run_has_the_model_s_threads(limit: int | None, threads: int, seen: Seen) -> None:
    model = lepton_ref.load(TINY / "llama", backend=NumbaBackend(threads=3), threads=limit)
    model.run_with_trace([[5, 6, 7, 8]])
    assert sizes(seen)["real_linear"] == threads
    assert max(sizes(seen).values()) == threads


def told_to_python(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What an op is told that a compiled run of one thread leaves to Python."""
    told: list[int | None] = []
    embed = execute.HANDLERS["embed"]

    def watched(run: Any, op: Any, *inputs: Any) -> Any:
        told.append(interface.thread_limit())
        return embed(run, op, *inputs)

    monkeypatch.setattr(execute, "HANDLERS", {**execute.HANDLERS, "embed": watched})
    monkeypatch.setattr(numba_crew.Crew, "run", lambda *_: sys.maxsize)  # behind the last record; compiled by others
    model = lepton_ref.load(TINY / "gemma2", backend=NumbaBackend(), threads=1)
    model.forward([[5, 6]])
    assert "kernel" in {row[3] for row in model.coverage().rows}
    return told


def test_an_op_that_a_compiled_run_leaves_to_python_has_the_model_s_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told_to_python(monkeypatch) == [1]
    assert interface.thread_limit() is None


def test_another_thread_has_a_limit_of_its_own() -> None:
    told: list[int | None] = []
    with ThreadLimit(1):
        other = threading.Thread(target=lambda: told.append(interface.thread_limit()))
        other.start()
        other.join()
        told.append(interface.thread_limit())
    assert told == [None, 1]


@pytest.mark.parametrize(
    ("threads", "error", "text"),
    [
        (0, ValueError, "threads must be at least 1, got 0; leave it out for all that there are"),
        (True, TypeError, "threads must be an integer of at least 1, or None, got True"),
        (1.5, TypeError, r"threads must be an integer of at least 1, or None, got 1\.5"),
    ],
)
def test_a_wrong_number_is_refused(threads: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        NumbaBackend(threads=threads)


def shares(module: Any, count: int, threads: int) -> list[int]:
    """What the shares cover, in order."""
    parts: list[tuple[int, int]] = []
    module.Shares(Teams(threads)).run(count, 1 << 20, lambda number, first, last, stuck: parts.append((first, last)))
    return [place for first, last in sorted(parts) for place in range(first, last)]


@given(count=st.integers(1, 40), threads=st.integers(1, 5))
def test_shares_are_the_whole(count: int, threads: int) -> None:
    assert shares(numba_ops, count, threads) == list(range(count))


# --- what is tested is seen to fail ---


def test_a_share_that_is_too_short_is_seen() -> None:
    wrong = mutated(numba_ops, "count * (number + 1) // size", "(count - 1) * (number + 1) // size")
    assert shares(wrong, 7, 3) != list(range(7))


def test_threads_beyond_the_backend_s_are_seen(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Teams, "here", lambda self: self.of(3))
    every_op(NumbaBackend(threads=1))
    assert sizes(seen) == dict.fromkeys((name for _, name in KERNELS), 3)


def test_a_limit_that_does_not_reach_the_kernels_is_seen(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "THREADS", ContextVar("another", default=()))
    model = lepton_ref.load(TINY / "llama", backend=NumbaBackend(threads=3), threads=1)
    model.run_with_trace([[5, 6, 7, 8]])
    assert max(sizes(seen).values()) == 3
    assert told_to_python(monkeypatch) == [None]
