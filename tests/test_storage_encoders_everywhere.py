"""The bytes of every encoder here are those of other machines: no vector unit, thread or neighbour changes one."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lepton_ref.storage import encode
from lepton_ref.storage.encoders import k_symmetric

FORMATS = (
    "Q1_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q8_K", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q2_0",
)  # fmt: skip
WEIGHTED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
EXPECTED = "0a476d8ef5593e3bf7480040fdbe674ad102b5840924f964caa8dd72c90b1501"
"""SHA-256 of all the bytes below. Another search gives another: that is a change of every file that is made."""

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from test_storage_encoders_everywhere import digest
print(digest())
"""


def numbers() -> tuple[np.ndarray, np.ndarray]:
    """`(96, 256)` numbers and weights that need no random generator's stream and no function of libm's."""
    steps = np.arange(96 * 256, dtype=np.uint64)
    mixed = (steps * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)) * np.uint64(2862933555777941757)
    parts = [((mixed >> np.uint64(shift)) & np.uint64(0xFFF)).astype(np.float32) / 4096 for shift in (16, 28, 40, 52)]
    x = parts[0] + parts[1] + parts[2] - np.float32(1.5)
    return x.reshape(96, 256), (parts[3] * parts[3]).reshape(96, 256)


def digest() -> str:
    """The hash of the bytes of all formats, with weights and without."""
    x, weights = numbers()
    found = hashlib.sha256()
    for name in FORMATS:
        found.update(encode(name, x).tobytes())
    for name in WEIGHTED:
        found.update(encode(name, x, weights=weights).tobytes())
    return found.hexdigest()


def test_the_bytes_are_those_of_other_machines() -> None:
    assert digest() == EXPECTED


def test_another_search_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(k_symmetric, "ROUNDS", 1)
    assert digest() != EXPECTED


def test_vector_units_change_nothing() -> None:
    optional = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])  # type: ignore[call-overload]
    if not optional:
        pytest.skip("NumPy uses nothing optional of this processor")
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(optional)}
    command = [sys.executable, "-c", PROGRAM, os.path.dirname(__file__)]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == EXPECTED


@pytest.mark.parametrize("name", WEIGHTED)
def test_threads_change_nothing(name: str) -> None:
    x, weights = numbers()
    whole = encode(name, x, weights=weights)
    with ThreadPoolExecutor(4) as pool:
        pieces = pool.map(lambda at: encode(name, x[at : at + 7], weights=weights[at : at + 7]), range(0, 96, 7))
        assert np.array_equal(np.concatenate(list(pieces)), whole)
