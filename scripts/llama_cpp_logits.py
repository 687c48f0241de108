"""Logits of llama.cpp, for a program that compares them; run by a Python that has llama-cpp-python.

    python scripts/llama_cpp_logits.py MODEL.gguf IDS.json OUT.npy [OPTIONS.json]

IDS.json holds windows of token ids. Each is run from position 0, and OUT.npy gets (all tokens, vocabulary) float32 as
they follow one another. OPTIONS are of `llama_cpp.Llama`, such as {"flash_attn": true, "type_k": 0}; "one_by_one" feeds
a token at a time, and not a window as one batch. What the build says of itself is printed as JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap


def main(path: str, ids: str, out: str, options: str = "{}") -> None:
    """Run all windows and write the logits."""
    llama_cpp = importlib.import_module("llama_cpp")
    windows: list[list[int]] = json.loads(Path(ids).read_text(encoding="utf-8"))
    given: dict[str, Any] = json.loads(options)
    one_by_one = given.pop("one_by_one", False)
    longest = max(map(len, windows))
    model = llama_cpp.Llama(
        path, n_ctx=longest + 8, n_batch=longest, n_ubatch=longest, logits_all=True, verbose=False, **given
    )
    kept = open_memmap(out, mode="w+", dtype=np.float32, shape=(sum(map(len, windows)), model.n_vocab()))
    at = 0
    for window in windows:
        model.reset()
        model._ctx.kv_cache_clear()
        for part in [[token] for token in window] if one_by_one else [window]:
            model.eval(part)
        kept[at : at + len(window)] = model.scores[: len(window)]
        at += len(window)
    kept.flush()
    said = llama_cpp.llama_print_system_info().decode()
    print(json.dumps({"version": llama_cpp.__version__, "build": " ".join(said.split())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
