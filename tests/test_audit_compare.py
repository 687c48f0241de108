"""Comparing two models: nothing between a model and itself, literals, an independent KL, planted mistakes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated
from tiny_models import load
from wide_model import wide_gguf

from lepton_ref.audit import compare as page
from lepton_ref.audit.compare import (
    Difference,
    bootstrap_interval,
    by_layer,
    compare_predictions,
    compare_weights,
    kl_divergence,
    layer_outputs,
)
from lepton_ref.compress.quantise_file import quantise_file
from lepton_ref.compress.recipe import Recipe
from lepton_ref.files import read_gguf
from lepton_ref.storage import Dense

IDS = [3, 4, 5, 6, 7, 8, 9, 10, 11]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("compare")
    source = wide_gguf(folder / "a.gguf", 2)
    quantise_file(source, folder / "b.gguf", Recipe(format="Q4_0"))
    return source, folder / "b.gguf"


def f32(*rows: Any) -> Dense:
    return Dense(np.array(rows, dtype="<f4"), format="F32")


def check_literals(page: Any = page) -> None:
    (one,) = page.compare_weights({"a": f32([3, 4], [0, 0])}, {"a": f32([3, 1], [0, 4])})
    assert (one.elements, one.largest, one.rms, one.relative, one.odd) == (4, 4, 2.5, 1.0, 0)


def test_weights_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    check_literals()
    monkeypatch.setattr(page, "PANEL", 2)
    check_literals()


def check_panels(page: Any = page) -> None:
    """What is largest, and what is not finite, in the first panel of two."""
    (one,) = page.compare_weights({"a": f32([3, 4], [0, 1])}, {"a": f32([np.nan, 0], [0, 0])})
    assert (one.elements, one.largest, one.odd) == (4, 4, 1)


def test_panels_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PANEL", 2)
    check_panels()
    for text, bug in (
        ("self.largest = max(self.largest, float(", "self.largest = max(0.0, float("),
        ("self.odd += int(", "self.odd = int("),
        ("self.elements += x.size", "self.elements = x.size"),
    ):
        wrong: Any = mutated(page, text, bug)
        wrong.PANEL = 2
        with pytest.raises(AssertionError):
            check_panels(wrong)


def test_numbers_that_are_not_finite_are_counted_apart() -> None:
    (one,) = compare_weights({"a": f32([np.nan, np.inf, 1, np.inf])}, {"a": f32([np.nan, np.inf, np.nan, -np.inf])})
    assert (one.odd, one.largest, one.rms) == (2, 0, 0)


def test_zeros_and_what_one_lacks() -> None:
    a = {"same": f32([0]), "zero": f32([0]), "mine": f32([1]), "shape": f32([1])}
    b = {"same": f32([0]), "zero": f32([1]), "yours": f32([1]), "shape": f32([1, 2])}
    found = {one.name: one for one in compare_weights(a, b)}
    assert (found["same"].relative, found["zero"].relative) == (0, math.inf)
    assert (found["mine"].note, found["yours"].note) == ("only in a", "only in b")
    assert found["shape"].note == "(1, 1) in a, (1, 2) in b"
    assert found["same"].row()["note"] == "F32"
    with pytest.raises(ValueError, match="the two have no tensor in common; a has x, b has y"):
        compare_weights({"x": f32([1])}, {"y": f32([1])})


def test_nothing_stands_for_what_was_not_compared() -> None:
    both = {"a": f32([1, 2]), "b": f32([1, 2])}
    rows = [one.row() for one in compare_weights(both, {"a": f32([1, 2]), "b": f32([1, 2, 3])})]
    assert [rows[0][key] for key in ("rms", "largest", "relative", "not finite")] == [0, 0, 0, 0]
    assert [rows[1][key] for key in ("rms", "largest", "relative", "not finite")] == [None] * 4
    assert rows[1]["note"] == "(1, 2) in a, (1, 3) in b"


def test_layers_add_up() -> None:
    one, two, three = (Difference(name) for name in ("blk.0.a", "layers.0.b", "head"))
    for each in (one, two, three):
        each.add(np.array([1.0]), np.array([2.0]))
    found = by_layer([one, two, three])
    assert [(each.name, each.elements, each.rms) for each in found] == [("layer 0", 2, 1), ("head", 1, 1)]


def test_a_file_with_itself_differs_in_nothing(pair: tuple[Path, Path]) -> None:
    for path in pair:
        tensors = read_gguf(path).tensors
        for one in compare_weights(tensors, tensors):
            assert (one.rms, one.largest, one.relative, one.odd) == (0, 0, 0, 0)
        model = load(path)
        found = compare_predictions(model, model, IDS)
        assert (found.kl, found.kl_low, found.kl_high, found.kl_largest, found.agreement) == (0, 0, 0, 0, 1)
        assert all(layer.relative == 0 for layer in found.layers)


def test_a_file_and_its_quantised_form(pair: tuple[Path, Path]) -> None:
    weights = compare_weights(*(read_gguf(path).tensors for path in pair))
    for one in weights:
        matrix = "norm" not in one.name
        assert one.note == ("F32 → Q4_0" if matrix else "F32")
        assert (0.05 < one.relative < 0.15) if matrix else one.relative == 0
    a, b = map(load, pair)
    found = compare_predictions(a, b, IDS, window=4)
    assert found.kl_low <= found.kl <= found.kl_high
    assert 0 < found.kl <= found.kl_largest
    assert found.positions == 9
    assert [layer.name for layer in found.layers] == ["layer 0", "layer 1"]
    assert found.protocol.startswith("windows of 4 tokens that do not overlap, each from position 0; all 9 positions")
    assert found == compare_predictions(a, b, IDS, window=4), "the same seed gives the same interval"


def test_windows_are_runs_of_their_own(pair: tuple[Path, Path]) -> None:
    a, b = map(load, pair)
    found = compare_predictions(a, b, IDS, window=5)
    parts = [kl_divergence(a.forward([ids])[0], b.forward([ids])[0]) for ids in (IDS[:5], IDS[5:])]
    assert found.kl == math.fsum(np.concatenate(parts)) / 9


def oracle(a: list[float], b: list[float]) -> float:
    p, q = ([math.exp(x - max(row)) for x in row] for row in (a, b))
    sp, sq = math.fsum(p), math.fsum(q)
    return math.fsum(x / sp * math.log((x / sp) / (y / sq)) for x, y in zip(p, q, strict=True))


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=2, max_size=8))
def test_kl_against_the_definition(pairs: list[tuple[float, float]]) -> None:
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    found = kl_divergence(np.array([a]), np.array([b]))[0]
    assert found >= 0
    # 8 terms of logarithms below 40 + 8: each carries a few of their units
    assert abs(found - max(0.0, oracle(a, b))) <= 8 * 48 * 8 * 2.0**-52


def test_kl_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.5], [0.25, 0.75]]))
    found = kl_divergence(logits[:1], logits[1:])
    assert abs(found[0] - 0.5 * math.log(4 / 3)) < 2.0**-50
    chance = np.array([[0.0, -np.inf]])
    assert kl_divergence(chance, chance).tolist() == [0]


def test_the_interval_holds_the_mean_and_shrinks() -> None:
    values = np.random.default_rng(0).exponential(size=400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low < 4 * 1.2 * values.std() / 20
    assert bootstrap_interval(values, seed=1) != (low, high)
    assert bootstrap_interval(np.ones(3)) == (1, 1)


@pytest.mark.parametrize(("window", "ids", "message"), [(0, [1], "window is 0"), (4, [], "there are no tokens")])
def test_bad_input(window: int, ids: list[int], message: str, pair: tuple[Path, Path]) -> None:
    a = load(pair[0])
    with pytest.raises(ValueError, match=message):
        compare_predictions(a, a, ids, window=window)


def test_models_that_cannot_be_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, other = load(pair[0]), load(wide_gguf(tmp_path / "c.gguf", 1))
    with pytest.raises(ValueError, match="a and b have 2 and 1 layers"):
        compare_predictions(a, other, IDS)
    with pytest.raises(ValueError, match="1 logits of b are NaN"):
        kl_divergence(np.zeros((1, 2)), np.array([[0, np.nan]]))
    with pytest.raises(ValueError, match=r"shapes \(1, 2\) and \(1, 3\)"):
        kl_divergence(np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="no values to resample"):
        bootstrap_interval(np.zeros(0))
    assert len(layer_outputs(a.program)) == 2


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("math.fsum(self.squares) / max(1, self.elements)", "math.fsum(self.squares)"),
        ("self.largest = max(self.largest, float(", "self.largest = max(self.largest, 0.5 * float("),
        ("return math.inf if size == 0 else math.sqrt(error / size)", "return error / (size or 1) / 2"),
    ],
)
def test_a_mistaken_difference_is_found(text: str, bug: str) -> None:
    with pytest.raises(AssertionError):
        check_literals(mutated(page, text, bug))


@pytest.mark.parametrize(
    ("text", "bug"), [("probability * (p - q)", "probability * (q - p)"), ("np.exp(p)\n", "np.exp(q)\n")]
)
def test_a_mistaken_divergence_is_found(text: str, bug: str) -> None:
    wrong = mutated(page, text, bug)
    logits = np.log(np.array([[0.5, 0.5], [0.1, 0.9]]))
    assert abs(wrong.kl_divergence(logits[:1], logits[1:])[0] - 0.5 * math.log(1 / 0.36)) > 0.1
