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

from lepton_ref import ops
from lepton_ref.models.execute import HANDLERS
from lepton_ref.numerics import PRECISIONS
from lepton_ref.ops.normative import NORMS
from lepton_ref.plain import ops as plain

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


@pytest.fixture
def normative(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("normative_table", monkeypatch)


NO_ARRAYS = {"Rope", "RopeTables", "attention_factor", "frequencies"}
"""Public names of `lepton_ref.ops` that are records, or numbers computed once from a config."""


def rounded_to_fp32(call: str) -> str:
    """What an example of the table gives: a repr, in which −0 and NaN can be seen."""
    values = eval(call, {name: getattr(plain, name) for name in plain.__all__})  # the repository's own text
    return repr([plain.rounded(value, "fp32") for value in values])


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


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        target, _, heading = link.partition("#")
        file = page if target == "" else page.parent / target
        assert file.exists(), link
        if heading != "":
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {each.lower().replace(" ", "-") for each in headings}, link


def test_the_normative_page_is_what_the_code_gives(normative: ModuleType) -> None:
    assert normative.PAGE.read_text(encoding="utf-8") == normative.page(), "run `make docs`"


def test_a_changed_rule_changes_the_page(normative: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = normative.page()
    monkeypatch.setattr(normative, "NORMS", {name: norm for name, norm in NORMS.items() if name != "linear"})
    assert "### linear\n" in before
    assert "### linear\n" not in normative.page()


def test_every_op_has_a_norm(normative: ModuleType) -> None:
    wanted = set(HANDLERS) | (set(ops.__all__) - NO_ARRAYS)
    assert wanted <= set(NORMS)
    assert set(plain.__all__) & set(ops.__all__) <= set(NORMS)
    page = normative.page()
    for name, norm in NORMS.items():
        assert f"### {name}\n" in page
        assert all((norm.inputs, norm.function, norm.rounded, norm.edges, norm.ties))


def test_every_precision_is_on_the_page(normative: ModuleType) -> None:
    page = normative.page()
    assert [name for name in PRECISIONS if f"| `{name}` |" not in page] == []


def test_a_table_keeps_bars_inside_their_cells(normative: ModuleType) -> None:
    assert normative.table(["a"], [("|x|",)]).splitlines()[2] == "| \\|x\\| |"


@pytest.mark.parametrize(("call", "shown"), [pair for norm in NORMS.values() for pair in norm.examples])
def test_an_example_of_the_table_is_what_the_specification_gives(call: str, shown: str) -> None:
    assert rounded_to_fp32(call) == shown


def test_an_example_sees_the_sign_of_a_zero() -> None:
    assert rounded_to_fp32("add([-0.0], [-0.0])") != rounded_to_fp32("add([-0.0], [0.0])")


EDGES = [
    ("activate([-0.0, 0.0], 'relu2')", "[0.0, 0.0]"),
    ("activate([-0.0, 0.0], 'sigmoid')", "[0.5, 0.5]"),
    *((f"activate([-0.0, float('nan')], '{kind}')", "[-0.0, nan]") for kind in ("tanh", "silu", "quick_gelu")),
    *((f"activate([-0.0, float('nan')], '{kind}')", "[-0.0, nan]") for kind in ("gelu", "gelu_tanh")),
    *((f"activate([-float('inf')], '{kind}')", "[nan]") for kind in ("silu", "quick_gelu", "gelu", "gelu_tanh")),
    *((f"activate([float('inf')], '{kind}')", "[inf]") for kind in ("silu", "quick_gelu", "gelu", "gelu_tanh", "relu")),
    ("activate([float('inf'), -float('inf')], 'tanh')", "[1.0, -1.0]"),
    ("gated([0.0], [float('inf')], 'silu')", "[nan]"),
    ("softcap([float('nan'), -float('inf')], 2.0)", "[nan, -2.0]"),
    ("linear([float('inf'), float('inf')], [[1.0, -1.0], [1.0, 1.0]])", "[nan, inf]"),
    ("linear([-0.0], [[1.0]], [0.0])", "[0.0]"),
    ("linear([-0.0], [[1.0]], [-0.0])", "[-0.0]"),
    ("linear([2.0**127], [[2.0]])", "[inf]"),
    ("linear([2.0**-149], [[1.0]])", "[1.401298464324817e-45]"),
    ("rms_norm([float('nan'), 1.0], [1.0, 1.0], eps=1.0)", "[nan, nan]"),
    ("layer_norm([float('inf'), 1.0], [1.0, 1.0], eps=1.0)", "[nan, nan]"),
    ("layer_norm([-0.0, 0.0], [1.0, 1.0], eps=1.0)", "[-0.0, 0.0]"),
    ("softmax([float('inf'), 1.0])", "[nan, nan]"),
    ("log_softmax([float('nan'), 1.0])", "[nan, nan]"),
    ("attention([1.0], [[-float('inf')]], [[1.0]], [True], scale=1.0)", "[nan]"),
    ("attention([1.0], [[-float('inf')], [0.0]], [[float('inf')], [1.0]], [True, True], scale=1.0)", "[nan]"),
    ("attention([1.0], [[float('inf')]], [[1.0]], [True], scale=1.0)", "[nan]"),
    ("attention([1.0], [[float('inf')]], [[1.0]], [True], scale=1.0, cap=2.0)", "[1.0]"),
    ("attention([1.0], [[1.0]], [[1.0]], [True], scale=1.0, sink=float('inf'))", "[0.0]"),
    ("attention([1.0], [[1.0], [2.0]], [[-0.0], [0.0]], [True, True], scale=1.0)", "[0.0]"),
    ("pool([[-0.0], [-0.0]], kind='mean', normalise=False)", "[-0.0]"),
    ("pool([[float('inf'), -1.0]], kind='cls', normalise=True)", "[nan, -0.0]"),
    ("pool([[float('nan'), -1.0]], kind='cls', normalise=True)", "[nan, nan]"),
]


@pytest.mark.parametrize(("call", "value"), EDGES)
def test_an_edge_is_as_the_table_words_it(call: str, value: str) -> None:
    assert rounded_to_fp32(call) == value
