"""`quantize --method gptq`: the bytes are GPTQ's, the manifest tells, refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from wide_model import wide_gguf

import lepton_ref
from lepton_ref.compress.calibration import calibrate
from lepton_ref.compress.manifest import MANIFEST
from lepton_ref.compress.quantise_file import plan
from lepton_ref.compress.ready import by_gptq
from lepton_ref.compress.recipe import Recipe
from lepton_ref.files import read_gguf
from lepton_ref.storage import BlockQuantised

Told = Callable[..., tuple[int, str, str]]
PAGE = "hello abc, said the cab and went. " * 12


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "page.txt").write_text(PAGE, encoding="utf-8")
    return tmp_path / "page.txt"


def test_a_files_layers_are_gptqs(told: Told, page: Path, tmp_path: Path) -> None:
    path, out = wide_gguf(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    words = ("--format", "Q3_K", "--calibrate", page, "--tokens", 64, "--length", 32)
    assert told("quantize", path, out, *words, "--method", "gptq")[0] == 0
    model = lepton_ref.load(path)
    seen = calibrate(model, model.tokenizer.encode(PAGE)[:64], length=32)
    ready = by_gptq(seen, plan(path, tmp_path / "new.gguf", Recipe(format="Q3_K"), importance=None))
    tensors = read_gguf(out).tensors
    for name, wanted in ready.tensors.items():
        weight = tensors[name]
        assert isinstance(weight, BlockQuantised)
        np.testing.assert_array_equal(weight.raw, wanted.raw)
    manifest = json.loads(read_gguf(out).metadata[MANIFEST])
    assert manifest["ready"] == {**ready.record, "tensors": sorted(ready.tensors)}
    assert manifest["importance"]["calibration"] == seen.record()
    assert told("quantize", path, tmp_path / "again.gguf", *words, "--method", "gptq", "--threads", 3)[0] == 0
    assert (tmp_path / "again.gguf").read_bytes() == out.read_bytes()
    assert told("quantize", path, tmp_path / "plain.gguf", *words, "--method", "rtn")[0] == 0
    assert (tmp_path / "plain.gguf").read_bytes() != out.read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("Q4_0 --method best", "unknown method 'best'; known: rtn, gptq"),
        ("Q4_0 --method gptq", "gptq looks at what the layers of IN are given; give a text: --calibrate TEXT_FILE"),
        ("Q4_0 --method gptq --calibrate PAGE --calibrate-model x", "TEXT_FILE, without --calibrate-model"),
        ("IQ3_S --method gptq --calibrate PAGE", "no tensor becomes a format that GPTQ is for"),
    ],
)
def test_what_gptq_cannot_do_is_told(words: str, message: str, told: Told, page: Path, tmp_path: Path) -> None:
    path = wide_gguf(tmp_path / "in.gguf")
    given = [str(page) if word == "PAGE" else word for word in words.split()]
    code, _, error = told("quantize", path, tmp_path / "out.gguf", "--format", *given)
    assert code != 0
    assert re.search(re.escape(message), error)
    assert not (tmp_path / "out.gguf").exists()
