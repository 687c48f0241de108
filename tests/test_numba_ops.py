"""Single ops on the Numba backend: the bits of the NumPy backend's, and the op's own words for what is wrong."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import numpy as np
import pytest
import test_ops_bad_input as bad_input
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import caught, numbers, seeds
from numpy.typing import NDArray

from lepton_ref import conformance, ops
from lepton_ref.backends import numba_op_attention, numba_op_linear, numba_ops
from lepton_ref.backends.numba_backend import NumbaBackend
from lepton_ref.backends.numba_dot import available
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.conformance.observed import Observed
from lepton_ref.numerics import PRECISIONS, counting
from lepton_ref.ops import rope_tables
from lepton_ref.ops.rope_frequencies import Rope
from lepton_ref.storage import FORMATS, BlockQuantised, Dense, encode
from lepton_ref.storage.encoded import as_operand

NUMPY = NumpyBackend()
ROUNDED = st.sampled_from(["reference", "bf16", "fp16"])
STORED = ("F32", "BF16", "F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
specials = st.sampled_from([0.0, 0.0, 0.05])


@cache
def numba(isa: str | None = None) -> NumbaBackend:
    return NumbaBackend(isa=isa)


def same(name: str, *args: Any, precision: str = "reference", isa: str | None = None, **kwargs: Any) -> int:
    """The op has the same bits on both backends; whether a kernel gave them."""
    watched = Observed(numba(isa))
    y, expected = (
        np.asarray(getattr(ops, name)(*args, backend=backend, precision=PRECISIONS[precision], **kwargs))
        for backend in (watched, NUMPY)
    )
    assert (y.dtype, y.shape) == (expected.dtype, expected.shape)
    different = (y.view(np.uint32) != expected.view(np.uint32)) & ~(np.isnan(y) & np.isnan(expected))  # one NaN
    assert not different.any(), f"{different.sum()} of {y.size} differ, the first at {np.argwhere(different)[0]}"
    return sum(use.ran for use in watched.uses.values())


@given(seed=seeds, shape=shapes, width=st.integers(1, 70), precision=ROUNDED, special=specials)
def test_ops_on_rows(seed: int, shape: tuple[int, ...], width: int, precision: str, special: float) -> None:
    x, f = (numbers(seed + n, *shape, width, special=special) for n in range(2))
    w, b = (numbers(seed + n, width) for n in (2, 3))
    ran = [
        same("add", x, f, precision=precision),
        same("rms_norm", x, w, eps=1e-5, offset=float(seed % 2), precision=precision),
        same("layer_norm", x, w, b if seed % 2 else None, eps=1e-5, precision=precision),
        same("softcap", x, cap=30.0, precision=precision),
        same("activate", x, kind="silu", precision=precision),
        same("gated", x, f, kind="gelu_tanh", precision=precision),
    ]
    assert special or width == 1 or sum(ran) > 3


@given(seed=seeds, heads=st.integers(1, 3), interleaved=st.booleans(), precision=ROUNDED, special=specials,
       batch=st.integers(1, 2))  # fmt: skip
def test_rope(seed: int, heads: int, interleaved: bool, precision: str, special: float, batch: int) -> None:
    positions = np.random.default_rng(seed).integers(0, 5000, (batch, 3))
    tables = rope_tables(positions, Rope(theta=1e4, width=8, interleaved=interleaved), backend=NUMPY)
    assert same("rope", numbers(seed, 2, 3, heads, 12, special=special), tables, precision=precision) or special


@given(seed=seeds, tokens=st.integers(1, 12), slots=st.integers(1, 40), groups=st.integers(1, 2),
       each=st.integers(1, 3), width=st.sampled_from([4, 16, 24]), precision=ROUNDED, special=specials,
       seen=st.sampled_from([0.1, 0.6, 1.0]), cap=st.sampled_from([None, 20.0]))  # fmt: skip
def test_attention(
    seed: int, tokens: int, slots: int, groups: int, each: int, width: int, precision: str, special: float,
    seen: float, cap: float | None,
) -> None:  # fmt: skip
    q = numbers(seed, 2, tokens, groups * each, width, special=special / 8)
    k, v = (numbers(seed + n, 2, slots, groups, width, special=special / 8) for n in (1, 2))
    mask = np.random.default_rng(seed).random((2, tokens, slots)) < seen
    same("attention", q, k, v, mask, scale=width**-0.5, cap=cap, precision=precision)


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("format", STORED)
@settings(max_examples=6)
@given(seed=seeds, rows=st.integers(1, 9), outputs=st.integers(1, 40), blocks=st.integers(1, 3), biased=st.booleans(),
       how=st.sampled_from(["reference", "bf16", "fp16", "w8a8", "w4a8"]), special=specials)  # fmt: skip
def test_linear(
    isa: str, format: str, seed: int, rows: int, outputs: int, blocks: int, biased: bool, how: str, special: float
) -> None:
    width = blocks * (256 if "_K" in format else 32)
    w = stored(format, numbers(seed, outputs, width))
    x, b = numbers(seed + 1, 1, rows, width, special=special), numbers(seed + 2, outputs) if biased else None
    weight = as_operand(w, PRECISIONS[how].operands)
    assert same("linear", x, weight, b, precision=how, isa=isa) or special
    if weight is not w:
        same("linear", x, w, b, precision=how, isa=isa)  # what nothing has encoded is multiplied as it is


def stored(format: str, rows: NDArray[np.float32]) -> Any:
    data = encode(format, rows)
    if format in ("F32", "BF16", "F16"):
        return Dense(data.reshape(-1).view({"F32": "<f4", "BF16": "<u2", "F16": "<f2"}[format]).reshape(rows.shape),
                     format=format)  # fmt: skip
    return BlockQuantised(data, format=FORMATS[format])


def test_float64_inputs_are_taken_where_float32_has_them() -> None:
    x = numbers(0, 2, 20).astype(np.float64)
    assert same("activate", x, kind="relu") == 1
    assert same("activate", x * (1 + 2.0**-40), kind="relu") == 0


def test_much_work_is_shared_among_threads() -> None:
    x = numbers(3, 300, 130)
    assert x.size > numba_ops.ALONE
    assert same("gated", x, x, kind="silu") == 1
    assert same("linear", numbers(4, 300, 130), Dense(numbers(5, 70, 130), format="F32")) == 1


@pytest.mark.parametrize("precision", ["float64", "fast", "ggml"])
def test_other_precisions_are_declined(precision: str) -> None:
    x, w = numbers(0, 2, 32), Dense(numbers(1, 3, 32), format="F32")
    watched = Observed(numba())
    ops.linear(x, w, backend=watched, precision=PRECISIONS[precision])
    assert watched.uses["linear/Dense"].ran == 0


def test_elements_are_counted() -> None:
    with counting() as counts:
        ops.add(numbers(0, 3, 5), numbers(1, 3, 5), backend=numba(), precision=PRECISIONS["reference"])
    assert counts.of("add").elements == 15


def test_a_weight_is_packed_once_and_no_longer_than_it_lives() -> None:
    backend, weight = NumbaBackend(), Dense(numbers(1, 20, 32), format="F32")
    kernel: Any = inspect.getclosurevars(backend.kernels["linear", Dense]).nonlocals["function"].__self__
    for _ in range(2):
        ops.linear(numbers(0, 2, 32), weight, backend=backend, precision=PRECISIONS["reference"])
    assert len(kernel.packed) == 1
    del weight
    assert len(kernel.packed) == 0


@pytest.mark.parametrize("name", bad_input.BAD)
def test_wrong_input_gets_the_op_s_own_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = NumbaBackend()
    monkeypatch.setattr(backend, "name", "numpy")  # as the words have it
    monkeypatch.setitem(bad_input.TO, "backend", backend)
    bad_input.test_wrong_input_is_refused_in_one_line(name)


# --- what is tested is what ran ---


def ordinary(precision: str) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of every op that has a kernel, of which nothing is unusual."""
    weight = as_operand(stored("Q8_0", numbers(3, 5, 64)), PRECISIONS[precision].operands)
    x, f, q = numbers(0, 3, 64), numbers(1, 3, 64), numbers(2, 1, 3, 2, 16)
    tables = rope_tables(np.arange(3)[None], Rope(theta=1e4, width=16), backend=NUMPY)
    return {
        "activate": ((x,), {"kind": "silu"}),
        "add": ((x, f), {}),
        "attention": ((q, q, q, np.ones((1, 3, 3), dtype=bool)), {"scale": 0.25}),
        "gated": ((x, f), {"kind": "gelu_tanh"}),
        "layer_norm": ((x, x[0], f[0]), {"eps": 1e-5}),
        "linear": ((x, weight), {}),
        "log_softmax_at": ((x, np.arange(3)), {}),
        "rms_norm": ((x, f[0]), {"eps": 1e-5}),
        "rope": ((q, tables), {}),
        "softcap": ((x,), {"cap": 30.0}),
    }


@pytest.mark.parametrize("precision", ["reference", "bf16", "fp16", "w8a8", "w4a8"])
def test_what_is_ordinary_is_computed_by_a_kernel(precision: str) -> None:
    calls = ordinary(precision)
    assert calls.keys() == {name for name, _ in numba().kernels} - {"program"}
    for name, (args, kwargs) in calls.items():
        assert same(name, *args, precision=precision, **kwargs) == 1, name


def test_a_kernel_that_declines_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = {key: lambda *args, **kwargs: NotImplemented for key in numba(None).kernels}
    monkeypatch.setattr(numba(None), "kernels", kernels)
    with pytest.raises(AssertionError, match="activate"):
        test_what_is_ordinary_is_computed_by_a_kernel("reference")


def test_the_suite_passes_and_every_kernel_answered() -> None:
    report = conformance.run(numba(), ops=["add", "rms_norm", "gated", "attention", "rope", "model", "cache_is_none"],
                             examples=16)  # fmt: skip
    assert report.passed, report.verdict
    names = ("add", "rms_norm", "gated", "attention", "rope", "program")
    assert all(report.kernels[name][0] > 0 for name in names), report.kernels


def test_a_kernel_of_programs_that_always_declines_is_no_pass() -> None:
    backend = NumbaBackend()
    backend.kernels = {("program", type(None)): lambda run, program: NotImplemented}
    report = conformance.run(backend, ops=["model"], examples=1)
    assert not report.passed
    assert "declined all" in report.idle["program"]


def test_planted_bugs_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = numbers(0, 5, 64), numbers(1, 64)
    real = numba_ops.numba_norm.rms_norm

    def wrong(*args: Any) -> None:
        real(*args[:9], args[9] * 1.0001, *args[10:])

    with monkeypatch.context() as patch:
        patch.setattr(numba_ops.numba_norm, "rms_norm", wrong)
        caught(lambda: same("rms_norm", x, w, eps=1e-2))
    with monkeypatch.context() as patch:
        patch.setattr(numba_op_linear, "pack_real", numba_op_linear.pack)
        caught(lambda: same("linear", x, Dense(numbers(2, 7, 64), format="F32"), isa=None, precision="reference"))
    with monkeypatch.context() as patch:  # a cap that is forgotten
        take = numba_op_attention.attention
        patch.setattr(numba_op_attention, "attention", lambda *a: take(*a[:7], 0.0, *a[8:]))
        q = numbers(3, 1, 2, 2, 16) * 4
        caught(lambda: same("attention", q, q, q, np.ones((1, 2, 2), dtype=bool), scale=1.0, cap=5.0))
