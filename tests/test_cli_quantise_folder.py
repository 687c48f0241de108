"""`quantize FOLDER OUT --as FORMAT`: the folder of a method's weights, its record, and refusals in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_cases as cases
import numpy as np
import pytest
from talking_model import TOKENS
from tiny_models import llama_gguf, load

from lepton_ref.compress import calibration, folder_weights
from lepton_ref.compress.calibration import calibrate
from lepton_ref.compress.folder_weights import quantise_matrices
from lepton_ref.compress.layers import quantise_layers
from lepton_ref.compress.manifest import MANIFEST
from lepton_ref.files import read_safetensors

Told = Callable[..., tuple[int, str, str]]
PAGE = "hello abc, said the cab and went. " * 2


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
WORDS = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": BYTES,
    "decoder": BYTES,
    "model": {
        "type": "BPE", "vocab": {token: n for n, token in enumerate(TOKENS)}, "merges": ["a b", "Ġ a"],
        "dropout": None, "fuse_unk": False, "byte_fallback": False,
    },
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = cases.llama(tmp_path / "source")
    (folder / "tokenizer.json").write_text(json.dumps(WORDS), encoding="utf-8")
    return folder


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "page.txt").write_text(PAGE, encoding="utf-8")
    return tmp_path / "page.txt"


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_safetensors(folder).metadata[MANIFEST])
    return found


def tensors(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("format_", "method", "folder"),
    [
        ("int4-g32", "rtn", "awq"),
        ("int4-g32", "hqq", "compressed-tensors"),
        ("int3-g32-sym", "rtn", "gptq"),
        ("fp8-32x32", "rtn", "fp8"),
        ("nf4", "rtn", "bitsandbytes"),
    ],
)
def test_a_matrix_alone(told: Told, source: Path, tmp_path: Path, format_: str, method: str, folder: str) -> None:
    out = tmp_path / "out"
    code, text, error = told("quantize", source, out, "--as", folder, "--format", format_, "--method", method)
    assert code == 0, error
    lines = dict(line.rsplit("  ", 1) for line in text.splitlines())
    found = {name.strip(): value.strip() for name, value in lines.items()}
    assert (found["folder"], found["packed as"], found["method"]) == (str(out), folder, method)
    assert (found["packed"], found["dense"]) == ("14", "1")
    model = load(source)
    weights = quantise_matrices(model, format_, method=method)
    assert cases.forward(load(out)) == cases.forward(cases.with_weights(model, weights))
    scales = {"scales": "minmax"} if method == "rtn" and format_.startswith("int") else {}
    assert manifest_of(out)["record"] == {"method": method, "format": format_, **scales}


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_by_a_text(
    told: Told, source: Path, page: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["layers.0.attn.o.weight"]
    monkeypatch.setattr(folder_weights, "layer_matrices", lambda program: names)
    words = ("--as", "awq", "--format", "int4-g32", "--method", method, "--calibrate", page, "--tokens", 48)
    for name in ("a", "b"):
        code, text, error = told("quantize", source, tmp_path / name, *words, "--length", 16, "--json")
        assert code == 0, error
    assert json.loads(text)["packed"] == 1
    model = load(source)
    seen = calibrate(model, model.tokenizer.encode(PAGE)[:48], length=16)
    weights = quantise_layers(seen, "int4-g32", method=method, only=names.__contains__)
    assert cases.forward(load(tmp_path / "a")) == cases.forward(cases.with_weights(model, weights))
    of_gptq = {"damp": 0.01, "act_order": False, "follow": False, "block": 128, "sequential": True}
    assert manifest_of(tmp_path / "a")["record"] == {
        "method": method, "format": "int4-g32", "scales": "minmax", **(of_gptq if method == "gptq" else {}),
        "calibration": seen.record(),
    }  # fmt: skip
    assert tensors(tmp_path / "a") == tensors(tmp_path / "b")


def test_a_text_alone_means_gptq(told: Told, source: Path, page: Path, tmp_path: Path) -> None:
    words = ("--as", "gptq_v2", "--format", "int4-g32", "--calibrate", page, "--length", 16)
    code, text, error = told("quantize", source, tmp_path / "out", *words)
    assert code == 0, error
    assert "gptq_v2" in text
    assert manifest_of(tmp_path / "out")["record"]["method"] == "gptq"
    plain = quantise_matrices(load(source), "int4-g32")["layers.0.attn.q.weight"]
    found = load(tmp_path / "out").parts.weights["layers.0.attn.q.weight"]
    assert not np.array_equal(found.decode(), plain.decode()), "the text says nothing"


def test_every_module_is_listed_and_notes_are_told(told: Told, source: Path, tmp_path: Path) -> None:
    words = ("--as", "bitsandbytes", "--format", "nf4", "--list")
    code, text, error = told("quantize", source, tmp_path / "out", *words)
    assert code == 0
    listed = [line.split() for line in text.splitlines()]
    assert ["model.layers.1.mlp.up_proj", "nf4"] in listed
    assert ["lm_head", "dense"] in listed
    assert error.startswith("note: model.layers.0.mlp.down_proj has blocks over the ends of rows")


BAD: list[tuple[tuple[object, ...], str]] = [
    (("--format", "int3-g32"), "model.layers.0.self_attn.q_proj has 3 bits; awq has 4"),
    (("--format", "int4-g64"), "layers.0.mlp.down.weight: rows of 96 are no whole groups of 64"),
    (("--format", "Q4_K"), "unknown format of matrices 'Q4_K'; give a grid such as int4-g64, or fp8-128x128, or nf4"),
    ((), "--as packs matrices of one format; give --format, such as int4-g64, int8-sym or fp8-128x128"),
    (("--recipe", "Q4_K_M"), "--recipe is for files; with --as give --format, --method and --calibrate"),
    (("--format", "int4-g32", "--tensor", "a=F16"), "--tensor is for files; with --as give --format, --method and"),
    (("--format", "int4-g32", "--imatrix", "a.gguf"), "--imatrix is for files; with --as give --format, --method and"),
    (("--format", "int4-g32", "--threads", 2), "--threads 2 is for files; with --as leave it out"),
    (("--format", "int4-g32", "--method", "gptq"), "gptq looks at what the layers are given; give a text: --calibrate"),
    (("--format", "nf4", "--method", "hqq"), "is kept as NF4; integers with scales are packed: quantise it to a grid"),
    (("--format", "int4-g32", "--tokens", 5), "--tokens says how to calibrate; give --calibrate TEXT_FILE with it"),
    (("--format", "int4-g32", "--method", "spqr"), "unknown method 'spqr'; known: rtn, hqq, gptq, awq"),
]


@pytest.mark.parametrize(("words", "message"), BAD)
def test_what_does_not_fit_is_refused(
    told: Told, source: Path, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    code, text, error = told("quantize", source, tmp_path / "out", "--as", "awq", *words)
    assert (code, text, error.count("\n")) == (2, "", 1)
    assert message in error
    assert not (tmp_path / "out").exists()


def test_nothing_is_run_for_nothing(
    told: Told, source: Path, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **how: object) -> None:
        raise AssertionError("a model was run")

    monkeypatch.setattr(calibration, "calibrate", never)
    (tmp_path / "there").mkdir()
    by_text = ("--calibrate", page)
    for target, words, message in (
        ("out", ("--format", "int3-g32", *by_text), "has 3 bits; awq has 4"),
        ("out", ("--format", "int4-g32-fp32", *by_text), "has scales in F32; engines of awq hold them in float16"),
        ("there", ("--format", "int4-g32", *by_text), "there exists; give another path, or overwrite it: "),
        ("out.gguf", ("--format", "int4-g32", *by_text), "awq is a folder's format; give a path that does not end in"),
        (
            "out",
            ("--format", "nf4", "--method", "awq", *by_text),
            "awq is for integers, such as --format int4-g64; for",
        ),
        ("out", ("--format", "fp8-32x32", *by_text), "for fp8-32x32 leave --calibrate and --method out"),
        ("out", ("--format", "int4-g32", "--method", "rtn", *by_text), "rtn looks at each matrix alone; leave --calib"),
        ("out", ("--format", "int4-g32", *by_text, "--save-imatrix", tmp_path / "a.gguf"), "--save-imatrix is for fil"),
        ("out", ("--format", "int4-g32", *by_text, "--calibrate-model", "a"), "--calibrate-model is for files; with"),
    ):
        code, _, error = told("quantize", source, tmp_path / target, "--as", "awq", *words)
        assert (code, error.count("\n")) == (2, 1)
        assert message in error
    assert list((tmp_path / "there").iterdir()) == []


def test_a_gguf_becomes_no_folder(told: Told, tmp_path: Path) -> None:
    path = llama_gguf(tmp_path / "a.gguf")
    code, _, error = told("quantize", path, tmp_path / "out", "--as", "awq", "--format", "int4-g32")
    assert (code, error.count("\n")) == (2, 1)
    assert "a.gguf is one file, which has no config.json; awq is made from a model's folder" in error
    code, _, error = told("quantize", tmp_path / "no", tmp_path / "out", "--as", "awq", "--format", "int4-g32")
    assert code == 2
    assert "no such file or folder" in error


def test_a_folder_without_words_reads_no_text(told: Told, source: Path, page: Path, tmp_path: Path) -> None:
    (source / "tokenizer.json").unlink()
    words = ("--as", "awq", "--format", "int4-g32", "--calibrate", page)
    code, _, error = told("quantize", source, tmp_path / "out", *words)
    assert (code, error.count("\n")) == (2, 1)
    assert "source has no tokenizer that reads the text of --calibrate (" in error


def test_a_method_without_a_folder_is_refused(told: Told, source: Path, tmp_path: Path) -> None:
    code, _, error = told("quantize", source, tmp_path / "out.gguf", "--format", "Q8_0", "--method", "hqq")
    assert (code, error.count("\n")) == (2, 1)
    assert "--method hqq makes codes that folders hold; give --as, or take rtn or gptq" in error
