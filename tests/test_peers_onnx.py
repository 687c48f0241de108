"""Llama as a graph for onnxruntime: blocks of 4 bits, and where it is installed, the same logits as ours."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated
from real_models import smollm2

import lepton_ref

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))
TINY = ROOT / "golden" / "tiny"

onnx_graph = importlib.import_module("peers_onnx")


def decoded(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The definition, number by number."""
    rows, blocks, half = codes.shape
    out = np.zeros((rows, blocks * 2 * half))
    for row in range(rows):
        for block in range(blocks):
            for place in range(2 * half):
                nibble = int(codes[row, block, place // 2]) >> 4 * (place % 2) & 15
                out[row, block * 32 + place] = (nibble - 8) * float(scales[row * blocks + block])
    return out


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3))
def test_blocks_are_the_nearest_multiples_of_their_scales(seed: int, rows: int, blocks: int) -> None:
    w = np.random.default_rng(seed).standard_normal((rows, 32 * blocks)).astype(np.float32)
    codes, scales = onnx_graph.int4_blocks(w)
    error = np.abs(decoded(codes, scales) - w).reshape(rows, blocks, 32)
    half = scales.reshape(rows, blocks, 1).astype(np.float64) / 2
    assert (error <= half * (1 + 2**-20)).all()  # half a step; the quotient was rounded to float32


def test_swapped_nibbles_are_found() -> None:
    wrong = mutated(onnx_graph, "codes[..., 0::2] | codes[..., 1::2] << 4", "codes[..., 1::2] | codes[..., 0::2] << 4")
    w = np.random.default_rng(0).standard_normal((1, 32)).astype(np.float32)
    step = np.abs(w).max() / 7
    assert (
        np.abs(decoded(*onnx_graph.int4_blocks(w)) - w).max() <= step < np.abs(decoded(*wrong.int4_blocks(w)) - w).max()
    )


def test_a_block_of_zeros_stays_zeros() -> None:
    codes, scales = onnx_graph.int4_blocks(np.zeros((1, 32), dtype=np.float32))
    assert not decoded(codes, scales).any()


def test_rows_that_are_no_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of 33 are no whole blocks of 32"):
        onnx_graph.int4_blocks(np.zeros((1, 33), dtype=np.float32))


def test_another_family_is_refused() -> None:
    with pytest.raises(ValueError, match="written for a plain Llama, not for this Qwen3ForCausalLM"):
        onnx_graph.llama(lepton_ref.load(TINY / "qwen3").parts, "float32")


@pytest.mark.slow
def test_onnxruntime_gives_our_tokens() -> None:
    pytest.importorskip("onnxruntime", exc_type=ImportError)
    engines = importlib.import_module("peers_engines")
    path, ids = str(smollm2()), list(range(1000, 1016))
    ours = engines.Ours(path, None, {"precision": "reference"})
    theirs = onnx_graph.OnnxRuntime(path, 1, {"weights": "float32"})
    for _ in range(2):
        found = []
        for engine in (ours, theirs):
            tokens = [engine.after(ids)]
            for _ in range(6):
                tokens.append(engine.feed([tokens[-1]]))
            found.append(tokens)
        assert found[0] == found[1]
