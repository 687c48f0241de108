"""A whole model quantised: which weights, by which inputs, and that the model runs on what is stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import real_models
from golden_cases import GOLDEN
from planted import mutated
from tiny_models import load

import lepton_ref
from lepton_ref.compress import layers as page
from lepton_ref.compress.calibration import calibrate
from lepton_ref.compress.gptq import gptq
from lepton_ref.compress.grid import Grid, round_to_nearest
from lepton_ref.compress.hessian import layer_error
from lepton_ref.compress.layers import quantise_layers
from lepton_ref.storage import Weight
from lepton_ref.storage.affine import Affine

IDS = np.random.default_rng(0).integers(3, 50, 400).tolist()
LLAMA = GOLDEN / "tiny" / "llama"


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


def test_a_format_that_is_no_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="'Q4_0' is no integer grid; give one such as int4-g64"):
        quantise_layers(calibrate(load(LLAMA), IDS[:20]), "Q4_0")


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
