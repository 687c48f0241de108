"""The examples of each op: which numbers, shapes and options, example by example.

The first numbers of a list are the ones that mistakes are made on; so a short run sees each kind of data once. Axes
differ in size, 1 among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.conformance.case import Case, Draw
from lepton_ref.conformance.drawer import MOST, Drawer
from lepton_ref.conformance.draws_attention import draw_attention
from lepton_ref.conformance.draws_linear import draw_linear
from lepton_ref.conformance.draws_storage import DENSE, ORDER, RECIPES
from lepton_ref.conformance.draws_stored import dense
from lepton_ref.conformance.numbers import Generator, held, sizes
from lepton_ref.plain.ops import ACTIVATIONS

EMBEDDED = ("F32", "BF16", "F32", "F16", "Q8_0", "Q6_K", *ORDER[1:])
"""How tables lie, in turn."""


def draw_embed(rng: Generator, number: int, precision: str) -> Case:
    """A table as it may be stored, some of whose rows are looked up; scales that round and that do not."""
    drawer = Drawer(rng, number, precision)
    b, t, v, d = sizes(rng, 4)
    ids = rng.integers(0, v, (b, t))
    scale = (1.0, float(np.float32(np.sqrt(d + 7.0))), 24.0)[number // 2 % 3]
    place = number - number // 4  # every fourth example is of numbers of all sizes, which float32 alone holds
    name = "F32" if number % 4 == 3 else EMBEDDED[place % len(EMBEDDED)]
    stored = dense(name, rng, v, drawer.kind, d) if name in DENSE else RECIPES[name](rng, v, drawer.kind)
    few = ids if name in DENSE else ids[:2, :2]  # their rows are long
    inputs = {"ids": few % stored.shape[0], **stored.inputs}
    return drawer.case("embed", inputs, what="" if name == "F32" else name, scale=scale, **stored.options)


def _norm_input(drawer: Drawer, shape: tuple[int, ...]) -> NDArray[Any]:
    """Rows whose norm is delicate: constant, tiny, or far from zero."""
    x = drawer.activations(*shape)
    match drawer.number % 5:
        case 1:
            x[..., :] = x[..., :1]
        case 3 if drawer.kind != "scattered":
            x = held(np.where(np.isfinite(x), x * 2.0**-60, x), drawer.how.activations, x.dtype)
        case 4:
            x = held(x.astype(np.float64) + 37.0, drawer.how.activations, x.dtype)
    return x


def draw_rms_norm(rng: Generator, number: int, precision: str) -> Case:
    """Norms of rows and of heads, with and without Gemma's offset."""
    drawer = Drawer(rng, number, precision)
    shape = tuple(sizes(rng, 4 if number % 3 == 2 else 3, largest=9))
    inputs = {"x": _norm_input(drawer, shape), "w": drawer.vector(shape[-1])}
    eps = (1e-5, 1e-6, 1e-12)[number % 3]
    return drawer.case("rms_norm", inputs, eps=eps, offset=float(number // 4 % 2))


def draw_layer_norm(rng: Generator, number: int, precision: str) -> Case:
    """Norms of rows, with a bias and without."""
    drawer = Drawer(rng, number, precision)
    shape = tuple(sizes(rng, 3, largest=9))
    inputs = {"x": _norm_input(drawer, shape), "w": drawer.vector(shape[-1])}
    if number % 3:
        inputs["b"] = drawer.vector(shape[-1])
    return drawer.case("layer_norm", inputs, eps=(1e-5, 1e-12)[number // 4 % 2])


ROPES: tuple[Mapping[str, Any], ...] = (
    {"theta": 10000.0},
    {"theta": 10000.0, "interleaved": True},
    {"theta": 500000.0, "kind": "linear", "factor": 4.0},
    {"theta": 10000.0, "kind": "yarn", "factor": 4.0, "original_length": 16, "interleaved": True},
    {"theta": 10000.0, "kind": "dynamic", "factor": 2.0, "original_length": 4},
)
"""Ways to rotate: fields of `lepton_ref.ops.Rope`."""


def draw_rope(rng: Generator, number: int, precision: str) -> Case:
    """Whole and partial heads, halves and neighbours, positions from 0 to a million."""
    drawer = Drawer(rng, number, precision)
    b, t, h = sizes(rng, 3, largest=4)
    width = 4 if number % 2 else 6
    farthest = (8, 10**6)[number // 4 % 2] if drawer.how.proven else 8
    positions = rng.integers(0, farthest, (b, t))
    positions[0, 0] = 0
    inputs = {"x": drawer.activations(b, t, h, width + number % 3), "positions": positions}
    fields = {**ROPES[number % len(ROPES)], "width": width}
    if fields.get("kind") == "dynamic":
        inputs["lengths"] = rng.integers(1, 12, b)
    return drawer.case("rope", inputs, rope=fields)


def draw_activate(rng: Generator, number: int, precision: str) -> Case:
    """Each activation in turn."""
    drawer = Drawer(rng, number // len(ACTIVATIONS), precision, ("moderate", "wild", "huge", "scattered"))
    x = drawer.activations(*sizes(rng, 3, largest=5))
    return drawer.case("activate", {"x": x}, kind=list(ACTIVATIONS)[number % len(ACTIVATIONS)])


def draw_gated(rng: Generator, number: int, precision: str) -> Case:
    """Each activation in turn, times another number."""
    drawer = Drawer(rng, number // len(ACTIVATIONS), precision, ("moderate", "wild", "scattered"))
    shape = sizes(rng, 3, largest=5)
    inputs = {"gate": drawer.activations(*shape), "up": drawer.activations(*shape)}
    return drawer.case("gated", inputs, kind=list(ACTIVATIONS)[number % len(ACTIVATIONS)])


def draw_softcap(rng: Generator, number: int, precision: str) -> Case:
    """Logits within the cap and far beyond it."""
    drawer = Drawer(rng, number, precision, ("moderate", "huge", "wild", "scattered"))
    return drawer.case("softcap", {"x": drawer.activations(*sizes(rng, 3))}, cap=(30.0, 2.5, 50.0)[number % 3])


def _draw_softmax(op: str) -> Draw:
    def draw(rng: Generator, number: int, precision: str) -> Case:
        drawer = Drawer(rng, number, precision, ("moderate", "huge", "few bits", "wild"))
        x = drawer.activations(*sizes(rng, 3, largest=8))
        if number // 4 % 2 == 1:  # what a mask of a vocabulary leaves
            x = np.where(rng.random(x.shape) < 0.3, -np.inf, x).astype(x.dtype)
        inputs = {"x": x}
        if op == "log_softmax_at":
            inputs["index"] = rng.integers(0, x.shape[-1], x.shape[:-1])
        return drawer.case(op, inputs)

    return draw


def draw_add(rng: Generator, number: int, precision: str) -> Case:
    """Sums of numbers of one size, of all sizes, and of halves of an ulp."""
    drawer = Drawer(rng, number, precision, (*MOST, "ties"))
    if drawer.kind == "ties":
        drawer.kind = "moderate"
        x = drawer.activations(*sizes(rng, 3))
        half = np.spacing(np.abs(x.astype(np.float32))) * np.float32(2.0 ** _narrower(drawer)) / 2
        return drawer.case("add", {"x": x, "f": held(half, drawer.how.activations, x.dtype)})
    shape = sizes(rng, 3)
    return drawer.case("add", {"x": drawer.activations(*shape), "f": drawer.activations(*shape)})


def _narrower(drawer: Drawer) -> int:
    """How many fewer bits than float32 an activation has."""
    return {"bf16": 16, "fp16": 13}.get(drawer.how.activations, 0)


def draw_pool(rng: Generator, number: int, precision: str) -> Case:
    """Each kind of pooling, normalised and not; what is masked is NaN."""
    drawer = Drawer(rng, number // 2, precision)
    b, t, d = sizes(rng, 3)
    mask = rng.random((b, t)) < 0.6
    mask[np.arange(b), rng.integers(0, t, b)] = True
    x = drawer.activations(b, t, d)
    x[~mask] = np.nan
    return drawer.case(
        "pool", {"x": x, "mask": mask}, kind=("mean", "cls", "max")[number % 3], normalise=bool(number % 2)
    )


DRAWS: Mapping[str, Draw] = MappingProxyType(
    {
        "embed": draw_embed,
        "linear": draw_linear,
        "rms_norm": draw_rms_norm,
        "layer_norm": draw_layer_norm,
        "rope": draw_rope,
        "attention": draw_attention,
        "activate": draw_activate,
        "gated": draw_gated,
        "softcap": draw_softcap,
        "softmax": _draw_softmax("softmax"),
        "log_softmax": _draw_softmax("log_softmax"),
        "log_softmax_at": _draw_softmax("log_softmax_at"),
        "add": draw_add,
        "pool": draw_pool,
    }
)
"""Op → how its examples are drawn."""
