"""`run` and `chat` with speculation, and prompts kept in files."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from talking_model import TOKENS, talking
from tiny_models import load

from lepton_ref.runtime import decoding

Told = Callable[..., tuple[int, str, str]]
PROMPT = "hello hello hello"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return talking(tmp_path_factory.mktemp("cli") / "talker.gguf")


def report(told: Told, *words: object) -> dict[str, object]:
    found: dict[str, object] = json.loads(told(*words, "--json")[1])
    return {name: value for name, value in found.items() if not name.endswith(("_s", "_per_second"))}


# --- speculation ------------------------------------------------------------------------------------------------------


def test_speculation_writes_the_same_text(told: Told, path: Path) -> None:
    words = ("run", path, PROMPT, "--max-tokens", 30)
    code, plain, _ = told(*words)
    assert code == 0
    code, out, error = told(*words, "--speculate", 4)
    assert (code, out) == (0, plain)
    assert "guesses right; ended by length]" in error


def test_speculation_is_counted(told: Told, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "choose", lambda logits, how, seen, u: seen[-6])  # repeats "hello " for ever
    words = ("run", path, PROMPT, "--max-tokens", 11)
    found = report(told, *words, "--speculate", 4)
    assert (found.pop("proposed"), found.pop("accepted")) == (8, 8)
    assert found == report(told, *words)
    assert "8 of 8 guesses right; ended by length]" in told(*words, "--speculate", 4)[2]
    assert "guesses" not in told(*words)[2]


def test_chat_speculates(told: Told, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outs = []
    for more in ((), ("--speculate", 3)):
        lines = iter(["hello hello", "hello hello"])
        monkeypatch.setattr(builtins, "input", lambda prompt="", lines=lines: next(lines, "/exit"))
        outs.append(told("chat", path, "--max-tokens", 8, *more)[1])
    assert outs[0] == outs[1]
    assert len(outs[0].splitlines()) == 2


# --- prompts in files -------------------------------------------------------------------------------------------------


def test_a_prompt_is_read_once(told: Told, path: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompt.cache"
    words = ("run", path, "--max-tokens", 9, "--temperature", 0.8, "--repetition-penalty", 1.3)
    first = (*words[:2], PROMPT, *words[2:])
    longer = (*words[:2], PROMPT + "abc", *words[2:])
    for asked, there, of in ((first, 0, 17), (first, 16, 17), (longer, 16, 19), (longer, 16, 19)):
        plain = told(*asked)[1]
        code, out, error = told(*asked, "--prompt-cache", file)
        assert (code, out) == (0, plain)
        assert f"[{file}: {there} of the prompt's {of} tokens were there]" in error
    kept = file.read_bytes()
    assert told(*longer, "--prompt-cache", file, "--force")[1] == told(*longer)[1]
    assert file.read_bytes() != kept
    assert "18 of the prompt's 19 tokens" in told(*longer, "--prompt-cache", file)[2]
    assert [each.name for each in tmp_path.iterdir()] == ["prompt.cache"]


def test_a_kept_prompt_goes_with_the_other_options(told: Told, path: Path, tmp_path: Path) -> None:
    for number, more in enumerate((("--chat",), ("--kv-cache", "int8"), ("--precision", "bf16"), ("--speculate", 5))):
        file = tmp_path / f"{number}.cache"
        plain = report(told, "run", path, PROMPT, "--max-tokens", 12, *more)
        for _ in range(2):
            found = report(told, "run", path, PROMPT, "--max-tokens", 12, *more, "--prompt-cache", file)
            for counted in ("proposed", "accepted"):
                assert found.pop(counted, None) == plain.get(counted)
            assert found == {name: value for name, value in plain.items() if name not in ("proposed", "accepted")}
        assert load(path, precision="bf16" if "bf16" in more else "reference").load_cache(file).counts[0] > 10


def test_a_prompt_of_one_token_is_kept_too(told: Told, path: Path, tmp_path: Path) -> None:
    file = tmp_path / "c"
    for _ in range(2):
        code, out, error = told("run", path, "", "--max-tokens", 3, "--prompt-cache", file)
        assert (code, out) == (0, told("run", path, "", "--max-tokens", 3)[1])
        assert "0 of the prompt's 1 tokens were there" in error


def test_what_is_wrong_is_told_in_one_line(told: Told, path: Path, tmp_path: Path) -> None:
    file = tmp_path / "c"
    assert told("run", path, PROMPT, "--max-tokens", 1, "--prompt-cache", file)[0] == 0
    (tmp_path / "text").write_text("hello", encoding="utf-8")
    nowhere = tmp_path / "none" / "c"
    for words, message in (
        (
            ("--speculate", -1),
            "--speculate is -1, but must be at least 0; it counts guessed tokens",
        ),
        (
            ("--speculate", 2, "--precision", "fast"),
            "speculate is 2, but under 'fast' a token's bits",
        ),
        (("--precision", "bf16", "--prompt-cache", file), f"{file}: precision: 'reference', not 'bf16': the cache was"),
        (("--kv-cache", "int8", "--prompt-cache", file), f"{file}: kv_cache: dense: the model's caches are int8; load"),
        (("--prompt-cache", tmp_path / "text"), f"{tmp_path / 'text'}: size: 5 bytes"),
        (("--prompt-cache", tmp_path), f"{tmp_path} is a folder or a device; give the name of a file"),
        (("--prompt-cache", nowhere), f"{nowhere.parent}: no such folder; make it, or choose another place for c"),
    ):
        code, out, error = told("run", path, PROMPT, *words)
        assert (code, out) == (2, "")
        assert error.splitlines()[-1].startswith(f"lepton-ref: error: {message}")
    other = talking(tmp_path / "other.gguf", **{"llama.rope.freq_base": 5000.0, "tokenizer.ggml.tokens": TOKENS})
    code, out, error = told("run", other, PROMPT, "--prompt-cache", file)
    assert (code, out) == (2, "")
    assert f"{file}: model: " in error
    assert "the cache is another model's; load that one, or read the prompt again" in error
