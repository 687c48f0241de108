"""The tiny checkpoints of golden/tiny, for tests: where each lies, and what a true float64 run made of it.

A golden is read-only. A missing one raises; no test may skip for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GOLDEN = Path(str(resources.files("lepton_ref.golden")))


@dataclass(frozen=True)
class GoldenCase:
    """One checkpoint folder and the arrays of its expected.npz (golden/README.md says what each is)."""

    name: str
    folder: Path
    expected: Mapping[str, NDArray[np.generic]]

    @property
    def output(self) -> str:
        """The name of the array that `forward(input_ids)` must give: `logits` or `last_hidden_state`."""
        return "logits" if "logits" in self.expected else "last_hidden_state"

    @property
    def is_decoder(self) -> bool:
        """Whether the case has a greedy continuation."""
        return "greedy_ids" in self.expected


def names() -> tuple[str, ...]:
    """The names of all cases, from the manifest, so that a folder that is missing is missed."""
    manifest = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))
    return tuple(name.removeprefix("tiny/") for name in manifest["groups"] if name.startswith("tiny/"))


def case(name: str) -> GoldenCase:
    """The case of that name.

    Raises:
        FileNotFoundError: it is in the manifest and not on the disk.
    """
    folder = GOLDEN / "tiny" / name
    with np.load(folder / "expected.npz", allow_pickle=False) as arrays:
        return GoldenCase(name, folder, dict(arrays))
