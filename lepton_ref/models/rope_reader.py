"""RoPE from a config.json, in any of transformers' forms, and from the metadata of a GGUF."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_ref.models.constants import yarn_scale
from lepton_ref.models.reader import ConfigError, Reader
from lepton_ref.ops import Rope
from lepton_ref.storage import Weight

KINDS: Mapping[str, str] = {
    "default": "default",
    "linear": "linear",
    "dynamic": "dynamic",
    "llama3": "llama3",
    "yarn": "yarn",
    "longrope": "longrope",
    "su": "longrope",  # what the first Phi-3 files called it
    "proportional": "proportional",
}
"""`rope_type` in config.json → ours."""


def read_rope(
    read: Reader, *, theta: float = 10000.0, width: int, max_positions: int, part: float | None = None
) -> Rope:
    """RoPE of a family that rotates alike in all layers.

    Since transformers 5 all of it stands in `rope_parameters`; before, in `rope_theta` and `rope_scaling`.

    Args:
        read: the whole config.
        theta: the family's base where the file is silent.
        width: the head width K.
        max_positions: `max_position_embeddings`.
        part: the family's `partial_rotary_factor` where the file is silent; None for families that have none.
    """
    old = read.section("rope_scaling")
    section = old if old.fields else read.section("rope_parameters")
    for name, value in section.fields.items():
        if isinstance(value, Mapping):
            raise section.wrong(name, value, "a number or a list, because this family rotates alike in all layers")
    share = section.number("partial_rotary_factor", read.number("partial_rotary_factor", part))
    return rope_of(
        section,
        theta=read.number("rope_theta", theta),
        width=width,
        max_positions=max_positions,
        original=read.integer("original_max_position_embeddings", None),
        part=_share(section, share, allowed=part is not None),
        truncate=section.flag("truncate", True),
    )


def _share(section: Reader, share: float | None, *, allowed: bool) -> float:
    """How much of a head turns."""
    share = 1.0 if share is None else share
    if share != 1 and not allowed and section.text("rope_type", "") != "proportional":
        raise section.wrong("partial_rotary_factor", share, "1.0, because this family rotates whole heads")
    if not 0 < share <= 1:
        raise section.wrong("partial_rotary_factor", share, "above 0 and at most 1")
    return share


def rope_of(
    section: Reader,
    *,
    theta: float,
    width: int,
    max_positions: int,
    original: int | None,
    part: float = 1.0,
    truncate: bool = True,
) -> Rope:
    """RoPE from the object that describes it.

    Args:
        section: `rope_parameters`, one layer type's entry in it, or `rope_scaling`.
        theta: the base where the section is silent.
        width: the head width K.
        max_positions: `max_position_embeddings`.
        original: the length first trained for, where the config says so outside of the section: that has priority.
        part: which share of a head turns.
        truncate: yarn's rounding of its bounds.
    """
    name = section.text("rope_type", section.text("type", "default"))
    if name not in KINDS:
        raise section.wrong("rope_type", name, f"one of {', '.join(KINDS)}")
    kind = KINDS[name]
    if original is None:
        original = section.integer("original_max_position_embeddings", max_positions)
    if kind == "dynamic":
        original = max_positions
    theta = section.number("rope_theta", theta)
    options = _options(section, kind, width=width, part=part, ratio=max_positions / original)
    rotated = width if kind == "proportional" else int(width * part)
    try:
        return Rope(theta=theta, width=rotated, kind=kind, original_length=original, truncate=truncate, **options)
    except ValueError as error:
        raise ConfigError(f"{section.where}: {error}") from error


def _options(section: Reader, kind: str, *, width: int, part: float, ratio: float) -> dict[str, Any]:
    """What only some kinds have. transformers, too, demands `factor` and llama3's two bounds where it uses them."""
    match kind:
        case "linear" | "dynamic":
            return {"factor": section.number("factor")}
        case "llama3":
            names = ("factor", "low_freq_factor", "high_freq_factor")
            return {name: section.number(name) for name in names}
        case "yarn":
            scales = {name: section.number(name, None) for name in ("attention_factor", "mscale", "mscale_all_dim")}
            bounds = {"beta_fast": 32.0, "beta_slow": 1.0}  # 0 stands for the default there
            turns = {name: section.number(name, default) or default for name, default in bounds.items()}
            return {"factor": section.number("factor", ratio), **turns, **scales}
        case "longrope":
            lists = {f"{name}_factors": section.numbers(f"{name}_factor") for name in ("short", "long")}
            attention = section.number("attention_factor", None)
            return {"factor": section.number("factor", ratio), "attention_factor": attention, **lists}
        case "proportional":
            turning = int(part * width // 2)
            factors = (section.number("factor", 1.0),) * turning + (math.inf,) * (width // 2 - turning)
            return {"short_factors": factors}
        case _:
            return {}


def read_gguf_rope(
    read: Reader, tensors: Mapping[str, Weight], *, width: int, max_positions: int, interleaved: bool = False
) -> Rope:
    """RoPE from a GGUF's metadata; factors of llama3's scaling and of longrope stand in tensors of their own."""
    read.only("rope.scale_linear", 1.0, 1.0)
    read.only("rope.scaling.yarn_log_multiplier", 0.0, 0.0)
    original = read.integer("rope.scaling.original_context_length", max_positions)
    options = _gguf_options(read, tensors, ratio=max_positions / original)
    rotary = read.integer("rope.dimension_count", width)
    if rotary > width:
        raise read.wrong("rope.dimension_count", rotary, f"at most {width}, the head width")
    theta = read.number("rope.freq_base", 10000.0)
    try:
        return Rope(theta=theta, width=rotary, original_length=original, interleaved=interleaved, **options)
    except ValueError as error:
        raise ConfigError(f"{read.where}: {error}") from error


def _gguf_options(read: Reader, tensors: Mapping[str, Weight], *, ratio: float) -> dict[str, Any]:
    """Kind and numbers of the scaling. llama.cpp multiplies yarn's own scale by `attn_factor`; longrope's is it."""
    kind = read.text("rope.scaling.type", "none")
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise read.wrong("rope.scaling.type", kind, "one of none, linear, yarn, longrope")
    freqs, short, long = (_factors(tensors, name) for name in ("rope_freqs", "rope_factors_short", "rope_factors_long"))
    attention = read.number("rope.scaling.attn_factor", None)
    factor = read.number("rope.scaling.factor", 1.0) or 1.0
    if freqs:
        if kind != "none":
            raise read.wrong("rope.scaling.type", kind, "none beside a tensor rope_freqs.weight")
        return {"kind": "proportional", "short_factors": freqs}
    if short or long or kind == "longrope":
        if not (short and long):
            name = "rope_factors_long" if short else "rope_factors_short"
            raise ConfigError(f"{read.where}: tensor {name}.weight is missing; longrope needs both lists")
        lists = {"short_factors": short, "long_factors": long}
        return {"kind": "longrope", "factor": ratio, "attention_factor": attention, **lists}
    if kind == "yarn":
        times = (attention or 1.0) * read.number("rope.scaling.yarn_attn_factor", 1.0)
        return {
            "kind": "yarn",
            "factor": factor,
            "attention_factor": yarn_scale(factor, times),
            "beta_fast": read.number("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": read.number("rope.scaling.yarn_beta_slow", 1.0),
        }
    return {"kind": "default" if kind == "none" else kind, "factor": factor}


def _factors(tensors: Mapping[str, Weight], name: str) -> tuple[float, ...]:
    """A tensor of numbers for the pairs; absent is empty."""
    weight = tensors.get(f"{name}.weight")
    return () if weight is None else tuple(np.asarray(weight.decode(), dtype=float).tolist())
