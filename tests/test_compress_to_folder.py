"""Folders of quantised models: what is loaded is what was given, complete or not at all, with a manifest."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import folder_cases as cases
import numpy as np
import pytest
from golden_cases import GOLDEN
from packed_checkpoints import gptq_packer, write
from planted import mutated
from tiny_models import changed, f32, llama_gguf, load, write_stored

import lepton_ref
from lepton_ref.compress import folder_plan, packing_gptq
from lepton_ref.compress import to_folder as page
from lepton_ref.compress.calibration import calibrate
from lepton_ref.compress.layers import quantise_layers
from lepton_ref.compress.manifest import MANIFEST
from lepton_ref.compress.packing import Matrices, Packing
from lepton_ref.compress.to_folder import FORMATS, write_folder
from lepton_ref.files import read_safetensors, write_safetensors
from lepton_ref.storage import DENSE_FORMATS, Dense, Weight
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.awq import AWQ
from lepton_ref.storage.encoders.affine import AffineScheme
from lepton_ref.storage.encoders.fp8 import FP8Scheme, encode_fp8
from lepton_ref.storage.gptq import GPTQ

TINY = GOLDEN / "tiny"
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def model(tmp_path: Path) -> lepton_ref.Model:
    return load(cases.llama(tmp_path / "source"))


def check(model: lepton_ref.Model, weights: Mapping[str, Weight], target: Path, format: str) -> lepton_ref.Model:
    """Written, loaded, and the same weights and logits as in memory."""
    written = write_folder(model, weights, target, format=format)
    again, wanted = load(target, keep_decoded=False), cases.with_weights(model, weights)
    for name, weight in wanted.parts.weights.items():
        found = again.parts.weights[name]
        assert np.array_equal(found.decode().view(np.uint32), weight.decode().view(np.uint32)), name
    ids = [[3, 9, 22, 5, 14, 8, 1]]
    assert again.forward(ids).tobytes() == wanted.forward(ids).tobytes()
    assert again.forward(ids).tobytes() != model.forward(ids).tobytes()
    assert written.packed
    for name, weight in weights.items():
        assert (again.parts.weights[name].format in DENSE_FORMATS) == (weight.format in DENSE_FORMATS), name
    return again


# --- round trips ------------------------------------------------------------------------------------------------------


METHODS = [("rtn", "gptq_v2"), ("gptq", "gptq"), ("gptq", "compressed-tensors"), ("awq", "awq"), ("hqq", "awq")]


@pytest.mark.parametrize(("method", "format_"), METHODS)
def test_what_a_method_finds_is_loaded_again(
    method: str, format_: str, tmp_path: Path, model: lepton_ref.Model
) -> None:
    wanted = "layers.0.mlp" if method == "awq" else "layers."  # the search takes seconds
    found = quantise_layers(cases.seen(model), "int4-g32", method=method, only=lambda name: name.startswith(wanted))
    check(model, found, tmp_path / "out", format_)


@pytest.mark.parametrize("per", ["channel", 32])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("format_", ["gptq", "gptq_v2"])
def test_every_width_of_gptq(
    bits: int, symmetric: bool, per: Any, format_: str, tmp_path: Path, model: lepton_ref.Model
) -> None:
    scheme = AffineScheme(bits, symmetric, per=per, scale_format="F16")
    again = check(model, cases.encoded(model, scheme), tmp_path / "out", format_)
    weight = again.parts.weights["layers.0.mlp.down.weight"]
    assert isinstance(weight, GPTQ)
    assert (weight.bits, weight.version) == (bits, 1 if format_ == "gptq" else 2)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert (config["group_size"], config["sym"]) == (-1 if per == "channel" else 32, symmetric)


@pytest.mark.parametrize("per", ["tensor", "channel", 16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_every_strategy_of_compressed_tensors_and_the_head_too(
    bits: int, symmetric: bool, per: Any, tmp_path: Path, model: lepton_ref.Model
) -> None:
    check(model, cases.encoded(model, AffineScheme(bits, symmetric, per=per), head=True), tmp_path / "out", NAMED)


NAMED = "compressed-tensors"


@pytest.mark.parametrize("format_", [NAMED, "fp8"])
def test_fp8(format_: str, tmp_path: Path, model: lepton_ref.Model) -> None:
    scheme = FP8Scheme(per=(32, 32))
    weights: dict[str, Weight] = {
        name: encode_fp8(weight.decode(), scheme=scheme)
        for name, weight in model.parts.weights.items()
        if cases.of_layers(name) and "norm" not in name
    }
    check(model, weights, tmp_path / "out", format_)


FAMILIES = [(name, "rtn") for name in ("llama", "llama_bare", "llama_sharded", "llama_tied", "gpt_neox", "qwen3")]


@pytest.mark.parametrize(("name", "method"), [*FAMILIES, ("phi3", "awq")])
def test_other_families_and_files(name: str, method: str, tmp_path: Path) -> None:
    model = load(TINY / name)
    found = quantise_layers(calibrate(model, cases.IDS[:20], length=20), "int4-g4", method=method)
    check(model, found, tmp_path / "out", NAMED)


def test_a_conv1d_is_packed_upright_and_joined(tmp_path: Path) -> None:
    model = load(TINY / "gpt2")
    found = quantise_layers(calibrate(model, cases.IDS[:20], length=20), "int8", method="awq")
    check(model, found, tmp_path / "out", "gptq_v2")


def test_weights_of_a_model_are_taken_as_they_are_stored(tmp_path: Path, model: lepton_ref.Model) -> None:
    write_folder(model, some(model), tmp_path / "a", format="gptq_v2")
    packed = load(tmp_path / "a", keep_decoded=True)
    assert cases.forward(packed)
    write_folder(model, packed.parts.weights, tmp_path / "b", format="gptq_v2")
    assert cases.forward(load(tmp_path / "b")) == cases.forward(packed)


def test_weights_of_a_joined_matrix_are_taken_as_they_are_stored(tmp_path: Path) -> None:
    model = load(TINY / "phi3")
    found = quantise_layers(calibrate(model, cases.IDS[:20], length=20), "int4-g4", method="rtn")
    dense = {name: weight for name, weight in model.parts.weights.items() if name not in found}
    packed = check(model, {**found, **dense}, tmp_path / "a", NAMED)
    write_folder(packed, packed.parts.weights, tmp_path / "b", format=NAMED)
    assert cases.forward(load(tmp_path / "b")) == cases.forward(packed)


def test_some_matrices_stay_dense(tmp_path: Path, model: lepton_ref.Model) -> None:
    found = quantise_layers(cases.seen(model), "int4-g32", method="rtn", only=lambda name: name.endswith("up.weight"))
    written = write_folder(model, found, tmp_path / "out", format=NAMED)
    assert written.packed == ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj")
    assert len(written.dense) == 13
    check(model, found, tmp_path / "again", NAMED)


def test_the_ends_of_a_tied_model(tmp_path: Path) -> None:
    model = load(cases.llama(tmp_path / "source", tied=True))
    found = cases.encoded(model, AffineScheme(4, True, per=32, scale_format="F16"))
    for format_ in (NAMED, "awq"):
        written = write_folder(model, found, tmp_path / format_, format=format_)
        assert written.dense == ("lm_head",)
        config = json.loads((tmp_path / format_ / "config.json").read_text())["quantization_config"]
        assert config["ignore" if format_ == NAMED else "modules_to_not_convert"] == ["lm_head"]


def test_the_copy_of_a_tied_matrix_goes_where_its_original_is_changed(tmp_path: Path) -> None:
    folder = cases.llama(tmp_path / "source", tied=True)
    tensors = cases.llama_tensors(tied=True)
    write_stored(folder / "model.safetensors", {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]})
    model = load(folder)
    embed = Dense(2 * model.parts.weights["embed.weight"].decode(), format="F32")
    found = {**cases.encoded(model, AffineScheme(4, True)), "embed.weight": embed}
    again = check(model, found, tmp_path / "out", NAMED)
    assert "lm_head.weight" not in again.parts.file.tensors
    assert (
        "lm_head.weight"
        in check(model, cases.encoded(model, AffineScheme(4, True)), tmp_path / "b", NAMED).parts.file.tensors
    )


# --- from one format to another ---------------------------------------------------------------------------------------


def test_a_packed_folder_becomes_another(tmp_path: Path, model: lepton_ref.Model) -> None:
    found = cases.encoded(model, AffineScheme(4, False, per=32, scale_format="F16"))
    wanted = cases.forward(cases.with_weights(model, found))
    here = model
    for number, format_ in enumerate(["awq", "gptq_v2", NAMED, "gptq_v2", "awq"]):
        write_folder(here, found if number == 0 else {}, tmp_path / str(number), format=format_)
        here = load(tmp_path / str(number), keep_decoded=False)
        assert cases.forward(here) == wanted
    first, last = (read_safetensors(tmp_path / name) for name in "04")
    assert {n: a.tobytes() for n, a in first.integers.items()} == {n: a.tobytes() for n, a in last.integers.items()}
    assert isinstance(here.parts.weights["layers.0.attn.q.weight"], AWQ)


def test_an_order_of_groups_is_kept(tmp_path: Path) -> None:
    config = {"quant_method": "gptq", "bits": 8, "group_size": 8, "desc_act": True, "checkpoint_format": "gptq"}
    source, _ = write(tmp_path / "source", gptq_packer(8, 1, "act"), config)
    model = load(source, keep_decoded=False)
    write_folder(model, {}, tmp_path / "out", format="gptq_v2")
    again = load(tmp_path / "out", keep_decoded=False)
    assert cases.forward(again) == cases.forward(model)
    one, other = (m.parts.weights["layers.0.attn.q.weight"] for m in (model, again))
    assert isinstance(one, GPTQ)
    assert isinstance(other, GPTQ)
    assert (one.version, other.version) == (1, 2)
    assert np.array_equal(one.groups, other.groups)
    assert not np.array_equal(one.groups, np.sort(one.groups))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["desc_act"] is True
    with pytest.raises(
        ValueError, match=r"has groups in an order of their own; compressed-tensors knows none: write g"
    ):
        write_folder(model, {}, tmp_path / "other", format=NAMED)


# --- what is read back before it stands -------------------------------------------------------------------------------


def test_a_packing_that_is_wrong_never_stands(
    tmp_path: Path, model: lepton_ref.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = mutated(packing_gptq, "c.zeros.T - np.uint8(version == 1)", "c.zeros.T")

    def off_by_one(matrices: Matrices) -> Packing:
        return wrong.pack_gptq(matrices, version=1)  # type: ignore[no-any-return]

    found = cases.encoded(model, AffineScheme(4, False, per=32, scale_format="F16"))
    monkeypatch.setattr(page, "FORMATS", {**FORMATS, "gptq": off_by_one})
    with pytest.raises(RuntimeError, match=f"{Q}: what was written decodes to other numbers; report this"):
        write_folder(model, found, tmp_path / "out", format="gptq")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    careless = mutated(page, "_require_same(fresh, config, found, tensors)", "pass")
    monkeypatch.setattr(careless, "FORMATS", {**FORMATS, "gptq": off_by_one})
    careless.write_folder(model, found, tmp_path / "out", format="gptq")
    assert cases.forward(load(tmp_path / "out")) != cases.forward(cases.with_weights(model, found))


@pytest.mark.parametrize("wrong", ["other bytes", "another type", "another shape", "left out", "one more"])
def test_a_writer_that_is_wrong_never_stands(
    wrong: str, tmp_path: Path, model: lepton_ref.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        norm = tensors["model.norm.weight"].decode()
        other = {
            "other bytes": Dense(3 * norm, format="F32"),
            "another type": norm.view(np.int32),
            "another shape": Dense(norm[None], format="F32"),
            "one more": tensors["model.norm.weight"],
        }
        kept = {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}
        name = "model.norm.weight" if wrong != "one more" else "model.norm.bias"
        new = {name: other[wrong]} if wrong in other else {}
        write_safetensors(path, {**(tensors if wrong == "one more" else kept), **new}, metadata)

    monkeypatch.setattr(page, "write_safetensors", write)
    message = r"model.norm.(weight|bias): what was written is not what was given; report this, and how it came"
    with pytest.raises(RuntimeError, match=message):
        write_folder(model, some(model), tmp_path / "out", format="gptq")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    careless = mutated(page, "for name in sorted({*written, *tensors}):", "for name in ():")
    monkeypatch.setattr(careless, "write_safetensors", write)
    careless.write_folder(model, some(model), tmp_path / "out", format="gptq")


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("joined([(_rows(part, config, total), weights", "joined([(_rows(part, config, total)[::-1], weights"),
        ("        whole[_rows(part, config, len(whole))] = new\n", "        pass\n"),
    ],
)
def test_parts_in_another_place_would_be_found(
    text: str, bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(changed(tmp_path / "source", "gpt2"))
    found = quantise_layers(calibrate(model, cases.IDS[:20], length=20), "int8", method="awq")
    monkeypatch.setattr(page, "plan", mutated(folder_plan, text, bug).plan)
    with pytest.raises(AssertionError):
        check(model, found, tmp_path / "out", "gptq_v2")


# --- the manifest -----------------------------------------------------------------------------------------------------


def parsed(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest and the tensors' bytes, read by hand."""
    raw = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert metadata["format"] == "pt"
    places = {name: entry["data_offsets"] for name, entry in header.items()}
    return json.loads(metadata[MANIFEST]), {n: raw[8 + length :][a:b] for n, (a, b) in places.items()}


def check_manifest(to_folder: ModuleType, tmp_path: Path, model: lepton_ref.Model) -> None:
    seen = cases.seen(model)
    found = quantise_layers(seen, "int4-g32", method="gptq", only=cases.of_layers)
    record = {"method": "gptq", "grid": "int4-g32", "calibration": seen.record()}
    for name in "ab":
        to_folder.write_folder(model, found, tmp_path / name, format=NAMED, record=record)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()
    }
    manifest, tensors = parsed(tmp_path / "a")
    source = [tmp_path / "source" / name for name in ("config.json", "model.safetensors")]
    assert manifest["source"] == {"sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in source]}
    assert manifest["record"] == record
    assert manifest["format"] == NAMED
    assert manifest["lepton_ref"] == lepton_ref.__version__
    assert {name: one["sha256"] for name, one in manifest["tensors"].items()} == {
        name: hashlib.sha256(raw).hexdigest() for name, raw in tensors.items()
    }
    assert manifest["tensors"][f"{Q}.weight_packed"]["format"] == "I32"
    assert str(tmp_path).encode() not in (tmp_path / "a" / "model.safetensors").read_bytes()


def test_the_manifest_says_where_the_bytes_come_from(tmp_path: Path, model: lepton_ref.Model) -> None:
    check_manifest(page, tmp_path, model)


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ('sorted(path.glob("*.safetensors"))', "[]"),
        ('"record": dict(record or {})', '"record": {}'),
        ('"sha256": digest(one.pieces())', '"sha256": digest([])'),
        ('"format": format,', '"format": str(path),'),
    ],
)
def test_a_manifest_that_says_otherwise_would_be_found(
    text: str, bug: str, tmp_path: Path, model: lepton_ref.Model
) -> None:
    with pytest.raises(AssertionError):
        check_manifest(mutated(page, text, bug), tmp_path, model)


# --- the folder -------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def some(model: lepton_ref.Model) -> dict[str, Weight]:
    return cases.encoded(model, AffineScheme(4, True, per=32, scale_format="F16"))


def test_the_other_files_go_along_but_what_another_packer_said(tmp_path: Path, model: lepton_ref.Model) -> None:
    for name in ("tokenizer.json", "generation_config.json", "quantize_config.json", "quant_config.json", "notes.bin"):
        (tmp_path / "source" / name).write_text("{}")
    write_folder(model, some(model), tmp_path / "deep" / "out", format="gptq")
    files = set(contents(tmp_path / "deep" / "out"))
    assert files == {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    before = json.loads((tmp_path / "source" / "config.json").read_text())
    after = json.loads((tmp_path / "deep" / "out" / "config.json").read_text())
    assert after.pop("quantization_config")["quant_method"] == "gptq"
    assert after == before
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_nothing_is_replaced_unasked(tmp_path: Path, model: lepton_ref.Model) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("years of work")
    with pytest.raises(FileExistsError, match="out exists; give another path, or overwrite it: "):
        write_folder(model, some(model), tmp_path / "out", format="gptq")
    assert contents(tmp_path / "out") == {"mine": b"years of work"}
    with pytest.raises(
        FileExistsError, match=r"out has no config.json, and only a model's folder is replaced; give an"
    ):
        write_folder(model, some(model), tmp_path / "out", format="gptq", overwrite=True)
    with pytest.raises(
        FileExistsError, match=r"config.json is no folder, and only a folder is replaced by one; remove"
    ):
        write_folder(model, some(model), tmp_path / "source" / "config.json", format="gptq", overwrite=True)
    assert contents(tmp_path / "out") == {"mine": b"years of work"}
    (tmp_path / "out" / "config.json").write_text("{}")
    write_folder(model, some(model), tmp_path / "out", format="gptq", overwrite=True)
    assert contents(tmp_path / "out")["mine"] == b"years of work"
    assert cases.forward(load(tmp_path / "out")) == cases.forward(cases.with_weights(model, some(model)))


def test_a_folder_can_be_written_onto_its_source(tmp_path: Path, model: lepton_ref.Model) -> None:
    found = some(model)
    wanted = cases.forward(cases.with_weights(model, found))
    write_folder(model, found, tmp_path / "source", format="gptq", overwrite=True)
    assert cases.forward(load(tmp_path / "source")) == wanted
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("step", ["lepton_ref.files.stored.Stored.pieces", "json.dumps", "shutil.copyfile"])
@pytest.mark.parametrize("over", [True, False])
def test_a_failure_leaves_what_was_there(
    step: str, over: bool, tmp_path: Path, model: lepton_ref.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise OSError("no space left on device")

    (tmp_path / "source" / "tokenizer.json").write_text("{}")
    if over:
        shutil.copytree(TINY / "gpt2", tmp_path / "out")
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(step, fail)
        with pytest.raises(OSError, match="no space left"):
            write_folder(model, some(model), tmp_path / "out", format="gptq", overwrite=True)
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == (["out", "source"] if over else ["source"])


# --- bad input --------------------------------------------------------------------------------------------------------


def other(weight: Weight) -> Affine:
    assert isinstance(weight, Affine)
    return Affine(weight.packed[:8], weight.scales, weight.zeros, bits=4, columns=weight.shape[1], tile=(64, 64))


def refuse(model: lepton_ref.Model, weights: Mapping[str, Weight], target: Path, message: str, **how: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        write_folder(model, weights, target, **{"format": NAMED, **how})
    assert "\n" not in str(error.value)
    assert not target.exists()


def test_what_does_not_fit_is_refused(tmp_path: Path, model: lepton_ref.Model) -> None:
    out, found = tmp_path / "out", some(model)
    refuse(model, found, out, "unknown format of folders 'exl2'; known: gptq, gptq_v2, awq", format="exl2")
    refuse(
        model, found, tmp_path / "out.gguf", "compressed-tensors is a folder's format; give a path that does not end"
    )
    refuse(model, {}, out, "no matrix is quantised, so there is nothing for gptq to say; give at least", format="gptq")
    refuse(model, {"layers.9.x": found["layers.0.attn.q.weight"]}, out, "the model has no weight 'layers.9.x'; it has ")
    k = {"layers.0.attn.k.weight": found["layers.0.attn.q.weight"]}
    refuse(model, k, out, "layers.0.attn.k.weight has shape (64, 64), the model's is (32, 64); is it another?")
    embed = {**found, "embed.weight": next(iter(found.values()))}
    refuse(
        model, embed, out, "embed.weight is INT4, but embed (embed) reads it; only matrices that linear layers alone"
    )
    refuse(model, found, out, "record is no JSON: Object of type set is not JSON serializable;", record={"a": {1}})
    refuse(model, found, out, "record is no JSON: Out of range float values are not JSON", record={"a": float("nan")})


def test_a_gguf_has_no_config(tmp_path: Path) -> None:
    model = load(llama_gguf(tmp_path / "a.gguf"))
    refuse(model, {}, tmp_path / "out", "a.gguf is a GGUF, which has no config.json; give the model's folder")


def test_parts_of_one_matrix_are_quantised_alike(tmp_path: Path) -> None:
    model = load(TINY / "phi3")
    seen = calibrate(model, cases.IDS[:20], length=20)
    found = quantise_layers(seen, "int4-g4", method="rtn")
    coarse = quantise_layers(seen, "int4-g8", method="rtn")
    name = "model.layers.0.self_attn.qkv_proj.weight"
    q, k, v = (f"layers.0.attn.{letter}.weight" for letter in "qkv")
    without = {key: weight for key, weight in found.items() if key != k}
    message = f"{name} is one matrix of {q}, {k}, {v}, but {k} is not quantised; quantise all of them, or none"
    refuse(model, without, tmp_path / "out", message)
    refuse(model, {**without, k: model.parts.weights[k]}, tmp_path / "out", message)
    message = f"{name}: parts of one matrix differ: INT4 in groups of 4, scales F16 and INT4 in groups of 8, scales F16"
    refuse(model, {**found, k: coarse[k]}, tmp_path / "out", message)


def test_a_tensor_that_is_not_written_is_named(tmp_path: Path) -> None:
    folder = cases.llama(tmp_path / "source")
    odd = ("F4", (2,), b"\0")
    write_stored(folder / "model.safetensors", {**cases.llama_tensors(), "model.rotary_emb.inv_freq": odd})
    model = load(folder)
    refuse(model, some(model), tmp_path / "out", "tensor 'model.rotary_emb.inv_freq' is stored as F4, which is not")


def test_other_tensors_of_the_file_go_along(tmp_path: Path) -> None:
    folder = cases.llama(tmp_path / "source")
    more = {"rotary_emb.inv_freq": f32(np.ones(4)), "a.rotary_emb.inv_freq": ("I64", (1,), bytes(8))}
    write_stored(folder / "model.safetensors", {**cases.llama_tensors(), **more})
    model = load(folder)
    again = check(model, some(model), tmp_path / "out", NAMED)
    assert again.parts.file.tensors["rotary_emb.inv_freq"].shape == (4,)
    assert again.parts.file.integers["a.rotary_emb.inv_freq"].tolist() == [0]
