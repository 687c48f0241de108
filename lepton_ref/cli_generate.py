"""What generates text: `run` and `chat`. The text goes to standard output, how fast it came to standard error."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lepton_ref.cli_commands import one_line, open_model, require_text
from lepton_ref.cli_report import note, to_json
from lepton_ref.files.npy import require_target
from lepton_ref.runtime.chat import Conversation
from lepton_ref.runtime.generation import Generation, Token
from lepton_ref.runtime.prompt_cache import prompt_cache
from lepton_ref.runtime.prompts import text_ids
from lepton_ref.runtime.sampling import require_integer

OPTIONS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "speculate")
"""Arguments of the command that `generate` takes by the same name."""


def add_options(command: argparse.ArgumentParser) -> None:
    """How tokens are chosen."""
    group = command.add_argument_group("generation")
    group.add_argument("--max-tokens", type=int, default=128, metavar="N", help="at most (default 128)")
    group.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0, the default: the likeliest")
    group.add_argument("--top-k", type=int, metavar="K", help="among the k likeliest")
    group.add_argument("--top-p", type=float, metavar="P", help="among the fewest that sum to p")
    group.add_argument("--min-p", type=float, metavar="P", help="among those at least p times as likely as the first")
    group.add_argument("--repetition-penalty", type=float, default=1.0, metavar="R", help="above 1: repeat less")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of all draws (default 0)")
    group.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    speculate = "guess up to N tokens at a time from what came before; the same text, sooner where it repeats itself"
    group.add_argument("--speculate", type=int, default=0, metavar="N", help=speculate)


def add_prompt_cache(command: argparse.ArgumentParser) -> None:
    """What is kept of a prompt."""
    about = "keep keys and values of the prompt there, and read no part of a prompt that is there already"
    command.add_argument("--prompt-cache", type=Path, metavar="FILE", help=about)
    command.add_argument("--force", action="store_true", help="replace the file of --prompt-cache")


def run(args: argparse.Namespace) -> None:
    """Continue a prompt."""
    require_text("the prompt", args.prompt)
    options = {**_options(args), "progress": not args.json}
    if args.prompt_cache is not None:
        require_target(args.prompt_cache)
    model = open_model(args)
    prompt: str | list[int] = args.prompt
    if args.chat:
        text = model.tokenizer.apply_chat_template([{"role": "user", "content": args.prompt}])
        prompt = model.tokenizer.encode(text, add_special=False)
    if args.prompt_cache is not None:
        prompt = text_ids(model, prompt, "the prompt") if isinstance(prompt, str) else prompt
        cache, kept = prompt_cache(model, prompt, args.prompt_cache, overwrite=args.force, progress=not args.json)
        note(f"[{args.prompt_cache}: {kept} of the prompt's {len(prompt)} tokens were there]")
        options |= {"cache": cache, "reuse": True}
    writer = _Printer("" if args.chat else args.prompt, quiet=args.json)
    found = model.generate(prompt, on_token=writer, **options)
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
        require_text("the text of --stop", stop)
    require_integer("--speculate", args.speculate, low=0, remedy="it counts guessed tokens, and 0 guesses none")
    sampling = {name: getattr(args, name) for name in OPTIONS}
    return {**sampling, "max_new_tokens": args.max_tokens, "stop_strings": args.stop}


def _told(found: Generation, args: argparse.Namespace) -> None:
    """What was generated, for programs; how fast, for people."""
    if args.json:
        names: tuple[str, ...] = (
            "text",
            "ids",
            "logprobs",
            "finish_reason",
            "prefill_s",
            "decode_s",
            "tokens_per_second",
        )
        names += ("proposed", "accepted") if args.speculate > 0 else ()
        report = {name: getattr(found, name) for name in names}
        print(to_json({**report, "prompt_tokens": len(found.prompt_ids)}), flush=True)
        return
    print(flush=True)
    speed = found.tokens_per_second
    note(
        f"[{len(found.prompt_ids)} tokens read in {found.prefill_s:.2f} s, {len(found)} written"
        + ("" if speed is None else f" at {speed:.1f} tokens/s")
        + (f"; {found.accepted} of {found.proposed} guesses right" if args.speculate > 0 else "")
        + f"; ended by {found.finish_reason}]"
    )


def chat(args: argparse.Namespace) -> None:
    """Talk, turn by turn."""
    require_text("the text of --system", args.system)
    options = _options(args)
    talk = Conversation(open_model(args), system=args.system, progress=not args.json, **options)
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
