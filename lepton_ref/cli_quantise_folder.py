"""`lepton-ref quantize FOLDER OUT --as FORMAT`: a model's folder with its layers' matrices packed.

Matrices of layers are quantised; embeddings and heads stay as they are. rtn and hqq look at each matrix alone; gptq and
awq run the model on the text of `--calibrate`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lepton_ref.cli_calibrate import calibration, require_options
from lepton_ref.cli_commands import one_line
from lepton_ref.cli_progress import progress, steps
from lepton_ref.cli_report import facts, note, records, to_json
from lepton_ref.runtime.find import find
from lepton_ref.runtime.load import load
from lepton_ref.storage.show import human

if TYPE_CHECKING:
    from lepton_ref.compress.to_folder import WrittenFolder
    from lepton_ref.runtime.model import Model

CALIBRATED = ("gptq", "awq")
METHODS = ("rtn", "hqq", *CALIBRATED)
FOLDERS = ("compressed-tensors", "gptq", "gptq_v2", "awq", "fp8", "bitsandbytes")

OF_FILES = ("recipe", "tensor", "imatrix", "calibrate_model", "save_imatrix")
"""Options that a folder does not take."""


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of folders."""
    group = command.add_argument_group("a folder of packed matrices instead of a file")
    group.add_argument(
        "--as", dest="folder", choices=FOLDERS, metavar="NAME",
        help=f"OUT is a folder: {', '.join(FOLDERS)}; --format then is int4-g64, int8-sym, fp8-128x128, nf4 …",
    )  # fmt: skip


def quantise(args: argparse.Namespace) -> None:
    """Write a model's folder with its matrices packed."""
    from lepton_ref.compress.folder_weights import layer_matrices, quantise_matrices, require_packable
    from lepton_ref.compress.layers import quantise_layers
    from lepton_ref.compress.quantise import effective_settings
    from lepton_ref.compress.to_folder import require_target, write_folder

    method = args.method or ("rtn" if args.calibrate is None else "gptq")
    _require_options(args, method)
    source = find(args.source)
    if source.exists() and not source.is_dir():
        raise ValueError(f"{source} is one file, which has no config.json; {args.folder} is made from a model's folder")
    require_target(args.target, args.folder, overwrite=args.overwrite)
    model = load(source)
    if args.calibrate is not None:
        _require_tokenizer(model)
    require_packable(model, args.format, args.folder)
    record: dict[str, Any] = {"method": method, "format": args.format, **effective_settings(args.format, method)}
    if args.calibrate is None:
        named = progress("quantize", wanted=not args.json)
        weights = quantise_matrices(model, args.format, method=method, progress=named)
    else:
        seen = calibration(args, model)
        record |= {**({"sequential": True} if method == "gptq" else {}), "calibration": seen.record()}
        names = set(layer_matrices(model.program))
        with steps("quantize", wanted=not args.json) as shown:
            weights = quantise_layers(seen, args.format, method=method, only=names.__contains__, progress=shown)
    written = write_folder(model, weights, args.target, format=args.folder, record=record, overwrite=args.overwrite)
    _report(args, method, written)


def _require_options(args: argparse.Namespace, method: str) -> None:
    from lepton_ref.compress.quantise import grid_of

    require_options(args)
    given = next((name for name in OF_FILES if getattr(args, name) not in (None, [])), None)
    if given is not None:
        raise ValueError(f"--{given.replace('_', '-')} is for files; with --as give --format, --method and --calibrate")
    if args.format is None:
        raise ValueError("--as packs matrices of one format; give --format, such as int4-g64, int8-sym or fp8-128x128")
    if args.threads != 1:
        raise ValueError(f"--threads {args.threads} is for files; with --as leave it out")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if method in CALIBRATED and args.calibrate is None:
        raise ValueError(f"{method} looks at what the layers are given; give a text: --calibrate TEXT_FILE")
    if method in CALIBRATED and grid_of(args.format) is None:
        raise ValueError(
            f"{method} is for integers, such as --format int4-g64; for {args.format} leave --calibrate and --method out"
        )
    if method not in CALIBRATED and args.calibrate is not None:
        raise ValueError(f"{method} looks at each matrix alone; leave --calibrate out, or take --method gptq or awq")


def _require_tokenizer(model: Model) -> None:
    try:
        _ = model.tokenizer
    except (ValueError, FileNotFoundError) as error:
        why = one_line(error)
        raise ValueError(f"{model.parts.path} has no tokenizer that reads the text of --calibrate ({why})") from error


def _report(args: argparse.Namespace, method: str, written: WrittenFolder) -> None:
    found: dict[str, Any] = {
        "folder": str(written.path),
        "packed as": written.format,
        "format": args.format,
        "method": method,
        "packed": len(written.packed),
        "dense": len(written.dense),
        "bytes": written.nbytes if args.json else human(written.nbytes),
        "bits per weight": round(written.bits_per_weight, 4),
    }
    rows = [{"module": module, "format": args.format} for module in written.packed]
    rows += [{"module": module, "format": "dense"} for module in written.dense]
    if args.json:
        print(to_json({**found, "notes": written.notes, "modules": rows}))
        return
    if args.list:
        records(rows, as_json=False)
    facts(found, as_json=False)
    for text in written.notes:
        note(f"note: {text}")
