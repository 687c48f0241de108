"""Lint finds each planted defect, says nothing of a healthy file, and does not guess."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden_cases
import numpy as np
import pytest
import real_models
from planted import mutated
from tiny_models import write_stored
from wide_model import METADATA, wide_gguf, wide_tensors

from lepton_ref.audit import lint as page
from lepton_ref.audit.findings import Finding, Findings
from lepton_ref.audit.lint import lint, lint_tensors
from lepton_ref.compress.quantise_file import quantise_file
from lepton_ref.compress.recipe import Recipe
from lepton_ref.files import FileFormatError, TensorFile, read_gguf, write_gguf
from lepton_ref.storage import FORMATS, BlockQuantised, encode
from lepton_ref.storage.encoders.mx import encode_mx

TINY = golden_cases.GOLDEN / "tiny"
UP = "blk.0.ffn_up.weight"


def quantised(path: Path, format_: str = "Q8_0", **more: Any) -> Path:
    source = wide_gguf(path.with_name("source.gguf"), **more)
    quantise_file(source, path, Recipe(format=format_))
    return path


def rules(found: Findings) -> list[tuple[str, str, str]]:
    return [(one.severity, one.rule, one.tensor) for one in found]


# --- healthy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "F16"])
def test_a_healthy_file_is_clean(format_: str, tmp_path: Path) -> None:
    assert lint(quantised(tmp_path / "x.gguf", format_)) == ()


@pytest.mark.parametrize("name", ["llama", "llama_sharded", "gpt2", "bert", "qwen3"])
def test_healthy_folders_are_clean(name: str) -> None:
    assert lint(TINY / name) == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_published_models_are_clean(name: str, tmp_path: Path) -> None:
    assert lint(real_models.smollm2() if name == "smollm2" else real_models.gemma3(tmp_path)) == ()


# --- planted defects --------------------------------------------------------------------------------------------------


def broken(change: Callable[[Any], None]) -> Any:
    array = wide_tensors()[UP].copy()
    change(array)
    return array


def set_nan(array: Any) -> None:
    array[3, 5] = np.nan


def set_inf(array: Any) -> None:
    array[-1, -1] = np.inf


def set_dead_row(array: Any) -> None:
    array[7] = 0


def set_constant_row(array: Any) -> None:
    array[7] = 0.5


def set_dead(array: Any) -> None:
    array[:] = 0


def set_constant(array: Any) -> None:
    array[:] = -2


@pytest.mark.parametrize(
    ("change", "severity", "text"),
    [
        (set_nan, "error", "1 of 65536 numbers are NaN or infinite"),
        (set_inf, "error", "1 of 65536 numbers are NaN or infinite"),
        (set_dead_row, "warning", "1 rows are all zero, of 256"),
        (set_constant_row, "warning", "1 rows are one number throughout, of 256"),
        (set_dead, "error", "every number is zero"),
        (set_constant, "error", "every number is -2"),
    ],
)
def test_values(change: Callable[[Any], None], severity: str, text: str, tmp_path: Path) -> None:
    found = lint(wide_gguf(tmp_path / "x.gguf", blk__0__ffn_up__weight=broken(change)))
    assert rules(found) == [(severity, "values", UP)]
    assert text in found[0].reason


def test_a_dead_norm_is_found_and_dead_rows_of_a_vocabulary_are_not(tmp_path: Path) -> None:
    table = wide_tensors()["token_embd.weight"].copy()
    table[5] = 0
    zero = np.zeros(256, "<f4")
    found = lint(wide_gguf(tmp_path / "x.gguf", token_embd__weight=table, output_norm__weight=zero))
    assert rules(found) == [("error", "values", "output_norm.weight")]


def scaled(format_: str, value: float) -> Any:
    raw = encode(format_, wide_tensors()[UP]).copy()
    raw[9, :2] = np.array([value], dtype="<f2").view(np.uint8)
    return BlockQuantised(raw, format=FORMATS[format_])


def test_scales_that_are_not_finite(tmp_path: Path) -> None:
    found = lint(wide_gguf(tmp_path / "x.gguf", blk__0__ffn_up__weight=scaled("Q8_0", np.inf)))
    assert ("error", "scales", UP) in rules(found)
    assert "d of 1 of 2048 blocks is NaN or infinite" in str(found)


@pytest.mark.parametrize(
    ("format_", "units", "coarse"), [("Q8_0", 255, True), ("Q8_0", 256, False), ("Q4_0", 15, True), ("Q4_0", 16, False)]
)
def test_scales_that_are_subnormal(format_: str, units: int, coarse: bool, tmp_path: Path) -> None:
    every = {
        name.replace(".", "__"): BlockQuantised(encode(format_, array), format=FORMATS[format_])
        for name, array in wide_tensors().items()
        if array.ndim == 2
    }
    every["blk__0__ffn_up__weight"] = scaled(format_, units * 2.0**-24)
    found = lint(wide_gguf(tmp_path / "x.gguf", **every))
    assert rules(found) == ([("warning", "scales", UP)] if coarse else [])


def test_duplicates(tmp_path: Path) -> None:
    same = wide_tensors()[UP]
    found = lint(wide_gguf(tmp_path / "x.gguf", blk__0__ffn_gate__weight=same))
    assert rules(found) == [("warning", "duplicates", UP)]
    assert "has the same bytes as blk.0.ffn_gate.weight" in found[0].reason


def test_a_file_that_says_it_is_quantised_and_is_not(tmp_path: Path) -> None:
    metadata = {**METADATA, "llama.block_count": 1, "general.file_type": 15}
    write_gguf(tmp_path / "x.gguf", wide_tensors(), metadata)
    found = lint(tmp_path / "x.gguf")
    assert rules(found) == [("error", "unquantised", "")]
    assert "general.file_type is 15, a quantised file, but all 8 matrices are dense" in found[0].reason


def test_one_matrix_that_was_left_out(tmp_path: Path) -> None:
    quantise_file(
        wide_gguf(tmp_path / "a.gguf"), tmp_path / "x.gguf", Recipe(format="Q8_0", patterns=(("*ffn_up", "F16"),))
    )
    assert rules(lint(tmp_path / "x.gguf")) == [("warning", "unquantised", UP)]


# --- MX rounding ------------------------------------------------------------------------------------------------------


def mxfp4(path: Path, largest: list[int]) -> Path:
    """A file of blocks whose largest code is each of these; a code is 0 … 7."""
    raw = np.zeros((len(largest), 17), dtype=np.uint8)
    raw[:, 0] = 120
    raw[:, 3] = [code | (code - 1) << 4 for code in largest]
    tensors = {**wide_tensors(), "x.weight": BlockQuantised(raw, format=FORMATS["MXFP4"])}
    write_gguf(path, tensors, {**METADATA, "llama.block_count": 1})
    return path


@pytest.mark.parametrize(
    ("codes", "severity", "text"),
    [
        ([7, 6], "info", "cannot tell which rule chose the scales of MXFP4: FLOOR or RCEIL or EVEN, by 2 blocks"),
        ([7, 6, 5], "info", "MXFP4: RCEIL, by 3 blocks"),
        ([4, 5, 6], "info", "MXFP4: CEIL, by 3 blocks"),
        ([5, 6], "info", "cannot tell which rule chose the scales of MXFP4: CEIL or RCEIL, by 2 blocks"),
        ([7, 4], "warning", "MXFP4: none of the four rules, by 2 blocks"),
    ],
)
def test_which_rule_chose_the_scales(codes: list[int], severity: str, text: str, tmp_path: Path) -> None:
    found = [one for one in lint(mxfp4(tmp_path / "x.gguf", codes)) if one.rule == "mx-rounding"]
    assert [one.severity for one in found] == [severity]
    assert text in found[0].reason


def test_ggml_s_own_rule_is_among_those_that_explain_its_blocks(tmp_path: Path) -> None:
    found = lint(quantised(tmp_path / "x.gguf", "MXFP4"))
    assert [one.rule for one in found] == ["mx-rounding"]
    assert found[0].severity == "info"
    assert "FLOOR" in found[0].reason


@pytest.mark.parametrize("how", ["CEIL", "FLOOR"])
def test_matrices_of_a_folder_are_asked_as_well(how: str) -> None:
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    tensors = {"x.weight": encode_mx(x, format="MXFP4", rule=how)}
    found = lint_tensors(TensorFile(Path("x"), "safetensors", tensors, {}, 0))
    assert [(one.rule, one.severity) for one in found] == [("mx-rounding", "info")]
    assert how in found[0].reason


# --- the order of nibbles ---------------------------------------------------------------------------------------------


def with_norm(path: Path, format_: str, *, exchanged: bool, together: bool) -> Path:
    """A matrix whose columns are the smaller the larger the norm's weights are, or have nothing to do with them."""
    norm = np.exp(np.random.default_rng(8).standard_normal(256) / 2).astype("<f4")
    array = (wide_tensors()[UP] / norm if together else wide_tensors()[UP]).astype("<f4")
    raw = encode(format_, array)
    if exchanged:
        blocks = raw.reshape(-1, FORMATS[format_].nbytes)
        field = next(field for field in FORMATS[format_].fields if field.name == "qs")
        codes = blocks[:, field.at : field.at + field.nbytes]
        blocks[:, field.at : field.at + field.nbytes] = codes >> 4 | codes << 4
    matrix = BlockQuantised(raw, format=FORMATS[format_])
    return wide_gguf(path, blk__0__ffn_up__weight=matrix, blk__0__ffn_norm__weight=norm)


@pytest.mark.parametrize("format_", ["Q4_0", "Q4_1", "Q4_K", "MXFP4"])
@pytest.mark.parametrize(("exchanged", "together"), [(True, True), (False, True), (True, False), (False, False)])
def test_nibbles_that_were_exchanged(format_: str, exchanged: bool, together: bool, tmp_path: Path) -> None:
    found = lint(with_norm(tmp_path / "x.gguf", format_, exchanged=exchanged, together=together))
    wrong = [(one.severity, one.tensor) for one in found if one.rule == "nibble-order"]
    assert wrong == ([("error", UP)] if exchanged and together else [])


# --- packed matrices --------------------------------------------------------------------------------------------------


def gptq(path: Path, zero: int) -> Path:
    """A matrix of 64 × 32 in 4 bits, one group."""
    rng = np.random.default_rng(0)
    word = sum(zero << 4 * i for i in range(8))
    tensors = {
        "a.qweight": ("I32", (8, 32), rng.integers(0, 2**32, 256, dtype=np.uint32).tobytes()),
        "a.qzeros": ("I32", (1, 4), np.full(4, word, dtype=np.uint32).tobytes()),
        "a.scales": ("F16", (1, 32), np.ones(32, "<f2").tobytes()),
        "a.g_idx": ("I32", (64,), np.zeros(64, "<i4").tobytes()),
    }
    write_stored(path, tensors)
    return path


@pytest.mark.parametrize(
    ("zero", "severity", "text"),
    [
        (7, "info", "version 1, because"),
        (8, "info", "version 2, because"),
        (5, "unknown", "cannot tell version 1 or 2"),
    ],
)
def test_the_version_of_gptq(zero: int, severity: str, text: str, tmp_path: Path) -> None:
    found = [one for one in lint(gptq(tmp_path / "x.safetensors", zero)) if one.rule == "gptq-version"]
    assert [one.severity for one in found] == [severity]
    assert text in found[0].reason


def test_a_config_that_contradicts_the_zeros(tmp_path: Path) -> None:
    gptq(tmp_path / "model.safetensors", 8)
    config = {"model_type": "llama", "quantization_config": {
        "quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": False, "checkpoint_format": "gptq",
    }}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = [one for one in lint(tmp_path) if one.rule == "gptq-version"]
    assert [one.severity for one in found] == ["error"]
    assert "every stored zero is 8" in found[0].reason


def test_a_folder_that_says_it_is_packed_and_is_not(tmp_path: Path) -> None:
    write_stored(tmp_path / "model.safetensors", {"a.weight": ("F32", (2, 2), np.arange(4, dtype="<f4").tobytes())})
    config = {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert {one.severity for one in lint(tmp_path)} == {"error"}


def nvfp4(path: Path, name: str, scale: float) -> Path:
    rng = np.random.default_rng(1)
    tensors = {
        "a.weight_packed": ("U8", (4, 16), rng.integers(0, 256, 64, dtype=np.uint8).tobytes()),
        "a.weight_scale": ("F8_E4M3", (4, 2), np.full(8, 0x7E, np.uint8).tobytes()),
        f"a.{name}": ("F32", (), np.array(scale, "<f4").tobytes()),
    }
    write_stored(path, tensors)
    return path


@pytest.mark.parametrize(
    ("name", "scale", "inverted"),
    [
        ("weight_scale_2", 1e-4, False), ("weight_scale_2", 1e4, True),
        ("weight_global_scale", 1e4, False), ("weight_global_scale", 1e-4, True),
    ],
)  # fmt: skip
def test_an_inverted_scale_of_nvfp4(name: str, scale: float, inverted: bool, tmp_path: Path) -> None:
    found = [one for one in lint(nvfp4(tmp_path / "x.safetensors", name, scale)) if one.rule == "nvfp4-scale"]
    assert [one.severity for one in found] == (["error"] if inverted else [])


# --- findings, and files that cannot be read --------------------------------------------------------------------------


def test_findings_in_text_and_in_a_notebook() -> None:
    one = Finding("error", "values", "a<b", "is dead", "fetch it")
    assert str(one) == "error: values: a<b: is dead; fetch it"
    assert "<td>a&lt;b</td>" in Findings([one])._repr_html_()
    with pytest.raises(ValueError, match="severity is 'bad'; known: error, warning"):
        Finding("bad", "", "", "", "")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        lint(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").write_bytes(b"GGUX")
    with pytest.raises(FileFormatError, match="magic"):
        lint(tmp_path / "x.gguf")
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(FileFormatError, match=r"give a .gguf, a .safetensors or a model's folder"):
        lint(tmp_path / "x.bin")


# --- planted mistakes in the checks -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "bug", "change"),
    [
        ("odd += int(", "odd += 0 * int(", set_nan),
        ("alike & (flat[:, 0] == 0)", "alike & (flat[:, 0] == 1)", set_dead_row),
        ("alike & (flat[:, 0] != 0)", "alike & (flat[:, 0] != 0.5)", set_constant_row),
        ("if low == high == 0 and", "if low == high == 1 and", set_dead),
    ],
)
def test_a_check_that_misses_is_found(text: str, bug: str, change: Callable[[Any], None], tmp_path: Path) -> None:
    file = read_gguf(wide_gguf(tmp_path / "x.gguf", blk__0__ffn_up__weight=broken(change)))
    assert mutated(page, text, bug).lint_tensors(file) != lint_tensors(file) != ()
