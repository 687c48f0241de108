"""`Model.forward`: what it takes, what it refuses and how, and that nothing but the tokens decides the bits."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import cache
from types import SimpleNamespace
from typing import Any

import golden_cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from strict_backend import StrictBackend
from tiny_models import BACKEND, load

from lepton_ref import Model
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.models import execute, inputs
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.runtime.contiguous_cache import ContiguousCache
from lepton_ref.runtime.kv_codec import DenseCodec
from lepton_ref.storage import Dense
from lepton_ref.storage.kept import Kept

TINY = golden_cases.GOLDEN / "tiny"
DECODERS = ("llama", "gpt2")
IDS = [[5, 6, 7], [8, 9, 10]]


@cache
def model(name: str = "llama", precision: str = "reference", keep: bool = True) -> Model:
    return load(TINY / name, precision=precision, keep_decoded=keep)


def same(got: NDArray[Any], want: NDArray[Any]) -> None:
    """Equal bits: of zeros the sign too, and NaN for NaN."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    assert got.tobytes() == want.tobytes()


# --- ids -------------------------------------------------------------------------------------------------------------

IDS_AS: dict[str, Callable[[], Any]] = {
    "tuples": lambda: ((5, 6, 7), (8, 9, 10)),
    "a list of arrays": lambda: [np.array(row) for row in IDS],
    "rows by columns": lambda: np.array(IDS, order="F"),
    "every second column": lambda: np.repeat(IDS, 2, axis=1)[:, ::2],
    "backwards": lambda: np.array(IDS)[:, ::-1][:, ::-1],
    "read-only": lambda: np.broadcast_to(np.array(IDS), (2, 3)),
    "big-endian": lambda: np.array(IDS, dtype=">i4"),
    **{f"{dtype}": lambda dtype=dtype: np.array(IDS, dtype=dtype) for dtype in np.typecodes["AllInteger"]},
}


@pytest.mark.parametrize("form", IDS_AS)
def test_ids_may_come_in_any_form(form: str) -> None:
    same(model().forward(IDS_AS[form]()), model().forward(IDS))


def test_a_flat_list_is_a_batch_of_one() -> None:
    for flat in ([5, 6, 7], (5, 6, 7), np.array([5, 6, 7]), range(5, 8)):
        same(model().forward(flat), model().forward([[5, 6, 7]]))


WRONG_IDS: dict[str, tuple[Any, type[Exception], str]] = {
    "none": (None, ValueError, r"input_ids is missing; give integers of shape \(B, T\)"),
    "booleans": (np.ones((1, 3), dtype=bool), TypeError, "input_ids must be integers of at most 64 bits, got bool"),
    "floats": ([[1.0, 2.0]], TypeError, "input_ids must be integers of at most 64 bits, got float64; tokenise text"),
    "complex": ([[1j]], TypeError, "got complex128"),
    "text": ("hello", TypeError, "got <U5; tokenise text first"),
    "objects": ([[None, 1]], TypeError, "got object"),
    "beyond 64 bits": ([[2**70]], TypeError, "of at most 64 bits, got object"),
    "dates": (np.array([["2024-01-01"]], dtype="datetime64[D]"), TypeError, "got datetime64"),
    "ragged": ([[1, 2], [3]], ValueError, "input_ids has rows of unequal lengths; pad them and say where with atten"),
    "empty": ([], ValueError, r"input_ids is empty \(shape \(0,\)\); give at least one token"),
    "empty rows": ([[], []], ValueError, r"input_ids is empty \(shape \(2, 0\)\); give at least one token"),
    "no rows": (np.zeros((0, 3), dtype=int), ValueError, r"input_ids is empty \(shape \(0, 3\)\)"),
    "one number": (5, ValueError, r"input_ids must be of shape \(B, T\), got \(\)"),
    "three axes": ([[[1]]], ValueError, r"input_ids must be of shape \(B, T\), got \(1, 1, 1\)"),
    "negative": ([[1, 2], [3, -1]], ValueError, r"input_ids\[1, 1\] is -1, outside the vocabulary of 61; is the tok"),
    "one too many": ([[1, 61]], ValueError, r"input_ids\[0, 1\] is 61, outside the vocabulary of 61; is the tok"),
    "huge": ([[2**40]], ValueError, r"input_ids\[0, 0\] is 1099511627776, outside the vocabulary of 61"),
    "unsigned −1": (np.array([[1, -1]]).astype(np.uint64), ValueError, r"input_ids\[0, 1\] is 18446744073709551615"),
    "least of all": ([[-(2**63)]], ValueError, r"input_ids\[0, 0\] is -9223372036854775808, outside the vocabulary"),
}


@pytest.mark.parametrize("case", WRONG_IDS)
def test_wrong_ids_are_refused(case: str) -> None:
    ids, error, text = WRONG_IDS[case]
    with pytest.raises(error, match=text):
        model().forward(ids)


def test_the_last_id_of_the_vocabulary_is_one_of_it() -> None:
    assert np.isfinite(model().forward([[0, 60]])).all()


# --- masks, positions, types -----------------------------------------------------------------------------------------

MASK = [[1, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize(
    "mask",
    [MASK, tuple(map(tuple, MASK)), *(np.array(MASK, dtype=t) for t in ("?", "i1", "u8", "f2", "f8"))],
    ids=lambda mask: getattr(mask, "dtype", type(mask).__name__),
)
def test_a_mask_may_come_in_any_form(mask: Any) -> None:
    found = model().forward(IDS, attention_mask=mask)
    same(found[0], model().forward(IDS[0])[0])
    same(found[1, 1:], model().forward(IDS[1][1:])[0])
    assert found[1, 0].tobytes() == bytes(4 * 61), "outputs at padding are +0"


@pytest.mark.parametrize("pad", [-100, -1, 61, 2**40, -(2**63)])
def test_an_id_at_padding_is_never_read(pad: int) -> None:
    for mask, row in (([1, 1, 0], [5, 6, pad]), ([0, 1, 1], [pad, 5, 6])):
        plain = [0 if token == pad else token for token in row]
        same(model().forward(row, attention_mask=mask), model().forward(plain, attention_mask=mask))
        with pytest.raises(ValueError, match="outside the vocabulary"):
            model().forward(row)


def test_a_position_or_a_type_at_padding_is_never_read() -> None:
    mask = [[0, 1, 1]]
    want = model().forward([[0, 5, 6]], attention_mask=mask)
    same(model().forward([[0, 5, 6]], attention_mask=mask, position_ids=[[-7, 0, 1]]), want)
    bert = model("bert")
    want = bert.forward([[0, 5, 6]], attention_mask=mask, token_type_ids=[[0, 0, 1]])
    same(bert.forward([[0, 5, 6]], attention_mask=mask, token_type_ids=[[9, 0, 1]]), want)


def test_a_sequence_of_padding_alone_gives_zeros() -> None:
    found = model().forward(IDS, attention_mask=[[0, 0, 0], [1, 1, 1]])
    assert found[0].tobytes() == bytes(3 * 4 * 61)
    same(found[1], model().forward(IDS[1])[0])
    assert not model().forward([[5, 6]], attention_mask=[[0, 0]], last_only=True).any()


WRONG_INPUTS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("llama", {"attention_mask": [[1, 1]]}, ValueError, r"attention_mask must be of shape \(2, 3\), got \(1, 2\)"),
    ("llama", {"attention_mask": [1, 1, 1]}, ValueError, r"attention_mask must be of shape \(2, 3\), got \(1, 3\)"),
    ("llama", {"attention_mask": np.ones((2, 3, 1))}, ValueError, r"must be of shape \(2, 3\), got \(2, 3, 1\)"),
    ("llama", {"attention_mask": [[1, 1], [1]]}, ValueError, "attention_mask has rows of unequal lengths"),
    ("llama", {"attention_mask": [[1, 1, 2], [1, 1, 1]]}, ValueError, "must hold 0 for padding and 1 for tokens only"),
    ("llama", {"attention_mask": np.full((2, 3), np.nan)}, ValueError, "must hold 0 for padding and 1 for tokens"),
    ("llama", {"attention_mask": [["1"] * 3] * 2}, ValueError, "must hold 0 for padding and 1 for tokens"),
    ("llama", {"attention_mask": [[0, -1e9, 0]] * 2}, ValueError, "must hold 0 for padding and 1 for tokens"),
    ("llama", {"position_ids": [[0.0, 1.0, 2.0]]}, TypeError, "position_ids must be integers, got float64"),
    ("llama", {"position_ids": [[0, 1]]}, ValueError, r"position_ids must be of shape \(2, 3\), got \(1, 2\)"),
    ("llama", {"position_ids": [[0, 1, -2]]}, ValueError, r"position_ids\[0, 2\] is -2, but must not be negative"),
    ("llama", {"position_ids": [[0, 1], [1]]}, ValueError, "position_ids has rows of unequal lengths"),
    ("llama", {"token_type_ids": [[0, 0, 0]]}, ValueError, "this model takes no token_type_ids; leave them out"),
    ("llama", {"pixel_values": np.zeros(3)}, ValueError, "LlamaForCausalLM takes no pixel_values; it reads input_ids"),
    ("llama", {"input_features": np.zeros(3)}, ValueError, "LlamaForCausalLM takes no input_features; it reads inp"),
    ("llama", {"decoder_input_ids": [[1]]}, ValueError, "LlamaForCausalLM takes no decoder_input_ids; it reads inpu"),
    ("llama", {"atention_mask": MASK}, TypeError, "forward takes no argument 'atention_mask'; it takes input_ids, att"),
    ("llama", {"use_cache": None}, TypeError, "forward takes no argument 'use_cache'"),
    ("llama", {"cache": "yes"}, TypeError, r"cache must be a KVCache, got str; make one with this model's new_cache"),
    ("gpt2", {"position_ids": [[0, 1, 32]]}, ContextOverflowError, "33 positions overflow the 32 that the model has"),
    ("bert", {"token_type_ids": [[0, 0, 2]]}, ValueError, r"token_type_ids\[0, 2\] is 2, but the model has learned 2"),
    ("bert_classifier", {"last_only": True}, ValueError, "gives one output for each sequence; leave last_only out"),
]


@pytest.mark.parametrize(("name", "inputs", "error", "text"), WRONG_INPUTS, ids=[str(c[1])[:40] for c in WRONG_INPUTS])
def test_a_wrong_input_is_refused(name: str, inputs: dict[str, Any], error: type[Exception], text: str) -> None:
    for call in (model(name).forward, model(name).run_with_trace):
        with pytest.raises(error, match=text):
            call(IDS, **inputs)


def test_inputs_of_other_models_may_be_named_as_none() -> None:
    same(model().forward(IDS, pixel_values=None, attention_mask=None, cache=None), model().forward(IDS))


def test_positions_are_obeyed() -> None:
    want = model().forward(IDS)
    same(model().forward(IDS, position_ids=[0, 1, 2]), want)
    assert model().forward(IDS, position_ids=[0, 1, 9]).tobytes() != want.tobytes()


# --- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "llama_bare", "gpt2", "bert", "bert_classifier", "bert_masked_lm"])
@pytest.mark.parametrize(("precision", "dtype"), [("reference", np.float32), ("float64", np.float64)])
def test_the_output_is_the_caller_s_own(name: str, precision: str, dtype: type[Any]) -> None:
    loaded = model(name, precision)
    ids = np.array(IDS)
    mask = np.array(MASK)
    for array in (ids, mask):
        array.setflags(write=False)  # a write to what the caller gave would raise
    for others in ({}, {"attention_mask": mask}):
        first = loaded.forward(ids, **others)
        kept = first.copy()
        assert first.dtype == dtype
        first[...] = np.nan
        same(loaded.forward(ids, **others), kept)


def test_a_trace_shares_nothing_with_the_model() -> None:
    trace = model().run_with_trace(IDS)
    kept = trace.output.copy()
    for name in trace:
        trace[name][...] = np.nan
    same(model().run_with_trace(IDS).output, kept)


class ReadOnly(NumpyBackend):
    """A backend whose arrays come back read-only, as those of JAX do."""

    def to_numpy(self, array: Any, /) -> Any:
        view = array.view()
        view.setflags(write=False)
        return view


def test_the_output_of_a_backend_of_read_only_arrays_can_be_written() -> None:
    found = load(TINY / "llama", backend=ReadOnly()).forward(IDS)
    assert found.flags.writeable
    same(found, model().forward(IDS))


def test_last_only_is_each_sequence_s_last_token() -> None:
    for mask in (MASK, [[1, 1, 0], [1, 0, 0]]):
        whole = model().forward(IDS, attention_mask=mask)
        last = model().forward(IDS, attention_mask=mask, last_only=True)
        ends = [max(np.flatnonzero(row)) for row in mask]
        same(last, np.stack([whole[b, t] for b, t in enumerate(ends)])[:, None])


# --- caches ----------------------------------------------------------------------------------------------------------


def test_the_cache_of_another_model_is_refused() -> None:
    own = model().new_cache(batch=2)
    text = (
        "the cache was made by another model than this .* on backend 'numpy' under precision '.*'; make one with this"
    )
    for other in (model("gpt2"), model(precision="float64"), load(TINY / "llama"), model("llama_tied")):
        with pytest.raises(ValueError, match=text):
            other.forward(IDS, cache=own)
    with pytest.raises(ValueError, match="on backend 'strict'"):
        load(TINY / "llama", backend=StrictBackend()).forward(IDS, cache=own)
    codec = DenseCodec(BACKEND, model().precision)
    orphan = ContiguousCache(model().program.caches(), batch=2, capacity=None, rope_length=1, codec=codec)
    with pytest.raises(ValueError, match=text):
        model().forward(IDS, cache=orphan)
    assert own.length == 0
    with pytest.raises(ValueError, match="the cache holds 2 sequences, got 1; make another cache"):
        model().forward(IDS[0], cache=own)
    with pytest.raises(ValueError, match="sees both ways and keeps no cache"):
        model("bert").forward(IDS, cache=own)


def test_a_cache_does_not_keep_its_model_alive() -> None:
    loaded = load(TINY / "llama")
    own = loaded.new_cache()
    assert own.owner is not None
    del loaded
    assert own.owner() is None


def test_a_copied_cache_goes_on_by_itself() -> None:
    own = model().new_cache()
    model().forward([5, 6], cache=own)
    other = copy.deepcopy(own)
    model().forward([9], cache=own)
    same(model().forward([7], cache=other)[:, -1], model().forward([5, 6, 7])[:, -1])


REFUSED: list[dict[str, Any]] = [
    {"input_ids": [61]},
    {"input_ids": [1], "position_ids": [-1]},
    {"input_ids": [1], "token_type_ids": [0]},
    {"input_ids": [1], "attention_mask": [2]},
    {"input_ids": [1], "pixel_values": 1},
    {"input_ids": [1] * 9},
]


@pytest.mark.parametrize("inputs", REFUSED, ids=str)
def test_a_run_that_is_refused_leaves_the_cache_as_it_was(inputs: dict[str, Any]) -> None:
    own = model().new_cache(capacity=8)
    model().forward([5, 6], cache=own)
    with pytest.raises(ValueError, match=r"."):
        model().forward(cache=own, **inputs)
    assert own.length == 2
    same(model().forward([7], cache=own)[:, -1], model().forward([5, 6, 7])[:, -1])


def test_a_run_that_breaks_midway_leaves_the_cache_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    own = model().new_cache(capacity=8)
    model().forward([5, 6], cache=own)

    def breaks(*_: object) -> None:
        raise MemoryError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(execute, "HANDLERS", {**execute.HANDLERS, "last": breaks})
        with pytest.raises(MemoryError, match="planted"):
            model().forward([9, 9], cache=own)
    assert own.length == 2
    same(model().forward([7], cache=own)[:, -1], model().forward([5, 6, 7])[:, -1])


def test_a_mask_may_cover_the_cache_too() -> None:
    results = []
    for second in ([[1, 1], [0, 1]], [[1, 0, 1, 1, 1], [1, 1, 1, 0, 1]]):
        own = model().new_cache(batch=2)
        model().forward(IDS, attention_mask=[[1, 0, 1], [1, 1, 1]], cache=own)
        results.append(model().forward([[1, 2], [0, 3]], attention_mask=second, cache=own))
    same(*results)
    same(results[0][1, 1], model().forward([8, 9, 10, 3])[0, 3])


def test_positions_beside_a_cache() -> None:
    own = model().new_cache()
    model().forward([5, 6], cache=own, position_ids=[3, 4])
    found = model().forward([7, 8], cache=own, position_ids=[9, 10])
    same(found[0], model().forward([5, 6, 7, 8], position_ids=[3, 4, 9, 10])[0, 2:])


# --- nothing but the tokens decides the bits -------------------------------------------------------------------------
#
# What is guaranteed today. Every op is computed in float64 and rounded once to float32. Another batch, chunk, panel or
# padding lets BLAS add in another order, which moves a sum of n terms by at most 2γₙ·Σ|xᵢ·wᵢ|. Its float32 is then
# another one only where a boundary lies in between: for a share of at most about n·C·2⁻²⁸ of the numbers, C being
# Σ|xᵢ·wᵢ| / |Σxᵢ·wᵢ|, and for none of the 600,000 logits that were compared on seven of these models. So the tests
# ask for equal bits, on examples that are the same in every run; the rounding test will make it a theorem.


class Twins(SimpleNamespace):
    """Some tokens, and one model that sees them alone."""

    model: Model
    ids: NDArray[np.int64]
    alone: NDArray[Any]
    rng: np.random.Generator


def twins(loaded: Model, seed: int) -> Twins:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, loaded.config.vocab_size, int(rng.integers(2, 12)))
    return Twins(model=loaded, ids=ids, alone=loaded.forward(ids)[0], rng=rng)


def check_batch(of: Twins) -> None:
    batch = of.rng.integers(0, of.model.config.vocab_size, (int(of.rng.integers(2, 6)), len(of.ids)))
    place = int(of.rng.integers(len(batch)))
    batch[place] = of.ids
    same(of.model.forward(batch)[place], of.alone)


def check_padding(of: Twins) -> None:
    left, right = (int(n) for n in of.rng.integers(0, 6, 2))
    ids = np.concatenate([np.full(left, -100), of.ids, np.full(right, 10**6)])
    mask = np.repeat([0, 1, 0], [left, len(of.ids), right])
    same(of.model.forward(ids, attention_mask=mask)[0, left : left + len(of.ids)], of.alone)


def check_chunks(of: Twins) -> None:
    cuts = np.sort(of.rng.choice(np.arange(1, len(of.ids)), int(of.rng.integers(1, len(of.ids))), replace=False))
    own = of.model.new_cache(capacity=len(of.ids) if of.rng.random() < 0.5 else None)
    parts = [of.model.forward(part, cache=own)[0] for part in np.split(of.ids, cuts)]
    same(np.concatenate(parts), of.alone)


def check_one_by_one(of: Twins) -> None:
    own = of.model.new_cache()
    same(np.concatenate([of.model.forward([token], cache=own)[0] for token in of.ids]), of.alone)


def check_prefix(of: Twins) -> None:
    cut = int(of.rng.integers(1, len(of.ids)))
    same(of.model.forward(of.ids[:cut])[0], of.alone[:cut])


CHECKS = (check_batch, check_padding, check_chunks, check_one_by_one, check_prefix)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_bits_are_the_same(name: str, check: Callable[[Twins], None], seed: int) -> None:
    check(twins(model(name), seed))


class Float32(NumpyBackend):
    """Products summed in float32, as a library for speed does it."""

    def matmul(self, a: Any, b: Any, /, *, accumulate: str) -> Any:
        return np.matmul(a.astype(np.float32), b.astype(np.float32)).astype(np.float64)


class Remembers(NumpyBackend):
    """A sum that depends on what was summed before."""

    calls = 0

    def matmul(self, a: Any, b: Any, /, *, accumulate: str) -> Any:
        self.calls += 1
        return super().matmul(a, b, accumulate=accumulate) * (1 + self.calls * 2.0**-24)


def fails_somewhere(loaded: Model, check: Callable[[Twins], None]) -> bool:
    for seed in range(30):
        try:
            check(twins(loaded, seed))
        except AssertionError:
            return True
    return False


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_bits_that_hang_on_the_surroundings_are_found(check: Callable[[Twins], None]) -> None:
    assert fails_somewhere(load(TINY / "llama", backend=Remembers()), check)
    if check in (check_batch, check_one_by_one):
        assert fails_somewhere(load(TINY / "llama", backend=Float32()), check)


@pytest.mark.parametrize("check", [check_padding, check_chunks, check_one_by_one, check_prefix])
def test_a_mask_that_leaks_is_found(check: Callable[[Twins], None], monkeypatch: pytest.MonkeyPatch) -> None:
    leaks = execute.ops.attention_mask

    def leaking(order: Any, keys: Any, valid: Any, **how: Any) -> Any:
        return leaks(order, keys, np.ones_like(valid), **{**how, "causal": False})

    monkeypatch.setattr(execute.ops, "attention_mask", leaking)
    assert fails_somewhere(load(TINY / "llama"), check)


@pytest.mark.parametrize("name", [*DECODERS, "bert", "gemma2", "phi3"])
def test_keeping_decoded_changes_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = load(TINY / name, keep_decoded=True)
    assert any(isinstance(weight, Kept) for weight in kept.parts.weights.values())
    want = kept.forward(IDS)
    same(load(TINY / name, keep_decoded="auto").forward(IDS), want)
    same(load(TINY / name, keep_decoded=False).forward(IDS), want)
    monkeypatch.setattr("lepton_ref.storage.base.PANEL_BYTES", 3 * 8 * 24)  # a few rows each: several panels
    same(load(TINY / name, keep_decoded=False).forward(IDS), want)
    same(load(TINY / name, keep_decoded=True).forward(IDS), want)


@pytest.mark.parametrize("name", [*DECODERS, "bert", "qwen3"])
def test_a_backend_that_only_wraps_a_library_gives_the_same_bits(name: str) -> None:
    strict = load(TINY / name, backend=StrictBackend())
    same(strict.forward(IDS, attention_mask=MASK), model(name).forward(IDS, attention_mask=MASK))
    if strict.is_causal:
        own = strict.new_cache(batch=2)
        strict.forward([row[:2] for row in IDS], cache=own)
        same(strict.forward([row[2:] for row in IDS], cache=own), model(name).forward(IDS)[:, 2:])


def test_a_backend_of_less_precision_gives_other_bits() -> None:
    assert load(TINY / "llama", backend=Float32()).forward(IDS).tobytes() != model().forward(IDS).tobytes()


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False])
def test_two_threads_may_run_one_model(keep: bool) -> None:
    prompts = [[row[:n] for row in IDS] for n in (1, 2, 3)] * 4
    want = [model(keep=keep).forward(prompt) for prompt in prompts]
    for _ in range(5):
        fresh = load(TINY / "llama", keep_decoded=keep)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(fresh.forward, prompts))
        for got, expected in zip(found, want, strict=True):
            same(got, expected)


class Slow(Dense):
    """Counts how often it is decoded; the first decoding waits for a second one, if there is any."""

    def __init__(self) -> None:
        super().__init__(np.ones((2, 3), dtype=np.float32), format="F32")
        self.decoded = 0
        self.barrier = threading.Barrier(2)

    def take(self, index: Any, /) -> Any:
        self.decoded += 1
        with suppress(threading.BrokenBarrierError):
            self.barrier.wait(timeout=0.3)
        return super().take(index)


@pytest.mark.parametrize("locked", [True, False])
def test_a_weight_is_decoded_once_however_many_threads_want_it(locked: bool) -> None:
    base = Slow()
    kept = Kept(base, backend=BACKEND, room=np.empty((2, 3)))
    if not locked:
        kept._lock = nullcontext()  # type: ignore[assignment]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: list(kept.panels(backend=BACKEND)), range(2)))
    assert base.decoded == (1 if locked else 2)


@pytest.mark.parametrize("room", [np.empty((3, 2)), np.empty((2, 3), dtype=np.float16)])
def test_a_weight_is_kept_as_float64_or_float32_of_its_shape(room: Any) -> None:
    assert Kept(Slow(), backend=BACKEND, room=np.empty((2, 3), dtype=np.float32)).room.dtype == np.float32
    with pytest.raises(ValueError, match=r"room must be float64 or float32 of shape \(2, 3\), got float"):
        Kept(Slow(), backend=BACKEND, room=room)


def alike(fed: list[int], **how: Any) -> None:
    """One token without a mask gives, field by field, what it gives with a mask of one: that goes the long way."""
    batches = []
    for mask in (None, [[1]]):
        cache = model().new_cache(**how)
        if fed:
            model().forward([fed], cache=cache)
        given: dict[str, Any] = {"attention_mask": mask, "position_ids": None, "token_type_ids": None}
        batches.append(inputs.make_batch(model().program, model().config, [[7]], cache=cache, last_only=True, **given))
    short, long = batches
    assert short.mask is inputs.ALONE
    assert long.mask is not inputs.ALONE
    for name in ("mask", "order", "positions", "rope_lengths"):
        one, other = getattr(short, name), getattr(long, name)
        assert (one.dtype, one.tolist()) == (other.dtype, other.tolist())
    for name in short.integers:
        assert short.integers[name].tolist() == long.integers[name].tolist()
    assert set(short.integers) == set(long.integers)
    assert short.last_only == long.last_only


@pytest.mark.parametrize("fed", [[], [5], [5, 6, 7, 8]])
@pytest.mark.parametrize("how", [{}, {"capacity": 9}, {"paged": True}])
def test_one_more_token_is_what_it_is_the_long_way(fed: list[int], how: dict[str, Any]) -> None:
    alike(fed, **how)


def test_one_more_token_that_is_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = inputs.one_more_token

    def late(*args: Any, **how: Any) -> inputs.Batch:
        batch = honest(*args, **how)
        return inputs.Batch(
            batch.integers, batch.mask, batch.order, batch.positions + 1, batch.rope_lengths, batch.last_only
        )

    monkeypatch.setattr(inputs, "one_more_token", late)
    with pytest.raises(AssertionError):
        alike([5, 6])


def test_what_one_token_shares_with_all_others_cannot_be_written() -> None:
    assert not inputs.ALONE.flags.writeable
    assert not inputs.ZERO.flags.writeable


@pytest.mark.parametrize("ids", [np.array([[1]], dtype="m8[s]"), np.array([[True]]), np.array([[1.0]])])
def test_ids_that_are_no_integers_are_refused(ids: NDArray[Any]) -> None:
    with pytest.raises(TypeError, match="input_ids must be integers"):
        model().forward(ids)
