"""The one error that every reader of this package raises: it names the file, the field, the value and the remedy."""

from __future__ import annotations

import os

SHOWN = 100
"""Characters of a foreign value that a message repeats, at most."""


def shown(value: object) -> str:
    """A foreign value for a message: on one line, unprintable characters escaped, cut where it is long."""
    if isinstance(value, str):
        value = value[: SHOWN + 1]
    elif isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


class FileFormatError(ValueError):
    """A file that is not what its format demands; the message is "<file>: <field>: <value>: <remedy>" on one line.

    Args:
        file: the file at fault.
        field: the field of the file at fault.
        value: what stands there, as `shown` writes it, with what is wrong about it.
        remedy: what was expected or what to do.
    """

    def __init__(self, file: str | os.PathLike[str], field: str, value: str, remedy: str) -> None:
        super().__init__(": ".join(" ".join(part.split()) for part in (os.fspath(file), field, value, remedy)))
        self.file = os.fspath(file)
        self.field = field
