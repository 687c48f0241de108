"""The demo's two verdicts, on a stand-in that gives the golden's own numbers and on one that does not."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lepton_ref import demo
from lepton_ref.runtime.generation import Token

VOCABULARY = 49152


class Replay:
    """A model that answers with the golden's numbers, changed where a test asks for it."""

    def __init__(self, error: float = 0.0, wrong_at: int | None = None) -> None:
        self.prompts, self.golden = demo.read_golden()
        self.error = error
        self.wrong_at = wrong_at

    def stream(self, ids: list[int], *, max_new_tokens: int, stop_ids: tuple[int, ...]) -> Iterator[Token]:
        assert (ids, stop_ids) == (self.prompts[0]["ids"], ())
        expected = self.golden["greedy_float64"][0].tolist()
        assert max_new_tokens == len(expected)
        for step, token in enumerate(expected):
            yield Token(token + (step == self.wrong_at), text=" .", logprob=0.0)

    def run_with_trace(self, ids: list[list[int]]) -> SimpleNamespace:
        assert ids == [self.prompts[0]["ids"]]
        return SimpleNamespace(embed="first", head="last")

    def forward(self, ids: list[list[int]], *, last_only: bool) -> np.ndarray[Any, Any]:
        assert last_only
        logits = np.zeros((1, 1, VOCABULARY), dtype=np.float32)
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
    assert "embed='first', head='last'" in printed


@pytest.mark.parametrize("model", [Replay(error=1e-3), Replay(error=np.nan), Replay(wrong_at=63)])
def test_another_number_or_token_fails(model: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find", lambda name: Path("replay.gguf"))
    monkeypatch.setattr(demo, "load", lambda path: model)
    assert demo.main() == 1


def test_without_the_model_the_remedy_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "MODEL", "package:no-such-package-at-all")
    assert demo.main() == 2
    assert "is not installed; pip install" in capsys.readouterr().out


@pytest.mark.slow
def test_the_real_model_agrees() -> None:
    try:
        demo.find(demo.MODEL)
    except FileNotFoundError as error:
        pytest.skip(f"{error}: `make demo` installs it")
    assert demo.main() == 0
