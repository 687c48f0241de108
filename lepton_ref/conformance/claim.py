"""A claim: something that must hold of every backend, with the examples on which it is tried.

There are three kinds: an op's bits are the specification's; a law, which needs no specification, holds between two
runs; the backend keeps its contract. Each is a function that draws a case and one that judges it, so that any case
can be kept in a file and judged again.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lepton_ref.conformance.bounded import bound_of
from lepton_ref.conformance.case import Case, Draw, Given
from lepton_ref.conformance.subjects import SUBJECTS
from lepton_ref.conformance.verdict import Verdict, equal_bits, within_bound
from lepton_ref.interface import Backend, HostArray
from lepton_ref.numerics import Precision
from lepton_ref.plain.real import rounded
from lepton_ref.plain.shown import shown

Judge = Callable[[Case, Backend], Verdict]


KINDS = ("contract", "op", "law")


@dataclass(frozen=True)
class Claim:
    """Something that must hold.

    Attributes:
        name: as reports and capsules have it.
        draw: makes the example of a number.
        judge: tries it on a backend; the first line of its docstring is the claim.
        kind: one of `KINDS`. The contract knows no precision; a law is not for precisions that promise no bits.
        most: examples beyond this number find nothing new, or take long.
    """

    name: str
    draw: Draw
    judge: Judge
    kind: str = "law"
    most: int = 10**6

    def applies(self, precision: Precision) -> str | None:
        """Why the claim is not tried under a precision; None where it is."""
        if self.kind == "law" and not precision.proven:
            return "this precision promises no bits"
        if precision.machine is not None and self.name != "linear":
            return "of a machine model, linear layers alone are checked"
        if precision.machine is not None and precision.operands == "fp8":
            return "there is no plain form of a machine's scaled products"
        return None


def example(claim: Claim, *, precision: str, seed: int, number: int) -> Case:
    """The claim's example of that number: the same in every run with that seed."""
    return _example(claim.draw, claim.name, precision, seed, number)


@functools.lru_cache(maxsize=2048)
def _example(draw: Draw, name: str, precision: str, seed: int, number: int) -> Case:
    words = [seed, number, zlib.crc32(name.encode()), zlib.crc32(precision.encode())]
    case = draw(np.random.default_rng(words), number, precision)
    for array in case.inputs.values():
        array.flags.writeable = False
    return case


def run(case: Case, backend: Backend) -> HostArray:
    """The case's op on the backend, brought to the host."""
    return backend.to_numpy(SUBJECTS[case.op].run(Given(case, backend)))


@functools.lru_cache(maxsize=2048)
def exact_values(case: Case) -> np.ndarray:
    """The specification's values, an array of objects of the output's shape."""
    values = np.array(SUBJECTS[case.op].values(case), dtype=object)
    values.flags.writeable = False
    return values


@functools.lru_cache(maxsize=2048)
def specified(case: Case) -> HostArray:
    """The specification's values rounded once to the precision's activations."""
    how, values = case.how, exact_values(case)
    numbers = [rounded(value, how.activations) for value in values.ravel()]
    want = np.array(numbers, dtype=np.float64).reshape(values.shape).astype(how.dtype)
    want.flags.writeable = False
    return want


def judge_op(case: Case, backend: Backend) -> Verdict:
    """The op gives the specification's bits, or keeps its bound where the precision is not proven.

    Raises:
        TypeError: what is no case, or an object that is no backend.
    """
    if not isinstance(case, Case):
        raise TypeError(f"a case is a conformance.Case, got {shown(case)}")
    if not isinstance(backend, Backend):
        raise TypeError(f"backend must be a Backend, got {shown(backend)}; take lepton_ref.registry.get(name)")
    given = Given(case, backend)
    got = backend.to_numpy(SUBJECTS[case.op].run(given))
    changed = given.changed()
    if changed is not None:
        return Verdict(got.size, f"the input {changed!r} is not what it was before", got, None)
    if case.how.proven:
        return equal_bits(got, specified(case))
    if got.dtype != case.how.dtype:
        return Verdict(got.size, f"{got.dtype} where {case.how.dtype} must be", got, None)
    return within_bound(got, exact_values(case), bound_of(case, ulps=backend.ulps))
