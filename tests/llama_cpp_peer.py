"""llama.cpp as a peer, in whatever Python has `llama_cpp`: logits, states and ids of small GGUF files.

`LLAMA_CPP_PYTHON` names that Python; without it, this one is taken where it has the package. This file is also the
script that the other Python runs, and so imports nothing of the project: jobs come as JSON, arrays go as .npz.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIABLE = "LLAMA_CPP_PYTHON"
F32, F16 = 0, 1
"""ggml's numbers of the types of the cache."""


@dataclass(frozen=True)
class Job:
    """What to ask of one file.

    Attributes:
        path: the GGUF.
        ids: sequences, each run alone from position 0; without any, no tensor is looked at.
        texts: what to cut into ids.
        states: the hidden states of an encoder instead of logits.
        cache: the type of keys and values.
        context: how many positions the context has.
    """

    path: Path
    ids: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    states: bool = False
    cache: int = F32
    context: int = 64


@dataclass(frozen=True)
class Answer:
    """What llama.cpp made of a job.

    Attributes:
        error: why the file does not load; "" where it does.
        outputs: logits (T, V) or states (T, D), float32, one for each sequence.
        ids: of each text.
    """

    error: str
    outputs: list[NDArray[np.float32]]
    ids: list[list[int]]


def python() -> str | None:
    """The Python that has `llama_cpp`, or None."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    return sys.executable if importlib.util.find_spec("llama_cpp") is not None else None


def ask(jobs: Iterable[Job]) -> list[Answer]:
    """Run the jobs, one after another, in one process with one thread.

    Raises:
        RuntimeError: the process ends badly; with what it wrote last.
    """
    listed = [vars(job) | {"path": str(job.path)} for job in jobs]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.npz"
        command = [str(python()), __file__, str(out)]
        done = subprocess.run(command, input=json.dumps(listed), text=True, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"llama.cpp ended with {done.returncode}: {done.stderr[-2000:]}")
        with np.load(out) as arrays:
            found = dict(arrays)
    return [_answer(number, found) for number in range(len(listed))]


def _answer(number: int, found: Mapping[str, NDArray[Any]]) -> Answer:
    def each(kind: str) -> list[NDArray[Any]]:
        count = sum(key.startswith(f"{number}.{kind}.") for key in found)
        return [found[f"{number}.{kind}.{index}"] for index in range(count)]

    return Answer(str(found[f"{number}.error"]), each("output"), [ids.tolist() for ids in each("ids")])


def _run(job: dict[str, Any]) -> dict[str, Any]:
    """One job, in the Python that has the package."""
    import llama_cpp as lc

    errors: list[str] = []
    report = lc.llama_log_callback(lambda level, text, _: errors.append(text.decode()) if level >= 4 else None)
    lc.llama_log_set(report, None)
    params = lc.llama_model_default_params()
    params.n_gpu_layers, params.use_mmap, params.vocab_only = 0, True, not job["ids"]
    model = lc.llama_load_model_from_file(job["path"].encode(), params)
    if not model:
        return {"error": "".join(errors).strip() or "not loaded"}
    found: dict[str, Any] = {"error": ""}
    vocabulary = lc.llama_model_get_vocab(model)
    for index, text in enumerate(job["texts"]):
        raw, room = text.encode(), (lc.llama_token * 4096)()
        count = lc.llama_tokenize(vocabulary, raw, len(raw), room, 4096, True, True)
        found[f"ids.{index}"] = np.array(room[:count], dtype=np.int64)
    for index, ids in enumerate(job["ids"]):
        found[f"output.{index}"] = _outputs(lc, model, vocabulary, ids, job)
    lc.llama_model_free(model)
    return found


def _outputs(lc: Any, model: Any, vocabulary: Any, ids: list[int], job: dict[str, Any]) -> NDArray[np.float32]:
    params = lc.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = job["context"]
    params.n_threads = params.n_threads_batch = 1
    params.type_k = params.type_v = job["cache"]
    params.flash_attn_type = 0
    params.swa_full = True
    params.embeddings, params.pooling_type = job["states"], 0
    context = lc.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError(f"{job['path']}: no context")
    batch = lc.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for place, token in enumerate(ids):
        batch.token[place], batch.pos[place] = token, place
        batch.n_seq_id[place], batch.seq_id[place][0], batch.logits[place] = 1, 0, 1
    if lc.llama_decode(context, batch):
        raise RuntimeError(f"{job['path']}: not decoded")
    width = lc.llama_model_n_embd(model) if job["states"] else lc.llama_vocab_n_tokens(vocabulary)
    row = lc.llama_get_embeddings_ith if job["states"] else lc.llama_get_logits_ith
    rows = [np.ctypeslib.as_array(row(context, place), shape=(width,)).copy() for place in range(len(ids))]
    lc.llama_batch_free(batch)
    lc.llama_free(context)
    return np.stack(rows)


if __name__ == "__main__":
    arrays = {
        f"{number}.{key}": value
        for number, job in enumerate(json.load(sys.stdin))
        for key, value in _run(job).items()
    }  # fmt: skip
    np.savez(sys.argv[1], **arrays)
