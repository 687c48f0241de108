"""A linear layer over weights in every block format gives the specification's bits, under precisions of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from block_cases import Blocks, each_format, finite, random_blocks
from numpy.typing import NDArray

from lepton_ref import registry
from lepton_ref.conformance.case import Case
from lepton_ref.conformance.claim import judge_op
from lepton_ref.plain.ggml import BLOCKS
from lepton_ref.storage import FORMATS, BlockFormat
from lepton_ref.storage.encoded import Unrounded, WithMinima

NUMPY = registry.get("numpy")


def usual(format: BlockFormat, blocks: Blocks, seed: int) -> Blocks:
    """The blocks with scales of the size that weights have."""
    rng = np.random.default_rng(seed)
    for field in format.fields:
        at = slice(field.at, field.at + field.nbytes)
        if field.what in ("fp16", "fp32"):
            number = (rng.standard_normal((len(blocks), 1)) / 8).astype("<f2" if field.what == "fp16" else "<f4")
            blocks[:, at] = number.view(np.uint8)
        if field.what.startswith("E8M0"):
            blocks[:, at] = rng.integers(120, 130, (len(blocks), 1))
    return blocks


def check(format: BlockFormat, precision: str) -> None:
    for seed in range(3):
        blocks = finite(format, random_blocks(format, max(3, 1024 // format.length), seed))
        raw = blocks if seed == 2 else usual(format, blocks, seed)  # the last with scales of any size
        x = np.random.default_rng(seed).standard_normal((1, 2, format.length)).astype(np.float32)
        case = Case("linear", {"x": x, "w": raw}, {"storage": format.name, "kept": seed == 1}, precision)
        verdict = judge_op(case, NUMPY)
        assert not verdict.wrong, verdict


@each_format
@pytest.mark.parametrize("precision", ["reference", "bf16", "w8a8", "w4a8", "fp8"])
def test_a_linear_layer_over_stored_blocks_is_as_specified(format: BlockFormat, precision: str) -> None:
    check(format, precision)


@pytest.mark.parametrize("name", [name for name in FORMATS if name in BLOCKS])
def test_under_ggml_it_is_as_specified_for_every_format_that_ggml_multiplies(name: str) -> None:
    check(FORMATS[name], "ggml")


@pytest.mark.parametrize("name", ["Q8_1", "Q8_K"])
def test_formats_of_activations_are_no_weights_under_ggml(name: str) -> None:
    assert set(FORMATS) - set(BLOCKS) == {"Q8_1", "Q8_K"}
    with pytest.raises(ValueError, match=f"no form for a weight in {name}"):
        check(FORMATS[name], "ggml")


@pytest.mark.parametrize("name", ["Q4_1", "Q5_1"])
def test_minima_of_the_wrong_field_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: WithMinima, index: NDArray[np.int64]) -> NDArray[np.float64]:
        scales = np.ascontiguousarray(self.base.blocks(index)[:, :, 0:2]).view("<f2")[:, :, 0].astype(np.float64)
        return np.concatenate([self.base.unrounded(index), scales], axis=1)

    monkeypatch.setattr(WithMinima, "operand", wrong)
    with pytest.raises(AssertionError):
        check(FORMATS[name], "ggml")


@pytest.mark.parametrize("name", ["Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K", "Q8_K"])
def test_weights_rounded_before_they_are_multiplied_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unrounded, "operand", lambda self, index: self.base.take(index).astype(np.float64))
    with pytest.raises(AssertionError):
        check(FORMATS[name], "w8a8")
