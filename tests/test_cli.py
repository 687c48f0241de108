"""The command line: every command in both forms, exit codes, one-line errors, files, pipes, terminals, interruption."""

from __future__ import annotations

import builtins
import json
import os
import shlex
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import golden_cases
import numpy as np
import pytest
from talking_model import METADATA, TOKENS, talking
from tiny_models import llama_gguf, load

from lepton_ref import Model, __version__, cli, cli_report
from lepton_ref.runtime import decoding

TINY = golden_cases.GOLDEN / "tiny"
COMMANDS = (
    *("info", "run", "chat", "logits", "embed", "perplexity", "backends", "conformance"),
    *("quantize", "explain", "lint", "compare"),
)
Told = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking(tmp_path_factory.mktemp("cli") / "talker.gguf")


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let `chat` hear these lines; an exception among them is raised."""

    def hear(*lines: str | BaseException) -> None:
        following: Iterator[str | BaseException] = iter(lines)

        def listen(prompt: str = "") -> str:
            line = next(following, EOFError())
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr(builtins, "input", listen)

    return hear


def no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)


# --- each command -----------------------------------------------------------------------------------------------------


def test_info(told: Told, path: Path) -> None:
    code, out, error = told("info", path)
    assert (code, error) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["architecture"] == "llama"
    assert lines["parameters"] == "12,264"
    assert lines["precision"] == "reference"
    code, out, error = told("info", path, "--json")
    assert json.loads(out)["file"] == str(path)
    assert "weights" not in json.loads(out)


def test_info_of_each_weight(told: Told, path: Path) -> None:
    _, out, _ = told("info", path, "--weights", "--json")
    weights = json.loads(out)["weights"]
    assert [weight["weight"] for weight in weights] == list(load(path).parts.weights)
    assert weights[0] == {"weight": "embed.weight", "format": "F32", "shape": [61, 24], "bytes": 61 * 24 * 4}
    _, out, _ = told("info", path, "--weights")
    assert "embed.weight" in out
    assert "5.7 KiB" in out


def test_run_streams_what_generate_gives(told: Told, path: Path) -> None:
    expected = load(path).generate("hello", max_new_tokens=9)
    code, out, error = told("run", path, "hello", "--max-tokens", 9)
    assert (code, out) == (0, f"hello{expected.text}\n")
    assert "[5 tokens read in " in error
    assert "9 written at " in error
    assert "ended by length]" in error


def test_run_as_json(told: Told, path: Path) -> None:
    options = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "seed": 7}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    code, out, error = told("run", path, "hello", "--max-tokens", 9, "--json", *words)
    found, expected = json.loads(out), load(path).generate("hello", max_new_tokens=9, **options)
    assert (code, error) == (0, "")
    assert (found["text"], found["ids"]) == (expected.text, list(expected.ids))
    assert found["logprobs"] == list(expected.logprobs)
    assert (found["finish_reason"], found["prompt_tokens"]) == (expected.finish_reason, 5)
    assert found["prefill_s"] > 0


def test_run_ends_before_a_stop_string(told: Told, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = iter([TOKENS.index(letter) for letter in "xyzab"])
    monkeypatch.setattr(decoding, "choose", lambda *arguments, **options: next(letters))
    code, out, error = told("run", path, "hello", "--stop", "zab", "--stop", "za")
    assert (code, out) == (0, "helloxy\n")
    assert "ended by stop]" in error


def test_run_in_the_chat_template_shows_the_answer_alone(told: Told, path: Path) -> None:
    model = load(path)
    text = model.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])
    expected = model.generate(model.tokenizer.encode(text, add_special=False), max_new_tokens=5)
    assert told("run", path, "hi", "--chat", "--max-tokens", 5)[1] == f"{expected.text}\n"


def test_run_takes_what_load_takes(told: Told, path: Path) -> None:
    words = ("--precision", "float64", "--keep-decoded", "no", "--backend", "numpy", "--threads", 1)
    expected = load(path, precision="float64").generate("hello", max_new_tokens=5)
    found = json.loads(told("run", path, "hello", "--max-tokens", 5, "--json", *words)[1])
    assert found["logprobs"] == list(expected.logprobs)


def test_logits_are_forwards(told: Told, path: Path) -> None:
    last = load(path).forward([7, 8])[0, -1]
    order = sorted(range(61), key=lambda index: (-last[index], index))
    code, out, _ = told("logits", path, "--ids", "7,8", "--top", 3, "--json")
    assert code == 0
    assert json.loads(out) == [{"id": index, "logit": float(last[index])} for index in order[:3]]
    assert len(json.loads(told("logits", path, "--ids", "7, 8", "--top", 99, "--json")[1])) == 61


def test_logits_of_a_text_name_the_tokens(told: Told, path: Path) -> None:
    code, out, _ = told("logits", path, "hello", "--top", 2)
    assert (code, out.splitlines()[0].split()) == (0, ["id", "logit", "text"])
    assert out.splitlines()[1].split() == ["27", "4.09297", "'y'"]
    every = json.loads(told("logits", path, "hello", "--top", 61, "--json")[1])
    assert {row["text"] for row in every if row["id"] >= len(TOKENS)} == {""}


def test_logits_are_written_whole_and_not_over_a_file(told: Told, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    code, _, error = told("logits", path, "--ids", "7,8", "--out", out)
    assert (code, error) == (0, f"{out}: float32 (1, 2, 61)\n")
    assert (np.load(out) == load(path).forward([7, 8])).all()
    code, _, error = told("logits", path, "--ids", "9", "--out", out)
    assert code == 2
    assert error == f"lepton-ref: error: {out} exists; give --force to replace it, or choose another name\n"
    assert np.load(out).shape == (1, 2, 61)
    assert told("logits", path, "--ids", "9", "--out", out, "--force")[0] == 0
    assert np.load(out).shape == (1, 1, 61)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npy"]


def test_an_empty_prompt_begins_with_bos_everywhere(told: Told, path: Path) -> None:
    bos = load(path).tokenizer.bos_id
    (code, from_text, error), (_, from_ids, _) = (
        told("logits", path, *given, "--json") for given in ([""], ["--ids", bos])
    )
    assert (code, error) == (0, "")
    found = [(row["id"], row["logit"]) for row in json.loads(from_text)]
    assert found == [(row["id"], row["logit"]) for row in json.loads(from_ids)]
    assert len(found) == 10
    assert json.loads(told("run", path, "", "--max-tokens", 2, "--json")[1])["prompt_tokens"] == 1


def test_where_results_go_is_looked_at_before_the_model(told: Told, tmp_path: Path) -> None:
    out = tmp_path / "nodir" / "x.npy"
    for words in (("logits", "no-model", "x"), ("embed", "no-model", "x")):
        code, _, error = told(*words, "--out", out)
        expected = f"lepton-ref: error: {out.parent}: no such folder; make it, or choose another place for x.npy\n"
        assert (code, error) == (2, expected)


def test_embed(told: Told, path: Path, tmp_path: Path) -> None:
    expected = load(path).embed(["ab", "cd"], pooling="last", normalise=True)
    words = ("embed", path, "ab", "cd", "--pooling", "last", "--normalise")
    assert json.loads(told(*words, "--json")[1]) == {"shape": [2, 24], "vectors": expected.tolist()}
    code, out, error = told(*words)
    assert (code, error) == (0, "")
    assert [[np.float32(word) for word in line.split()] for line in out.splitlines()] == expected.tolist()
    file = tmp_path / "v.npy"
    assert told(*words, "--out", file) == (0, "", f"{file}: float32 (2, 24)\n")
    assert (np.load(file) == expected).all()
    assert json.loads(told(*words, "--out", file, "--force", "--json")[1]) == {"shape": [2, 24], "out": str(file)}


def test_perplexity(told: Told, path: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.txt"
    page.write_text("hello abc\n", encoding="utf-8")
    expected = load(path).perplexity("hello abc\n", window=4, stride=2)
    code, out, _ = told("perplexity", path, page, "--window", 4, "--stride", 2, "--json")
    found = {"perplexity": expected.value, "nll": expected.nll, "tokens": expected.tokens, "window": 4, "stride": 2}
    assert (code, json.loads(out)) == (0, found)
    assert str(expected.value) in told("perplexity", path, page, "--window", 4, "--stride", 2)[1]


def test_backends(told: Told) -> None:
    code, out, _ = told("backends", "--json")
    found = {row["backend"]: row for row in json.loads(out)}
    assert code == 0
    assert found["numpy"]["usable"] is True
    assert "numpy" in told("backends")[1]


def test_chat_answers_turn_by_turn(told: Told, path: Path, spoken: Callable[..., None]) -> None:
    spoken("hi", "", "/reset", "hi", "/exit", "not heard")
    code, out, error = told("chat", path, "--max-tokens", 5)
    assert code == 0
    first, again = out.splitlines()
    assert first == again != ""
    assert "[what was said is forgotten]" in error
    spoken("hi")
    assert told("chat", path, "--max-tokens", 5)[:2] == (0, f"{first}\n"), "the end of the input ends the chat"


def test_chat_remembers(told: Told, path: Path, spoken: Callable[..., None]) -> None:
    spoken("hi", "ab")
    answers = [
        json.loads(line) for line in told("chat", path, "--max-tokens", 5, "--json", "--system", "x")[1].splitlines()
    ]
    model = load(path)
    turns = [{"role": "system", "content": "x"}, {"role": "user", "content": "hi"}]
    turns += [{"role": "assistant", "content": answers[0]["text"]}, {"role": "user", "content": "ab"}]
    ids = model.tokenizer.encode(model.tokenizer.apply_chat_template(turns), add_special=False)
    assert answers[1]["ids"] == list(model.generate(ids, max_new_tokens=5))


def test_ctrl_c_ends_an_answer_and_at_the_prompt_the_chat(
    told: Told, path: Path, spoken: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = decoding.choose, []

    def choose(*arguments: Any, **options: Any) -> int:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(decoding, "choose", choose)
    spoken("hi", "hi", KeyboardInterrupt())
    code, out, error = told("chat", path, "--max-tokens", 5)
    assert code == 130
    assert "[interrupted; the question is forgotten]" in error
    assert error.endswith("lepton-ref: interrupted\n")
    assert len(out.splitlines()) == 2


# --- exit codes and errors --------------------------------------------------------------------------------------------


def bad(path: Path, folder: Path) -> list[tuple[tuple[object, ...], str]]:
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "empty.txt").touch()
    (folder / "one.txt").write_text("a", encoding="utf-8")
    with (folder / "long.txt").open("wb") as file:
        file.truncate((8 << 20) + 1)  # sparse: takes no room
    return [
        (("info", folder / "none"), "no such file or folder"),
        (("info", "package:no-such-package-at-all"), "is not installed"),
        (("run", path, "x", "--temperature", -1), "temperature is -1.0"),
        (("run", path, "x", "--max-tokens", 0), "--max-tokens is 0, but must be at least 1; it counts new tokens"),
        (("chat", path, "--max-tokens", 0), "--max-tokens is 0, but must be at least 1; it counts new tokens"),
        (("run", path, "x", "--top-p", 2), "top_p is 2.0, but must be from 0 to 1; leave it out to keep all"),
        (("run", path, "caf\udce9"), "the prompt is not UTF-8; convert it"),
        (("run", path, "x", "--stop", "\udce9"), "the text of --stop is not UTF-8; convert it"),
        (("chat", path, "--system", "\udce9"), "the text of --system is not UTF-8; convert it"),
        (("logits", path, "caf\udce9"), "the prompt is not UTF-8; convert it"),
        (("embed", path, "a", "caf\udce9"), "text 2 is not UTF-8; convert it"),
        (("info", ""), "the path is empty; give a folder or a .gguf file"),
        (("info", "package:../.."), "'package:../..' names no package; after 'package:' give a name such as"),
        (("info", folder / "a\x1b[31mb\rc"), "a\\x1b[31mb c: no such file or folder"),
        (("logits", path, "x", "--top", -5), "--top is -5, but must be at least 0; it counts lines"),
        (("logits", path, "--ids", "1" * 26), f"--ids holds {'1' * 26}, outside the vocabulary of 61; give 0 to 60"),
        (("perplexity", path, folder / "empty.txt"), "empty.txt is empty; give a text of at least two tokens"),
        (("perplexity", path, folder), f"{folder} is a folder; give a text file in UTF-8"),
        (("run", path, "x", "--backend", "none"), "no backend named 'none'"),
        (("run", path, "x", "--threads", 0), "threads"),
        (("run", TINY / "bert", "x"), "BertModel sees both ways and cannot generate"),
        (("run", TINY / "llama", "x"), "tokenizer"),
        (("chat", TINY / "bert"), "cannot chat"),
        (("logits", path), "give a prompt or --ids, one of them"),
        (("logits", path, "x", "--ids", "1"), "give a prompt or --ids, one of them"),
        (("logits", path, "--ids", "1,x"), "--ids takes integers between commas, got '1,x'"),
        (("logits", path, "--ids", "61"), "outside the vocabulary of 61"),
        (("logits", TINY / "llama_bare", "--ids", "5"), "gives hidden states, not logits; `lepton-ref embed`"),
        (("perplexity", path, folder / "none.txt"), "none.txt: no such file; give a text file in UTF-8"),
        (("perplexity", path, folder / "latin.txt"), "is not UTF-8 at byte 3; convert it"),
        (("perplexity", path, folder / "one.txt"), "give at least two"),
        (("perplexity", path, folder / "long.txt"), "has 8388609 bytes; cut it to at most 8388608"),
        (
            ("embed", path, "a", "--out", folder, "--force"),
            f"{folder} is a folder or a device; give the name of a file",
        ),
    ]


def test_bad_input_is_one_line_and_code_2(told: Told, path: Path, tmp_path: Path) -> None:
    for words, message in bad(path, tmp_path):
        code, _, error = told(*words)
        assert code == 2, words
        assert error.startswith("lepton-ref: error: "), words
        assert error.count("\n") == 1, words
        assert message in error, words


@pytest.mark.parametrize(
    "words", [(), ("none",), ("run",), ("run", "m"), ("info", "m", "--none"), ("logits", "m", "--top", "x")]
)
def test_wrong_usage_is_code_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(list(words))
    assert end.value.code == 2
    assert "usage: lepton-ref" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("odd\nthing"), MemoryError(), KeyError("x"), ZeroDivisionError("y")])
def test_a_failure_while_running_is_code_1(
    error: Exception, told: Told, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Model, "forward", fail)
    code, out, text = told("logits", path, "--ids", "5")
    assert (code, out, text.count("\n")) == (1, "", 1)
    assert text.startswith(f"lepton-ref: error: {type(error).__name__}: ")
    code, _, text = told("logits", path, "--ids", "5", "--debug")
    assert code == 1
    assert "Traceback" in text


def test_debug_shows_where_bad_input_was_found(told: Told, path: Path) -> None:
    code, _, error = told("logits", path, "--ids", "61", "--debug")
    assert code == 2
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("lepton-ref: error: --ids holds 61, outside")


def test_logits_that_are_nan_are_an_error(told: Told, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "forward", lambda *a, **k: np.full((1, 1, 61), np.nan, dtype=np.float32))
    code, _, error = told("logits", path, "--ids", "5")
    assert (code, "61 of 61 logits are NaN" in error) == (2, True)


def test_a_warning_is_one_line_without_code(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.commands, "backends", lambda args: warnings.warn("a kernel\nis slow", stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert told("backends") == (0, "", "lepton-ref: warning: a kernel is slow\n")
        with pytest.warns(UserWarning, match="elsewhere"):  # as ever once the command is done
            warnings.warn("elsewhere", stacklevel=1)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"lepton-ref {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_parse(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    examples = [line.strip() for line in text.split("examples:")[1].splitlines() if line.strip()]
    assert len(examples) >= 1
    for example in examples:
        program, *words = shlex.split(example)
        assert (program, words[0]) == ("lepton-ref", command)
        assert callable(cli._parser().parse_args(words).run)


# --- reports ----------------------------------------------------------------------------------------------------------


def test_json_has_no_number_that_json_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    cli_report.facts({"a": float("inf"), "b": [float("nan"), 1.5], "c": "ü"}, as_json=True)
    out = capsys.readouterr().out
    assert out == '{"a": null, "b": [null, 1.5], "c": "ü"}\n'
    cli_report.records([], as_json=True)
    cli_report.records([], as_json=False)
    assert capsys.readouterr().out == "[]\n"


def test_plain_lines_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    cli_report.facts({"a": 1, "long": "x"}, as_json=False)
    cli_report.records([{"id": 7, "text": "long word"}, {"id": 123456, "text": "b"}], as_json=False)
    assert capsys.readouterr().out == "a     1\nlong  x\nid      text\n7       long word\n123456  b\n"


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_gets_a_table_and_no_markup_is_read(
    colour: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    cli_report.records([{"id": 1, "text": "[red]x[/red]"}], as_json=False)
    out = capsys.readouterr().out
    assert "[red]x[/red]" in out
    assert "│" in out


def test_a_table_folds_what_is_long(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    path = "/" + "abcdefghi/" * 12
    cli_report.facts({"file": path}, as_json=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(lines) > 1
    assert "".join(line.split("│")[2].strip() for line in lines) == path


def test_a_terminal_without_rich_gets_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_rich(monkeypatch)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    cli_report.facts({"a": 1}, as_json=False)
    assert capsys.readouterr().out == "a  1\n"


def test_without_rich_every_command_works(told: Told, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_rich(monkeypatch)
    assert told("run", path, "hello", "--max-tokens", 2)[0] == 0
    assert told("info", path)[0] == 0
    assert told("embed", path, "a")[0] == 0


# --- as a process -----------------------------------------------------------------------------------------------------


def process(*words: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lepton_ref.cli", *map(str, words)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, encoding="utf-8", **{**pipes, **options})


def test_a_process_says_the_same(path: Path) -> None:
    expected = load(path).generate("hello", max_new_tokens=4).text
    run = process("run", path, "hello", "--max-tokens", 4)
    out, error = run.communicate(timeout=60)
    assert (run.returncode, out) == (0, f"hello{expected}\n")
    assert "Traceback" not in error
    chat = process("chat", path, "--max-tokens", 4)
    out, error = chat.communicate("hi\n/exit\n", timeout=60)
    assert (chat.returncode, len(out.splitlines())) == (0, 1)
    assert ">" not in out, "there is no prompt where nobody types"


def test_a_reader_that_leaves_early_is_no_error(path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    run = process("info", path, "--weights", stdout=writing)
    os.close(writing)
    _, error = run.communicate(timeout=60)
    assert (run.returncode, error) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
@pytest.mark.parametrize("words", [("run", "hello", "--max-tokens", 2), ("info",)])
def test_output_that_cannot_be_written_is_a_failure(words: tuple[object, ...], path: Path) -> None:
    command, *rest = words
    with open("/dev/full", "w") as full:
        ran = process(command, path, *rest, stdout=full)
        _, error = ran.communicate(timeout=60)
    assert (ran.returncode, error) == (1, "lepton-ref: error: [Errno 28] No space left on device\n")


def test_an_interrupted_process_ends_with_130(tmp_path: Path) -> None:
    head = np.zeros((61, 24), dtype=np.float32)
    head[20], head[21] = 1.0, -1.0  # one of two tokens is always the likeliest, so that nothing ends it
    metadata = {**METADATA, "llama.context_length": 10**6}
    path = llama_gguf(tmp_path / "endless.gguf", metadata=metadata, **{"output.weight": head})
    heeded = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # a shell may have it ignored
    run = process("run", path, "hello", "--max-tokens", 10**9, **heeded)
    assert run.stdout is not None
    assert run.stdout.read(6).startswith("hello")
    run.send_signal(signal.SIGINT)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 130
    assert error.strip() == "lepton-ref: interrupted"


def test_a_closed_standard_output_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["backends"]) == 1
    monkeypatch.undo()
    assert (
        capsys.readouterr().err == "lepton-ref: error: standard output is closed; send it to a file, or to /dev/null\n"
    )
