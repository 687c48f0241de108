"""Matrices in blocks as a GGUF has them: the bytes are those of encoding the file's own tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import golden_cases
import numpy as np
import pytest
from planted import mutated
from tiny_models import load
from wide_model import wide_gguf

import lepton_ref
from lepton_ref.compress import quantise_file as file_page
from lepton_ref.compress import ready as page
from lepton_ref.compress.calibration import calibrate
from lepton_ref.compress.manifest import MANIFEST
from lepton_ref.compress.quantise_file import plan, quantise_file
from lepton_ref.compress.ready import Ready, by_gptq, gguf_tensors
from lepton_ref.compress.recipe import Recipe
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


def q8(rows: int, width: int = 256) -> BlockQuantised:
    raw = np.zeros((rows, width // 32 * 34), dtype=np.uint8)
    return BlockQuantised(raw, format=FORMATS["Q8_0"])


def made(tmp_path: Path, **how: Any) -> tuple[Path, Ready]:
    """A file's source, and its layers' matrices by GPTQ in the formats that it is to have."""
    source = wide_gguf(tmp_path / "in.gguf", words=False)
    seen = calibrate(lepton_ref.load(source), np.random.default_rng(0).integers(3, 50, 200).tolist(), length=50)
    return source, by_gptq(seen, plan(source, tmp_path / "new.gguf", RECIPE, importance=None), **how)


RECIPE = Recipe(format="Q3_K", patterns=(("*attn_v", "Q5_0"),))


def test_what_is_ready_is_written_as_it_is(tmp_path: Path) -> None:
    source, ready = made(tmp_path)
    out = tmp_path / "out.gguf"
    written = quantise_file(source, out, RECIPE, ready=ready)
    file = read_gguf(out)
    for name, weight in file.tensors.items():
        if name in ready.tensors:
            assert isinstance(weight, BlockQuantised)
            np.testing.assert_array_equal(weight.raw, ready.tensors[name].raw)
    assert {name: weight.format for name, weight in file.tensors.items()} == {
        name: choice.format for name, choice in written.choices.items()
    }
    wrong = mutated(file_page, "if name in done or format_ ==", "if format_ ==")
    wrong.quantise_file(source, tmp_path / "wrong.gguf", RECIPE, ready=ready)
    name = "blk.0.ffn_up.weight"
    wrote = read_gguf(tmp_path / "wrong.gguf").tensors[name]
    assert isinstance(wrote, BlockQuantised)
    assert not np.array_equal(wrote.raw, ready.tensors[name].raw)
    plain = quantise_file(source, tmp_path / "plain.gguf", RECIPE)
    other = read_gguf(plain.path).tensors
    same = {name for name in other if np.array_equal(other[name].decode(), file.tensors[name].decode())}
    assert same == set(other) - set(ready.tensors)


def test_a_model_of_the_file_is_nearer_to_its_source_and_the_manifest_tells(tmp_path: Path) -> None:
    source, ready = made(tmp_path)
    fed = quantise_file(source, tmp_path / "out.gguf", RECIPE, ready=ready)
    plain = quantise_file(source, tmp_path / "plain.gguf", RECIPE)
    ids = [np.random.default_rng(1).integers(3, 50, 40).tolist()]
    want = lepton_ref.load(source).forward(ids)
    near, far = (float(np.square(lepton_ref.load(one.path).forward(ids) - want).sum()) for one in (fed, plain))
    assert near < far
    told = json.loads(read_gguf(fed.path).metadata[MANIFEST])
    assert told["ready"]["method"] == "gptq"
    assert told["ready"]["calibration"]["tokens"] == 200
    settings = {name: told["ready"][name] for name in ("sequential", "damp", "act_order", "follow", "block")}
    assert settings == {"sequential": True, "damp": 0.01, "act_order": True, "follow": False, "block": 128}
    assert told["ready"]["tensors"] == sorted(ready.tensors)
    assert "ready" not in json.loads(read_gguf(plain.path).metadata[MANIFEST])
    again = quantise_file(source, tmp_path / "again.gguf", RECIPE, ready=made(tmp_path)[1])
    assert again.path.read_bytes() == fed.path.read_bytes()


def test_what_gptq_is_not_for_is_left_to_the_encoder(tmp_path: Path) -> None:
    source, ready = made(tmp_path)
    assert {name.split(".")[2] for name in ready.tensors} == {
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"
    }  # fmt: skip
    assert ready.tensors["blk.0.attn_v.weight"].format == "Q5_0"
    seen = calibrate(lepton_ref.load(source), [3, 4, 5])
    with pytest.raises(ValueError, match="a format that GPTQ is for, but F32, IQ3_S; take Q1_0"):
        by_gptq(seen, plan(source, tmp_path / "new.gguf", Recipe(format="IQ3_S"), importance=None))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x.weight": q8(3)}, "'x.weight' (3, 256) is ready, but not in the source: no such tensor"),
        ({"blk.0.attn_v.weight": q8(3)}, "(3, 256) is ready, but not in the source: it has shape (128, 256) there"),
        ({"blk.0.attn_v.weight": q8(128)}, "is ready in Q8_0, but is to be Q5_0; quantise to what `plan` says"),
    ],
)
def test_what_is_ready_for_another_file_is_refused(
    tensors: dict[str, BlockQuantised], message: str, tmp_path: Path
) -> None:
    source = wide_gguf(tmp_path / "in.gguf", words=False)
    with pytest.raises(ValueError, match=re.escape(message)):
        quantise_file(source, tmp_path / "out.gguf", RECIPE, ready=Ready(tensors))
    assert not (tmp_path / "out.gguf").exists()


def test_a_family_that_gguf_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="GGUF has no names for OPT"):
        gguf_tensors(load(TINY / "opt"), {})
