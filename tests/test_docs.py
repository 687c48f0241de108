"""What the documentation says is so: its code prints what is shown, and its generated parts are the generators'."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ROUND_ONCE = DOCS / "round-once.md"


def blocks(page: str) -> Iterator[tuple[str, str | None]]:
    """Each Python block, and the text block that follows it at once: what it prints."""
    for found in re.finditer(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", page, re.DOTALL | re.MULTILINE):
        yield found[1], found[2]


def outputs(page: str) -> list[tuple[str, str | None]]:
    """What each block prints, run in one namespace from top to bottom, and what the page shows."""
    names: dict[str, Any] = {}
    found = []
    for code, shown in blocks(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(ROUND_ONCE), "exec"), names)  # a page's own code, which the test is there to run
        found.append((printed.getvalue(), shown))
    return found


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module(name)


@pytest.fixture
def ambiguous(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("ambiguous_figure", monkeypatch)


def test_every_block_prints_what_is_shown_below_it() -> None:
    found = outputs(ROUND_ONCE.read_text(encoding="utf-8"))
    assert len(found) >= 5
    for printed, shown in found:
        assert shown is not None
        assert printed == shown


def test_a_number_changed_by_hand_is_found() -> None:
    page = ROUND_ONCE.read_text(encoding="utf-8")
    changed = page.replace("sequential-fp16    925.5000", "sequential-fp16    1009.5000")
    assert changed != page
    assert any(printed != shown for printed, shown in outputs(changed))


def test_a_block_without_output_is_found() -> None:
    assert list(blocks("```python\nprint(1)\n```\n\nand then\n")) == [("print(1)\n", None)]


def test_the_page_holds_the_table_that_is_recorded(ambiguous: ModuleType) -> None:
    page = ROUND_ONCE.read_text(encoding="utf-8")
    table = ambiguous.table(ambiguous.recorded())
    assert ambiguous.with_table(page, table) == page
    assert table.count("|") > 40
    assert ambiguous.with_table(page.replace(table, table.replace("e-04", "e-05")), table) == page


def test_the_drawing_is_that_of_what_is_recorded(ambiguous: ModuleType) -> None:
    record = ambiguous.recorded()
    drawing = ambiguous.DRAWING.read_text(encoding="utf-8")
    assert ambiguous.drawing(record) == drawing
    marks = ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}circle")  # the repository's own file
    counts = record["counts"]
    assert len(list(marks)) == sum(len(ops) for ops in counts.values()) + len(counts)
    record["counts"]["reference"]["linear"]["double_double"] *= 10
    assert ambiguous.drawing(record) != drawing


def test_a_share_lies_where_the_axis_says(ambiguous: ModuleType) -> None:
    assert ambiguous.across(1e-5) == (ambiguous.across(1e-4) + ambiguous.across(1e-6)) / 2
    assert ambiguous.across(0) == ambiguous.LEFT
    assert ambiguous.across(1.0) == ambiguous.RIGHT


def test_fewer_than_one_in_a_thousand_are_ambiguous_under_reference(ambiguous: ModuleType) -> None:
    counts = ambiguous.recorded()["counts"]["reference"]
    assert counts["linear"]["elements"] > 10**6
    assert all(ambiguous.share(count) < 1e-3 for count in counts.values())


def test_all_is_the_sum_of_the_ops(ambiguous: ModuleType) -> None:
    for counts in json.loads(ambiguous.RECORD.read_text(encoding="utf-8"))["counts"].values():
        for key, value in counts["all"].items():
            assert value == sum(count[key] for op, count in counts.items() if op != "all")
