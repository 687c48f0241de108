"""Real models against a float64 run of transformers on the same decoded weights (golden/real, golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from golden_cases import GOLDEN
from real_models import gemma3, minilm, smollm2

import lepton_ref
from lepton_ref.runtime.model import Model

pytestmark = pytest.mark.slow

DECODERS = ("smollm2", "gemma3")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: pytest.FixtureRequest, scratch: Path) -> tuple[Model, dict[str, np.ndarray], list[list[int]]]:
    path = smollm2() if request.param == "smollm2" else gemma3(scratch)
    folder = GOLDEN / "real" / request.param
    with np.load(folder / "expected.npz", allow_pickle=False) as arrays:
        expected = dict(arrays)
    prompts = [prompt["ids"] for prompt in json.loads((folder / "prompts.json").read_text(encoding="utf-8"))]
    return lepton_ref.load(path), expected, prompts


def test_logits_are_no_further_from_float64_than_transformers_float32(decoder):
    model, expected, prompts = decoder
    for n, ids in enumerate(prompts):
        logits = model.forward([ids], last_only=True)[0, 0].astype(np.float64)
        ours = np.abs(logits[expected["indices"][n]] - expected["float64"][n]).max()
        theirs = np.abs(expected["float32"][n] - expected["float64"][n]).max()
        assert ours <= theirs, f"prompt {n}: {ours:.2e} from float64, transformers' float32 is {theirs:.2e}"
        top, mean, std, _ = expected["statistics"][n]  # of the whole vector, so that no other logit is far off
        assert abs(logits.max() - top) <= theirs
        assert abs(logits.mean() - mean) <= theirs
        assert abs(logits.std() - std) <= theirs


def test_sixty_four_greedy_tokens_equal_float64(decoder):
    model, expected, prompts = decoder
    for n, ids in enumerate(prompts):
        cache = model.new_cache(capacity=len(ids) + 64)
        logits = model.forward([ids], cache=cache, last_only=True)
        chosen = []
        for _ in range(64):
            chosen.append(int(logits[0, 0].argmax()))
            logits = model.forward([chosen[-1:]], cache=cache, last_only=True)
        assert chosen == expected["greedy_float64"][n].tolist(), f"prompt {n}"


def test_a_wrong_constant_is_seen(decoder):
    """The comparison above is sharp: logits 1e-5 too large choose the same tokens, and are not accepted."""
    model, expected, prompts = decoder
    logits = model.forward([prompts[0]], last_only=True)[0, 0].astype(np.float64)
    wrong = logits * (1 + 1e-5)
    theirs = np.abs(expected["float32"][0] - expected["float64"][0]).max()
    assert wrong.argmax() == logits.argmax()
    assert np.abs(wrong[expected["indices"][0]] - expected["float64"][0]).max() > theirs


def test_sentences_are_no_further_from_float64_than_transformers_float32():
    folder = GOLDEN / "real" / "minilm"
    with np.load(folder / "expected.npz", allow_pickle=False) as arrays:
        expected = dict(arrays)
    sentences = json.loads((folder / "sentences.json").read_text(encoding="utf-8"))
    model = lepton_ref.load(minilm())
    ours = model.embed([sentence["ids"] for sentence in sentences])
    assert np.abs(ours - expected["float64"]).max() <= np.abs(expected["float32"] - expected["float64"]).max()
    from_text = model.embed([sentence["text"] for sentence in sentences])
    assert from_text.tobytes() == ours.tobytes()
