"""Matrices in blocks as a GGUF has them: the bytes are those of encoding the file's own tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import golden_cases
import numpy as np
import pytest
from planted import mutated
from tiny_models import load
from wide_model import wide_gguf

import lepton_ref
from lepton_ref.compress import ready as page
from lepton_ref.compress.ready import gguf_tensors
from lepton_ref.compress.to_gguf import to_gguf
from lepton_ref.files import read_folder, read_gguf
from lepton_ref.storage import FORMATS, BlockQuantised, Weight, encode

TINY = golden_cases.GOLDEN / "tiny"


def in_blocks(model: lepton_ref.Model, names: Callable[[str], bool] = lambda name: True) -> dict[str, Weight]:
    """The matrices of layers whose rows are whole blocks of 32, in Q8_0."""
    return {
        name: BlockQuantised(encode("Q8_0", model.parts.weights[name].decode()), format=FORMATS["Q8_0"])
        for name, shape in model.program.weights.items()
        if len(shape) == 2 and shape[1] % 32 == 0 and name.startswith("layers.") and names(name)
    }


def as_in_the_file(page: ModuleType, model: lepton_ref.Model, tensors: Mapping[str, Weight]) -> bool:
    found = page.gguf_tensors(model, in_blocks(model))
    wanted = {
        name: encode("Q8_0", tensors[name].decode())
        for name in tensors
        if name.startswith("blk.") and len(tensors[name].shape) == 2 and tensors[name].shape[1] % 32 == 0
    }
    return set(found) == set(wanted) and all(np.array_equal(found[name].raw, raw) for name, raw in wanted.items())


def test_rows_of_a_llama_go_back_to_the_files_order(tmp_path: Path) -> None:
    path = wide_gguf(tmp_path / "in.gguf")
    assert as_in_the_file(page, lepton_ref.load(path), read_gguf(path).tensors)
    wrong = mutated(page, "raw[place] = weight.raw", "raw[:] = weight.raw")
    assert not as_in_the_file(wrong, lepton_ref.load(path), read_gguf(path).tensors)


@pytest.mark.parametrize("name", ["phi3", "gpt_neox", "mistral_full"])
def test_a_folders_parts_are_put_together_as_its_gguf_has_them(name: str) -> None:
    if name == "mistral_full":  # rows of 24 and 40, and of 32 from the heads
        assert set(in_blocks(load(TINY / name))) == {"layers.0.attn.o.weight", "layers.1.attn.o.weight"}
    assert as_in_the_file(page, load(TINY / name), to_gguf(read_folder(TINY / name)).tensors)


def alone(model: lepton_ref.Model) -> object:
    return gguf_tensors(model, in_blocks(model, lambda name: name.endswith("attn.q.weight")))


def mixed(model: lepton_ref.Model) -> object:
    found = in_blocks(model)
    k = "layers.0.attn.k.weight"
    found[k] = BlockQuantised(encode("Q4_0", model.parts.weights[k].decode()), format=FORMATS["Q4_0"])
    return gguf_tensors(model, found)


def dense(model: lepton_ref.Model) -> object:
    name = "layers.0.attn.q.weight"
    return gguf_tensors(model, {name: model.parts.weights[name]})


BAD: list[tuple[Callable[[lepton_ref.Model], object], str]] = [
    (alone, "blk.0.attn_qkv.weight holds layers.0.attn.k.weight too; quantise all that it holds"),
    (mixed, "in Q4_0, Q8_0; give all of them one format"),
    (dense, "layers.0.attn.q.weight is F32, which GGUF does not have; quantise to blocks"),
]


@pytest.mark.parametrize(("call", "text"), BAD, ids=[text for _, text in BAD])
def test_bad_input_gets_one_clear_line(call: Callable[[lepton_ref.Model], object], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        call(load(TINY / "phi3"))
    assert "\n" not in str(caught.value)


def test_a_family_that_gguf_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="GGUF has no names for OPT"):
        gguf_tensors(load(TINY / "opt"), {})
