"""How a value that is refused is shown in a message: on one line, however large it is."""

from __future__ import annotations

LENGTH = 60
"""Characters at most, of what is no array."""


def shown(value: object, /) -> str:
    """The value's repr on one line, cut where it is long; of an array its dtype and shape."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and isinstance(shape, tuple) and shape != ():
        return f"an array of {dtype} {shape}"
    text = " ".join(repr(value).split())
    return text if len(text) <= LENGTH else f"{text[: LENGTH - 1]}…"
