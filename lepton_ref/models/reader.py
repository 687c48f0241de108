"""Read a model's numbers from a config: each taken by name, checked, and named in the error when it is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

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

LARGEST = (1 << 63) - 1
"""The largest integer of a file that is taken for a size: what an array's axis can be."""

NUMBER_MOST = 2.0**130
"""The largest number of a file that is taken for one of a model: no float32 is larger."""

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
            raise ConfigError(f"{self.where}: {self.prefix}{name} is missing; add it, or fetch the file again")
        return default

    def is_null(self, name: str) -> bool:
        """Whether the field is there and null, where that says something else than its absence."""
        return self.prefix + name in self.fields and not self.has(name)

    def integer(self, name: str, default: Any = MISSING, *, minimum: int = 1) -> Any:
        """An integer not below the minimum, or the default as it is."""
        value = self.raw(name, default)
        if value is default:
            return default
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < minimum:
            raise self.wrong(name, value, f"an integer not below {minimum}")
        if value > LARGEST:
            raise self.wrong(name, value, f"at most {LARGEST}")
        return int(value)

    def number(self, name: str, default: Any = MISSING, *, positive: bool = True) -> Any:
        """A finite number, or the default as it is."""
        value = self.raw(name, default)
        if value is default:
            return default
        if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
            raise self.wrong(name, value, "a number")
        try:
            number = float(value)
        except OverflowError:  # an integer of more than 308 digits
            number = math.inf
        if not math.isfinite(number) or (positive and number < 0):
            raise self.wrong(name, value, "a finite number that is not negative" if positive else "a finite number")
        if abs(number) > NUMBER_MOST:
            raise self.wrong(name, value, f"a number of size {NUMBER_MOST:g} or less")
        return number

    def numbers(self, name: str) -> tuple[float, ...]:
        """A list of finite numbers, none negative; absent is empty."""
        values = self.raw(name, [])
        if not isinstance(values, list):
            raise self.wrong(name, values, "a list of numbers")
        items = Reader({str(index): value for index, value in enumerate(values)}, where=f"{self.where}: {name}")
        return tuple(items.number(index) for index in items.fields)

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
        if isinstance(value, np.ndarray) or value != allowed:
            raise self.wrong(name, value, f"{allowed!r}, the only setting supported")

    def section(self, name: str) -> Reader:
        """A nested mapping; absent is empty."""
        value = self.raw(name, {})
        if not isinstance(value, Mapping):
            raise self.wrong(name, value, "an object")
        return Reader(value, where=f"{self.where}: {self.prefix}{name}")

    def wrong(self, name: str, value: Any, wanted: str) -> ConfigError:
        """The error of a field that is not what it must be."""
        shown = " ".join(repr(value).split())  # an array's takes several lines
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return ConfigError(f"{self.where}: {self.prefix}{name} is {shown}, but must be {wanted}")


def read_label_count(read: Reader) -> int:
    """How many outputs a classifier has: an entry of `id2label` each, or `num_labels`, or two."""
    labels = read.section("id2label").fields
    count = len(labels) if labels else read.integer("num_labels", 2)
    if read.integer("num_labels", count) != count:
        raise read.wrong("num_labels", read.raw("num_labels"), f"{count}, the number of entries in id2label")
    return int(count)
