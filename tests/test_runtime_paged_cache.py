"""Caches that fork, join, go back and fail at random, against lists of tokens: by `extend` and by addresses."""

from __future__ import annotations

import copy
import gc
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from golden_cases import case
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated
from strict_backend import StrictBackend
from test_runtime_cache import HEADS, NUMPY, WIDTH, layers
from test_runtime_generate import HOT, KINDS, PROMPTS, model

import lepton_ref
from lepton_ref.interface import Backend
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.numerics import get_precision
from lepton_ref.ops import attention_mask
from lepton_ref.runtime import paged_plan
from lepton_ref.runtime.block_pool import BLOCK, NOBODY, BlockPool
from lepton_ref.runtime.cache import KVCache
from lepton_ref.runtime.contiguous_cache import ContiguousCache
from lepton_ref.runtime.kv_codec import DenseCodec
from lepton_ref.runtime.paged_cache import PagedCache

WINDOWS = [(None,), (3,), (20, None), (None, 1, 17), (5, 40)]


@pytest.fixture(scope="module", autouse=True)
def _what_others_left_is_not_searched() -> Iterator[None]:
    """Walks collect garbage at every step; in a process that has compiled kernels that is half a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def new_cache(windows: tuple[int | None, ...], *, batch: int, paged: bool, backend: Backend = NUMPY) -> KVCache:
    make: Any = PagedCache.empty if paged else ContiguousCache
    codec = DenseCodec(backend, get_precision("reference"))
    return make(layers(*windows), batch=batch, capacity=None, rope_length=9, codec=codec)


@dataclass
class Walk:
    """A random life of caches; each row of each is a list of tokens, numbered over the whole life."""

    windows: tuple[int | None, ...]
    paged: bool
    rng: np.random.Generator
    backend: Backend = NUMPY
    caches: list[tuple[Any, list[list[int]]]] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def keys(self, layer: int, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """(…) -> (…, G, K), what the layer keeps of these tokens."""
        more = layer / 8 + np.arange(HEADS * WIDTH).reshape(HEADS, WIDTH) / 64
        return (tokens[..., None, None] + more).astype(np.float32)

    def run(self, cache: Any, rows: list[list[int]]) -> None:
        """A run of random length and padding, which fails now and then; every query must see its tokens."""
        t = int(self.rng.choice([1, 1, 2, 5, 17, 40]))
        mask = self.rng.random((len(rows), t)) < self.rng.choice([1.0, 1.0, 0.6])
        tokens = np.array([[next(self.numbers) for _ in range(t)] for _ in rows])
        order = cache.begin(mask)
        fails = self.rng.random() < 0.15
        whole = [[*row, *tokens[b, mask[b]].tolist()] for b, row in enumerate(rows)]
        for layer, window in enumerate(self.windows):
            if fails and layer == len(self.windows) - 1:
                return
            k = self.keys(layer, tokens)
            *found, key_order, valid = cache.extend(layer, self.backend.from_numpy(k), self.backend.from_numpy(-k))
            keys, values = (self.backend.to_numpy(array) for array in found)
            assert np.array_equal(keys[valid], -values[valid])
            self.addressed(cache, layer, mask, keys, key_order, valid)
            seen = attention_mask(order, key_order, valid, causal=True, window=window)
            for b, at in zip(*mask.nonzero(), strict=True):
                number = int(order[b, at])
                assert number == len(rows[b]) + int(mask[b, :at].sum())
                slots = seen[b, at].nonzero()[0]
                slots = slots[np.argsort(key_order[b, slots])]
                want = whole[b][0 if window is None else max(0, number + 1 - window) : number + 1]
                assert np.array_equal(keys[b, slots], self.keys(layer, np.array(want)))
        if not fails:
            cache.commit(tokens)
            for row, longer in zip(rows, whole, strict=True):
                row[:] = longer

    def addressed(self, cache: Any, layer: int, mask: NDArray[np.bool_], keys: Any, key_order: Any, valid: Any) -> None:
        """The same numbers lie where `addresses` says, which names the run's own tokens too."""
        layout = cache.addresses(layer)
        if layout is None:
            assert not self.paged
            return
        assert np.array_equal(layout.order, key_order)
        assert np.array_equal(layout.valid, valid)
        flat = self.backend.to_numpy(layout.keys).reshape(-1)
        for b, s in zip(*valid.nonzero(), strict=True):
            block, slot = divmod(layout.start + int(s), layout.block)
            for g in range(HEADS):
                at = layout.table[b, block] * layout.strides[0] + g * layout.strides[1] + slot * layout.strides[2]
                assert np.array_equal(flat[at : at + WIDTH], keys[b, s, g])
        assert np.array_equal(layout.new >= 0, mask)
        for b, t in zip(*mask.nonzero(), strict=True):
            assert key_order[b, layout.new[b, t]] == cache.counts[b] + mask[b, :t].sum()

    def truncate(self, cache: Any, rows: list[list[int]]) -> None:
        """Back to random counts, or a refusal that changes nothing."""
        wanted = [int(self.rng.integers(max(0, len(row) - self.rng.choice([2, 60])), len(row) + 1)) for row in rows]
        if not cache.can_truncate(wanted):
            assert any(window is not None for window in self.windows)
            with pytest.raises(ValueError, match="cannot go back to"):
                cache.truncate(wanted)
            return
        cache.truncate(wanted)
        for row, count in zip(rows, wanted, strict=True):
            del row[count:]

    def step(self) -> None:
        cache, rows = self.caches[int(self.rng.integers(len(self.caches)))]
        kind = self.rng.choice(["run", "run", "run", "truncate", "fork", "together", "drop"])
        if kind == "fork" and len(self.caches) < 8:
            chosen = self.rng.integers(len(rows), size=int(self.rng.integers(1, 3))).tolist()
            twin = cache.fork(chosen) if self.paged else copy.deepcopy(cache)
            self.caches.append((twin, [list(rows[n]) for n in (chosen if self.paged else range(len(rows)))]))
        elif kind == "together" and self.paged:
            self.run(
                PagedCache.together([each for each, _ in self.caches]), [r for _, each in self.caches for r in each]
            )
        elif kind == "truncate":
            self.truncate(cache, rows)
        elif kind == "drop" and len(self.caches) > 1:
            self.caches = [pair for pair in self.caches if pair[0] is not cache]
            del cache, rows
            gc.collect()  # an error that was expected keeps its frames, which know the cache
        else:
            self.run(cache, rows)

    def live(self, steps: int) -> None:
        batch = int(self.rng.integers(1, 4))
        made = new_cache(self.windows, batch=batch, paged=self.paged, backend=self.backend)
        self.caches.append((made, [[] for _ in range(batch)]))
        del made
        for _ in range(steps):
            self.step()
            assert len(self.caches) <= 8
            assert all(cache.ids == tuple(map(tuple, rows)) for cache, rows in self.caches)
            assert all(cache.counts.tolist() == [len(row) for row in rows] for cache, rows in self.caches)
            if self.paged:
                self.counted()

    def counted(self) -> None:
        """Each block has as many references as tables that name it, and none is lost."""
        pools = self.caches[0][0].pools
        states = [state for cache, _ in self.caches for state in cache.states]
        for window, pool in pools.by_window.items():
            named = [block for state in states for block in state.tables[window] if block != NOBODY]
            assert [named.count(block) for block in range(1, len(pool.references))] == pool.references[1:]
            assert pool.in_use == len(set(named))
            if window is not None:  # one block more for each end of what is seen, and what the latest run appended
                assert all(sum(b != NOBODY for b in s.tables[window]) <= (window + 40) // BLOCK + 3 for s in states)
            assert not any(
                np.asarray(self.backend.to_numpy(part))[NOBODY].any() for s in pool.stores for part in s.buffers
            )


def walk(seed: int, *, paged: bool, steps: int = 25, backend: Backend = NUMPY) -> None:
    rng = np.random.default_rng(seed)
    Walk(WINDOWS[seed % len(WINDOWS)], paged, rng, backend).live(steps)


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_every_query_sees_its_tokens_whatever_happened(seed: int, paged: bool) -> None:
    walk(seed, paged=paged)


@pytest.mark.parametrize("seed", range(len(WINDOWS)))
def test_blocks_keep_to_the_backend_s_interface(seed: int) -> None:
    walk(seed, paged=True, steps=12, backend=StrictBackend())


# --- planted ----------------------------------------------------------------------------------------------------------


def plant_copy_on_write_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BlockPool, "own", lambda self, block: block)


def plant_copies_of_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("lepton_ref.runtime.block_pool.BlockStore.copy", lambda self, source, target: None)


def plant_blocks_lost_in_growing(patch: pytest.MonkeyPatch) -> None:
    from lepton_ref.runtime.block_pool import BlockStore

    def grow(self: BlockStore, blocks: int) -> None:
        self.buffers, self.blocks = self._empty(blocks), blocks

    patch.setattr(BlockStore, "grow", grow)


def plant_forks_that_do_not_count(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BlockPool, "share", lambda self, block: None)


def plant_rejected_tokens_that_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ContiguousCache, "_cut", lambda self: None)


def plant_blocks_that_stay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PagedCache, "_cut", lambda self: None)


def plant_a_window_that_says_it_holds_all(patch: pytest.MonkeyPatch) -> None:
    for kind in (ContiguousCache, PagedCache):
        patch.setattr(kind, "_first", lambda self, b, window: 0)


def plant_blocks_never_released(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BlockPool, "release_from", lambda self, table, kept: None)


PLANTED = [value for name, value in sorted(globals().items()) if name.startswith("plant_")]

PLACES = [
    ("table[b, : len(row)] = row", "table[b, 1 : len(row)] = row[1:]"),
    ("[start : start + table.shape[1]]", "[start + 1 : start + 1 + table.shape[1]]"),
    ("divmod(count + done, BLOCK)", "divmod(count + done + 1, BLOCK)"),
    ("tokens[done : done + BLOCK - slot]", "tokens[done : done + BLOCK]"),
    ("np.flatnonzero(mask_bt[b])", "np.arange(mask_bt.shape[1])"),
    ("min(token // BLOCK, len(table))", "min(token // BLOCK + 1, len(table))"),
    ("order >= np.array(firsts)", "order > np.array(firsts)"),
    ("- begin_b[:, None] + np.cumsum", "+ np.cumsum"),
]
"""(a place in paged_plan.py, the bug that is planted there)."""

SEEDS = range(20)


def caught() -> bool:
    for seed, paged in itertools.product(SEEDS, (True, False)):
        try:
            walk(seed, paged=paged)
        except (AssertionError, ValueError, IndexError):
            return True
    return False


def test_without_a_bug_nothing_is_caught() -> None:
    assert not caught()


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_caught(plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert caught()


@pytest.mark.parametrize(("place", "bug"), PLACES)
def test_a_bug_in_the_plan_is_caught(place: str, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton_ref.runtime.paged_cache.plan", mutated(paged_plan, place, bug).plan)
    assert caught()


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv_cache", ["dense", "int4"])
@pytest.mark.parametrize("name", KINDS)
def test_a_batch_in_blocks_gives_the_bits_of_each_sequence_in_one_piece(name: str, kv_cache: str) -> None:
    tested = model(name)
    for options in ({}, HOT):
        how: dict[str, Any] = {"max_new_tokens": 20, "stop_ids": (), **options}
        cache = tested.new_cache(len(PROMPTS), capacity=27, paged=True, kv_cache=kv_cache)
        found = tested.generate(PROMPTS, chunk=3, cache=cache, **how)
        for b, prompt in enumerate(PROMPTS):
            own = tested.new_cache(capacity=27, kv_cache=kv_cache)
            assert found[b] == tested.generate(prompt, sequence=b, cache=own, **how)
            assert cache.ids[b] == (*prompt, *found[b].ids)[:-1]


@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral"])
def test_forks_of_a_prompt_go_on_as_if_each_had_read_it(name: str) -> None:
    tested, prompt = model(name), [5, 6, 7] * 7
    root = tested.new_cache(paged=True)
    tested.forward([prompt], cache=root)
    before = [pool.in_use for pool in root.pools.by_window.values()]
    forks = root.fork([0, 0, 0])
    assert [pool.in_use for pool in root.pools.by_window.values()] == before, "a fork takes no block"
    found = tested.generate([[8], [9], [10]], max_new_tokens=20, stop_ids=(), cache=forks)
    for b, end in enumerate([8, 9, 10]):
        whole = tested.generate([*prompt, end], max_new_tokens=20, stop_ids=())
        assert (found[b].ids, found[b].logprobs) == (whole.ids, whole.logprobs)
    rest = tested.generate([8], max_new_tokens=20, stop_ids=(), cache=root)
    assert (rest.ids, rest.logprobs) == (found[0].ids, found[0].logprobs)


def test_a_copied_cache_goes_on_by_itself() -> None:
    own = model().new_cache(paged=True)
    model().forward([5, 6], cache=own)
    other = copy.deepcopy(own)
    model().forward([9], cache=own)
    assert np.array_equal(model().forward([7], cache=other)[:, -1], model().forward([5, 6, 7])[:, -1])


def test_blocks_are_free_when_their_sequences_are_gone() -> None:
    root = model().new_cache(paged=True)
    model().forward([[5] * 40], cache=root)
    (pool,) = root.pools.by_window.values()
    other = model().new_cache(2, paged=root)
    model().forward([[5] * 20] * 2, cache=other)
    assert pool.in_use == 3 + 2 * 2
    fork = root.fork()
    model().forward([6], cache=fork)
    assert pool.in_use == 3 + 2 * 2 + 1
    del other, fork
    gc.collect()
    assert pool.in_use == 3
    assert root.nbytes == 2 * root.layers[0].heads * root.layers[0].width * 4 * BLOCK * 16 * len(root.layers)


def test_padding_takes_no_slot_of_a_paged_capacity() -> None:
    tested = model()
    cache = tested.new_cache(2, capacity=9, paged=True)
    found = tested.generate([[5, 6, 7], [8]], max_new_tokens=20, stop_ids=(), cache=cache)
    assert [(len(each), each.finish_reason) for each in found] == [(7, "context"), (9, "context")]
    assert cache.counts.tolist() == [9, 9]
    assert cache.length == 9
    with pytest.raises(ContextOverflowError, match="10 tokens overflow the cache's capacity of 9"):
        tested.forward([[5], [6]], cache=cache)
    assert repr(cache).startswith("KVCache(batch 2, 9 slots, capacity 9, 2 blocks, ")


# --- bad input --------------------------------------------------------------------------------------------------------


def test_rows_that_are_none_are_refused() -> None:
    cache: Any = model().new_cache(2, paged=True)
    for rows, message in (
        ([], "rows is empty; name at least one sequence"),
        ([2], "rows holds 2, but the sequences are 0 to 1"),
        ([-1], "rows holds -1, but the sequences are 0 to 1"),
        ([True], "rows holds True"),
        (["0"], "rows holds '0'"),
    ):
        with pytest.raises(ValueError, match=message):
            cache.fork(rows)


def test_caches_that_do_not_go_together_are_refused() -> None:
    one: Any = model().new_cache(paged=True)
    with pytest.raises(ValueError, match="there is no cache to put together; give at least one"):
        PagedCache.together([])
    with pytest.raises(ValueError, match="a sequence comes twice, but can go on in one way only; fork it"):
        PagedCache.together([one, one])
    with pytest.raises(ValueError, match="blocks of several pools; make all but the first with paged=the first"):
        PagedCache.together([one, model().new_cache(paged=True)])
    with pytest.raises(ValueError, match="the cache was made by another model"):
        model("gpt2").new_cache(paged=one)
    with pytest.raises(ValueError, match="the cache to share blocks with is dense, not int8; make two"):
        model().new_cache(paged=one, kv_cache="int8")
    with pytest.raises(ValueError, match="batch must be an integer of at least 1, got 0"):
        model().new_cache(0, paged=True)


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ([1], ValueError, r"counts must be one or 2, one a sequence, got an array of shape \(1,\)"),
        ([2, -1], ValueError, "sequence 1 has 2 tokens, so -1 cannot stay; give 0 to that many"),
        (3, ValueError, "sequence 0 has 2 tokens, so 3 cannot stay"),
        (1.0, TypeError, r"counts must be integers, one for each of 2 sequences, got 1\.0"),
    ],
)
def test_counts_that_are_none_are_refused(paged: bool, counts: Any, error: type[Exception], message: str) -> None:
    cache = model().new_cache(2, paged=paged)
    model().forward([[5, 6], [7, 8]], cache=cache)
    with pytest.raises(error, match=message):
        cache.truncate(counts)
    with pytest.raises(error, match=message):
        cache.can_truncate(counts)
    assert cache.counts.tolist() == [2, 2]


@pytest.mark.parametrize("paged", [False, True])
def test_a_window_that_has_let_go_is_refused_and_emptied(paged: bool) -> None:
    tested = model("mistral")
    cache = tested.new_cache(paged=paged)
    window = min(spec.window for spec in cache.layers if spec.window is not None)
    for _ in range(60):
        tested.forward([5], cache=cache)
    assert not cache.can_truncate(2)
    with pytest.raises(ValueError, match=f"sequence 0 cannot go back to 2 of its 60 tokens: a window of {window} has"):
        cache.truncate(2)
    assert cache.counts.tolist() == [60]
    cache.truncate(0)
    assert cache.length == 0
    assert np.array_equal(tested.forward([7, 8], cache=cache), tested.forward([7, 8]))


def test_positions_of_the_caller_s_own_leave_the_ids_unknown() -> None:
    cache = model().new_cache()
    model().forward([5, 6], position_ids=[3, 4], cache=cache)
    assert cache.ids == (None,)
    cache.truncate(1)
    assert cache.ids == (None,)
    cache.truncate(0)
    assert cache.ids == ((),)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model, cache: model.new_cache(paged=1), "paged must be True, False or a paged cache of this model"),
        (lambda model, cache: model.new_cache(paged=model), "paged must be True, False or a paged cache of this model"),
        (lambda model, cache: PagedCache.together([model.new_cache()]), "only paged caches go together"),
        (lambda model, cache: PagedCache.together(cache), "give a list of paged caches, got"),
        (lambda model, cache: cache.fork(0), "rows must be a list of numbers of sequences"),
        (lambda model, cache: model.new_cache().fork(), "make the cache with new_cache\\(paged=True\\)"),
    ],
)
def test_what_is_no_paged_cache_is_refused_in_one_line(call: Any, words: str) -> None:
    tiny = lepton_ref.load(case("llama").folder)
    with pytest.raises((TypeError, ValueError), match=words):
        call(tiny, tiny.new_cache(paged=True))
