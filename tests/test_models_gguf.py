"""The decoders out of GGUF: files written by hand give the bits of the folders that they were made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoder_cases import ABSENT, case, changed, config
from gguf_from_folder import contents, convert

import lepton_ref
from lepton_ref.files import write_gguf
from lepton_ref.models import GGUF_FAMILIES
from lepton_ref.models.names import WeightsError
from lepton_ref.models.reader import ConfigError
from lepton_ref.storage import FORMATS, BlockQuantised

LAYERS: Mapping[str, int] = {"gemma3": 7}  # GGUF's pattern is fixed: every sixth layer sees everything
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "llama_head_width": {"hidden_act": "silu"},
    "mistral_full": {
        "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"},
        "rope_scaling": ABSENT,
        "rope_theta": ABSENT,
    },
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3": {
        "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
    },
    "phi3_partial": {
        "rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 0.5},
        "rope_scaling": ABSENT,
        "rope_theta": ABSENT,
    },
}  # fmt: skip
"""What a GGUF cannot say, or says only of transformers 5's form, made so that it can."""
CASES = (
    "llama", "llama_biased", "llama_head_width", "llama_tied", "llama_rope_linear", "llama_rope_yarn", "mistral_full",
    "qwen2", "qwen3", "qwen3_plain_bias", "gemma2", "gemma3", "phi3", "phi3_longrope", "phi3_partial", "olmo2",
    "olmo2_biased", "gpt2", "gpt_neox",
)  # fmt: skip


def folder_of(name: str, into: Path) -> Path:
    """The case's folder, made expressible."""
    if name == "qwen3_plain_bias":
        return changed("qwen3_biased", into, use_sliding_window=False, layer_types=["full_attention"] * 2)
    return changed(name, into, layers=LAYERS.get(name), **CHANGES.get(name, {}))


def test_every_architecture_is_tested() -> None:
    kinds = {"qwen3_plain_bias": "qwen3"}
    tested = {config(kinds.get(name, name))["model_type"] for name in CASES} - {"mistral"}
    known = {family.model_type for family in GGUF_FAMILIES.values()}
    assert tested == known - {"bert"}


@pytest.mark.parametrize("name", CASES)
def test_a_gguf_gives_the_folder_s_bits(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path / "folder")
    file = convert(folder, tmp_path / "model.gguf")
    ids = case(name.replace("plain_bias", "biased")).expected["input_ids"]
    want = lepton_ref.load(folder).forward(ids)
    np.testing.assert_array_equal(lepton_ref.load(file).forward(ids), want)


def test_llama3_s_factors_are_those_of_the_scaling(tmp_path: Path) -> None:
    """The file holds 1/((1 − s)/f + s), which is rounded: the same function, not the same bits."""
    folder = case("llama_rope_llama3").folder
    ids = case("llama_rope_llama3").expected["input_ids"]
    got = lepton_ref.load(convert(folder, tmp_path / "model.gguf"), precision="float64").forward(ids)
    want = case("llama_rope_llama3").expected["logits"]
    assert np.abs(got - want).max() <= 1e-9 * want.std()


def test_q_and_k_of_llama_are_in_another_order(tmp_path: Path) -> None:
    """Read without the permutation, the file is another model: the comparison above would see it."""
    folder = case("llama").folder
    tensors, metadata = contents(folder)
    rows = {"llama": {"attn_q": 4, "attn_k": 2}}["llama"]
    for name, heads in rows.items():
        for layer in range(2):
            key = f"blk.{layer}.{name}.weight"
            tensors[key] = tensors[key].reshape(heads, -1, 2, 24).swapaxes(1, 2).reshape(tensors[key].shape)
    write_gguf(tmp_path / "plain.gguf", tensors, metadata)
    ids = case("llama").expected["input_ids"]
    wrong = lepton_ref.load(tmp_path / "plain.gguf").forward(ids)
    want = case("llama").expected["logits"]
    assert np.abs(wrong - want).max() > 0.01 * want.std()


def test_gpt_2_may_carry_its_head_twice(tmp_path: Path) -> None:
    tensors, metadata = contents(case("gpt2").folder)
    write_gguf(tmp_path / "model.gguf", {**tensors, "output.weight": tensors["token_embd.weight"]}, metadata)
    ids = case("gpt2").expected["input_ids"]
    want = lepton_ref.load(case("gpt2").folder).forward(ids)
    np.testing.assert_array_equal(lepton_ref.load(tmp_path / "model.gguf").forward(ids), want)


@pytest.mark.parametrize(("name", "layers"), [("gemma2", 46), ("gemma3", 62)])
def test_the_largest_gemmas_scale_by_the_hidden_width(name: str, layers: int, tmp_path: Path) -> None:
    """Their GGUF says nothing of it; llama.cpp goes by the number of layers, as this does."""
    fields = dict(CHANGES[name]) | {"layer_types": ABSENT, "sliding_window_pattern": ABSENT}
    for count, scalar in ((layers, 5), (layers - 1, 8)):  # hidden_size 20, 4 heads; head_dim 8
        folder = changed(name, tmp_path / f"{count}", layers=count, **fields | {"query_pre_attn_scalar": scalar})
        read = lepton_ref.load(convert(folder, tmp_path / f"{count}.gguf")).config
        assert read.query_pre_attn_scalar == scalar
        assert read.windows == lepton_ref.load(folder).config.windows


def test_gemma_2_s_first_files_say_nothing_of_the_window(tmp_path: Path) -> None:
    folder = folder_of("gemma2", tmp_path / "folder")
    file = convert(folder, tmp_path / "model.gguf", attention__sliding_window=None)
    assert lepton_ref.load(file).config.windows == (4096, None, 4096)


REFUSED = (
    ("llama", {"attention__value_length": 8}, "llama.attention.value_length is 8"),
    ("llama", {"attention__causal": False}, "llama.attention.causal is False"),
    ("llama", {"rope__scaling__type": "ntk"}, "llama.rope.scaling.type is 'ntk'"),
    ("llama", {"rope__scale_linear": 2.0}, "llama.rope.scale_linear is 2.0"),
    ("llama", {"rope__dimension_count": 5}, "the rotary width must be even"),
    ("llama", {"rope__dimension_count": 8}, "llama.rope.dimension_count is 8, but must be at most 6, the head width"),
    ("llama_rope_llama3", {"rope__scaling__type": "linear"}, "none beside a tensor rope_freqs.weight"),
    ("llama_rope_yarn", {"rope__scaling__yarn_log_multiplier": 0.1}, "yarn_log_multiplier is 0.1"),
    ("qwen2", {"attention__sliding_window": 6}, "qwen2.attention.sliding_window is 6"),
    ("qwen3", {"attention__sliding_window": 6}, "qwen3.attention.sliding_window is 6"),
    ("olmo2", {"attention__sliding_window": 6}, "olmo2.attention.sliding_window is 6"),
    ("gemma2", {"attention__sliding_window_pattern": 3}, "gemma2.attention.sliding_window_pattern is 3"),
    ("gemma2", {"attn_logit_softcapping": 0.0}, "gemma2.attn_logit_softcapping is 0.0"),
    ("gemma3", {"attention__sliding_window": None}, "gemma3.attention.sliding_window is missing"),
    ("gpt2", {"attention__head_count": 3}, "n_embd is 20, but must be a multiple of n_head, which is 3"),
    ("gpt_neox", {"attention__head_count": 3}, "hidden_size is 32, but must be a multiple"),
    ("llama", {"attention__head_count": [4, 4]}, "llama.attention.head_count is"),
    ("llama", {"block_count": None}, "llama.block_count is missing"),
)


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_what_is_not_supported_is_refused_by_name(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = folder_of(name, tmp_path / "folder")
    with pytest.raises(ConfigError) as error:
        lepton_ref.load(convert(folder, tmp_path / "model.gguf", **changes))
    assert message in str(error.value)
    assert str(tmp_path / "model.gguf") in str(error.value) or "must be a multiple" in str(error.value)


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    tensors, metadata = contents(case("llama").folder)
    write_gguf(tmp_path / "model.gguf", tensors, {**metadata, "general.architecture": "mamba"})
    with pytest.raises(ConfigError, match=r"general\.architecture is 'mamba', but must be one of llama, "):
        lepton_ref.load(tmp_path / "model.gguf")


@pytest.mark.parametrize("name", CASES)
def test_each_tensor_is_missed_by_name(name: str, tmp_path: Path) -> None:
    tensors, metadata = contents(folder_of(name, tmp_path / "folder"))
    optional = {"output.weight", "rope_freqs.weight"}  # their absence is another, whole model
    last = str(max(int(key.split(".")[1]) for key in tensors if key.startswith("blk.")))
    for tensor in tensors:
        if tensor in optional or (tensor.startswith("blk.") and tensor.split(".")[1] != last):
            continue
        rest = {key: value for key, value in tensors.items() if key != tensor}
        write_gguf(tmp_path / "model.gguf", rest, metadata, overwrite=True)
        with pytest.raises((WeightsError, ConfigError), match=tensor.removesuffix(".weight")):
            lepton_ref.load(tmp_path / "model.gguf")


def test_quantised_rows_of_a_fused_matrix(tmp_path: Path) -> None:
    """Phi-3's q, k, v and gate, up are rows of quantised tensors, which stay as they are stored."""
    folder = folder_of("phi3", tmp_path / "folder")
    tensors, metadata = contents(folder)
    names = [f"blk.0.{name}.weight" for name in ("attn_qkv", "ffn_up")]
    quantised: dict[str, Any] = dict(tensors)
    for name in names:
        raw = np.zeros((tensors[name].shape[0], 34), dtype=np.uint8)  # a row of 32 is one block: a scale and 32 codes
        raw[:, :2] = np.full(len(raw), 0.01, dtype=np.float16).view(np.uint8).reshape(-1, 2)
        raw[:, 2:] = np.clip(np.round(tensors[name] * 100), -127, 127).astype(np.int8).view(np.uint8)
        quantised[name] = BlockQuantised(raw, format=FORMATS["Q8_0"])
    write_gguf(tmp_path / "quantised.gguf", quantised, metadata)
    decoded = {name: np.asarray(value.decode()) if name in names else value for name, value in quantised.items()}
    write_gguf(tmp_path / "decoded.gguf", decoded, metadata)
    ids = case("phi3").expected["input_ids"]
    got, want = (lepton_ref.load(tmp_path / f"{kind}.gguf").forward(ids) for kind in ("quantised", "decoded"))
    np.testing.assert_array_equal(got, want)
    assert lepton_ref.load(tmp_path / "quantised.gguf").parts.weights["layers.0.attn.k.weight"].format == "Q8_0"
