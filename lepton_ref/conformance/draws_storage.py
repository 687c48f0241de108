"""Every way in which a weight can lie in memory, and in which order examples take them.

A run of 32 examples of each claim has all of them: those of `FIRST` in the claim `linear`, the others in `storage`.
Other seeds have other widths of codes, granularities and kinds of scales.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from lepton_ref.conformance.case import Case
from lepton_ref.conformance.drawer import MOST, Drawer
from lepton_ref.conformance.draws_packed import affine, awq, bnb4, bnb8, fp8, gptq, mx, nvfp4, pack_quantized
from lepton_ref.conformance.draws_stored import Recipe, blocks, dense
from lepton_ref.conformance.numbers import Generator, held, moderate
from lepton_ref.plain.ggml import BLOCKS as GGML
from lepton_ref.storage import FORMATS as BLOCK_FORMATS

ROWS = 4
"""Rows of a quantised matrix, unless its format wants more or takes long."""

DENSE = ("F32", "BF16", "F16")

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "GPTQ4 v1": gptq(4, 1),
        "GPTQ4 v2": gptq(4, 2),
        "GPTQ": gptq(),
        "AWQ": awq,
        "PACKED4": pack_quantized(4),
        "PACKED": pack_quantized(),
        "NF4": bnb4("nf4", nested=False),
        "NF4 nested": bnb4("nf4", nested=True),
        "FP4": bnb4("fp4", nested=False),
        "LLM.int8": bnb8,
        "E4M3": fp8("E4M3FN"),
        "FP8": fp8("E5M2", "E4M3FNUZ", "E5M2FNUZ"),
        "OCP MXFP4": mx("MXFP4"),
        "OCP MXFP6": mx("MXFP6_E3M2", "MXFP6_E2M3"),
        "OCP MXFP8": mx("MXFP8_E4M3", "MXFP8_E5M2"),
        "OCP MXINT8": mx("MXINT8"),
        "NVFP4 multiplied": nvfp4("multiply"),
        "NVFP4 divided": nvfp4("divide"),
        "INT4": affine(4, zeros=True),
        "INT8": affine(8, zeros=False),
        "INT": affine(2, 3, 5, 6, 7, zeros=True),
        **{name: blocks(block) for name, block in BLOCK_FORMATS.items()},
        **{name: functools.partial(dense, name) for name in DENSE},
    }
)
"""Name → how such a matrix is drawn. Block and dense formats bear their own names."""

FIRST = (
    "F32", "Q8_0", "Q4_0", "BF16", "Q4_K", "GPTQ4 v1", "F16", "Q6_K", "AWQ", "F32", "NF4", "E4M3", "Q5_0", "OCP MXFP4",
    "Q5_1", "PACKED4", "Q4_1", "INT4", "Q5_K", "NVFP4 multiplied", "LLM.int8",
)  # fmt: skip
"""The well-known ones, each storage class among them: as many as a run of 32 examples has that are no midpoints."""

ORDER = (*FIRST, *(name for name in RECIPES if name not in FIRST))


def name_of(place: int, precision: str) -> str:
    """The place's name in `ORDER`, among those that the precision's operands have a form for."""
    order = [name for name in ORDER if name in GGML] if precision == "ggml" else ORDER
    return order[place % len(order)]


def draw_storage(rng: Generator, number: int, precision: str) -> Case:
    """A matrix that `linear` has not had yet, with and without a bias; every fourth time all is kept decoded."""
    drawer = Drawer(rng, number, precision, MOST[:3])
    return linear_of(drawer, name_of(len(FIRST) + number, precision), t=1 + number % 3)


def linear_of(drawer: Drawer, name: str, *, t: int) -> Case:
    """A linear layer with a matrix of this name; the first row of activations is numbers, whatever the kind."""
    rng, number = drawer.rng, drawer.number
    stored = RECIPES[name](rng, int(rng.integers(2, ROWS + 1)), drawer.kind)
    rows, width = stored.shape
    x = drawer.activations(1, t, width)
    if drawer.kind == "wild":  # one NaN in a row is all that its sums say
        x[0, 0] = held(moderate(rng, (width,)), drawer.how.activations, x.dtype)
    inputs = {"x": x, **stored.inputs}
    if number % 3 != 1:
        inputs["b"] = drawer.vector(rows)
    return drawer.case("linear", inputs, what=name, **stored.options, kept=number % 4 == 3)
