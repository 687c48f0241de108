"""What a decoder's folder may say: defaults, other forms of the same, refusals by name, tensors missing or wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from decoder_cases import ABSENT, CASES, MAIN, case, changed, config, model

import lepton_ref
from lepton_ref.files import FileFormatError, read_folder, write_safetensors
from lepton_ref.models import FAMILIES
from lepton_ref.models.family import Family
from lepton_ref.models.names import WeightsError, bind
from lepton_ref.models.reader import ConfigError, Reader
from lepton_ref.ops import Rope, frequencies
from lepton_ref.storage import Dense, Weight

# --- configs ---------------------------------------------------------------------------------------------------------


def read(name: str, **fields: Any) -> Any:
    """The config record of a case with other fields."""
    merged = {key: value for key, value in {**config(name), **fields}.items() if value is not ABSENT}
    return FAMILIES[merged["model_type"]].read(Reader(merged, where="config.json"))


SILENT: Mapping[str, Mapping[str, Any]] = {
    "llama": {"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
    "mistral": {"num_key_value_heads": 8, "head_dim": 128, "sliding_window": 4096, "max_position_embeddings": 131072},
    "qwen2": {"num_key_value_heads": 32, "windows": (None,) * 32, "vocab_size": 151936, "intermediate_size": 22016},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128, "windows": (None,) * 32, "attention_bias": False},
    "gemma2": {
        "windows": (4096, None) * 13, "head_dim": 256, "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0, "hidden_act": "gelu_tanh", "tie_word_embeddings": True,
    },
    "gemma3_text": {
        "windows": ((4096,) * 5 + (None,)) * 4 + (4096,) * 2, "final_logit_softcapping": None, "vocab_size": 262208,
        "rope": Rope(1e6, 256, original_length=131072), "local_rope": Rope(1e4, 256, original_length=131072),
    },
    "phi3": {"sliding_window": None, "num_key_value_heads": 32, "head_dim": 96, "rms_norm_eps": 1e-5},
    "olmo2": {"num_key_value_heads": 32, "rms_norm_eps": 1e-5, "vocab_size": 50304, "attention_bias": False},
    "gpt2": {
        "hidden_size": 768, "intermediate_size": 3072, "max_position_embeddings": 1024, "num_attention_heads": 12,
        "activation_function": "gelu_tanh", "scale_attn_weights": True, "tie_word_embeddings": True,
    },
    "gpt_neox": {
        "hidden_size": 6144, "rope": Rope(1e4, 24, original_length=2048), "hidden_act": "gelu",
        "use_parallel_residual": True, "attention_bias": True, "tie_word_embeddings": False,
    },
    "opt": {
        "ffn_dim": 3072, "word_embed_proj_dim": 768, "activation_function": "relu", "final_layer_norm": True,
        "enable_bias": True, "layer_norm_elementwise_affine": True, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""What a config.json that says nothing means: the defaults of transformers 5.23's configuration classes."""


@pytest.mark.parametrize("kind", SILENT)
def test_a_silent_config_has_transformers_defaults(kind: str) -> None:
    found = FAMILIES[kind].read(Reader({}, where="config.json"))
    assert {name: getattr(found, name) for name in SILENT[kind]} == SILENT[kind]


def test_every_decoder_s_defaults_are_tested() -> None:
    assert set(SILENT) == {config(name)["model_type"] for name in CASES}


def test_null_is_not_absent() -> None:
    assert read("mistral", sliding_window=None).sliding_window is None
    assert read("mistral", sliding_window=ABSENT).sliding_window == 4096
    assert read("mistral", num_key_value_heads=None).num_key_value_heads == 4
    assert read("gemma2", attn_logit_softcapping=None).attn_logit_softcapping is None
    assert read("gemma2", attn_logit_softcapping=ABSENT).attn_logit_softcapping == 50
    assert read("opt", word_embed_proj_dim=None).word_embed_proj_dim == 24


def test_windows_of_qwen() -> None:
    def windows(**fields: Any) -> Any:
        given = {"num_hidden_layers": 3, "sliding_window": 6, "layer_types": ABSENT, **fields}
        return read("qwen2", **given).windows

    assert windows() == (None,) * 3
    assert windows(use_sliding_window=True, max_window_layers=1) == (None, 6, 6)
    assert windows(use_sliding_window=True, max_window_layers=0) == (6, 6, 6)
    types = ["sliding_attention", "full_attention", "full_attention"]
    assert windows(use_sliding_window=True, max_window_layers=0, layer_types=types) == (6, None, None)


def test_rope_in_all_its_forms_is_one_record() -> None:
    """transformers 5's object, 4's two fields, and 4's older `type`."""
    wanted = Rope(300.0, 6, "linear", 2.5, original_length=64)
    new = {"rope_type": "linear", "factor": 2.5, "rope_theta": 300.0}
    assert read("llama", rope_parameters=new).rope == wanted
    for name in ("rope_type", "type"):
        old = {"rope_theta": 300.0, "rope_scaling": {name: "linear", "factor": 2.5}}
        assert read("llama", rope_parameters=ABSENT, **old).rope == wanted
    assert read("llama", rope_parameters=ABSENT).rope == Rope(10000.0, 6, original_length=64)


def test_longrope_takes_the_outer_length_first_and_the_ratio_for_its_factor() -> None:
    lists = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    inner = {"rope_type": "longrope", "original_max_position_embeddings": 32, **lists}
    found = read("phi3", rope_parameters=inner, original_max_position_embeddings=8).rope
    assert (found.original_length, found.factor) == (8, 8.0)
    assert read("phi3", rope_parameters=inner).rope.original_length == 4096  # Phi-3's default is an outer field too
    assert read("llama_head_width", rope_parameters={**inner, **_lists(5)}).rope.original_length == 32
    assert read("phi3", rope_parameters={**inner, "factor": 3.0}).rope.factor == 3.0


def _lists(pairs: int) -> dict[str, list[float]]:
    return {"short_factor": [1.0] * pairs, "long_factor": [2.0] * pairs}


def test_proportional_rope_leaves_the_last_pairs_alone() -> None:
    rope = {"rope_type": "proportional", "rope_theta": 100.0, "factor": 2.0, "partial_rotary_factor": 0.5}
    found = read("llama_head_width", rope_parameters=rope).rope  # head_dim 10: ⌊0.5·10 // 2⌋ = 2 pairs turn
    second = float(Decimal(100) ** Decimal("-0.2") / 2)  # 28 digits, rounded once; a power of two divides exactly
    assert frequencies(found, length=1).tolist() == [0.5, second, 0.0, 0.0, 0.0]


def test_gpt_2_s_sizes_have_two_names() -> None:
    found = read("gpt2", n_embd=ABSENT, hidden_size=24, n_layer=ABSENT, num_hidden_layers=3, n_inner=7)
    assert (found.hidden_size, found.num_hidden_layers, found.intermediate_size) == (24, 3, 7)


YARN = {"rope_type": "yarn", "factor": 2.0}
REFUSED: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("llama", {"hidden_act": "mish"}, "hidden_act is 'mish', but must be one of relu, "),
    ("llama", {"num_attention_heads": 0}, "num_attention_heads is 0, but must be an integer not below 1"),
    ("llama", {"num_attention_heads": 4.5}, "num_attention_heads is 4.5"),
    ("llama", {"num_key_value_heads": 3}, "must be a multiple of num_key_value_heads, which is 3"),
    ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
    ("llama", {"attention_bias": "yes"}, "attention_bias is 'yes', but must be true or false"),
    ("llama", {"rope_parameters": {"rope_type": "axial"}}, "rope_type is 'axial', but must be one of default, "),
    ("llama", {"rope_parameters": {"rope_type": "linear"}}, "factor is missing"),
    ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is missing"),
    ("llama", {"rope_parameters": {"rope_type": "longrope", "long_factor": [1.0]}}, "short_factors must hold 3"),
    ("llama", {"rope_parameters": {"rope_type": "longrope", "short_factor": "1"}}, "short_factor is '1'"),
    ("llama", {"rope_parameters": {"rope_type": "longrope", "short_factor": ["1"]}}, "short_factor: 0 is '1'"),
    ("llama", {"rope_parameters": {"rope_theta": 0.0}}, "RoPE's base must be positive"),
    ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5, but must be 1.0"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, but must be 1.0"),
    ("llama", {"rope_parameters": {"full_attention": YARN}}, "full_attention is {"),
    ("llama", {"rope_parameters": [1]}, "rope_parameters is [1], but must be an object"),
    ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types is ['full_attention', 'full_attention']"),
    ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
    ("qwen2", {"layer_types": ["chunked_attention"] * 2}, "layer_types is ['chunked_attention'"),
    ("qwen2", {"layer_types": ["full_attention"]}, "layer_types is ['full_attention'], but must be 2 times one of"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "sliding_window is None, but must be an integer, because"),
    ("qwen2", {"use_sliding_window": True, "sliding_window": None, "layer_types": ["sliding_attention"] * 2},
     "sliding_window is None"),
    ("qwen3", {"layer_types": 5}, "layer_types is 5"),
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True, but must be False"),
    ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0"),
    ("gemma2", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping is 0.0, but must be above 0, or null"),
    ("gemma2", {"sliding_window": None}, "sliding_window is None"),
    ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True, but must be False"),
    ("gemma3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "inside full_attention or sliding_att"),
    ("gemma3", {"rope_parameters": {"full_attention": {"partial_rotary_factor": 0.5}}}, "partial_rotary_factor is"),
    ("gemma3", {"model_type": "gemma3"}, "model_type is 'gemma3', but must be one of llama, "),
    ("gemma3", {"architectures": ["Gemma3ForConditionalGeneration"]}, "is 'Gemma3ForConditionalGeneration', but"),
    ("phi3", {"rope_parameters": YARN}, "rope_type is 'yarn', but must be default or longrope"),
    ("phi3", {"rope_parameters": {"partial_rotary_factor": 0.4}}, "the rotary width must be even"),
    ("phi3", {"rope_parameters": {"partial_rotary_factor": 1.5}}, "partial_rotary_factor is 1.5, but must be above 0"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True, but must be False"),
    ("gpt2", {"hidden_size": 24}, "hidden_size is 24, but must be 20"),
    ("gpt2", {"n_head": 3}, "n_embd is 20, but must be a multiple of n_head, which is 3"),
    ("gpt_neox", {"num_attention_heads": 3}, "hidden_size is 32, but must be a multiple of num_attention_heads"),
    ("gpt_neox", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, but must be 0.25"),
    ("gpt_neox", {"rope_theta": 7.0}, "rope_theta is 7.0, but must be 10000.0"),
    ("gpt_neox", {"head_dim": 8}, "head_dim is 8, but must be 16"),
    ("opt", {"num_attention_heads": 5}, "hidden_size is 24, but must be a multiple of num_attention_heads"),
    ("opt", {"activation_function": "prelu"}, "activation_function is 'prelu'"),
    ("opt", {"architectures": ["OPTForSequenceClassification"]}, "architectures is 'OPTForSequenceClassification'"),
    ("opt", {"architectures": []}, "architectures is [], but must be a list of one"),
)  # fmt: skip


@pytest.mark.parametrize(("name", "fields", "message"), REFUSED)
def test_what_is_not_supported_is_refused_by_name(
    name: str, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        lepton_ref.load(changed(name, tmp_path, **fields))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_inputs_that_a_decoder_does_not_take_are_refused_by_name() -> None:
    """transformers' GPT-2 would add the token embedding of `token_type_ids`; no checkpoint was trained so."""
    with pytest.raises(ValueError, match="takes no token_type_ids"):
        model("gpt2").forward([[1, 2]], token_type_ids=[[0, 0]])


# --- tensors ---------------------------------------------------------------------------------------------------------


def parts(name: str) -> tuple[Family, dict[str, Weight], Any]:
    """The family, the file's tensors and the config of a case."""
    loaded = model(name).parts
    return FAMILIES[config(name)["model_type"]], dict(loaded.file.tensors), loaded.config


def bound(name: str, tensors: Mapping[str, Weight]) -> dict[str, Weight]:
    family, _, record = parts(name)
    program = family.program(record, model(name).parts.head)
    return bind(program, family.names, tensors, config=record, where="model")


@pytest.mark.parametrize("name", CASES)
def test_each_tensor_is_missed_by_name(name: str) -> None:
    _, tensors, _ = parts(name)
    unused = ("attn.bias", "inv_freq", *(["lm_head.weight"] if name == "opt_post_norm" else []))
    needed = [tensor for tensor in tensors if not tensor.endswith(tuple(unused))]
    assert len(needed) > 10
    for tensor in needed:
        rest = {key: value for key, value in tensors.items() if key != tensor}
        with pytest.raises(WeightsError, match=f"{tensor.replace('.', '[.]')}(,.*)? missing"):
            bound(name, rest)


@pytest.mark.parametrize("name", MAIN)
def test_each_tensor_of_another_shape_is_named(name: str) -> None:
    """One row or column more: in fused matrices too, whose rows the config names in parts."""
    _, tensors, _ = parts(name)
    for tensor, weight in tensors.items():
        value = np.asarray(weight.decode())
        for axis in range(value.ndim):
            larger = np.concatenate([value, value.take([0], axis)], axis)
            with pytest.raises(WeightsError) as error:
                bound(name, {**tensors, tensor: Dense(larger, format="F32")})
            assert tensor in str(error.value)


@pytest.mark.parametrize("name", MAIN)
def test_a_tensor_left_over_is_named(name: str) -> None:
    _, tensors, _ = parts(name)
    extra = Dense(np.ones(3, dtype=np.float32), format="F32")
    for tensor in (
        "adapter.weight",
        next(name for name in tensors if name.endswith(".weight")).replace(".weight", ".lora_A"),
    ):
        with pytest.raises(WeightsError, match=f"{tensor.replace('.', '[.]')} left over"):
            bound(name, {**tensors, tensor: extra})


@pytest.mark.parametrize("name", ["llama_tied", "qwen2", "gemma2", "gpt2", "opt_post_norm"])
def test_a_tied_head_may_stand_in_the_file_if_it_is_equal(name: str) -> None:
    family, tensors, _ = parts(name)
    source = family.names.source("embed.weight")[1]
    source = source if source in tensors else source.removeprefix(family.names.prefix)
    with_copy = {**tensors, "lm_head.weight": tensors[source]}
    assert set(bound(name, with_copy)) == set(bound(name, tensors))
    other = np.array(tensors[source].decode())
    other[3, 1] += 1
    with pytest.raises(WeightsError, match=r"lm_head\.weight differs from .*set tie_word_embeddings to false"):
        bound(name, {**tensors, "lm_head.weight": Dense(other, format="F32")})


def test_a_bare_model_may_carry_a_head_that_it_does_not_use(tmp_path: Path) -> None:
    """The untied head of a whole checkpoint, loaded as its base: nothing is tied, so nothing must be equal."""
    folder = changed("llama", tmp_path, architectures=["LlamaModel"])
    got = lepton_ref.load(folder).forward([[1, 2, 3]])
    assert got.shape == (1, 3, 24)


@pytest.mark.parametrize("name", ["mistral", "gemma3", "gpt2", "gpt_neox", "opt"])
def test_a_bare_model_is_the_whole_one_without_its_head(name: str, tmp_path: Path) -> None:
    """Its file has no prefix before the names; it gives what the head would read."""
    family = FAMILIES[config(name)["model_type"]]
    base = next(architecture for architecture, head in family.architectures.items() if head == "base")
    checkpoint = read_folder(case(name).folder)
    tensors = {
        tensor.removeprefix(family.names.prefix): weight
        for tensor, weight in checkpoint.tensors.tensors.items()
        if tensor.startswith(family.names.prefix)
    }
    changed(name, tmp_path, architectures=[base])
    (tmp_path / "model.safetensors").unlink()
    write_safetensors(tmp_path / "model.safetensors", tensors, {"format": "pt"})
    ids = case(name).expected["input_ids"]
    want = model(name, "reference").run_with_trace(ids)["norm"]
    np.testing.assert_array_equal(lepton_ref.load(tmp_path).forward(ids), want)


def test_gpt_neox_s_head_has_two_names() -> None:
    """transformers 5 calls it lm_head in the model and embed_out in the file."""
    _, tensors, _ = parts("gpt_neox")
    renamed = {name.replace("embed_out", "lm_head"): weight for name, weight in tensors.items()}
    assert renamed.keys() != tensors.keys()
    assert set(bound("gpt_neox", renamed)) == set(bound("gpt_neox", tensors))


def test_old_buffers_are_no_weights() -> None:
    """Causal masks of GPT-2 and GPT-NeoX, and RoPE's frequencies."""
    extra = Dense(np.ones((1, 1, 4, 4), dtype=np.float32), format="F32")
    for name, tensor in (
        ("gpt2", "transformer.h.0.attn.masked_bias"),
        ("gpt2_hub", "h.1.attn.bias"),
        ("gpt_neox", "gpt_neox.layers.0.attention.masked_bias"),
        ("gpt_neox", "gpt_neox.layers.1.attention.rotary_emb.inv_freq"),
        ("mistral", "model.layers.0.self_attn.rotary_emb.inv_freq"),
    ):
        _, tensors, _ = parts(name)
        assert set(bound(name, {**tensors, tensor: extra})) == set(bound(name, tensors))


def test_a_quantised_matrix_stored_in_out_is_refused_by_name() -> None:
    _, tensors, _ = parts("gpt2")
    name = "transformer.h.0.mlp.c_fc.weight"
    stored = tensors[name]

    class Packed(Weight):
        format, shape, nbytes = "Q8_0", stored.shape, stored.nbytes

        def rows(self, start: int, stop: int, /) -> Any:
            return stored.rows(start, stop)

        def take(self, index: Any, /) -> Any:
            return stored.take(index)

    with pytest.raises(WeightsError, match=r"c_fc\.weight: stored \(in, out\) as Q8_0; only dense"):
        bound("gpt2", {**tensors, name: Packed()})


def test_a_table_without_a_name_says_so() -> None:
    family, tensors, record = parts("llama")
    names = {key: value for key, value in family.names.names.items() if key != "layers.{l}.mlp.up"}
    table = dataclasses.replace(family.names, names=MappingProxyType(names))
    with pytest.raises(WeightsError, match=r"no name for 'layers\.0\.mlp\.up\.weight'"):
        bind(family.program(record, "causal_lm"), table, tensors, config=record, where="model")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    changed("llama", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"model\.safetensors"):
        lepton_ref.load(tmp_path)
