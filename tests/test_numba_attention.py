"""The Numba backend's attention gives the op's bits: shapes, paged caches, masks, windows, caps, special values."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any

import drawn_models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import BACKEND, PRECISIONS, Arena, Floats, caught, mutant, numbers, same_bits, seeds, stuck_list
from numpy.typing import NDArray

from lepton_ref import ops
from lepton_ref.backends import numba_attention, numba_attention_exact, numba_attention_parts
from lepton_ref.backends.numba_backend import NumbaBackend
from lepton_ref.backends.numba_threads import Team
from lepton_ref.models import FAMILIES
from lepton_ref.numerics import get_precision
from lepton_ref.runtime.model import Model


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with np.errstate(all="ignore"):
        yield


@dataclass(frozen=True)
class Case:
    """What attention is asked; the keys lie in blocks of a pool, in no order."""

    batch: int = 1
    tokens: int = 1
    heads: int = 3
    kv_heads: int = 1
    slots: int = 20
    width: int = 16
    queries: int = 1
    block: int = 32
    window: int = 1000
    holes: float = 0.0
    scale: float = 0.3
    cap: float = 0.0
    form: int = 0
    seed: int = 0
    special: float = 0.0
    size: float = 1.0
    threads: int = 1


@dataclass(frozen=True)
class Given:
    """The arrays of a case."""

    q: Floats
    k: Floats
    v: Floats
    seen: NDArray[np.int64]
    mask: NDArray[np.bool_]


def drawn(case: Case) -> Given:
    shape = (case.batch, case.slots, case.kv_heads, case.width)
    q = numbers(case.seed, case.batch, case.tokens, case.heads, case.width, spread=0.3) * np.float32(case.size)
    k, v = (numbers(case.seed + i, *shape, spread=0.3, special=case.special) for i in (1, 2))
    rng = np.random.default_rng(case.seed)
    high = np.maximum(np.arange(case.tokens) + case.slots - case.tokens + 1, 0)
    seen = np.stack([np.maximum(high - case.window, 0), high], axis=-1)
    seen = np.broadcast_to(seen, (case.batch, case.tokens, 2)).copy()
    mask = rng.random((case.batch, case.tokens, case.slots)) >= case.holes
    return Given(q, k, v, seen, mask)


def computed(case: Case, given_: Given, module: Any = numba_attention) -> tuple[Floats, NDArray[np.int64]]:
    """The kernel's (B·T, H·K), and what it leaves open: units in two shares, or slots in so many threads' pieces."""
    q, blocks = given_.q, -(-case.slots // case.block)
    table = np.random.default_rng(case.seed).permutation(case.batch * blocks).reshape(case.batch, blocks)
    pool = np.full((2, case.batch * blocks, case.kv_heads, case.block, case.width), np.nan, dtype=np.float32)
    for b in range(case.batch):
        for s in range(case.slots):
            for held, array in zip(pool, (given_.k, given_.v), strict=True):
                held[table[b, s // case.block], :, s % case.block] = array[b, s]
    arena, full = Arena(q, np.zeros_like(q)), case.heads * case.width
    head, rows = case.block * case.width, case.batch * case.tokens
    shape = [
        case.batch, case.tokens, case.heads, case.kv_heads, case.width, case.queries, arena.starts[0], full,
        arena.starts[1], full, 21, blocks, case.block, case.kv_heads * head, head, case.width, 21 + table.size,
        5 if case.holes else -1, case.slots,
    ]  # fmt: skip
    integers = np.concatenate([[0, 0], shape, table.ravel(), given_.seen.ravel()])
    mask = np.concatenate([np.zeros(5, dtype=bool), given_.mask.ravel()]).astype(np.uint8)
    room = numba_attention.scratch_size(case.queries, case.heads, case.kv_heads, case.width, case.slots)
    scratch, stuck = np.full(room * case.threads + 7, np.nan), stuck_list(rows * full)
    given_to = (arena.memory, pool[0].ravel(), pool[1].ravel(), integers, 2, mask, case.scale, case.cap)
    if case.threads > 1:
        parts = module if hasattr(module, "pieces") else numba_attention_parts
        meeting, lists = threading.Barrier(case.threads), [stuck_list(rows * full) for _ in range(case.threads)]

        def work(t: int, team: int) -> None:
            arguments = (*given_to, scratch[7:], room, case.form, lists[t])
            if parts.pieces(t, team, *arguments):
                meeting.wait()
                parts.join(t, team, *arguments)

        Team(case.threads).run(work, give_up=meeting.abort)
        found = np.concatenate([each[1 : 1 + each[0]] for each in lists])
        stuck[0], stuck[1 : 1 + found.size] = found.size, found
        return arena.part(1).reshape(rows, full), stuck
    units = int(numba_attention.units(case.tokens, case.batch, case.kv_heads, case.queries))
    for first, last in ((0, units // 2), (units // 2, units)):
        module.attention(*given_to, first, last, scratch, 7, case.form, stuck)
    assert np.isnan(scratch[:7]).all()
    return arena.part(1).reshape(rows, full), stuck


def check_given(case: Case, given_: Given, module: Any = numba_attention, *, most: int | None = None) -> None:
    y, stuck = computed(case, given_, module)
    slots = np.arange(case.slots)
    mask = (slots >= given_.seen[..., :1]) & (slots < given_.seen[..., 1:]) & given_.mask
    expected = ops.attention(
        given_.q, given_.k, given_.v, mask, scale=case.scale, cap=case.cap or None, backend=BACKEND,
        precision=PRECISIONS[case.form],
    )  # fmt: skip
    same_bits(y, np.asarray(expected).reshape(y.shape), stuck, most=most)


def check(case: Case, module: Any = numba_attention, *, most: int | None = None) -> None:
    check_given(case, drawn(case), module, most=most)


cases = st.builds(
    lambda group, **given_: Case(heads=given_["kv_heads"] * group, **given_),
    group=st.sampled_from([1, 2, 3, 4, 5]), batch=st.integers(1, 2), tokens=st.sampled_from([1, 2, 7]),
    kv_heads=st.integers(1, 2), slots=st.sampled_from([1, 3, 16, 33, 70]), width=st.sampled_from([3, 16, 32, 48, 64]),
    queries=st.sampled_from([1, 3, 8]), block=st.sampled_from([1, 4, 16, 128]), window=st.sampled_from([1, 9, 1000]),
    holes=st.sampled_from([0.0, 0.0, 0.5]), form=st.integers(0, 2), seed=seeds,
    cap=st.sampled_from([0.0, 0.0, 5.0]),
)  # fmt: skip


@settings(max_examples=80)
@given(case=cases)
def test_attention(case: Case) -> None:
    check(case, most=0 if not case.cap and case.form == 0 else None)


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("group", [1, 2, 3, 4, 5, 9])
def test_few_and_many_rows_of_several_heads(tokens: int, group: int) -> None:
    for queries in {1, 2, tokens}:
        for width in (6, 16, 64):
            check(Case(batch=2, tokens=tokens, heads=2 * group, kv_heads=2, queries=queries, width=width), most=0)


@given(case=cases, special=st.sampled_from([0.002, 0.05]))
def test_attention_to_special_values(case: Case, special: float) -> None:
    check(replace(case, special=special))


@pytest.mark.parametrize("size", [1e-30, 300.0, 1e5, 1e20])
def test_attention_with_scores_of_all_sizes(size: float) -> None:
    for rows, seed in ((1, 0), (8, 1)):
        check(Case(heads=3, tokens=rows, queries=8, slots=40, width=64, size=size, seed=seed))


def test_rows_of_many_slots() -> None:
    check(Case(heads=9, kv_heads=3, slots=700, width=64, scale=0.125, seed=5), most=0)
    check(Case(tokens=20, heads=4, slots=300, width=128, queries=16, seed=6, window=200), most=0)


in_parts = st.builds(
    lambda group, **given_: Case(heads=given_["kv_heads"] * group, **given_),
    group=st.sampled_from([1, 3, 5]), batch=st.integers(1, 2), kv_heads=st.integers(1, 3), threads=st.integers(2, 4),
    slots=st.sampled_from([1, 40, 140, 190]), width=st.sampled_from([20, 64, 128]), block=st.sampled_from([16, 256]),
    window=st.sampled_from([90, 1000]), holes=st.sampled_from([0.0, 0.0, 0.9]), form=st.integers(0, 2), seed=seeds,
    cap=st.sampled_from([0.0, 0.0, 5.0]), special=st.sampled_from([0.0, 0.0, 0.001]),
)  # fmt: skip


@settings(max_examples=20)
@given(case=in_parts)
def test_attention_in_parts(case: Case) -> None:
    check(case, most=0 if not (case.cap or case.form or case.special) else None)


@pytest.mark.parametrize(("kv_heads", "threads", "slots"), [(1, 2, 256), (3, 2, 256), (1, 4, 130), (2, 3, 256)])
def test_cuts_are_even_and_at_the_ends_of_units_where_these_are_near(kv_heads: int, threads: int, slots: int) -> None:
    shape = np.zeros(numba_attention.FIELDS, dtype=np.int64)
    shape[[numba_attention.BATCH, numba_attention.KV_HEADS, numba_attention.WIDTH]] = 1, kv_heads, 64
    integers = np.array([5, 5 + slots])
    cuts = [numba_attention_parts.cut(t, threads, integers, shape) for t in range(threads + 1)]
    each = -(-slots // 16)
    along = [unit * each + before for unit, before in cuts]
    assert (along[0], along[-1]) == (0, kv_heads * each)
    assert all(before == 0 or 4 <= before <= each - 4 for _, before in cuts)
    assert all(abs(place - kv_heads * each * t / threads) < 5 for t, place in enumerate(along))


def test_what_parts_leave_open_is_settled() -> None:
    """With first bounds a million times too large, all elements go the second way, and none further."""
    text = "FIELDS,\n    HEADS,"
    wide = mutant(numba_attention, "FIELDS = 19", "FIELDS = 19", EXP=1e7)
    parts = mutant(numba_attention_parts, text, text, round_rows=wide.round_rows)
    for threads, width in ((2, 64), (3, 256)):
        check(Case(slots=200, width=width, threads=threads, form=threads - 2, seed=threads), parts, most=0)


def test_a_planted_bug_of_parts_is_seen() -> None:
    wrong = mutant(numba_attention_parts, "exp(splat_f64(W[own.tops + row] - top)) if", "splat_f64(1.0) if")
    caught(lambda: check(Case(slots=200, width=64, threads=3), wrong))


def test_a_model_whose_head_threads_share_answers_as_one_thread_does(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, config, _, head = drawn_models.shape("llama_head_width")
    wide = replace(config, num_key_value_heads=1, head_dim=64, rope=replace(config.rope, width=64))
    wide = replace(wide, max_position_embeddings=256)
    program = FAMILIES["llama"].program(wide, head)
    monkeypatch.setattr(drawn_models, "shape", lambda name: (architecture, wide, program, head))
    model = drawn_models.drawn("wide", PRECISIONS[0], seed=0, specials=0.0)
    ids, answers = np.random.default_rng(0).integers(0, drawn_models.VOCABULARY, (1, 200)), []
    for threads in (1, 2, 3):
        fast = Model(model.parts, backend=NumbaBackend(), precision=PRECISIONS[0], threads=threads)
        cache = fast.new_cache(batch=1)
        fast.forward(ids, cache=cache)
        answers.append(np.asarray(fast.forward(ids[:, :1], cache=cache)).view(np.uint32))
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[0], answers[2])


def test_values_that_are_all_zeros_have_the_sign_that_all_of_them_have() -> None:
    case = Case(tokens=3, slots=5, queries=3)
    given_ = drawn(case)
    given_.v[...] = -0.0
    given_.v[0, 3, 0, ::2] = 0.0
    y, stuck = computed(case, given_)
    assert stuck[0] == 0
    assert not y.any()
    heads = np.signbit(y).reshape(3, 3, 16)
    assert heads[0].all()  # sees three slots
    assert not heads[1:, :, ::2].any()
    assert heads[1:, :, 1::2].all()


def test_a_query_that_sees_nothing_gives_zeros() -> None:
    case = Case(tokens=3, slots=2, queries=3, holes=0.5)
    given_ = drawn(case)
    given_.mask[...] = [[[True, True], [False, False], [True, True]]]
    y, stuck = computed(case, given_)
    assert stuck[0] == 0
    assert not y[0].any()  # before the first slot
    assert not y[1].any()
    assert not np.signbit(y[:2]).any()
    assert y[2].all()


def test_one_slot_gives_its_value_and_a_tie_is_left_open() -> None:
    case = Case(slots=2, form=1)
    given_ = drawn(case)
    given_.k[:, 1] = given_.k[:, 0]
    given_.v[:, 0], given_.v[:, 1] = 1.0, 1.0 + 2.0**-7  # bf16's neighbours: their mean is a midpoint
    y, stuck = computed(case, given_)
    assert stuck[0] == y.size
    given_.seen[...] = [1, 2]
    y, stuck = computed(case, given_)
    assert stuck[0] == 0
    assert (y == 1 + 2.0**-7).all()


def test_units_are_in_an_order_of_which_halves_weigh_the_same() -> None:
    tokens, queries = 96, 8
    blocks = [n // 2 if n % 2 == 0 else 11 - n // 2 for n in range(12)]
    assert sorted(blocks) == list(range(12))
    assert int(numba_attention.units(tokens, 2, 3, queries)) == 2 * 12 * 3
    assert abs(sum(blocks[:6]) - sum(blocks[6:])) <= 6


@pytest.mark.parametrize(
    ("tokens", "heads", "slots", "most"), [(1, 9, 512, 1), (512, 9, 512, 32), (512, 9, 1 << 20, 2), (3, 9, 512, 3)]
)
def test_how_many_queries_a_unit_has(tokens: int, heads: int, slots: int, most: int) -> None:
    assert numba_attention.queries_at_once(tokens, heads, 3, slots) == most


def with_exact(text: str, bug: str, **others: Any) -> Any:
    """Attention whose second stage has a bug."""
    exact = mutant(numba_attention_exact, text, bug, **others)
    anything = "FIELDS = 19"
    return mutant(numba_attention, anything, anything, round_row=exact.round_row, settle_row=exact.settle_row)


def test_a_bound_that_is_too_small_is_seen() -> None:
    """Scores are so large, and so near to one another, that their errors are seen in the result."""
    case = Case(heads=8, tokens=12, queries=12, slots=120, width=64, size=10.0, scale=0.02)
    given_ = drawn(case)
    given_.k[...] += np.float32(1e5)
    check_given(case, given_)
    wrong = mutant(numba_attention, "delta = products *", "delta = 0.0 * products *")
    caught(lambda: check_given(case, given_, wrong))


def test_a_planted_bug_of_where_things_lie_is_seen() -> None:
    wrong = mutant(numba_attention, "head * shape[STRIDE_HEAD] + inside", "inside")
    caught(lambda: check(Case(heads=2, kv_heads=2, slots=30, window=9, block=4), wrong))


def test_the_second_stage_decides_what_the_first_leaves_open() -> None:
    """With first bounds a million times too large, all elements go the second way, and none further."""
    anything = "FIELDS = 19"
    wide = mutant(numba_attention, anything, anything, EXP=1e7)
    for form, width in enumerate((64, 20, 16)):
        check(Case(tokens=3, queries=3, slots=50, width=width, form=form, seed=form), wide, most=0)
        check(Case(tokens=1, slots=35, width=width, form=form, seed=form, holes=0.3, block=4), wide, most=0)


def test_a_planted_bug_of_the_second_stage_is_seen() -> None:
    """What the low parts hold is seen where all values but cancel."""
    case = Case(heads=1, slots=64, width=64)
    given_ = drawn(case)
    q, k, v = (array[0, :, 0].astype(np.float64) for array in (given_.q, given_.k, given_.v))
    weights = np.exp(k @ q[0] * case.scale)
    given_.v[0, -1, 0] = -(weights[:-1] @ v[:-1]) / weights[-1]
    check_given(case, given_, most=0)
    wrong = with_exact("low += fused(W[p + slots + s], v, lost)", "low += lost")
    wrong.EXP = 1e7
    caught(lambda: check_given(case, given_, wrong))


def test_values_whose_weights_underflow_have_a_sign_all_the_same() -> None:
    q = np.zeros((1, 1, 1, 16), dtype=np.float32)
    q[..., 0] = 1.0
    k, v = np.zeros((1, 3, 1, 16), dtype=np.float32), np.zeros((1, 3, 1, 16), dtype=np.float32)
    k[0, 1, 0, 0], k[0, 2, 0, 0] = -705.0, -730.0
    v[0, 1, 0], v[0, 2, 0] = 2.0**100, -(2.0**127)
    v[0, :, 0, 1] = [0.0, -(2.0**100), 2.0**127]
    mask = np.ones((1, 1, 3), dtype=np.bool_)
    want, got = (
        ops.attention(q, k, v, mask, scale=1.0, backend=backend, precision=get_precision("reference"))
        for backend in (BACKEND, NumbaBackend())
    )
    assert np.array_equal(want.view(np.uint32), got.view(np.uint32))
