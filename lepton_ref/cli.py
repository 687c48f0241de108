"""The command line: `lepton-ref COMMAND MODEL …`. Results go to standard output, all else to standard error.

Exit codes: 0 done, 1 failed while running, 2 usage or bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_ref import __version__, registry
from lepton_ref.files.npy import write_npy
from lepton_ref.numerics import PRECISIONS
from lepton_ref.runtime.find import find
from lepton_ref.runtime.load import load
from lepton_ref.runtime.model import Model
from lepton_ref.runtime.show import facts

MODEL_HELP = "a folder with config.json, a .gguf file, or package:NAME for the .gguf inside an installed package"
KEEP: dict[str, str | bool] = {"auto": "auto", "yes": True, "no": False}
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
LONGEST_PAGE = 8 << 20
"""Bytes of a text file that `perplexity` reads at most."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command -> the exit code."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough; what is left in the buffer has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, ImportError) as error:
        if args.debug:
            raise
        print(f"lepton-ref: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except (MemoryError, ArithmeticError, LookupError, RuntimeError) as error:
        if args.debug:
            raise
        print(f"lepton-ref: failed: {type(error).__name__}: {_one_line(error)} (--debug shows where)", file=sys.stderr)
        return 1
    return 0


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _open(args: argparse.Namespace) -> Model:
    return load(
        find(args.model),
        backend=args.backend,
        precision=args.precision,
        keep_decoded=KEEP[args.keep_decoded],
        threads=args.threads,
    )


def _table(rows: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Names and values: JSON where asked for, a table where rich is there and someone looks, else plain lines."""
    if args.json:
        print(json.dumps(dict(rows), ensure_ascii=False))
        return
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
        except ImportError:
            pass
        else:
            table = Table(show_header=False)
            for name, value in rows.items():
                table.add_row(name, str(value))
            Console().print(table, markup=False)
            return
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


def _ids(model: Model, args: argparse.Namespace) -> list[int]:
    if (args.ids is None) == (args.prompt is None):
        raise ValueError("give a prompt or --ids, one of them")
    if args.ids is None:
        return model.tokenizer.encode(args.prompt)
    try:
        return [int(word) for word in args.ids.replace(",", " ").split()]
    except ValueError as error:
        raise ValueError(f"--ids takes integers between commas, got {args.ids!r}") from error


def _info(args: argparse.Namespace) -> None:
    model = _open(args)
    _table({**facts(model.parts), "backend": model.backend.name, "precision": model.precision.name}, args)
    if args.weights:
        for name, weight in model.parts.weights.items():
            print(f"{name}  {weight!r}")


def _backends(args: argparse.Namespace) -> None:
    rows = {}
    for name in registry.names():
        try:
            rows[name] = repr(registry.get(name))
        except (ImportError, TypeError, ValueError) as error:
            rows[name] = f"not usable: {_one_line(error)}"
    _table(rows, args)


def _logits(args: argparse.Namespace) -> None:
    model = _open(args)
    ids = _ids(model, args)
    logits = model.forward([ids], last_only=args.out is None)
    if args.out is not None:
        write_npy(args.out, logits, overwrite=args.force)
        print(f"{args.out}: {logits.dtype} {logits.shape}", file=sys.stderr)
    last = logits[0, -1] if logits.ndim == 3 else logits[0]
    top = np.argsort(-last, kind="stable")[: args.top]
    named = model.tokenizer.decode if args.ids is None else None
    rows = {str(int(i)): float(last[i]) if named is None else f"{last[i]!s}  {named([int(i)])!r}" for i in top}
    _table(rows, args)


def _embed(args: argparse.Namespace) -> None:
    vectors = _open(args).embed(args.texts, pooling=args.pooling, normalise=args.normalise, progress=not args.json)
    if args.out is not None:
        write_npy(args.out, vectors, overwrite=args.force)
        print(f"{args.out}: {vectors.dtype} {vectors.shape}", file=sys.stderr)
    elif args.json:
        print(json.dumps(vectors.tolist()))
    else:
        for vector in vectors:
            print(" ".join(map(str, vector)))


def _perplexity(args: argparse.Namespace) -> None:
    model = _open(args)
    if args.file.stat().st_size > LONGEST_PAGE:
        raise ValueError(f"{args.file} has {args.file.stat().st_size} bytes; cut it to {LONGEST_PAGE}")
    found = model.perplexity(args.file.read_text(encoding="utf-8"), window=args.window, stride=args.stride)
    rows = {"perplexity": found.value, "nll": found.nll, "tokens": found.tokens}
    _table({**rows, "window": found.window, "stride": found.stride}, args)


def _say(model: Model, prompt: str | list[int], args: argparse.Namespace) -> str:
    """Stream a continuation to standard output -> its text; the speed goes to standard error."""
    options = {name: getattr(args, name) for name in SAMPLING}
    start = time.perf_counter()
    first, pieces = start, list[str]()
    ids: list[int] = []
    for token in model.stream(prompt, max_new_tokens=args.max_tokens, stop_strings=args.stop, **options):
        first = first if ids else time.perf_counter()
        ids.append(token.id)
        pieces.append(token.text or "")
        if not args.json:
            print(pieces[-1], end="", flush=True)
    seconds = time.perf_counter() - first
    speed = (len(ids) - 1) / seconds if len(ids) > 1 and seconds > 0 else None
    text = "".join(pieces)
    if args.json:
        report = {"text": text, "ids": ids, "first_token_s": first - start, "tokens_per_s": speed}
        print(json.dumps(report, ensure_ascii=False))
        return text
    print()
    told = "" if speed is None else f", then {speed:.1f} tokens/s"
    print(f"[{len(ids)} tokens; the first after {first - start:.2f} s{told}]", file=sys.stderr)
    return text


def _run(args: argparse.Namespace) -> None:
    model = _open(args)
    prompt: str | list[int] = args.prompt
    if args.chat:
        text = model.tokenizer.apply_chat_template([{"role": "user", "content": args.prompt}])
        prompt = model.tokenizer.encode(text, add_special=False)
    elif not args.json:
        print(args.prompt, end="", flush=True)
    _say(model, prompt, args)


def _chat(args: argparse.Namespace) -> None:
    model = _open(args)
    system = [] if args.system is None else [{"role": "system", "content": args.system}]
    turns = list(system)
    print("/exit ends, /reset forgets what was said", file=sys.stderr)
    while True:
        try:
            said = input("> ")
        except EOFError:
            return
        if said.strip() == "/exit":
            return
        if said.strip() == "/reset":
            turns = list(system)
            continue
        turns.append({"role": "user", "content": said})
        ids = model.tokenizer.encode(model.tokenizer.apply_chat_template(turns), add_special=False)
        try:
            turns.append({"role": "assistant", "content": _say(model, ids, args).strip()})
        except KeyboardInterrupt:  # ends the answer, not the conversation
            print("\n[interrupted; the question is forgotten]", file=sys.stderr)
            turns.pop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lepton-ref", description="The reference for transformer inference.")
    parser.add_argument("--version", action="version", version=f"lepton-ref {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    path = "SmolLM2.gguf"
    _command(commands, "info", _info, "what a model is", f"lepton-ref info {path} --weights").add_argument(
        "--weights", action="store_true", help="every weight with its range and histogram"
    )
    run = _command(commands, "run", _run, "continue a prompt", f'lepton-ref run {path} "Once upon" --max-tokens 32')
    run.add_argument("prompt")
    run.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    chat = _command(commands, "chat", _chat, "talk, turn by turn", f"lepton-ref chat {path} --temperature 0.7")
    chat.add_argument("--system", help="what the model is told first")
    for command in (run, chat):
        _sampling(command)
    embed = _command(commands, "embed", _embed, "vectors of texts", 'lepton-ref embed MiniLM "a text" --out v.npy')
    embed.add_argument("texts", nargs="+", metavar="TEXT")
    embed.add_argument(
        "--pooling", choices=("mean", "cls", "max", "last", "pooler"), help="default: what the files say"
    )
    embed.add_argument("--normalise", action=argparse.BooleanOptionalAction, default=None, help="vectors of length 1")
    logits = _command(commands, "logits", _logits, "scores of next tokens", f'lepton-ref logits {path} "The capital"')
    logits.add_argument("prompt", nargs="?")
    logits.add_argument("--ids", help="token ids between commas, instead of a prompt")
    logits.add_argument("--top", type=int, default=10, help="how many to show (default 10)")
    for command in (embed, logits):
        command.add_argument("--out", type=Path, help="write all as .npy")
        command.add_argument("--force", action="store_true", help="replace the file of --out")
    perplexity = _command(commands, "perplexity", _perplexity, "of a text", f"lepton-ref perplexity {path} page.txt")
    perplexity.add_argument("file", type=Path)
    perplexity.add_argument("--window", type=int, help="tokens seen at once")
    perplexity.add_argument("--stride", type=int, help="tokens between windows")
    _command(commands, "backends", _backends, "what can be computed on", "lepton-ref backends", model=False)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], about: str, example: str, *, model: bool = True
) -> argparse.ArgumentParser:
    """A command with the options that all share."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about, epilog=f"example: {example}"
    )
    command.set_defaults(run=run)
    command.add_argument("--json", action="store_true", help="machine-readable output")
    command.add_argument("--debug", action="store_true", help="show where an error came from")
    if model:
        command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
        command.add_argument("--backend", default="numpy", help="see `lepton-ref backends` (default numpy)")
        command.add_argument("--precision", default="reference", help=f"one of {', '.join(PRECISIONS)}")
        command.add_argument("--threads", type=int, help="threads of BLAS")
        command.add_argument("--keep-decoded", choices=tuple(KEEP), default="auto", help="weights stay decoded")
    return command


def _sampling(command: argparse.ArgumentParser) -> None:
    command.add_argument("--max-tokens", type=int, default=128, metavar="N", help="at most (default 128)")
    command.add_argument("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest token")
    command.add_argument("--top-k", type=int, metavar="K")
    command.add_argument("--top-p", type=float, metavar="P")
    command.add_argument("--min-p", type=float, metavar="P")
    command.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")


if __name__ == "__main__":
    sys.exit(main())
