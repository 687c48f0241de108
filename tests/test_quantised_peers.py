"""Files that `quantize` writes, as other programs read them: `gguf` decodes the same numbers, llama.cpp loads them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_models
from tiny_models import load
from wide_model import wide_gguf

from lepton_ref.compress.quantise_file import MANIFEST, quantise_file
from lepton_ref.compress.recipe import Recipe
from lepton_ref.files import read_gguf

pytestmark = pytest.mark.slow

MIXTURES = ("Q4_0", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")


def peer(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed beside this Python")


def check_read_by_gguf(path: Path) -> None:
    gguf = peer("gguf")
    reader = gguf.GGUFReader(path)
    ours = read_gguf(path)
    assert [tensor.name for tensor in reader.tensors] == list(ours.tensors)
    for tensor in reader.tensors:
        weight = ours.tensors[tensor.name]
        assert tensor.tensor_type.name == weight.format
        theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(np.asarray(theirs, dtype=np.float32).reshape(weight.shape), weight.decode())
    assert reader.fields[MANIFEST].contents() == ours.metadata[MANIFEST]


@pytest.mark.parametrize("mixture", MIXTURES)
def test_gguf_reads_the_same_numbers(mixture: str, tmp_path: Path) -> None:
    quantise_file(wide_gguf(tmp_path / "in.gguf", 2), tmp_path / "out.gguf", Recipe(mixture=mixture))
    check_read_by_gguf(tmp_path / "out.gguf")


@pytest.mark.parametrize("mixture", MIXTURES)
def test_llama_cpp_loads_it(mixture: str, tmp_path: Path) -> None:
    llama_cpp = peer("llama_cpp")
    quantise_file(real_models.smollm2(), tmp_path / "out.gguf", Recipe(mixture=mixture), threads=2)
    model = llama_cpp.Llama(str(tmp_path / "out.gguf"), n_ctx=64, verbose=False, logits_all=True)
    ids = [504, 3575, 282, 4649, 314]
    model.eval(ids)
    theirs = np.array(model.scores[: len(ids)])
    ours = load(tmp_path / "out.gguf").forward([ids])[0]
    assert (theirs.argmax(axis=-1) == ours.argmax(axis=-1)).all()


def test_a_real_model_is_quantised_in_a_minute_and_runs(tmp_path: Path) -> None:
    source, target = real_models.smollm2(), tmp_path / "out.gguf"
    begin = time.perf_counter()
    quantise_file(source, target, Recipe(format="Q4_K"), threads=2)
    assert time.perf_counter() - begin < 60
    check_read_by_gguf(target)
    ids = [[504, 3575, 282, 4649, 314]]
    before, after = load(source).forward(ids)[0, -1], load(target).forward(ids)[0, -1]
    assert before.argmax() == after.argmax()
