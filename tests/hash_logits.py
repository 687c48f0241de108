"""The SHA-256 of logits, on whatever Python, NumPy and processor run this file; it needs NumPy and lepton_ref alone.

    python tests/hash_logits.py JOBS.json

JOBS.json (tests/bits.py writes it) lists models, their inputs and precisions. One JSON object is printed:

    where    the versions, the machine, the vector features that NumPy uses and the kernels that BLAS chose
    hashes   "model precision" → SHA-256 of what `forward` gives, as golden/README.md has it
    control  SHA-256 of results that may depend on the machine, among them each model under "float64", which promises
             nothing: were they all equal, nothing would have been varied
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lepton_ref.golden
from lepton_ref.golden import hash_goldens

GOLDEN = "golden:"
"""In a job's path: below lepton_ref.golden, wherever that is installed."""


def digest(array: NDArray[Any]) -> str:
    """SHA-256 of the array's elements, of any dtype, in C order, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()).hexdigest()


def where() -> dict[str, Any]:
    """What computes."""
    features = np.show_config(mode="dicts").get("SIMD Extensions", {})
    found = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "features": [*features.get("baseline", []), *features.get("found", [])],
        "optional": features.get("found", []),
    }
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return found
    blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return found | {"blas": [f"{pool['architecture']} x{pool['num_threads']}" for pool in blas]}


def scattered(*shape: int) -> NDArray[np.float32]:
    """Numbers in [-1, 1) that no library's generator has a hand in: multiples of 2**-23, so float32 holds them."""
    count = int(np.prod(shape))
    bits = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(2**32)
    return ((bits >> np.uint64(8)).astype(np.float64) * 2.0**-23 - 1).astype(np.float32).reshape(shape)


def control() -> dict[str, str]:
    """Ordinary results of NumPy: their bits depend on the kernels, the vector width and the mathematical library."""
    x = scattered(130, 700)
    wide = 5 * x.astype(np.float64)
    return {
        "float32 matmul": digest(x @ x.T),
        "float64 matmul": digest(wide @ wide.T),
        "float32 sum": digest(x.sum(axis=1)),
        "float64 exp": digest(np.exp(wide)),
        "float64 tanh": digest(np.tanh(wide)),
    }


def texts_digest(output: NDArray[Any], attention_mask: NDArray[np.int64] | None) -> str:
    """The hash of the texts' outputs without padding that the goldens have; of the bytes, where there can be none."""
    if output.dtype != np.float32 or np.isnan(output).any():
        return digest(output)
    if attention_mask is None:
        return hash_goldens.digest(output)
    return hash_goldens.digest(row[mask != 0] for row, mask in zip(output, attention_mask, strict=True))


def hashes(jobs: list[dict[str, Any]], *, beside: Path) -> dict[str, str]:
    """The hash for each model under each of its precisions; paths of others than goldens are below `beside`."""
    found = {}
    golden = Path(lepton_ref.golden.__path__[0])
    for job in jobs:
        path = job["path"]
        at = golden / path.removeprefix(GOLDEN) if path.startswith(GOLDEN) else beside / path
        inputs = {name: np.array(ids, dtype=np.int64) for name, ids in job["inputs"].items()}
        for precision in job["precisions"]:
            output = lepton_ref.load(at, precision=precision).forward(**inputs)
            found[f"{job['name']} {precision}"] = texts_digest(output, inputs.get("attention_mask"))
    return found


def main(arguments: list[str]) -> None:
    """Print the report on the jobs."""
    path = Path(arguments[0])
    jobs = json.loads(path.read_text(encoding="utf-8"))
    unproven = hashes([{**job, "precisions": ["float64"]} for job in jobs], beside=path.parent)
    report = {"where": where(), "hashes": hashes(jobs, beside=path.parent), "control": control() | unproven}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
