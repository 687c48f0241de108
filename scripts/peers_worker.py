"""One engine in a process of its own, which measures when it is asked to; started by scripts/peers.py.

It reads one JSON object a line and answers with one. Between questions it waits for input and takes no processor time.
It runs under whatever Python has the engine, so it imports the standard library and its neighbours alone.

    {"do": "load", "kind": "llama_cpp", "path": FILE, "threads": 2, "options": {}}  → {"versions": {…}}
    {"do": "start", …, "context": 16}  in place of load: a sample of import to first token, the engine being dropped
    {"do": "tokens", "prefill": 128, "repeat": 3}                                    → a sample
    {"do": "tokens", "context": 512, "decode": 32}                                   → a sample
    {"do": "call", "name": "matmul", "arguments": {…}, "repeat": 3}                  → a sample

A sample is {"seconds": of one repetition, "wall": of all, "foreign": processor seconds of other processes meanwhile}.
An answer {"error": …} says in one line why there is none.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")


def busy_seconds(stat: str) -> float:
    """Processor seconds that all processes have used, interrupts and stolen time included, from /proc/stat's text."""
    user, nice, system, _idle, _waiting, *more = (int(word) for word in stat.split("\n", 1)[0].split()[1:9])
    return (user + nice + system + sum(more)) / TICKS


def busy() -> float:
    """`busy_seconds` of this machine, now."""
    with open("/proc/stat", encoding="ascii") as file:
        return busy_seconds(file.read())


def timed(run: Callable[[], Any], repeat: int = 1) -> dict[str, float]:
    """Run it so many times; the seconds of one, of all, and the processor seconds of other processes meanwhile."""
    used, own, start = busy(), time.process_time(), time.perf_counter()
    for _ in range(repeat):
        run()
    wall = time.perf_counter() - start
    foreign = max(0.0, busy() - used - (time.process_time() - own))
    return {"seconds": wall / repeat, "wall": wall, "foreign": foreign}


def tokens(engine: Any, question: dict[str, Any]) -> dict[str, float]:
    """A sample of a prefill, or of greedy tokens behind a context; `seconds` is that of all its tokens."""
    if "prefill" in question:
        ids = prompt(question["prefill"], engine.vocabulary)

        def prefill() -> None:
            engine.reset()
            engine.feed(ids)

        return timed(prefill, question["repeat"])
    last = engine.after(prompt(question["context"], engine.vocabulary))

    def decode() -> None:
        token = last
        for _ in range(question["decode"]):
            token = engine.feed([token])

    return timed(decode)


def prompt(length: int, vocabulary: int) -> list[int]:
    """Token ids that are the same for all engines: a linear congruence, special tokens at the start left out."""
    first = min(1000, vocabulary // 2)
    span = min(vocabulary, 32000) - first
    return [first + (7919 * (position + 1) * (position + 3)) % span for position in range(length)]


def answer(engine: Any, question: dict[str, Any]) -> dict[str, Any]:
    """What a question after the first is answered with."""
    if question["do"] == "tokens":
        return tokens(engine, question)
    if question["do"] != "call":
        raise ValueError(f"unknown question {question['do']!r}; known: load, start, tokens, call")
    return timed(engine.prepared(question["name"], question["arguments"]), question["repeat"])


def start(question: dict[str, Any]) -> dict[str, float]:
    """A sample of importing the engine's library, opening the model and having the first token of a prompt."""

    def first_token() -> None:
        from peers_engines import load

        engine = load(question)
        engine.feed(prompt(question["context"], engine.vocabulary))

    return timed(first_token)


def main() -> None:
    """Answer until the input ends. What libraries print goes to standard error, answers alone to standard output."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    engine: Any = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if question["do"] == "load":
                from peers_engines import load

                engine = load(question)
                found: dict[str, Any] = {"versions": engine.versions()}
            elif question["do"] == "start":
                found = start(question)
            else:
                found = answer(engine, question)
        except Exception as error:  # noqa: BLE001  the parent names it beside the engine; no engine may end the run
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        out.write(json.dumps(found) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
