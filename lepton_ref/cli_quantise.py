"""`lepton-ref quantize IN OUT`: a model's file in other formats."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from lepton_ref.cli_progress import progress
from lepton_ref.cli_report import facts, note, records, to_json
from lepton_ref.runtime.find import find
from lepton_ref.storage.show import human


def quantise(args: argparse.Namespace) -> None:
    """Write a model in other formats."""
    from lepton_ref.compress.imatrix import read_imatrix
    from lepton_ref.compress.quantise_file import quantise_file
    from lepton_ref.compress.recipe import Recipe, read_patterns

    recipe = Recipe(args.format, args.recipe, read_patterns(args.tensor))
    importance = None if args.imatrix is None else read_imatrix(args.imatrix).importance()
    written = quantise_file(
        find(args.source),
        args.target,
        recipe,
        importance=importance,
        threads=args.threads,
        overwrite=args.overwrite,
        progress=progress("quantize", wanted=not args.json),
    )
    rows = [{"tensor": name, "format": one.format, "why": one.why} for name, one in written.choices.items()]
    counted = Counter(one.format for one in written.choices.values())
    found: dict[str, Any] = {
        "file": str(written.path),
        "formats": ", ".join(f"{name} ×{count}" for name, count in counted.most_common()),
        "weights": written.elements,
        "bytes": written.nbytes if args.json else human(written.nbytes),
        "bits per weight": round(written.bits_per_weight, 4),
    }
    notes = [*written.notes]
    if written.requantised:
        notes.append(
            f"{len(written.requantised)} tensors were in blocks before, such as {written.requantised[0]}: both errors "
            "add up; start from the model as it was trained where there is one"
        )
    if written.unweighted:
        notes.append(f"no importance for {len(written.unweighted)} tensors, such as {written.unweighted[0]}")
    fallen = [name for name, one in written.choices.items() if "no whole blocks" in one.why]
    if fallen:
        notes.append(
            f"{len(fallen)} tensors have a fallback format, such as {fallen[0]}: {written.choices[fallen[0]].why}"
        )
    if args.json:
        print(to_json({**found, "formats": dict(counted), "notes": notes, "tensors": rows}))
        return
    if args.list:
        records(rows, as_json=False)
    facts(found, as_json=False)
    for text in notes:
        note(f"note: {text}")
