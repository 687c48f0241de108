"""What each command does: from parsed arguments to a report. Results go to standard output, notes to standard error."""

from __future__ import annotations

import argparse
import sys
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
from lepton_ref.runtime.chat import Conversation
from lepton_ref.runtime.find import find
from lepton_ref.runtime.generation import Generation, Token
from lepton_ref.runtime.kv_formats import DENSE
from lepton_ref.runtime.load import load
from lepton_ref.runtime.model import Model
from lepton_ref.runtime.prompts import text_ids
from lepton_ref.runtime.sampling import require_integer
from lepton_ref.storage.show import human

KEEP: dict[str, str | bool] = {"auto": "auto", "yes": True, "no": False}
"""What `--keep-decoded` says → what `load` takes."""

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")

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


def _open(args: argparse.Namespace) -> Model:
    return load(
        find(args.model),
        backend=args.backend,
        precision=_precision(args),
        keep_decoded=KEEP[args.keep_decoded],
        threads=args.threads,
        kv_cache=args.kv_cache,
    )


def info(args: argparse.Namespace) -> None:
    """What a model is."""
    model = _open(args)
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
    _require_text("the prompt", args.prompt)
    require_integer("--top", args.top, low=0, remedy="it counts lines")
    _require_out(args)
    model = _open(args)
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


def _require_text(name: str, text: str | None) -> None:
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
        _require_text(f"text {number}", text)
    _require_out(args)
    vectors = _open(args).embed(args.texts, pooling=args.pooling, normalise=args.normalise, progress=not args.json)
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
    found = _open(args).perplexity(text, window=args.window, stride=args.stride, progress=not args.json)
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


def run(args: argparse.Namespace) -> None:
    """Continue a prompt."""
    _require_text("the prompt", args.prompt)
    options = _options(args)
    model = _open(args)
    prompt: str | list[int] = args.prompt
    if args.chat:
        text = model.tokenizer.apply_chat_template([{"role": "user", "content": args.prompt}])
        prompt = model.tokenizer.encode(text, add_special=False)
    writer = _Printer("" if args.chat else args.prompt, quiet=args.json)
    found = model.generate(prompt, on_token=writer, progress=not args.json, **options)
    assert isinstance(found, Generation), "one prompt has one continuation"
    _told(found, args)


class _Printer:
    """Shows tokens as they come, the prompt before the first: not earlier, for a bar would take its line."""

    def __init__(self, before: str, *, quiet: bool) -> None:
        self.before = before
        self.quiet = quiet

    def __call__(self, token: Token) -> None:
        if not self.quiet:
            print(self.before + (token.text or ""), end="", flush=True)
        self.before = ""


def _options(args: argparse.Namespace) -> dict[str, Any]:
    require_integer("--max-tokens", args.max_tokens, low=1, remedy="it counts new tokens, without the prompt's")
    for stop in args.stop:
        _require_text("the text of --stop", stop)
    sampling = {name: getattr(args, name) for name in SAMPLING}
    return {**sampling, "max_new_tokens": args.max_tokens, "stop_strings": args.stop}


def _told(found: Generation, args: argparse.Namespace) -> None:
    """What was generated, for programs; how fast, for people."""
    if args.json:
        names = ("text", "ids", "logprobs", "finish_reason", "prefill_s", "decode_s", "tokens_per_second")
        report = {name: getattr(found, name) for name in names}
        print(to_json({**report, "prompt_tokens": len(found.prompt_ids)}), flush=True)
        return
    print(flush=True)
    speed = found.tokens_per_second
    note(
        f"[{len(found.prompt_ids)} tokens read in {found.prefill_s:.2f} s, {len(found)} written"
        + ("" if speed is None else f" at {speed:.1f} tokens/s")
        + f"; ended by {found.finish_reason}]"
    )


def chat(args: argparse.Namespace) -> None:
    """Talk, turn by turn."""
    _require_text("the text of --system", args.system)
    options = _options(args)
    talk = Conversation(_open(args), system=args.system, progress=not args.json, **options)
    looked_at = sys.stdin.isatty()
    if looked_at:
        note("/exit ends, /reset forgets what was said, Ctrl-C ends an answer")
    while True:
        try:
            said = input("> " if looked_at else "")
        except EOFError:
            return
        if said.strip() == "/exit":
            return
        if said.strip() == "/reset":
            talk.reset()
            note("[what was said is forgotten]")
        elif said.strip() != "":
            _answer(talk, said, args)


def _answer(talk: Conversation, said: str, args: argparse.Namespace) -> None:
    try:
        _told(talk.ask(said, on_token=_Printer("", quiet=args.json)), args)
    except KeyboardInterrupt:  # ends the answer, not the conversation
        if not args.json:
            print(flush=True)
        note("[interrupted; the question is forgotten]")
    except ValueError as error:  # such as a question that does not fit
        if not sys.stdin.isatty():
            raise
        note(f"[{one_line(error)}; the question is forgotten]")
