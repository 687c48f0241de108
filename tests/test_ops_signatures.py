"""House rule 1: line 1 of an op's docstring is its signature in axes, and the op obeys it on sizes that differ."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lepton_ref import ops
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.interface import Backend
from lepton_ref.numerics import PRECISIONS
from lepton_ref.storage import Dense

SIZES = {"B": 2, "T": 3, "S": 5, "D": 7, "H": 12, "G": 4, "K": 8, "R": 6, "F": 9, "V": 11, "O": 13, "I": 10, "Q": 1}
COMMON: dict[str, Any] = {"backend": NumpyBackend(), "precision": PRECISIONS["reference"]}

ROPE = ops.Rope(theta=10000.0, width=SIZES["R"])

OPTIONS: dict[str, dict[str, Any]] = {
    "embed": COMMON,
    "linear": COMMON,
    "rms_norm": {"eps": 1e-6, **COMMON},
    "layer_norm": {"eps": 1e-6, **COMMON},
    "rope": COMMON,
    "rope_tables": {"rope": ROPE, "backend": COMMON["backend"]},
    "attention": {"scale": 0.3, **COMMON},
    "attention_mask": {"causal": True, "window": 2},
    "activate": {"kind": "silu", **COMMON},
    "gated": {"kind": "gelu", **COMMON},
    "softcap": {"cap": 30.0, **COMMON},
    "softmax": COMMON,
    "log_softmax": COMMON,
    "log_softmax_at": COMMON,
    "add": COMMON,
    "pool": {"kind": "mean", "normalise": True, **COMMON},
}
"""Public op → the keyword arguments that it cannot do without."""

NOT_OPS = {"Rope", "RopeTables", "attention_factor", "frequencies"}
"""Public names of `lepton_ref.ops` that take no arrays."""


def signature(op: Callable[..., Any]) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The shapes in and out that line 1 of the docstring promises."""
    line = (op.__doc__ or "none").splitlines()[0]
    match = re.match(r"^(\(.*?\)(?:, \(.*?\))*) -> (\(.*?\)(?:, \(.*?\))*)( twice)?[,.:]", line)
    assert match is not None, f"{op.__name__}: {line!r} is not a signature in axes"

    def shapes(text: str) -> list[tuple[int, ...]]:
        return [
            tuple(size(axis) for axis in re.findall(r"[A-Z](?:/2)?|1", one)) for one in re.findall(r"\(.*?\)", text)
        ]

    return shapes(match[1]), shapes(match[2]) * (1 if match[3] is None else 2)


def size(axis: str) -> int:
    return 1 if axis == "1" else SIZES[axis[0]] // (2 if axis.endswith("/2") else 1)


def argument(op: Callable[..., Any], position: int, shape: tuple[int, ...]) -> Any:
    """An array of the kind that this argument takes, told by its name."""
    name = list(op.__wrapped__.__code__.co_varnames if hasattr(op, "__wrapped__") else op.__code__.co_varnames)[
        position
    ]
    rng = np.random.default_rng(position)
    if name == "tables":
        return ops.rope_tables(np.zeros((SIZES["B"], SIZES["T"]), dtype=np.int64), ROPE, backend=COMMON["backend"])
    if name.startswith(("mask", "valid")):
        return np.ones(shape, dtype=bool)
    if name.startswith(("ids", "index", "positions", "order")):
        return rng.integers(0, 5, shape)
    numbers = rng.standard_normal(shape).astype(np.float32)
    return Dense(numbers, format="F32") if name in ("w_oi", "w_vd") else numbers


@pytest.mark.parametrize("name", OPTIONS)
def test_an_op_gives_the_shape_that_its_docstring_promises(name: str) -> None:
    op = getattr(ops, name)
    shapes_in, shapes_out = signature(op)
    arguments = [argument(op, i, shape) for i, shape in enumerate(shapes_in)]
    if name == "rope":
        arguments.append(argument(op, 1, ()))  # tables are no array: the signature leaves them out
    got = op(*arguments, **OPTIONS[name])
    outputs = (got.cos, got.sin) if isinstance(got, ops.RopeTables) else got if isinstance(got, tuple) else (got,)
    assert [output.shape for output in outputs] == shapes_out


def test_every_public_op_has_a_signature_test() -> None:
    assert set(ops.__all__) == set(OPTIONS) | NOT_OPS


def test_the_sizes_differ() -> None:
    assert len(set(SIZES.values())) == len(SIZES)


def test_a_wrong_signature_would_be_noticed() -> None:
    def swapped(x: np.ndarray, *, backend: Backend, precision: object) -> np.ndarray:
        """(B, T, D) -> (B, D, T), which it does not do."""
        return x

    shapes_in, shapes_out = signature(swapped)
    assert swapped(np.ones(shapes_in[0]), **COMMON).shape != shapes_out[0]
    with pytest.raises(AssertionError, match="is not a signature in axes"):
        signature(size)  # has no docstring
