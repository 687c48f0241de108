"""The golden hashes of every tiny checkpoint in every precision, and of SmolLM2, run in every way."""

from __future__ import annotations

from functools import cache

import golden_hashes
import pytest
import real_models
import threadpoolctl
from golden_hashes import Way, batched, chunked, differing, in_another_order, one_by_one
from test_golden_hashes import CACHED, CAUSAL, NAMES, WAYS, Float32Backend, assert_golden

import lepton_ref
from lepton_ref.golden.hash_goldens import (
    MACHINE_CASES,
    MACHINES,
    ROUNDED_ONCE,
    SMOLLM2,
    TINY,
    require_specified,
    tiny_texts,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("precision", ROUNDED_ONCE)
@pytest.mark.parametrize("name", NAMES)
def test_every_family_in_every_way(name: str, precision: str) -> None:
    ways = [one_by_one, *WAYS.values(), *(CACHED.values() if name in CAUSAL else ())]
    for way in ways:
        assert_golden(name, precision, way)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", MACHINE_CASES)
def test_every_machine_on_texts_alone_and_side_by_side(name: str, machine: str) -> None:
    """Not with padding or a cache: a key that is not seen is a product of zeros, with a place in a machine's order."""
    assert_golden(name, machine, one_by_one)
    texts, want = tiny_texts(name)["equal"], golden_hashes.tiny()[name][machine]["equal"]
    model = lepton_ref.load(TINY / name, precision=machine)
    assert differing(model, {"equal": texts}, {"equal": want}, batched("left", copies=2)) == []


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
@pytest.mark.parametrize("name", NAMES)
def test_other_orders(name: str, precision: str) -> None:
    """Not `w4a8`: Q4_0's scale has the sign of the first of the largest magnitudes, and bfloat16 weights have ties."""
    assert_golden(name, precision, lambda _, some: in_another_order(TINY / name, precision, some))


@pytest.mark.parametrize("name", NAMES)
def test_the_specification_gives_these_bits(name: str) -> None:
    """What the generator asks, asked again; so are the bits the engine's today."""
    shortest = min(tiny_texts(name)["unequal"], key=lambda text: len(text["input_ids"]))
    for precision in ROUNDED_ONCE:
        require_specified(TINY / name, shortest, precision)


@cache
def smollm2(precision: str, threads: int | None = None) -> lepton_ref.Model:
    return lepton_ref.load(real_models.smollm2(), precision=precision, threads=threads)


def assert_real(precision: str, way: Way, *lists: str, model: lepton_ref.Model | None = None) -> None:
    texts, hashes = golden_hashes.smollm2()
    wanted, want = {name: texts[name] for name in lists}, {name: hashes[precision][name] for name in lists}
    assert differing(smollm2(precision) if model is None else model, wanted, want, way) == []


def test_a_real_model_has_its_hashes() -> None:
    texts, hashes = golden_hashes.smollm2()
    assert hashes.keys() == set(SMOLLM2)
    assert all(found.keys() == texts.keys() for found in hashes.values())
    assert [len(text["input_ids"]) for text in texts["both"]] == [18, 100]


@pytest.mark.parametrize("precision", SMOLLM2)
def test_a_real_model_on_texts_alone(precision: str) -> None:
    assert_real(precision, one_by_one, "short", "long")


@pytest.mark.parametrize("precision", SMOLLM2)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_real_model_on_unequal_texts(side: str, precision: str) -> None:
    assert_real(precision, batched(side, by=2), "both")


@pytest.mark.parametrize("precision", SMOLLM2)
def test_a_real_model_in_a_batch_of_four(precision: str) -> None:
    assert_real(precision, batched("left", copies=4), "short")
    assert_real(precision, batched("right", copies=2), "both")


@pytest.mark.parametrize("precision", SMOLLM2)
@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_real_model_in_chunks(size: int, precision: str) -> None:
    assert_real(precision, chunked(size), "long")
    assert_real(precision, chunked(size, "right"), "short")


@pytest.mark.parametrize("precision", SMOLLM2)
def test_a_real_model_on_unequal_texts_in_chunks(precision: str) -> None:
    assert_real(precision, chunked(7), "both")


@pytest.mark.parametrize("precision", SMOLLM2)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_real_model_with_so_many_threads(threads: int, precision: str) -> None:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        assert_real(precision, one_by_one, "long", model=smollm2(precision, threads))


@pytest.mark.parametrize("precision", SMOLLM2)
def test_a_real_model_multiplied_in_float32_is_seen(precision: str) -> None:
    texts, hashes = golden_hashes.smollm2()
    wrong = lepton_ref.load(real_models.smollm2(), precision=precision, backend=Float32Backend())
    found = differing(wrong, {"short": texts["short"]}, {"short": hashes[precision]["short"]}, one_by_one)
    assert found == ["short"]
