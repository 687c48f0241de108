"""How fast each block format is decoded, beside `gguf.quants.dequantize`, interleaved in one run.

Each round decodes the same random bytes of one format with both, one after the other, so that a disturbance meets both;
each figure is the median over the rounds. The project's target is at least half the speed of gguf's decoder.

    python asv_bench/storage_decode.py [--rounds 9] [--elements 4194304] [--formats Q4_K,Q6_K]

One thread; NumPy alone on our side. Without the package gguf, which `pip install gguf` brings, our column stands alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lepton_ref.storage import FORMATS

TARGET = 0.5
"""The least speed, as a share of gguf's."""

WIDTH = 4096
"""Elements of a row: gguf decodes sixteen rows at a time."""


def theirs(name: str) -> Callable[[Any], Any] | None:
    """The package's decoder of this format, where there is one."""
    try:
        gguf: Any = importlib.import_module("gguf")
    except ModuleNotFoundError:
        return None
    kind = getattr(gguf.GGMLQuantizationType, name, None)
    if kind is None:
        return None
    try:
        gguf.quants.dequantize(np.zeros((1, FORMATS[name].nbytes), dtype=np.uint8), kind)
    except (NotImplementedError, ValueError):
        return None
    return lambda raw: gguf.quants.dequantize(raw, kind)


def measure(name: str, elements: int, rounds: int) -> tuple[float, float | None]:
    """Median seconds of our decoder and of gguf's, of about so many elements."""
    block = FORMATS[name]
    rows = max(1, elements // WIDTH)
    raw = np.random.default_rng(0).integers(0, 256, (rows, WIDTH // block.length * block.nbytes), dtype=np.uint8)
    decoders = [block.values, other] if (other := theirs(name)) is not None else [block.values]
    seconds: list[list[float]] = [[] for _ in decoders]
    with np.errstate(all="ignore"):
        for _ in range(rounds + 1):  # the first warms up
            for decoder, times in zip(decoders, seconds, strict=True):
                start = time.perf_counter()
                decoder(raw)
                times.append(time.perf_counter() - start)
    medians = [statistics.median(times[1:]) for times in seconds]
    return medians[0], medians[1] if len(medians) > 1 else None


def main() -> None:
    """Print the table; fail where a format misses the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--elements", type=int, default=1 << 22)
    parser.add_argument("--formats", default=",".join(FORMATS))
    given = parser.parse_args()
    if importlib.util.find_spec("gguf") is None:
        print("gguf is not installed (pip install gguf): our speed alone")
    print(f"{os.cpu_count()} processors, NumPy {np.__version__}; {given.elements} elements, {given.rounds} rounds\n")
    print(f"{'type':9}{'ours, Melem/s':>15}{'ours, MB/s read':>17}{'gguf, Melem/s':>15}{'ratio':>8}")
    slow = []
    for name in given.formats.split(","):
        block = FORMATS[name]
        ours, other = measure(name, given.elements, given.rounds)
        count = given.elements // WIDTH * WIDTH
        line = f"{name:9}{count / ours / 1e6:15.0f}{count / block.length * block.nbytes / ours / 1e6:17.0f}"
        if other is None:
            print(f"{line}{'–':>15}{'–':>8}")
            continue
        print(f"{line}{count / other / 1e6:15.0f}{other / ours:8.2f}")
        if other / ours < TARGET:
            slow.append(name)
    if slow:
        raise SystemExit(f"below {TARGET} of gguf's speed: {', '.join(slow)}")


if __name__ == "__main__":
    main()
