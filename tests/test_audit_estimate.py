"""The estimate against errors that happened, its noise, and how it looks."""

from __future__ import annotations

from functools import cache
from typing import Any

import golden_cases
import numpy as np
import pytest
from planted import mutated
from rounded import MACHINES, Machine
from rounded_models import whole
from tiny_models import load

from lepton_ref import Model
from lepton_ref.audit import estimate as module
from lepton_ref.audit.estimate import SAFE, Estimate, estimate

NAMES = ("llama", "gemma2", "gpt2", "olmo2", "bert_masked_lm", "gpt_neox", "llama_rope_yarn", "qwen3")
MULTIPLE, MOST = 4.0, 0.97
"""An error is called estimated where it is within so many σ; and the least share of outputs where that holds."""


@cache
def model(name: str, precision: str = "float64") -> Model:
    return load(golden_cases.GOLDEN / "tiny" / name, precision=precision)


@cache
def ids(name: str) -> Any:
    return golden_cases.case(name).expected["input_ids"][:1, :8]


def held_against(found: Estimate, actual: np.ndarray) -> tuple[float, float]:
    """(root mean square of the error over that of σ, share of the errors within `MULTIPLE` σ)."""
    error = np.abs(actual - found.values)
    size, sigma = np.sqrt(np.mean(error**2)), np.sqrt(np.mean(found.sigma**2))
    return float(size / sigma), float(np.mean(error <= MULTIPLE * found.sigma))


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_errs_by_what_is_estimated_of_one_rounding_an_op(name: str) -> None:
    found = estimate(model(name), ids(name), arithmetic="fp64", output="fp32")
    ratio, share = held_against(found, model(name, "reference").forward(ids(name)))
    print(f"{name}: reference, error {ratio:.2f} of σ, {share:.1%} within {MULTIPLE} σ")  # noqa: T201 - a measurement, shown by pytest -rP
    assert 0.3 < ratio < 3
    assert share >= MOST


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arithmetic", ["fp32", "bf16", "pure_fp16"])
def test_evaluations_in_an_arithmetic_err_by_what_is_estimated(name: str, arithmetic: str) -> None:
    """Orders at random: sums in parts err by less than those one after another, which the estimate takes."""
    found = estimate(model(name), ids(name), arithmetic=arithmetic)
    for seed in range(2):
        machine = Machine(np.random.default_rng(seed), **MACHINES[arithmetic], fancy=1)
        ratio, share = held_against(found, whole(machine, model(name), ids(name), found.output))
        print(f"{name}: {arithmetic}, error {ratio:.2f} of σ, {share:.1%} within {MULTIPLE} σ")  # noqa: T201 - as above
        assert 0.05 < ratio < 3
        assert share >= MOST


@pytest.mark.parametrize(("text", "bug"), [
    ("        return _rounded(y, self.output, rng)\n\n    def _turned", "        return y\n\n    def _turned"),
    ("np.where(fits, half, 0.0) *", "100 * np.where(fits, half, 0.0) *"),
    ("np.sqrt(self.square / samples), self.largest", "self.square / samples, self.largest"),
])  # fmt: skip
def test_an_estimate_that_is_far_off_is_seen(text: str, bug: str) -> None:
    wrong = mutated(module, text, bug)
    found = wrong.estimate(model("llama"), ids("llama"), arithmetic="fp64", output="fp32")
    with np.errstate(divide="ignore"):
        ratio, _ = held_against(found, model("llama", "reference").forward(ids("llama")))
    assert not 0.1 < ratio < 10


def test_the_noise_is_the_seed_s_and_nothing_else_s() -> None:
    one, again = (estimate(model("llama"), ids("llama"), samples=3, seed=5) for _ in range(2))
    other = estimate(model("llama"), ids("llama"), samples=3, seed=6)
    assert one.sigma.tobytes() == again.sigma.tobytes()
    assert one.sigma.tobytes() != other.sigma.tobytes()
    assert one.values.tobytes() == model("llama").forward(ids("llama")).tobytes() == other.values.tobytes()
    reference = estimate(model("llama", "reference"), ids("llama"), samples=3, seed=5)
    assert reference.sigma.tobytes() == one.sigma.tobytes(), "the model's precision does not matter, its weights do"


def test_margins_flips_and_verdicts() -> None:
    fine = estimate(model("llama"), ids("llama"))
    top = np.sort(fine.values, axis=-1)
    assert np.array_equal(fine.margin, top[..., -1] - top[..., -2])
    assert fine.order is not None
    assert np.array_equal(fine.order[..., 0], fine.values.argmax(axis=-1))
    assert fine.safe.all()
    assert not fine.flips.any()
    coarse = estimate(model("llama"), ids("llama"), arithmetic="pure_bf16", samples=64)
    assert not coarse.safe.all()
    assert (coarse.margin_sigma > 1000 * fine.margin_sigma).all()
    assert np.array_equal(coarse.safe, (coarse.margin > SAFE * coarse.margin_sigma) & (coarse.flips == 0))
    assert (coarse.sigma <= coarse.largest).all()
    assert ((coarse.flips > 0) <= (coarse.margin < 6 * coarse.margin_sigma)).all()


def test_an_arithmetic_that_rounds_nothing_moves_nothing() -> None:
    """float64's noise is of float64's size."""
    found = estimate(model("llama"), ids("llama"), arithmetic="fp64")
    assert 0 < found.sigma.max() < 1e-13


def test_padding_is_left_out_and_hidden_states_have_no_margin() -> None:
    mask = [[0, 0, 1, 1], [1, 1, 1, 1]]
    padded = estimate(model("llama"), [[9, 9, 5, 6], [5, 6, 7, 8]], attention_mask=mask, samples=2)
    assert not padded.values[0, :2].any()
    assert not padded.sigma[0, :2].any()
    assert padded.sigma[0, 2:].all()
    assert np.array_equal(padded.kept, np.array(mask, dtype=bool))
    assert "0         0 " not in repr(padded).splitlines()[2]
    bare = estimate(model("llama_bare"), [[5, 6]], samples=2)
    assert bare.order is None
    assert bare.values.shape == bare.sigma.shape == (1, 2, 24)
    assert "safe" not in repr(bare)
    classes = estimate(model("bert_classifier"), [[5, 6, 7]], samples=2)
    assert classes.values.shape == (1, 1, 5)
    assert classes.margin.shape == (1, 1)


def test_an_estimate_in_a_terminal_and_in_a_notebook() -> None:
    found = estimate(model("llama"), [list(range(5, 20))], samples=2)
    lines = repr(found).splitlines()
    assert lines[0] == (
        "Estimate (first order, sampled: no bound) of rounding in fp32, activations in fp32, 2 samples; "
        "3 more positions"
    )
    assert lines[1].split("  ")[0] == "sequence"
    assert len(lines) == 2 + 12
    assert all(line.endswith("safe") for line in lines[2:])
    html = found._repr_html_()
    assert html.startswith("<table><caption>Estimate (first order, sampled: no bound)")
    assert html.count("<tr>") == 1 + 12
    assert html.count("<td>safe</td>") == 12


def test_what_cannot_be_estimated_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^unknown arithmetic 'fp4'; known: fp64"):
        estimate(model("llama"), [[5]], arithmetic="fp4")
    with pytest.raises(ValueError, match=r"^unknown floating-point format 'nf4'"):
        estimate(model("llama"), [[5]], output="nf4")
    with pytest.raises(ValueError, match=r"^samples is 1 and seed 0; give at least 2 samples and a seed of 0 or more$"):
        estimate(model("llama"), [[5]], samples=1)
    with pytest.raises(ValueError, match=r"^samples is 2 and seed -1;"):
        estimate(model("llama"), [[5]], samples=2, seed=-1)
    with pytest.raises(ValueError, match=r"^input_ids is empty"):
        estimate(model("llama"), [[]])
