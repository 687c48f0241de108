"""`compare MODEL theirs.npy`: another program's logits beside a model's, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wide_model import VOCABULARY, wide_gguf

import lepton_ref
from lepton_ref.audit.logits import compare_logits

IDS = [3, 4, 5, 6, 7]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wide_gguf(tmp_path_factory.mktemp("compare") / "a.gguf")


def windows_of(path: Path, window: int) -> list[np.ndarray]:
    model = lepton_ref.load(path)
    return [np.asarray(model.forward([IDS[at : at + window]])[0]) for at in range(0, len(IDS), window)]


def test_the_model_s_own_logits_differ_in_nothing(told: Any, path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "own.npy", np.concatenate(windows_of(path, 3)))
    code, out, _ = told("compare", path, tmp_path / "own.npy", "--ids", "3,4,5,6,7", "--window", 3, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["KL(a‖b), nats"], found["top-1 agreement"], found["largest difference"]) == (0, 1, 0)
    assert "windows of 3 tokens" in found["protocol"]


def test_other_logits(told: Any, path: Path, tmp_path: Path) -> None:
    ours = windows_of(path, 2)
    rng = np.random.default_rng(0)
    theirs = [one + rng.standard_normal(one.shape).astype(np.float32) for one in ours]
    np.save(tmp_path / "theirs.npy", np.concatenate(theirs))
    words = ("compare", path, tmp_path / "theirs.npy", "--ids", "3,4,5,6,7", "--window", 2)
    found = json.loads(told(*words, "--json")[1])
    expected = compare_logits(ours, theirs, [[3, 4], [5, 6], [7]])
    assert found["KL(a‖b), nats"] == expected.kl.value > 0
    assert expected.perplexity_b is not None
    assert found["perplexity of b"] == expected.perplexity_b.value
    assert found["interval of b/a"][0] < found["b/a"] < found["interval of b/a"][1]
    code, out, err = told(*words)
    assert (code, err) == (0, "")
    assert "top-1 agreement" in out


def test_no_window_of_ours_is_kept(told: Any, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "own.npy", np.concatenate(windows_of(path, 2)))
    given: list[Any] = []

    def seen(a: Any, b: Any, ids: Any, **how: Any) -> Any:
        given.append(a)
        return compare_logits(a, b, ids, **how)

    monkeypatch.setattr("lepton_ref.audit.logits.compare_logits", seen)
    assert told("compare", path, tmp_path / "own.npy", "--ids", "3,4,5,6,7", "--window", 2, "--json")[0] == 0
    assert isinstance(given[0], Iterator), "windows are made when they are asked for"


def test_refused_in_one_line(told: Any, path: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.npy"
    np.save(good, np.zeros((5, VOCABULARY), dtype=np.float32))
    np.save(tmp_path / "ints.npy", np.zeros((5, VOCABULARY), dtype=np.int32))
    np.save(tmp_path / "short.npy", np.zeros((4, VOCABULARY), dtype=np.float32))
    np.save(tmp_path / "nan.npy", np.full((5, VOCABULARY), np.nan, dtype=np.float32))
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "empty.npy").write_bytes(b"")
    ids = ("--ids", "3,4,5,6,7")
    cases = {
        "give --text or --ids": (good,),
        "leave it out": (good, *ids, "--kv-cache", "int8"),
        "window is 0": (good, *ids, "--window", "0"),
        "holds int32": (tmp_path / "ints.npy", *ids),
        "(4, 61), the text makes (5, 61)": (tmp_path / "short.npy", *ids),
        "logits of b are NaN": (tmp_path / "nan.npy", *ids),
        "text.npy: no .npy file": (tmp_path / "text.npy", *ids),
        "empty.npy: no .npy file": (tmp_path / "empty.npy", *ids),
        "none.npy": (tmp_path / "none.npy", *ids),
    }
    for message, words in cases.items():
        code, out, err = told("compare", path, *words)
        assert (code, out) == (2, ""), message
        assert message in err
        assert err.count("\n") == 1
