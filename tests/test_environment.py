"""Setting up: nothing to do where all is there, additions in place, and anew after an interruption."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


class Recorder:
    """Stands in for the two steps that take time, and remembers that they were taken."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.fails = False

    def create(self, folder: Path, *, with_pip: bool) -> None:
        assert with_pip
        self.steps.append("create")
        (folder / "bin").mkdir(parents=True)
        python = folder / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)

    def install(self, folder: Path, purposes: list[str]) -> None:
        self.steps.append("install " + " ".join(purposes))
        if self.fails:
            raise subprocess.CalledProcessError(1, "pip")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder()


@pytest.fixture
def environment(tmp_path: Path, steps: Recorder, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, working on a checkout that holds its inputs and no more."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("environment")
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "ci.txt").write_text("numpy==2.4.6\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "PINS", tmp_path / "requirements" / "ci.txt")
    monkeypatch.setattr(script.venv, "create", steps.create)
    monkeypatch.setattr(script, "install", steps.install)
    return script


def test_a_second_call_does_nothing(environment: ModuleType, steps: Recorder) -> None:
    environment.prepare("dev")
    environment.prepare("dev")
    assert steps.steps == ["create", "install dev"]


@pytest.mark.parametrize("changed", ["pyproject.toml", "requirements/ci.txt"])
def test_a_change_is_installed_in_place(environment: ModuleType, steps: Recorder, changed: str) -> None:
    environment.prepare("dev")
    (environment.ROOT / changed).write_text("changed\n")
    environment.prepare("dev")
    assert steps.steps == ["create", "install dev", "install dev"]


def test_another_purpose_of_the_same_folder_is_added(environment: ModuleType, steps: Recorder) -> None:
    environment.prepare("dev")
    environment.prepare("demo")
    environment.prepare("dev")
    environment.prepare("demo")
    assert steps.steps == ["create", "install dev", "install demo dev"]
    assert json.loads((environment.ROOT / ".venv" / "ready.json").read_text())["purposes"] == ["demo", "dev"]


def test_peers_have_a_folder_of_their_own(environment: ModuleType, steps: Recorder) -> None:
    environment.prepare("dev")
    environment.prepare("peers")
    assert steps.steps == ["create", "install dev", "create", "install peers"]


@pytest.mark.parametrize("before", [[], ["dev"]])
def test_an_interrupted_set_up_is_made_anew(environment: ModuleType, steps: Recorder, before: list[str]) -> None:
    for purpose in before:
        environment.prepare(purpose)
    steps.fails = True
    with pytest.raises(subprocess.CalledProcessError):
        environment.prepare("demo")
    (environment.ROOT / ".venv" / "half a package").touch()
    steps.fails = False
    steps.steps.clear()
    environment.prepare("demo")
    assert steps.steps == ["create", "install demo"]
    assert not (environment.ROOT / ".venv" / "half a package").exists()


@pytest.mark.parametrize("damage", ["no python", "another python", "no json", "torn json"])
def test_a_broken_environment_is_made_anew(environment: ModuleType, steps: Recorder, damage: str) -> None:
    environment.prepare("dev")
    folder = environment.ROOT / ".venv"
    if damage == "no python":
        (folder / "bin" / "python").unlink()
    elif damage == "another python":
        (folder / "bin" / "python").write_text("#!/bin/sh\necho 3 10\n")
    elif damage == "no json":
        (folder / "ready.json").unlink()
    else:
        (folder / "ready.json").write_text('{"fingerprint": ')
    environment.prepare("dev")
    assert steps.steps == ["create", "install dev", "create", "install dev"]


def test_a_purpose_that_is_no_more_is_forgotten(environment: ModuleType, steps: Recorder) -> None:
    environment.prepare("dev")
    record = environment.ROOT / ".venv" / "ready.json"
    record.write_text(record.read_text().replace('["dev"]', '["dev", "of another age"]'))
    environment.prepare("demo")
    assert steps.steps == ["create", "install dev", "install demo dev"]


def test_a_checkout_that_moved_is_another_state(environment: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    here = environment.fingerprint()
    moved = environment.ROOT / "moved"
    moved.mkdir()
    (moved / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(environment, "ROOT", moved)
    assert environment.fingerprint() != here


def test_every_pin_is_exact_and_every_dependency_of_ours_is_pinned(environment: ModuleType) -> None:
    pins = [line for line in (ROOT / "requirements" / "ci.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and " " not in line for line in pins)
    names = {line.partition("==")[0] for line in pins}
    assert {"numpy", "pytest", "ruff", "mypy", "hypothesis", "tokenizers", "jinja2", "rich", "threadpoolctl"} <= names
    assert set(environment.PURPOSES["demo"].models) <= names


def make(*arguments: str, path: str) -> subprocess.CompletedProcess[str]:
    """Run make in the checkout with this PATH."""
    of_make = ("PYTHON", "MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL")  # the test itself may run under make
    environment = {name: value for name, value in os.environ.items() if name not in of_make} | {"PATH": path}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment)


def test_a_python_that_does_not_start_is_passed_over(tmp_path: Path) -> None:
    for name, answer in [("python3.13", "exit 127"), ("python3.12", f'exec "{sys.executable}" "$@"')]:
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    done = make("-n", "venv", path=f"{tmp_path}:{os.environ['PATH']}")
    assert '"python3.12" scripts/environment.py dev' in done.stdout


def test_no_python_is_one_clear_line() -> None:
    done = make("venv", "PYTHON=", path=os.environ["PATH"])
    assert done.returncode != 0
    assert "no Python of 3.11 or newer" in done.stderr


def test_every_target_of_make_is_in_its_help() -> None:
    targets = {
        line.removeprefix(".PHONY: ").strip()
        for line in (ROOT / "Makefile").read_text().splitlines()
        if line.startswith(".PHONY: ")
    }
    listed = {line.split()[1] for line in make("help", path=os.environ["PATH"]).stdout.splitlines()}
    assert listed == targets - {"python"}
