"""The generator of the formats' pages, its samples, and what is checked of a diagram; for two files of tests."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from diagram_reader import Items, Said, expanded, of_drawing, of_text, text_planes

from lepton_ref.storage import FORMATS

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parent.parent / "scripts")
    pages, diagram, as_text, drawn, entries = map(
        importlib.import_module, ("format_pages", "bit_diagram", "bit_text", "bit_drawing", "format_entries")
    )

ENTRIES = entries.entries()
SAMPLES = [(entry, sample) for entry in ENTRIES for sample in pages.drawn(entry)]
MATRICES = [(entry, sample) for entry, sample in SAMPLES if sample.layout(sample.tensors).columns]
each_block = pytest.mark.parametrize("name", FORMATS)


def ids(samples: list[tuple[Any, Any]]) -> list[str]:
    return [f"{entry.name} {sample.title}".strip() for entry, sample in samples]


each_sample = pytest.mark.parametrize(("entry", "sample"), SAMPLES, ids=ids(SAMPLES))
each_matrix = pytest.mark.parametrize(("entry", "sample"), MATRICES, ids=ids(MATRICES))


def named(layout: Any) -> dict[str, dict[tuple[int, int], set[Said]]]:
    """Plane → (byte, bit) → the parts, elements and bits of codes that `read` names."""
    found: dict[str, dict[tuple[int, int], set[Said]]] = {
        plane.name: {(byte, bit): set() for byte in range(plane.nbytes) for bit in range(8)} for plane in layout.planes
    }
    for e in range(layout.count):
        for plane, part in layout.read(e):
            at = 0
            for where in part.where:
                for bit in range(where.low, where.low + where.width):
                    found[plane][where.byte, bit].add((part.name, e, at))
                    at += 1
    return found


def check_diagram(planes: list[Items], layout: Any) -> None:
    """Of every bit the diagram says what `read` names, and of every bit it says something."""
    assert len(planes) == len(layout.planes)
    for items, (name, want) in zip(planes, named(layout).items(), strict=True):
        said = expanded(items, layout.count, layout.columns)
        assert said.keys() == want.keys(), name
        for place, uses in said.items():
            assert {(part, e) for part, e, _ in uses} == {(part, e) for part, e, _ in want[place]}, (name, place)
            assert all(at is None or (part, e, at) in want[place] for part, e, at in uses), (name, place)


def page_planes(entry: Any, sample: Any) -> list[Items]:
    """The text of a sample's diagram, from the page that is there."""
    page = (pages.FOLDER / f"{entry.name}.md").read_text(encoding="utf-8")
    before = pages.drawn(entry)[: pages.drawn(entry).index(sample)]
    start = sum(len(each.layout(each.tensors).planes) for each in before)
    count = len(sample.layout(sample.tensors).planes)
    return [of_text(plane) for plane in text_planes(page)[start : start + count]]


def drawing_planes(svg: str) -> list[Items]:
    return of_drawing(svg, left=drawn.LEFT, bit=drawn.BIT, gap=drawn.GAP)


def block_planes(name: str) -> list[Items]:
    (found,) = [(entry, sample) for entry, sample in SAMPLES if entry.name == name]
    return page_planes(*found)


def layout_of(name: str) -> Any:
    (sample,) = (sample for entry, sample in SAMPLES if entry.name == name)
    return sample.layout(sample.tensors)
