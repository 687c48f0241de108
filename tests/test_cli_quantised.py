"""quantize, explain, lint and compare on the command line: what they print, exit codes, refusals in one line."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_models import load
from wide_model import wide_gguf, wide_tensors

from lepton_ref import cli, cli_progress
from lepton_ref.compress import source
from lepton_ref.compress.imatrix import Entry, ImportanceMatrix, write_imatrix
from lepton_ref.compress.manifest import MANIFEST
from lepton_ref.files import read_gguf
from lepton_ref.runtime.generation import Generation
from lepton_ref.storage import encode

Told = Callable[..., tuple[int, str, str]]
UP = "blk.0.ffn_up.weight"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return wide_gguf(tmp_path / "in.gguf")


# --- quantize ---------------------------------------------------------------------------------------------------------


def test_quantize_writes_what_it_says(told: Told, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    code, out, error = told("quantize", path, target, "--format", "Q4_0", "--tensor", "blk.*.ffn_up=Q8_0")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["file"] == str(target)
    assert lines["formats"] == "Q4_0 ×7, F32 ×3, Q8_0 ×1"
    assert error == "", "nobody looks: standard error is no terminal"
    file = read_gguf(target)
    assert file.tensors[UP].format == "Q8_0"
    raw = file.tensors["blk.0.attn_q.weight"]
    assert raw.raw.tobytes() == encode("Q4_0", wide_tensors()["blk.0.attn_q.weight"]).tobytes()  # type: ignore[attr-defined]
    assert load(target).forward([[1, 2]]).shape == (1, 2, 61)


def test_quantize_as_json_lists_every_tensor(told: Told, path: Path, tmp_path: Path) -> None:
    code, out, error = told("quantize", path, tmp_path / "out.gguf", "--recipe", "Q8_0", "--json")
    found = json.loads(out)
    assert (code, error) == (0, "")
    assert found["formats"] == {"Q8_0": 8, "F32": 3}
    assert [row["tensor"] for row in found["tensors"]] == list(wide_tensors())
    assert found["bits per weight"] == round(found["bytes"] * 8 / found["weights"], 4)
    _, out, _ = told("quantize", path, tmp_path / "b.gguf", "--recipe", "Q8_0", "--list")
    assert "kept: a vector" in out


def test_quantize_takes_an_importance_matrix_and_says_what_it_lacks(told: Told, path: Path, tmp_path: Path) -> None:
    seen = Entry(np.arange(1.0, 257.0)[None], np.array([4]))
    write_imatrix(tmp_path / "seen.gguf", ImportanceMatrix({UP: seen}, ("page",), 1, 4))
    words = ("quantize", path, tmp_path / "out.gguf", "--format", "Q4_K", "--imatrix", tmp_path / "seen.gguf")
    code, _, error = told(*words)
    assert code == 0
    assert "note: no importance for 7 tensors, such as token_embd.weight" in error
    told("quantize", path, tmp_path / "plain.gguf", "--format", "Q4_K")
    a, b = (read_gguf(tmp_path / name).tensors[UP].decode() for name in ("out.gguf", "plain.gguf"))
    error_a, error_b = (((x - wide_tensors()[UP]) ** 2 * np.arange(1.0, 257.0)).sum() for x in (a, b))
    assert error_a < error_b, "errors where they count are smaller"


def test_quantize_says_what_was_in_blocks_before(told: Told, path: Path, tmp_path: Path) -> None:
    told("quantize", path, tmp_path / "a.gguf", "--format", "Q8_0")
    _, _, error = told("quantize", tmp_path / "a.gguf", tmp_path / "b.gguf", "--format", "Q4_0")
    assert "note: 8 tensors were in blocks before, such as token_embd.weight: both errors add up" in error


def test_quantize_says_which_formats_want_importance(told: Told, path: Path, tmp_path: Path) -> None:
    note = (
        "note: 6 tensors had no importance though llama.cpp makes their formats with it alone, such as "
        "blk.0.attn_q.weight in IQ2_XXS: their columns count alike; give --calibrate or --imatrix\n"
    )
    code, _, error = told("quantize", path, tmp_path / "a.gguf", "--recipe", "IQ2_XXS")
    assert code == 0
    assert note in error
    assert read_gguf(tmp_path / "a.gguf").metadata["general.file_type"] == 19
    names = [name for name, array in wide_tensors().items() if array.ndim == 2]
    ones = ImportanceMatrix({name: Entry(np.ones((1, 256)), np.array([1])) for name in names}, ("page",), 1, 1)
    write_imatrix(tmp_path / "seen.gguf", ones)
    words = ("quantize", path, tmp_path / "b.gguf", "--recipe", "IQ2_XXS", "--imatrix", tmp_path / "seen.gguf")
    assert "no importance" not in told(*words)[2]
    assert "no importance" not in told("quantize", path, tmp_path / "c.gguf", "--format", "Q4_K")[2]


REFUSED = [
    ((), "give a format or a mixture, one of them; got None and None"),
    (("--format", "Q9"), "there is no format 'Q9'; known: "),
    (("--recipe", "Q4"), "unknown recipe 'Q4'; known: "),
    (("--format", "Q8_0", "--tensor", "blk.*.nothing=Q4_0"), "the pattern 'blk.*.nothing' fits no tensor"),
    (("--format", "Q8_0", "--tensor", "blk"), "PATTERN=FORMAT"),
    (("--format", "Q8_0", "--threads", "0"), "threads is 0; give an integer of at least 1"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_quantize_refuses_in_one_line(
    words: tuple[str, ...], message: str, told: Told, path: Path, tmp_path: Path
) -> None:
    code, out, error = told("quantize", path, tmp_path / "out.gguf", *words)
    assert (code, out) == (2, "")
    assert error.startswith("lepton-ref: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.gguf").exists()


def test_quantize_does_not_replace_unasked(told: Told, path: Path) -> None:
    before = path.read_bytes()
    code, _, error = told("quantize", path, path, "--format", "Q8_0")
    assert code == 2
    assert error == f"lepton-ref: error: {path} exists; give --overwrite to replace it, or choose another name\n"
    assert path.read_bytes() == before
    code, _, error = told("quantize", path, path, "--format", "Q8_0", "--overwrite")
    assert code == 2
    assert error == f"lepton-ref: error: {path} is the source too, and would be lost; choose another name\n"
    assert path.read_bytes() == before


def test_quantize_replaces_where_it_is_asked_to(told: Told, path: Path, tmp_path: Path) -> None:
    other = wide_gguf(tmp_path / "other.gguf")
    assert told("quantize", path, other, "--format", "Q8_0", "--overwrite")[0] == 0
    assert read_gguf(other).tensors[UP].format == "Q8_0"


# --- explain ----------------------------------------------------------------------------------------------------------


def test_explain(told: Told, path: Path) -> None:
    value = wide_tensors()[UP][3, 7]
    code, out, error = told("explain", path, UP, 3, 7)
    assert (code, error) == (0, "")
    assert out.splitlines()[0] == f"element  {UP} [3, 7] of (256, 256), F32"
    assert out.splitlines()[-1].startswith(f"float32  {value!s} (0x")
    found = json.loads(told("explain", path, UP, 3, 7, "--json")[1])
    assert (found["value"], found["agrees"], found["row"], found["column"]) == (float(value), True, 3, 7)
    assert path.read_bytes()[found["offset"] : found["offset"] + 4].hex() == found["block"]


def test_explain_refuses_in_one_line(told: Told, path: Path) -> None:
    code, _, error = told("explain", path, "blk.0.ffn_upp.weight", 0, 0)
    assert (code, error.count("\n")) == (2, 1)
    assert f"has no tensor 'blk.0.ffn_upp.weight'; near: {UP}" in error
    code, _, error = told("explain", path, UP, 256, 0)
    assert code == 2
    assert "row 256 is outside of blk.0.ffn_up.weight (256, 256); give 0 to 255" in error


# --- lint -------------------------------------------------------------------------------------------------------------


def test_lint_says_by_its_exit_code_what_it_found(told: Told, path: Path, tmp_path: Path) -> None:
    code, out, error = told("lint", path)
    assert (code, out) == (0, "")
    assert error.endswith("nothing found\n")
    assert told("lint", path, "--json") == (0, "[]\n", "")
    dead = wide_gguf(tmp_path / "dead.gguf", blk__0__ffn_up__weight=np.zeros((256, 256), "<f4"))
    code, out, _ = told("lint", dead)
    assert code == 1
    assert "every number is zero" in out
    assert [row["severity"] for row in json.loads(told("lint", dead, "--json")[1])] == ["error"]
    (tmp_path / "x.gguf").write_bytes(b"not at all")
    assert told("lint", tmp_path / "x.gguf")[0] == 2


# --- compare ----------------------------------------------------------------------------------------------------------


def test_compare_a_file_with_itself_and_with_its_quantised_form(told: Told, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    told("quantize", path, target, "--format", "Q4_0")
    found = json.loads(told("compare", path, path, "--ids", "3,4,5,6", "--json")[1])
    assert {row["relative"] for rows in (found["weights"], found["layers"]) for row in rows} == {0}
    assert found["logits"]["KL(a‖b), nats"] == 0
    assert found["logits"]["top-1 agreement"] == 1
    assert found["perplexity"]["b/a"] == 1
    code, out, _ = told("compare", path, target, "--ids", "3,4,5,6", "--window", 3)
    assert code == 0
    for text in (
        "weights:",
        "layers:",
        "outputs of layers:",
        "logits:",
        "perplexity:",
        "F32 → Q4_0",
        "seed 0",
        "layer 0",
    ):
        assert text in out
    assert "windows of 3 tokens every 1, each token but the first of the text scored once, 3 in all" in out


def test_compare_on_a_text(told: Told, path: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.txt"
    page.write_text("hello abc\n", encoding="utf-8")
    found = json.loads(told("compare", path, path, "--text", page, "--json")[1])
    assert found["logits"]["positions"] == len(load(path).tokenizer.encode("hello abc\n"))
    assert found["perplexity"]["a"] == load(path).perplexity("hello abc\n", window=256, stride=128).value
    only = json.loads(told("compare", path, path, "--json")[1])
    assert set(only) == {"weights", "layers"}


def test_compare_refuses(told: Told, path: Path, tmp_path: Path) -> None:
    for words, message in (
        (("--ids", "1", "--text", tmp_path / "x"), "give --text or --ids, one of them"),
        (("--text", tmp_path / "none"), "no such file; give a text file"),
        (("--ids", "1,x"), "--ids takes integers between commas"),
        (("--ids", "1,99"), "outside the vocabulary of 61"),
    ):
        code, _, error = told("compare", path, path, *words)
        assert code == 2
        assert message in error


# --- how far it has come ----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Standard error at which somebody looks."""

    def isatty(self) -> bool:
        return True

    def read_all(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called in the test: what captures output sets standard error once more after the fixtures."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    return found


def test_plain_lines_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    monkeypatch.setattr(cli_progress, "_has_rich", lambda: False)
    names = [str(number) for number in range(40)]
    lines = [f"work: {n} of 40" for n in range(4, 40, 4)]
    assert list(cli_progress.progress("work", wanted=True)(names)) == names
    assert terminal.read_all().splitlines() == lines
    assert list(cli_progress.progress("work", wanted=False)(names)) == names
    with cli_progress.steps("work", wanted=True) as shown:
        assert shown is not None
        for done in range(41):
            shown(done, 40, "")
    assert terminal.read_all().splitlines() == lines
    with cli_progress.steps("work", wanted=False) as shown:
        assert shown is None
    assert terminal.read_all() == ""


def test_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    terminal = terminal_of(monkeypatch)
    assert list(cli_progress.progress("work", wanted=True)(["a", "b"])) == ["a", "b"]
    assert "work" in terminal.read_all()
    with cli_progress.steps("labour", wanted=True) as shown:
        assert shown is not None
        shown(1, 2, "a")
    assert "labour" in terminal.read_all()


def test_nothing_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(cli_progress.progress("work", wanted=True)(["a"] * 40)) == ["a"] * 40
    with cli_progress.steps("work", wanted=True) as shown:
        assert shown is None
    assert capsys.readouterr().err == ""


def test_every_long_work_shows_how_far_it_is(
    told: Told, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = terminal_of(monkeypatch)
    monkeypatch.setattr(cli_progress, "_has_rich", lambda: False)
    monkeypatch.setattr(source, "PIECE", path.stat().st_size // 20)
    page = tmp_path / "page.txt"
    page.write_text("hello abc, said the cab. ", encoding="utf-8")
    words = ("quantize", path, tmp_path / "out.gguf", "--format", "Q4_0", "--calibrate", page, "--tokens", "8")
    assert told(*words)[0] == 0
    error = terminal.read_all()
    for what in ("calibrate", "quantize", "hash the source"):
        assert f"{what}: " in error
    source_of = json.loads(read_gguf(tmp_path / "out.gguf").metadata[MANIFEST])["source"]
    assert source_of == {"sha256": [hashlib.sha256(path.read_bytes()).hexdigest()]}, "in pieces as in one"
    told("lint", path)
    assert "lint: " in terminal.read_all()
    compared = ("compare", path, path, "--ids", "3,4,5,6", "--window", "2")
    told(*compared)
    error = terminal.read_all()
    for what in ("weights", "outputs"):
        assert f"{what}: " in error
    for quiet in ((*words, "--overwrite"), ("lint", path), compared):
        assert told(*quiet, "--json")[0] == 0
        assert terminal.read_all() == ""


# --- how keys and values lie in the cache -----------------------------------------------------------------------------


def test_logits_through_a_quantised_cache(told: Told, path: Path) -> None:
    def logits(*words: str) -> dict[int, float]:
        rows = json.loads(told("logits", path, "--ids", "3,4,5,6", "--top", "61", "--json", *words)[1])
        return {row["id"]: row["logit"] for row in rows}

    for name in ("int8", "int4", "fp8", "int4-64"):
        model = load(path, kv_cache=name)
        wanted = model.forward([[3, 4, 5, 6]], cache=model.new_cache(capacity=4))[0, -1]
        assert logits("--kv-cache", name) == {index: float(value) for index, value in enumerate(wanted)}
        assert logits("--kv-cache", name) != logits()
    assert logits("--kv-cache", "dense") == logits()


def test_what_generates_and_scores_takes_it(told: Told, path: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.txt"
    page.write_text("hello abc, said the cab. " * 2, encoding="utf-8")
    model = load(path, kv_cache="int4")
    found = json.loads(told("run", path, "hello", "--max-tokens", "6", "--json", "--kv-cache", "int4")[1])
    wanted = model.generate("hello", max_new_tokens=6)
    assert isinstance(wanted, Generation)
    assert found["ids"] == list(wanted.ids)
    assert found["logprobs"] != json.loads(told("run", path, "hello", "--max-tokens", "6", "--json")[1])["logprobs"]
    found = json.loads(told("perplexity", path, page, "--window", "16", "--json", "--kv-cache", "int4")[1])
    assert found["perplexity"] == model.perplexity(page.read_text(encoding="utf-8"), window=16).value
    assert (
        found["perplexity"] != json.loads(told("perplexity", path, page, "--window", "16", "--json")[1])["perplexity"]
    )


def test_compare_gives_b_alone_the_quantised_cache(told: Told, path: Path) -> None:
    found = json.loads(told("compare", path, path, "--ids", "3,4,5,6", "--json", "--kv-cache", "int4")[1])
    assert {row["relative"] for row in found["weights"]} == {0}
    assert found["logits"]["cache of b"] == "int4"
    assert 0 < found["logits"]["KL(a‖b), nats"] < 0.1
    assert found["perplexity"]["b/a"] != 1
    same = json.loads(told("compare", path, path, "--ids", "3,4,5,6", "--json")[1])
    assert found["perplexity"]["a"] == same["perplexity"]["a"]
    code, _, error = told("compare", path, path, "--kv-cache", "int8")
    assert code == 2
    assert "--kv-cache int8 changes outputs, not weights; give --text or --ids with it" in error


def test_a_cache_that_is_none(capsys: pytest.CaptureFixture[str], path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(path), "hello", "--kv-cache", "int3"])
    assert left.value.code == 2
    assert "invalid choice: 'int3'" in capsys.readouterr().err
