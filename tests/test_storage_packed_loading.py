"""Folders with quantization_config load and run: the logits are those of the decoded weights, bit for bit."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed_checkpoints import (
    Packer,
    Parts,
    awq_packer,
    bnb4_packer,
    bnb8_packer,
    compressed_packer,
    gptq_packer,
    stored,
    write,
)
from tiny_models import BACKEND, load

from lepton_ref.files import FileFormatError
from lepton_ref.models.names import WeightsError
from lepton_ref.models.reader import ConfigError
from lepton_ref.storage import Dense, RowView
from lepton_ref.storage.bitstream import pack as pack_words
from lepton_ref.storage.gptq import GPTQ

IDS = [[1, 5, 9, 22, 58, 3]]


def gptq(bits: int, **rest: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": 8, "damp_percent": 0.01, "desc_act": False, **rest}


def awq(**rest: Any) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm", "zero_point": True, **rest}


def compressed(bits: int, strategy: str, *, symmetric: bool = True, **weights: Any) -> dict[str, Any]:
    settings = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, **weights}
    settings |= {"group_size": 8} if strategy == "group" else {}
    settings |= {"dynamic": False, "observer": "minmax", "actorder": None}
    groups = {"group_0": {"targets": ["Linear"], "weights": settings, "input_activations": None}}
    return {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups,
        "ignore": ["lm_head"], "kv_cache_scheme": None, "quantization_status": "compressed", "version": "0.20.0",
    }  # fmt: skip


def bnb(bits: int, **rest: Any) -> dict[str, Any]:
    return {"quant_method": "bitsandbytes", f"load_in_{bits}bit": True, "llm_int8_threshold": 6.0, **rest}


FORMATS: dict[str, tuple[Packer, dict[str, Any]]] = {
    "gptq 4 v1": (gptq_packer(4, 1, "plain"), gptq(4, checkpoint_format="gptq", sym=False)),
    "gptq 4 v2 act-order": (gptq_packer(4, 2, "act"), gptq(4, checkpoint_format="gptq_v2", sym=False, desc_act=True)),
    "gptq 4 symmetric v1": (gptq_packer(4, 1, "plain", symmetric=True), gptq(4, sym=True)),
    "gptq 4 symmetric v2": (gptq_packer(4, 2, "plain", symmetric=True), gptq(4, sym=True)),
    "gptq 4 without g_idx": (gptq_packer(4, 2, "none"), gptq(4, checkpoint_format="gptq_v2")),
    "gptq 8": (gptq_packer(8, 1, "act"), gptq(8, format="gptq", desc_act=True)),
    "gptq 3": (gptq_packer(3, 1, "plain"), gptq(3, checkpoint_format="gptq")),
    "gptq 2": (gptq_packer(2, 2, "plain"), gptq(2, checkpoint_format="gptq_v2")),
    "awq": (awq_packer, awq()),
    "pack 4 group": (compressed_packer(4, 8, "none"), compressed(4, "group")),
    "pack 3 group asymmetric": (compressed_packer(3, 8, "packed"), compressed(3, "group", symmetric=False)),
    "pack 4 act-order": (compressed_packer(4, 8, "none", "act"), compressed(4, "group")),
    "pack 8 channel": (compressed_packer(8, 1, "none"), compressed(8, "channel")),
    "pack 6 tensor": (compressed_packer(6, 0, "int8"), compressed(6, "tensor", symmetric=False)),
    "nf4": (bnb4_packer("nf4", nested=False), bnb(4)),
    "nf4 nested": (bnb4_packer("nf4", nested=True), bnb(4, bnb_4bit_use_double_quant=True)),
    "fp4 nested": (bnb4_packer("fp4", nested=True), bnb(4)),
    "nf4 in bf16": (bnb4_packer("nf4", nested=False, storage="BF16"), bnb(4, bnb_4bit_quant_storage="bfloat16")),
    "int8": (bnb8_packer, bnb(8)),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kept", [False, True])
def test_a_packed_llama_gives_the_logits_of_its_decoded_weights(name: str, kept: bool, tmp_path: Path) -> None:
    packed, dense = write(tmp_path, *FORMATS[name])
    model = load(packed, keep_decoded=kept)
    q = model.parts.weights["layers.0.attn.q.weight"]
    assert not isinstance(q, Dense)
    assert q.format.startswith({"g": "GPTQ", "a": "AWQ", "p": "PACKED", "n": "NF4", "f": "FP4", "i": "BNB8"}[name[0]])
    np.testing.assert_array_equal(model.forward(IDS), load(dense, keep_decoded=kept).forward(IDS))


@pytest.mark.parametrize("name", ["gptq 4 v2 act-order", "pack 4 group", "nf4 nested", "int8"])
def test_w8a8_takes_the_closed_form(name: str, tmp_path: Path) -> None:
    packed, _ = write(tmp_path, *FORMATS[name])
    model = load(packed, precision="w8a8", keep_decoded=False)
    assert np.isfinite(model.forward(IDS)).all()


@pytest.mark.parametrize("name", ["gptq 4 v1", "pack 4 group", "nf4", "int8"])
def test_fused_rows_are_cut_out_of_a_packed_matrix(name: str, tmp_path: Path) -> None:
    """Phi-3 stores q, k, v as one matrix and gate, up as another."""
    packed, dense = write(tmp_path, *FORMATS[name], name="phi3")
    model = load(packed)
    assert isinstance(load(packed, keep_decoded=False).parts.weights["layers.0.attn.k.weight"], RowView)
    np.testing.assert_array_equal(model.forward(IDS), load(dense).forward(IDS))


def test_a_packed_model_is_saved_as_it_was(tmp_path: Path) -> None:
    packed, _ = write(tmp_path, *FORMATS["gptq 3"])
    model = load(packed)
    again = load(model.save(tmp_path / "again"))
    np.testing.assert_array_equal(again.forward(IDS), model.forward(IDS))


def test_no_more_than_a_panel_is_decoded_at_once() -> None:
    outputs, inputs = 2048, 4096
    words = pack_words(np.random.default_rng(0).integers(0, 16, (inputs, outputs), dtype=np.uint8), 4, axis=0)
    zeros = pack_words(np.full((32, outputs), 8), 4)
    scales = Dense(np.ones((32, outputs), dtype="<f2"), format="F16")
    weight = GPTQ(words, zeros, scales, bits=4, version=2, group_size=128)
    panel = 8 << 20
    for _ in weight.panels(backend=BACKEND):  # imports and caches first
        break
    tracemalloc.start()
    try:
        count = sum(1 for _ in weight.panels(backend=BACKEND))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 8
    # the panel, the one before it until it is replaced, float32 before they are widened, codes and their words
    assert peak < 4 * panel < 8 * outputs * inputs


# --- what is refused -------------------------------------------------------------------------------------------------


def without(ending: str) -> Any:
    return lambda parts: {name: value for name, value in parts.items() if not name.endswith(ending)}


def replaced(ending: str, value: Any) -> Any:
    return lambda parts: {name: stored(value) if name.endswith(ending) else old for name, old in parts.items()}


def also(name: str, value: Any) -> Any:
    return lambda parts: {**parts, name: stored(value)}


def same(parts: Parts) -> Parts:
    return parts


Q = "layers.0.self_attn.q_proj"
REFUSED: list[tuple[str, dict[str, Any], Any, str]] = [
    ("awq", {"quant_method": "quip"}, same, "quant_method is 'quip', but must be one of gptq, awq, compressed-tensors"),
    ("awq", {"quant_method": None}, same, "quant_method is None, but must be one of gptq"),
    ("awq", {"rotation": "hadamard"}, same, "rotation is 'hadamard', but must be absent: it is not known here"),
    ("awq", {"version": "gemv"}, same, "version is 'gemv', but must be gemm, the only layout of AWQ that is read"),
    ("awq", {"bits": 8}, same, "bits is 8, but must be 4, the only setting supported"),
    ("awq", {"zero_point": False}, same, "zero_point is False, but must be True"),
    ("awq", {"group_size": 16}, same, "mlp.down_proj: 40 inputs have 5 groups, but group_size is 16"),
    ("awq", {}, without("q_proj.scales"), "q_proj.scales missing; the file is incomplete"),
    ("awq", {}, without("qweight"), "quant_method is 'awq', but no tensor is named …qweight"),
    ("awq", {}, also("extra.weight", np.ones(3)), "tensor extra.weight left over"),
    ("awq", {}, also("extra.codes", np.ones(3, dtype=np.int32)), "tensor extra.codes left over"),
    ("awq", {}, also(f"model.{Q}.weight", np.ones((24, 24))), "is stored twice, packed and as model.layers.0"),
    ("awq", {}, replaced("q_proj.scales", np.zeros((3, 24), dtype=np.int32)), "stored as int32, but holds scales"),
    (
        "awq",
        {},
        replaced("q_proj.qweight", np.zeros((24, 3))),
        "q_proj.qweight: stored as F64, but holds packed integers",
    ),
    ("awq", {}, replaced("q_proj.qweight", np.zeros((24, 3), np.int64)), "qweight must be an int32 matrix, got int64"),
    ("gptq 4 v1", {"quant_method": "awq"}, same, "checkpoint_format is 'gptq', but must be absent"),
    ("gptq 4 v1", {"bits": 5}, same, "bits is 5, but must be one of 2, 3, 4, 8"),
    ("gptq 4 v1", {"bits": None}, same, "bits is missing"),
    (
        "gptq 4 v1",
        {"checkpoint_format": None},
        same,
        "GPTQ version 1 or 2? zeros of asymmetric quantisation may be any",
    ),
    ("gptq 4 v1", {"checkpoint_format": "gptq_p"}, same, "checkpoint_format is 'gptq_p', neither 'gptq' nor 'gptq_v2'"),
    ("gptq 4 symmetric v2", {"checkpoint_format": "gptq"}, same, "stores every zero as 7, but the stored zeros are 8"),
    (
        "gptq 4 v1",
        {},
        replaced(f"{Q}.qzeros", np.full((3, 3), -1, np.int32)),
        "72 stored zeros are 15, from which engines",
    ),
    ("gptq 4 v1", {"dynamic": {"-:x": {}}}, same, "dynamic is {'-:x': {}}, but must be {}"),
    ("gptq 4 v1", {"group_size": 4}, same, "desc_act is false, but g_idx is not i // 4: engines that trust"),
    ("gptq 4 v2 act-order", {"desc_act": False}, same, "desc_act is false, but g_idx is not i // 8"),
    ("gptq 4 v2 act-order", {}, without("g_idx"), "desc_act is true, but there is no g_idx"),
    ("gptq 4 v1", {}, replaced(f"{Q}.g_idx", np.full(24, 3, np.int32)), "g_idx names group 3, but there are 3: 0 … 2"),
    ("gptq 4 v1", {}, without(f"{Q}.qzeros"), "q_proj.qzeros missing"),
    (
        "gptq 4 v1",
        {},
        replaced(f"{Q}.qzeros", np.zeros((3, 4), np.int32)),
        "qzeros: 24 codes of 4 bits take 3 words, got 4",
    ),
    ("pack 4 group", {"format": "marlin-24"}, same, "but must be 'pack-quantized', the only setting supported"),
    ("pack 4 group", {"kv_cache_scheme": {"num_bits": 8}}, same, "kv_cache_scheme is {'num_bits': 8}, but must be {}"),
    ("pack 4 group", {"transform_config": {"R1": {}}}, same, "transform_config is {'R1': {}}, but must be {}"),
    ("pack 4 group", {"config_groups": {}}, same, "config_groups is {}, but must be at least one group"),
    ("pack 4 group", {}, without("weight_packed"), "no tensor is named …weight_packed"),
    ("pack 4 group", {}, without(f"{Q}.weight_scale"), "q_proj.weight_scale missing"),
    (
        "pack 4 group",
        {},
        replaced(f"{Q}.weight_shape", np.array([24, 32])),
        "q_proj: weight_packed (24, 3) does not hold 32 codes of 4",
    ),
    (
        "pack 4 group",
        {},
        replaced(f"{Q}.weight_shape", np.array([24])),
        "weight_shape must be two integers, got int64 (1,)",
    ),
    (
        "pack 8 channel",
        {},
        replaced(f"{Q}.weight_scale", np.ones((24, 3), "<f4")),
        "(24, 3) is not one scale a channel",
    ),
    ("nf4", {"load_in_4bit": False}, same, "load_in_4bit is False, but must be True, as load_in_8bit is False"),
    ("nf4", {"llm_int8_has_fp16_weight": True}, same, "llm_int8_has_fp16_weight is True, but must be False"),
    ("nf4", {}, without("nf4"), "load_in_4bit is true, but no tensor is named"),
    ("nf4", {}, without(f"{Q}.weight.absmax"), "q_proj.weight.absmax missing"),
    ("nf4", {}, replaced(f"{Q}.weight.quant_map", np.zeros(16, "<f4")), "quant_map is not the table of nf4"),
    ("nf4", {}, replaced(f"{Q}.weight.absmax", np.zeros(8, "<f4")), "absmax must be F32 of shape (9,), got F32 (8,)"),
    (
        "nf4",
        {},
        replaced("q_proj.weight.quant_state.bitsandbytes__nf4", np.zeros(4, np.uint8)),
        "quant_state is no JSON",
    ),
    (
        "nf4",
        {},
        replaced("q_proj.weight.quant_state.bitsandbytes__nf4", np.frombuffer(b"[]", np.uint8)),
        "must be a JSON object",
    ),
    ("int8", {}, replaced(f"{Q}.weight_format", np.full((), 2, np.uint8)), "weight_format is 2, but must be 0"),
    ("int8", {}, without(".SCB"), "load_in_8bit is true, but no tensor is named ….SCB"),
    ("int8", {}, without(f"{Q}.SCB"), "tensor 'model.layers.0.self_attn.q_proj.weight': is stored as I8"),
]


@pytest.mark.parametrize(
    ("name", "fields", "change", "message"), REFUSED, ids=[message[:45] for *_, message in REFUSED]
)
def test_what_cannot_be_read_is_refused_in_one_line(
    name: str, fields: dict[str, Any], change: Any, message: str, tmp_path: Path
) -> None:
    pack, config = FORMATS[name]
    packed, _ = write(tmp_path, pack, {**config, **fields}, change=change)
    with pytest.raises((ConfigError, WeightsError, FileFormatError), match=re.escape(message)) as error:
        load(packed)
    assert str(error.value).startswith(str(packed))
    assert "\n" not in str(error.value)


def test_groups_of_compressed_tensors_go_by_name(tmp_path: Path) -> None:
    config = compressed(4, "group")
    linear = config["config_groups"]["group_0"]
    other = {"targets": ["model.layers.0.self_attn.q_proj"], "weights": {**linear["weights"], "num_bits": 8}}
    pack8, pack4 = compressed_packer(8, 8, "none"), compressed_packer(4, 8, "none")

    def mixed(rng: Any, module: str, shape: tuple[int, int]) -> Any:
        return (pack8 if module == "model.layers.0.self_attn.q_proj" else pack4)(rng, module, shape)

    groups = {"config_groups": {"group_0": linear, "group_1": other}}
    packed, dense = write(tmp_path, mixed, {**config, **groups})
    model = load(packed, keep_decoded=False)
    assert model.parts.weights["layers.0.attn.q.weight"].format == "PACKED8"
    np.testing.assert_array_equal(model.forward(IDS), load(dense).forward(IDS))
    other["targets"] = ["re:.*q_proj"]
    packed, _ = write(tmp_path / "pattern", mixed, {**config, **groups})
    with pytest.raises(WeightsError, match="name modules by patterns; write the modules' names out"):
        load(packed)
    other["targets"], linear["targets"] = ["Linear"], ["Linear"]
    packed, _ = write(tmp_path / "twice", mixed, {**config, **groups})
    with pytest.raises(WeightsError, match="2 config_groups name 'Linear'; leave one"):
        load(packed)


def test_the_zero_biases_of_autogptq_are_spare_and_others_are_left_over(tmp_path: Path) -> None:
    """A Llama has none; those that Qwen2 has are its own."""
    pack, config = FORMATS["gptq 4 v1"]
    bias = f"model.{Q}.bias"
    packed, dense = write(tmp_path, pack, config, change=also(bias, np.zeros(24, dtype="<f2")))
    np.testing.assert_array_equal(load(packed).forward(IDS), load(dense).forward(IDS))
    one = np.zeros(24, dtype="<f2")
    one[7] = 1
    packed, _ = write(tmp_path / "one", pack, config, change=also(bias, one))
    with pytest.raises(WeightsError, match=r"q_proj\.bias left over"):
        load(packed)
    awq_pack, awq_config = FORMATS["awq"]
    packed, _ = write(tmp_path / "awq", awq_pack, awq_config, change=also(bias, np.zeros(24, dtype="<f2")))
    with pytest.raises(WeightsError, match=r"q_proj\.bias left over"):
        load(packed)
    packed, dense = write(tmp_path / "qwen2", pack, config, name="qwen2")
    np.testing.assert_array_equal(load(packed).forward(IDS), load(dense).forward(IDS))


def test_the_version_decides_where_the_words_do_not(tmp_path: Path) -> None:
    """40 codes of 3 bits take 4 words with or without gaps."""
    config = compressed(3, "group")
    for version, aligned in (("0.18.0", False), ("0.20.0.a1", False), ("0.17.1", True), ("0.9.4", True)):
        packer = compressed_packer(3, 8, "none", aligned=aligned)
        packed, dense = write(tmp_path / version, packer, {**config, "version": version})
        np.testing.assert_array_equal(load(packed).forward(IDS), load(dense).forward(IDS))
    packed, _ = write(tmp_path / "silent", compressed_packer(3, 8, "none"), {**config, "version": None})
    with pytest.raises(WeightsError, match="40 codes of 3 bits take 4 words with or without gaps; say which"):
        load(packed)


def test_quantised_activations_are_refused(tmp_path: Path) -> None:
    config = compressed(4, "group")
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8}
    packed, _ = write(tmp_path, FORMATS["pack 4 group"][0], config)
    with pytest.raises(ConfigError, match=r"input_activations is \{'num_bits': 8\}, but must be \{\}"):
        load(packed)


@pytest.mark.parametrize("kind", ["gptq", "nf4", "int8"])
def test_packed_matrices_of_gpt2_lie_as_everybody_s(kind: str, tmp_path: Path) -> None:
    """Dense ones are stored (I, O); AutoGPTQ and transformers turn them before they are packed."""
    name = "transformer.h.0.mlp.c_fc"
    packer, config = {
        "gptq": (gptq_packer(4, 2, "plain"), {**gptq(4, checkpoint_format="gptq_v2"), "group_size": 10}),
        "nf4": FORMATS["nf4"],
        "int8": FORMATS["int8"],
    }[kind]
    found = packer(np.random.default_rng(0), name, (80, 20))
    assert found is not None
    weight, parts = found

    def instead(by: Parts) -> Any:
        return lambda old: {key: value for key, value in old.items() if key != f"{name}.weight"} | by

    packed, _ = write(tmp_path, lambda *_: None, config, name="gpt2", change=instead(parts))
    dense, _ = write(
        tmp_path / "dense", lambda *_: None, {}, name="gpt2",
        change=instead({f"{name}.weight": stored(np.ascontiguousarray(weight.decode().T))}),
    )  # fmt: skip
    np.testing.assert_array_equal(load(packed).forward(IDS), load(dense).forward(IDS))
    if kind != "gptq":  # whose group size would not fit either
        wrong = packer(np.random.default_rng(0), name, (20, 80))
        assert wrong is not None
        packed, _ = write(tmp_path / "turned", lambda *_: None, config, name="gpt2", change=instead(wrong[1]))
        with pytest.raises(WeightsError, match=r"c_fc\.weight: shape is \(20, 80\), but the config needs \(80, 20\)"):
            load(packed)
