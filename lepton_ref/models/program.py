"""A model is a list of ops in order. This is the list, and the builder by which a family's page writes it down.

Each call on a `Program` appends one record and returns the value it stands for; nothing is computed. The records are
what everything else reads: the interpreter (execute.py), the loader (which weights, of which shape), the cache (which
layers keep keys), the trace (names of all intermediates) and pruning (which weights depend on which).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lepton_ref.ops import Rope


@dataclass(frozen=True)
class Value:
    """What an op gives: `(B, T, width)`, under the op's own name."""

    name: str
    width: int


@dataclass(frozen=True)
class Op:
    """One op of a program.

    Attributes:
        kind: which op, a key of `lepton_ref.models.execute.HANDLERS`.
        name: the stable name of its output, such as "layers.3.attn.q".
        inputs: names of earlier outputs, in the op's order.
        weights: names of weights by role, such as {"w": "layers.3.attn.q.weight"}.
        options: constants of the op.
        width: the last axis of the output.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    weights: Mapping[str, str]
    options: Mapping[str, Any]
    width: int


@dataclass(frozen=True)
class KeyValueLayer:
    """What one attention op keeps in a cache.

    Attributes:
        heads: key/value heads, G.
        width: head width of keys and values, K.
        window: how many keys back a query can see, or None for all.
    """

    heads: int
    width: int
    window: int | None


@dataclass
class Program:
    """The op list under construction.

    Attributes:
        ops: the records, in order.
        weights: each weight's name → its shape.
        prefix: put before the names of what follows; see `at`.
        names: the ops' names.
    """

    ops: list[Op] = field(default_factory=list)
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    prefix: str = ""
    names: set[str] = field(default_factory=set)
    _known: tuple[int, frozenset[str], frozenset[str], tuple[KeyValueLayer, ...]] = (0, frozenset(), frozenset(), ())

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of its ops."""
        return self._summary()[1]

    @property
    def reads(self) -> frozenset[str]:
        """The names of the integers that its embeddings look up."""
        return self._summary()[2]

    def _summary(self) -> tuple[int, frozenset[str], frozenset[str], tuple[KeyValueLayer, ...]]:
        """How many ops it is about, and what they are: a run asks often, and a list that runs grows no more."""
        if self._known[0] != len(self.ops):
            reads = frozenset(op.options["of"] for op in self.ops if op.kind == "embed")
            caching = (op for op in self.ops if op.kind == "attention" and op.options["causal"])
            kinds = frozenset(op.kind for op in self.ops)
            self._known = (len(self.ops), kinds, reads, tuple(op.options["cache"] for op in caching))
        return self._known

    def at(self, name: str) -> Program:
        """The same list, with `name.` before the names of what is appended through it."""
        return Program(self.ops, self.weights, f"{self.prefix}{name}.", self.names)

    @property
    def output(self) -> str:
        """The name of the last op: what the model gives."""
        return self.ops[-1].name

    def caches(self) -> tuple[KeyValueLayer, ...]:
        """What a cache has to keep for each causal attention op, in order."""
        return self._summary()[3]

    def embed(
        self, name: str, rows: int, width: int, *, of: str = "input_ids", offset: int = 0, scale: float = 1.0
    ) -> Value:
        """A table's rows; `of` names the integers: input_ids, position_ids, token_type_ids or roberta_positions."""
        return self._append("embed", name, (), width, {"w": (rows, width)}, of=of, offset=offset, scale=scale)

    def linear(self, name: str, x: Value, width: int, *, bias: bool = False, tied_to: str | None = None) -> Value:
        """x·Wᵀ + b; `tied_to` takes another op's matrix instead of one of its own."""
        shapes: dict[str, tuple[int, ...]] = {"w": (width, x.width)}
        if bias:
            shapes["b"] = (width,)
        tied = {} if tied_to is None else {"w": f"{tied_to}.weight"}
        return self._append("linear", name, (x,), width, shapes, tied=tied)

    def rms_norm(self, name: str, x: Value, *, eps: float, offset: float = 0.0, heads: int = 1) -> Value:
        """RMSNorm over the width, or over each of `heads` equal parts of it with one shared weight."""
        shapes = {"w": (x.width // heads,)}
        return self._append("rms_norm", name, (x,), x.width, shapes, eps=eps, offset=offset, heads=heads)

    def layer_norm(self, name: str, x: Value, *, eps: float, affine: bool = True) -> Value:
        """LayerNorm over the width, with a weight and a bias."""
        shapes = {"w": (x.width,), "b": (x.width,)} if affine else {}
        return self._append("layer_norm", name, (x,), x.width, shapes, eps=eps)

    def rope(self, name: str, x: Value, rope: Rope, *, heads: int) -> Value:
        """Rotate each of `heads` heads by its position."""
        return self._append("rope", name, (x,), x.width, {}, rope=rope, heads=heads)

    def attention(
        self,
        name: str,
        q: Value,
        k: Value,
        v: Value,
        *,
        heads: int,
        kv_heads: int,
        scale: float,
        causal: bool = True,
        window: int | None = None,
        cap: float | None = None,
    ) -> Value:
        """The weighted sum of values, heads side by side."""
        cache = KeyValueLayer(kv_heads, k.width // kv_heads, window)
        return self._append(
            "attention", name, (q, k, v), v.width // kv_heads * heads, {},
            heads=heads, kv_heads=kv_heads, scale=scale, causal=causal, window=window, cap=cap, cache=cache,
        )  # fmt: skip

    def add(self, name: str, x: Value, f: Value) -> Value:
        """The residual sum x + f."""
        return self._append("add", name, (x, f), x.width, {})

    def activate(self, name: str, x: Value, kind: str) -> Value:
        """activation(x)."""
        return self._append("activate", name, (x,), x.width, {}, activation=kind)

    def gated(self, name: str, gate: Value, up: Value, kind: str) -> Value:
        """activation(gate) · up."""
        return self._append("gated", name, (gate, up), gate.width, {}, activation=kind)

    def softcap(self, name: str, x: Value, cap: float) -> Value:
        """The soft cap, cap · tanh(x / cap)."""
        return self._append("softcap", name, (x,), x.width, {}, cap=cap)

    def last(self, name: str, x: Value) -> Value:
        """Each sequence's last unmasked position, where a caller wants no other; x itself otherwise."""
        return self._append("last", name, (x,), x.width, {})

    def first(self, name: str, x: Value) -> Value:
        """Each sequence's first unmasked position: (B, T, D) -> (B, 1, D)."""
        return self._append("first", name, (x,), x.width, {})

    def _append(
        self,
        kind: str,
        name: str,
        inputs: tuple[Value, ...],
        width: int,
        shapes: Mapping[str, tuple[int, ...]],
        tied: Mapping[str, str] = MappingProxyType({}),
        **options: Any,
    ) -> Value:
        full = self.prefix + name
        if full in self.names:
            raise ValueError(f"two ops are named {full!r}; names are what traces and weights go by")
        roles = {role: tied.get(role, f"{full}.{SUFFIX[role]}") for role in shapes}
        for role, weight in roles.items():
            known = self.weights.setdefault(weight, shapes[role])
            if known != shapes[role]:
                raise ValueError(f"weight {weight!r} is {known} and cannot serve {full!r} as {shapes[role]}")
        self.names.add(full)
        names = tuple(value.name for value in inputs)
        self.ops.append(Op(kind, full, names, MappingProxyType(roles), MappingProxyType(options), width))
        return Value(full, width)


SUFFIX: Mapping[str, str] = MappingProxyType({"w": "weight", "b": "bias"})
"""A weight's role → how its name ends, as checkpoints have it."""
