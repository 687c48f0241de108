"""Every intermediate of one run, by a stable name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape

import numpy as np

from lepton_ref.interface import HostArray
from lepton_ref.storage.show import array_html, array_summary


class Trace(Mapping[str, HostArray]):
    """The outputs of a program's ops in order, and what `forward` gave.

    Attributes:
        output: what `Model.forward` returns for the same inputs.
    """

    def __init__(self, values: Mapping[str, HostArray], output: HostArray) -> None:
        self._values = dict(values)
        self.output = output

    def __getitem__(self, name: str) -> HostArray:
        if name not in self._values:
            near = [known for known in self._values if known.endswith(name.rpartition(".")[2])][:3]
            raise KeyError(f"no op named {name!r}" + (f"; near: {', '.join(near)}" if near else ""))
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        lines = [f"Trace of {len(self)} ops"]
        for name, value in self._values.items():
            seen = array_summary(value)
            spread = "no finite value" if seen.low is None else f"{seen.low:+.4g} … {seen.high:+.4g}"
            odd = value.size - int(np.isfinite(value).sum())  # of all, since a sample could miss the one that matters
            spread += f", {odd} of {value.size} not finite" if 0 < odd < value.size else ""
            lines.append(f"  {name:<28} {value.shape!s:<18} {value.dtype!s:<8} {spread}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [f"<tr><th>{escape(name)}</th><td>{array_html(value)}</td></tr>" for name, value in self._values.items()]
        return f"<table><caption>Trace of {len(self)} ops</caption>{''.join(rows)}</table>"
