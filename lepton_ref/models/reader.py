"""Read a model's numbers from a config: each taken by name, checked, and named in the error when it is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_ref.ops import Rope

ACTIVATIONS: Mapping[str, str] = {
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
"""transformers' name of an activation → ours."""

MISSING = object()


class ConfigError(ValueError):
    """A config that does not describe a model of its family."""


class Reader:
    """Fields of a config.json or of a GGUF's metadata.

    Args:
        fields: the mapping to read.
        where: the file, for messages.
        prefix: put before each name, as in GGUF's "llama.".
    """

    def __init__(self, fields: Mapping[str, Any], *, where: str, prefix: str = "") -> None:
        self.fields = fields
        self.where = where
        self.prefix = prefix

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(self.prefix + name) is not None

    def raw(self, name: str, default: Any = MISSING) -> Any:
        """The field as it is; null counts as absent."""
        value = self.fields.get(self.prefix + name)
        if value is not None:
            return value
        if default is MISSING:
            raise ConfigError(f"{self.where}: {self.prefix}{name} is missing")
        return default

    def integer(self, name: str, default: Any = MISSING, *, minimum: int = 1) -> Any:
        """An integer not below the minimum, or the default as it is."""
        value = self.raw(name, default)
        if value is default:
            return default
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < minimum:
            raise self.wrong(name, value, f"an integer not below {minimum}")
        return int(value)

    def number(self, name: str, default: Any = MISSING, *, positive: bool = True) -> Any:
        """A finite number, or the default as it is."""
        value = self.raw(name, default)
        if value is default:
            return default
        if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
            raise self.wrong(name, value, "a number")
        if not math.isfinite(value) or (positive and value < 0):
            raise self.wrong(name, value, "a finite number that is not negative" if positive else "a finite number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self.raw(name, default)
        if not isinstance(value, (bool, np.bool_)):
            raise self.wrong(name, value, "true or false")
        return bool(value)

    def text(self, name: str, default: Any = MISSING) -> Any:
        """A string, or the default as it is."""
        value = self.raw(name, default)
        if value is not default and not isinstance(value, str):
            raise self.wrong(name, value, "a string")
        return value

    def activation(self, name: str, default: str) -> str:
        """Our name of an activation."""
        value = self.text(name, default)
        if value not in ACTIVATIONS:
            raise self.wrong(name, value, f"one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def only(self, name: str, allowed: Any, default: Any) -> None:
        """Refuse by name a setting under which the model would compute something that is not written here."""
        value = self.raw(name, default)
        if value != allowed:
            raise self.wrong(name, value, f"{allowed!r}, the only setting supported")

    def section(self, name: str) -> Reader:
        """A nested mapping; absent is empty."""
        value = self.raw(name, {})
        if not isinstance(value, Mapping):
            raise self.wrong(name, value, "an object")
        return Reader(value, where=f"{self.where}: {self.prefix}{name}")

    def wrong(self, name: str, value: Any, wanted: str) -> ConfigError:
        """The error of a field that is not what it must be."""
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return ConfigError(f"{self.where}: {self.prefix}{name} is {shown}, but must be {wanted}")


def read_label_count(read: Reader) -> int:
    """How many outputs a classifier has: an entry of `id2label` each, or `num_labels`, or two."""
    labels = read.section("id2label").fields
    count = len(labels) if labels else read.integer("num_labels", 2)
    if read.integer("num_labels", count) != count:
        raise read.wrong("num_labels", read.raw("num_labels"), f"{count}, the number of entries in id2label")
    return int(count)


def read_rope(read: Reader, *, theta: float, width: int, max_positions: int, layer_type: str | None = None) -> Rope:
    """RoPE from a config.json, in any of transformers' forms.

    Since transformers 5 all of it stands in `rope_parameters`, one object or one for each layer type; before, in
    `rope_theta` and `rope_scaling`.

    Args:
        read: the whole config.
        theta: the family's base where the file is silent.
        width: the rotary width R before `partial_rotary_factor`.
        max_positions: `max_position_embeddings`.
        layer_type: which of several objects, where the family has one for each type of layer.
    """
    section = read.section("rope_parameters" if read.has("rope_parameters") else "rope_scaling")
    if layer_type is not None and layer_type in section.fields:
        section = section.section(layer_type)
    theta = section.number("rope_theta", read.number("rope_theta", theta))
    kind = section.text("rope_type", section.text("type", "default"))
    if kind == "su":
        kind = "longrope"
    original = section.integer(
        "original_max_position_embeddings", read.integer("original_max_position_embeddings", max_positions)
    )
    if kind == "dynamic":
        original = max_positions
    factor = section.number("factor", max_positions / original if kind == "longrope" else 1.0)
    if kind == "longrope" and read.has("original_max_position_embeddings"):
        factor = max_positions / original  # what the family's own code takes where the config says both
    return Rope(
        theta=theta,
        width=width,
        kind=kind,
        factor=factor,
        original_length=original,
        low_freq_factor=section.number("low_freq_factor", 1.0),
        high_freq_factor=section.number("high_freq_factor", 4.0),
        beta_fast=section.number("beta_fast", 32.0),
        beta_slow=section.number("beta_slow", 1.0),
        truncate=section.flag("truncate", True),
        attention_factor=section.number("attention_factor", None),
        mscale=section.number("mscale", None),
        mscale_all_dim=section.number("mscale_all_dim", None),
        short_factors=tuple(section.raw("short_factor", ())),
        long_factors=tuple(section.raw("long_factor", ())),
    )
