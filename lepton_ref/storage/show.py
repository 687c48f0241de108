"""How weights and arrays look in a terminal and in a notebook: shape, format, bytes, range, a small histogram.

The figures come from a sample of whole rows of bounded size, so that showing a weight never decodes much of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np

from lepton_ref.interface import HostArray
from lepton_ref.storage.base import Weight

SAMPLE = 1 << 16
"""Elements looked at, at most."""

_BARS = " ▁▂▃▄▅▆▇█"
_BINS = 16
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Summary:
    """What is shown of a weight or an array.

    Attributes:
        name: the storage format or the dtype.
        shape: the logical shape.
        nbytes: stored bytes.
        low: the least finite value seen, None where there is none.
        high: the greatest finite value seen, None where there is none.
        bars: the histogram of the finite values between low and high, as one short line.
        seen: elements looked at.
        odd: how many of them are inf or NaN.
    """

    name: str
    shape: tuple[int, ...]
    nbytes: int
    low: float | None
    high: float | None
    bars: str
    seen: int
    odd: int

    @property
    def notes(self) -> list[str]:
        """The facts after the shape, each a few words."""
        notes = [human(self.nbytes)]
        if self.low is not None:
            notes.append(f"{self.low:.4g} … {self.high:.4g}")
            notes.append(self.bars)
        if self.odd:
            notes.append(f"{self.odd} of {self.seen} not finite")
        if self.seen < np.prod(self.shape, dtype=object):
            notes.append(f"{self.seen} elements sampled")
        return notes


def human(nbytes: int) -> str:
    """A number of bytes in a unit that fits: "864 bytes", "1.5 MiB"."""
    size, unit = float(nbytes), 0
    while size >= 1024 and unit + 1 < len(_UNITS):
        size, unit = size / 1024, unit + 1
    return f"{nbytes} bytes" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def histogram(values: HostArray) -> str:
    """`(N,) -> 16 characters` the density of finite values between the least and the greatest; blank is none."""
    low, high = float(values.min()), float(values.max())
    # halved first, so that the width of the widest float64 range is finite
    width = high / 2 - low / 2
    if width == 0:
        return _BARS[-1]
    place = (values.astype(np.float64) / 2 - low / 2) / width
    count = np.bincount(np.minimum((place * _BINS).astype(np.int64), _BINS - 1), minlength=_BINS)
    height = -(-count * (len(_BARS) - 1) // count.max())  # rounded up: one element is seen
    return "".join(_BARS[h] for h in height)


def sample_rows(shape: tuple[int, ...], *, sample: int = SAMPLE) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Evenly spaced row numbers, first and last included, of at most `sample` elements; none if one row is larger."""
    row = 1
    for n in shape[1:]:
        row *= n
    count = min(shape[0], sample // max(1, row))
    return np.linspace(0, shape[0] - 1, count).astype(np.int64) if count else np.zeros(0, dtype=np.int64)


def summarise(values: HostArray, *, name: str, shape: tuple[int, ...], nbytes: int) -> Summary:
    """The summary of sampled values."""
    flat = values.reshape(-1)
    finite = flat[np.isfinite(flat)]
    low = high = None
    bars = ""
    if finite.size:
        low, high, bars = float(finite.min()), float(finite.max()), histogram(finite)
    return Summary(name, shape, nbytes, low, high, bars, seen=flat.size, odd=flat.size - finite.size)


def summary(weight: Weight, *, sample: int = SAMPLE) -> Summary:
    """The summary of a weight, from a bounded sample of its rows."""
    values = weight.take(sample_rows(weight.shape, sample=sample))
    return summarise(values, name=weight.format, shape=weight.shape, nbytes=weight.nbytes)


def array_summary(array: HostArray) -> Summary:
    """The summary of a real NumPy array, from a bounded sample of its elements, evenly spaced."""
    values = array.flat[:: max(1, -(-array.size // SAMPLE))]
    return summarise(values, name=str(array.dtype), shape=array.shape, nbytes=array.nbytes)


def text(weight: Weight) -> str:
    """One line: `Q4_K (576, 1536), 486.0 KiB, -0.51 … 0.48, ▁▂▅█▅▂▁`."""
    return _text(summary(weight))


def html(weight: Weight) -> str:
    """The same as HTML, for notebooks."""
    return _html(summary(weight))


def array_text(array: HostArray) -> str:
    """One line about a NumPy array, as `text` writes it."""
    return _text(array_summary(array))


def array_html(array: HostArray) -> str:
    """The same as HTML, for notebooks."""
    return _html(array_summary(array))


def _text(what: Summary) -> str:
    return ", ".join([f"{what.name} {what.shape}", *what.notes])


def _html(what: Summary) -> str:
    cells = "".join(f"<td><code>{escape(note)}</code></td>" for note in [str(what.shape), *what.notes])
    return f"<table><tr><th>{escape(what.name)}</th>{cells}</tr></table>"
