"""`lepton-ref compare A B`: two models' weights, and with a text what their layers give and what they predict.

B may be a .npy file of any program's logits at the same tokens: (tokens, vocabulary), windows one after the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_ref.cli_commands import page, to_ids
from lepton_ref.cli_progress import progress
from lepton_ref.cli_report import facts, records, to_json
from lepton_ref.runtime.find import find
from lepton_ref.runtime.kv_formats import DENSE
from lepton_ref.runtime.load import load
from lepton_ref.runtime.prompts import text_ids

if TYPE_CHECKING:
    from lepton_ref.audit.compare import Difference, Predictions
    from lepton_ref.interface import HostArray
    from lepton_ref.runtime.model import Model


def compare(args: argparse.Namespace) -> None:
    """Two models side by side."""
    from lepton_ref.audit.compare import by_layer, compare_weights
    from lepton_ref.audit.open_file import open_file

    if args.text is not None and args.ids is not None:
        raise ValueError("give --text or --ids, one of them")
    text = None if args.text is None else page(args.text)
    with_text = text is not None or args.ids is not None
    if args.b.endswith(".npy"):
        _logits(args, text)
        return
    paths = [find(args.a), find(args.b)]
    if args.kv_cache != DENSE and not with_text:
        raise ValueError(f"--kv-cache {args.kv_cache} changes outputs, not weights; give --text or --ids with it")
    shown = progress("weights", wanted=not args.json)
    models: list[Model] = []
    if with_text or paths[0].is_dir() != paths[1].is_dir():  # a folder and a GGUF name their tensors differently
        models = [
            load(path, backend=args.backend, precision=args.precision, threads=args.threads, kv_cache=kept)
            for path, kept in zip(paths, (DENSE, args.kv_cache), strict=True)
        ]
        weights = compare_weights(models[0].parts.weights, models[1].parts.weights, progress=shown)
    else:
        files = [open_file(path) for path in paths]
        weights = compare_weights(files[0].tensors, files[1].tensors, progress=shown)
    report: dict[str, Any] = {"weights": _rows(weights, args), "layers": _rows(by_layer(weights), args)}
    if with_text:
        ids = text_ids(models[0], text, "the text") if text is not None else to_ids(models[0], args.ids)
        report |= _predictions(models, ids, args)
    if args.json:
        print(to_json(report))
        return
    for title, rows in report.items():
        print(f"{title}:")
        records(rows, as_json=False) if isinstance(rows, list) else facts(rows, as_json=False)
        print()


def _logits(args: argparse.Namespace, text: str | None) -> None:
    """A model beside the logits that another program wrote."""
    from lepton_ref.audit.logits import compare_logits

    if text is None and args.ids is None:
        raise ValueError(f"{args.b} holds logits; give --text or --ids, the tokens that they are of")
    if args.kv_cache != DENSE:
        raise ValueError(f"--kv-cache is of B's run, and {args.b} is no model; leave it out")
    if args.window < 1:
        raise ValueError(f"window is {args.window}; give at least 1 token")
    theirs = _read_logits(Path(args.b))
    model = load(find(args.a), backend=args.backend, precision=args.precision, threads=args.threads)
    ids = text_ids(model, text, "the text") if text is not None else to_ids(model, args.ids)
    if theirs.shape != (len(ids), model.config.vocab_size):
        raise ValueError(
            f"{args.b} has logits of shape {theirs.shape}, the text makes {(len(ids), model.config.vocab_size)}; "
            "give float32 (tokens, vocabulary) at these tokens, which `lepton-ref logits --json` shows"
        )
    windows = {f"tokens {at}": slice(at, at + args.window) for at in range(0, len(ids), args.window)}
    shown = progress("outputs", wanted=not args.json)
    ours = (np.asarray(model.forward([ids[windows[name]]])[0]) for name in shown([*windows]))
    rows = windows.values()
    found = compare_logits(ours, (theirs[each] for each in rows), (ids[each] for each in rows), seed=args.seed)
    report: dict[str, Any] = {
        "KL(a‖b), nats": found.kl.value,
        "its 95 % interval": [found.kl.low, found.kl.high],
        "largest KL": found.kl_largest,
        "top-1 agreement": found.agreement,
        "rms difference of logits": found.rms,
        "largest difference": found.largest,
    }
    scores = {"perplexity of a": found.perplexity_a, "perplexity of b": found.perplexity_b, "b/a": found.ratio}
    for name, one in scores.items():
        if one is not None:
            report |= {name: one.value, f"interval of {name}": [one.low, one.high]}
    report["protocol"] = (
        f"windows of {args.window} tokens that do not overlap, each from position 0; {found.positions} positions; "
        f"intervals: resampled positions, seed {args.seed}"
    )
    facts(_shown(report, args), as_json=args.json)


def _read_logits(path: Path) -> HostArray:
    """A .npy file of floats, memory-mapped."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: no .npy file that can be read ({error}); write it with numpy.save") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
        raise ValueError(f"{path}: holds {getattr(found, 'dtype', type(found).__name__)}, not floats; give logits")
    return found


def _rows(found: Sequence[Difference], args: argparse.Namespace) -> list[dict[str, Any]]:
    return [_shown(one.row(), args) for one in found]


def _shown(row: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """As it is in JSON; four digits of each figure in the terminal."""
    if args.json:
        return row
    return {key: _digits(value) for key, value in row.items()}


def _digits(value: Any) -> Any:
    if isinstance(value, list):
        return " – ".join(map(_digits, value))
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else value


def _predictions(models: list[Model], ids: list[int], args: argparse.Namespace) -> dict[str, Any]:
    from lepton_ref.audit.compare import compare_predictions

    found: Predictions = compare_predictions(
        models[0],
        models[1],
        ids,
        window=args.window,
        seed=args.seed,
        progress=progress("outputs", wanted=not args.json),
    )
    logits = {
        **({} if args.kv_cache == DENSE else {"cache of b": args.kv_cache}),
        "KL(a‖b), nats": found.kl,
        "95 % interval": [found.kl_low, found.kl_high],
        "largest KL": found.kl_largest,
        "top-1 agreement": found.agreement,
        "positions": found.positions,
        "protocol": found.protocol,
    }
    report: dict[str, Any] = {"outputs of layers": _rows(found.layers, args), "logits": _shown(logits, args)}
    if len(ids) < 2:
        return report
    window = max(2, args.window)
    stride = max(1, window // 2)
    scores = [model.perplexity(ids, window=window, stride=stride, progress=not args.json) for model in models]
    how = (
        f"windows of {scores[0].window} tokens every {scores[0].stride}, each token but the first of the text scored "
        f"once, {scores[0].tokens} in all, given what its first window shows before it"
    )
    values = {"a": scores[0].value, "b": scores[1].value, "b/a": scores[1].value / scores[0].value}
    return {**report, "perplexity": _shown({**values, "protocol": how}, args)}
