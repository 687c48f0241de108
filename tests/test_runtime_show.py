"""How a model looks in a terminal and in a notebook: literally, safely, and at a small price."""

from __future__ import annotations

import html as markup
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import golden_cases
import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import load

from lepton_ref import Model
from lepton_ref.runtime import show
from lepton_ref.runtime.parts import Parts
from lepton_ref.storage import Dense, Weight

TINY = golden_cases.GOLDEN / "tiny"


def dense(values: Any) -> Dense:
    return Dense(np.array(values, dtype=np.float32), format="F32")


def with_weights(weights: dict[str, Weight]) -> Parts:
    return replace(load(TINY / "llama").parts, weights=weights)


def rows(html: str) -> list[list[str]]:
    """The cells of every row, as a browser reads them; it raises where tags do not match."""
    found: list[list[str]] = []
    open_tags: list[str] = []

    class Reads(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag in ("table", "tr", "th", "td", "details", "summary"), tag
            assert not attrs
            open_tags.append(tag)
            if tag == "tr":
                found.append([])
            if tag in ("th", "td"):
                found[-1].append("")

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

        def handle_data(self, data: str) -> None:
            if open_tags[-1:] in (["th"], ["td"]):
                found[-1][-1] += data

    Reads(convert_charrefs=True).feed(html)
    assert not open_tags
    return found


def test_a_model_in_a_terminal() -> None:
    model = load(TINY / "llama", precision="float64")
    assert repr(model) == (
        "Model(LlamaConfig)\n"
        "  architecture  LlamaForCausalLM\n"
        "  output        causal lm\n"
        "  parameters    12,264\n"
        "  stored        50.0 KiB as F32 ×21\n"
        "  layers        2\n"
        "  ops           34 of 8 kinds\n"
        f"  file          {TINY / 'llama'}\n"
        "  backend       numpy\n"
        "  precision     float64"
    )


def test_the_parameters_are_counted_once() -> None:
    """Llama by hand: embedding and head 61·24 each, per layer q and o 24·24, k and v 12·24, three of the MLP, norms."""
    layer = 2 * 24 * 24 + 2 * 12 * 24 + 3 * 40 * 24 + 2 * 24
    assert show.facts(load(TINY / "llama").parts)["parameters"] == f"{2 * 61 * 24 + 2 * layer + 24:,}"
    tied = load(TINY / "llama_tied")
    stored = sum(weight.decode().size for weight in tied.parts.file.tensors.values())
    assert show.facts(tied.parts)["parameters"] == f"{stored:,}"


def test_formats_are_counted_the_most_frequent_first() -> None:
    half = Dense(np.zeros(3, dtype=np.float16), format="F16")
    parts = with_weights({"a": half, "b": dense([1.0]), "c": dense([1.0])})
    assert show.facts(parts)["stored"].endswith(" as F32 ×2, F16 ×1")


def test_a_model_in_a_notebook() -> None:
    model = load(TINY / "llama")
    found = rows(model._repr_html_())
    facts = {**show.facts(model.parts), "backend": "numpy", "precision": "reference"}
    assert found[: len(facts)] == [[name, value] for name, value in facts.items()]
    assert ["vocab_size", "61"] in found
    norm = load(TINY / "llama").parts.weights["norm.weight"].decode()
    row = next(row for row in found if row[0] == "norm.weight")
    assert row[:5] == ["norm.weight", "F32", "(24,)", "96 bytes", f"{norm.min():.4g} … {norm.max():.4g}"]
    assert len(row[5]) == 16
    assert row[6] == ""
    assert [row[0] for row in found[-21:]] == list(model.parts.weights)


SCRIPT = '<script>alert("1")</script>'


def test_names_from_a_file_are_escaped() -> None:
    parts = with_weights({SCRIPT: dense([1.0])})
    parts = replace(parts, architecture=SCRIPT, path=TINY / "<b>")
    html = show.html(parts, {"backend": SCRIPT})
    assert SCRIPT not in html
    assert "<b>" not in html
    assert html.count(markup.escape(SCRIPT)) == 3
    assert [row[0] for row in rows(html)][-1] == SCRIPT


def test_markup_that_is_not_escaped_is_found() -> None:
    with pytest.raises(AssertionError):
        rows(f"<table><tr><td>{SCRIPT}</td></tr></table>")
    with pytest.raises(AssertionError):
        rows("<table><tr><td></tr></table>")


def test_values_that_cannot_be_drawn_are_counted() -> None:
    html = show.html(with_weights({"a": dense([1.0, np.nan, np.inf, 2.0]), "b": dense([np.nan])}), {})
    mixed, lost = rows(html)[-2:]
    assert (mixed[4], mixed[6]) == ("1 … 2", "2 of 4 not finite")
    assert lost[4:] == ["", "", "1 of 1 not finite"]


class Counted(Weight):
    """A weight of any size that notes how many elements were decoded."""

    def __init__(self, *shape: int) -> None:
        self.format, self.shape, self.nbytes, self.decoded = "F32", shape, 4, 0

    def rows(self, start: int, stop: int, /) -> NDArray[Any]:
        raise AssertionError("the whole is decoded")

    def take(self, index: NDArray[np.int64], /) -> NDArray[Any]:
        values = np.ones((len(index), *self.shape[1:]), dtype=np.float32)
        self.decoded += values.size
        return values


def test_a_large_model_costs_little() -> None:
    weights = {f"layers.{n}.mlp.up.weight": Counted(14_336, 4096) for n in range(300)}
    show.html(with_weights({**weights}), {})
    assert {weight.decoded for weight in weights.values()} == {4096}, "one row of each"
    one = Counted(10**9, 4)
    show.html(with_weights({"a": one}), {})
    assert one.decoded == show.GLANCE
    long = Counted(3, 10**9)
    show.html(with_weights({"a": long}), {})
    assert long.decoded == 0


def test_a_model_of_very_many_weights_is_cut() -> None:
    weights = {f"experts.{n}.weight": Counted(2, 3) for n in range(show.LISTED + 7)}
    html = show.html(with_weights({**weights}), {})
    assert rows(html)[-1] == ["and 7 more"]
    assert sum(weight.decoded > 0 for weight in weights.values()) == show.LISTED
    assert f"<summary>{show.LISTED + 7} weights</summary>" in html


def test_a_terminal_s_view_decodes_nothing() -> None:
    weight = Counted(10**6, 10**6)
    text = show.text(with_weights({"a": weight}), {})
    assert "1,000,000,000,000" in text
    assert weight.decoded == 0


@pytest.mark.parametrize("name", golden_cases.names())
def test_every_family_can_be_shown(name: str) -> None:
    model: Model = load(TINY / name)
    assert repr(model).startswith(f"Model({type(model.config).__name__})\n")
    assert len(rows(model._repr_html_())) > 20
