"""Whole models on the Numba backend: the bits of the NumPy backend's, in every family, however a run is cut."""

from __future__ import annotations

import copy
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import golden_cases
import numpy as np
import pytest
from drawn_models import VOCABULARY, drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import lepton_ref
from lepton_ref.backends import numba_cache_map, numba_runner
from lepton_ref.backends.numba_backend import NumbaBackend
from lepton_ref.backends.numba_dot import available
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics import PRECISIONS
from lepton_ref.runtime.model import Model
from lepton_ref.storage.kept import Kept

NUMPY = NumpyBackend()
ROUNDED = ("reference", "bf16", "fp16", "w8a8", "w4a8")
OTHER = ("fp8", "ggml", "float64")
FAMILIES = (
    "llama", "llama_biased", "llama_rope_dynamic", "llama_rope_yarn", "gemma2", "gemma3", "gpt2", "gpt_neox", "olmo2",
    "opt", "phi3_partial", "qwen2_sliding", "qwen3", "mistral", "bert", "bert_classifier", "distilbert", "roberta",
)  # fmt: skip
ISAS = available()


@cache
def numba(isa: str | None = None) -> NumbaBackend:
    return NumbaBackend(isa=isa)


def same(a: NDArray[Any], b: NDArray[Any]) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    unsigned = {4: np.uint32, 8: np.uint64}[a.dtype.itemsize]
    different = np.argwhere((a.view(unsigned) != b.view(unsigned)) & ~(np.isnan(a) & np.isnan(b)))  # there is one NaN
    assert len(different) == 0, f"{len(different)} of {a.size} differ, first at {different[:3].tolist()}"


def twin(model: Model, backend: NumbaBackend, threads: int = 1) -> Model:
    """The same model on the other backend."""
    weights = {
        name: weight.base if isinstance(weight, Kept) else weight for name, weight in model.parts.weights.items()
    }
    parts = dataclasses.replace(model.parts, weights=weights)
    return Model(parts, backend=backend, precision=model.precision, threads=threads)


@pytest.mark.parametrize("name", golden_cases.names())
def test_every_golden_has_the_same_bits(name: str) -> None:
    case = golden_cases.case(name)
    ids = np.asarray(case.expected["input_ids"])
    for precision in ("reference", "w8a8"):
        models = [lepton_ref.load(case.folder, backend=backend, precision=precision) for backend in (NUMPY, numba())]
        same(*(model.forward(ids) for model in models))


@pytest.mark.parametrize("precision", [*ROUNDED, *OTHER])
@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 3), tokens=st.integers(1, 9))
def test_drawn_models_have_the_same_bits(name: str, precision: str, seed: int, batch: int, tokens: int) -> None:
    if precision == "ggml" and name != "llama":
        precision = "reference"
    model = drawn(name, PRECISIONS[precision], seed=seed, specials=0.0)
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, VOCABULARY, (batch, tokens))
    mask = rng.random(ids.shape) < 0.8
    same(
        model.forward(ids, attention_mask=mask),
        twin(model, numba(), threads=1 + seed % 2).forward(ids, attention_mask=mask),
    )


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_neox", "bert"])
@settings(max_examples=6)
@given(seed=st.integers(0, 2**32 - 1), precision=st.sampled_from(ROUNDED))
def test_infinities_nan_and_extremes_come_out_alike(name: str, seed: int, precision: str) -> None:
    model = drawn(name, PRECISIONS[precision], seed=seed, specials=0.02)
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, (2, 3))
    same(model.forward(ids), twin(model, numba()).forward(ids))


@pytest.mark.parametrize("name", ["llama", "gemma3", "opt", "qwen2_sliding"])
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(1, 6), min_size=1, max_size=5), paged=st.booleans())
def test_chunks_in_a_cache_give_the_whole(name: str, seed: int, cuts: list[int], paged: bool) -> None:
    model = drawn(name, PRECISIONS["w8a8"], seed=seed, specials=0.0)
    fast = twin(model, numba(), threads=2)
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, (2, sum(cuts)))
    whole, cache, at = model.forward(ids), fast.new_cache(batch=2, paged=paged), 0
    for count in cuts:
        same(whole[:, at : at + count], fast.forward(ids[:, at : at + count], cache=cache))
        at += count


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("precision", ROUNDED)
def test_every_instruction_set_gives_the_same_bits(isa: str, precision: str) -> None:
    model = drawn("llama", PRECISIONS[precision], seed=5, specials=0.0)
    ids = np.random.default_rng(5).integers(0, VOCABULARY, (1, 7))
    for part in (ids, ids[:, :1]):
        same(model.forward(part), twin(model, numba(isa)).forward(part))


def test_two_threads_that_share_a_model_each_get_their_own_answer() -> None:
    model = drawn("llama", PRECISIONS["w8a8"], seed=3, specials=0.0)
    fast = twin(model, numba(), threads=2)
    ids = [np.random.default_rng(seed).integers(0, VOCABULARY, (1, 2 + seed % 5)) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:
        for asked, given_ in zip(ids, pool.map(fast.forward, ids), strict=True):
            same(model.forward(asked), given_)


class Guarded:
    """NumPy, whose fresh arrays lie between two guards."""

    GUARD = 4096

    def __init__(self) -> None:
        self.made: list[NDArray[np.uint8]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = np.float64) -> NDArray[Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        room = np.full(size + 2 * self.GUARD, 0xA5, dtype=np.uint8)
        self.made.append(room)
        return room[self.GUARD : self.GUARD + size].view(dtype).reshape(shape)

    def zeros(self, shape: Any, dtype: Any = np.float64) -> NDArray[Any]:
        fresh = self.empty(shape, dtype)
        fresh[...] = 0
        return fresh

    def broken(self) -> int:
        """Bytes of guards that something has written to."""
        ends = [(room[: self.GUARD], room[-self.GUARD :]) for room in self.made]
        return sum(int((end != 0xA5).sum()) for pair in ends for end in pair)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("precision", ["reference", "w8a8", "fp8"])
def test_nothing_is_written_beside_the_memory_that_is_there(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = Guarded()
    monkeypatch.setattr(numba_runner, "np", guarded)
    monkeypatch.setattr(numba_cache_map, "np", guarded)
    rng = np.random.default_rng(7)
    for batch, tokens in ((1, 1), (1, 7), (2, 9)):
        ids = rng.integers(0, VOCABULARY, (batch, tokens))
        model = twin(drawn(name, PRECISIONS[precision], seed=tokens, specials=0.0), numba())
        model.forward(ids, attention_mask=rng.random(ids.shape) < 0.8)
    assert len(guarded.made) > 20
    assert guarded.broken() == 0


def test_a_guard_that_is_written_to_is_seen() -> None:
    guarded = Guarded()
    guarded.zeros(4)
    guarded.made[0][-Guarded.GUARD] = 0
    assert guarded.broken() == 1


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown instruction set 'mmx'; known: vnni, avx2, plain"):
        NumbaBackend(isa="mmx")


def test_a_copied_cache_goes_on_by_itself() -> None:
    fast = twin(drawn("llama", PRECISIONS["w8a8"], seed=1, specials=0.0), numba(), threads=2)
    cache = fast.new_cache()
    fast.forward([[1, 2, 3]], cache=cache)
    other = copy.deepcopy(cache)
    first, second = fast.forward([[4]], cache=cache), fast.forward([[4]], cache=other)
    same(first, second)
