"""Enclosures of blocks: evaluations in narrow arithmetic lie inside, op by op, unless a radius forgets something."""

from __future__ import annotations

from functools import cache
from typing import Any

import golden_cases
import numpy as np
import pytest
from planted import mutated
from rounded import MACHINES, Machine
from rounded_models import evaluate, start
from tiny_models import load

from lepton_ref import Model
from lepton_ref.audit import interval_bounds, intervals
from lepton_ref.audit.intervals import BlockIntervals, block_intervals
from lepton_ref.audit.trace import Trace
from lepton_ref.numerics.arithmetic import ARITHMETICS

NAMES = ("llama", "gemma2", "gemma3", "gpt2", "gpt_neox", "bert_masked_lm", "olmo2", "opt", "qwen2", "llama_rope_yarn")
"""Tiny models that together have every kind of op that a block has."""


@cache
def traced(name: str, precision: str = "reference") -> tuple[Model, Any, Trace]:
    model = load(golden_cases.GOLDEN / "tiny" / name, precision=precision)
    ids = golden_cases.case(name).expected["input_ids"][:1, :6]
    return model, ids, model.run_with_trace(ids)


def outside(found: BlockIntervals, name: str, arithmetic: str, kept_in: str, *, seeds: int = 3) -> set[str]:
    """The ops whose results lay outside, over some random evaluations of the block."""
    model, ids, trace = traced(name)
    run, lost = start(model, ids), set()
    for seed in range(seeds):
        machine, values = Machine(np.random.default_rng(seed), **MACHINES[arithmetic]), {}
        for op in (op for op in model.program.ops if op.name in found):
            inputs = [values.get(at, trace.get(at)) for at in op.inputs]
            inputs = [np.asarray(x, dtype=np.float64) for x in inputs]
            values[op.name] = evaluate(machine, run, op, inputs, kept_in, textbook=bool(seed % 2))
            if not found[op.name].contains(values[op.name]).all():
                lost.add(op.kind)
    return lost


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arithmetic", ["fp32", "bf16", "pure_fp16"])
def test_every_evaluation_of_a_block_lies_inside(name: str, arithmetic: str) -> None:
    model, _, trace = traced(name)
    for block in ("layers.0", "layers.1"):
        found = block_intervals(model, trace, block, arithmetic)
        assert not outside(found, name, arithmetic, ARITHMETICS[arithmetic].activations)
        if arithmetic == "fp32":
            assert all(np.isfinite(enclosure.radius).all() for enclosure in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_op_of_a_model_on_its_own(name: str) -> None:
    """Each from the trace's values: there radii are small, a few units of the size, and still nothing is outside."""
    model, _, trace = traced(name)
    for op in (op for op in model.program.ops if op.kind != "embed"):
        found = block_intervals(model, trace, op.name, "tf32", output="bf16")
        assert list(found) == [op.name]
        assert not outside(found, name, "tf32", "bf16", seeds=1)
        assert found[op.name].relative < 0.2


@pytest.mark.parametrize(("name", "kind"), [
    ("llama", "linear"), ("llama", "rms_norm"), ("llama", "rope"), ("llama", "attention"), ("llama", "add"),
    ("llama", "gated"), ("gpt2", "layer_norm"), ("gpt2", "activate"), ("gemma2", "softcap"),
])  # fmt: skip
def test_a_radius_without_an_op_s_own_error_is_violated(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, trace = traced(name)
    op = next(op for op in model.program.ops if op.kind == kind)
    assert not outside(block_intervals(model, trace, op.name, "fp32"), name, "fp32", "fp32")
    forgetful = {**interval_bounds.RADIUS, kind: lambda run, op, x, *_: np.zeros((*x[0].shape[:2], op.width))}
    monkeypatch.setattr(intervals, "RADIUS", forgetful)
    monkeypatch.setattr(intervals, "_check", lambda *_: None)
    assert outside(block_intervals(model, trace, op.name, "fp32"), name, "fp32", "fp32") == {kind}


@pytest.mark.parametrize(("text", "bug", "kind"), [
    ("x[0], x[1], arithmetic=a, output=how.output, radii=(radii[0], radii[1])", "x[0], x[1], arithmetic=a", "add"),
    ("output=how.output, radius=radii[0], held=how.output", "output=how.output", "linear"),
    ("radii=(moved_q, moved_k, moved_v), held=how.output", "held=how.output", "attention"),
])  # fmt: skip
def test_a_radius_that_forgets_its_inputs_is_violated(
    text: str, bug: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Activations in bf16, all else in float32: an op's own error is then far below its inputs'."""
    model, _, trace = traced("llama")
    monkeypatch.setattr(intervals, "RADIUS", mutated(interval_bounds, text, bug).RADIUS)
    monkeypatch.setattr(intervals, "_check", lambda *_: None)
    found = block_intervals(model, trace, "layers.0", "fp32", output="bf16" if kind != "add" else "fp32")
    assert kind in outside(found, "llama", "fp32", found.kept_in, seeds=6)


def test_the_package_s_own_precisions_lie_inside_and_padding_does_not_matter() -> None:
    model = load(golden_cases.GOLDEN / "tiny" / "llama")
    mask = [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]
    trace = model.run_with_trace([[9, 9, 5, 6, 7], [5, 6, 7, 8, 9]], attention_mask=mask)
    found = block_intervals(model, trace, attention_mask=mask)
    for name, enclosure in found.items():
        assert enclosure.contains(trace[name]).all()
    with pytest.raises(ValueError, match=r"^the trace's layers\.0\.attn.* lies outside of what this model gives"):
        block_intervals(model, trace)
    exact = load(golden_cases.GOLDEN / "tiny" / "llama", precision="float64")
    tight = block_intervals(exact, exact.run_with_trace([[5, 6, 7]]), "layers.1", "fp64")
    assert max(enclosure.relative for enclosure in tight.values()) < 1e-8


def test_intervals_by_hand() -> None:
    """One residual sum: u of the result for the evaluation, and of float64's for the middle."""
    model, _, trace = traced("llama", "float64")
    found = block_intervals(model, trace, "layers.0.attn_residual", "fp64")["layers.0.attn_residual"]
    y = trace["layers.0.attn_residual"]
    assert np.array_equal(found.middle, y)
    assert (found.radius >= 2 * 2.0**-53 * np.abs(y)).all()
    assert (found.radius <= 2 * 2.0**-53 * (1 + 2.0**-20) * np.abs(y) + 2.0**-880).all()
    ulp = np.spacing(np.abs(y))
    assert found.contains(y + ulp / 2).all()
    assert not found.contains(y + 4 * ulp).any()


def test_a_table_of_where_the_radius_explodes() -> None:
    model, _, trace = traced("llama")
    found = block_intervals(model, trace, "layers.0")
    lines = repr(found).splitlines()
    assert lines[0] == "Enclosures of layers.0: any order in fp32, activations in fp32"
    assert lines[1].split() == ["op", "kind", "size", "largest", "radius", "radius/size", "growth"]
    assert len(lines) == 2 + len(found) == 2 + 15
    assert found.explodes_at == "layers.0.attn"
    assert next(line for line in lines if "←" in line).startswith("layers.0.attn  ")
    html = found._repr_html_()
    assert html.startswith("<table><caption>Enclosures of layers.0: any order in fp32, activations in fp32</caption>")
    assert html.count("<tr>") == 1 + len(found)
    with pytest.raises(TypeError, match="does not support item assignment"):
        found["x"] = None  # type: ignore[index]


def test_a_radius_that_is_endless_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, trace = traced("llama")
    endless = {**interval_bounds.RADIUS, "rope": lambda run, op, x, *_: np.full(x[0].shape, np.inf)}
    monkeypatch.setattr(intervals, "RADIUS", endless)
    found = block_intervals(model, trace, "layers.0")
    assert found.explodes_at == "layers.0.attn.q_rope"
    assert "inf" in repr(found)
    assert found["layers.0.attn.q_rope"].contains(np.full(found["layers.0.attn.q_rope"].middle.shape, 1e300)).all()


def test_what_cannot_be_enclosed_is_refused_in_one_line() -> None:
    model, _, trace = traced("llama")
    with pytest.raises(ValueError, match=r"^no op belongs to block 'layers\.7'; there are embed, layers\.0, layers\.1"):
        block_intervals(model, trace, "layers.7")
    with pytest.raises(ValueError, match=r"^unknown arithmetic 'fp7'"):
        block_intervals(model, trace, arithmetic="fp7")
    with pytest.raises(ValueError, match=r"^unknown floating-point format 'int8'"):
        block_intervals(model, trace, output="int8")
    with pytest.raises(ValueError, match=r"^embed reads integers, which a trace does not have; give a block that has"):
        block_intervals(model, trace, "embed")
    found = block_intervals(model, trace, "layers.0.mlp.up")
    with pytest.raises(KeyError, match=r"block 'layers\.0\.mlp\.up' has no op 'head'"):
        found["head"]
    with pytest.raises(ValueError, match=r"^layers\.0\.mlp\.up is of shape \(1, 6, 40\), got \(2,\)$"):
        found["layers.0.mlp.up"].contains(np.zeros(2))
