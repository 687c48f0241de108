"""Folders of GPTQ and AWQ that `write_folder` writes, in GPTQModel's own layers: the same numbers, rounded to float16.

Needs torch and gptqmodel beside this Python; its layers are made one by one, for a whole model it compiles kernels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_cases as cases
import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import load

from lepton_ref import Model
from lepton_ref.compress.folder_weights import quantise_matrices
from lepton_ref.compress.to_folder import write_folder
from lepton_ref.files import read_safetensors
from lepton_ref.models import FAMILIES
from lepton_ref.storage import Dense, Weight
from lepton_ref.storage.gptq import GPTQ

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the peer's own warnings


def peer(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed beside this Python")


def theirs(folder: Path, module: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """What GPTQModel's layer multiplies by, (O, I)."""
    torch = peer("torch")
    peer("gptqmodel")
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    said = json.loads((folder / "config.json").read_text())["quantization_config"]
    awq = said["quant_method"] == "awq"
    layer = (AwqTorchLinear if awq else TorchLinear)(
        bits=said["bits"], group_size=said["group_size"], sym=said.get("sym", False),
        desc_act=said.get("desc_act", False), in_features=shape[1], out_features=shape[0], bias=False,
        pack_dtype=torch.int32, register_buffers=True,
    )  # fmt: skip
    file = read_safetensors(folder)
    for part in ("qweight", "qzeros", "scales", *([] if awq else ["g_idx"])):
        name = f"{module}.{part}"
        stored = file.tensors[name] if part == "scales" else file.integers[name]
        tensor = torch.from_numpy(np.array(stored.array if isinstance(stored, Dense) else stored))
        wanted = getattr(layer, part)
        assert (tensor.shape, tensor.dtype) == (wanted.shape, wanted.dtype), part
        setattr(layer, part, tensor)
    if said.get("checkpoint_format") == "gptq":
        convert_gptq_v1_to_v2_format_module(layer, said["bits"], torch.int32)
    layer.post_init()
    found = layer(torch.eye(shape[1], dtype=torch.float16)) if awq else layer.dequantize_weight()
    return np.asarray(found.detach().float().numpy().T)


def check(folder: Path, config: Any) -> None:
    model = load(folder, keep_decoded=False)
    count = 0
    for name, weight in model.parts.weights.items():
        if isinstance(weight, Dense):
            continue
        module = FAMILIES["llama"].names.source(name)[1].removesuffix(".weight")
        wanted = weight.unrounded(np.arange(weight.shape[0])).astype(np.float16).astype(np.float32)
        assert np.array_equal(theirs(folder, module, weight.shape), wanted), module
        count += 1
    assert count == 7 * cases.LAYERS
    said = config.from_pretrained(str(folder))
    wanted = model.parts.fields["quantization_config"]
    assert (said.bits, said.group_size) == (wanted["bits"], wanted["group_size"])
    assert str(getattr(said.format, "value", said.format)) == wanted.get("checkpoint_format", "gemm")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return load(cases.llama(tmp_path / "source"))


GRIDS = [(f"int{bits}-g32", "gptq_v2") for bits in (2, 3, 4, 8)] + [("int4", "gptq_v2"), ("int4", "awq")]
GRIDS += [(f"int{bits}-g32-sym", "gptq") for bits in (2, 3, 4, 8)] + [("int4-g32", "awq")]


@pytest.mark.parametrize(("format_", "folder"), GRIDS)
def test_gptqmodel_decodes_the_same_numbers(format_: str, folder: str, tmp_path: Path, model: Model) -> None:
    config = peer("gptqmodel").QuantizeConfig
    write_folder(model, quantise_matrices(model, format_), tmp_path / "out", format=folder)
    check(tmp_path / "out", config)


def test_an_order_of_groups(tmp_path: Path, model: Model) -> None:
    config = peer("gptqmodel").QuantizeConfig
    write_folder(model, quantise_matrices(model, "int4-g32"), tmp_path / "a", format="gptq_v2")
    rng = np.random.default_rng(5)
    shuffled: dict[str, Weight] = {}
    for name, weight in load(tmp_path / "a", keep_decoded=False).parts.weights.items():
        if isinstance(weight, GPTQ):
            assert weight.g_idx is not None
            parts: dict[str, Any] = {"bits": 4, "version": 2, "g_idx": rng.permutation(weight.g_idx)}
            shuffled[name] = GPTQ(weight.qweight, weight.qzeros, weight.scales, **parts)
    write_folder(model, shuffled, tmp_path / "b", format="gptq_v2")
    check(tmp_path / "b", config)
