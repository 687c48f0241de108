"""Other orders, fusions and libraries change no bit: every op on backends that compute as badly as they may."""

from __future__ import annotations

import functools
import importlib
import sys

import numpy as np
import pytest
from adversaries import ADVERSARIES
from op_cases import CASES, Drawn, bits
from perturbed_backend import KINDS, PerturbedBackend
from strategies import FEW_BITS, FINITE_SPECIAL, TIES, filled

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.interface import Backend
from lepton_ref.numerics import PRECISIONS, Counts, Precision, counting
from lepton_ref.ops.activation import ACTIVATIONS
from lepton_ref.plain.ops import UndecidedError

NUMPY = NumpyBackend()
NAMES = ("reference", "bf16", "fp16")
OPERANDS = ("w8a8", "w4a8", "fp8")
ULPS = (1.0, 2.0, 4.0, 16.0)


def adversary(number: int) -> str:
    """Its name, for every third number; 17 has no divisor in common with their count."""
    return list(ADVERSARIES)[number // 3 * 17 % len(ADVERSARIES)]


def kind(number: int) -> str:
    """The module of that adversary's op."""
    name = adversary(number).split(",")[0].split()[0]
    return "activation" if name in (*ACTIVATIONS, "gated") else name


@functools.lru_cache(maxsize=4)
def drawn(number: int) -> tuple[Drawn, Precision]:
    """Call number so-and-so: two of three are an op on random numbers, the third is adversarial."""
    rng = np.random.default_rng(number)
    if number % 3 == 2:
        hard = ADVERSARIES[adversary(number)]
        return hard.draw(5), PRECISIONS[hard.precision]
    case = CASES[(number - number // 3) % len(CASES)]
    sizes = {letter: int(rng.integers(1, 6)) for letter in case.letters}
    specials = (FEW_BITS, TIES, FINITE_SPECIAL[:2])[number % 7 % 3]
    fill = filled(number, float(rng.choice([0.0, 2.0, 8.0])), specials, float(rng.choice([0.1, 1.0])))
    names = NAMES + OPERANDS if case.name.startswith("linear") else NAMES
    return case.draw(sizes, fill), PRECISIONS[str(rng.choice(names))]


def outcome(call: Drawn, backend: Backend, precision: Precision) -> bytes:
    """The output's bits, or that the specification does not decide them: where a cap saturates for several keys."""
    try:
        return bits(call.run(backend, precision)).tobytes()
    except UndecidedError:
        return b"undecided"


def changed(number: int, seed: int, *, excess: float = 1.0) -> bool:
    """Whether the perturbation of that seed changes a bit of that call."""
    call, precision = drawn(number)
    backend = PerturbedBackend(seed, ulps=ULPS[seed // len(KINDS) % len(ULPS)], excess=excess)
    return outcome(call, NUMPY, precision) != outcome(call, backend, precision)


def perturb(total: int, each: int, *, excess: float = 1.0) -> tuple[list[tuple[int, int]], Counts]:
    """That many perturbations, `each` of every call: those that changed a bit, and what was counted."""
    with counting() as counts:
        pairs = ((seed // each, seed) for seed in range(total))
        wrong = [(number, seed) for number, seed in pairs if changed(number, seed, excess=excess)]
    return wrong, counts


def report(counts: Counts, total: int) -> str:
    every = counts.total
    return f"{total} perturbations: {every.ambiguous} of {every.elements} elements were ambiguous\n{counts}\n"


def test_some_perturbations_change_no_bit() -> None:
    wrong, counts = perturb(600, 4)
    sys.stdout.write(report(counts, 600))
    assert wrong == []
    assert counts.total.in_double_double > 0
    assert counts.total.exactly > 0


@pytest.mark.slow
def test_ten_thousand_perturbations_change_no_bit() -> None:
    wrong, counts = perturb(10_000, 4)
    sys.stdout.write(report(counts, 10_000))
    assert wrong == []
    assert min(count.ambiguous for count in counts.by_op.values()) > 0, "every kind of op had elements to repair"


def test_the_backend_does_perturb() -> None:
    """In every way, a library function and a sum come out otherwise than NumPy's."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, 50)), rng.standard_normal((50, 9))
    for seed, kind in enumerate(KINDS):
        backend = PerturbedBackend(seed)
        assert backend.kind == kind
        assert not np.array_equal(backend.matmul(a, b, accumulate="float64"), a @ b)
        assert not np.array_equal(backend.xp.exp(a), np.exp(a))
        most = 50 * 2.0**-53 * (np.abs(a) @ np.abs(b))
        exact = (a.astype(np.longdouble) @ b.astype(np.longdouble)).astype(np.float64)
        assert (np.abs(backend.matmul(a, b, accumulate="float64") - exact) <= most).all()
        moved = np.abs(backend.xp.exp(a) - np.exp(a.astype(np.longdouble))) / np.spacing(np.exp(a))
        assert 1 < moved.max() <= backend.ulps


@pytest.mark.parametrize("excess", [2.0**12, 2.0**30])
def test_a_backend_that_keeps_no_promise_changes_bits(excess: float) -> None:
    """So the tests above could fail: numbers moved further than the bounds allow for are seen."""
    wrong, _ = perturb(300, 4, excess=excess)
    assert wrong


@pytest.mark.parametrize(
    "op", ["linear", "rms_norm", "layer_norm", "attention", "softcap", "activation", "softmax", "pool"]
)
def test_a_bound_of_next_to_nothing_is_seen(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"lepton_ref.ops.{op}")
    for name, nothing in (("UNIT", 2.0**-200), ("gamma", lambda n: 2.0**-200)):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, nothing)
    numbers = [number for number in range(2, 3 * len(ADVERSARIES), 3) if kind(number) == op]
    assert numbers
    assert any(changed(number, seed) for number in numbers for seed in range(64))
