"""The decoders' goldens, and folders changed from them, for the tests of models."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import golden_cases
import numpy as np
from numpy.typing import NDArray

import lepton_ref
from lepton_ref import Model
from lepton_ref.files import read_folder, write_safetensors

LIMITS: Mapping[str, float] = {"float64": 1e-9, "reference": 5e-5}
"""Precision → the distance from a true float64 run, in standard deviations of its output, that this project allows."""

ENCODERS = ("bert", "roberta", "distilbert")
CASES = tuple(name for name in golden_cases.names() if name.split("_")[0] not in ENCODERS)
MAIN = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "gpt2", "gpt_neox", "opt")
"""One case of each family."""


@cache
def case(name: str) -> golden_cases.GoldenCase:
    return golden_cases.case(name)


@cache
def model(name: str, precision: str = "float64") -> Model:
    """The case's model; tests that change one load their own."""
    return lepton_ref.load(case(name).folder, precision=precision)


def distance(got: NDArray[Any], want: NDArray[Any], spread: float) -> float:
    """The largest distance, in standard deviations."""
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / spread)


def worst(changed: Model, name: str) -> float:
    """The model's largest distance from everything that the golden holds of logits or states."""
    e = case(name).expected
    want = e[case(name).output]
    spread = float(want.std())
    distances = [distance(changed.forward(e["input_ids"]), want, spread)]
    for side in ("left", "right"):
        mask = e[f"padded_{side}_mask"].astype(bool)
        got = changed.forward(e[f"padded_{side}_ids"], attention_mask=mask)
        distances += [distance(got[row][mask[row]], e[f"padded_{row}"], spread) for row in range(2)]
    return max(distances)


def config(name: str) -> dict[str, Any]:
    """The case's config.json."""
    fields: dict[str, Any] = json.loads((case(name).folder / "config.json").read_text(encoding="utf-8"))
    return fields


def changed(name: str, into: Path, layers: int | None = None, **fields: Any) -> Path:
    """The case's folder with other fields in its config.json (`ABSENT` takes one out), and with more layers."""
    checkpoint = read_folder(case(name).folder)
    tensors = {}
    for tensor, weight in checkpoint.tensors.tensors.items():
        number = re.search(r"\.(\d+)\.", tensor)
        if number is None or layers is None:
            tensors[tensor] = weight
            continue
        old = checkpoint.config["num_hidden_layers"]
        for layer in range(int(number[1]), layers, old):
            tensors[tensor.replace(number[0], f".{layer}.", 1)] = weight
    into.mkdir(parents=True, exist_ok=True)
    merged = {**checkpoint.config, **fields} | ({} if layers is None else {"num_hidden_layers": layers})
    kept = {key: value for key, value in merged.items() if value is not ABSENT}
    (into / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    write_safetensors(into / "model.safetensors", tensors, {"format": "pt"})
    return into


ABSENT = object()
"""A field that `changed` leaves out."""
