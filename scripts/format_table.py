"""Measure every storage format on a real model, and write docs/formats-measured.md.

    python scripts/format_table.py                              write the table from what is recorded
    python scripts/format_table.py --measure [--llama-cpp PYTHON]  measure what is not recorded yet, and record it

How: scripts/format_measures.py. PYTHON is one that has llama-cpp-python; each file is then run by it too. Two programs
that are given different --only fill one record.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from format_measures import CALIBRATION, EVALUATION, MODEL, PACKED, Measure

from lepton_ref.audit.logits import Estimate
from lepton_ref.compress.mixtures import MIXTURES
from lepton_ref.compress.recipe import Recipe
from lepton_ref.storage.encoders import ENCODERS, WEIGHTED

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "formats-measured.json"
PAGE = ROOT / "docs" / "formats-measured.md"
GRIDS = ("int8-g64", "int4-g64", "int3-g64", "int2-g64")
METHODS = ("rtn", "gptq", "awq", "hqq")
MIXED = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "IQ2_M", "IQ3_M")
FED_BACK = ("Q5_0", "Q4_0", "Q4_K", "IQ4_NL", "Q4_K_M")
"""Formats that are measured with GPTQ's codes too."""
OF_ACTIVATIONS = ("Q8_1", "Q8_K")
HEAD = """# Formats, measured

<!-- written by scripts/format_table.py: `make docs` -->

{protocol}

The original is the file as it is shipped, Q4_1, decoded: what is measured is what another format adds, and a format
that holds Q4_1's values adds nothing.

- **bits** are those of the file's tensors, scales included, to a number.
- **KL** is the mean over positions of the divergence from the original's next-token distribution, in nats, with the
  interval of 95 % that resampling the positions gives; **top-1** is how often both put the same token first.
- **llama.cpp** runs the same file, flash attention and cache as it chooses; its KL is from the same original.
- **in it** is the share of the file's numbers that are in the format itself. Rows that are no whole blocks of a format
  get the fallback that llama.cpp gives them: most of this model's rows have 576 numbers, which are not blocks of 256.
- **KL, layers in it** is that of the layers' matrices encoded in the format itself, rows filled up with zeros where
  they are no whole blocks, and all else as shipped. In files, Q4_1 becomes Q5_1 without encoding: see
  `lepton_ref.compress.transcode`.
- **how**: `search` for scales, `nearest` where there is nothing to search for, `imatrix` with the importance of each
  column as the calibration tokens give it, `gptq` with each layer's codes chosen one column after the other, the error
  fed back into those that follow.

"""


def wanted() -> list[tuple[str, str]]:
    """(format, method) of every row of files, in the table's order."""
    found = [("as shipped", "original")]
    for name in ("F32", "F16", "BF16", *sorted(ENCODERS, key=_order)):
        if name not in OF_ACTIVATIONS:
            found.append((name, "search" if name in WEIGHTED else "nearest"))
            if name in WEIGHTED:
                found.append((name, "imatrix"))
            if name in FED_BACK:
                found.append((name, "gptq"))
    for name in MIXED:
        found += [(f"{name} (mixture)", how) for how in ("search", "imatrix", "gptq")[: 2 + (name in FED_BACK)]]
    return found


def grids() -> list[tuple[str, str]]:
    """(format, method) of every row of matrices that are quantised by what they are given."""
    return [(name, method) for name in GRIDS for method in METHODS]


def packed() -> list[tuple[str, str]]:
    """(format, how) of every row of matrices in the formats of packed folders."""
    return [(f"{name} (packed)", how) for name, (how, _) in PACKED.items()]


def _order(name: str) -> tuple[int, str]:
    families = ("Q8", "Q6", "Q5", "Q4", "Q3", "Q2", "Q1", "IQ4", "IQ3", "IQ2", "IQ1", "MX", "NV", "TQ2", "TQ1")
    return next(number for number, family in enumerate(families) if name.startswith(family)), name


def measure(only: list[str], llama_cpp: str | None) -> None:
    """Fill in the rows that are missing, and record after each."""
    here = Measure(llama_cpp)
    for name, method in [*wanted(), *grids(), *packed()]:
        key = f"{name} {method}"
        if key in recorded() or (only and name not in only):
            continue
        sys.stderr.write(f"{key}\n")
        row: dict[str, Any]
        if method == "original":
            row = here.shipped()
        elif (name, method) in grids():
            row = here.grid(name, method)
        elif (name, method) in packed():
            row = here.packed(name.removesuffix(" (packed)"))
        elif name.endswith(" (mixture)"):
            mixture = name.removesuffix(" (mixture)")
            row = here.file(Recipe(mixture=mixture), MIXTURES[mixture].base, how=method)
        else:
            row = here.file(Recipe(format=name), name, how=method)
        record = {"model": MODEL, "calibration": CALIBRATION, "evaluation": EVALUATION, "rows": recorded() | {key: row}}
        beside = RECORD.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        beside.replace(RECORD)


def recorded() -> dict[str, Any]:
    """The rows that there are."""
    return dict(json.loads(RECORD.read_text(encoding="utf-8"))["rows"]) if RECORD.exists() else {}


def page(record: Mapping[str, Any]) -> str:
    """The page, from what is recorded."""
    protocol = (
        f"Of {record['model'].removeprefix('package:')}, {record['evaluation']} tokens of one text in one window, "
        f"after {record['calibration']} for calibration; precision `reference`."
    )
    rows = record["rows"]
    files = _table(
        ("format", "how", "bits", "in it", "KL", "top-1", "perplexity", "llama.cpp: KL", "perplexity",
         "KL, layers in it"),
        (_of_file(name, how, rows[f"{name} {how}"]) for name, how in wanted() if f"{name} {how}" in rows),
    )  # fmt: skip
    columns = ("format", "how", "bits", "in it", "KL", "top-1", "perplexity")
    layers, folders = (
        _table(columns, (_start(name, how, rows[f"{name} {how}"]) for name, how in some if f"{name} {how}" in rows))
        for some in (grids(), packed())
    )
    second = (
        "\n## Integers by what activations say\n\nThe matrices that linear layers alone read, in codes of so many bits "
        "and groups of 64 inputs with an fp16 scale and a zero point: rounded to nearest (`rtn`), and by GPTQ, AWQ and "
        "HQQ.\n\n"
    )
    third = "\n## Formats of packed folders\n\nThe same matrices in these formats, each by itself.\n\n"
    return HEAD.format(protocol=protocol) + files + second + layers + third + folders.replace(" (packed) |", " |")


def _table(columns: tuple[str, ...], rows: Iterable[list[str]]) -> str:
    lines = [list(columns), ["---", "---", *["---:"] * (len(columns) - 2)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _start(name: str, how: str, row: Mapping[str, Any]) -> list[str]:
    ours = row["ours"]
    perplexity = Estimate(**ours["perplexity_b"])
    return [
        name, how, f"{row['bits']:.2f}", f"{row['share']:.0%}", _kl(ours), f"{ours['agreement']:.1%}",
        f"{perplexity.value:.2f} ({perplexity.low:.1f} – {perplexity.high:.1f})",
    ]  # fmt: skip


def _of_file(name: str, how: str, row: Mapping[str, Any]) -> list[str]:
    theirs = row.get("llama_cpp")
    if isinstance(theirs, Mapping):
        perplexity = Estimate(**theirs["perplexity_b"])
        beside = [_kl(theirs), f"{perplexity.value:.2f} ({perplexity.low:.1f} – {perplexity.high:.1f})"]
    else:
        beside = [theirs or "–", "–"]
    return [*_start(name, how, row), *beside, _kl(row["layers"]) if "layers" in row else "–"]


def _kl(row: Mapping[str, Any]) -> str:
    kl = Estimate(**row["kl"])
    return f"{kl.value:.1e} ({kl.low:.1e} – {kl.high:.1e})"


def main() -> None:
    """Measure if asked to, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure what is not recorded yet")
    parser.add_argument("--only", action="append", default=[], metavar="FORMAT", help="of these formats alone")
    parser.add_argument("--llama-cpp", metavar="PYTHON", help="a Python with llama-cpp-python, to run the files too")
    given = parser.parse_args()
    if given.measure:
        measure(given.only, given.llama_cpp)
    PAGE.write_text(page(json.loads(RECORD.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
