"""What the README says is so: its figures, its targets, its commands, its example."""

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lepton_ref import cli, demo

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("readme_figures")


def test_the_figures_are_those_that_are_recorded(figures: ModuleType) -> None:
    text = README.read_text(encoding="utf-8")
    assert figures.with_table(text, figures.recorded()) == text
    assert figures.recorded().count("|") > 20


def test_a_figure_changed_by_hand_is_found(figures: ModuleType) -> None:
    text = README.read_text(encoding="utf-8")
    begin = text.index(figures.BEGIN)
    changed = text[:begin] + re.sub(r"\de-0", "0e-0", text[begin:], count=1)
    assert changed != text
    assert figures.with_table(changed, figures.recorded()) != changed


def test_a_lost_marker_is_found(figures: ModuleType) -> None:
    with pytest.raises(SystemExit, match="has no"):
        figures.with_table("# lepton_ref\n", "| |")


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_target_that_is_named_is_there(document: str) -> None:
    targets = set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE))
    assert named
    assert named <= targets


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/index.md", "docs/adr/README.md"])
def test_every_link_to_a_file_leads_to_one(document: str) -> None:
    folder = (ROOT / document).parent
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text(encoding="utf-8"))
    gone = [link for link in links if not link.startswith("https://") and not (folder / link).exists()]
    assert not gone


def test_every_record_of_a_decision_is_in_the_index() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")
    records = sorted(path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert len(records) >= 5
    assert [name for name in records if f"({name})" not in index] == []


def test_every_command_that_is_named_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"lepton-ref ([a-z]+)", text))
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    listed = set(re.findall(r"^    ([a-z]+)(?:  |$)", capsys.readouterr().out, re.MULTILINE))
    assert named == listed
    for command, option in re.findall(r"lepton-ref ([a-z]+) [^`\n]*?(--[a-z-]+)", text):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        assert option in capsys.readouterr().out


@pytest.mark.slow
def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        path = demo.find(demo.MODEL)
    except FileNotFoundError as error:
        pytest.skip(f"{error}: `make test-slow` installs it")
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"path": path}
    exec(compile(example, str(README), "exec"), names)  # a document's own code, which the test is there to run
    assert names["trace"]["layers.0.attn"].shape == (1, len(names["ids"]), 576)
    assert "Paris" in capsys.readouterr().out
