"""`lepton-ref quantize … --calibrate TEXT`: how much each column counts, measured on a text.

The text is cut into sequences of `--length` tokens; `--tokens` takes the first so many, or with `--seed` draws whole
sequences. What is measured goes on exactly as `--save-imatrix` keeps it: sums in float32, as the file holds them, so
that quantising with `--imatrix` and that file gives the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.cli_commands import one_line, page
from lepton_ref.cli_progress import steps
from lepton_ref.cli_report import note
from lepton_ref.runtime.find import find
from lepton_ref.runtime.load import load
from lepton_ref.runtime.prompts import text_ids
from lepton_ref.runtime.sampling import require_integer

if TYPE_CHECKING:
    from lepton_ref.compress.calibration import Calibration
    from lepton_ref.compress.imatrix import ImportanceMatrix
    from lepton_ref.runtime.model import Model

ONLY_WITH_CALIBRATE = ("calibrate_model", "tokens", "length", "seed", "save_imatrix")
"""Options that say how to calibrate, and say nothing without it."""


@dataclass(frozen=True)
class Measured:
    """How much each column counts.

    Attributes:
        importance: GGUF name → (columns,) float32.
        record: what it was measured on, for the manifest; None where a file was read.
        seen: the calibration itself, likewise.
    """

    importance: Mapping[str, NDArray[np.float32]]
    record: Mapping[str, Any] | None = None
    seen: Calibration | None = None


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of calibrating."""
    group = command.add_argument_group("how much each column counts")
    group.add_argument("--imatrix", type=Path, metavar="FILE", help="as a file says, llama.cpp's importance matrix")
    group.add_argument("--calibrate", type=Path, metavar="TEXT_FILE", help="as the model's inputs on this text say")
    group.add_argument("--calibrate-model", metavar="MODEL", help="the model that reads the text (default: IN)")
    group.add_argument("--tokens", type=int, metavar="N", help="how many of the text's tokens (default: all)")
    group.add_argument("--length", type=int, metavar="N", help="tokens of a sequence (default 512)")
    group.add_argument("--seed", type=int, metavar="N", help="draw the sequences (default: the first ones)")
    group.add_argument("--save-imatrix", type=Path, metavar="FILE", help="keep what was measured, in llama.cpp's form")


def require_options(args: argparse.Namespace) -> None:
    """Raise ValueError for options that contradict each other, before anything is read."""
    if args.calibrate is not None and args.imatrix is not None:
        raise ValueError("give --calibrate or --imatrix, one of them: both say how much each column counts")
    if args.calibrate is None:
        given = next((name for name in ONLY_WITH_CALIBRATE if getattr(args, name) is not None), None)
        if given is not None:
            raise ValueError(f"--{given.replace('_', '-')} says how to calibrate; give --calibrate TEXT_FILE with it")
        return
    if args.tokens is not None:
        require_integer("--tokens", args.tokens, low=1, remedy="it counts tokens of the text")
    if args.length is not None:
        require_integer("--length", args.length, low=1, remedy="it counts tokens of a sequence")
    if args.seed is not None:
        require_integer("--seed", args.seed, low=0, high=2**64 - 1, remedy="it numbers a drawing")
        if args.tokens is None or args.tokens % _length(args):
            raise ValueError(
                f"--seed draws whole sequences of {_length(args)} tokens, got --tokens {args.tokens}; give a multiple"
            )
    if args.save_imatrix is not None:
        _require_new(args.save_imatrix)
        if args.save_imatrix.resolve() == args.target.resolve():
            raise ValueError(f"--save-imatrix and OUT are both {args.target}; choose another name for one of them")


def _require_new(path: Path) -> None:
    if path.suffix != ".gguf":
        raise ValueError(f"--save-imatrix writes llama.cpp's newer form, a GGUF; end {str(path)!r} in .gguf")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; make it, or choose another place for {path.name}")
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists and may be another measurement; choose another name for --save-imatrix")


def _length(args: argparse.Namespace) -> int:
    from lepton_ref.compress.activations import LENGTH

    return LENGTH if args.length is None else int(args.length)


def require_use(formats: Collection[str], *, gptq: bool = False) -> None:
    """Raise ValueError where no format to be written looks at what is measured: measuring it would be for nothing."""
    from lepton_ref.compress.gptq_blocks import BLOCKS
    from lepton_ref.storage.encoders import WEIGHTED

    heeded, what = (BLOCKS, "GPTQ is for") if gptq else (tuple(sorted(WEIGHTED)), "heeds importance")
    if not any(name in heeded for name in formats):
        raise ValueError(
            f"no tensor becomes a format that {what}, but {', '.join(sorted(set(formats)))}; leave --calibrate out, or "
            f"choose one of {', '.join(heeded)}"
        )


def sizes(model: Model) -> dict[str, NDArray[np.float32]]:
    """GGUF name → (columns,) zeros, for each matrix that the model will be given inputs of.

    Raises:
        ValueError: a family that has no names in GGUF.
    """
    from lepton_ref.compress.calibration import gguf_names

    names = gguf_names(model).items()
    return {name: np.zeros(model.parts.weights[own].shape[-1], dtype=np.float32) for own, name in names}


def measured(args: argparse.Namespace, model: Model | None) -> Measured | None:
    """What `--imatrix` reads, or `--calibrate` measures of this model; None where neither is given."""
    from lepton_ref.compress.imatrix import read_imatrix, write_imatrix

    if args.imatrix is not None:
        return Measured(read_imatrix(args.imatrix).importance())
    if model is None:
        return None
    seen = calibration(args, model)
    matrix = as_saved(seen.imatrix(dataset=args.calibrate.name))
    if args.save_imatrix is not None:
        write_imatrix(args.save_imatrix, matrix)
        note(f"{args.save_imatrix}: importance of {len(matrix.entries)} matrices over {seen.over.tokens} tokens")
    record = seen.record()
    if args.calibrate_model is not None:
        record["model"] = {"sha256": _digests(model.parts.path)}
    return Measured(matrix.importance(), record, seen)


def _digests(path: Path) -> list[str]:
    from lepton_ref.compress.source import open_source

    return open_source(path, gguf=path.suffix == ".gguf").digests()


def as_saved(matrix: ImportanceMatrix) -> ImportanceMatrix:
    """The matrix as a file holds it, its sums rounded to float32."""
    from lepton_ref.compress.imatrix import Entry, ImportanceMatrix

    with np.errstate(over="ignore"):
        entries = {
            name: Entry(entry.squares.astype(np.float32).astype(np.float64), entry.counts)
            for name, entry in matrix.entries.items()
        }
    return ImportanceMatrix(entries, matrix.datasets, matrix.chunks, matrix.chunk_size)


def reader(args: argparse.Namespace) -> Model:
    """The model that reads the text of `--calibrate`.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: it does not load, or has no tokenizer.
    """
    name = args.source if args.calibrate_model is None else args.calibrate_model
    path = find(name)
    if not path.exists():
        raise FileNotFoundError(f"{name}: no such file or folder; give a model's folder or a .gguf file")
    try:
        model = load(path)
        _ = model.tokenizer
    except (ValueError, FileNotFoundError) as error:
        what = "the model that --calibrate runs; name another, or give --imatrix"
        if args.calibrate_model is None:
            what = "a model to calibrate; give --calibrate-model, or --imatrix"
        raise ValueError(f"{name} is not {what} ({one_line(error)})") from error
    return model


def calibration(args: argparse.Namespace, model: Model) -> Calibration:
    """Run the model over the text, with a bar on a terminal.

    Raises:
        ValueError: an empty text, or one of fewer tokens than are asked for.
    """
    from lepton_ref.compress.calibration import calibrate

    length = _length(args)
    ids = text_ids(model, page(args.calibrate), str(args.calibrate))
    if args.tokens is not None and len(ids) < args.tokens:
        raise ValueError(f"{args.calibrate} has {len(ids)} tokens, fewer than --tokens {args.tokens}; give more text")
    drawn: dict[str, int] = {}
    if args.seed is None:
        ids = ids[: args.tokens]
    else:
        ids = ids[: len(ids) // length * length]
        drawn = {"samples": args.tokens // length, "seed": args.seed}
    with steps("calibrate", wanted=not args.json) as shown:
        return calibrate(model, ids, length=length, progress=shown, **drawn)
