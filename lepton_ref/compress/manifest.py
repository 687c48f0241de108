"""The manifest: where a written file's bytes come from, as JSON in the file's own metadata.

    lepton_ref    the version that wrote it
    source        the SHA-256 of each file that was read, those of the tokenizer and the pooling too, in the order of
                  their paths
    recipe        the format or mixture, and the patterns
    importance    the SHA-256 of how much each column counts, and the calibration that measured it where one was run:
                  tokens, sequences, the SHA-256 of their ids, the seed, the precision
    seeds         of everything that was drawn
    tensors       each tensor's format and the SHA-256 of its bytes
    ready         which of them were encoded before, such as by GPTQ, and how: the method, its settings, its calibration

It holds no dates, names or places, so that the same command on the same files gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ref import __version__
from lepton_ref.compress.recipe import Recipe
from lepton_ref.compress.source import Progress, Source
from lepton_ref.files.stored import stored
from lepton_ref.interface import HostArray
from lepton_ref.storage import Weight

if TYPE_CHECKING:
    from lepton_ref.compress.ready import Ready

MANIFEST = "lepton_ref.manifest"
"""The metadata's key of the manifest."""


def manifest(
    read: Source,
    recipe: Recipe,
    tensors: Mapping[str, Weight],
    *,
    importance: Mapping[str, HostArray] | None,
    calibration: Mapping[str, Any] | None = None,
    ready: Ready | None = None,
    hashing: Progress | None = None,
) -> str:
    """The manifest's text.

    Args:
        read: what was read.
        recipe: what was made of it.
        tensors: what is written, by name.
        importance: tensor → (columns,), or None.
        calibration: what measured it: `Calibration.record()`.
        ready: what was encoded before.
        hashing: wraps the list of the source's pieces while they are read.
    """
    given: dict[str, Any] = {"sha256": None if importance is None else _importance_digest(importance)}
    if calibration is not None:
        given["calibration"] = dict(calibration)
    records = [calibration or {}, {} if ready is None else ready.record.get("calibration", {})]
    text: dict[str, Any] = {
        "lepton_ref": __version__,
        "source": {"sha256": read.digests(progress=hashing)},
        "recipe": {"format": recipe.format, "mixture": recipe.mixture, "tensors": [list(p) for p in recipe.patterns]},
        "importance": given,
        "seeds": sorted({record["seed"] for record in records if record.get("seed") is not None}),
        "tensors": {
            name: {"format": weight.format, "sha256": digest(stored(name, weight).pieces())}
            for name, weight in tensors.items()
        },
    }
    if ready is not None:
        text["ready"] = {**ready.record, "tensors": sorted(ready.tensors)}
    return json.dumps(text, ensure_ascii=True, separators=(",", ":"))


def digest(pieces: Iterable[bytes], /) -> str:
    """The SHA-256 of bytes in pieces, in hexadecimal."""
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()


def _importance_digest(importance: Mapping[str, HostArray]) -> str:
    found = hashlib.sha256()
    for name in sorted(importance):
        found.update(name.encode("utf-8") + b"\0" + np.ascontiguousarray(importance[name], dtype="<f4").tobytes())
    return found.hexdigest()
