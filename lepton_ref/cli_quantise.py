"""`lepton-ref quantize IN OUT`: a model's file in other formats."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from lepton_ref.cli_calibrate import add_options as add_calibration
from lepton_ref.cli_calibrate import measured, reader, require_options, require_use, sizes
from lepton_ref.cli_progress import progress
from lepton_ref.cli_report import facts, note, records, to_json
from lepton_ref.runtime.find import find
from lepton_ref.storage.show import human


def add_options(command: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    command.add_argument("source", metavar="IN", help="a .gguf or .safetensors file, a model's folder, or package:NAME")
    command.add_argument("target", type=Path, metavar="OUT", help="a .gguf file, or .safetensors for dense formats")
    command.add_argument("--format", metavar="NAME", help="one format for every matrix, such as Q4_K or BF16")
    command.add_argument("--recipe", metavar="NAME", help="a well-known mixture, such as Q4_K_M")
    pattern = "another format for the tensors whose names match; the first that fits counts; repeatable"
    command.add_argument("--tensor", action="append", default=[], metavar="PATTERN=NAME", help=pattern)
    command.add_argument("--threads", type=int, default=1, metavar="N", help="how many encode at a time (default 1)")
    command.add_argument("--overwrite", action="store_true", help="replace OUT where it exists")
    command.add_argument("--list", action="store_true", help="list every tensor's format, and why")
    add_calibration(command)


def quantise(args: argparse.Namespace) -> None:
    """Write a model in other formats."""
    from lepton_ref.compress.quantise_file import plan, quantise_file
    from lepton_ref.compress.recipe import Recipe, read_patterns

    require_options(args)
    recipe = Recipe(args.format, args.recipe, read_patterns(args.tensor))
    source = find(args.source)
    model = None if args.calibrate is None else reader(args)
    if model is not None:  # before it is run, which takes its time
        planned = plan(source, args.target, recipe, importance=sizes(model), overwrite=args.overwrite)
        require_use([one.format for one in planned.values() if not one.why.startswith("kept")])
    found_out = measured(args, model)
    written = quantise_file(
        source,
        args.target,
        recipe,
        importance=None if found_out is None else found_out.importance,
        calibration=None if found_out is None else found_out.record,
        threads=args.threads,
        overwrite=args.overwrite,
        progress=progress("quantize", wanted=not args.json),
        hashing=progress("hash the source", wanted=not args.json),
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
    if written.starved:
        name, form = written.starved[0], written.choices[written.starved[0]].format
        notes.append(
            f"{len(written.starved)} tensors had no importance though llama.cpp makes their formats with it alone, "
            f"such as {name} in {form}: their columns count alike; give --calibrate or --imatrix"
        )
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
