"""Trying one claim on one backend, and running a capsule again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lepton_ref import registry
from lepton_ref.conformance.capsule import Capsule, load_capsule
from lepton_ref.conformance.case import Case
from lepton_ref.conformance.claim import Claim, example
from lepton_ref.conformance.claims import CLAIMS
from lepton_ref.conformance.observed import Observed
from lepton_ref.conformance.outcome import ConformanceError, Failure, Outcome
from lepton_ref.conformance.verdict import Verdict
from lepton_ref.interface import Backend
from lepton_ref.numerics import counting, get_precision
from lepton_ref.ops.base import silence
from lepton_ref.plain.real import UndecidedError
from lepton_ref.plain.shown import shown

EXAMPLES = 32
"""Examples of each claim where nothing else is said: each kind of number with each option, about once."""
FAILURES = 3
"""A check ends with this many failures."""

ERRORS = (
    ArithmeticError, AssertionError, AttributeError, BufferError, ImportError, LookupError, MemoryError, NameError,
    OSError, RuntimeError, TypeError, ValueError, Warning,
)  # fmt: skip
"""What a backend's code may raise; whatever it is, it is a failure of the example and not the end of the run."""


def require_counts(seed: int, examples: int) -> None:
    """A seed from 0 on, and at least one example.

    Raises:
        ValueError: a smaller one.
        TypeError: what is no integer.
    """
    for name, number in (("seed", seed), ("examples", examples)):
        if not isinstance(number, int | np.integer) or isinstance(number, bool):
            raise TypeError(f"{name} must be an integer, got {shown(number)}")
    if seed < 0 or examples < 1:
        raise ValueError(f"a seed is at least 0 and there is at least one example, got {seed} and {examples}")


def attempt(
    claim: Claim, backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Try a claim on examples until all are done or `FAILURES` have failed.

    Raises:
        ValueError: an unknown precision, a negative seed, or no examples.
        TypeError: an object that is no backend or no claim, or a seed or a number of examples that is no integer.
    """
    if not isinstance(claim, Claim):
        raise TypeError(f"a claim is one of conformance.CLAIMS, got {shown(claim)}; take CLAIMS[name]")
    reason = claim.applies(get_precision(precision))
    require_counts(seed, examples)
    observed = Observed(registry.get(backend))
    under = "" if claim.kind == "contract" else precision
    if reason is not None:
        return Outcome(claim.name, under, skipped=reason)
    started, elements, tried = time.perf_counter(), 0, 0
    failures: list[Failure] = []
    with counting() as counts:
        while tried < min(examples, claim.most) and len(failures) < FAILURES:
            case = example(claim, precision=precision, seed=seed, number=tried)
            verdict = _judged(claim, case, observed)
            elements += verdict.elements
            if verdict.wrong is not None:
                failures.append(_failure(claim, case, verdict, seed, tried, observed.backend))
            tried += 1
    kernels = {name: (use.ran, use.declined) for name, use in observed.uses.items() if use.asked}
    total = counts.total
    return Outcome(
        claim.name, under, tried, elements, total.elements, total.ambiguous, kernels, tuple(failures),
        time.perf_counter() - started,
    )  # fmt: skip


@silence()
def _judged(claim: Claim, case: Case, backend: Backend) -> Verdict:
    try:
        return claim.judge(case, backend)
    except UndecidedError:  # the specification itself says nothing of such an example, and the reference raises
        return Verdict(0)
    except ERRORS as error:
        return Verdict(0, f"raised {type(error).__name__}: {' '.join(str(error).split())}")


def _failure(claim: Claim, case: Case, verdict: Verdict, seed: int, number: int, backend: Backend) -> Failure:
    message = str(verdict.wrong)
    return Failure(message, Capsule(claim.name, case, message, verdict.got, verdict.want, seed, number, repr(backend)))


def required(
    name: str, backend: str | Backend, *, precision: str = "reference", seed: int = 0, examples: int = EXAMPLES
) -> Outcome:
    """Try the claim of this name, and raise where it does not hold.

    Raises:
        ConformanceError: with the outcome, and the first failure as its message.
    """
    outcome = attempt(CLAIMS[name], backend, precision=precision, seed=seed, examples=examples)
    if outcome.failures:
        raise ConformanceError(outcome)
    return outcome


def replay(capsule: Capsule | str | Path, backend: str | Backend) -> Verdict:
    """Judge a capsule's example again, on any backend.

    Args:
        capsule: what `Failure.capsule` holds, or the file it was saved in.
        backend: a backend or its name.

    Returns:
        The verdict; its `wrong` is None where the claim now holds.

    Raises:
        ValueError: a claim that this version does not know, or an example that is not whole.
        FileFormatError: the file is no capsule.
        TypeError: neither a capsule nor a path, or an object that is no backend.
    """
    if not isinstance(capsule, Capsule | str | Path):
        raise TypeError(f"a capsule is a Capsule or the path of its file, got {shown(capsule)}")
    found = capsule if isinstance(capsule, Capsule) else load_capsule(capsule)
    if found.check not in CLAIMS:
        raise ValueError(f"the capsule is of {found.check!r}, which this version does not check: {', '.join(CLAIMS)}")
    return _judged(CLAIMS[found.check], found.case, registry.get(backend))


Check = Callable[..., Outcome]
"""What the functions of `lepton_ref.conformance.checks` are: (backend, *, seed, examples) -> Outcome, and raise."""
