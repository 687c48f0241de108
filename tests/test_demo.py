"""The demo's two verdicts, on a stand-in that gives the golden's own numbers and on one that does not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lepton_ref import demo

VOCABULARY = 49152


class Stream:
    def push(self, token: int) -> str:
        return f" {token}"

    def finish(self) -> str:
        return "."


class Replay:
    """A model that answers with the golden's numbers, changed where a test asks for it."""

    tokenizer = SimpleNamespace(stream=Stream)

    def __init__(self, error: float = 0.0, wrong_at: int | None = None) -> None:
        self.prompts, self.golden = demo.read_golden()
        self.error = error
        self.wrong_at = wrong_at
        self.step = -1

    def new_cache(self, *, capacity: int) -> object:
        assert capacity == len(self.prompts[0]["ids"]) + self.golden["greedy_float64"].shape[1]
        return object()

    def forward(self, ids: list[list[int]], *, last_only: bool, cache: object = None) -> np.ndarray[Any, Any]:
        assert last_only
        logits = np.zeros((1, 1, VOCABULARY), dtype=np.float32)
        if cache is not None:
            self.step += 1
            expected = self.golden["greedy_float64"][0][self.step]
            logits[0, 0, (expected + 1) % VOCABULARY if self.step == self.wrong_at else expected] = 1
            return logits
        number = [prompt["ids"] for prompt in self.prompts].index(ids[0])
        logits[0, 0, self.golden["indices"][number]] = self.golden["float64"][number] + self.error
        return logits


def test_the_goldens_own_numbers_pass(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find", lambda name: Path("replay.gguf"))
    monkeypatch.setattr(demo, "load", lambda path: Replay())
    assert demo.main() == 0
    printed = capsys.readouterr().out
    assert printed.count("away, transformers' own float32") == 5
    assert "the same tokens" in printed


@pytest.mark.parametrize("model", [Replay(error=1e-3), Replay(error=np.nan), Replay(wrong_at=63)])
def test_another_number_or_token_fails(model: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find", lambda name: Path("replay.gguf"))
    monkeypatch.setattr(demo, "load", lambda path: model)
    assert demo.main() == 1


@pytest.mark.slow
def test_the_real_model_agrees() -> None:
    try:
        demo.find(demo.MODEL)
    except FileNotFoundError as error:
        pytest.skip(f"{error}: `make demo` installs it")
    assert demo.main() == 0
