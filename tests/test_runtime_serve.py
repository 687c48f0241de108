"""Continuous batching: random arrivals, and every request answered as `generate` answers it alone."""

from __future__ import annotations

import gc
import hashlib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated
from talking_model import talking
from test_runtime_generate import HOT, KINDS, model
from tiny_models import load

from lepton_ref import Model
from lepton_ref.models.inputs import ContextOverflowError
from lepton_ref.runtime import decoding, serve
from lepton_ref.runtime.generation import Token
from lepton_ref.runtime.serve import Server

OPTIONS: list[dict[str, Any]] = [{}, HOT, {"temperature": 0.5}, {"repetition_penalty": 2.0, "sequence": 3}]


def blocks(server: Server) -> int:
    return sum(pool.in_use for pool in server._root.pools.by_window.values())


def play(seed: int, name: str = "llama", kind: type[Server] = Server) -> None:
    """Requests of random lengths and options, many with one beginning, that arrive between random steps."""
    tested, rng = model(name), np.random.default_rng(seed)
    vocabulary = tested.config.vocab_size
    server = kind(tested, batch=int(rng.integers(1, 5)), chunk=int(rng.choice([1, 4, 16, 64])))
    base = rng.integers(0, vocabulary, 24).tolist()
    asked: dict[int, tuple[list[int], dict[str, Any]]] = {}
    heard: dict[int, list[Token]] = {}
    cancelled = set()
    for number in range(int(rng.integers(1, 8))):
        prompt = base[: int(rng.integers(0, 25))] + rng.integers(0, vocabulary, int(rng.integers(1, 6))).tolist()
        prompt = prompt if rng.random() < 0.7 else base[: int(rng.integers(17, 25))]
        options = {**OPTIONS[int(rng.integers(4))], "max_new_tokens": int(rng.integers(1, 9))}
        options["seed"] = int(rng.integers(5))
        options["stop_ids"] = rng.integers(0, vocabulary, 4).tolist()
        assert server.submit(prompt, **options) == number
        asked[number] = prompt, options
        for _ in range(int(rng.integers(0, 5))):
            for token in server.step():
                heard.setdefault(token.sequence, []).append(token)
            assert len(server.running) <= server.batch
        if rng.random() < 0.15 and number in (*server.waiting, *server.running):
            server.cancel(number)
            cancelled.add(number)
    for token in server.tokens():
        heard.setdefault(token.sequence, []).append(token)
    assert server.idle
    for number in asked.keys() - cancelled:
        prompt, options = asked[number]
        found = server.result(number)
        assert found == tested.generate(prompt, **options)
        assert [token.id for token in heard[number]] == list(found)
        assert tuple(token.logprob for token in heard[number]) == found.logprobs
    assert blocks(server) == 0


@given(st.integers(0, 2**32 - 1), st.sampled_from(["llama", "mistral", "gpt2"]))
def test_every_request_is_answered_as_if_alone(seed: int, name: str) -> None:
    play(seed, name)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_serves(name: str) -> None:
    for seed in range(3):
        play(seed, name)


PLACES = [
    ("request.cache.can_truncate(common)", "True"),
    ("cache.truncate(most)", "pass"),
    ("prompt[:-1], strict", "prompt, strict"),
    ("[*same, False].index(False)", "len(same)"),
    ("best.cache.fork()", "best.cache"),
    ("[: self.chunk] or request.row.ids[-1:]", "[: self.chunk] or request.row.ids[:1]"),
    ("mask[b, longest - len(part) :] = part, True", "mask[b] = part, True"),
    ("        if len(request.unread) > 0:\n            return []\n", "        _ = 0\n"),
    ("zip(group, logits_bv, strict=True)", "zip(group, logits_bv[::-1], strict=True)"),
    ("token.logprob, request.number", "token.logprob, row.number"),
    ("capacity=job.capacity, paged", "paged"),
    ("len(self._running) < self.batch", "len(self._running) <= self.batch"),
]  # fmt: skip
"""(a place in serve.py, the bug that is planted there)."""


@pytest.mark.parametrize(("place", "bug"), PLACES)
def test_a_planted_bug_is_caught(place: str, bug: str) -> None:
    kind = mutated(serve, place, bug).Server
    names = ("llama_rope_dynamic",) if "capacity" in place else ("llama", "mistral")
    with pytest.raises((AssertionError, ValueError, KeyError, IndexError)):
        _ = [play(seed, name, kind) for seed in range(12) for name in names]


def test_sequences_join_and_leave_between_steps() -> None:
    server = Server(model(), batch=2)
    first = server.submit([5] * 3, max_new_tokens=5, stop_ids=())
    assert [token.sequence for token in server.step()] == [first]
    second = server.submit([6], max_new_tokens=2, stop_ids=())
    third = server.submit([7], max_new_tokens=1, stop_ids=())
    assert (server.running, server.waiting) == ((first,), (second, third))
    assert repr(server) == "Server(2 waiting, 1 running, 0 finished)"
    assert [token.sequence for token in server.step()] == [second, first], "a prompt is read, the others go on"
    assert (server.running, server.waiting) == ((first, second), (third,))
    assert {token.sequence for token in server.step()} == {first, second}
    assert {token.sequence for token in server.step()} == {first, third}
    assert {token.sequence for token in server.step()} == {first}
    assert server.idle
    assert server.step() == []
    assert list(server.tokens()) == []
    assert [len(server.result(number)) for number in (first, second, third)] == [5, 2, 1]


def test_a_long_prompt_does_not_hold_up_the_others() -> None:
    server = Server(model(), batch=2, chunk=4)
    short = server.submit([5], max_new_tokens=9, stop_ids=())
    server.step()
    long = server.submit([6] * 14, max_new_tokens=1, stop_ids=())
    assert [[token.sequence for token in server.step()] for _ in range(4)] == [[short], [short], [short], [long, short]]


def test_prompts_that_begin_alike_share_blocks() -> None:
    server, prompt = Server(model(), batch=3), list(range(3, 43))
    for end in (50, 51, 52):
        server.submit([*prompt, end], max_new_tokens=4, stop_ids=())
        server.step()
    assert blocks(server) == 2 + 3, "32 tokens in common, and the rest of each"
    assert server.nbytes == server._root.nbytes
    server.run([])
    list(server.tokens())
    assert blocks(server) == 0


def test_run_answers_in_the_order_of_the_prompts() -> None:
    prompts = [[5] * n for n in (9, 1, 4)]
    found = Server(model(), batch=2).run(prompts, max_new_tokens=4, stop_ids=(), **HOT)
    assert found == [model().generate(prompt, max_new_tokens=4, stop_ids=(), **HOT) for prompt in prompts]


def test_texts_are_served(tmp_path: Path) -> None:
    talker = load(talking(tmp_path / "talker.gguf"))
    server, how = Server(talker), {"max_new_tokens": 12, "stop_strings": ["y3"], "temperature": 0.7}
    texts = ["hello", "a", ""]
    numbers = [server.submit(text, **how) for text in texts]
    shown = dict.fromkeys(numbers, "")
    for token in server.tokens():
        shown[token.sequence] += token.text or ""
    for number, text in zip(numbers, texts, strict=True):
        found = server.result(number)
        assert found == talker.generate(text, **how)
        assert shown[number] == found.text


@pytest.mark.parametrize("precision", ["bf16", "w8a8"])
def test_other_precisions_and_small_keys(precision: str) -> None:
    tested = load(model().parts.path, precision=precision, kv_cache="int8")
    prompts = [[5, 6, 7] * n for n in (9, 1, 8, 8)]
    found = Server(tested, batch=3, chunk=5).run(prompts, max_new_tokens=6, stop_ids=(), **HOT)
    assert found == [tested.generate(prompt, max_new_tokens=6, stop_ids=(), **HOT) for prompt in prompts]


def test_a_request_that_fails_ends_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(model())
    good, bad = (server.submit([index], max_new_tokens=4, stop_ids=()) for index in (5, 6))
    wanted = model().generate([5], max_new_tokens=4, stop_ids=())
    real = decoding.choose

    def choose(logits: Any, how: Any, *, seen: list[int], u: float) -> int:
        return real(logits * np.nan if seen[0] == 6 and len(seen) == 3 else logits, how, seen=seen, u=u)

    monkeypatch.setattr(decoding, "choose", choose)
    list(server.tokens())
    assert server.result(good) == wanted
    with pytest.raises(ValueError, match=r"logits\[0\] is nan"):
        server.result(bad)
    gc.collect()
    assert blocks(server) == 0


def test_a_run_that_breaks_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(model(), chunk=2)
    number = server.submit([5] * 5, max_new_tokens=4, stop_ids=())
    server.step()
    with monkeypatch.context() as patch:
        patch.setattr(Model, "forward", lambda *a, **k: [][1])
        with pytest.raises(IndexError):
            server.step()
    list(server.tokens())
    assert server.result(number) == model().generate([5] * 5, max_new_tokens=4, stop_ids=())


def soak(tokens: int, *, batch: int, chunk: int) -> tuple[str, list[int], list[int]]:
    """A hash of all answers, and after each 25 requests the bytes of the blocks and those that Python holds."""
    rng, seen = np.random.default_rng(9), hashlib.sha256()
    server, blocks_bytes, held_bytes, given = Server(model("gemma3"), batch=batch, chunk=chunk), [], [], 0
    base = rng.integers(0, 59, 40).tolist()
    while given < tokens:
        for _ in range(25):
            prompt = base[: int(rng.integers(0, 40))] + rng.integers(0, 59, int(rng.integers(1, 20))).tolist()
            how = {**OPTIONS[int(rng.integers(4))], "max_new_tokens": int(rng.integers(1, 17)), "stop_ids": ()}
            server.submit(prompt, **how)
        numbers = server.waiting
        list(server.tokens())
        for found in map(server.result, numbers):
            seen.update(repr((found.ids, found.logprobs, found.finish_reason)).encode())
            given += len(found)
        assert blocks(server) == 0
        gc.collect()
        blocks_bytes.append(server.nbytes)
        held_bytes.append(tracemalloc.get_traced_memory()[0])
    return seen.hexdigest(), blocks_bytes, held_bytes


@pytest.mark.slow
def test_ten_thousand_tokens_leave_memory_flat_and_the_same_hash() -> None:
    tracemalloc.start()
    try:
        first, blocks_bytes, held_bytes = soak(10_000, batch=8, chunk=16)
    finally:
        tracemalloc.stop()
    assert len(held_bytes) > 32
    assert len(set(blocks_bytes[8:])) == 1
    assert max(held_bytes[8:]) - held_bytes[8] < 100_000
    assert soak(10_000, batch=3, chunk=5)[0] == first


def test_a_short_soak() -> None:
    assert soak(150, batch=8, chunk=16)[0] == soak(150, batch=1, chunk=64)[0]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch": 0}, ValueError, "batch is 0, but must be at least 1; it counts sequences that run together"),
        ({"batch": 2.5}, TypeError, r"batch must be an integer, got 2\.5"),
        ({"chunk": 0}, ValueError, "chunk is 0, but must be at least 1"),
    ],
)
def test_a_server_that_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Server(model(), **options)
    with pytest.raises(ValueError, match="BertModel sees both ways and cannot serve"):
        Server(model("bert"))


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ([[5], [6]], {}, ValueError, "a request has one prompt, got a batch of 2; submit them one by one"),
        ([], {}, ValueError, "the prompt is empty"),
        ([5], {"temperature": -1}, ValueError, "temperature is -1"),
        ([5], {"max_new_tokens": 0}, ValueError, "max_new_tokens is 0"),
        ([5], {"cache": 1}, TypeError, "a request takes no 'cache'; it takes max_new_tokens, temperature"),
        ([5], {"speculate": 1}, TypeError, "a request takes no 'speculate'"),
        ([5], {"heat": 1}, TypeError, "a request takes no 'heat'"),
    ],
)
def test_a_request_that_is_wrong_is_refused_at_once(
    prompt: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    server = Server(model())
    with pytest.raises(error, match=message):
        server.submit(prompt, **options)
    assert server.idle


def test_a_prompt_that_does_not_fit_is_refused_at_once() -> None:
    learned = model("gpt2").config.max_position_embeddings
    with pytest.raises(ContextOverflowError, match=f"the prompt has {learned + 1} tokens, but {learned} fit"):
        Server(model("gpt2")).submit([5] * (learned + 1))


def test_numbers_that_are_none_are_refused() -> None:
    server = Server(model())
    number = server.submit([5], max_new_tokens=2, stop_ids=())
    with pytest.raises(ValueError, match="request 0 has not ended; step until it has"):
        server.result(number)
    with pytest.raises(ValueError, match="request 7 is unknown, cancelled or was handed out"):
        server.result(7)
    list(server.tokens())
    with pytest.raises(ValueError, match=r"request 0 neither waits nor runs; result\(0\) has one that has ended"):
        server.cancel(number)
    assert len(server.result(number)) == 2
    with pytest.raises(ValueError, match="request 0 is unknown, cancelled or was handed out"):
        server.result(number)
    waiting = server.submit([5])
    server.cancel(waiting)
    assert server.idle
