"""Folders of every family as GGUF files: the same bits, the layout that llama.cpp wants, and no guess."""

from __future__ import annotations

import decimal
import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import gguf_from_folder
import numpy as np
import pytest
import to_gguf_cases
from decoder_cases import ABSENT, changed, config
from drawn_folders import drawn_folder
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import mutated
from tiny_models import load
from to_gguf_cases import CASES, ENCODERS, folder_of, ids_of

from lepton_ref.compress import to_gguf as page
from lepton_ref.compress import to_gguf_rope, to_gguf_tensors
from lepton_ref.compress.quantise_file import quantise_file
from lepton_ref.compress.recipe import Recipe
from lepton_ref.compress.to_gguf import to_gguf
from lepton_ref.compress.to_gguf_families import FORMS, GELU_NOTE
from lepton_ref.files import read_folder, write_gguf, write_safetensors
from lepton_ref.models import FAMILIES, GGUF_FAMILIES
from lepton_ref.models.names import WeightsError
from lepton_ref.models.reader import ConfigError
from lepton_ref.ops import Rope, attention_factor, frequencies
from lepton_ref.plain.formats import round_to

DECODERS = tuple(name for name in CASES if name not in ENCODERS)


def test_every_family_that_gguf_has_is_converted_and_tested() -> None:
    assert set(FORMS) == set(FAMILIES) - {"opt"}
    assert {form.architecture for form in FORMS.values()} == set(GGUF_FAMILIES)
    assert {config(golden)["model_type"] for golden, _, _ in CASES.values()} == set(FORMS)


@pytest.mark.parametrize("name", CASES)
def test_the_file_gives_the_folder_s_bits(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path / "in")
    quantise_file(folder, tmp_path / "out.gguf", Recipe(format="F32"))
    want = load(folder).forward(ids_of(name))
    np.testing.assert_array_equal(load(tmp_path / "out.gguf").forward(ids_of(name)), want)


@pytest.mark.parametrize("name", DECODERS)
def test_the_layout_is_the_one_written_by_hand(name: str, tmp_path: Path) -> None:
    """tests/gguf_from_folder.py knows none of the tables in lepton_ref.models."""
    if name == "llama_longrope":
        pytest.skip("written by hand for phi3 alone")
    folder = folder_of(name, tmp_path)
    tensors, metadata = gguf_from_folder.contents(folder)
    found, said = to_gguf_cases.contents(folder)
    if name == "olmo2_tied":
        tensors["output.weight"] = tensors["token_embd.weight"]
    assert set(found) == set(tensors)
    for key, value in tensors.items():
        np.testing.assert_array_equal(found[key], value.astype("<f4"), err_msg=key)
    for key, value in metadata.items():
        if not key.endswith("attn_factor"):  # by hand it is that of the paper
            assert said[key] == (np.float32(value) if isinstance(value, float) else value), key


PLANTED = (
    ("llama", to_gguf_tensors, "index[place] = origin", "index[origin] = place"),
    ("gemma2", to_gguf_tensors, ".astype(np.float64) + offset)", ".astype(np.float64))"),
    ("gpt2", to_gguf_tensors, "tensor.array.T", "tensor.array"),
)


@pytest.mark.parametrize(("name", "module", "text", "bug"), PLANTED)
def test_a_wrong_layout_is_found(name: str, module: Any, text: str, bug: str, tmp_path: Path) -> None:
    wrong = mutated(module, text, bug)
    checkpoint = read_folder(folder_of(name, tmp_path))
    tensors, _ = gguf_from_folder.contents(tmp_path)
    if bug.endswith("np.float64))"):
        key = next(key for key in checkpoint.tensors.tensors if "norm" in key)
        weight = checkpoint.tensors.tensors[key]
        assert not np.array_equal(wrong.as_float32(weight, 1.0).decode(), weight.decode() + np.float32(1))
        return
    family = FAMILIES[checkpoint.config["model_type"]]
    read = family.read(page.Reader(checkpoint.config, where="here"))
    gguf = GGUF_FAMILIES[FORMS[family.model_type].architecture].gguf
    assert gguf is not None
    program = family.program(read, "causal_lm")
    try:
        made = wrong.tensors_to_gguf(program, family.names, gguf.names, checkpoint.tensors.tensors, read)
    except ValueError:  # rows that are not there
        return
    assert any(
        made[key].shape != value.shape or not np.array_equal(made[key].decode(), value)
        for key, value in tensors.items()
    )


@settings(max_examples=60, deadline=None)
@given(family=st.sampled_from(sorted(FORMS)), seed=st.integers(0, 2**32 - 1))
def test_any_folder_comes_back(family: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its weights bit for bit, and its angles up to the rounding of a divisor and of the scale to float32."""
    folder = drawn_folder(tmp_path_factory.mktemp("drawn") / family, family, seed)
    made = to_gguf(read_folder(folder))
    write_gguf(folder / "model.gguf", made.tensors, made.metadata, metadata_types=made.types)
    before, after = load(folder), load(folder / "model.gguf")
    offset = np.float32(getattr(before.config, "norm_offset", 0.0))
    for name, weight in after.parts.weights.items():
        kept = before.parts.weights.get(name, before.parts.weights["embed.weight"]).decode()  # a tied head is written
        moved = offset if name.endswith("norm.weight") else np.float32(0)
        first = kept.shape[0] - weight.shape[0]  # RoBERTa's first positions are no token's
        np.testing.assert_array_equal(weight.decode(), kept[first:] + moved, err_msg=name)
    for name in ("rope", "local_rope"):
        ropes = [getattr(model.config, name, None) for model in (before, after)]
        for length in (4, 300) if ropes[0] is not None else ():
            turns = [np.append(frequencies(rope, length=length), attention_factor(rope)) for rope in ropes]
            assert (np.abs(turns[0] - turns[1]) <= 2.0**-23 * turns[0]).all()


def test_llama3_s_divisors_by_hand() -> None:
    """M = 8, low 1, high 4, θ = 16, R = 4: λ = 2π and 8π, between 2 and 8 and above 8."""
    rope = Rope(theta=16.0, width=4, kind="llama3", factor=2.0, original_length=8)
    smooth = (8 / (2 * np.pi) - 1) / 3
    found = to_gguf_rope.llama3_divisors(rope)
    assert found.dtype == np.float32
    assert found.tolist() == [float(np.float32(1 / ((1 - smooth) / 2 + smooth))), 2.0]


def llama3_divisor(rope: Rope, pair: int) -> float:
    """By 60 digits of the decimal module."""
    with decimal.localcontext(prec=60):
        turns = Decimal("3.14159265358979323846264338327950288419716939937510582097494") * 2
        wavelength = turns * (Decimal(rope.theta).ln() * (2 * pair) / rope.width).exp()
        low, high, factor = (Decimal(x) for x in (rope.low_freq_factor, rope.high_freq_factor, rope.factor))
        smooth = min(max((rope.original_length / wavelength - low) / (high - low), Decimal(0)), Decimal(1))
        return round_to(Fraction(1 / ((1 - smooth) / factor + smooth)), "fp32")


def test_llama3_s_divisors_are_rounded_once() -> None:
    """The pages of Llama 3.1 and 3.2, and θ, factors and bounds between which every pair lies."""
    published = Rope(500000.0, 128, "llama3", factor=8.0, original_length=8192)
    for rope in (
        published, replace(published, width=64, factor=32.0), replace(published, low_freq_factor=1e-6, factor=3.7),
    ):  # fmt: skip
        want = [llama3_divisor(rope, pair) for pair in range(rope.width // 2)]
        assert to_gguf_rope.llama3_divisors(rope).tolist() == want


def test_divisors_that_are_rounded_otherwise_are_found() -> None:
    rope = Rope(500000.0, 128, "llama3", factor=3.7, original_length=8192, low_freq_factor=1e-6)
    wrong = mutated(to_gguf_rope, '.round("fp32")', '.round("fp32", mode="zero")')
    assert wrong.llama3_divisors(rope).tolist() != [llama3_divisor(rope, pair) for pair in range(64)]


# --- what is told ----------------------------------------------------------------------------------------------------


def notes_of(folder: Path) -> str:
    return "; ".join(to_gguf(read_folder(folder)).notes)


@pytest.mark.parametrize(
    ("golden", "fields", "note"),
    [
        ("phi3", {}, "llama.cpp does not apply phi3's window of 9"),
        ("llama_rope_yarn", {}, "llama.cpp does not read yarn's beta_fast 4 and beta_slow 0.5 and takes 32 and 1"),
        ("mistral", {"sliding_window": 64}, "the window of 64 is left out: none of 64 positions lies outside of it"),
        ("gpt2", {}, GELU_NOTE),
        ("bert_masked_lm", {}, "the head of BertForMaskedLM is left out"),
        ("gemma2", {"query_pre_attn_scalar": 8}, "1 + w is rounded to float32 in 13 of 13 norms"),
        ("llama", {}, "no tokenizer is written"),
    ],
)
def test_what_the_file_or_llama_cpp_cannot_do_is_told(
    golden: str, fields: dict[str, Any], note: str, tmp_path: Path
) -> None:
    assert note in notes_of(changed(golden, tmp_path, **fields))


def test_exact_norms_need_no_note(tmp_path: Path) -> None:
    assert "is rounded" not in notes_of(folder_of("gemma2", tmp_path))


# --- what is refused -------------------------------------------------------------------------------------------------


SCALED: dict[str, Any] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, but must be at most 21, the number of"),
    ("llama", {"num_key_value_heads": 3}, "config.json: num_attention_heads is 4, but must be a multiple of"),
    ("opt", {}, "model_type is 'opt', but must be one of llama, mistral, "),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', but must be 'silu', which a GGUF of llama implies"),
    ("gemma2", {"hidden_activation": "silu"}, "hidden_activation is 'silu', but must be 'gelu_tanh'"),
    ("gpt_neox", {"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new', but must be 'gelu'"),
    ("llama_bare", {}, "architectures is ['LlamaModel'], but must be LlamaForCausalLM"),
    ("bert_classifier", {"hidden_act": "gelu"}, "but must be a base model: a GGUF of bert has no classifier"),
    ("llama_rope_dynamic", {}, "rope_parameters is 'dynamic', but must be of type default, linear, yarn, llama3"),
    (
        "qwen2", {"rope_parameters": {"rope_theta": 500.0, **SCALED}},
        "rope_parameters is 'llama3', but must be of type default, linear, yarn",
    ),
    (
        "llama", {"rope_parameters": {"rope_theta": 500.0, "rope_type": "yarn", "factor": 2.0, "truncate": False}},
        "but must be with truncate true, which GGUF implies",
    ),
    ("mistral", {}, "sliding_window is 7, but must be null"),
    ("qwen2_sliding", {}, "use_sliding_window is True, but must be false"),
    ("qwen3_biased", {"use_sliding_window": False, "layer_types": ABSENT}, "attention_bias is True, but must be false"),
    ("gemma2", {"query_pre_attn_scalar": 11}, "query_pre_attn_scalar is 11.0, but must be 8"),
    ("gemma2", {"query_pre_attn_scalar": 8, "attn_logit_softcapping": None}, "attn_logit_softcapping is None"),
    ("gemma2", {"query_pre_attn_scalar": 8, "layer_types": ["full_attention"] * 3}, "layer_types is ['full', 'full',"),
    ("gemma3", {}, "but must be sliding but for one in 6"),
    ("phi3", {"head_dim": 4}, "head_dim is 4, but must be"),
    ("gpt2_inverse_layer", {"activation_function": "gelu_new"}, "scale_attn_"),
    ("olmo2_biased", {}, "attention_bias is True, but must be false: a GGUF of olmo2 has no bias behind attention"),
    ("llama", {"quantization_config": {"quant_method": "awq"}}, "quant_method is 'awq', but must be absent"),
)  # fmt: skip


@pytest.mark.parametrize(("golden", "fields", "message"), REFUSED)
def test_what_a_gguf_cannot_say_is_refused_by_name(
    golden: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, WeightsError)) as error:
        to_gguf(read_folder(changed(golden, tmp_path, **fields)))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path)
    tensors = dict(read_folder(folder).tensors.tensors)
    del tensors["model.norm.weight"]
    rest = {name: np.array(weight.decode()) for name, weight in tensors.items()}
    write_safetensors(folder / "model.safetensors", rest, overwrite=True)
    with pytest.raises(WeightsError, match=r"tensor model\.norm\.weight missing"):
        to_gguf(read_folder(folder))


# --- sentences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modules", "pooling", "kind", "note"),
    [
        (["Transformer", "Pooling"], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, 2, ""),
        (["Transformer", "Pooling", "Normalize"], {"pooling_mode_mean_tokens": True}, 1, "normalised"),
        (["Transformer", "Pooling"], {"pooling_mode": "lasttoken"}, 3, ""),
        (["Transformer", "Pooling"], {"pooling_mode_max_tokens": True}, None, "the pooling 'max_tokens' of"),
        (["Transformer"], {}, None, ""),
    ],
)
def test_the_pooling_is_written(
    modules: list[str], pooling: dict[str, Any], kind: int | None, note: str, tmp_path: Path
) -> None:
    folder = folder_of("bert", tmp_path)
    steps = [{"type": f"sentence_transformers.models.{m}", "path": "" if m == "Transformer" else m} for m in modules]
    (folder / "modules.json").write_text(json.dumps(steps), encoding="utf-8")
    (folder / "Pooling").mkdir()
    (folder / "Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    made = to_gguf(read_folder(folder))
    assert made.metadata.get("bert.pooling_type") == kind
    assert note in "; ".join(made.notes)


@pytest.mark.parametrize("text", ["{", "[3]", '[{"path": ""}]'])
def test_damaged_steps_are_refused(text: str, tmp_path: Path) -> None:
    folder = folder_of("bert", tmp_path)
    (folder / "modules.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"modules\.json: not a list of steps"):
        to_gguf(read_folder(folder))


@pytest.mark.parametrize("path", ["../other", "a/../../other", "/etc", "a\\..\\..\\other", "C:\\other", "\\other"])
def test_steps_stay_in_the_folder(path: str, tmp_path: Path) -> None:
    folder = folder_of("bert", tmp_path)
    (folder / "modules.json").write_text(json.dumps([{"type": "a.Pooling", "path": path}]), encoding="utf-8")
    with pytest.raises(ValueError, match="leaves the folder; give one inside it") as error:
        to_gguf(read_folder(folder))
    assert f"path {path!r}" in str(error.value)


def test_a_folder_of_the_hub_s_cache_is_read_through_its_links(tmp_path: Path) -> None:
    """snapshots/<id>/… are links into blobs/, those of a step's folder too."""
    made, snapshot, blobs = tmp_path / "made", tmp_path / "snapshots" / "0f" / "", tmp_path / "blobs"
    folder_of("bert", made)
    (made / "1_Pooling").mkdir()
    (made / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}', encoding="utf-8")
    steps = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    (made / "modules.json").write_text(json.dumps(steps), encoding="utf-8")
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in made.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(made)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / str(number))
        link.symlink_to(Path(*[".."] * len(link.relative_to(tmp_path).parts[1:]), "blobs", str(number)))
    assert (snapshot / "1_Pooling" / "config.json").is_symlink()
    assert to_gguf(read_folder(snapshot)).metadata["bert.pooling_type"] == 2
