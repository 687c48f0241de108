"""The quantised cache: each vector as a scalar twin encodes it, and the same bits in any batch and any chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from golden_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated
from scaled_cases import same
from strict_backend import StrictBackend
from test_runtime_cache import HEADS, layers, script
from tiny_models import BACKEND, load

from lepton_ref.interface import Backend
from lepton_ref.numerics import get_precision
from lepton_ref.plain.formats import round_to
from lepton_ref.runtime import kv_formats as module
from lepton_ref.runtime.contiguous_cache import ContiguousCache
from lepton_ref.runtime.kv_codec import DenseCodec, QuantisedCodec
from lepton_ref.runtime.kv_formats import KV_FORMATS, KVFormat, get_kv_format
from lepton_ref.runtime.layer_store import LayerStore

each_format = pytest.mark.parametrize("form", KV_FORMATS.values(), ids=lambda each: each.name)
LARGEST = {"int8": 127, "int4": 7, "fp8": 448}
NUMBER = {"int8": "int8", "int4": "int4", "fp8": "e4m3fn"}


def twin(x: list[float], form: KVFormat, activations: str = "fp32") -> list[float]:
    """One vector as the cache gives it back."""
    name = form.name.removesuffix("-64")
    group, largest = (64 if form.name.endswith("-64") else 32), LARGEST[name]
    found: list[float] = []
    for at in range(0, len(x), group):
        some = x[at : at + group]
        if not all(map(math.isfinite, some)):
            found += [math.nan] * len(some)
            continue
        amax = max(abs(Fraction(n)) for n in some)
        s = max(round_to(amax / largest, "bf16", saturate=True), 2.0**-133) if amax else 1.0
        for n in some:
            q = round_to(Fraction(n) / Fraction(s), NUMBER[name], saturate=True, zero=math.copysign(0.0, n))
            q = max(-largest, min(largest, q))
            found.append(
                round_to(Fraction(s) * Fraction(q), activations, zero=q) if q == 0 else round_to(s * q, activations)
            )
    return found


def vectors(seed: int, width: int) -> NDArray[np.float32]:
    """(10, width): ordinary, ±0, ties under scale 1, subnormal, huge, NaN, an infinity, and one large number."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((10, width)) * np.exp2(rng.integers(-20, 20, (10, 1)).astype(float))
    x[1] = 0.0 * rng.choice([-1, 1], width)
    for row, top in ((2, 127.0), (3, 7.0), (4, 448.0)):
        x[row] = rng.integers(-int(2 * top), int(2 * top) + 1, width) / 2
        x[row, ::32] = top
    x[5] = rng.integers(-30, 31, width) * 2.0**-149
    x[6] *= 2.0**100
    x[7, 0] = np.nan
    x[8, -1] = -np.inf
    x[9, width // 2] = 1e30
    return x.astype(np.float32)


def check(form: KVFormat, x: NDArray[np.float32], activations: str = "fp32") -> None:
    codes, scales = form.encode(x)
    got = form.decode(codes, scales, width=x.shape[-1], activations=activations)
    assert same(got, [twin([float(n) for n in row], form, activations) for row in x])
    assert codes.shape[-1] == form.code_bytes(x.shape[-1])
    assert scales.shape[-1] == form.groups(x.shape[-1])
    assert scales.dtype == np.uint16


@each_format
@pytest.mark.parametrize("activations", ["fp32", "bf16", "fp16"])
@given(seed=st.integers(0, 2**32 - 1), width=st.sampled_from([1, 3, 31, 32, 33, 64, 80, 128]))
def test_a_vector_is_the_twins(form: KVFormat, activations: str, seed: int, width: int) -> None:
    check(form, vectors(seed, width), activations)


@each_format
def test_what_is_decoded_is_encoded_to_itself(form: KVFormat) -> None:
    x = vectors(3, 64)[:5]
    once = form.decode(*form.encode(x), width=64, activations="fp32")
    again = form.decode(*form.encode(once.astype(np.float32)), width=64, activations="fp32")
    assert np.abs(once - again).max() <= np.abs(once).max() * 2.0**-8  # bfloat16's scale may move by half its last bit


def test_the_names() -> None:
    assert list(KV_FORMATS) == ["int8", "int8-64", "int4", "int4-64", "fp8", "fp8-64"]
    assert get_kv_format("dense") is None
    assert [KV_FORMATS[name].group for name in ("fp8", "fp8-64")] == [32, 64]
    for wrong in ("int5", "INT8", None, 8):
        with pytest.raises(ValueError, match=r"unknown kv_cache .*; known: dense, int8, int8-64, int4"):
            get_kv_format(wrong)  # type: ignore[arg-type]


# --- the store ------------------------------------------------------------------------------------------------------

WIDTH = 3
"""Of a head in `test_runtime_cache`."""


def pair(windows: tuple[int | None, ...], batch: int, form: KVFormat, backend: Backend) -> list[ContiguousCache]:
    precision = get_precision("reference")
    how: dict[str, Any] = {"batch": batch, "capacity": None, "rope_length": 99}
    codecs = DenseCodec(backend, precision), QuantisedCodec(form, backend, precision)
    return [ContiguousCache(layers(*windows), codec=codec, **how) for codec in codecs]


def play(seed: int, form: KVFormat, backend: Backend = BACKEND) -> None:
    """Two caches through the same runs, windows, padding and failures: one is the other, encoded and decoded."""
    windows, batch, runs = script(seed)
    rng = np.random.default_rng(seed)
    caches = pair(windows, batch, form, backend)
    for run in runs:
        for cache in caches:
            cache.begin(run.mask)
        for layer in range(len(windows) if run.fails_after is None else run.fails_after):
            new = [rng.standard_normal((*run.mask.shape, HEADS, WIDTH)).astype(np.float32) for _ in "kv"]
            dense, small = (cache.extend(layer, *map(backend.from_numpy, new)) for cache in caches)
            valid = dense[3]
            assert np.array_equal(valid, small[3])
            for values, got in zip(dense[:2], small[:2], strict=True):
                kept = backend.to_numpy(values)[valid]
                want = form.decode(*form.encode(kept), width=WIDTH, activations="fp32")
                assert same(backend.to_numpy(got)[valid], want)
        if run.fails_after is None:
            for cache in caches:
                cache.commit()
    slots = sum(store.room for store in caches[0]._stores)
    assert caches[1].nbytes == 2 * batch * HEADS * slots * (form.code_bytes(WIDTH) + 2 * form.groups(WIDTH))


@each_format
@given(seed=st.integers(0, 2**32 - 1))
def test_the_store_keeps_what_the_dense_one_keeps(form: KVFormat, seed: int) -> None:
    play(seed, form)


def test_it_keeps_to_the_backend_s_interface() -> None:
    play(1, KV_FORMATS["int4"], StrictBackend())


# --- models ---------------------------------------------------------------------------------------------------------

MODELS = ("llama", "gemma2")
"""Of which the second has windows and soft caps."""


def logits(model: Any, ids: NDArray[np.int64], chunks: list[int], **more: Any) -> NDArray[np.float32]:
    """All logits of a batch, fed in chunks of these lengths."""
    cache = model.new_cache(batch=ids.shape[0], **more)
    ends = np.cumsum(chunks)
    found = [model.forward(ids[:, end - t : end], cache=cache) for t, end in zip(chunks, ends, strict=True)]
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("name", MODELS)
@each_format
def test_chunks_and_batches_change_nothing(name: str, form: KVFormat) -> None:
    model = load(GOLDEN / "tiny" / name, kv_cache=form.name)
    ids = np.random.default_rng(7).integers(0, model.config.vocab_size, (3, 12))
    whole = logits(model, ids, [12])
    for chunks in ([1] * 12, [5, 7], [11, 1]):
        assert same(logits(model, ids, chunks), whole)
    for b in range(3):
        assert same(logits(model, ids[b : b + 1], [4, 8]), whole[b : b + 1])
    assert not same(whole, model.forward(ids))  # without a cache nothing is encoded


@pytest.mark.parametrize("precision", ["bf16", "w8a8", "float64"])
def test_other_precisions_have_it_too(precision: str) -> None:
    model = load(GOLDEN / "tiny" / "llama", kv_cache="int8", precision=precision)
    ids = np.random.default_rng(7).integers(0, model.config.vocab_size, (2, 9))
    if precision != "float64":  # which proves nothing
        assert same(logits(model, ids, [3, 6]), logits(model, ids, [9]))
    cache = model.new_cache(batch=2)
    model.forward(ids, cache=cache)
    assert isinstance(cache.codec, QuantisedCodec)


def test_a_padded_batch_generates_what_each_prompt_generates() -> None:
    model = load(GOLDEN / "tiny" / "llama", kv_cache="int4")
    prompts = [[3, 4, 5, 6, 7, 8], [9, 10]]
    together = model.generate(prompts, max_new_tokens=6, stop_ids=())
    alone = [model.generate(prompt, max_new_tokens=6, stop_ids=(), chunk=1) for prompt in prompts]
    assert [g.ids for g in together] == [g.ids for g in alone]
    assert [g.logprobs for g in together] == [g.logprobs for g in alone]


def test_the_default_is_as_it_was() -> None:
    model = load(GOLDEN / "tiny" / "llama")
    ids = np.array([[3, 4, 5, 6]])
    assert type(model.new_cache().codec) is DenseCodec
    assert same(logits(model, ids, [2, 2]), model.forward(ids))
    quantised = load(GOLDEN / "tiny" / "llama", kv_cache="fp8")
    assert type(quantised.new_cache(kv_cache="dense").codec) is DenseCodec
    assert same(logits(quantised, ids, [2, 2], kv_cache="dense"), model.forward(ids))
    assert same(logits(model, ids, [2, 2], kv_cache="fp8"), logits(quantised, ids, [4]))


def test_the_bytes_are_counted() -> None:
    model = load(GOLDEN / "tiny" / "llama")
    width = model.program.caches()[0].width
    dense = model.new_cache(capacity=64).nbytes
    for name, form in KV_FORMATS.items():
        small = model.new_cache(capacity=64, kv_cache=name).nbytes
        assert small * 4 * width == dense * (form.code_bytes(width) + 2 * form.groups(width))


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kv_cache 'int3'; known: dense, int8"):
        load(GOLDEN / "tiny" / "llama", kv_cache="int3")
    with pytest.raises(ValueError, match="unknown kv_cache 'q8_0'"):
        load(GOLDEN / "tiny" / "llama").new_cache(kv_cache="q8_0")


# --- what must fail -------------------------------------------------------------------------------------------------

FORMAT_BUGS = [
    ("clipping missing", ", -self.largest, self.largest)", ", -500, 500)"),
    ("a scale that is not rounded before the codes", "/ scale[..., None]", "/ quotient[..., None]"),
    ("one scale for all tokens", ".max(axis=-1), 0.0)", ".max(), 0.0)"),
    ("an infinity that counts as zero", "np.where(healthy, scale, np.nan)", "scale"),
    ("scales of the neighbour", "np.repeat(decode_bf16(scales)", "np.repeat(decode_bf16(scales[..., ::-1])"),
]


def everything(m: ModuleType) -> None:
    for name in KV_FORMATS:
        for width in (32, 80):
            for seed in range(4):
                check(m.KV_FORMATS[name], vectors(seed, width))
    edge = np.full((1, 32), -10 * 2.0**-133, dtype=np.float32)  # of a scale that cannot be less than 2⁻¹³³
    check(m.KV_FORMATS["int4"], edge)


@pytest.mark.parametrize(("what", "text", "bug"), FORMAT_BUGS, ids=lambda value: value)
def test_a_wrong_format_is_caught(what: str, text: str, bug: str) -> None:
    everything(module)
    with pytest.raises(AssertionError):
        everything(mutated(module, text, bug))


def undecoded(patch: pytest.MonkeyPatch) -> None:
    """What is new is given to attention as it came."""
    honest = LayerStore.append

    def append(self: LayerStore, k: Any, v: Any, plan: Any) -> tuple[Any, Any]:
        keys, values = honest(self, k, v, plan)
        if isinstance(self.codec, QuantisedCodec):
            keys[:, keys.shape[1] - k.shape[1] :] = k
        return keys, values

    patch.setattr(LayerStore, "append", append)


def scales_left_behind(patch: pytest.MonkeyPatch) -> None:
    honest = LayerStore.pack

    def pack(self: LayerStore, index: NDArray[np.int64]) -> None:
        whole = self.buffers
        self.buffers = whole[:: len(whole) // 2]
        honest(self, index)
        self.buffers = whole

    patch.setattr(LayerStore, "pack", pack)


def scales_lost_in_growing(patch: pytest.MonkeyPatch) -> None:
    honest = LayerStore.grown

    def grown(self: LayerStore, room: int, used: int) -> list[Any]:
        return honest(self, room, max(0, used - isinstance(self.codec, QuantisedCodec)))

    patch.setattr(LayerStore, "grown", grown)


@pytest.mark.parametrize("plant", [undecoded, scales_left_behind, scales_lost_in_growing])
def test_a_wrong_store_is_caught(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    caught = 0
    for seed in range(12):
        try:
            play(seed, KV_FORMATS["int8"])
        except AssertionError:
            caught += 1
    assert caught > 0
