"""A whole forward pass in plain Python, one sequence at a time: what a model is, read as mathematics.

A model is a list of ops in order. Each reads earlier outputs by name and gives one list of numbers for each position.
Every number is the op's real-number function of its inputs, rounded once to the format of activations; nothing else is
rounded, and nothing is approximated. So this page, however slow, says what every backend must give, to the last bit.

The list is anything with the attributes of `lepton_ref.models.program.Op`: kind, name, inputs, weights, options, width.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lepton_ref.plain import ops, quantise
from lepton_ref.plain.formats import get_format, round_to
from lepton_ref.plain.special import Number

Row = list[float]
"""One position's numbers."""
Matrix = Sequence[Sequence[Number]]


@dataclass(frozen=True)
class Forward:
    """How a sequence is run.

    Attributes:
        weights: matrices as lists of rows, vectors as lists, by name: the numbers that are stored.
        integers: what embeddings look up at each position, by name: input_ids, position_ids, token_type_ids, ….
        format: what every op's outputs are rounded to, by name.
        operands: what linear layers multiply, one of `quantise.OPERANDS`.
        encoded: names of the weights that are quantised already, and multiplied as they are.
        rope_length: what RoPE takes for the length where a kind depends on it; None for the number of positions.
        formats: under "ggml", the storage formats of weights that are not F32, by name; see `lepton_ref.plain.ggml`.
        attended: the format that attention takes queries, keys and values in; None for as they are.
    """

    weights: Mapping[str, Any]
    integers: Mapping[str, Sequence[int]]
    format: str = "fp32"
    operands: str = "stored"
    encoded: Container[str] = field(default_factory=frozenset)
    rope_length: int | None = None
    formats: Mapping[str, str] = field(default_factory=dict)
    attended: str | None = None

    def __post_init__(self) -> None:
        get_format(self.format)
        if self.operands not in quantise.OPERANDS:
            raise ValueError(f"unknown operands {self.operands!r}; known: {', '.join(quantise.OPERANDS)}")
        lengths = {name: len(numbers) for name, numbers in self.integers.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(f"the inputs must be of one length, at least 1, got {lengths}")

    @property
    def positions(self) -> Sequence[int]:
        """What RoPE turns by: position_ids where they are given, 0, 1, 2, … otherwise."""
        length = len(next(iter(self.integers.values())))
        return self.integers.get("position_ids", range(length))


def forward(run: Forward, program: Iterable[Any]) -> dict[str, list[Row]]:
    """Run the ops in order: each op's name → its output, a row of floats for each position.

    The last one is what the model gives.

    Raises:
        ValueError: an op of unknown kind, or numbers that do not fit one another.
        KeyError: an op reads a weight or an output that there is not.
    """
    values: dict[str, list[Row]] = {}
    for op in program:
        if op.kind not in HANDLERS:
            raise ValueError(f"op {op.name!r} is of unknown kind {op.kind!r}; known: {', '.join(HANDLERS)}")
        outputs = HANDLERS[op.kind](run, op, *(values[name] for name in op.inputs))
        values[op.name] = [[ops.rounded(y, run.format) for y in row] for row in outputs]
    return values


Outputs = Iterable[Iterable[ops.Value]]


def _embed(run: Forward, op: Any) -> Outputs:
    table, offset = run.weights[op.weights["w"]], op.options["offset"]
    for number in run.integers[op.options["of"]]:
        yield ops.embed(number + offset, table, scale=op.options["scale"])


def _linear(run: Forward, op: Any, x: list[Row]) -> Outputs:
    """Under "w8a8" and the like both factors are first rounded to small numbers, and their product is exact again."""
    name = op.weights["w"]
    matrix, bias = run.weights[name], run.weights[op.weights["b"]] if "b" in op.weights else None
    if name not in run.encoded:
        matrix = [quantise.weights(row, run.operands) for row in matrix]
    for row in x:
        yield ops.linear(quantise.activations(row, run.operands, run.formats.get(name, "F32")), matrix, bias)


def _rms_norm(run: Forward, op: Any, x: list[Row]) -> Outputs:
    """Each of `heads` equal parts of a row is normed by itself."""
    w, o = run.weights[op.weights["w"]], op.options
    for row in x:
        parts = [ops.rms_norm(head, w, eps=o["eps"], offset=o["offset"]) for head in split(row, o["heads"])]
        yield joined(parts)


def _layer_norm(run: Forward, op: Any, x: list[Row]) -> Outputs:
    w = run.weights[op.weights["w"]] if "w" in op.weights else [1.0] * op.width
    b = run.weights[op.weights["b"]] if "b" in op.weights else None
    for row in x:
        yield ops.layer_norm(row, w, b, eps=op.options["eps"])


def _rope(run: Forward, op: Any, x: list[Row]) -> Outputs:
    rope, heads = op.options["rope"], op.options["heads"]
    length = max(run.positions) + 1 if run.rope_length is None else run.rope_length
    for position, row in zip(run.positions, x, strict=True):
        yield joined(ops.rope(head, position, rope, length=length) for head in split(row, heads))


def _attention(run: Forward, op: Any, q: list[Row], k: list[Row], v: list[Row]) -> Outputs:
    """Query head h reads key/value head ⌊h·G/H⌋; a causal query sees itself and what is before it."""
    o = op.options
    heads, kv_heads = o["heads"], o["kv_heads"]
    if run.attended is not None:
        q, k, v = ([[round_to(x, run.attended) for x in row] for row in rows] for rows in (q, k, v))
    keys = [split(row, kv_heads) for row in k]
    values = [split(row, kv_heads) for row in v]
    for t, row in enumerate(q):
        seen = [sees(t, s, causal=o["causal"], window=o["window"]) for s in range(len(k))]
        outputs = []
        for h, query in enumerate(split(row, heads)):
            g = h * kv_heads // heads
            head_keys, head_values = [key[g] for key in keys], [value[g] for value in values]
            outputs.append(ops.attention(query, head_keys, head_values, seen, scale=o["scale"], cap=o["cap"]))
        yield joined(outputs)


def _add(run: Forward, op: Any, x: list[Row], f: list[Row]) -> Outputs:
    return (ops.add(a, b) for a, b in zip(x, f, strict=True))


def _activate(run: Forward, op: Any, x: list[Row]) -> Outputs:
    return (ops.activate(row, op.options["activation"]) for row in x)


def _gated(run: Forward, op: Any, gate: list[Row], up: list[Row]) -> Outputs:
    return (ops.gated(g, u, op.options["activation"]) for g, u in zip(gate, up, strict=True))


def _softcap(run: Forward, op: Any, x: list[Row]) -> Outputs:
    return (ops.softcap(row, op.options["cap"]) for row in x)


def _last(run: Forward, op: Any, x: list[Row]) -> Outputs:
    """A mark for callers who want the last position alone; here all are wanted."""
    return x


def _first(run: Forward, op: Any, x: list[Row]) -> Outputs:
    return x[:1]


def split(row: Row, heads: int) -> list[Row]:
    """A row cut into `heads` equal parts.

    Raises:
        ValueError: its length is no multiple of their number.
    """
    width, rest = divmod(len(row), heads)
    if rest:
        raise ValueError(f"{len(row)} numbers cannot be split into {heads} equal heads")
    return [row[start : start + width] for start in range(0, len(row), width)]


def joined(parts: Iterable[list[ops.Value]]) -> list[ops.Value]:
    """The heads' outputs side by side."""
    return [value for part in parts for value in part]


def sees(t: int, s: int, *, causal: bool, window: int | None) -> bool:
    """Whether query t sees key s: none after itself if causal, none `window` or more away."""
    return (s <= t or not causal) and (window is None or abs(t - s) < window)


HANDLERS: Mapping[str, Callable[..., Outputs]] = MappingProxyType(
    {
        "embed": _embed,
        "linear": _linear,
        "rms_norm": _rms_norm,
        "layer_norm": _layer_norm,
        "rope": _rope,
        "attention": _attention,
        "add": _add,
        "activate": _activate,
        "gated": _gated,
        "softcap": _softcap,
        "last": _last,
        "first": _first,
    }
)
"""Kind of op → its output, not yet rounded."""
