"""Running the whole suite, or a part of it, on one backend."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from lepton_ref import __version__, registry
from lepton_ref.conformance.claims import CLAIMS
from lepton_ref.conformance.observed import kernel_name
from lepton_ref.conformance.outcome import Outcome
from lepton_ref.conformance.report import Report
from lepton_ref.conformance.trying import EXAMPLES, attempt, require_counts
from lepton_ref.interface import Backend
from lepton_ref.numerics import get_precision
from lepton_ref.plain.shown import shown
from lepton_ref.storage.encoded import OF_OPERANDS, Encoded, Unrounded
from lepton_ref.storage.kept import Kept

Work = tuple[str, str]
"""A claim's name and a precision's."""

Progress = Callable[[Sequence[Work]], Iterable[Work]]
"""Wraps the work to be done, and shows how far it is: `tqdm.tqdm`, for one."""


ASKED_BY: Mapping[str, str] = MappingProxyType({"program": "model"})
"""Kernel of no op of its own → the check whose examples it is asked for."""

MADE = (Encoded, Unrounded)
"""Storage classes that only precisions with operands of their own make of what is stored."""


def run(
    backend: str | Backend,
    *,
    ops: Iterable[str] | None = None,
    precisions: Sequence[str] = ("reference",),
    seed: int = 0,
    examples: int = EXAMPLES,
    declared: Mapping[str, str] = MappingProxyType({}),
    progress: Progress | None = None,
) -> Report:
    """Try every claim on a backend, under each precision.

    Args:
        backend: a backend or its name.
        ops: names of checks, ops and laws and members of the contract; None for all. Kernels of ops that are not
            checked need not be exercised.
        precisions: names of precisions. Those rounded once and the machine models are held to equal bits, `fast` and
            `float64` to their proven bounds.
        seed: of the examples: the same seed, the same examples.
        examples: of each check; a few checks need fewer.
        declared: what is known to fail and why: the name of a check, or "kernel linear/Dense" for one that is never
            exercised. A failure that is declared is reported, and fails nothing.
        progress: shows how far the run is.

    Raises:
        ValueError: a name that there is not, a negative seed, or no examples.
        TypeError: an object that is no backend, a seed or a number of examples that is no integer, or whatever else is
            of another kind than is said above.
    """
    tested = registry.get(backend)
    chosen = _chosen(ops)
    _require_known(declared, tested)
    if isinstance(precisions, str) or not isinstance(precisions, Sequence) or not precisions:
        raise ValueError(f"precisions must be a list of names, got {shown(precisions)}")
    require_counts(seed, examples)
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must wrap the list of work, as tqdm.tqdm does, got {shown(progress)}")
    for precision in precisions:
        get_precision(precision)
    first = precisions[0]
    work = [(name, p) for p in precisions for name in chosen if CLAIMS[name].kind != "contract" or p == first]
    outcomes = []
    for name, precision in work if progress is None else progress(work):
        found = attempt(CLAIMS[name], tested, precision=precision, seed=seed, examples=examples)
        outcomes.append(dataclasses.replace(found, declared=declared.get(name)))
    kernels, idle = _kernels(tested, chosen, outcomes, declared)
    versions = {"lepton_ref": __version__, "numpy": np.__version__, "python": platform.python_version()}
    return Report(repr(tested), seed, tuple(outcomes), kernels, idle, versions)


def _chosen(ops: Iterable[str] | None) -> list[str]:
    if ops is None:
        return list(CLAIMS)
    if not isinstance(ops, Iterable) or isinstance(ops, np.ndarray):
        raise TypeError(f"ops must be names of checks, got {shown(ops)}; known: {', '.join(CLAIMS)}")
    wanted = [ops] if isinstance(ops, str) else list(ops)
    unknown = [name if isinstance(name, str) else shown(name) for name in wanted if not _is_check(name)]
    if unknown or not wanted:
        raise ValueError(f"no check named {', '.join(unknown) or '(none given)'}; known: {', '.join(CLAIMS)}")
    return [name for name in CLAIMS if name in wanted]


def _is_check(name: object) -> bool:
    return isinstance(name, str) and name in CLAIMS


def _require_known(declared: Mapping[str, str], backend: Backend) -> None:
    if not isinstance(declared, Mapping):
        raise TypeError(f"declared must map the names of checks to reasons, got {shown(declared)}")
    known = {*CLAIMS, *(f"kernel {kernel_name(key)}" for key in backend.kernels)}
    for name, reason in declared.items():
        if name not in known:
            raise ValueError(
                f"{shown(name)} is declared, but there is no such check or kernel; known: {', '.join(known)}"
            )
        if not isinstance(reason, str) or not reason:
            raise ValueError(f"{name!r} is declared without a reason; say why it cannot hold")


def _kernels(
    backend: Backend, chosen: Sequence[str], outcomes: Sequence[Outcome], declared: Mapping[str, str]
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Every kernel's uses, and those that never gave a result though their op was checked."""
    uses, idle = {}, {}
    under = {outcome.precision for outcome in outcomes} - {""}
    encoding = {get_precision(precision).operands in OF_OPERANDS for precision in under}
    for key in backend.kernels:
        name = kernel_name(key)
        counts = [outcome.kernels[name] for outcome in outcomes if name in outcome.kernels]
        ran, declined = sum(ran for ran, _ in counts), sum(declined for _, declined in counts)
        uses[name] = ran, declined
        unmade = key[0] == "linear" and key[1] is not Kept and (key[1] in MADE) not in encoding
        if ran == 0 and ASKED_BY.get(key[0], key[0]) in chosen and not unmade and f"kernel {name}" not in declared:
            often = f"declined all {declined} times" if declined else "was never asked: no example is of its class"
            idle[name] = f"not exercised, it {often}; nothing is known of it"
        elif key[0] not in CLAIMS and key[0] not in ASKED_BY:
            idle[name] = f"there is no op {key[0]!r}, so nothing will ever ask it"
    return uses, idle
