"""`lepton_ref.load` against configs and files that lie: one clear line each, quickly, and never half a model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import golden_cases
import numpy as np
import pytest
from tiny_models import BACKEND, GONE, Stored, changed, config_of, f32, llama_gguf, llama_metadata, load

import lepton_ref
from lepton_ref.files import FileFormatError
from lepton_ref.models import plausible, reader
from lepton_ref.models.names import WeightsError
from lepton_ref.models.reader import ConfigError, Reader
from lepton_ref.storage import Dense

ERRORS = (ConfigError, WeightsError, FileFormatError)
TINY = golden_cases.GOLDEN / "tiny"
HUGE = 10**400
"""More than any float; 401 digits are JSON that Python still reads."""


def message(path: Path) -> str:
    """The one line with which a model is refused: it begins with the file or the folder."""
    with pytest.raises(ERRORS) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(str(path)), text
    assert "\n" not in text
    assert len(text) < len(str(path)) * 2 + 500
    return text.removeprefix(str(path)).removeprefix("/")


# --- fields of config.json -------------------------------------------------------------------------------------------

WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"model_type": GONE}, "config.json: model_type is missing; add it, or fetch the file again"),
    ({"model_type": None}, "config.json: model_type is missing; add it, or fetch the file again"),
    ({"model_type": 3}, "config.json: model_type is 3, but must be a string"),
    ({"model_type": "lama"}, "config.json: model_type is 'lama', but must be one of llama, mistral, "),
    ({"architectures": GONE}, "config.json: architectures is None, but must be a list of one of LlamaForCausalLM, Ll"),
    ({"architectures": []}, "config.json: architectures is [], but must be a list of one of LlamaForCausalLM, LlamaM"),
    ({"architectures": ["LlamaModel", "LlamaForCausalLM"]}, "config.json: architectures is ['LlamaModel', 'LlamaFor"),
    ({"architectures": "LlamaModel"}, "config.json: architectures is 'LlamaModel', but must be a list of one of"),
    ({"architectures": [7]}, "config.json: architectures is [7], but must be a list of one of LlamaForCausalLM"),
    ({"architectures": ["GPT2LMHeadModel"]}, "config.json: architectures is 'GPT2LMHeadModel', but must be one of Ll"),
    (
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        ": quant_method is 'gptq', but no tensor is named …qweight",
    ),
    ({"quantization_config": "awq"}, "config.json: quantization_config is 'awq', but must be an object"),
    ({"hidden_size": 0}, "config.json: hidden_size is 0, but must be an integer not below 1"),
    ({"hidden_size": -24}, "config.json: hidden_size is -24, but must be an integer not below 1"),
    ({"hidden_size": 24.0}, "config.json: hidden_size is 24.0, but must be an integer not below 1"),
    ({"hidden_size": "24"}, "config.json: hidden_size is '24', but must be an integer not below 1"),
    ({"hidden_size": True}, "config.json: hidden_size is True, but must be an integer not below 1"),
    ({"hidden_size": [24]}, "config.json: hidden_size is [24], but must be an integer not below 1"),
    ({"hidden_size": {"a": 24}}, "config.json: hidden_size is {'a': 24}, but must be an integer not below 1"),
    ({"hidden_size": 10**12}, "config.json: hidden_size is 1000000000000, but must be at most 61, the longest axis of"),
    ({"hidden_size": 23}, ": model.embed_tokens.weight: shape is (61, 24), but the config needs (61, 23); is it"),
    ({"head_dim": 10**12}, "config.json: head_dim is 1000000000000, but must be at most 61, the longest axis of any"),
    ({"head_dim": 5}, "config.json: rope_parameters: the rotary width must be even and positive, got 5"),
    ({"head_dim": 8}, ": model.layers.0.self_attn.q_proj.weight: shape is (24, 24), but the config needs (32, 24); is"),
    ({"num_hidden_layers": 10**9}, "config.json: num_hidden_layers is 1000000000, but must be at most 21, the numbe"),
    ({"num_hidden_layers": 3}, ": tensors model.layers.2.input_layernorm.weight, model.layers.2.self_attn.q_proj.we"),
    ({"num_hidden_layers": 1}, ": tensors model.layers.1.input_layernorm.weight, model.layers.1.mlp.down_proj.weig"),
    ({"num_attention_heads": 10**9}, ": model.layers.0.self_attn.q_proj.weight: shape is (24, 24), but the config ne"),
    ({"num_attention_heads": 3}, "config.json: num_attention_heads is 3, but must be a multiple of num_key_value_he"),
    (
        {"num_attention_heads": 48, "head_dim": GONE},
        "config.json: num_attention_heads is 48, but must be at most 24, th",
    ),
    ({"num_key_value_heads": 10**12}, "config.json: num_attention_heads is 4, but must be a multiple of num_key_va"),
    ({"num_key_value_heads": 4}, ": model.layers.0.self_attn.k_proj.weight: shape is (12, 24), but the config needs"),
    ({"vocab_size": 10**15}, ": model.embed_tokens.weight: shape is (61, 24), but the config needs (1000000000000000,"),
    ({"vocab_size": HUGE}, "config.json: vocab_size is 1000000000000000000000000"),
    ({"intermediate_size": 10**15}, ": model.layers.0.mlp.gate_proj.weight: shape is (40, 24), but the config needs"),
    ({"max_position_embeddings": -1}, "config.json: max_position_embeddings is -1, but must be an integer not below"),
    ({"max_position_embeddings": HUGE}, "config.json: max_position_embeddings is 10000"),
    ({"rms_norm_eps": -1e-5}, "config.json: rms_norm_eps is -1e-05, but must be a finite number that is not negative"),
    ({"rms_norm_eps": float("nan")}, "config.json: rms_norm_eps is nan, but must be a finite number that is not nega"),
    ({"rms_norm_eps": float("inf")}, "config.json: rms_norm_eps is inf, but must be a finite number that is not nega"),
    ({"rms_norm_eps": HUGE}, "config.json: rms_norm_eps is 1000"),
    ({"rms_norm_eps": "1e-5"}, "config.json: rms_norm_eps is '1e-5', but must be a number"),
    ({"rms_norm_eps": True}, "config.json: rms_norm_eps is True, but must be a number"),
    ({"hidden_act": "swiglu"}, "config.json: hidden_act is 'swiglu', but must be one of relu, relu2, silu"),
    ({"hidden_act": ["silu"]}, "config.json: hidden_act is ['silu'], but must be a string"),
    ({"attention_bias": 1}, "config.json: attention_bias is 1, but must be true or false"),
    ({"attention_bias": True}, ": tensors model.layers.0.self_attn.q_proj.bias, model.layers.0.self_attn.k_proj.bias,"),
    ({"tie_word_embeddings": "no"}, "config.json: tie_word_embeddings is 'no', but must be true or false"),
    ({"rope_parameters": []}, "config.json: rope_parameters is [], but must be an object"),
    ({"rope_parameters": {"rope_theta": 0}}, "config.json: rope_parameters: RoPE's base must be positive and finite"),
    (
        {"rope_parameters": {"rope_type": "cubic"}},
        "config.json: rope_parameters: rope_type is 'cubic', but must be one",
    ),
    ({"rope_parameters": {"a": {}}}, "config.json: rope_parameters: a is {}, but must be a number or a list, because"),
    ({"rope_scaling": {"type": "linear"}}, "config.json: rope_scaling: factor is missing; add it, or fetch the file"),
    ({"rope_scaling": {"type": "linear", "factor": 0}}, "config.json: rope_scaling: RoPE's scaling factor must be po"),
    (
        {"head_dim": 10**9, "rope_parameters": {"rope_type": "proportional"}},
        "config.json: head_dim is 1000000000, but must be at most 61, the longest axis of any tensor in the file",
    ),
]


@pytest.mark.parametrize(("config", "text"), WRONG_FIELDS, ids=[str(config)[:50] for config, _ in WRONG_FIELDS])
def test_a_wrong_field_is_named_with_its_value_and_the_remedy(
    config: dict[str, Any], text: str, tmp_path: Path
) -> None:
    assert message(changed(tmp_path, config=config)).startswith(text)


def cost(action: Callable[[], object]) -> tuple[float, int]:
    """Seconds, and the most bytes that Python and NumPy held beyond what they held before."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        action()
    finally:
        seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return seconds, peak


GREEDY: list[dict[str, Any]] = [
    {"num_hidden_layers": 10**7},
    {"num_hidden_layers": 10**7, "layer_types": ["full_attention"]},
    {"hidden_size": 10**12},
    {"head_dim": 10**8, "rope_parameters": {"rope_type": "proportional"}},
    {"hidden_size": 4 * 10**8, "head_dim": GONE, "rope_parameters": {"rope_type": "proportional"}},
    {"vocab_size": 10**15},
    {"intermediate_size": 10**15},
    {"num_attention_heads": 10**15, "num_key_value_heads": 10**15},
]
MOST_BYTES = 4 << 20
"""Reading the config of this model and its tensors' names takes a fraction of it; 10⁷ layers would take gigabytes."""


@pytest.mark.parametrize("config", GREEDY, ids=str)
def test_a_config_that_claims_much_costs_nothing(config: dict[str, Any], tmp_path: Path) -> None:
    changed(tmp_path, config=config)
    assert cost(lambda: message(tmp_path))[1] < MOST_BYTES


def test_a_config_that_is_believed_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plausible, "LAYERS", ())
    changed(tmp_path, config={"num_hidden_layers": 700})
    assert cost(lambda: message(tmp_path))[1] > MOST_BYTES


def leaves(config: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in config.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from leaves(value, (*above, name))


def with_field(config: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(config))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return copy


def one_of_each_family() -> list[str]:
    types = {config_of(name)["model_type"]: name for name in reversed(golden_cases.names())}
    return sorted(types.values())


def fields_read(name: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The fields that the family asks for."""
    asked: set[str] = set()

    def noted(self: Reader, field: str, *default: Any) -> Any:
        asked.add(field)
        return honest(self, field, *default)

    honest = Reader.raw
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "raw", noted)
        load(TINY / name)
    return asked


NEVER_RIGHT = (-1, 10**9, HUGE, float("nan"), "x", {"a": {"b": 1}})


def survives(folder: Path, config: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    """Such a config is refused in one line about the folder, or describes a model that runs."""
    (folder / "config.json").write_text(json.dumps(with_field(config, path, value)), encoding="utf-8")
    try:
        model = load(folder)
    except ERRORS as error:
        text = str(error)
    else:
        text = str(folder)
        with np.errstate(all="ignore"):
            model.forward([[3, 4]])
    assert text.startswith(str(folder)), text
    assert "\n" not in text


@pytest.mark.parametrize("name", one_of_each_family())
def test_no_value_of_any_field_that_is_read_does_harm(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(name)
    changed(tmp_path, name)
    asked = fields_read(name, monkeypatch)
    paths = [path for path in leaves(config) if path[-1] in asked]
    paths += [(field,) for field in sorted(asked) if field not in config]
    assert len(paths) > 12
    for path in paths:
        for value in NEVER_RIGHT:
            survives(tmp_path, config, path, value)


def test_harm_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "integer", lambda self, name, default=None, *, minimum=1: self.raw(name, default))
    changed(tmp_path)
    with pytest.raises(TypeError):
        survives(tmp_path, config_of(), ("num_hidden_layers",), "x")


def test_a_check_of_the_config_itself_names_the_file(tmp_path: Path) -> None:
    changed(tmp_path, config={"num_attention_heads": 3})
    assert message(tmp_path).startswith("config.json: num_attention_heads is 3")
    with pytest.raises(ConfigError, match=r"^a: b is 1$"), plausible.naming("a"):
        raise ConfigError("a: b is 1")


# --- another model's config ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*one_of_each_family()} - {"mistral"}))  # whose tensors are Llama's
def test_the_config_of_another_family_is_refused(name: str, tmp_path: Path) -> None:
    other = config_of(name)
    if other["model_type"] == "llama":
        other = config_of("gpt2")
    changed(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(other), encoding="utf-8")
    text = message(tmp_path)
    assert "another model's" in text or "left over" in text or "at most" in text, text


@pytest.mark.parametrize("kind", ["qwen2", "mistral", "gpt2", "bert"])
def test_another_model_type_beside_the_same_fields_is_refused(kind: str, tmp_path: Path) -> None:
    changed(tmp_path, config={"model_type": kind})
    assert message(tmp_path).startswith("config.json: architectures is 'LlamaForCausalLM', but must be one of ")


# --- paths -----------------------------------------------------------------------------------------------------------


class Fspath:
    """A PathLike that is no Path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_the_path_may_be_a_string_or_path_like() -> None:
    golden = TINY / "llama"
    for path in (str(golden), golden, Fspath(golden), f"{golden}/", os.path.relpath(golden)):
        assert lepton_ref.load(path, backend=BACKEND).config == load(golden).config


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(TINY / "llama", target_is_directory=True)
    assert load(tmp_path / "link").config == load(TINY / "llama").config


@pytest.mark.parametrize("path", [None, 3, b"llama"])
def test_a_path_of_another_type_is_refused(path: Any) -> None:
    message = f"the path must be text or a pathlib.Path, got {path!r}; give a folder or a .gguf file"
    with pytest.raises(TypeError, match=re.escape(message)):
        lepton_ref.load(path, backend=BACKEND)


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(ValueError, match=r"the path is empty; give a folder or a \.gguf file, or '\.' for the"):
        lepton_ref.load("", backend=BACKEND)


def test_what_is_at_the_path_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing: no such file or folder; give a folder with config\.json or"):
        load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert message(tmp_path / "empty").startswith(": config.json: is missing: give the folder of a whole model")
    (tmp_path / "x.gguf").mkdir()
    assert message(tmp_path / "x.gguf").startswith(": config.json: is missing")
    (tmp_path / "dice").write_bytes(np.random.default_rng(6).bytes(4096))
    assert "GGUF" in message(tmp_path / "dice")
    (tmp_path / "void").write_bytes(b"")
    assert message(tmp_path / "void")
    changed(tmp_path / "llama")
    for name in ("model.safetensors", "config.json"):
        text = message(tmp_path / "llama" / name)
        assert "is one file of a model" in text
        assert text.endswith("give the folder that holds config.json beside it")
    (tmp_path / "llama" / "model.safetensors").unlink()
    assert message(tmp_path / "llama").startswith(": weights: none found: expected model.safetensors, or")


# --- tensors ---------------------------------------------------------------------------------------------------------

Q = "model.layers.0.self_attn.q_proj.weight"
GATE = "model.layers.1.mlp.gate_proj.weight"


def without(*names: str) -> Callable[[dict[str, Stored]], dict[str, Stored]]:
    return lambda tensors: {name: stored for name, stored in tensors.items() if name not in names}


def plus(**added: Stored) -> Callable[[dict[str, Stored]], dict[str, Stored]]:
    return lambda tensors: {**tensors, **added}


def values(stored: Stored) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(stored[2], dtype="<f4").reshape(stored[1])


def mapped(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Stored]], dict[str, Stored]]:
    return lambda tensors: {**tensors, name: f32(change(values(tensors[name])))}


def retyped(name: str, dtype: str, size: int) -> Callable[[dict[str, Stored]], dict[str, Stored]]:
    def change(tensors: dict[str, Stored]) -> dict[str, Stored]:
        shape = tensors[name][1]
        return {**tensors, name: (dtype, shape, bytes(int(np.prod(shape)) * size))}

    return change


LEFT = "left over: the config describes a model without"
WRONG_TENSORS: dict[str, tuple[Callable[[dict[str, Stored]], dict[str, Stored]], str]] = {
    "one missing": (without(Q), f": tensor {Q} missing; the file is incomplete, or the config is another model's"),
    "two missing": (without(Q, GATE), f": tensors {Q}, {GATE} missing; the file is incomplete"),
    "one left over": (plus(odd=f32(np.zeros(3))), f": tensor odd {LEFT}"),
    "one of float8 left over": (plus(odd=("F8_E4M3", (3,), b"abc")), f": tensor odd {LEFT}"),
    "one of float4 left over": (plus(odd=("F4", (2,), b"a")), f": tensor odd {LEFT}"),
    "one of integers left over": (plus(odd=("I64", (1,), bytes(8))), f": tensor odd {LEFT}"),
    "one of booleans left over": (plus(odd=("BOOL", (1,), b"\1")), f": tensor odd {LEFT}"),
    "one of no rows left over": (plus(odd=f32(np.zeros((0, 3)))), f": tensor odd {LEFT}"),
    "a bias left over": (plus(**{Q.replace("weight", "bias"): f32(np.zeros(24))}), ": tensor model.layers.0.self_attn"),
    "seven left over": (
        plus(**{f"odd{n}": f32(np.zeros(1)) for n in range(7)}),
        f": tensors odd0, odd1, odd2, odd3, odd4 and 2 more {LEFT}",
    ),
    "of a float8 type": (
        retyped(Q, "F8_E5M2", 1), f"model.safetensors: tensor '{Q}': is stored as F8_E5M2: no weight is stored so;"
    ),
    "of an integer type": (retyped(Q, "I32", 4), f"model.safetensors: tensor '{Q}': is stored as I32: no weight is"),
    "transposed": (
        mapped(GATE, np.transpose), f": {GATE}: shape is (24, 40), but the config needs (40, 24); is it another model"
    ),
    "one row short": (mapped(GATE, lambda w: w[1:]), f": {GATE}: shape is (39, 24), but the config needs (40, 24)"),
    "flat": (mapped(GATE, np.ravel), f": {GATE}: shape is (960,), but the config needs (40, 24)"),
    "with an axis more": (mapped(GATE, lambda w: w[None]), f": {GATE}: shape is (1, 40, 24), but the config needs"),
    "a norm as a row": (
        mapped("model.norm.weight", lambda w: w[None]),
        ": model.norm.weight: shape is (1, 24), but the config needs (24,)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_a_wrong_tensor_is_named(case: str, tmp_path: Path) -> None:
    change, text = WRONG_TENSORS[case]
    assert message(changed(tmp_path, tensors=change)).startswith(text)


def test_buffers_of_any_type_may_be_left_over_where_the_family_says_so(tmp_path: Path) -> None:
    buffer = plus(**{"model.layers.0.self_attn.rotary_emb.inv_freq": ("F8_E4M3", (3,), b"abc")})
    assert np.isfinite(load(changed(tmp_path, tensors=buffer)).forward([[1, 2]])).all()


def test_many_tensors_are_compared_in_linear_time(tmp_path: Path) -> None:
    added = {f"odd.{n}": f32(np.zeros(1)) for n in range(2000)}
    changed(tmp_path, config={"num_hidden_layers": 2000}, tensors=plus(**added))
    start = time.perf_counter()
    assert "missing" in message(tmp_path)
    assert time.perf_counter() - start < 5, (
        "half a second is linear; comparing 30,000 names in pairs takes half a minute"
    )


def test_nan_in_a_weight_flows_and_only_where_the_mathematics_lets_it(tmp_path: Path) -> None:
    def poisoned(w: Any) -> Any:
        w = w.copy()
        w[7, :] = np.nan
        return w

    plain = load(TINY / "llama").forward([[1, 2, 3]])
    found = load(changed(tmp_path, tensors=mapped("lm_head.weight", poisoned))).forward([[1, 2, 3]])
    assert np.isnan(found[..., 7]).all()
    others = np.arange(61) != 7
    np.testing.assert_array_equal(found[..., others], plain[..., others])
    everywhere = load(changed(tmp_path, tensors=mapped("model.norm.weight", lambda w: w * np.nan)))
    assert np.isnan(everywhere.forward([[1, 2, 3]])).all()


def test_nothing_is_decoded_by_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Dense, *_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Dense, "_value", refuse)
    for name in ("llama", "llama_sharded", "gpt2", "bert"):
        model = load(TINY / name, keep_decoded=True)
        with pytest.raises(AssertionError, match="decoded"):
            model.forward([[1]])


# --- GGUF ------------------------------------------------------------------------------------------------------------


def test_a_gguf_gives_the_folder_s_bits(tmp_path: Path) -> None:
    model = load(llama_gguf(tmp_path / "a.gguf"))
    np.testing.assert_array_equal(model.forward([[5, 6, 7]]), load(TINY / "llama").forward([[5, 6, 7]]))


METADATA = sorted(
    {
        *llama_metadata(),
        *(f"llama.rope.scaling.{name}" for name in ("type", "factor", "original_context_length", "attn_factor")),
        *(f"llama.{name}" for name in ("attention.key_length", "attention.value_length", "attention.causal")),
        *("llama.vocab_size", "llama.rope.scale_linear"),
    }
)

WRONG_METADATA: list[tuple[dict[str, Any], str]] = [
    ({"general.architecture": "lama"}, ": general.architecture is 'lama', but must be one of llama, "),
    ({"general.architecture": 7}, ": general.architecture is 7, but must be one of llama, "),
    ({"general.architecture": GONE}, ": general.architecture is None, but must be one of llama, "),
    ({"llama.block_count": 10**9}, ": llama.block_count is 1000000000, but must be at most 21, the number of tensors"),
    ({"llama.block_count": 1}, ": tensors blk.1.attn_"),
    ({"llama.block_count": GONE}, ": llama.block_count is missing; add it, or fetch the file again"),
    ({"llama.block_count": -2}, ": llama.block_count is -2, but must be an integer not below 1"),
    ({"llama.block_count": 2.0}, ": llama.block_count is 2.0, but must be an integer not below 1"),
    ({"llama.block_count": "2"}, ": llama.block_count is '2', but must be an integer not below 1"),
    ({"llama.block_count": [2, 2]}, ": llama.block_count is "),
    ({"llama.embedding_length": 10**12}, ": llama.embedding_length is 1000000000000, but must be at most 61"),
    ({"llama.embedding_length": 48}, ": token_embd.weight: shape is (61, 24), but the config needs (61, 48); is it"),
    ({"llama.attention.head_count": 10**9}, ": llama.attention.head_count is 1000000000, but must be at most 24, the"),
    ({"llama.attention.head_count_kv": 3}, ": num_attention_heads is 4, but must be a multiple of num_key_value_heads"),
    ({"llama.attention.head_count_kv": np.array([2, 2], dtype=np.int32)}, ": llama.attention.head_count_kv is "),
    ({"llama.attention.key_length": 10**12}, ": llama.attention.key_length is 1000000000000, but must be at most 61"),
    ({"llama.attention.key_length": 60}, ": blk.0.attn_q.weight: shape is (24, 24), but the config needs 240 rows"),
    ({"llama.attention.value_length": 5}, ": llama.attention.value_length is 5, but must be 6, the only setting"),
    ({"llama.attention.value_length": np.array([6], dtype=np.int32)}, ": llama.attention.value_length is "),
    ({"llama.attention.layer_norm_rms_epsilon": GONE}, ": llama.attention.layer_norm_rms_epsilon is missing; add it"),
    ({"llama.rope.freq_base": float("nan")}, ": llama.rope.freq_base is nan, but must be a finite number that is not"),
    ({"llama.rope.scaling.type": "cubic"}, ": llama.rope.scaling.type is 'cubic', but must be one of none, linear, y"),
    ({"llama.rope.dimension_count": 10**12}, ": llama.rope.dimension_count is 1000000000000, but must be at most 6, "),
]


@pytest.mark.parametrize(("metadata", "text"), WRONG_METADATA, ids=[str(m)[:60] for m, _ in WRONG_METADATA])
def test_wrong_metadata_is_named(metadata: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = llama_gguf(tmp_path / "a.gguf", metadata=metadata)
    assert cost(lambda: message(path))[1] < MOST_BYTES
    assert message(path).startswith(text)


@pytest.mark.parametrize("key", METADATA)
def test_no_value_of_any_metadata_does_harm(key: str, tmp_path: Path) -> None:
    wrong = (-1, 0, 2**40, 2**64 - 1, 1e300, float("nan"), "", "x", True, ["x"], np.array([2**40, 1], dtype=np.int64))
    for number, value in enumerate(wrong):
        path = llama_gguf(tmp_path / f"{number}.gguf", metadata={key: value})
        try:
            model = load(path)
        except ERRORS as error:
            text = str(error)
        else:
            text = str(path)
            with np.errstate(all="ignore"):
                model.forward([[3, 4]])
        assert text.startswith(str(path)), text
        assert "\n" not in text


def test_a_gguf_of_no_rows_for_a_permutation_is_refused_before_one_is_made(tmp_path: Path) -> None:
    path = llama_gguf(tmp_path / "a.gguf", metadata={"llama.attention.head_count": 4 * 10**8 // 24 * 24})
    assert cost(lambda: message(path))[1] < MOST_BYTES


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"token_embd.weight": None}, ": tensor token_embd.weight is missing; the file holds no whole model"),
        ({"blk.1.ffn_up.weight": None}, ": tensor blk.1.ffn_up.weight missing; the file is incomplete"),
        ({"odd": np.zeros(3, dtype=np.float32)}, f": tensor odd {LEFT}"),
        ({"odd": np.zeros(3, dtype=np.int32)}, f": tensor odd {LEFT}"),
        ({"blk.0.attn_q.weight": np.zeros((24, 25), dtype=np.float32)}, ": blk.0.attn_q.weight: shape (24, 25) does"),
    ],
)
def test_a_wrong_tensor_of_a_gguf_is_named(tensors: dict[str, Any], text: str, tmp_path: Path) -> None:
    assert message(llama_gguf(tmp_path / "a.gguf", **tensors)).startswith(text)


# --- the other arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        ({"backend": "nupmy"}, ValueError, "no backend named 'nupmy'; installed: .*numpy"),
        ({"backend": object()}, TypeError, "is no backend: it lacks name, xp, ulps, kernels"),
        ({"backend": type(BACKEND)}, TypeError, r"NumpyBackend is a class; pass an instance"),
        ({"precision": "referense"}, ValueError, "unknown precision 'referense'; known: reference, bf16"),
        ({"precision": None}, ValueError, "unknown precision None"),
        ({"precision": ["reference"]}, ValueError, r"unknown precision \['reference'\]"),
        ({"keep_decoded": "always"}, ValueError, "keep_decoded must be 'auto', True or False, got 'always'"),
        ({"keep_decoded": None}, ValueError, "keep_decoded must be 'auto', True or False, got None"),
        ({"keep_decode": True}, TypeError, "unexpected keyword argument 'keep_decode'"),
    ],
)
def test_a_wrong_argument_is_named(how: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        load(TINY / "llama", **how)


LOADING = """
import sys
extras = ("tokenizers", "jinja2", "rich", "threadpoolctl", "torch", "matplotlib", "numba", "cupy", "hypothesis")
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in extras:
            raise ImportError(f"{name} is an extra")
sys.meta_path.insert(0, Refuse())
import lepton_ref
before = set(sys.modules)
assert "numpy" not in before
model = lepton_ref.load(sys.argv[1])
model.forward([[1, 2]]), repr(model), model._repr_html_(), repr(model.run_with_trace([[1]]))
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
"""


def test_loading_and_running_import_numpy_alone() -> None:
    command = [sys.executable, "-c", LOADING, str(TINY / "llama")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"lepton_ref", "numpy", "__mp_main__"}


def test_an_extra_that_loading_imports_would_be_found() -> None:
    code = LOADING.replace("repr(model)", "model.tokenizer")
    command = [sys.executable, "-c", code, str(TINY / "llama")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode != 0


def test_the_largest_size_is_what_an_axis_can_be() -> None:
    assert np.iinfo(np.int64).max == reader.LARGEST
