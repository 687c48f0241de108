"""How sentence-transformers makes one vector of a text, as far as a GGUF says it: which pooling, and no more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from types import MappingProxyType
from typing import Any

from lepton_ref.text.config_files import read_json, read_text

POOLINGS: Mapping[str, int] = MappingProxyType(
    {"mean": 1, "mean_tokens": 1, "cls": 2, "cls_token": 2, "lasttoken": 3, "last": 3}
)
"""The pooling's name in the folder → `pooling_type`."""

NORMALISED = "GGUF does not say that vectors are normalised: the program that makes them decides"


def pooling_to_gguf(folder: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """A model's folder -> metadata without the architecture's prefix, and what is left out.

    Raises:
        ValueError: a file that is not JSON.
    """
    steps = _steps(folder / "modules.json")
    notes = (NORMALISED,) if "Normalize" in steps else ()
    if "Pooling" not in steps:
        return {}, notes
    config = folder / steps["Pooling"] / "config.json"
    if not _inside(steps["Pooling"]):
        raise ValueError(f"{folder / 'modules.json'}: path {steps['Pooling']!r} leaves the folder; give one inside it")
    said = read_json(config)
    prefix = "pooling_mode_"
    modes = [key.removeprefix(prefix) for key, on in said.items() if key.startswith(prefix) and on is True]
    given: Any = said.get("pooling_mode", modes if modes else "mean")
    mode = given[0] if isinstance(given, list) and len(given) == 1 else given
    if not isinstance(mode, str) or mode not in POOLINGS:
        return {}, (*notes, f"the pooling {mode!r} of {config} is left out: GGUF knows {', '.join(POOLINGS)}")
    return {"pooling_type": POOLINGS[mode]}, notes


def _inside(path: str) -> bool:
    """Whether a path stays in its folder as it is written; a cache's files are themselves links to elsewhere."""
    parts = PureWindowsPath(path)  # which takes both kinds of separators
    return parts.anchor == "" and ".." not in parts.parts


def _steps(path: Path) -> dict[str, str]:
    """The last part of each step's type → its folder."""
    if not path.is_file():
        return {}
    try:
        steps = json.loads(read_text(path))
        return {str(step["type"]).rpartition(".")[2]: str(step.get("path") or "") for step in steps}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not a list of steps, each with its type and path: fetch the file again") from error
