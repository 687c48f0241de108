"""A model's matrices in panels as one file: `lepton_ref.files.packed_file` has the bytes, this page the meaning.

An entry is one matrix under one kind of operands, `OPERANDS/NAME`: the parts of `lepton_ref.backends.numba_panels`, and
of it {"kind", "outputs", "width", "shared"}. How the parts lie follows from these four; nothing else is believed. A
matrix that no kernel multiplies by has an entry without bytes, of kind −1, and one whose parts have no known layout is
not in the file: it is packed in memory.

The file is opened and written by what `lepton_ref.load` puts into a run's memo under "pack".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from lepton_ref.backends.numba_chunks import Arena, Layout, pack_in_memory, pack_into
from lepton_ref.backends.numba_panels import Panels
from lepton_ref.storage.base import Weight
from lepton_ref.storage.resident import release

LAYOUT = 2
"""Version of what panels mean: raise it with every change of their bytes, so that no file of before is read."""

Wanted = tuple[str, str]
"""Name of a matrix, and its operands."""

PackAs = Callable[[Weight, str], Panels | None]
"""(weight, operands) → panels, or None where there is no kernel."""


def entry_name(wanted: Wanted) -> str:
    """The name of a matrix's entry."""
    name, operands = wanted
    return f"{operands}/{name}"


def key_of(weights: Mapping[Wanted, Weight]) -> str:
    """What a file must hold to serve: its layout, and every matrix with its format and shape, as a digest."""
    fields = [(entry_name(wanted), weight.format, weight.shape) for wanted, weight in sorted(weights.items())]
    return hashlib.sha256(repr((LAYOUT, fields)).encode()).hexdigest()


def pack_all(weights: Mapping[Wanted, Weight], pack: PackAs) -> dict[Wanted, Panels | None]:
    """Every matrix in panels, in memory; None for those without a kernel."""
    arena = Arena()
    return {wanted: pack_in_memory(weight, _under(pack, wanted), arena) for wanted, weight in weights.items()}


def stored_panels(weights: Mapping[Wanted, Weight], pack: PackAs, place: Any) -> dict[Wanted, Panels | None]:
    """Every matrix in panels, out of a file that is written where there is none.

    Args:
        weights: by name and operands.
        pack: how one is packed.
        place: where the file is: `open(key) -> PackedFile | None`, and `writing(key)`, which gives a `PackedWriter`.
    """
    key = key_of(weights)
    file = place.open(key)
    if file is None:
        with place.writing(key) as writer:
            for wanted, weight in weights.items():
                _write(writer, wanted, weight, pack)
        file = place.written(key)
    release(*weights.values())
    return {wanted: _read(file, wanted, weight, pack) for wanted, weight in weights.items()}


def _under(pack: PackAs, wanted: Wanted) -> Callable[[Weight], Panels | None]:
    return lambda weight: pack(weight, wanted[1])


def _write(writer: Any, wanted: Wanted, weight: Weight, pack: PackAs) -> None:
    sink = _Entry(writer, entry_name(wanted))
    if pack_into(weight, _under(pack, wanted), sink) is None:
        writer.add(sink.name, 0, {"kind": -1})


class _Entry:
    """Room in a file."""

    def __init__(self, writer: Any, name: str) -> None:
        self.writer, self.name = writer, name

    def begin(self, layout: Layout, /) -> None:
        """Make room."""
        about = {"kind": layout.kind, "outputs": layout.outputs, "width": layout.width, "shared": layout.shared}
        self.writer.add(self.name, layout.nbytes, about)

    def write(self, at: int, data: Any, /) -> None:
        """Take bytes that lie at this place of the room."""
        self.writer.write(self.name, at, memoryview(data))

    def drop(self) -> None:
        """Give the room back."""
        self.writer.drop(self.name)


def _read(file: Any, wanted: Wanted, weight: Weight, pack: PackAs) -> Panels | None:
    """One matrix out of the file.

    Raises:
        ValueError: an entry that says what cannot be, though its digest is right.
    """
    name = entry_name(wanted)
    if name not in file.entries:
        return pack_in_memory(weight, _under(pack, wanted))
    about = file.entries[name].about
    if about.get("kind") == -1:
        return None
    numbers = [about.get(field) for field in ("kind", "outputs", "width", "shared")]
    if not all(type(number) is int for number in numbers) or tuple(numbers[1:3]) != weight.shape or numbers[3] < 0:
        raise ValueError(f"{file.path}: {name} is said to be {dict(about)}, not {weight.shape}; remove the file")
    layout = Layout(*numbers)
    data = file.array(name)
    if data.size != layout.nbytes:
        raise ValueError(f"{file.path}: {name} has {data.size} bytes, not {layout.nbytes}; remove the file")
    return Panels(layout.kind, layout.outputs, layout.width, data, layout.at)
