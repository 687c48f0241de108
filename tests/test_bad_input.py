"""Wrong kinds and values of every argument of conformance, numerics, storage and compress: refused in one clear line.

`WRONG` is given for each argument in turn, the others being right. What comes back must be an error that this package
raised itself, on one line; the few values that are right for an argument after all are named in `RIGHT_FOR`.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import GOLDEN
from tiny_models import load

import lepton_ref
from lepton_ref import compress, conformance, numerics, registry, storage
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.compress.activations import corpus, stream
from lepton_ref.conformance import strategies
from lepton_ref.conformance.claim import example
from lepton_ref.plain.shown import LENGTH, shown

NUMPY = NumpyBackend()
PACKAGE = Path(lepton_ref.__file__).parent


def read_only() -> Any:
    array = np.ones(4, dtype=np.float32)
    array.flags.writeable = False
    return array


WRONG: dict[str, Any] = {
    "None": None, "a word": "nix", "no word": "", "bytes": b"abc", "a list": [1.0, 2.0], "a dict": {"a": 1},
    "True": True, "5": 5, "0": 0, "-1": -1, "2**70": 2**70, "0.5": 0.5, "1e300": 1e300, "NaN": float("nan"),
    "inf": float("inf"), "an object": object(), "a class": str, "no numbers": np.zeros(0, np.float32),
    "0-d": np.ones((), np.float32), "2-d": np.ones((2, 3), np.float32), "3-d": np.ones((2, 3, 32), np.float32),
    "integers": np.arange(64), "bytes in an array": np.zeros(35, np.uint8), "booleans": np.ones(32, bool),
    "strided": np.ones((4, 64), np.float32)[:, ::2], "big-endian": np.ones(32, ">f4"), "read-only": read_only(),
    "complex": np.ones(32, np.complex64), "objects": np.array([object()]), "words": np.array(["a", "b"]),
    "NaNs": np.full(32, np.nan, np.float32), "infinities": np.full(32, np.inf, np.float32),
    "halves": np.ones(32, "<f2"), "huge": np.full(32, 1e300), "long": np.ones(32, np.longdouble),
    "no rows": np.zeros((0, 32), np.float32),
    "no columns": np.zeros((3, 0), np.float32),
}  # fmt: skip

X = np.linspace(-3, 3, 64)
W = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
CLAIM = conformance.CLAIMS["add"]
CASE = example(CLAIM, precision="reference", seed=0, number=0)
CAPSULE = conformance.Capsule("add", CASE, "why", None, None, 0, 0, "mine")
MODEL = load(GOLDEN / "tiny" / "llama")
IDS = list(range(3, 19))
RUN = {"seed": 0, "examples": 1}

CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "round_array": (numerics.round_array, (X, "bf16"), {"mode": "even", "saturate": False, "low": X * 2.0**-60}),
    "stochastic": (numerics.round_array, (X, "bf16"), {"mode": "stochastic", "bits": np.zeros(64, np.uint64)}),
    "decode_array": (numerics.decode_array, (np.arange(5), "e4m3fn"), {}),
    "encode_array": (numerics.encode_array, (np.ones(3), "bf16"), {}),
    "get_precision": (numerics.get_precision, ("bf16",), {}),
    "registry.get": (registry.get, ("numpy",), {}),
    "encode": (storage.encode, ("Q4_0", W), {}),
    "encode weighted": (storage.encode, ("Q4_0", W), {"weights": np.ones(256)}),
    "encode dense": (storage.encode, ("BF16", W), {"weights": None}),
    "decode": (storage.decode, ("Q4_0", np.zeros((2, 36), np.uint8)), {}),
    "decode dense": (storage.decode, ("F16", np.zeros((2, 36), np.uint8)), {}),
    "gptq": (
        compress.quantise_weight,
        (W[:, :64], "int4-g32"),
        {"method": "gptq", "hessian": np.eye(64), "damp": 0.01, "act_order": False, "follow": False},
    ),
    "rtn": (
        compress.quantise_weight,
        (W[:, :64], "int4-g32"),
        {"method": "rtn", "importance": np.ones(64), "scales": "minmax"},
    ),
    "blocks": (compress.quantise_weight, (W, "Q8_0"), {}),
    "blocks weighted": (compress.quantise_weight, (W, "Q4_0"), {"importance": np.ones(256)}),
    "calibrate": (compress.calibrate, (MODEL, IDS), {"length": 8, "samples": None, "seed": None, "progress": None}),
    "drawn": (corpus, (IDS,), {"length": 8, "samples": 1, "seed": 0}),
    "stream": (lambda *args, **how: next(stream(*args, **how)), (MODEL, corpus(IDS)), {"progress": None}),
    "run": (
        conformance.run,
        (NUMPY,),
        {"ops": ["add"], "precisions": ["reference"], **RUN, "declared": {}, "progress": None},
    ),
    "attempt": (conformance.attempt, (CLAIM, NUMPY), {"precision": "reference", **RUN}),
    "check": (conformance.CHECKS[0], (NUMPY,), RUN),
    "judge_op": (conformance.judge_op, (CASE, NUMPY), {}),
    "replay": (conformance.replay, (CAPSULE, NUMPY), {}),
    "load_capsule": (conformance.load_capsule, ("a.npz",), {}),
    "save": (CAPSULE.save, ("a.npz",), {"overwrite": True}),
    "cases": (strategies.cases, ("add",), {"precision": "reference", "special": True}),
    "arrays": (strategies.arrays, ((3,),), {"precision": "reference", "special": True}),
    "write_imatrix": (
        compress.write_imatrix,
        ("a.gguf", compress.calibrate(MODEL, IDS).imatrix()),
        {"overwrite": True},
    ),
    "read_imatrix": (compress.read_imatrix, ("a.gguf",), {}),
}  # fmt: skip
"""Name → a function, and arguments that are right."""

WHOLE_BLOCKS = {"no numbers", "no rows", "no columns", "strided", "big-endian", "halves", "integers", "3-d"}
NUMBERS = WHOLE_BLOCKS | {"2-d", "NaNs", "infinities", "huge", "read-only"} - {"integers"}
RIGHT_FOR: dict[tuple[str, int | str], set[str]] = {
    ("round_array", "saturate"): {"True"},
    ("round_array", "low"): {"None"},
    ("decode_array", 0): {"integers", "bytes in an array"},
    ("encode", 1): WHOLE_BLOCKS | {"long"},
    ("encode weighted", "weights"): {"None", "0-d"},
    ("encode dense", 1): (NUMBERS - {"integers"}) | {"huge"},
    ("encode dense", "weights"): {"None"},
    ("gptq", "damp"): {"0", "5", "0.5", "1e300", "2**70"},
    ("gptq", "act_order"): {"None", "True"},
    ("gptq", "follow"): {"True"},
    ("rtn", "importance"): {"None", "integers"},
    ("blocks", 0): WHOLE_BLOCKS | {"long"},
    ("blocks weighted", "importance"): {"None"},
    ("calibrate", "length"): {"5", "2**70"},
    ("calibrate", "samples"): {"None"},
    ("calibrate", "seed"): {"None"},
    ("calibrate", "progress"): {"None"},
    ("drawn", "length"): {"5", "2**70"},
    ("drawn", "seed"): {"0", "5"},
    ("drawn", 0): {"integers", "bytes in an array"},
    ("calibrate", 1): {"bytes in an array"},
    ("stream", "progress"): {"None"},
    ("run", "ops"): {"None"},
    ("run", "progress"): {"None"},
    ("run", "seed"): {"0", "5", "2**70"},
    ("run", "examples"): {"5"},
    ("attempt", "seed"): {"0", "5", "2**70"},
    ("attempt", "examples"): {"5"},
    ("check", "seed"): {"0", "5", "2**70"},
    ("check", "examples"): {"5", "2**70"},
    ("save", 0): {"a word"},
    ("save", "overwrite"): {"True"},
    ("cases", "special"): {"True"},
    ("arrays", "special"): {"True"},
    ("write_imatrix", 0): {"a word"},
    ("write_imatrix", "overwrite"): {"True"},
}
"""(call, argument) → which of `WRONG` are right for it."""

NOT_GIVEN = {("run", "examples", "2**70"), ("attempt", "examples", "2**70"), ("run", "ops", "None")}
"""They are right, and would take long."""
BY_OTHERS = {("run", "progress", "a class"), ("calibrate", "progress", "a class"), ("stream", "progress", "a class")}
"""What is called is the caller's own, and so is what it raises."""
OTHER_ERRORS = (FileNotFoundError, FileExistsError, OSError)
"""What the system says of a path that is one."""

ARGUMENTS = [
    (call, argument) for call, (_, args, how) in CALLS.items() for argument in [*range(len(args)), *how]
]  # fmt: skip


def given(call: str, argument: int | str, value: Any) -> Any:
    """The call with one argument replaced."""
    function, args, how = CALLS[call]
    if isinstance(argument, str):
        return function(*args, **{**how, argument: value})
    return function(*(value if at == argument else each for at, each in enumerate(args)), **how)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some wrong values are names of files."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("call", "argument"), ARGUMENTS, ids=str)
def test_wrong_arguments_are_refused_in_one_line(call: str, argument: int | str) -> None:
    accepted, unclear = set(), {}
    for name, value in WRONG.items():
        if (call, argument, name) in NOT_GIVEN | BY_OTHERS:
            continue
        try:
            given(call, argument, value)
        except OTHER_ERRORS:
            unclear |= {} if isinstance(value, str) else {name: "a file"}
        except (TypeError, ValueError) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            ours = PACKAGE in Path(last.filename).parents and re.match(r"raise \w+Error", last.line or "") is not None
            if not ours or "\n" in str(error) or len(str(error)) < 20:
                unclear[name] = f"{error!r} in {last.filename}:{last.lineno}: {last.line}"
        else:
            accepted.add(name)
    assert not unclear
    right = {name for name in RIGHT_FOR.get((call, argument), ()) if (call, argument, name) not in NOT_GIVEN}
    assert accepted == right


@pytest.mark.parametrize("inside", [lambda name: np.zeros(3).reshape(name), lambda name: np.zeros(3)[name]])
def test_an_error_from_inside_would_be_seen(inside: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CALLS, "get_precision", (inside, (3,), {}))
    with pytest.raises((AssertionError, IndexError)):
        test_wrong_arguments_are_refused_in_one_line("get_precision", 0)


def test_a_wrong_value_that_is_taken_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CALLS, "get_precision", (bool, ("bf16",), {}))
    with pytest.raises((AssertionError, ValueError)):
        test_wrong_arguments_are_refused_in_one_line("get_precision", 0)


def test_what_the_wrong_calls_change_was_right_before() -> None:
    for call, (function, args, how) in CALLS.items():
        if call not in ("load_capsule", "read_imatrix"):
            function(*args, **how)
    CAPSULE.save("a.npz", overwrite=True)
    assert conformance.load_capsule("a.npz").check == "add"
    assert compress.read_imatrix("a.gguf").entries


@pytest.mark.parametrize("name", ["strided", "big-endian", "halves", "read-only"])
def test_arrays_of_every_memory_layout_encode_alike(name: str) -> None:
    array = WRONG[name] * np.linspace(-1, 1, WRONG[name].shape[-1]).astype(WRONG[name].dtype)
    plain = np.ascontiguousarray(array).astype("<f4")
    for form in ("F32", "BF16", "F16", "Q8_0"):
        if form != "Q8_0" or plain.shape[-1] % 32 == 0:
            np.testing.assert_array_equal(storage.encode(form, array), storage.encode(form, plain))
    doubles = plain.astype(np.float64)
    rounded = numerics.round_array(doubles, "e4m3fn")
    strided = np.repeat(doubles, 2, axis=-1)[..., ::2]
    assert not strided.flags.c_contiguous
    np.testing.assert_array_equal(numerics.round_array(strided, "e4m3fn"), rounded)
    np.testing.assert_array_equal(doubles, plain, "nothing is rounded in place")


def test_a_refused_value_is_shown_on_one_line() -> None:
    assert shown(np.zeros((40, 40))) == "an array of float64 (40, 40)"
    assert shown("a\nb") == r"'a\nb'"
    assert shown(np.float32(2.5)) == repr(np.float32(2.5))
    assert len(shown(list(range(1000)))) == LENGTH
    assert shown(list(range(1000))).endswith("…")
    assert "\n" not in shown([np.zeros((40, 40))])
