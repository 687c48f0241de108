"""Folders in FP8, MX, NVFP4 and int8: loaded, they give the bits of the dense model of their decoded weights."""

# ruff: noqa: E501 - one wrong file a line

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_cases import GOLDEN
from numpy.typing import NDArray
from planted import mutated
from scaled_cases import golden, same
from tiny_models import Stored, config_of, f32, load, write_stored

from lepton_ref.files import read_safetensors
from lepton_ref.models import packed, scaled
from lepton_ref.models.names import WeightsError
from lepton_ref.models.reader import ConfigError, Reader
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.encoders.affine import AffineScheme, encode_affine
from lepton_ref.storage.encoders.fp8 import FP8Scheme, encode_fp8
from lepton_ref.storage.encoders.mx import encode_mx
from lepton_ref.storage.encoders.nvfp4_two_level import encode_nvfp4
from lepton_ref.storage.fp8 import FP8
from lepton_ref.storage.mx import MX
from lepton_ref.storage.nvfp4_two_level import NVFP4TwoLevel
from lepton_ref.storage.tiled import Tiled

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
TYPES = {"FP8_E4M3FN": "F8_E4M3", "FP8_E5M2": "F8_E5M2", "FP8_E4M3FNUZ": "F8_E4M3FNUZ", "FP8_E5M2FNUZ": "F8_E5M2FNUZ"}
Written = dict[str, Stored]
Encode = Callable[[NDArray[np.float32]], Tiled]
Write = Callable[[Any], Written]


def stored(kind: str, array: NDArray[Any]) -> Stored:
    return kind, array.shape, np.ascontiguousarray(array).tobytes()


def write_fp8(name: str, tile_shape: str = "") -> Write:
    def write(weight: FP8) -> Written:
        scales = weight.scales
        kind = {"E8M0": "F8_E8M0"}.get(scales.format, scales.format)
        array = scales.array.reshape({"scalar": (), "flat": (-1,), "": scales.array.shape}[tile_shape])
        return {"weight": stored(TYPES[weight.format], weight.codes), name: stored(kind, array)}

    return write


def write_mx(elements: str, kind: str = "U8", scales: str = "U8") -> Write:
    return lambda w: {elements: stored(kind, w.packed), "weight_scale": stored(scales, w.exponents.array)}


def write_nvfp4(elements: str, name: str) -> Write:
    return lambda w: {
        elements: stored("U8", w.packed),
        "weight_scale": stored("F8_E4M3", w.scales.array),
        name: stored("F32", np.array([w.global_scale], dtype=np.float32)),
        "input_scale": stored("F32", np.array(1.0, dtype=np.float32)),
    }


def write_int8(w: Affine) -> Written:
    found = {"weight": stored("I8", w.packed.view(np.int8)), "weight_scale": stored("F32", w.scales.array)}
    if w.zeros is not None:
        found["weight"] = stored("I8", (w.packed ^ np.uint8(128)).view(np.int8))
        found["weight_zero_point"] = stored("I8", (w.zeros.astype(int) - 128).astype(np.int8))
    return found


def compressed(format: str, **weights: Any) -> dict[str, Any]:
    activations = {"num_bits": 8, "dynamic": True}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": {"group_0": group}, "ignore": []}


def fp8(**scheme: Any) -> Encode:
    return lambda x: encode_fp8(x, scheme=FP8Scheme(**scheme))


CASES: dict[str, tuple[dict[str, Any], Encode, Write]] = {
    "deepseek": (
        {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [40, 24]},
        fp8(per=(40, 24)),
        write_fp8("weight_scale_inv"),
    ),
    "deepseek E8M0": (
        {"quant_method": "fp8", "weight_block_size": [40, 24], "scale_fmt": "ue8m0"},
        fp8(per=(40, 24), scale_format="E8M0"),
        write_fp8("weight_scale_inv"),
    ),
    "fp8 a tensor": ({"quant_method": "fp8"}, fp8(per="tensor", format="E5M2"), write_fp8("weight_scale", "scalar")),
    "fp8 fnuz": ({"quant_method": "fp8"}, fp8(per="channel", format="E4M3FNUZ"), write_fp8("weight_scale")),
    "float channel": (
        compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        fp8(per="channel", scale_format="BF16"),
        write_fp8("weight_scale"),
    ),
    "float flat": (
        compressed("naive-quantized", num_bits=8, type="float", strategy="channel"),
        fp8(per="channel"),
        write_fp8("weight_scale", "flat"),
    ),
    "float block": (
        compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[128, 40]),
        fp8(per=(128, 40)),
        write_fp8("weight_scale"),
    ),
    "int8": (
        compressed("int-quantized", num_bits=8, type="int", strategy="channel", symmetric=True),
        lambda x: encode_affine(x, scheme=AffineScheme(8, symmetric=True)),
        write_int8,
    ),
    "int8 asymmetric": (
        compressed("naive-quantized", num_bits=8, type="int", strategy="channel", symmetric=False),
        lambda x: encode_affine(x + np.float32(0.01), scheme=AffineScheme(8, symmetric=False)),
        write_int8,
    ),
    "mxfp8": (
        compressed("mxfp8-quantized", num_bits=8, type="float", strategy="group", group_size=32),
        lambda x: encode_mx(x, format="MXFP8_E4M3", rule="RCEIL"),
        write_mx("weight", "F8_E4M3"),
    ),
    "mxfp6": (
        compressed("mxfp6-pack-quantized", num_bits=6, type="float", strategy="group", group_size=32),
        lambda x: encode_mx(x, format="MXFP6_E2M3", rule="EVEN"),
        write_mx("weight_packed"),
    ),
    "mxfp4": (
        compressed("mxfp4-pack-quantized", num_bits=4, type="float", strategy="group", group_size=32),
        lambda x: encode_mx(x, format="MXFP4", rule="FLOOR"),
        write_mx("weight_packed", scales="F8_E8M0"),
    ),
    "nvfp4": (
        compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16),
        lambda x: encode_nvfp4(x, convention="divide"),
        write_nvfp4("weight_packed", "weight_global_scale"),
    ),
    "modelopt nvfp4": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        lambda x: encode_nvfp4(x, convention="multiply"),
        write_nvfp4("weight", "weight_scale_2"),
    ),
    "modelopt fp8": ({"quant_method": "modelopt", "quant_algo": "FP8"}, fp8(per="tensor"), write_fp8("weight_scale")),
}
KINDS = {"nvfp4": NVFP4TwoLevel, "modelopt nvfp4": NVFP4TwoLevel, "int8": Affine, "int8 asymmetric": Affine}


def dense_tensors() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(11)
    d, f, kv = 64, 96, 32
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (61, d), "lm_head": (61, d), "model.norm": (d,)}
    for number in range(config_of()["num_hidden_layers"]):
        at = f"model.layers.{number}"
        shapes |= {f"{at}.input_layernorm": (d,), f"{at}.post_attention_layernorm": (d,)}
        shapes |= {f"{at}.mlp.gate_proj": (f, d), f"{at}.mlp.up_proj": (f, d), f"{at}.mlp.down_proj": (d, f)}
        shapes |= {f"{at}.self_attn.q_proj": (d, d), f"{at}.self_attn.o_proj": (d, d)}
        shapes |= {f"{at}.self_attn.k_proj": (kv, d), f"{at}.self_attn.v_proj": (kv, d)}
    return {name: (rng.standard_normal(shape) / 8).astype(np.float32) for name, shape in shapes.items()}


def config(quantised: dict[str, Any] | None) -> dict[str, Any]:
    fields = {**config_of(), **SIZES}
    fields.pop("head_dim", None)
    return fields if quantised is None else {**fields, "quantization_config": quantised}


def write(folder: Path, fields: dict[str, Any], tensors: Written) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    write_stored(folder / "model.safetensors", tensors)
    return folder


def both(folder: Path, case: str) -> tuple[Path, Path, dict[str, Tiled]]:
    """The quantised folder and the dense one of its values."""
    quantised, encode, parts = CASES[case]
    small: Written = {}
    dense: Written = {}
    made: dict[str, Tiled] = {}
    for name, x in dense_tensors().items():
        if "_proj" not in name:
            small[f"{name}.weight"] = dense[f"{name}.weight"] = f32(x)
            continue
        made[name] = encode(x)
        small |= {f"{name}.{part}": tensor for part, tensor in parts(made[name]).items()}
        dense[f"{name}.weight"] = f32(made[name].decode())
    return write(folder / "packed", config(quantised), small), write(folder / "dense", config(None), dense), made


@pytest.mark.parametrize("case", CASES)
def test_a_quantised_folder_gives_the_bits_of_its_decoded_weights(case: str, tmp_path: Path) -> None:
    quantised, dense, made = both(tmp_path, case)
    model, plain = load(quantised, keep_decoded=False), load(dense)
    ids = np.array([[3, 14, 15, 9, 2, 6]])
    assert same(model.forward(ids), plain.forward(ids))
    found = [weight for weight in model.parts.weights.values() if isinstance(weight, Tiled)]
    assert len(found) == len(made)
    kind = KINDS.get(case, MX if "mx" in case else FP8)
    assert all(type(weight) is kind for weight in found)
    assert sum(weight.nbytes for weight in found) == sum(weight.nbytes for weight in made.values())
    weight = found[0]
    stems = {part.name: weight.tensors[part.name] for part in weight.read(1, 2)}
    assert all(any(f".{ending}" in name for name in _names(quantised)) for ending in stems.values())


def _names(folder: Path) -> list[str]:
    data = (folder / "model.safetensors").read_bytes()
    return list(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))


@pytest.mark.parametrize("name", sorted(path.stem for path in (GOLDEN / "storage_scaled").glob("*.json")))
def test_a_matrix_that_compressed_tensors_stored_has_its_values(name: str) -> None:
    file = read_safetensors(GOLDEN / "storage_scaled" / f"{name}.safetensors")
    settings = json.loads((GOLDEN / "storage_scaled" / f"{name}.json").read_text(encoding="utf-8"))
    others = [*file.integers, *file.refused]
    found = packed.group(
        Reader(settings, where=name), file.tensors, file.integers, others=others, where=name, codes=file.codes
    )
    assert (list(found.tensors), found.others) == (["proj.weight"], [])
    assert same(found.tensors["proj.weight"].decode(), golden()[f"{name}_values"])


def test_the_global_scales_of_both_makers_mean_the_same(tmp_path: Path) -> None:
    x = dense_tensors()["model.layers.0.mlp.up_proj"]
    x = x * np.float32(2688 * 2.0**-12) / np.abs(x).max()  # G and 1/G are powers of two
    x = np.clip(x.astype(np.float32), -2688 * 2.0**-12, 2688 * 2.0**-12).astype(np.float32)
    divide, multiply = (encode_nvfp4(x, convention=c) for c in ("divide", "multiply"))
    assert divide.global_scale == 1 / multiply.global_scale
    assert same(divide.decode(), multiply.decode())


def changed(folder: Path, case: str, change: Callable[[dict[str, Any], Written], None]) -> Path:
    quantised, encode, parts = CASES[case]
    tensors: Written = {}
    for name, x in dense_tensors().items():
        some = parts(encode(x)) if "_proj" in name else {"weight": f32(x)}
        tensors |= {f"{name}.{part}": tensor for part, tensor in some.items()}
    fields = json.loads(json.dumps(config(quantised)))
    change(fields["quantization_config"], tensors)
    return write(folder, fields, tensors)


Q = "model.layers.0.self_attn.q_proj"


def inverted(settings: dict[str, Any], tensors: Written) -> None:
    for name in [name for name in tensors if name.endswith("weight_global_scale")]:
        g = np.frombuffer(tensors[name][2], dtype=np.float32)
        tensors[name] = stored("F32", 1 / g)


WRONG: list[tuple[str, str, Callable[[dict[str, Any], Written], Any], type[ValueError], str]] = [
    ("a lost scale", "deepseek", lambda s, t: t.pop(f"{Q}.weight_scale_inv"), WeightsError, "q_proj.weight_scale missing"),
    ("an inverted global scale", "nvfp4", inverted, WeightsError, "is to divide, but the largest weight is"),
    (
        "another block size", "deepseek", lambda s, t: s.update(weight_block_size=[128, 128]), WeightsError,
        r"in tiles of \(128, 128\) has \(1, 1\) of them, got scales",
    ),
    ("no block size", "deepseek", lambda s, t: s.pop("weight_block_size"), WeightsError, "no block size in the config"),
    ("a strange block size", "deepseek", lambda s, t: s.update(weight_block_size=[1]), ConfigError, "two integers"),
    ("an unknown setting", "deepseek", lambda s, t: s.update(rotation="hadamard"), ConfigError, "rotation"),
    ("another method", "deepseek", lambda s, t: s.update(quant_method="quip"), ConfigError, "quip"),
    ("another algorithm", "modelopt fp8", lambda s, t: s.update(quant_algo="W4A8"), ConfigError, "FP8 or NVFP4"),
    (
        "groups that differ", "int8",
        lambda s, t: s["config_groups"].update(group_1={"weights": {"num_bits": 4}}), ConfigError, "groups of equal weights",
    ),
    (
        "a group of 16", "mxfp4", lambda s, t: s["config_groups"]["group_0"]["weights"].update(group_size=16),
        ConfigError, "group_size",
    ),
    (
        "no such tensors", "mxfp4", lambda s, t: [t.pop(n) for n in list(t) if "packed" in n], WeightsError,
        "no tensor of the file has",
    ),
    ("a cut row", "mxfp4", lambda s, t: t.update({f"{Q}.weight_scale": stored("U8", np.zeros((64, 1), np.uint8))}),
     WeightsError, "blocks a row are"),
    ("two global scales", "nvfp4", lambda s, t: t.update({f"{Q}.weight_global_scale": f32(np.ones(2))}), WeightsError,
     "has 2 numbers, one is read"),
    ("scales that are codes", "nvfp4", lambda s, t: t.update({f"{Q}.weight_scale": f32(np.ones((64, 4)))}), WeightsError,
     "holds no FP8 codes"),
    ("bytes for int8", "int8", lambda s, t: t.update({f"{Q}.weight": stored("U8", np.zeros((64, 64), np.uint8))}),
     WeightsError, "a matrix of int8"),
    ("float scales of MX", "mxfp8", lambda s, t: t.update({f"{Q}.weight_scale": f32(np.ones((64, 2)))}), WeightsError,
     "has E8M0 scales"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "case", "change", "error", "message"), WRONG, ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_wrong_folder_is_refused(
    what: str,
    case: str,
    change: Callable[[dict[str, Any], Written], Any],
    error: type[ValueError],
    message: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(error, match=message):
        load(changed(tmp_path, case, change))


def test_fp8_without_a_config_is_still_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="F8_E4M3"):
        load(write(tmp_path, config(None), dict(_fp8_tensors())))


def _fp8_tensors() -> Written:
    _, encode, parts = CASES["deepseek"]
    found: Written = {}
    for name, x in dense_tensors().items():
        some = parts(encode(x)) if "_proj" in name else {"weight": f32(x)}
        found |= {f"{name}.{part}": tensor for part, tensor in some.items()}
    return found


BUGS = [
    ("FP8 of another format", "deepseek", '"F8_E4M3": "E4M3FN"', '"F8_E4M3": "E4M3FNUZ"'),
    (
        "the block the other way round",
        "deepseek",
        "(int(block[0]), int(block[1]))\n    return _each",
        "(int(block[1]), int(block[0]))\n    return _each",
    ),
    ("an inverted global scale", "nvfp4", '"weight_global_scale", "divide")', '"weight_global_scale", "multiply")'),
    (
        "the other global scale inverted",
        "modelopt nvfp4",
        '"weight_scale_2", "multiply")',
        '"weight_scale_2", "divide")',
    ),
    ("a zero point off by one", "int8 asymmetric", "zeros = stored.astype", "zeros = (stored + 1).astype"),
    ("a zero point that is not read", "int8 asymmetric", "scales, zeros, bits=8", "scales, None, bits=8"),
]


@pytest.mark.parametrize(("what", "case", "text", "bug"), BUGS, ids=lambda value: value)
def test_a_wrong_reader_is_caught(
    what: str, case: str, text: str, bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed_folder, dense, _ = both(tmp_path, case)
    wrong = mutated(scaled, text, bug)
    monkeypatch.setattr(packed, "scaled", wrong)
    readers = {"fp8": wrong.read_fp8, "modelopt": wrong.read_modelopt, "compressed-tensors": wrong.read_compressed}
    monkeypatch.setattr(packed, "METHODS", readers)
    ids = np.array([[3, 14, 15, 9, 2, 6]])
    try:
        got = load(packed_folder).forward(ids)
    except ValueError:
        return
    assert not same(got, load(dense).forward(ids))
