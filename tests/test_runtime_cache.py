"""The cache: against a store that keeps everything, over random chunks, padding, windows and runs that fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from strict_backend import StrictBackend

from lepton_ref import registry
from lepton_ref.interface import Backend
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.models.program import KeyValueLayer
from lepton_ref.numerics import get_precision
from lepton_ref.ops import attention_mask
from lepton_ref.runtime import contiguous_cache as module
from lepton_ref.runtime.cache import KVCache
from lepton_ref.runtime.contiguous_cache import FIRST_ROOM, ContiguousCache, Group
from lepton_ref.runtime.kv_codec import DenseCodec
from lepton_ref.runtime.layer_store import LayerStore

NUMPY = registry.get("numpy")
HEADS, WIDTH = 2, 3
BYTES_A_SLOT = 2 * HEADS * WIDTH * 4  # keys and values, float32


def layers(*windows: int | None) -> tuple[KeyValueLayer, ...]:
    return tuple(KeyValueLayer(HEADS, WIDTH, window) for window in windows)


def new_cache(
    windows: tuple[int | None, ...], batch: int = 1, capacity: int | None = None, **more: Any
) -> ContiguousCache:
    codec = DenseCodec(more.pop("backend", NUMPY), get_precision("reference"))
    return ContiguousCache(layers(*windows), batch=batch, capacity=capacity, rope_length=99, codec=codec, **more)


@dataclass
class Everything:
    """The oracle: every token's key and value of every layer, a list for each sequence."""

    windows: tuple[int | None, ...]
    batch: int
    keys: list[list[list[NDArray[np.float32]]]] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = [[[] for _ in range(self.batch)] for _ in self.windows]

    def seen(self, layer: int, row: int, number: int, new: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """What the query of that number sees, oldest first."""
        window = self.windows[layer]
        whole = [*self.keys[layer][row], *new]
        return whole[0 if window is None else max(0, number + 1 - window) : number + 1]


@dataclass(frozen=True)
class Run:
    """One run: which of the new slots are tokens, and after how many layers it fails, if it does."""

    mask: NDArray[np.bool_]
    fails_after: int | None = None


def play(
    windows: tuple[int | None, ...],
    batch: int,
    runs: list[Run],
    *,
    capacity: int | None = None,
    backend: Backend = NUMPY,
) -> None:
    """Run after run, each layer's answer compared with what every query must see, bit for bit."""
    cache = new_cache(windows, batch, capacity, backend=backend)
    truth = Everything(windows, batch)
    numbers = itertools.count(1)
    asked = 0
    for run in runs:
        t = run.mask.shape[1]
        counts = np.array([len(row) for row in truth.keys[0]])
        order = cache.begin(run.mask)
        fresh: list[list[list[NDArray[np.float32]]]] = []
        for layer in range(len(windows) if run.fails_after is None else run.fails_after):
            k = next(numbers) + np.arange(batch * t * HEADS * WIDTH).reshape(batch, t, HEADS, WIDTH) / np.float32(1024)
            k = k.astype(np.float32)
            *found, key_order, valid = cache.extend(layer, backend.from_numpy(k), backend.from_numpy(-k))
            keys, values = (backend.to_numpy(array) for array in found)
            np.testing.assert_array_equal(keys[valid], -values[valid])
            fresh.append([[k[b, at] for at in range(t) if run.mask[b, at]] for b in range(batch)])
            seen = attention_mask(order, key_order, valid, causal=True, window=windows[layer])
            for b, at in zip(*run.mask.nonzero(), strict=True):
                number = counts[b] + int(run.mask[b, :at].sum())
                assert order[b, at] == number
                want = truth.seen(layer, b, number, fresh[layer][b])
                slots = seen[b, at].nonzero()[0]
                slots = slots[np.argsort(key_order[b, slots])]
                np.testing.assert_array_equal(keys[b, slots], np.array(want))
        asked = max(asked, cache.length + t)
        check_bytes(cache, windows, batch, asked)
        if run.fails_after is None:
            cache.commit()
            for layer, b in itertools.product(range(len(windows)), range(batch)):
                truth.keys[layer][b] += fresh[layer][b]
            assert cache.counts.tolist() == [len(row) for row in truth.keys[0]]


def check_bytes(cache: KVCache, windows: tuple[int | None, ...], batch: int, asked: int) -> None:
    """Never more than twice a window, or twice the slots that a run has asked for, or the capacity."""
    most = 0
    for window in windows:
        whole = max(FIRST_ROOM, 2 * asked) if cache.capacity is None else cache.capacity
        most += whole if window is None else min(whole, 2 * window)
    assert cache.nbytes <= most * batch * BYTES_A_SLOT


def script(seed: int) -> tuple[tuple[int | None, ...], int, list[Run]]:
    """Random windows, chunks and padding: rows that start late, end early, or have holes; a few runs fail."""
    rng = np.random.default_rng(seed)
    windows = tuple(int(w) if w else None for w in rng.choice([0, 1, 2, 3, 5, 9], rng.integers(1, 5)))
    batch, runs = int(rng.integers(1, 4)), []
    ended = rng.integers(0, 130, batch)  # from that slot on, the row is padding alone
    slots = 0
    while slots < 80:
        t = int(rng.choice([1, 1, 1, 2, 4, 7, 20]))
        mask = rng.random((batch, t)) < rng.choice([1.0, 1.0, 0.7])
        mask &= slots + np.arange(t) < ended[:, None]
        fails = int(rng.integers(0, len(windows) + 1)) if rng.random() < 0.2 else None
        runs.append(Run(mask, fails))
        slots += t if fails is None else 0
    return windows, batch, runs


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_every_query_sees_what_it_must(seed: int, limited: bool) -> None:
    windows, batch, runs = script(seed)
    play(windows, batch, runs, capacity=100 if limited else None)


@pytest.mark.parametrize("seed", range(3))
def test_it_keeps_to_the_backend_s_interface(seed: int) -> None:
    windows, batch, runs = script(seed)
    play(windows, batch, runs, backend=StrictBackend())


BUGS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {}


def bug(plant: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
    BUGS[plant.__name__] = plant
    return plant


@bug
def a_window_that_is_one_too_short(patch: pytest.MonkeyPatch) -> None:
    honest = Group._seen
    patch.setattr(Group, "_seen", lambda self, order, valid, counts: honest(self, order, valid, counts - (-1)))


@bug
def packed_by_the_slot_and_not_by_the_row(patch: pytest.MonkeyPatch) -> None:
    honest = module._kept_first
    patch.setattr(module, "_kept_first", lambda kept: np.broadcast_to(honest(kept)[:1], honest(kept).shape))


@bug
def the_buffer_not_moved_with_its_layout(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LayerStore, "pack", lambda self, index: None)


@bug
def keys_lost_in_growing(patch: pytest.MonkeyPatch) -> None:
    honest = LayerStore.grown
    patch.setattr(LayerStore, "grown", lambda self, room, used: honest(self, room, max(0, used - 1)))


@bug
def a_failed_run_that_stays(patch: pytest.MonkeyPatch) -> None:
    honest = KVCache.begin

    def begin(self: KVCache, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        if self._new is not None:
            self.commit()
        return honest(self, mask)

    patch.setattr(KVCache, "begin", begin)


@bug
def padding_that_counts(patch: pytest.MonkeyPatch) -> None:
    honest = KVCache.begin
    patch.setattr(KVCache, "begin", lambda self, mask: honest(self, np.ones_like(mask)))


@bug
def slots_counted_and_not_tokens(patch: pytest.MonkeyPatch) -> None:
    def begin(self: KVCache, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        for each in self.states:
            each.count = self.length
        order: NDArray[np.int64] = HONEST_BEGIN(self, mask)
        return order

    patch.setattr(KVCache, "begin", begin)


@bug
def a_window_that_keeps_everything(patch: pytest.MonkeyPatch) -> None:
    """Right answers, but memory that grows."""
    patch.setattr(Group, "_seen", lambda self, order, valid, counts: valid)


HONEST_BEGIN = KVCache.begin


def failures(seeds: range) -> Iterator[int]:
    for seed in seeds:
        windows, batch, runs = script(seed)
        try:
            play(windows, batch, runs)
        except (AssertionError, ValueError, IndexError):
            yield seed


SEEDS = range(15)


def test_without_a_bug_nothing_is_caught() -> None:
    assert next(failures(SEEDS), None) is None


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS[name](monkeypatch)
    assert next(failures(SEEDS), None) is not None


# --- memory ----------------------------------------------------------------------------------------------------------


def fed(cache: ContiguousCache, *chunks: int, batch: int = 1, mask: NDArray[np.bool_] | None = None) -> ContiguousCache:
    for t in chunks:
        cache.begin(np.ones((batch, t), dtype=np.bool_) if mask is None else mask)
        for layer in range(len(cache._stores)):
            cache.extend(layer, *(np.ones((batch, t, HEADS, WIDTH), dtype=np.float32) for _ in "kv"))
        cache.commit()
    return cache


def test_a_growing_cache_doubles() -> None:
    cache = new_cache((None,))
    rooms = []
    for _ in range(300):
        fed(cache, 1)
        rooms.append(cache.nbytes // BYTES_A_SLOT)
    assert sorted(set(rooms)) == [64, 128, 256, 512]
    assert all(room >= length for length, room in enumerate(rooms, start=1))


def test_a_capacity_is_allocated_at_once_and_never_exceeded() -> None:
    cache = new_cache((None, 4), capacity=50)
    first = cache.nbytes
    assert first == (50 + 8) * BYTES_A_SLOT
    assert fed(cache, 20, 1, 29).nbytes == first


def test_a_window_does_not_grow_with_the_context() -> None:
    assert fed(new_cache((6,)), *[1] * 500).nbytes == 12 * BYTES_A_SLOT


def test_a_window_does_not_grow_with_a_long_prompt() -> None:
    assert fed(new_cache((6,)), 5000, 3, 700).nbytes == 12 * BYTES_A_SLOT


def test_a_window_does_not_grow_while_one_sequence_has_ended() -> None:
    cache = fed(new_cache((6,), batch=2), 10, batch=2)
    fed(cache, *[1] * 500, batch=2, mask=np.array([[True], [False]]))
    assert cache.nbytes == 2 * 12 * BYTES_A_SLOT
    assert cache.counts.tolist() == [510, 10]


def test_a_window_wider_than_the_first_room_grows_up_to_twice_itself() -> None:
    cache = new_cache((100,))
    rooms = []
    for _ in range(1000):
        fed(cache, 1)
        rooms.append(cache.nbytes // BYTES_A_SLOT)
    assert sorted(set(rooms)) == [64, 128, 200]


def test_packing_is_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token at a time, a window moves its keys once in as many tokens as it is wide."""
    moved = []
    honest = LayerStore.pack
    monkeypatch.setattr(LayerStore, "pack", lambda self, index: (moved.append(1), honest(self, index))[1])
    fed(new_cache((60,)), *[1] * 1200)
    assert len(moved) <= 1200 / 60 + 1


# --- edges -----------------------------------------------------------------------------------------------------------


def state(cache: ContiguousCache) -> tuple[Any, ...]:
    groups = [(g.start, g.order.tolist(), g.valid.tolist()) for g in cache._groups.values()]
    return cache.length, cache.counts.tolist(), groups


def test_an_overflow_leaves_the_cache_as_it_was() -> None:
    cache = fed(new_cache((None, 3), capacity=10), 4, 3)
    before = state(cache)
    with pytest.raises(ContextOverflowError, match="11 tokens overflow the cache's capacity of 10; make a cache of a"):
        cache.begin(np.ones((1, 4), dtype=np.bool_))
    assert state(cache) == before
    assert fed(cache, 3).length == 10
    with pytest.raises(ContextOverflowError):
        cache.begin(np.ones((1, 1), dtype=np.bool_))


def test_the_limit_counts_tokens_and_not_padding() -> None:
    cache = new_cache((None,), batch=2, limit=5)
    fed(cache, 4, batch=2, mask=np.array([[True] * 4, [False, False, True, True]]))
    fed(cache, 3, batch=2, mask=np.array([[False, False, True], [True] * 3]))
    assert cache.counts.tolist() == [5, 5]
    before = state(cache)
    with pytest.raises(ContextOverflowError, match="beyond 5 tokens this model's RoPE depends on the length"):
        cache.begin(np.ones((2, 1), dtype=np.bool_))
    assert state(cache) == before


def test_another_batch_is_refused() -> None:
    cache = fed(new_cache((None,), batch=2), 3, batch=2)
    with pytest.raises(ValueError, match="the cache holds 2 sequences, got 3; make another cache"):
        cache.begin(np.ones((3, 1), dtype=np.bool_))


@pytest.mark.parametrize(
    ("batch", "capacity", "message"),
    [
        (0, None, "batch must be an integer of at least 1, got 0"),
        (True, None, "batch must be"),
        (1, 0, "capacity must be an integer of at least 1, got 0"),
        (1, -3, "capacity must be"),
        (1, 2.5, "capacity must be an integer of at least 1, got 2.5"),
        (1, "9", "capacity must be"),
    ],
)
def test_bad_numbers_are_named(batch: Any, capacity: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_cache((None,), batch, capacity)


def test_a_run_of_padding_alone_adds_no_token() -> None:
    cache = fed(new_cache((None, 2)), 3)
    fed(cache, 2, mask=np.zeros((1, 2), dtype=np.bool_))
    assert (cache.length, cache.counts.tolist()) == (5, [3])


def test_it_says_what_it_holds() -> None:
    assert (
        repr(fed(new_cache((None,), capacity=7), 3))
        == f"KVCache(batch 1, 3 slots, capacity 7, {7 * BYTES_A_SLOT} bytes)"
    )
    assert "growing" in repr(new_cache((None,)))


def test_float64_keys_stay_float64() -> None:
    codec = DenseCodec(NUMPY, get_precision("float64"))
    cache = ContiguousCache(layers(None), batch=1, capacity=None, rope_length=1, codec=codec)
    cache.begin(np.ones((1, 1), dtype=np.bool_))
    third = np.full((1, 1, HEADS, WIDTH), 1 / 3)
    keys, values, _, _ = cache.extend(0, third, third)
    np.testing.assert_array_equal(keys, third)
    np.testing.assert_array_equal(values, third)


@pytest.mark.parametrize("size", [{"capacity": 10**15}, {"capacity": 10**18}, {"capacity": 1, "batch": 10**18}])
def test_more_than_memory_holds_is_refused_with_its_numbers(size: dict[str, int]) -> None:
    batch, capacity = size.get("batch", 1), size["capacity"]
    with pytest.raises(ValueError, match=f"a cache for {batch} × {capacity} tokens is more than memory holds; ask for"):
        new_cache((None,), **size)


def test_growing_that_fails_grows_no_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = fed(new_cache((None, None)), 60)
    rooms = [store.room for store in cache._stores]
    honest, calls = LayerStore.grown, itertools.count(1)

    def grown(self: LayerStore, room: int, used: int) -> Any:
        if next(calls) == 2:
            raise MemoryError
        return honest(self, room, used)

    monkeypatch.setattr(LayerStore, "grown", grown)
    with pytest.raises(MemoryError):
        fed(cache, 10)
    assert [store.room for store in cache._stores] == rooms
    assert fed(cache, 10).length == 70


def test_a_layer_that_an_interrupt_left_smaller_grows_with_the_next_tokens() -> None:
    cache = fed(new_cache((None, None)), 60)
    first = cache._stores[0]
    first.buffers, first.room = first.grown(500, 60), 500
    fed(cache, 10)
    assert min(store.room for store in cache._stores) >= 70
