"""Every op against the specification, bit for bit, on numbers of every kind."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from adversaries import ADVERSARIES
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_cases import BY_NAME, CASES, Case, Drawn, activation, assert_bits, layer_norm, log_softmax, rms_norm, softcap
from strategies import any_numbers, sizes

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import PRECISIONS, counting
from lepton_ref.ops.checks import as_read
from lepton_ref.plain.ops import UndecidedError

BACKEND = NumpyBackend()
ROUNDED_ONCE = ("reference", "bf16", "fp16")
LINEAR = [case for case in CASES if case.name.startswith("linear")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(max_examples=30)
@given(data=st.data())
def test_an_op_gives_the_bits_of_the_specification(case: Case, data: st.DataObject) -> None:
    drawn = case.draw(data.draw(sizes(case.letters, largest=6)), data.draw(any_numbers()))
    for name in ROUNDED_ONCE:
        try:
            assert_bits(drawn, PRECISIONS[name], BACKEND)
        except UndecidedError:  # the specification's own answer where a soft cap saturates; see docs
            assume(False)


@pytest.mark.parametrize("case", LINEAR, ids=lambda case: case.name)
@pytest.mark.parametrize("name", ["w8a8", "w4a8", "fp8"])
@settings(max_examples=60)
@given(data=st.data())
def test_a_linear_layer_multiplies_what_its_precision_says(case: Case, name: str, data: st.DataObject) -> None:
    shape = {"b": 1, "t": 3, "i": data.draw(st.sampled_from([1, 5, 31, 32, 33, 70])), "o": 4}
    assert_bits(case.draw(shape, data.draw(any_numbers())), PRECISIONS[name], BACKEND)


def test_every_case_has_a_name_of_its_own() -> None:
    assert len(BY_NAME) == len(CASES)


@pytest.mark.parametrize("name", ADVERSARIES)
def test_what_float64_cannot_decide_is_repaired_to_the_specifications_bits(name: str) -> None:
    given_ = ADVERSARIES[name]
    drawn, precision = given_.draw(6), PRECISIONS[given_.precision]
    with counting() as counts:
        got = assert_bits(drawn, precision, BACKEND, most=1000)
    (count,) = counts.by_op.values()
    assert count.elements == got.size
    assert count.proven + count.in_double_double + count.exactly == count.elements
    if given_.all_of_them:
        assert count.ambiguous == count.elements, "the data are not as hard as they are meant to be"


def test_repairs_of_every_kind_are_among_them() -> None:
    with counting() as counts:
        for name, adversary in ADVERSARIES.items():
            if name.split(", ")[0] in ("linear", "attention", "rms_norm"):
                adversary.draw(6).run(BACKEND, PRECISIONS[adversary.precision])
    for op in ("linear", "attention", "rms_norm"):
        assert counts.by_op[op].exactly > 0
    assert counts.by_op["attention"].in_double_double > 0
    assert counts.total.seconds > 0


@pytest.mark.parametrize("name", ["rms_norm, ties", "layer_norm, ties", "log_softmax, gaps", "tanh, beside ties"])
@pytest.mark.parametrize("leading", [(), (1,), (1, 2, 3)])
def test_rows_are_repaired_whatever_their_leading_axes(name: str, leading: tuple[int, ...]) -> None:
    adversary = ADVERSARIES[name]
    x, *others = adversary.draw(6).inputs
    shape = (*leading, x.shape[-1])
    part = x.reshape(-1)[: math.prod(shape)].reshape(shape)
    of: dict[str, Callable[..., Drawn]] = {
        "rms_norm": lambda x, w: rms_norm(x, w, eps=0.0),
        "layer_norm": lambda x, w: layer_norm(x, w, None, eps=0.0),
        "log_softmax": log_softmax,
        "tanh": lambda x: activation(x, "tanh"),
    }
    assert_bits(of[name.split(",")[0]](part, *others), PRECISIONS[adversary.precision], BACKEND, most=1000)


def test_a_cap_far_above_its_numbers_leaves_them() -> None:
    x = np.array([[[2.0**-57 * 1.50390625, -(2.0**-140), 3.0]]], dtype=np.float32)
    for cap in (2.0**199, 1.37 * 2.0**150, 2.0**-190):
        for name in ("reference", "bf16", "fp16"):
            assert_bits(softcap(x, cap), PRECISIONS[name], BACKEND)


def test_an_override_reads_float64_as_float32() -> None:
    x = np.array([[0.1, 2.0**-160, 1e300]])
    got = as_read(x, backend=BACKEND, precision=PRECISIONS["bf16"])
    assert got.dtype == np.float32
    assert got.tolist() == [[float(np.float32(0.1)), 0.0, math.inf]]
    assert as_read(x, backend=BACKEND, precision=PRECISIONS["float64"]) is x


FLOAT64: dict[str, Drawn] = {
    "a soft cap beside a midpoint": softcap(np.array([[[float.fromhex("0x1.0100000000101p+0")]]]), 2427928.0),
    "a level row": layer_norm(np.full((1, 1, 6), float.fromhex("0x1.a077d21d8bc4ep+0")), np.ones(6), None, eps=0.0),
    "a small number": rms_norm(np.array([[[1.0, 2.0, 0.0, 0.0, 2.0**-140]]]), np.full(5, 1 + 3 * 2.0**-8), eps=0.0),
    "a tiny number of 53 bits": activation(np.array([[[0.1 * 2.0**-60, 1.1 * 2.0**-27]]]), "tanh"),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOAT64)
@pytest.mark.parametrize("precision", ROUNDED_ONCE)
def test_numbers_of_53_bits_are_decided_as_well(name: str, precision: str) -> None:
    assert_bits(FLOAT64[name], PRECISIONS[precision], BACKEND)
