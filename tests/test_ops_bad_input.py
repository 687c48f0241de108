"""Wrong input is refused in one line that holds the value and says what would be right."""

# ruff: noqa: E501 - one refusal a line: call and message side by side

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lepton_ref import ops
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import PRECISIONS
from lepton_ref.storage import Dense

TO: dict[str, Any] = {"backend": NumpyBackend(), "precision": PRECISIONS["reference"]}


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.float32)


def weight(*shape: int) -> Dense:
    return Dense(ones(*shape), format="F32")


def attend(**changed: Any) -> Any:
    given: dict[str, Any] = {
        "q": ones(1, 2, 4, 3), "k": ones(1, 5, 2, 3), "v": ones(1, 5, 2, 3),
        "mask": np.ones((1, 2, 5), dtype=bool), "sinks": None, "cap": None,
    } | changed  # fmt: skip
    return ops.attention(
        *(given[n] for n in ("q", "k", "v", "mask", "sinks")), scale=given.get("scale", 1.0), cap=given["cap"], **TO
    )


def see(**changed: Any) -> Any:
    given: dict[str, Any] = {
        "order_bt": np.array([[1]]), "order_bs": np.array([[0, 1]]), "valid_bs": np.ones((1, 2), dtype=bool),
    } | changed  # fmt: skip
    return ops.attention_mask(
        given["order_bt"], given["order_bs"], given["valid_bs"], causal=True, window=given.get("window")
    )


ROPE = ops.Rope(theta=10000.0, width=4)
DYNAMIC = ops.Rope(theta=10000.0, width=4, kind="dynamic", factor=2.0, original_length=8)


def tables(batch: int, positions: int, rope: ops.Rope = ROPE, **options: Any) -> ops.RopeTables:
    return ops.rope_tables(np.zeros((batch, positions), dtype=np.int64), rope, backend=TO["backend"], **options)


def turn(x: np.ndarray, batch: int = 1, positions: int = 2, width: int = 4) -> Any:
    return ops.rope(x, tables(batch, positions, ops.Rope(theta=10000.0, width=width)), **TO)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "ids of float": (lambda: ops.embed(np.array([[1.5]]), weight(3, 2), **TO), "token ids must be integers, got float64; a table has no row between two rows"),
    "an id too large": (lambda: ops.embed(np.array([[0, 3]]), weight(3, 2), **TO), "id 3 is outside the table of 3 rows"),
    "a negative id": (lambda: ops.embed(np.array([[-1]]), weight(3, 2), **TO), "id -1 is outside the table of 3 rows"),
    "linear's last axis": (lambda: ops.linear(ones(1, 2, 3), weight(4, 5), **TO), "the last axis of x is 3, but must be 5"),
    "linear's bias": (lambda: ops.linear(ones(1, 2, 5), weight(4, 5), ones(5), **TO), "the length of the bias is 5, but must be 4"),
    "RMSNorm's weight": (lambda: ops.rms_norm(ones(1, 2, 5), ones(4), eps=1e-6, **TO), "the length of the norm's weight is 4, but must be 5"),
    "LayerNorm's weight": (lambda: ops.layer_norm(ones(1, 2, 5), ones(4), eps=1e-6, **TO), "the length of the norm's weight is 4, but must be 5"),
    "LayerNorm's bias": (lambda: ops.layer_norm(ones(1, 2, 5), ones(5), ones(1), eps=1e-6, **TO), "the length of the norm's bias is 1, but must be 5"),
    "an unknown activation": (lambda: ops.activate(ones(1, 2, 3), kind="swish", **TO), "unknown activation 'swish'; known: relu, relu2, sigmoid, tanh, silu, quick_gelu, gelu, gelu_tanh"),
    "an unknown gated activation": (lambda: ops.gated(ones(1), ones(1), kind="glu", **TO), "unknown activation 'glu'; known: relu, relu2, sigmoid, tanh, silu, quick_gelu, gelu, gelu_tanh"),
    "gate and up of two shapes": (lambda: ops.gated(ones(1, 2, 3), ones(1, 2, 1), kind="silu", **TO), "gate and up are of one shape, got (1, 2, 3) and (1, 2, 1)"),
    "a residual of two shapes": (lambda: ops.add(ones(1, 2, 3), ones(1, 1, 3), **TO), "a residual adds arrays of one shape, got (1, 2, 3) and (1, 1, 3)"),
    "a cap of zero": (lambda: ops.softcap(ones(1), cap=0.0, **TO), "a soft cap must be positive, got 0.0; leave it out where a model has none"),
    "a cap that is NaN": (lambda: ops.softcap(ones(1), cap=float("nan"), **TO), "a soft cap must be positive, got nan; leave it out where a model has none"),
    "softmax of nothing": (lambda: ops.softmax(ones(1, 0), **TO), "softmax over an empty axis has no value; give at least one score"),
    "log_softmax of nothing": (lambda: ops.log_softmax(ones(1, 0), **TO), "softmax over an empty axis has no value; give at least one score"),
    "a rotary width beyond the head": (lambda: turn(ones(1, 2, 1, 4), width=6), "the rotary width 6 exceeds the head width 4"),
    "rotary tables of other positions": (lambda: turn(ones(1, 2, 1, 4), positions=3), "the positions of the rotary tables is 3, but must be 2"),
    "rotary tables of another batch": (lambda: turn(ones(3, 2, 1, 4), batch=2), "the batch of the rotary tables is 2, but must be 3"),
    "positions of float": (lambda: ops.rope_tables(ones(1, 2), ROPE, backend=TO["backend"]), "positions must be integers of shape (B, T), got float32 (1, 2)"),
    "positions of no batch": (lambda: ops.rope_tables(np.arange(3), ROPE, backend=TO["backend"]), "positions must be integers of shape (B, T), got int64 (3,)"),
    "no length for a RoPE that needs one": (lambda: tables(1, 2, DYNAMIC), "RoPE scaling 'dynamic' depends on the context's length; give lengths, one a sequence"),
    "lengths of another batch": (lambda: tables(3, 2, DYNAMIC, lengths=np.array([9, 9])), "lengths must be of shape (3,) or (1,), got (2,)"),
    "heads that do not share evenly": (lambda: attend(q=ones(1, 2, 3, 3)), "3 query heads cannot share 2 key/value heads evenly"),
    "keys of another width": (lambda: attend(k=ones(1, 5, 2, 4)), "the head width of the keys is 4, but must be 3"),
    "keys of another batch": (lambda: attend(k=ones(2, 5, 2, 3), v=ones(2, 5, 2, 3)), "the batch of the keys is 2, but must be 1"),
    "values of other keys": (lambda: attend(v=ones(1, 4, 2, 3)), "keys and values are of one (B, S, G), got (1, 5, 2) and (1, 4, 2)"),
    "a mask of another shape": (lambda: attend(mask=np.ones((1, 5, 2), dtype=bool)), "the mask must be of shape (B, T, S) = (1, 2, 5), got (1, 5, 2)"),
    "a mask of numbers": (lambda: attend(mask=np.zeros((1, 2, 5))), "the mask must hold booleans, True where a position takes part, got float64"),
    "sinks of another number": (lambda: attend(sinks=ones(2)), "there is one sink for each query head, (4,), got (2,)"),
    "a negative cap": (lambda: attend(cap=-1.0), "a soft cap must be positive, got -1.0; leave it out where a model has none"),
    "no key": (lambda: attend(k=ones(1, 0, 2, 3), v=ones(1, 0, 2, 3), mask=np.ones((1, 2, 0), dtype=bool)), "attention needs at least one key, got none; mask what must not be seen"),
    "a window of half a key": (lambda: see(window=1.5), "a window must be a whole number of keys, got 1.5"),
    "a window of nothing": (lambda: see(window=0), "a window holds at least the query itself, got 0; None is no window"),
    "validity of integers": (lambda: see(valid_bs=np.ones((1, 2), dtype=np.int64)), "validity must hold booleans, False for padding, got int64"),
    "validity of other keys": (lambda: see(valid_bs=np.ones((1, 3), dtype=bool)), "queries (B, T), keys (B, S) and validity (B, S) must agree, got (1, 1), (1, 2) and (1, 3)"),
    "queries of another batch": (lambda: see(order_bt=np.array([[1], [1]])), "queries (B, T), keys (B, S) and validity (B, S) must agree, got (2, 1), (1, 2) and (1, 2)"),
    "an unknown pooling": (lambda: ops.pool(ones(1, 2, 3), np.ones((1, 2), dtype=bool), kind="last", normalise=False, **TO), "unknown pooling 'last'; known: mean, cls, max"),
    "a pooling mask of another shape": (lambda: ops.pool(ones(1, 2, 3), np.ones((1, 3), dtype=bool), kind="mean", normalise=False, **TO), "the mask must be of shape (1, 2), got (1, 3)"),
    "a pooling mask of integers": (lambda: ops.pool(ones(1, 2, 3), np.ones((1, 2), dtype=np.int64), kind="mean", normalise=False, **TO), "the mask must hold booleans, True where a position takes part, got int64"),
    "nothing to pool": (lambda: ops.pool(ones(2, 2, 3), np.array([[True, False], [False, False]]), kind="mean", normalise=False, **TO), "a sequence has no unmasked position to pool; leave empty texts out"),
    "a list for an array": (lambda: ops.softmax([0.5], **TO), "x must be an array of backend 'numpy', got list"),
    "integers": (lambda: ops.softmax(np.array([1, 2]), **TO), "x must hold float32 or float64, got int64; convert it first"),
    "a scalar": (lambda: ops.activate(np.float32(1.0), kind="relu", **TO), "x must have one axis or more, got shape ()"),
    "queries without heads": (lambda: attend(q=ones(1, 2, 12)), "q must have 4 axes, got shape (1, 2, 12)"),
    "a matrix for a norm's weight": (lambda: ops.rms_norm(ones(1, 2), ones(1, 2), eps=0.0, **TO), "the norm's weight must have 1 axes, got shape (1, 2)"),
    "an array for a weight": (lambda: ops.linear(ones(1, 2, 5), ones(4, 5), **TO), "w must be a Weight of shape (O, I), none of them 0, got ndarray; Dense wraps an array"),
    "float64 beyond float32": (lambda: ops.softmax(np.array([1e300]), **TO), "x has numbers outside float32's range, of which precision 'reference' proves nothing; round them to float32, or take precision 'float64'"),
    "a negative eps": (lambda: ops.rms_norm(ones(1, 2), ones(2), eps=-1.0, **TO), "a norm's eps must be between 0 and 1.36113e+39, got -1.0"),
    "a huge eps": (lambda: ops.layer_norm(ones(1, 2), ones(2), eps=1e300, **TO), "a norm's eps must be between 0 and 1.36113e+39, got 1e+300"),
    "an eps that is NaN": (lambda: ops.layer_norm(ones(1, 2), ones(2), eps=float("nan"), **TO), "a norm's eps must be a finite number, got nan"),
    "an eps of text": (lambda: ops.layer_norm(ones(1, 2), ones(2), eps="1e-5", **TO), "a norm's eps must be a number, got '1e-5'"),
    "a norm of nothing": (lambda: ops.layer_norm(ones(1, 0), ones(0), eps=1e-5, **TO), "a norm over an empty axis has no value; give at least one number"),
    "an infinite cap": (lambda: ops.softcap(ones(1), cap=float("inf"), **TO), "a soft cap must be a finite number, got inf"),
    "a huge cap": (lambda: attend(cap=1e300), "a soft cap must be between 6.22302e-61 and 1.60694e+60, got 1e+300"),
    "a huge scale": (lambda: attend(scale=1e300), "the scale of attention must be between -1.60694e+60 and 1.60694e+60, got 1e+300"),
    "a tiny scale": (lambda: attend(scale=1e-300), "the scale of attention must be 0 or of size 6.22302e-61 or more, got 1e-300"),
    "an embedding's scale that is NaN": (lambda: ops.embed(np.array([[0]]), weight(3, 2), scale=float("nan"), **TO), "an embedding's scale must be a finite number, got nan"),
    "an index of floats": (lambda: ops.log_softmax_at(ones(1, 2), np.array([0.5]), **TO), "the index must be an array of integers, got float64"),
    "an index outside": (lambda: ops.log_softmax_at(ones(1, 2), np.array([-1]), **TO), "the index must be from 0 to 1, got -1"),
    "a negative position": (lambda: ops.rope_tables(np.array([[-3]]), ROPE, backend=TO["backend"]), "a position must not be negative, got -3"),
    "lengths of floats": (lambda: tables(1, 2, DYNAMIC, lengths=np.array([5.7])), "lengths must be integers from 0 up, got float64 [5.7]"),
    "a precision's name": (lambda: ops.softmax(ones(1), backend=TO["backend"], precision="bf16"), "precision must be a Precision, got 'bf16'; take get_precision(name)"),
    "a backend's name": (lambda: ops.softmax(ones(1), backend="numpy", precision=TO["precision"]), "backend must be a Backend, got 'numpy'; take lepton_ref.registry.get(name)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_is_refused_in_one_line(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_what_the_bad_calls_change_was_right_before() -> None:
    assert attend().shape == (1, 2, 4, 3)
    assert see().tolist() == [[[True, True]]]
    assert turn(ones(1, 2, 1, 4)).shape == (1, 2, 1, 4)
    assert tables(3, 2, DYNAMIC, lengths=np.array([9, 9, 9])).cos.shape == (3, 2, 2)


def test_no_query_gives_no_output() -> None:
    none = attend(q=ones(1, 0, 4, 3), mask=np.ones((1, 0, 5), dtype=bool))
    assert none.shape == (1, 0, 4, 3)


@pytest.mark.parametrize("leading", [(), (2,), (2, 3), (2, 3, 5)])
def test_norms_linear_and_activations_take_any_leading_axes(leading: tuple[int, ...]) -> None:
    x = ones(*leading, 4)
    assert ops.linear(x, weight(6, 4), **TO).shape == (*leading, 6)
    assert ops.rms_norm(x, ones(4), eps=1e-6, **TO).shape == x.shape
    assert ops.layer_norm(x, ones(4), eps=1e-6, **TO).shape == x.shape
    assert ops.activate(x, kind="silu", **TO).shape == x.shape
    assert ops.softmax(x, **TO).shape == ops.log_softmax(x, **TO).shape == x.shape


def test_a_kernel_goes_first_and_may_decline() -> None:
    class WithKernel(NumpyBackend):
        def __init__(self, answer: Any) -> None:
            self.kernels = {("linear", Dense): lambda *_, **__: answer}

    x, w = ones(1, 2, 3), weight(4, 3)
    to: dict[str, Any] = {"precision": TO["precision"]}
    assert ops.linear(x, w, backend=WithKernel("the kernel's"), **to) == "the kernel's"
    assert np.array_equal(ops.linear(x, w, backend=WithKernel(NotImplemented), **to), ops.linear(x, w, **TO))
