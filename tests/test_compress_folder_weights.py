"""Matrices quantised alone for folders: which, into what, and what a folder could not hold is said beforehand."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_cases as cases
import numpy as np
import pytest
from golden_cases import GOLDEN
from packed_checkpoints import bnb4_packer, write
from planted import mutated
from tiny_models import load

import lepton_ref
from lepton_ref.cli_quantise_folder import FOLDERS
from lepton_ref.compress import folder_weights as page
from lepton_ref.compress.folder_weights import kind_of, layer_matrices, quantise_matrices, require_packable
from lepton_ref.compress.quantise import quantise_weight
from lepton_ref.compress.to_folder import FORMATS, write_folder
from lepton_ref.storage import Weight
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.bnb4 import BitsAndBytes4
from lepton_ref.storage.fp8 import FP8

TINY = GOLDEN / "tiny"


@pytest.fixture
def model(tmp_path: Path) -> lepton_ref.Model:
    return load(cases.llama(tmp_path / "source"))


@pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2", "bert", "phi3"])
def test_the_matrices_of_layers_are_quantised_and_no_other(name: str) -> None:
    model = load(TINY / name)
    found = layer_matrices(model.program)
    assert len(found) == len(set(found)) > 0
    linear = {op.weights["w"] for op in model.program.ops if op.kind == "linear"}
    assert set(found) == {weight for weight in linear if weight.startswith("layers.")}
    assert "head.weight" not in found
    assert "embed.weight" not in found


@pytest.mark.parametrize("method", ["rtn", "hqq"])
@pytest.mark.parametrize("format_", ["int4-g32", "int8", "int3-g16-fp32"])
def test_a_grid(format_: str, method: str, model: lepton_ref.Model) -> None:
    found = quantise_matrices(model, format_, method=method)
    for name, weight in found.items():
        assert isinstance(weight, Affine)
        coded = quantise_weight(model.parts.weights[name].decode(), format_, method=method).coded
        assert coded is not None
        assert np.array_equal(weight.unrounded(np.arange(len(coded.codes))), coded.decode())
    assert list(found) == layer_matrices(model.program)


KINDS: list[tuple[str, type, dict[str, Any]]] = [
    ("fp8", FP8, {"tile": (1, 64)}),
    ("fp8-channel", FP8, {"tile": (1, 64)}),
    ("fp8-tensor", FP8, {"tile": (64, 64)}),
    ("fp8-32x16", FP8, {"tile": (32, 16)}),
    ("nf4", BitsAndBytes4, {"blocksize": 64}),
    ("nf4-128", BitsAndBytes4, {"blocksize": 128}),
]


@pytest.mark.parametrize(("format_", "kind", "wanted"), KINDS)
def test_what_is_no_grid(format_: str, kind: type, wanted: Mapping[str, Any], model: lepton_ref.Model) -> None:
    name = "layers.0.attn.q.weight"
    found = quantise_matrices(model, format_, names=[name])
    assert list(found) == [name]
    assert isinstance(found[name], kind)
    assert {key: getattr(found[name], key) for key in wanted} == wanted
    exact = model.parts.weights[name].decode()
    assert 0 < np.abs(found[name].decode() - exact).max() < np.abs(exact).max() / 6


def test_names_are_worked_through_one_by_one(model: lepton_ref.Model) -> None:
    seen: list[str] = []

    def shown(names: list[str]) -> Any:
        for name in names:
            seen.append(name)
            yield name

    quantise_matrices(model, "int4-g32", progress=shown)
    assert seen == layer_matrices(model.program)


# --- what could not be held -------------------------------------------------------------------------------------------

SAYABLE = [
    ("int4-g32", "compressed-tensors"), ("int4-g32", "gptq_v2"), ("int4-g32", "awq"), ("int3-g32-sym", "gptq"),
    ("int8-fp32", "compressed-tensors"), ("int5-g16-bf16", "compressed-tensors"), ("fp8", "compressed-tensors"),
    ("fp8-32x32", "fp8"), ("fp8-32x32", "compressed-tensors"), ("nf4", "bitsandbytes"), ("nf4-32", "bitsandbytes"),
]  # fmt: skip


@pytest.mark.parametrize(("format_", "folder"), SAYABLE)
def test_what_is_said_to_be_held_is(format_: str, folder: str, tmp_path: Path, model: lepton_ref.Model) -> None:
    require_packable(model, format_, folder)
    found = quantise_matrices(model, format_)
    write_folder(model, found, tmp_path / "out", format=folder)
    again = load(tmp_path / "out")
    assert cases.forward(again) == cases.forward(cases.with_weights(model, found)) != cases.forward(model)


REFUSED = [
    ("int3-g32", "awq", "model.layers.0.self_attn.q_proj has 3 bits; awq has 4"),
    ("int4-g32-fp32", "gptq_v2", "model.layers.0.self_attn.q_proj has scales in F32; engines of gptq_v2 hold them in"),
    (
        "int4-g64",
        "awq",
        "layers.0.mlp.down.weight: rows of 96 are no whole groups of 64; take a divisor, or one scale a row, such",
    ),
    (
        "int4-g32",
        "gptq",
        "gptq has no zero point of 0, which int4-g32 may need; take gptq_v2, or a symmetric grid: -sym",
    ),
    ("int4-g32", "fp8", "model.layers.0.self_attn.q_proj is kept as UINT4; FP8 in E4M3FN is written: encode it so"),
    ("fp8", "gptq", "model.layers.0.self_attn.q_proj is kept as FP8_E4M3FN; integers with scales are packed"),
    ("fp8", "bitsandbytes", "model.layers.0.self_attn.q_proj is kept as FP8_E4M3FN; NF4 or FP4 is written: encode it"),
    ("nf4", "compressed-tensors", "model.layers.0.self_attn.q_proj is kept as NF4; integers with scales are packed"),
    ("fp8", "fp8", "model.layers.0.mlp.down_proj has tiles of (1, 96), not (1, 64); fp8 says them once for all"),
    ("nf4-48", "bitsandbytes", "nf4-48: blocks of 48; bitsandbytes has 32, 64, 128, 256, 512, 1024, 2048, 4096"),
    ("Q4_K", "gptq", "unknown format of matrices 'Q4_K'; give a grid such as int4-g64, or fp8-128x128, or nf4"),
    (
        "int4-g32",
        "exl2",
        "unknown format of folders 'exl2'; known: gptq, gptq_v2, awq, compressed-tensors, fp8, bitsand",
    ),
]


@pytest.mark.parametrize(("format_", "folder", "message"), REFUSED)
def test_what_is_not_is_said_before_anything_is_computed(
    format_: str, folder: str, message: str, model: lepton_ref.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "quantise_weight", None)
    monkeypatch.setattr(page, "encode_fp8", None)
    monkeypatch.setattr(page, "encode_nf4", None)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        require_packable(model, format_, folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("format_", "folder"), [("fp8", "compressed-tensors"), ("nf4", "bitsandbytes")])
def test_matrices_that_are_one_in_the_file_take_integers_alone(format_: str, folder: str) -> None:
    kept = {"fp8": "FP8_E4M3FN", "nf4": "NF4"}[format_]
    message = (
        f"model.layers.0.mlp.gate_up_proj.weight: joins several matrices, kept as {kept}; "
        "joined ones take integers alone: a grid such as int4-g64, or leave them dense"
    )
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        require_packable(load(TINY / "phi3"), format_, folder)
    assert "\n" not in str(error.value)


def test_the_command_knows_every_folder() -> None:
    assert sorted(FOLDERS) == sorted(FORMATS)


def test_blanks_have_the_shape_and_take_little_memory() -> None:
    tracemalloc.start()
    try:
        for format_ in ("int4-g64", "int3-fp32", "fp8-128x128", "fp8", "nf4"):
            weight = kind_of(format_).blank((1 << 14, 1 << 12))
            assert weight.shape == (1 << 14, 1 << 12)
            assert weight.take(np.array([5])).shape == (1, 1 << 12)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20, "half of what 4 bits take"
    finally:
        tracemalloc.stop()


def test_a_blank_of_another_layout_would_be_found(tmp_path: Path, model: lepton_ref.Model) -> None:
    wrong = mutated(page, "_ones(count, STORED[grid.stored])", '_ones(count, "F16")')
    with pytest.raises(ValueError, match="has scales in F32"):
        require_packable(model, "int4-g32-fp32", "awq")
    wrong.require_packable(model, "int4-g32-fp32", "awq")
    with pytest.raises(ValueError, match="has scales in F32"):
        write_folder(model, quantise_matrices(model, "int4-g32-fp32"), tmp_path / "out", format="awq")


def test_what_a_format_has_no_method_for_is_refused(model: lepton_ref.Model) -> None:
    with pytest.raises(ValueError, match="int4-g32 has no method 'gptq' without activations; known: rtn, hqq"):
        quantise_matrices(model, "int4-g32", method="gptq")
    with pytest.raises(ValueError, match="nf4 has no method 'hqq' without activations; known: rtn"):
        quantise_matrices(model, "nf4", method="hqq")
    with pytest.raises(ValueError, match=r"layers.0.mlp.down.weight: rows of 96 are no whole groups of 64"):
        quantise_matrices(model, "int4-g64")
    with pytest.raises(ValueError, match="unknown format of matrices 'int9'"):
        quantise_matrices(model, "int9")


# --- bitsandbytes' folders --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_a_folder_of_bitsandbytes_is_written_again(kind: str, nested: bool, tmp_path: Path) -> None:
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    source, _ = write(tmp_path / "source", bnb4_packer(kind, nested=nested), config)
    model = load(source)
    written = write_folder(model, {}, tmp_path / "out", format="bitsandbytes")
    again = load(tmp_path / "out")
    assert again.forward([[3, 4, 5]]).tobytes() == model.forward([[3, 4, 5]]).tobytes()
    assert again.parts.fields["quantization_config"]["bnb_4bit_use_double_quant"] is nested
    assert written.notes, "rows of 24 are no whole blocks"


def test_kinds_are_not_mixed(tmp_path: Path, model: lepton_ref.Model) -> None:
    found: dict[str, Weight] = {**quantise_matrices(model, "nf4")}
    name = "layers.1.mlp.down.weight"
    one = found[name]
    assert isinstance(one, BitsAndBytes4)
    found[name] = BitsAndBytes4(one.packed, one.absmax, shape=one.shape, kind="fp4")
    with pytest.raises(ValueError, match=r"model.layers.1.mlp.down_proj is FP4, not NF4; bitsandbytes says it once"):
        write_folder(model, found, tmp_path / "out", format="bitsandbytes")
