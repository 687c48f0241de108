"""`quantize --calibrate`: the importance that a text gives, its record in the file, the same bytes, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_cases
import numpy as np
import pytest
from golden_cases import GOLDEN
from planted import mutated
from talking_model import TOKENS
from test_compress_tokenizer_to_gguf import tokenizer
from tiny_models import changed, load
from wide_model import wide_gguf, wide_tensors

from lepton_ref import cli_calibrate, cli_quantise
from lepton_ref.compress import calibration, quantise_file
from lepton_ref.compress.calibration import calibrate
from lepton_ref.compress.imatrix import read_imatrix
from lepton_ref.compress.manifest import MANIFEST
from lepton_ref.compress.recipe import Recipe
from lepton_ref.compress.source import open_source
from lepton_ref.files import read_gguf
from lepton_ref.storage import BlockQuantised, encode

Told = Callable[..., tuple[int, str, str]]
UP = "blk.0.ffn_up.weight"
PAGE = "hello abc, said the cab and went. " * 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return wide_gguf(tmp_path / "in.gguf")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "page.txt").write_text(PAGE, encoding="utf-8")
    return tmp_path / "page.txt"


def manifest_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_gguf(path).metadata[MANIFEST])
    return found


def blocks_of(path: Path) -> dict[str, bytes]:
    return {n: w.raw.tobytes() for n, w in read_gguf(path).tensors.items() if isinstance(w, BlockQuantised)}


def test_each_column_counts_as_the_text_says(told: Told, path: Path, page: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    words = ("--format", "Q4_K", "--calibrate", page, "--tokens", 96, "--length", 40)
    assert told("quantize", path, target, *words)[0] == 0
    model = load(path)
    ids = model.tokenizer.encode(PAGE)[:96]
    squares = np.zeros(256)
    for at in (0, 40, 80):
        x = model.run_with_trace([ids[at : at + 40]])["layers.0.mlp_norm"][0]
        for row in x.astype(np.float64):
            squares += row * row
    weights = (squares.astype(np.float32).astype(np.float64) / 96).astype(np.float32)
    assert blocks_of(target)[UP] == encode("Q4_K", wide_tensors()[UP], weights=weights).tobytes()
    assert blocks_of(target)[UP] != encode("Q4_K", wide_tensors()[UP]).tobytes()


def test_the_file_says_what_it_was_calibrated_on(told: Told, path: Path, page: Path, tmp_path: Path) -> None:
    words = ("--format", "Q4_K", "--calibrate", page, "--tokens", 64, "--length", 32)
    told("quantize", path, tmp_path / "first.gguf", *words)
    told("quantize", path, tmp_path / "drawn.gguf", *words, "--seed", 5)
    ids = load(path).tokenizer.encode(PAGE)
    seen = calibrate(load(path), ids[:64], length=32)
    found = manifest_of(tmp_path / "first.gguf")
    assert found["importance"]["calibration"] == seen.record()
    assert found["importance"]["calibration"]["tokens"] == 64
    assert found["seeds"] == []
    whole = ids[: len(ids) // 32 * 32]
    drawn = manifest_of(tmp_path / "drawn.gguf")
    assert drawn["importance"]["calibration"] == calibrate(load(path), whole, length=32, samples=2, seed=5).record()
    assert drawn["seeds"] == [5]
    assert drawn["importance"]["sha256"] != found["importance"]["sha256"]
    assert "calibration" not in manifest_without(told, path, tmp_path)["importance"]


def manifest_without(told: Told, path: Path, tmp_path: Path) -> dict[str, Any]:
    told("quantize", path, tmp_path / "plain.gguf", "--format", "Q4_K")
    return manifest_of(tmp_path / "plain.gguf")


@pytest.mark.parametrize("more", [(), ("--seed", 3)])
def test_the_same_command_gives_the_same_bytes(
    more: tuple[object, ...], told: Told, path: Path, page: Path, tmp_path: Path
) -> None:
    words = ("--recipe", "Q4_K_M", "--calibrate", page, "--tokens", 96, "--length", 32, *more)
    for name, threads in (("a", 1), ("b", 1), ("c", 2), ("d", 5)):
        assert told("quantize", path, tmp_path / f"{name}.gguf", *words, "--threads", threads)[0] == 0
    assert len({(tmp_path / f"{name}.gguf").read_bytes() for name in "abcd"}) == 1
    told("quantize", path, tmp_path / "other.gguf", *words[: -len(more) or None], "--seed", 4)
    assert (tmp_path / "other.gguf").read_bytes() != (tmp_path / "a.gguf").read_bytes()


def test_what_is_kept_gives_the_same_blocks_again(told: Told, path: Path, page: Path, tmp_path: Path) -> None:
    saved = tmp_path / "seen.gguf"
    words = ("quantize", path, tmp_path / "a.gguf", "--format", "Q3_K", "--calibrate", page, "--save-imatrix", saved)
    code, _, error = told(*words)
    assert code == 0
    tokens = len(load(path).tokenizer.encode(PAGE))
    assert error.startswith(f"{saved}: importance of 8 matrices over {tokens} tokens\n")
    matrix = read_imatrix(saved)
    assert matrix.datasets == ("page.txt",)
    assert {int(entry.counts[0]) for entry in matrix.entries.values()} == {tokens}
    assert told("quantize", path, tmp_path / "b.gguf", "--format", "Q3_K", "--imatrix", saved)[0] == 0
    assert blocks_of(tmp_path / "a.gguf") == blocks_of(tmp_path / "b.gguf")
    same = [manifest_of(tmp_path / name)["importance"]["sha256"] for name in ("a.gguf", "b.gguf")]
    assert same[0] == same[1]


def test_another_model_reads_the_text(told: Told, path: Path, page: Path, tmp_path: Path) -> None:
    silent = wide_gguf(tmp_path / "silent.gguf", words=False)
    words = ("--format", "Q4_K", "--calibrate", page, "--tokens", 32)
    assert told("quantize", silent, tmp_path / "a.gguf", *words, "--calibrate-model", path)[0] == 0
    assert told("quantize", path, tmp_path / "b.gguf", *words)[0] == 0
    assert blocks_of(tmp_path / "a.gguf") == blocks_of(tmp_path / "b.gguf")
    record = manifest_of(tmp_path / "a.gguf")["importance"]["calibration"]
    assert record["model"] == {"sha256": manifest_of(tmp_path / "b.gguf")["source"]["sha256"]}


FAMILIES = ("llama", "llama_tied", "qwen2", "qwen3", "phi3", "olmo2", "gpt2", "gpt_neox")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_matrix_of_a_product_is_measured(name: str) -> None:
    seen = calibration.calibrate(load(GOLDEN / "tiny" / name), list(range(3, 11))).imatrix().importance()
    columns = {n: w.shape[-1] for n, w in open_source(GOLDEN / "tiny" / name, gguf=True).tensors.items()}
    matrices = {n for n, w in open_source(GOLDEN / "tiny" / name, gguf=True).tensors.items() if len(w.shape) == 2}
    looked_up = {"position_embd.weight"} | ({"token_embd.weight"} if "output.weight" in columns else set())
    assert set(seen) == matrices - looked_up
    assert all(len(each) == columns[tensor] for tensor, each in seen.items())


def test_a_folder_is_calibrated_as_its_gguf_is(told: Told, page: Path, tmp_path: Path) -> None:
    source = folder_cases.llama(tmp_path / "in", rms_norm_eps=2.0**-17)
    (source / "tokenizer.json").write_text(json.dumps(tokenizer()), encoding="utf-8")
    names = {"bos_token": TOKENS[0], "eos_token": TOKENS[2], "add_bos_token": False}
    (source / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    words = ("--format", "Q4_0", "--calibrate", page, "--tokens", 48, "--length", 16)
    code, _, error = told("quantize", source, tmp_path / "a.gguf", *words)
    assert code == 0
    assert error == "note: no importance for 1 tensors, such as token_embd.weight\n"
    told("quantize", source, tmp_path / "dense.gguf", "--format", "F32")
    assert told("quantize", tmp_path / "dense.gguf", tmp_path / "b.gguf", *words)[0] == 0
    assert blocks_of(tmp_path / "a.gguf") == blocks_of(tmp_path / "b.gguf")
    record = manifest_of(tmp_path / "a.gguf")["importance"]
    assert record == manifest_of(tmp_path / "b.gguf")["importance"]


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("--calibrate", "PAGE", "--imatrix", "x.gguf"), "give --calibrate or --imatrix, one of them"),
    (("--tokens", "8"), "--tokens says how to calibrate; give --calibrate TEXT_FILE with it"),
    (("--save-imatrix", "x"), "--save-imatrix says how to calibrate; give --calibrate TEXT_FILE with it"),
    (("--calibrate", "PAGE", "--tokens", "100000"), "tokens, fewer than --tokens 100000; give more text"),
    (("--calibrate", "PAGE", "--tokens", "0"), "--tokens is 0, but must be at least 1"),
    (("--calibrate", "PAGE", "--length", "0"), "--length is 0, but must be at least 1"),
    (("--calibrate", "PAGE", "--seed", "-1", "--tokens", "512"), "--seed is -1, but must be from 0"),
    (("--calibrate", "PAGE", "--seed", "1"), "--seed draws whole sequences of 512 tokens, got --tokens None"),
    (("--calibrate", "PAGE", "--seed", "1", "--tokens", "40", "--length", "32"), "sequences of 32 tokens, got"),
    (("--calibrate", "EMPTY"), "empty.txt is empty; give a text of at least two tokens"),
    (("--calibrate", "none.txt"), "none.txt: no such file; give a text file in UTF-8"),
    (("--calibrate", "PAGE", "--save-imatrix", "x.dat"), "a GGUF; end 'x.dat' in .gguf"),
    (("--calibrate", "PAGE", "--save-imatrix", "SILENT"), "exists and may be another measurement; choose another name"),
    (("--calibrate", "PAGE", "--save-imatrix", "OUT"), "--save-imatrix and OUT are both"),
    (("--calibrate", "PAGE", "--save-imatrix", "nowhere/x.gguf"), "nowhere: no such folder"),
    (("--calibrate", "PAGE", "--calibrate-model", "nothing"), "nothing: no such file or folder"),
    (("--calibrate", "PAGE", "--calibrate-model", "SILENT"), "silent.gguf is not the model that --calibrate runs"),
    (("--calibrate", "PAGE", "--tensor", "blk.9.*=Q4_0"), "the pattern 'blk.9.*' fits no tensor"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_refused_in_one_line(
    words: tuple[str, ...], message: str, told: Told, path: Path, page: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    wide_gguf(tmp_path / "silent.gguf", words=False)
    named = {
        "OUT": tmp_path / "out.gguf",
        "PAGE": page,
        "EMPTY": tmp_path / "empty.txt",
        "SILENT": tmp_path / "silent.gguf",
    }
    code, out, error = told(
        "quantize", path, tmp_path / "out.gguf", "--format", "Q4_K", *(named.get(word, word) for word in words)
    )
    assert (code, out) == (2, "")
    assert error.startswith("lepton-ref: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.gguf").exists()


def test_models_that_cannot_read_the_text(told: Told, path: Path, page: Path, tmp_path: Path) -> None:
    silent = wide_gguf(tmp_path / "silent.gguf", words=False)
    words = ("--format", "Q4_0", "--calibrate", page)
    code, _, error = told("quantize", silent, tmp_path / "out.gguf", *words)
    assert (code, error.count("\n")) == (2, 1)
    assert f"{silent} is not a model to calibrate; give --calibrate-model, or --imatrix" in error
    unknown = changed(tmp_path / "unknown", config={"model_type": "mamba"})
    bare = changed(tmp_path / "bare")
    for model, why in ((unknown, "model_type is 'mamba', but must be one of llama"), (bare, "no tokenizer.json")):
        code, _, error = told("quantize", path, tmp_path / "out.gguf", *words, "--calibrate-model", model)
        assert (code, error.count("\n")) == (2, 1)
        assert f"{model} is not the model that --calibrate runs; name another, or give --imatrix" in error
        assert why in error


def test_nothing_is_calibrated_for_nothing(
    told: Told, path: Path, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **how: object) -> None:
        raise AssertionError("a model was run")

    monkeypatch.setattr(calibration, "calibrate", never)
    (tmp_path / "there.gguf").write_bytes(b"")
    for target, words, message in (
        ("out.gguf", ("--format", "Q8_0"), "no tensor becomes a format that heeds importance, but Q8_0; leave"),
        ("out.gguf", ("--format", "BF16"), "no tensor becomes a format that heeds importance, but BF16; leave"),
        ("there.gguf", ("--format", "Q4_K"), "there.gguf exists; give --overwrite"),
        ("no/out.gguf", ("--format", "Q4_K"), "no such folder"),
        ("out.bin", ("--format", "Q4_K"), "a file is written as .gguf or .safetensors"),
    ):
        code, _, error = told("quantize", path, tmp_path / target, *words, "--calibrate", page)
        assert (code, error.count("\n")) == (2, 1)
        assert message in error
    other = wide_gguf(tmp_path / "other.gguf", blk__0__ffn_up__weight=np.ones((512, 256), "<f4"),
        blk__0__ffn_gate__weight=np.ones((512, 256), "<f4"), blk__0__ffn_down__weight=np.ones((256, 512), "<f4"),
    )  # fmt: skip
    words = ("--format", "Q4_K", "--calibrate", page, "--calibrate-model", path)
    code, _, error = told("quantize", other, tmp_path / "out.gguf", *words)
    assert (code, error.count("\n")) == (2, 1)
    assert "'blk.0.ffn_down.weight' has shape (256,), the tensor has 512 columns; was it measured on another" in error
    monkeypatch.setattr(cli_quantise, "reader", lambda args: load(GOLDEN / "tiny" / "opt"))
    code, _, error = told("quantize", path, tmp_path / "out.gguf", "--format", "Q4_0", "--calibrate", page)
    assert (code, error.count("\n")) == (2, 1)
    assert "GGUF has no names for OPTForCausalLM" in error


def test_a_record_without_importance(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a calibration's record without its importance; give both"):
        quantise_file.quantise_file(path, tmp_path / "out.gguf", Recipe(format="Q4_0"), calibration={"tokens": 1})


# --- planted mistakes -------------------------------------------------------------------------------------------------

PLANTED = [
    ("test_what_is_kept_gives_the_same_blocks_again", ".astype(np.float32).astype(np.float64), entry", ", entry"),
    ("test_each_column_counts_as_the_text_says", "ids = ids[: args.tokens]", "ids = ids[: args.tokens - 1]"),
    ("test_each_column_counts_as_the_text_says", "length=length, progress", "length=512, progress"),
    ("test_the_file_says_what_it_was_calibrated_on", '"seed": args.seed}', '"seed": 0}'),
    ("test_another_model_reads_the_text", "_digests(model.parts.path)", "[]"),
]


@pytest.mark.parametrize(("check", "text", "bug"), PLANTED)
def test_a_mistake_is_found(
    check: str, text: str, bug: str, told: Told, path: Path, page: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(cli_quantise, "measured", mutated(cli_calibrate, text, bug).measured)
    with pytest.raises(AssertionError):
        globals()[check](told, path, page, tmp_path)
