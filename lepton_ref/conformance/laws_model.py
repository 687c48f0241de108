"""A whole model: it is the specification's, and what surrounds a sequence changes no bit of it."""

from __future__ import annotations

import functools

import numpy as np

from lepton_ref.conformance.case import Case
from lepton_ref.conformance.tiny_model import VOCABULARY, run_model, specified_model
from lepton_ref.conformance.verdict import Verdict, equal_bits, first_wrong
from lepton_ref.interface import Backend, HostArray


@functools.lru_cache(maxsize=256)
def _specified(case: Case) -> HostArray:
    return specified_model(case)


def model(case: Case, backend: Backend) -> Verdict:
    """The logits of a batch of unequal lengths are those of the plain forward pass, one sequence at a time."""
    return equal_bits(run_model(case, backend), _specified(case), what="the logits")


def model_batch_position(case: Case, backend: Backend) -> Verdict:
    """A sequence alone, and in the batch in another order, has the bits it has in the batch."""
    whole = run_model(case, backend)
    ids, mask = case.inputs["ids"], case.inputs["mask"]
    back = run_model(case.with_({"ids": ids[::-1], "mask": mask[::-1]}), backend)[::-1]
    alone = [run_model(case.with_({"ids": ids[b : b + 1], "mask": mask[b : b + 1]}), backend) for b in range(len(ids))]
    return first_wrong(
        [
            equal_bits(back, whole, what="the batch in reverse"),
            equal_bits(np.concatenate(alone), whole, what="a sequence alone"),
        ]
    )


def model_padding_side(case: Case, backend: Backend) -> Verdict:
    """Padding on the right gives every token the bits it has with padding on the left, or with none."""
    ids, mask = case.inputs["ids"], case.inputs["mask"]
    shifts = ids.shape[1] - mask.sum(axis=1)
    right = [np.stack([np.roll(row, -s) for row, s in zip(array, shifts, strict=True)]) for array in (ids, mask)]
    got = run_model(case.with_({"ids": right[0], "mask": right[1]}), backend)
    back = np.stack([np.roll(rows, s, axis=0) for rows, s in zip(got, shifts, strict=True)])
    return equal_bits(back, run_model(case, backend), what="padded on the right")


def model_cache(case: Case, backend: Backend) -> Verdict:
    """With a cache, all positions at once, one at a time and two at a time have the bits of a run without one."""
    want = run_model(case, backend)
    size = case.inputs["ids"].shape[1]
    names = {size: "with a cache", 1: "one at a time", 2: "two at a time"}
    return first_wrong([equal_bits(run_model(case, backend, chunk=n), want, what=name) for n, name in names.items()])


def model_vocabulary(case: Case, backend: Backend) -> Verdict:
    """The vocabulary permuted, in the table and the head, and permuted back gives the same logits."""
    order = np.arange(VOCABULARY)[::-1]
    inputs = {name: case.inputs[name][order] for name in ("embed.weight", "head.weight")}
    permuted = case.with_({**inputs, "ids": np.argsort(order)[case.inputs["ids"]]})
    return equal_bits(run_model(permuted, backend)[..., np.argsort(order)], run_model(case, backend), what="vocabulary")
