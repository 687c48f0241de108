"""One element of a stored tensor, from its bytes to its value: bytes → fields → bits → formula → value, rounded once.

The real value comes from the format's formula over the bits that its `read` names, in fractions; the float32 is what
`decode` gives. That the second is the first, rounded once, is checked each time and said.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from html import escape
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lepton_ref.audit.formula import evaluate, substitute, written
from lepton_ref.files import TensorFile
from lepton_ref.interface import HostArray
from lepton_ref.plain.formats import round_to
from lepton_ref.storage import DENSE_FORMATS, BlockQuantised, Dense, RowView, Weight
from lepton_ref.storage.layout import Bits, Field, Part, part

DIGITS = 40
"""Significant digits of an exact value that are shown, at most."""

LAYOUTS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"F64": (11, 52), "F32": (8, 23), "F16": (5, 10), "BF16": (8, 7)}
)
"""Dense format → bits of its exponent and of its fraction."""


@runtime_checkable
class Readable(Protocol):
    """A storage class that says where an element lies: packed integers, scaled floats.

    Attributes:
        formula: the value in terms of the parts.
        tensors: a part → the end of the name of the tensor whose bytes hold it.
    """

    formula: str
    tensors: Mapping[str, str]

    def read(self, row: int, column: int, /) -> tuple[Part, ...]:
        """The parts of one element."""


@dataclass(frozen=True)
class Explanation:
    """One element.

    Attributes:
        tensor: its tensor's name.
        format: the storage format.
        shape: the tensor's.
        row: which row, leading axes counted through.
        column: which number of the row.
        path: the file.
        offset: the block's first byte in the file; None where it lies in no file or in several places.
        block: the bytes of the block or of the number; empty where it lies in several places.
        element: which element of the block.
        fields: the block's fields.
        parts: what the formula is about.
        formula: the value in terms of the parts.
        exact: the real value; None where it is no finite number.
        value: what `decode` gives: float32, of F64 float64.
        homes: (part, end of the name of the tensor whose bytes hold it) where that is not the block.
    """

    tensor: str
    format: str
    shape: tuple[int, ...]
    row: int
    column: int
    path: str
    offset: int | None
    block: bytes
    element: int
    fields: tuple[Field, ...]
    parts: tuple[Part, ...]
    formula: str
    exact: Fraction | None
    value: float
    homes: tuple[tuple[str, str], ...] = ()

    @property
    def substituted(self) -> str:
        """The formula with numbers."""
        return substitute(self.formula, _values(self.parts))

    @property
    def agrees(self) -> bool:
        """Whether the value is the exact one, rounded once: to float32, of F64 not at all."""
        if self.exact is None:
            return not math.isfinite(self.value)
        if self.format == "F64":
            return self.exact == Fraction(self.value)
        return round_to(self.exact, "fp32") == self.value

    def lines(self) -> list[tuple[str, str]]:
        """(heading, text) of each line."""
        found = [("element", f"{self.tensor} [{self.row}, {self.column}] of {self.shape}, {self.format}")]
        found += [("file", self.path)]
        if self.offset is not None:
            end = self.offset + len(self.block) - 1
            found += [("bytes", f"{self.offset} to {end}: {len(self.block)} bytes, of which element {self.element}")]
        seen = {bits.byte for one in self.parts for bits in one.where}
        for field in self.fields:
            inside = range(field.at, field.at + field.nbytes)
            where = f"+{field.at}" if field.nbytes == 1 else f"+{field.at} to +{inside.stop - 1}"
            used = " ".join(f"[{at}]={self.block[at]:02x}" for at in inside if at in seen)
            found.append(("field", f"{field.name}: {where}, {field.what}" + (f"; {used}" if used else "")))
        found += [("bits", _bits(one, dict(self.homes).get(one.name, ""))) for one in self.parts]
        found += [("formula", f"{self.formula} = {self.substituted}"), ("exact", exact_text(self.exact))]
        kind = "float64" if self.format == "F64" else "float32"
        found.append((kind, f"{_shown(self.value, kind)} ({_hex(self.value, kind)})"))
        if not self.agrees:
            found.append(("WRONG", f"decode gives {self.value!r}, which is not the exact value rounded once"))
        return found

    def __str__(self) -> str:
        return "\n".join(f"{heading:<8} {text}" for heading, text in self.lines())

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{escape(a)}</th><td><code>{escape(b)}</code></td></tr>" for a, b in self.lines())
        return f"<table>{''.join(rows)}</table>"


def explain(source: TensorFile | Weight, tensor: str, row: int, column: int, /) -> Explanation:
    """Explain one element of a tensor of a file, or of a weight in memory.

    Args:
        source: an opened file, or a weight.
        tensor: its name in the file; of a weight, what to call it.
        row: which row; a vector has row 0, more than two axes are counted through.
        column: which number of the row.

    Raises:
        ValueError: no such tensor (the message has the nearest names), a place outside of it, or a storage class that
            does not say where its elements lie.
    """
    if isinstance(source, Weight):
        weight, path = source, "in memory"
    else:
        weight, path = _find(source, tensor), str(source.path)
    flat, columns = math.prod(weight.shape[:-1]), weight.shape[-1]
    for what, at, count in (("row", row, flat), ("column", column, columns)):
        if type(at) is not int or not 0 <= at < count:
            raise ValueError(f"{what} {at!r} is outside of {tensor} {weight.shape}; give 0 to {count - 1}")
    base: Weight = weight
    line = row
    while isinstance(base, RowView):
        line = int(base.index[line])
        base = base.base
    where: dict[str, Any] = {
        "tensor": tensor,
        "format": base.format,
        "shape": weight.shape,
        "row": row,
        "column": column,
        "path": path,
    }
    if isinstance(base, Dense):
        return _dense(base, line, column, where)
    if isinstance(base, BlockQuantised) and base.block.read is not None:
        return _block(base, line, column, where)
    if isinstance(base, Readable):
        parts = base.read(line, column)
        value = float(base.rows(line, line + 1)[0, column])
        exact = evaluate(base.formula, _values(parts))
        return Explanation(
            **where, offset=None, block=b"", element=column, fields=(), parts=parts, formula=base.formula,
            exact=exact, value=value, homes=tuple(base.tensors.items()),
        )  # fmt: skip
    raise ValueError(f"{tensor} is {base.format} ({type(base).__name__}), which does not say where its elements lie")


def _find(file: TensorFile, tensor: str) -> Weight:
    if tensor in file.tensors:
        return file.tensors[tensor]
    from difflib import get_close_matches

    names = list(file.tensors)
    near = get_close_matches(tensor, names, n=3, cutoff=0.0)
    raise ValueError(f"{file.path} has no tensor {tensor!r}; near: {', '.join(near)}, of {len(names)}")


def _block(weight: BlockQuantised, row: int, column: int, where: dict[str, Any]) -> Explanation:
    format_ = weight.block
    assert format_.read is not None, "asked before"
    number, element = divmod(column, format_.length)
    lines = weight.raw.reshape(-1, weight.raw.shape[-1])
    raw = lines[row, number * format_.nbytes : (number + 1) * format_.nbytes]
    block = raw.tobytes()
    parts = format_.read(block, element)
    return Explanation(
        **where, offset=file_offset(raw), block=block, element=element, fields=format_.fields, parts=parts,
        formula=format_.formula, exact=evaluate(format_.formula, _values(parts)),
        value=float(format_.values(raw)[element]),
    )  # fmt: skip


def _dense(weight: Dense, row: int, column: int, where: dict[str, Any]) -> Explanation:
    lines = weight.array.reshape(-1, weight.shape[-1])
    number = lines[row, column : column + 1]
    raw = number.astype(DENSE_FORMATS[weight.format]).tobytes()
    exponent_bits, fraction_bits = LAYOUTS[weight.format]
    fraction = part(raw, "f", _span(0, fraction_bits))
    exponent = part(raw, "e", _span(fraction_bits, exponent_bits))
    sign = part(raw, "s", _span(fraction_bits + exponent_bits, 1))
    bias = (1 << exponent_bits - 1) - 1
    least = exponent.code == 0
    formula = f"(−1)^s·2^({1 - bias})·(f/2^{fraction_bits})".replace("-", "−")
    if not least:
        formula = f"(−1)^s·2^(e − {bias})·(1 + f/2^{fraction_bits})"
    parts = (sign, exponent, fraction)
    special = exponent.code == (1 << exponent_bits) - 1
    if special:
        formula = "(−1)^s·∞" if fraction.code == 0 else "NaN"
    values = _values(parts)
    field = Field("number", 0, len(raw), f"1 bit sign, {exponent_bits} exponent, {fraction_bits} fraction")
    return Explanation(
        **where, offset=file_offset(number), block=raw, element=0, fields=(field,), parts=parts,
        formula=formula, exact=None if special else evaluate(formula, values),
        value=float(Dense(number, format=weight.format).decode()[0]),
    )  # fmt: skip


def _values(parts: tuple[Part, ...]) -> dict[str, float]:
    return {one.name: one.value for one in parts}


def _span(low: int, width: int) -> tuple[Bits, ...]:
    """Bits `low` to `low + width` of a little-endian number, byte by byte."""
    found = []
    while width:
        here = min(width, 8 - low % 8)
        found.append(Bits(low // 8, low % 8, here))
        low, width = low + here, width - here
    return tuple(found)


def file_offset(array: HostArray) -> int | None:
    """Where in its file a view of a memory map begins; None for an array that is no such view."""
    root: Any = array
    while isinstance(root, np.ndarray):
        root = root.base
    if isinstance(root, memoryview):
        root = root.obj
    if not isinstance(root, mmap.mmap):
        return None
    start = np.frombuffer(root, dtype=np.uint8).__array_interface__["data"][0]
    return int(array.__array_interface__["data"][0]) - int(start)


def _bits(part: Part, home: str) -> str:
    width = sum(bits.width for bits in part.where)
    where = ", ".join(
        f"[{b.byte}]" if b.width == 8 else f"[{b.byte}] bit{'s' if b.width > 1 else ''} "
        + (f"{b.low}" if b.width == 1 else f"{b.low}…{b.low + b.width - 1}")
        for b in part.where
    )  # fmt: skip
    value = "" if part.value == part.code else f" → {written(part.value)}"
    return f"{part.name} = {part.code:0{width}b} = {part.code}{value}, of {where}" + (f" of {home}" if home else "")


def exact_text(value: Fraction | None) -> str:
    """A real number in full: as a fraction, and as a decimal, cut with "…" where it is longer than `DIGITS`."""
    if value is None:
        return "no finite number"
    with localcontext() as context:
        context.prec = 1200  # any product of the formats' numbers is a dyadic fraction of fewer digits
        decimal = (Decimal(value.numerator) / Decimal(value.denominator)).normalize()
        digits = len(decimal.as_tuple().digits)
        context.prec = DIGITS
        text = str(decimal if digits <= DIGITS else +decimal) + ("" if digits <= DIGITS else "…")
    if value.denominator == 1 and digits <= DIGITS:
        return str(value.numerator)
    power = value.denominator.bit_length() - 1
    below = f"2^{power}" if value.denominator == 1 << power else str(value.denominator)
    return f"{value.numerator}/{below} = {text}"


def _shown(value: float, kind: str) -> str:
    return str(np.float32(value)) if kind == "float32" else repr(value)


def _hex(value: float, kind: str) -> str:
    array = np.array([value], dtype=">f4" if kind == "float32" else ">f8")
    return "0x" + array.tobytes().hex()
