"""What each command does: from parsed arguments to a report. Results go to standard output, notes to standard error."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lepton_ref import registry
from lepton_ref.cli_report import facts, note, records, to_json
from lepton_ref.files.npy import require_target, write_npy
from lepton_ref.interface import HostArray
from lepton_ref.numerics import Precision, get_precision
from lepton_ref.runtime import show
from lepton_ref.runtime.find import find
from lepton_ref.runtime.kv_formats import DENSE
from lepton_ref.runtime.load import load
from lepton_ref.runtime.model import Model
from lepton_ref.runtime.prompts import text_ids
from lepton_ref.runtime.sampling import require_integer
from lepton_ref.storage.show import human

KEEP: dict[str, str | bool] = {"auto": "auto", "yes": True, "no": False}
"""What `--keep-decoded` says → what `load` takes."""

LONGEST_PAGE = 8 << 20
"""Bytes of a text file that `perplexity` reads, at most."""


def one_line(error: BaseException) -> str:
    """An error's message, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _precision(args: argparse.Namespace) -> Precision:
    patterns = {}
    for override in args.override:
        pattern, equals, name = override.rpartition("=")
        if not (pattern and equals and name):
            raise ValueError(f"--override takes PATTERN=NAME, such as 'head=float64', got {override!r}")
        patterns[pattern] = name
    return get_precision(args.precision).override(patterns)


def open_model(args: argparse.Namespace) -> Model:
    """The model that a command names, under the options that all share."""
    return load(
        find(args.model),
        backend=args.backend,
        precision=_precision(args),
        keep_decoded=KEEP[args.keep_decoded],
        threads=args.threads,
        kv_cache=args.kv_cache,
        pack=args.pack,
    )


def info(args: argparse.Namespace) -> None:
    """What a model is."""
    model = open_model(args)
    found: dict[str, Any] = {
        **show.facts(model.parts), "backend": model.backend.name, "precision": model.precision.name
    }  # fmt: skip
    weights = [
        {
            "weight": name,
            "format": w.format,
            "shape": list(w.shape),
            "bytes": w.nbytes if args.json else human(w.nbytes),
        }
        for name, w in model.parts.weights.items()
    ]
    if args.json:
        facts({**found, **({"weights": weights} if args.weights else {})}, as_json=True)
        return
    facts(found, as_json=False)
    if args.weights:
        records(weights, as_json=False)


def backends(args: argparse.Namespace) -> None:
    """What can be computed on."""
    rows = []
    for name in registry.names():
        try:
            rows.append({"backend": name, "usable": True, "note": repr(registry.get(name))})
        except (ImportError, TypeError, ValueError) as error:
            rows.append({"backend": name, "usable": False, "note": one_line(error)})
    records(rows, as_json=args.json)


def logits(args: argparse.Namespace) -> None:
    """Scores of the next token."""
    require_text("the prompt", args.prompt)
    require_integer("--top", args.top, low=0, remedy="it counts lines")
    _require_out(args)
    model = open_model(args)
    if model.parts.head == "base":
        raise ValueError(f"{model.parts.architecture} gives hidden states, not logits; `lepton-ref embed` shows them")
    ids = _ids(model, args)
    cache = None if model.kv_cache == DENSE else model.new_cache(capacity=len(ids))  # of what is dense, none is needed
    wanted = model.forward([ids], cache=cache, last_only=args.out is None and model.is_causal)
    _write(args, wanted)
    last = wanted[0, -1] if wanted.ndim == 3 else wanted[0]
    if np.isnan(last).any():
        raise ValueError(f"{int(np.isnan(last).sum())} of {last.size} logits are NaN; Model.run_with_trace shows where")
    top = np.argsort(-last, kind="stable")[: args.top]
    # As text a float32 has its own digits, and not the 17 of the same number as a float64.
    shown: Callable[[Any], Any] = float if args.json else str
    rows: list[dict[str, Any]] = [{"id": int(index), "logit": shown(last[index])} for index in top]
    if args.ids is None and model.parts.head in ("causal_lm", "masked_lm"):
        known = model.tokenizer.vocab_size
        rows = [{**row, "text": model.tokenizer.decode([row["id"]]) if row["id"] < known else ""} for row in rows]
    if not args.json:
        rows = [{**row, "text": repr(row["text"])} if "text" in row else row for row in rows]
    records(rows, as_json=args.json)


def _ids(model: Model, args: argparse.Namespace) -> list[int]:
    if (args.ids is None) == (args.prompt is None):
        raise ValueError("give a prompt or --ids, one of them")
    if args.ids is None:
        return text_ids(model, args.prompt, "the prompt")
    return to_ids(model, args.ids)


def to_ids(model: Model, words: str) -> list[int]:
    """The token ids of `--ids`."""
    try:
        ids = [int(word) for word in words.split(",")]
    except ValueError as error:
        raise ValueError(f"--ids takes integers between commas, got {words!r}") from error
    vocab_size = model.config.vocab_size
    for index in ids:
        if not 0 <= index < vocab_size:
            raise ValueError(f"--ids holds {index}, outside the vocabulary of {vocab_size}; give 0 to {vocab_size - 1}")
    return ids


def require_text(name: str, text: str | None) -> None:
    """Raise ValueError for bytes that the system could not read as UTF-8: Python hands them on as lone surrogates."""
    if text is not None and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"{name} is not UTF-8; convert it")


def _require_out(args: argparse.Namespace) -> None:
    """What is wrong with --out is said before a model is read for nothing."""
    if args.out is None:
        return
    require_target(args.out)
    if args.out.exists() and not args.force:
        raise FileExistsError(f"{args.out} exists; give --force to replace it, or choose another name")


def _write(args: argparse.Namespace, array: HostArray) -> None:
    if args.out is not None:
        write_npy(args.out, array, overwrite=args.force)
        note(f"{args.out}: {array.dtype} {array.shape}")


def embed(args: argparse.Namespace) -> None:
    """One vector for each text."""
    for number, text in enumerate(args.texts, start=1):
        require_text(f"text {number}", text)
    _require_out(args)
    vectors = open_model(args).embed(args.texts, pooling=args.pooling, normalise=args.normalise, progress=not args.json)
    _write(args, vectors)
    if args.json:
        kept = {"vectors": vectors.tolist()} if args.out is None else {"out": str(args.out)}
        print(to_json({"shape": list(vectors.shape), **kept}))
    elif args.out is None:
        for vector in vectors:
            print(" ".join(map(str, vector)))


def perplexity(args: argparse.Namespace) -> None:
    """Perplexity of a text file."""
    text = page(args.file)
    found = open_model(args).perplexity(text, window=args.window, stride=args.stride, progress=not args.json)
    rows = {"perplexity": found.value, "nll": found.nll, "tokens": found.tokens}
    facts({**rows, "window": found.window, "stride": found.stride}, as_json=args.json)


def page(path: Path) -> str:
    """A text file in UTF-8."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; give a text file in UTF-8")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give a text file in UTF-8")
    size = path.stat().st_size
    if size > LONGEST_PAGE:
        raise ValueError(f"{path} has {size} bytes; cut it to at most {LONGEST_PAGE}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}; convert it") from error
    if text == "":
        raise ValueError(f"{path} is empty; give a text of at least two tokens")
    return text
