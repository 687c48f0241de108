"""`lepton-ref conformance`: both forms, exit codes, what is kept and run again, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wrong_backends import WRONG

from lepton_ref import cli, registry

Told = Callable[..., tuple[int, str, str]]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    def run(*words: object) -> tuple[int, str, str]:
        code = cli.main(["conformance", *(str(word) for word in words)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend named `wrong`, which loses biases."""
    real = registry.get

    def get(backend: Any) -> Any:
        return WRONG["the bias is lost"].make() if backend == "wrong" else real(backend)

    monkeypatch.setattr(registry, "get", get)


def test_a_backend_that_conforms(told: Told) -> None:
    code, out, error = told("numpy", "--op", "add", "--op", "members", "--examples", 3, "--precision", "bf16")
    assert (code, error) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == [
        "check",
        "precision",
        "examples",
        "numbers",
        "ambiguous",
        "kernels",
        "seconds",
        "verdict",
    ]
    assert [line.split()[0] for line in lines[1:3]] == ["members", "add"]
    assert lines[-1].endswith("conforms on these examples")


def test_a_backend_that_conforms_as_json(told: Told) -> None:
    code, out, error = told("numpy", "--op", "add", "--examples", 3, "--seed", 7, "--json")
    found = json.loads(out)
    assert (code, error) == (0, "")
    assert found["passed"] is True
    assert found["seed"] == 7
    assert found["checks"][0]["elements"] > 0
    assert found["kept"] == []


def test_a_backend_that_does_not_conform_and_what_is_kept_of_it(told: Told, wrong: None, tmp_path: Path) -> None:
    code, out, error = told("wrong", "--op", "linear", "--out", tmp_path)
    assert code == 1
    assert "FAILED linear under reference, seed 0, example" in out
    assert out.splitlines()[-1].endswith("does not conform")
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == 3
    assert str(kept[0]) in error
    code, out, _ = told("wrong", "--replay", kept[0])
    assert code == 1
    assert "must be" in out
    code, out, _ = told("numpy", "--replay", kept[0], "--json")
    assert code == 0
    assert json.loads(out)["now"] == "passed"
    assert json.loads(out)["passed"] is True


def test_every_failure_is_in_the_json(told: Told, wrong: None, tmp_path: Path) -> None:
    code, out, _ = told("wrong", "--op", "linear", "--json", "--out", tmp_path)
    found = json.loads(out)
    assert code == 1
    assert found["passed"] is False
    assert len(found["checks"][0]["failures"]) == len(found["kept"]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nope",), "no backend named 'nope'"),
        (("numpy", "--op", "nix"), "no check named nix"),
        (("numpy", "--precision", "fp7"), "unknown precision 'fp7'"),
        (("numpy", "--examples", 0), "at least one example"),
        (("numpy", "--seed", -1), "a seed is at least 0"),
        (("numpy", "--out", "nowhere"), "nowhere: no such folder"),
        (("numpy", "--replay", "nowhere.npz"), "nowhere.npz"),
    ],
)
def test_wrong_usage_is_one_line(told: Told, words: tuple[object, ...], message: str) -> None:
    code, out, error = told(*words)
    assert (code, out) == (2, "")
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_capsule_is_one_line(told: Told, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"hello")
    code, _, error = told("numpy", "--replay", tmp_path / "a.npz")
    assert code == 2
    assert error.startswith(f"lepton-ref: error: {tmp_path / 'a.npz'}: content: ")
