"""Every intermediate of one run, by a stable name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from lepton_ref.interface import HostArray


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
            finite = value[np.isfinite(value)]
            spread = f"{finite.min():+.4g} … {finite.max():+.4g}" if finite.size else "no finite value"
            lines.append(f"  {name:<28} {value.shape!s:<18} {value.dtype!s:<8} {spread}")
        return "\n".join(lines)
