"""`lepton-ref quantize IN OUT`: a model's file in other formats."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_ref import cli_quantise_folder
from lepton_ref.cli_calibrate import add_options as add_calibration
from lepton_ref.cli_calibrate import measured, reader, require_options, require_use, sizes
from lepton_ref.cli_progress import progress, steps
from lepton_ref.cli_quantise_folder import add_options as add_folder
from lepton_ref.cli_report import facts, note, records, to_json
from lepton_ref.runtime.find import find
from lepton_ref.storage.show import human

if TYPE_CHECKING:
    from lepton_ref.compress.quantise_file import Written

METHODS = ("rtn", "gptq")
"""How the codes of a file's blocks are chosen."""


def add_options(command: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    command.add_argument("source", metavar="IN", help="a .gguf or .safetensors file, a model's folder, or package:NAME")
    command.add_argument(
        "target", type=Path, metavar="OUT", help="a .gguf file, .safetensors for dense formats, or with --as a folder"
    )
    command.add_argument("--format", metavar="NAME", help="one format for every matrix, such as Q4_K or BF16")
    command.add_argument("--recipe", metavar="NAME", help="a well-known mixture, such as Q4_K_M")
    pattern = "another format for the tensors whose names match; the first that fits counts; repeatable"
    command.add_argument("--tensor", action="append", default=[], metavar="PATTERN=NAME", help=pattern)
    command.add_argument(
        "--method", metavar="NAME",
        help="rtn: each number on its own; gptq, with --calibrate: errors are made good; with --as hqq and awq too",
    )  # fmt: skip
    command.add_argument("--threads", type=int, default=1, metavar="N", help="how many encode at a time (default 1)")
    command.add_argument("--overwrite", action="store_true", help="replace OUT where it exists")
    command.add_argument("--list", action="store_true", help="list every tensor's format, and why")
    add_calibration(command)
    add_folder(command)


def quantise(args: argparse.Namespace) -> None:
    """Write a model in other formats."""
    if args.folder is not None:
        cli_quantise_folder.quantise(args)
        return
    from lepton_ref.compress.quantise_file import plan, quantise_file
    from lepton_ref.compress.recipe import Recipe, read_patterns

    require_options(args)
    _require_method(args)
    recipe = Recipe(args.format, args.recipe, read_patterns(args.tensor))
    source = find(args.source)
    model = None if args.calibrate is None else reader(args)
    if model is not None:  # before it is run, which takes its time
        planned = plan(source, args.target, recipe, importance=sizes(model), overwrite=args.overwrite)
        formats = [one.format for one in planned.values() if not one.kept]
        require_use(formats, gptq=args.method == "gptq")
    found_out = measured(args, model)
    ready = None
    if args.method == "gptq":
        from lepton_ref.compress.ready import by_gptq

        assert found_out is not None, "required with the method"
        assert found_out.seen is not None, "a text was read"
        with steps("gptq", wanted=not args.json) as shown:
            ready = by_gptq(found_out.seen, planned, progress=shown)
    written = quantise_file(
        source,
        args.target,
        recipe,
        importance=None if found_out is None else found_out.importance,
        calibration=None if found_out is None else found_out.record,
        ready=ready,
        threads=args.threads,
        overwrite=args.overwrite,
        progress=progress("quantize", wanted=not args.json),
        hashing=progress("hash the source", wanted=not args.json),
    )
    _report(args, written)


def _report(args: argparse.Namespace, written: Written) -> None:
    rows = [{"tensor": name, "format": one.format, "why": one.why} for name, one in written.choices.items()]
    counted = Counter(one.format for one in written.choices.values())
    found: dict[str, Any] = {
        "file": str(written.path),
        "formats": ", ".join(f"{name} ×{count}" for name, count in counted.most_common()),
        "weights": written.elements,
        "bytes": written.nbytes if args.json else human(written.nbytes),
        "bits per weight": round(written.bits_per_weight, 4),
    }
    notes = _notes(written)
    if args.json:
        print(to_json({**found, "formats": dict(counted), "notes": notes, "tensors": rows}))
        return
    if args.list:
        records(rows, as_json=False)
    facts(found, as_json=False)
    for text in notes:
        note(f"note: {text}")


def _notes(written: Written) -> list[str]:
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
    fallen = [name for name, one in written.choices.items() if one.fallback]
    if fallen:
        notes.append(
            f"{len(fallen)} tensors have a fallback format, such as {fallen[0]}: {written.choices[fallen[0]].why}"
        )
    return notes


def _require_method(args: argparse.Namespace) -> None:
    if args.method not in METHODS and args.method in cli_quantise_folder.METHODS:
        raise ValueError(
            f"--method {args.method} makes codes that folders hold; give --as, or take {' or '.join(METHODS)}"
        )
    if args.method not in (None, *METHODS):
        raise ValueError(f"unknown method {args.method!r}; known: {', '.join(METHODS)}")
    if args.method == "gptq" and (args.calibrate is None or args.calibrate_model is not None):
        why = "" if args.calibrate is None else ", without --calibrate-model"
        raise ValueError(f"gptq looks at what the layers of IN are given; give a text: --calibrate TEXT_FILE{why}")
