"""Writing a model in other formats: the bytes are encode's, the rest is kept, the same command gives the same file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import golden_cases
import numpy as np
import pytest
from folder_cases import llama
from planted import mutated
from tiny_models import changed, config_of, f32, load
from wide_model import METADATA, wide_gguf, wide_tensors

from lepton_ref import __version__
from lepton_ref.compress import quantise_file as page
from lepton_ref.compress.mixtures import FILE_TYPES
from lepton_ref.compress.quantise_file import MANIFEST, quantise_file
from lepton_ref.compress.recipe import Recipe
from lepton_ref.files import FileFormatError, read_gguf, read_safetensors, write_gguf, write_safetensors
from lepton_ref.storage import BlockQuantised, Dense, encode
from lepton_ref.storage.encoders import ENCODERS

TINY = golden_cases.GOLDEN / "tiny"
Q8 = Recipe(format="Q8_0")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return wide_gguf(tmp_path / "in.gguf")


def stored_bytes(path: Path) -> dict[str, bytes]:
    found = {}
    for name, weight in read_gguf(path).tensors.items():
        assert isinstance(weight, Dense | BlockQuantised)
        found[name] = (weight.array if isinstance(weight, Dense) else weight.raw).tobytes()
    return found


def plain(metadata: Mapping[str, Any]) -> str:
    return json.dumps({**metadata}, default=lambda array: array.tolist())


def check_written(source: Path, target: Path, quantise_file: Any = quantise_file) -> None:
    """Quantise to Q8_0: each matrix is encode's bytes, each vector as it was, metadata but for three keys too."""
    quantise_file(source, target, Q8, overwrite=True)
    read, made = read_gguf(source), read_gguf(target)
    assert list(made.tensors) == list(read.tensors)
    for name, raw in stored_bytes(target).items():
        weight = read.tensors[name]
        if len(weight.shape) == 1:
            assert (made.tensors[name].format, raw) == ("F32", stored_bytes(source)[name])
        else:
            assert (made.tensors[name].format, raw) == ("Q8_0", encode("Q8_0", weight.decode()).tobytes())
    ours = {"general.file_type", "general.quantization_version", MANIFEST}
    left = {key: value for key, value in made.metadata.items() if key not in ours}
    assert plain(left) == plain(read.metadata)
    assert {key: made.metadata_types[key] for key in left} == dict(read.metadata_types)
    assert made.metadata["general.file_type"] == 7
    assert made.metadata["general.quantization_version"] == 2


def test_the_bytes_are_encodes_and_the_rest_is_kept(source: Path, tmp_path: Path) -> None:
    check_written(source, tmp_path / "out.gguf")


def test_what_is_told(source: Path, tmp_path: Path) -> None:
    written = quantise_file(source, tmp_path / "out.gguf", Q8)
    elements = sum(array.size for array in wide_tensors().values())
    assert written.elements == elements
    assert written.bits_per_weight == 8 * written.nbytes / elements
    assert 8.5 < written.bits_per_weight < 8.6
    assert (written.requantised, written.unweighted, written.notes) == ((), (), ())
    assert repr(written).endswith("8.544 bits per weight: Q8_0 ×8, F32 ×3)")
    again = quantise_file(tmp_path / "out.gguf", tmp_path / "again.gguf", Recipe(format="Q4_0"))
    assert len(again.requantised) == 8


def test_the_manifest(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    quantise_file(source, target, Recipe(format="Q4_0", patterns=(("blk.*.attn_v", "F16"),)))
    found = json.loads(read_gguf(target).metadata[MANIFEST])
    assert found["lepton_ref"] == __version__
    assert found["source"] == {"sha256": [hashlib.sha256(source.read_bytes()).hexdigest()]}
    assert found["recipe"] == {"format": "Q4_0", "mixture": None, "tensors": [["blk.*.attn_v", "F16"]]}
    assert (found["importance"], found["seeds"]) == ({"sha256": None}, [])
    assert {name: entry["sha256"] for name, entry in found["tensors"].items()} == {
        name: hashlib.sha256(raw).hexdigest() for name, raw in stored_bytes(target).items()
    }
    assert found["tensors"]["blk.0.attn_v.weight"]["format"] == "F16"
    assert str(tmp_path) not in json.dumps(found)


def test_the_same_command_gives_the_same_bytes_with_any_number_of_threads(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(format="Q4_0", patterns=(("*attn_k*", "BF16"),))
    quantise_file(source, tmp_path / "a.gguf", recipe)
    monkeypatch.setattr(page, "PANEL", 3 * 256)
    quantise_file(source, tmp_path / "b.gguf", recipe, threads=3)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "b.gguf", "in.gguf"]


@pytest.mark.parametrize("format_", [*ENCODERS, "F16", "BF16", "F64"])
def test_every_format_that_has_an_encoder_is_written_and_read(format_: str, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    written = quantise_file(source, target, Recipe(format=format_))
    file = read_gguf(target)
    assert {file.tensors[name].format for name, choice in written.choices.items()} == {format_, "F32"}
    for name, array in wide_tensors().items():
        if array.ndim == 2:
            wide = array.astype(np.float64) if format_ == "F64" else array
            assert stored_bytes(target)[name] == encode(format_, wide).tobytes()
            assert np.abs(file.tensors[name].decode() - array).max() <= np.abs(array).max()
    assert ("general.file_type" in file.metadata) == (format_ in FILE_TYPES)


@pytest.mark.parametrize("mixture", ["Q8_0", "Q4_0", "Q4_K_M"])
def test_the_result_runs(mixture: str, tmp_path: Path) -> None:
    if mixture == "Q4_K_M" and not {"Q4_K", "Q6_K"} <= set(ENCODERS):
        pytest.skip("there is no encoder of Q4_K and Q6_K yet")
    source = wide_gguf(tmp_path / "in.gguf", 2)
    quantise_file(source, tmp_path / "out.gguf", Recipe(mixture=mixture))
    ids = [[3, 4, 5, 6]]
    before, after = (load(path).forward(ids) for path in (source, tmp_path / "out.gguf"))
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9
    assert load(tmp_path / "out.gguf").tokenizer.vocab_size == load(source).tokenizer.vocab_size


def test_a_tensor_that_has_the_format_keeps_its_bytes(tmp_path: Path) -> None:
    raw = encode("Q8_0", np.random.default_rng(2).standard_normal((256, 256)).astype("<f4"))
    raw[:, 0] ^= 1  # no encoder gives these
    from lepton_ref.storage import FORMATS

    source = wide_gguf(tmp_path / "in.gguf", blk__0__attn_q__weight=BlockQuantised(raw, format=FORMATS["Q8_0"]))
    written = quantise_file(source, tmp_path / "out.gguf", Q8)
    assert stored_bytes(tmp_path / "out.gguf")["blk.0.attn_q.weight"] == raw.tobytes()
    assert written.requantised == ()


def test_blocks_that_another_format_holds_exactly_keep_their_values(source: Path, tmp_path: Path) -> None:
    quantise_file(source, tmp_path / "a.gguf", Recipe(format="Q4_0"))
    written = quantise_file(tmp_path / "a.gguf", tmp_path / "b.gguf", Q8)
    assert written.requantised == ()
    before, after = read_gguf(tmp_path / "a.gguf").tensors, read_gguf(tmp_path / "b.gguf").tensors
    for name, weight in before.items():
        assert after[name].decode().tobytes() == weight.decode().tobytes()


def test_integers_and_bytes_of_foreign_metadata_are_kept(tmp_path: Path) -> None:
    tensors = {"a.weight": np.ones((2, 32), "<f4"), "ids": np.arange(5, dtype="<i4")}
    write_gguf(tmp_path / "in.gguf", tensors, {"general.architecture": "x", "x.list": [1, 2], "split.count": 1})
    quantise_file(tmp_path / "in.gguf", tmp_path / "out.gguf", Q8)
    made = read_gguf(tmp_path / "out.gguf")
    assert made.integers["ids"].tolist() == [0, 1, 2, 3, 4]
    assert made.metadata["x.list"].tolist() == [1, 2]
    assert "split.count" not in made.metadata


# --- importance -------------------------------------------------------------------------------------------------------


def test_importance_reaches_the_encoder(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[Any]] = {}
    honest = encode

    def spy(name: str, array: Any, /, *, weights: Any = None) -> Any:
        seen.setdefault(name, []).append(None if weights is None else weights.tolist())
        return honest(name, array)

    monkeypatch.setattr(page, "encode", spy)
    monkeypatch.setattr(page, "WEIGHTED", frozenset({"Q4_0"}))
    columns = np.arange(256, dtype="<f4")
    importance = {"blk.0.ffn_up.weight": columns, "blk.0.attn_v.weight": columns, "not.here": columns[:3]}
    recipe = Recipe(format="Q4_0", patterns=(("*attn_v*", "Q8_0"),))
    written = quantise_file(source, tmp_path / "out.gguf", recipe, importance=importance)
    assert [given for given in seen["Q4_0"] if given is not None] == [columns.tolist()]
    assert seen["Q8_0"] == [None]
    assert "blk.0.ffn_gate.weight" in written.unweighted
    assert "blk.0.ffn_up.weight" not in written.unweighted
    manifest = json.loads(read_gguf(tmp_path / "out.gguf").metadata[MANIFEST])
    other = quantise_file(source, tmp_path / "b.gguf", recipe, importance={"blk.0.ffn_up.weight": columns + 1})
    assert json.loads(read_gguf(other.path).metadata[MANIFEST])["importance"] != manifest["importance"]


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        ({"blk.0.ffn_up.weight": np.ones(3)}, r"importance of 'blk.0.ffn_up.weight' has shape \(3,\), the tensor"),
        ({"x": np.ones(3)}, "importance names none of the tensors"),
    ],
)  # fmt: skip
def test_importance_of_another_model(importance: Any, message: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        quantise_file(source, tmp_path / "out.gguf", Q8, importance=importance)


# --- safetensors and folders ------------------------------------------------------------------------------------------


def test_safetensors_take_dense_formats(tmp_path: Path) -> None:
    array = np.random.default_rng(1).standard_normal((3, 32)).astype("<f4")
    write_safetensors(tmp_path / "in.safetensors", {"a.weight": array, "ids": np.arange(3)}, {"format": "pt"})
    quantise_file(tmp_path / "in.safetensors", tmp_path / "out.safetensors", Recipe(format="BF16"))
    made = read_safetensors(tmp_path / "out.safetensors")
    assert made.tensors["a.weight"].format == "BF16"
    assert made.metadata["format"] == "pt"
    assert json.loads(made.metadata[MANIFEST])["tensors"]["a.weight"]["format"] == "BF16"
    assert made.integers["ids"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"'a.weight' would be Q8_0, which safetensors does"):
        quantise_file(tmp_path / "in.safetensors", tmp_path / "b.safetensors", Recipe(format="Q8_0", patterns=()))


def widened(folder: Path, **config: Any) -> Path:
    """The tiny Llama's folder with rows of 32."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 61}
    sizes |= {"intermediate_size": 64, "num_hidden_layers": 2, "tie_word_embeddings": False}
    rng = np.random.default_rng(4)

    def tensors(_: Any) -> Any:
        shapes = {"model.embed_tokens.weight": (61, 32), "model.norm.weight": (32,), "lm_head.weight": (61, 32)}
        for layer in range(2):
            b = f"model.layers.{layer}"
            shapes |= {
                f"{b}.self_attn.{n}_proj.weight": (r, 32) for n, r in (("q", 32), ("k", 16), ("v", 16), ("o", 32))
            }
            shapes |= {f"{b}.mlp.{n}_proj.weight": (64, 32) for n in ("gate", "up")}
            shapes |= {f"{b}.mlp.down_proj.weight": (32, 64)}
            shapes |= {f"{b}.{n}_layernorm.weight": (32,) for n in ("input", "post_attention")}
        return {name: f32((rng.standard_normal(shape) / 4).astype("<f4")) for name, shape in shapes.items()}

    return changed(folder, config={**sizes, **config}, tensors=tensors)


@pytest.mark.parametrize("rope", ["default", "linear", "llama3"])
def test_a_folder_becomes_a_gguf_with_the_same_logits(rope: str, tmp_path: Path) -> None:
    scaling: dict[str, Any] = {"rope_type": rope, "rope_theta": 10000.0}
    scaling |= {"linear": {"factor": 2.0}, "default": {}}.get(
        rope, {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    )
    folder = widened(tmp_path / "in", rope_parameters=scaling, rms_norm_eps=float(np.float32(1e-5)))
    written = quantise_file(folder, tmp_path / "out.gguf", Recipe(format="F32"))
    assert written.notes[0].startswith(f"no tokenizer is written for {folder}: ")
    before, after = load(folder).forward([[1, 2, 3, 4]]), load(tmp_path / "out.gguf").forward([[1, 2, 3, 4]])
    if rope == "llama3":  # the file's divisors are float32
        np.testing.assert_array_less(np.abs(before - after), 1e-4 * np.abs(before).max())
    else:
        assert before.tobytes() == after.tobytes()
    eighth = load_bits(folder, tmp_path, Q8)
    assert eighth.tobytes() != before.tobytes()
    assert np.corrcoef(eighth.ravel(), before.ravel())[0, 1] > 0.99


def load_bits(folder: Path, scratch: Path, recipe: Recipe) -> Any:
    quantise_file(folder, scratch / "q.gguf", recipe)
    return load(scratch / "q.gguf").forward([[1, 2, 3, 4]])


@pytest.mark.parametrize(
    "name", ["llama", "llama_tied", "llama_biased", "llama_head_width", "mistral_full", "qwen2", "qwen3"]
)
def test_the_golden_folders_become_ggufs(name: str, tmp_path: Path) -> None:
    epsilon = float(np.float32(config_of(name)["rms_norm_eps"]))
    change = {"rms_norm_eps": epsilon}
    folder = changed(tmp_path / "in", name, config={**change, "hidden_act": "silu"})
    ids = [[5, 6, 7, 8, 9]]
    quantise_file(folder, tmp_path / "out.gguf", Recipe(format="F32"))
    assert load(tmp_path / "out.gguf").forward(ids).tobytes() == load(folder).forward(ids).tobytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("opt", "model_type is 'opt', but must be one of llama, mistral, qwen2, qwen3"),
        ("mistral", "sliding_window is .*, but must be null: a GGUF of llama has no window"),
        ("llama_rope_dynamic", "rope_parameters is 'dynamic', but must be of type default, linear, yarn"),
        ("llama_head_width", "hidden_act is 'gelu', but must be 'silu', which a GGUF of llama implies"),
    ],
)
def test_folders_that_a_gguf_cannot_say(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        quantise_file(TINY / name, tmp_path / "out.gguf", Recipe(format="F32"))
    assert list(tmp_path.iterdir()) == []


# --- bad input --------------------------------------------------------------------------------------------------------


def test_an_existing_file_is_not_replaced_unasked(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    target.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"out.gguf exists; give --overwrite to replace it"):
        quantise_file(source, target, Q8)
    assert target.read_bytes() == b"mine"
    quantise_file(source, target, Q8, overwrite=True)
    assert read_gguf(target).metadata["general.file_type"] == 7


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("out.bin", ValueError, r"a file is written as .gguf or .safetensors"),
        ("no/out.gguf", FileNotFoundError, "no such folder; make it"),
        ("out.safetensors", ValueError, "is a GGUF and becomes one; end the path"),
    ],
)
def test_targets_that_cannot_be(
    target: str, error: type[Exception], message: str, source: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        quantise_file(source, tmp_path / target, Q8)


def test_sources_that_cannot_be(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        quantise_file(tmp_path / "none", tmp_path / "out.gguf", Q8)
    write_safetensors(tmp_path / "x.safetensors", {"a": np.ones((2, 32), "<f4")})
    with pytest.raises(ValueError, match=r"is one file of a model; give its folder, whose config.json a GGUF needs"):
        quantise_file(tmp_path / "x.safetensors", tmp_path / "out.gguf", Q8)
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises(FileFormatError, match=r"give a .gguf, a .safetensors or a model's folder"):
        quantise_file(tmp_path / "x.bin", tmp_path / "out.gguf", Q8)
    with pytest.raises(ValueError, match="threads is 0; give an integer of at least 1"):
        quantise_file(source, tmp_path / "out.gguf", Q8, threads=0)


def test_a_number_that_cannot_be_stored_names_its_tensor(tmp_path: Path) -> None:
    bad = wide_tensors()["blk.0.ffn_up.weight"].copy()
    bad[3, 4] = np.nan
    source = wide_gguf(tmp_path / "in.gguf", blk__0__ffn_up__weight=bad)
    with pytest.raises(ValueError, match=r"tensor 'blk.0.ffn_up.weight' cannot be stored as Q8_0: .*nan"):
        quantise_file(source, tmp_path / "out.gguf", Q8)
    assert [path.name for path in tmp_path.iterdir()] == ["in.gguf"]


def test_mixtures_of_experts_are_not_guessed(tmp_path: Path) -> None:
    metadata = {**METADATA, "llama.block_count": 1, "llama.expert_count": 8}
    write_gguf(tmp_path / "in.gguf", wide_tensors(), metadata)
    with pytest.raises(ValueError, match="has 8 experts, for which no mixture is written yet; give a format"):
        quantise_file(tmp_path / "in.gguf", tmp_path / "out.gguf", Recipe(mixture="Q8_0"))


# --- planted mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("places[name] = (begin, spool.tell())", "places[name] = (begin + 34, spool.tell() + 34)"),
        ('("general.file_type", recipe.file_type)', '("general.file_type", 1)'),
        ("metadata: dict[str, Any] = {**read.metadata}", "metadata: dict[str, Any] = {}"),
    ],
)
def test_a_mistaken_writer_is_found(text: str, bug: str, source: Path, tmp_path: Path) -> None:
    wrong = mutated(page, text, bug)
    with pytest.raises((AssertionError, KeyError, ValueError)):
        check_written(source, tmp_path / "out.gguf", wrong.quantise_file)


@pytest.mark.parametrize("format_", ["F64", "Q8_1", "Q8_K"])
def test_weights_at_which_llama_cpp_stops_are_told(format_: str, tmp_path: Path) -> None:
    source = wide_gguf(tmp_path / "a.gguf")
    told = quantise_file(source, tmp_path / "b.gguf", Recipe(format=format_)).notes
    assert told == (f"llama.cpp stops at weights in {format_}; this package runs them",)
    assert quantise_file(source, tmp_path / "c.gguf", Recipe(format="Q8_0")).notes == ()


def reaching(tmp_path: Path, value: float) -> Path:
    matrix = wide_tensors()["blk.0.ffn_up.weight"].copy()
    matrix[3, 7] = value
    return wide_gguf(tmp_path / "reaching.gguf", blk__0__ffn_up__weight=matrix)


@pytest.mark.parametrize("format_", ["Q8_0", "F16", "Q4_0", "TQ2_0"])
def test_what_a_format_cannot_hold_is_refused_and_not_written_as_infinity(format_: str, tmp_path: Path) -> None:
    source, out = reaching(tmp_path, 1e8), tmp_path / "out.gguf"
    with pytest.raises(ValueError, match=rf"'blk.0.ffn_up.weight' cannot be stored as {format_}: it reaches 1e\+08"):
        quantise_file(source, out, Recipe(format=format_))
    assert not out.exists()
    quantise_file(source, out, Recipe(format=format_, patterns=(("blk.0.ffn_up", "BF16"),)))
    assert np.isfinite(read_gguf(out).tensors["blk.0.ffn_up.weight"].decode()).all()


def test_numbers_that_are_not_finite_stay_what_they_are(tmp_path: Path) -> None:
    quantise_file(reaching(tmp_path, np.inf), tmp_path / "out.gguf", Recipe(format="F16"))
    assert np.isinf(read_gguf(tmp_path / "out.gguf").tensors["blk.0.ffn_up.weight"].decode()[3, 7])


def test_a_reach_that_is_not_looked_at_is_found(tmp_path: Path) -> None:
    wrong = mutated(page, "        require_reached(rows, raw, format_)\n", "")
    wrong.quantise_file(reaching(tmp_path, 1e8), tmp_path / "out.gguf", Recipe(format="Q8_0"))
    assert not np.isfinite(read_gguf(tmp_path / "out.gguf").tensors["blk.0.ffn_up.weight"].decode()).all()


def test_neither_a_folder_nor_the_source_is_written_over(tmp_path: Path) -> None:
    source = wide_gguf(tmp_path / "a.gguf")
    before = source.read_bytes()
    (tmp_path / "folder.gguf").mkdir()
    for target, told in ((tmp_path / "folder.gguf", "is a folder"), (source, "is the source too")):
        with pytest.raises(ValueError, match=told):
            quantise_file(source, target, Recipe(format="Q8_0"), overwrite=True)
    assert source.read_bytes() == before


def test_a_packed_folder_is_no_source_of_dense_tensors(tmp_path: Path) -> None:
    folder = llama(tmp_path / "packed", quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(ValueError, match="quant_method is 'awq', but must be absent: decode the model first"):
        quantise_file(folder, tmp_path / "out.safetensors", Recipe(format="BF16"))
    assert not (tmp_path / "out.safetensors").exists()
