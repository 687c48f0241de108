"""Folders that `write_folder` writes, as transformers loads them: the weights are the same numbers, bit for bit.

Needs torch, transformers, and compressed-tensors or bitsandbytes beside this Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_cases as cases
import numpy as np
import pytest
from golden_cases import GOLDEN
from numpy.typing import NDArray
from tiny_models import load

from lepton_ref import Model
from lepton_ref.compress.calibration import calibrate
from lepton_ref.compress.folder_weights import layer_matrices, quantise_matrices
from lepton_ref.compress.layers import quantise_layers
from lepton_ref.compress.to_folder import write_folder
from lepton_ref.models import FAMILIES
from lepton_ref.storage import Weight
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.encoders.affine import AffineScheme
from lepton_ref.storage.encoders.fp8 import FP8Scheme, encode_fp8

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the peers' own warnings

NAMED = "compressed-tensors"


def peer(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed beside this Python")


def theirs(folder: Path, how: str) -> dict[str, NDArray[Any]]:
    """Name in the file → what transformers computes with, in float32."""
    transformers, torch = peer("transformers"), peer("torch")
    peer("compressed_tensors")
    config = {
        "dequantised": lambda: transformers.CompressedTensorsConfig(dequantize=True),
        "fp8": lambda: transformers.FineGrainedFP8Config(dequantize=True),
        "as packed": lambda: None,
    }[how]()
    more = {} if config is None else {"quantization_config": config}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **more)
    if how == "as packed":
        with torch.no_grad():
            model(torch.tensor([[3, 4, 5]]))  # which is when the weights are decoded
    return {name: tensor.numpy() for name, tensor in model.state_dict().items() if tensor.dtype == torch.float32}


def as_theirs(weight: Weight) -> NDArray[np.float32]:
    """compressed-tensors rounds s·(q − z) once to the format of the scales, which for float32 is what `decode` does."""
    if isinstance(weight, Affine) and weight.scales.format == "F16":
        return weight.unrounded(np.arange(weight.shape[0])).astype(np.float16).astype(np.float32)
    return weight.decode()


def check(model: Model, weights: Mapping[str, Weight], folder: Path, format: str, how: str = "dequantised") -> None:
    write_folder(model, weights, folder, format=format)
    found = theirs(folder, how)
    table = FAMILIES[model.parts.fields["model_type"]].names
    count = 0
    for name, weight in {**model.parts.weights, **weights}.items():
        part, stored = table.source(name)
        whole = found[stored]
        got = whole if part.rows is None else whole[part.rows(model.config)]
        assert np.array_equal(got.view(np.uint32), as_theirs(weight).view(np.uint32)), name
        count += name in weights
    assert count == len(weights) > 0


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return load(cases.llama(tmp_path / "source"))


@pytest.mark.parametrize("per", ["tensor", "channel", 32])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_transformers_decodes_the_same_numbers(
    bits: int, symmetric: bool, per: Any, tmp_path: Path, model: Model
) -> None:
    check(model, cases.encoded(model, AffineScheme(bits, symmetric, per=per)), tmp_path / "out", NAMED)


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_what_a_method_finds_is_decoded_the_same(method: str, tmp_path: Path, model: Model) -> None:
    wanted = "layers.0.mlp" if method == "awq" else "layers."
    found = quantise_layers(cases.seen(model), "int4-g32", method=method, only=lambda name: name.startswith(wanted))
    check(model, found, tmp_path / "out", NAMED)


def test_several_widths_in_one_folder(tmp_path: Path, model: Model) -> None:
    four, eight = (cases.encoded(model, AffineScheme(bits, True, per=32)) for bits in (4, 8))
    mixed = {name: eight[name] if "down" in name else four[name] for name in four if "attn.v" not in name}
    check(model, mixed, tmp_path / "out", NAMED, "as packed")  # dequantised, transformers takes the first for all


def test_transformers_runs_what_stays_packed(tmp_path: Path, model: Model) -> None:
    check(model, cases.encoded(model, AffineScheme(4, True, per=32)), tmp_path / "out", NAMED, "as packed")


@pytest.mark.parametrize("name", ["llama_tied", "phi3", "qwen3"])
def test_other_families(name: str, tmp_path: Path) -> None:
    model = load(GOLDEN / "tiny" / name)
    found = quantise_layers(calibrate(model, cases.IDS[:20], length=20), "int4-g4-fp32", method="rtn")
    check(model, found, tmp_path / "out", NAMED)


@pytest.mark.parametrize("per", ["tensor", "channel", (32, 32)])
def test_fp8(per: Any, tmp_path: Path, model: Model) -> None:
    names = cases.encoded(model, AffineScheme(4, True))
    found = {n: encode_fp8(model.parts.weights[n].decode(), scheme=FP8Scheme(per=per)) for n in names}
    check(model, found, tmp_path / "out", NAMED)
    if per == (32, 32):
        check(model, found, tmp_path / "blocks", "fp8", "fp8")


def test_another_zero_point_would_be_found(tmp_path: Path, model: Model) -> None:
    one, other = (cases.encoded(model, AffineScheme(4, symmetric, per=32)) for symmetric in (True, False))
    write_folder(model, one, tmp_path / "out", format=NAMED)
    found = theirs(tmp_path / "out", "dequantised")["model.layers.0.self_attn.q_proj.weight"]
    assert not np.array_equal(found, other["layers.0.attn.q.weight"].decode())


def test_bitsandbytes_decodes_the_same_numbers(tmp_path: Path, model: Model) -> None:
    transformers, torch, bnb = peer("transformers"), peer("torch"), peer("bitsandbytes")
    names = [name for name in layer_matrices(model.program) if "down" not in name]  # whole blocks of 64 in a row
    found = quantise_matrices(model, "nf4", names=names)
    write_folder(model, found, tmp_path / "out", format="bitsandbytes")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    modules = dict(theirs.named_modules())
    for name, weight in {**model.parts.weights, **found}.items():
        stored = FAMILIES["llama"].names.source(name)[1]
        tensor = modules[stored.removesuffix(".weight")].weight
        assert isinstance(tensor, bnb.nn.Params4bit) == (name in found)
        if name in found:
            tensor = bnb.functional.dequantize_4bit(tensor.data, tensor.quant_state)
        assert np.array_equal(tensor.detach().numpy().view(np.uint32), weight.decode().view(np.uint32)), name
