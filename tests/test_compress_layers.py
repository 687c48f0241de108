"""A whole model quantised: which weights, by which inputs, and that the model runs on what is stored."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_models
from golden_cases import GOLDEN
from planted import mutated
from tiny_models import load
from wide_model import wide_gguf

import lepton_ref
from lepton_ref.compress import layers as page
from lepton_ref.compress.calibration import Calibration, calibrate
from lepton_ref.compress.gptq import gptq
from lepton_ref.compress.gptq_blocks import gptq_blocks
from lepton_ref.compress.grid import Grid, round_to_nearest
from lepton_ref.compress.hessian import layer_error
from lepton_ref.compress.layers import quantise_layers
from lepton_ref.storage import BlockQuantised, Weight
from lepton_ref.storage.affine import Affine

IDS = np.random.default_rng(0).integers(3, 50, 400).tolist()
LLAMA = GOLDEN / "tiny" / "llama"
UP, DOWN = "layers.0.mlp.up.weight", "layers.0.mlp.down.weight"


def with_weights(model: lepton_ref.Model, changed: Mapping[str, Weight]) -> lepton_ref.Model:
    parts = dataclasses.replace(model.parts, weights={**model.parts.weights, **changed})
    return type(model)(parts, backend=model.backend, precision=model.precision)


def distance(model: lepton_ref.Model, changed: Mapping[str, Weight]) -> float:
    fed = [IDS[:30]]
    return float(np.square(with_weights(model, changed).forward(fed) - model.forward(fed)).sum())


@pytest.mark.parametrize("method", ["rtn", "gptq", "awq", "hqq"])
@pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2"])
def test_a_model_runs_on_its_codes(name: str, method: str) -> None:
    model = load(GOLDEN / "tiny" / name)
    seen = calibrate(model, IDS, length=30)
    changed = quantise_layers(seen, "int8-fp32", method=method)
    codes = {key for key, weight in changed.items() if isinstance(weight, Affine)}
    assert "embed.weight" not in changed
    matrices = {op.weights["w"] for op in model.program.ops if op.kind == "linear"}
    assert codes == matrices - {"embed.weight"}
    coarse = distance(model, quantise_layers(seen, "int3-fp32", method=method))
    assert 0 < distance(model, changed) < coarse / 100  # five bits more: a thousandth of the square, as a rule


def test_gptq_is_nearer_to_the_model_than_rounding() -> None:
    model = load(LLAMA)
    seen = calibrate(model, IDS, length=30)
    rtn, fed = (distance(model, quantise_layers(seen, "int3-g8", method=method)) for method in ("rtn", "gptq"))
    assert fed < rtn


def test_weights_of_one_input_are_quantised_as_if_alone() -> None:
    model = load(LLAMA)
    seen = calibrate(model, IDS, length=30)
    changed = quantise_layers(seen, "int4-g8", method="gptq", sequential=False)
    for group, h in seen.hessians():
        for op in group.ops:
            w = model.parts.weights[op.weights["w"]].decode()
            alone = gptq(w, h, Grid(4, 8)).decode()
            np.testing.assert_array_equal(changed[op.weights["w"]].unrounded(np.arange(len(w))), alone)


def test_later_layers_see_what_the_quantised_ones_give() -> None:
    model = load(LLAMA)
    seen = calibrate(model, IDS, length=30)
    one, other = (quantise_layers(seen, "int3-g8", method="gptq", sequential=each) for each in (True, False))
    first, last = "layers.0.attn.q.weight", "layers.1.mlp.down.weight"
    np.testing.assert_array_equal(one[first].decode(), other[first].decode())
    assert not np.array_equal(one[last].decode(), other[last].decode())
    wrong = mutated(page, "weights.update(found)", "pass")
    got = wrong.quantise_layers(seen, "int3-g8", method="gptq")
    assert np.array_equal(got[last].decode(), other[last].decode())


def test_only_some_are_quantised_where_they_are_named() -> None:
    seen = calibrate(load(LLAMA), IDS[:20])
    changed = quantise_layers(seen, "int4-g8", method="rtn", only=lambda name: name.endswith("mlp.up.weight"))
    assert set(changed) == {"layers.0.mlp.up.weight", "layers.1.mlp.up.weight"}


BAD: list[tuple[Callable[[Calibration], object], str]] = [
    (lambda seen: quantise_layers(seen, "Q9"), "format 'Q9' is no integer grid such as int4-g64 and no block format"),
    (lambda seen: quantise_layers(seen, {"embed.weight": "Q4_0"}), "embed.weight is no matrix that linear ops alone"),
    (
        lambda seen: quantise_layers(seen, "Q4_0", only=lambda name: name.endswith("up.weight")),
        "no whole blocks of Q4_0",
    ),
    (lambda seen: quantise_layers(seen, {UP: "Q4_K"}), f"{UP} has rows of 24, no whole blocks of Q4_K; take a format"),
    (lambda seen: quantise_layers(seen, {UP: "int4-g8", DOWN: "int3-g8"}, method="awq"), "awq has one integer grid"),
]


@pytest.mark.parametrize(("call", "text"), BAD, ids=[text for _, text in BAD])
def test_bad_input_gets_one_clear_line(call: Callable[[Calibration], object], text: str) -> None:
    seen = calibrate(load(LLAMA), IDS[:20])
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        call(seen)
    assert "\n" not in str(caught.value)


EARLY: list[tuple[object, dict[str, object], str]] = [
    ("int4-g8", {"method": "foo"}, "unknown method 'foo'; known: rtn, gptq, awq, hqq"),
    ("int4-g8", {"method": ["gptq"]}, "unknown method ['gptq']; known: rtn, gptq, awq, hqq"),
    (
        "int4-g16",
        {},
        "head.weight: rows of 24 are no whole groups of 16; take a divisor, or one scale a row",
    ),
    (
        {DOWN: "int4-g9"},
        {},
        f"{DOWN}: rows of 40 are no whole groups of 9; take a divisor, or one scale a row, such as",
    ),
    (5, {}, "format is 5; give a name such as 'Q4_K' or 'int4-g64', or matrix → name"),
    ({UP: ["int4"]}, {}, "unknown format ['int4']; give a name such as 'Q4_K' or 'int4-g64'"),
    ("int4-g8", {"method": "awq", "damp": 0.1}, "awq of layers has no setting 'damp'; it takes scales"),
    ("int4-g8", {"method": "awq", "scales": "best"}, "unknown way to choose scales 'best'; known: minmax, clip"),
    (
        "int4-g8",
        {"importance": None},
        "gptq of layers has no setting 'importance'; it takes scales, damp, act_order, f",
    ),
    ("int4-g8", {"damp": -1}, "damp=-1; give a share of the mean of the diagonal, such as 0.01, or 0 for none"),
    ("int4-g8", {"follow": 1}, "follow is 1; give True or False"),
    ("int4-g8", {"act_order": True, "follow": True}, "leave act_order or the following"),
    ("int4-g8-sym", {"method": "hqq"}, "HQQ chooses zero points, and a symmetric grid has one"),
    ({DOWN: "MXFP4"}, {"method": "hqq"}, f"{DOWN} has rows of 40, no whole blocks of MXFP4; take a format of shorter"),
]


@pytest.mark.parametrize(("format_", "how", "text"), EARLY, ids=[text for *_, text in EARLY])
def test_what_is_wrong_is_said_before_anything_is_run(
    format_: Any, how: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = calibrate(load(LLAMA), IDS[:20])
    for called in ("lepton_ref.compress.layers.stream", "lepton_ref.compress.calibration.stream"):
        monkeypatch.setattr(called, None)
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        quantise_layers(seen, format_, **how)
    assert "\n" not in str(caught.value)


def test_a_method_that_blocks_have_not_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, seen = wide(tmp_path)
    monkeypatch.setattr(page, "stream", None)
    with pytest.raises(ValueError, match="Q4_K has an encoder of its own and no hqq; take method='rtn' or 'gptq', or"):
        quantise_layers(seen, "Q4_K", method="hqq")
    late = mutated(page, "    _require_settings(formats, method, how)\n", "")
    monkeypatch.setattr(late, "stream", None)
    with pytest.raises(TypeError, match="not callable"):
        late.quantise_layers(seen, "Q4_K", method="hqq")


def wide(tmp_path: Path) -> tuple[lepton_ref.Model, Calibration]:
    model = lepton_ref.load(wide_gguf(tmp_path / "wide.gguf", words=False))
    return model, calibrate(model, IDS, length=50)


def test_a_model_runs_on_blocks(tmp_path: Path) -> None:
    model, seen = wide(tmp_path)
    matrices = {op.weights["w"] for op in model.program.ops if op.kind == "linear"} - {"embed.weight"}
    near = []
    for method in ("rtn", "gptq"):
        changed = quantise_layers(seen, "Q3_K", method=method)
        assert set(changed) == matrices
        assert {weight.format for weight in changed.values()} == {"Q3_K"}
        assert all(isinstance(weight, BlockQuantised) for weight in changed.values())
        near.append(distance(model, changed))
    assert 0 < near[1] < near[0]


def test_each_matrix_may_have_its_own_blocks(tmp_path: Path) -> None:
    model, seen = wide(tmp_path)
    formats = {"layers.0.attn.q.weight": "Q4_K", "layers.0.attn.v.weight": "Q6_K", "layers.0.mlp.down.weight": "Q4_0"}
    changed = quantise_layers(seen, formats, method="gptq", sequential=False)
    assert {name: weight.format for name, weight in changed.items()} == formats
    for group, h in seen.hessians():
        for name in {op.weights["w"] for op in group.ops} & set(formats):
            weight = changed[name]
            assert isinstance(weight, BlockQuantised)
            alone = gptq_blocks(model.parts.weights[name].decode(), h, formats[name])
            np.testing.assert_array_equal(weight.raw, alone.raw)


def test_rows_that_are_no_whole_blocks_take_the_fallback() -> None:
    seen = calibrate(load(GOLDEN / "tiny" / "phi3"), IDS[:20])
    q = "layers.0.attn.q.weight"
    changed = quantise_layers(seen, "Q4_K", method="gptq", only=lambda name: name == q)
    assert {name: weight.format for name, weight in changed.items()} == {q: "Q5_0"}


def test_the_layers_error_is_that_of_its_outputs() -> None:
    model = load(LLAMA)
    seen = calibrate(model, IDS[:20])
    group, h = next(iter(seen.hessians()))
    delta = np.rint(np.random.default_rng(0).standard_normal((3, len(h))) * 8) / 8
    x = np.concatenate(group.sequences).astype(np.float64)
    outputs = x @ delta.T
    slack = 2 * len(x) * len(h) * 2.0**-53 * np.square(np.abs(x) @ np.abs(delta).T).sum()
    assert abs(layer_error(delta, h) - np.square(outputs).sum()) <= slack


@pytest.mark.slow
def test_gptq_errs_less_in_every_matrix_of_a_real_models_first_layer() -> None:
    model = lepton_ref.load(real_models.smollm2())
    text = " ".join(path.read_text(encoding="utf-8") for path in sorted(GOLDEN.parent.glob("docs/*.md")))
    seen = calibrate(model, model.tokenizer.encode(text)[:512])
    count = 0
    for group, h in seen.hessians():
        if group.input.startswith("layers.1."):
            break
        for op in group.ops:
            w = model.parts.weights[op.weights["w"]].decode()
            fed, plain = (
                layer_error(w - coded.decode(), h)
                for coded in (gptq(w, h, Grid(4, 64)), round_to_nearest(w, Grid(4, 64)))
            )
            assert fed < plain / 2, op.name
            count += 1
    assert count == 7
