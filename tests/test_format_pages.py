"""The pages of the storage formats: they are the generator's, complete, and say of every bit what `read` names."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from block_cases import UNUSED, bits
from diagram_reader import expanded
from format_page_cases import (
    ENTRIES,
    block_planes,
    check_diagram,
    drawing_planes,
    each_block,
    each_sample,
    page_planes,
    pages,
)

import lepton_ref.storage
from lepton_ref.runtime.kv_formats import KV_FORMATS
from lepton_ref.storage import DENSE_FORMATS, FORMATS, Weight, decode


@functools.cache
def made() -> dict[str, str]:
    return pages.pages()


def test_the_pages_are_what_the_code_gives() -> None:
    found = made()
    assert {path.name for path in pages.FOLDER.iterdir()} == set(found), "run `make docs`"
    for name, text in found.items():
        assert (pages.FOLDER / name).read_text(encoding="utf-8") == text, f"{name}: run `make docs`"


def test_a_page_changed_by_hand_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: text for name, text in made().items() if name.startswith(("README", "Q4_0"))}
    monkeypatch.setattr(pages, "pages", lambda: few)
    monkeypatch.setattr(pages, "FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["format_pages.py"])
    assert pages.main() == 0
    monkeypatch.setattr("sys.argv", ["format_pages.py", "--check"])
    assert pages.main() == 0
    (tmp_path / "Q4_0.md").write_text("by hand", encoding="utf-8")
    assert pages.main() == 1


def test_every_format_and_every_storage_class_has_a_page() -> None:
    names = {entry.name for entry in ENTRIES}
    assert names >= {*FORMATS, *DENSE_FORMATS}
    shown = {type(sample.weight) for entry in ENTRIES for sample in entry.samples}
    for found in pkgutil.iter_modules(lepton_ref.storage.__path__):
        for each in vars(importlib.import_module(f"lepton_ref.storage.{found.name}")).values():
            if isinstance(each, type) and issubclass(each, Weight) and not inspect.isabstract(each):
                assert each in shown or not hasattr(each, "read"), each
    caches = {sample.title for entry in ENTRIES for sample in entry.samples if entry.name == "KV_CACHE"}
    assert caches == {name.split("-")[0] for name in KV_FORMATS}


def test_every_page_is_in_the_index_and_every_drawing_on_a_page() -> None:
    found = made()
    index = found["README.md"]
    for name, text in found.items():
        if name.endswith(".svg"):
            assert f"]({name})" in found[name.split(".")[0].split("-")[0] + ".md"]
            assert len(text.encode()) < 20_000
        elif name != "README.md":
            assert f"]({name})" in index


@each_sample
def test_the_text_on_the_page_says_of_every_bit_what_read_names(entry: Any, sample: Any) -> None:
    check_diagram(page_planes(entry, sample), sample.layout(sample.tensors))


@each_sample
def test_the_drawing_says_of_every_bit_what_read_names(entry: Any, sample: Any) -> None:
    name = pages.drawing_name(entry, pages.drawn(entry).index(sample))
    svg = (pages.FOLDER / name).read_text(encoding="utf-8")
    check_diagram(drawing_planes(svg), sample.layout(sample.tensors))


@each_block
def test_every_bit_of_a_block_is_covered_or_shown_as_unused(name: str) -> None:
    (items,) = block_planes(name)
    said = expanded(items, FORMATS[name].length, 0)
    assert sorted({byte for (byte, _), uses in said.items() if not uses}) == list(UNUSED.get(name, ()))
    assert {e for uses in said.values() for _, e, _ in uses} == set(range(FORMATS[name].length))


# --- the example ------------------------------------------------------------------------------------------------------


@each_block
def test_the_bytes_on_a_page_decode_to_the_numbers_on_it(name: str) -> None:
    page = (pages.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    example = page.split("## Example\n")[1]
    hexadecimal, *_ = re.findall(r"```text\n(.*?)```", example, re.DOTALL)
    raw = bytes.fromhex("".join(line[6:] for line in hexadecimal.splitlines()))
    values = decode(name, np.frombuffer(raw, dtype=np.uint8))
    some = re.findall(r"^\| (\d+) \|.*\| (\S+) `0x([0-9a-f]{8})` \|$", example, re.MULTILINE)
    for e, value, code in some:
        assert bits(np.float32([value]))[0] == bits(values)[int(e)] == int(code, 16)
    if len(values) > pages.EVERY:
        lines = example.split("values</summary>")[1].split("```")[1].splitlines()[1:]
        shown = np.array([float(each) for line in lines for each in line.split()[1:]], dtype=np.float32)
        np.testing.assert_array_equal(bits(values), bits(shown))
    else:
        assert {int(e) for e, _, _ in some} == set(range(len(values)))


def test_every_example_agrees_with_its_explanation() -> None:
    for entry in ENTRIES:
        for sample in entry.samples:
            rows, columns = sample.weight.shape
            assert all(sample.explain(r, c).agrees for r in range(rows) for c in range(0, columns, 5)), entry.name
