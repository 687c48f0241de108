"""Write docs/normative-table.md from the code: every op, what its operands are, precisions, machines and constants.

    python scripts/normative_table.py            write the page
    python scripts/normative_table.py --check    say whether it is what the code gives; exit 1 where it is not

What stands there comes from `lepton_ref.ops.normative`, from the docstrings of the ops' modules, and from the records
of `FORMATS`, `PRECISIONS` and `MACHINES`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lepton_ref import ops
from lepton_ref.models import constants
from lepton_ref.numerics import PRECISIONS, Precision
from lepton_ref.ops.normative import NORMS, Norm
from lepton_ref.plain.formats import FORMATS, CodebookFormat, FloatFormat, Format
from lepton_ref.plain.machines import MACHINES, Sums, TensorCore

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "normative-table.md"

HEAD = """# The normative table

<!-- written by scripts/normative_table.py: change the code, then `make docs` -->

What each op is: a function from real numbers to real numbers, whose exact value at the op's inputs is rounded once. How
it is computed does not matter, and is not said here. The same in code, on plain Python numbers, is `lepton_ref.plain`;
[Rounding once](round-once.md) says why it can be kept to. Where this table and `lepton_ref.plain` differ, one of them
has a bug.

Rules for all ops:

- An input is a real number: an activation is the float it is, a weight the float32 that decoding gives (or the float64
  of an F64 tensor), ε, θ, scales and caps the number that is stored.
- Results are rounded to the activations' format of the precision, to nearest, ties to even. Overflow goes to infinity,
  subnormals are kept, and intermediate values neither overflow nor underflow.
- NaN and infinities follow the exact definition extended by IEEE 754's rules. A NaN has no sign and no payload.
- A sum that is exactly zero is −0 if every term has a minus sign, otherwise +0, in any order. A product of zero has the
  product of the signs.
- What is masked takes no part.
- Equality with a midpoint is decided by exact arithmetic or by a theorem, never by digits. Where no theorem is known,
  2000 decimal digits are tried; then `UndecidedError` is raised, and no bit is guessed.
"""

OPERAND_PAGES = ("lepton_ref.numerics.operands", "lepton_ref.storage.encoded", "lepton_ref.plain.ggml")
CONSTANTS = (constants.root, constants.inverse_root, constants.yarn_scale, ops.frequencies, ops.attention_factor)
"""What is computed once from a config, and rounded to float64."""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, summary(), *(section(name, norm) for name, norm in NORMS.items()), operands(), precisions(),
                      machines(), formats(), other_constants()])  # fmt: skip


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown, a bar in a cell escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def summary() -> str:
    """Every op and its function, with a link to its section."""
    rows = [(f"[{name}](#{name})", norm.function) for name, norm in NORMS.items()]
    return "## The ops\n\n" + table(["op", "function"], rows)


def section(name: str, norm: Norm) -> str:
    """One op."""
    signature = _signature(name, norm.page)
    lines = [f"### {name}\n", *([f"`{signature}`\n"] if signature else [])]
    said = [
        ("inputs", norm.inputs),
        ("function", norm.function),
        ("rounded", norm.rounded),
        ("edges", norm.edges),
        ("ties", norm.ties),
    ]
    lines.append(table(["", ""], [(f"**{what}**", text) for what, text in said]))
    if norm.examples:
        lines.append("Examples, from `lepton_ref.plain.ops`, rounded to fp32:\n")
        lines.append("\n".join(["```text", *(f"{call}  ->  {values}" for call, values in norm.examples), "```\n"]))
    return "\n".join([*lines, _source(norm.page)])


def _signature(name: str, module: str) -> str | None:
    """The axes in and out, and what comes out: line 1 of a public op's docstring."""
    function = getattr(importlib.import_module(module), name, None)
    return None if function is None or name not in ops.__all__ else (inspect.getdoc(function) or "").splitlines()[0]


def _source(module: str) -> str:
    """A module's docstring: formula, bound and source."""
    text = inspect.getdoc(importlib.import_module(module)) or ""
    path = module.replace(".", "/") + ".py"
    return f"<details><summary>Formula, bound and source: {path}</summary>\n\n```text\n{text}\n```\n\n</details>\n"


def operands() -> str:
    """What linear layers multiply where that is not what is stored."""
    text = "What w8a8, w4a8, fp8 and ggml make of activations and of weights, before a linear layer multiplies them.\n"
    return "\n".join(["## Operands\n", text, *(_source(module) for module in OPERAND_PAGES)])


def precisions() -> str:
    """Every precision that is no machine model, and what its fields mean."""
    rows = [
        (
            f"`{name}`",
            how.activations,
            how.operands,
            "once, proven" if how.proven else f"no proof, sums in {how.accumulate}",
        )
        for name, how in PRECISIONS.items()
        if how.machine is None
    ]
    return "\n".join(
        [
            "## Precisions\n",
            "By `lepton_ref.load(precision=…)` and `--precision`; `Precision.override` and `--override` give ops whose "
            "names match a pattern another one.\n",
            table(["precision", "activations", "operands of linear layers", "rounding"], rows),
            _fields(Precision),
        ]
    )


def machines() -> str:
    """Every machine model."""
    sums = [m for m in MACHINES.values() if isinstance(m, Sums)]
    cores = [m for m in MACHINES.values() if isinstance(m, TensorCore)]
    yes = {True: "yes", False: ""}
    return "\n".join(
        [
            "## Machine models\n",
            "Each is a precision of the same name: linear layers and attention's two products are the machine's; every "
            "other op, and each step of attention between them, is rounded once.\n",
            table(
                ["machine", "activations", "inputs", "accumulate", "order", "fused", "flush to zero", "mode"],
                [
                    (f"`{m.name}`", PRECISIONS[m.name].activations, m.inputs, m.accumulate, m.order, yes[m.fused],
                     yes[m.flush_to_zero], m.mode)
                    for m in sums
                ],
            ),
            _fields(Sums),
            table(
                ["tensor core", "activations", "inputs", "products a step", "fraction bits", "result", "kept bits",
                 "least exponent"],
                [
                    (f"`{m.name}`", PRECISIONS[m.name].activations, m.inputs, m.products, m.fraction_bits, m.result,
                     m.kept_bits, m.least_exponent)
                    for m in cores
                ],
            ),
            _fields(TensorCore),
            _source("lepton_ref.ops.attention_otherwise"),
        ]
    )  # fmt: skip


def formats() -> str:
    """Every number format."""
    columns = ["format", "bits", "significand bits", "least exponent", "largest", "least above 0", "infinities", "NaN"]
    text = "Activations are fp32, bf16, fp16 or fp64; the others are formats of weights, operands and machines.\n"
    return "\n".join(["## Number formats\n", text, table(columns, map(_format, FORMATS.values()))])


def _format(form: Format) -> list[object]:
    if isinstance(form, FloatFormat):
        codes = {"ieee": "yes", "all_ones": "all bits below the sign", "negative_zero": "the code of −0", "none": ""}
        infinities = "yes" if form.infinities else ""
        return [form.name, form.bits, form.precision, form.emin, form.largest, form.least, infinities, codes[form.nans]]
    if isinstance(form, CodebookFormat):
        return [form.name, (len(form.values) - 1).bit_length(), "", "", max(form.values),
                min(value for value in form.values if value > 0), "", ""]  # fmt: skip
    return [form.name, form.bits, "", "", form.largest, form.least, "", ""]


def _fields(record: type) -> str:
    """A record's docstring."""
    return f"<details><summary>{record.__name__}</summary>\n\n```text\n{inspect.getdoc(record)}\n```\n\n</details>\n"


def other_constants() -> str:
    """Numbers that a family's page computes from a config."""

    def row(function: Callable[..., object]) -> tuple[str, str]:
        return f"`{function.__module__}.{function.__name__}`", (inspect.getdoc(function) or "").splitlines()[0]

    text = (
        "A constant in a program's op list (1/√K, √D, yarn's factor) is a float64 number: the real number of the "
        "family's formula, rounded once, whatever the C library's power or logarithm would give. To the op it is an "
        "input.\n"
    )
    return "\n".join(["## Constants\n", text, table(["function", "value"], map(row, CONSTANTS))])


def main() -> int:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where the page is not the code's")
    if parser.parse_args().check:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        print("docs/normative-table.md is what the code gives" if same else "docs/normative-table.md: run `make docs`")
        return int(not same)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
