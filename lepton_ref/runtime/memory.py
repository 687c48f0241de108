"""How much memory there is, and which weights stay decoded in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from lepton_ref.interface import Backend
from lepton_ref.storage import Weight
from lepton_ref.storage.kept import Kept

SHARE = 0.5
"""The share of the available memory that "auto" may fill with decoded weights."""


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that can be had without swapping, in bytes, or None where the system does not say.

    Args:
        root: where proc/meminfo and sys/fs/cgroup are looked for.
    """
    try:
        free = _field(root / "proc/meminfo", "MemAvailable:") * 1024
    except (OSError, ValueError):
        return _free_pages()
    room = _control_group_room(root / "sys/fs/cgroup")
    return free if room is None else min(free, room)


def _field(path: Path, name: str) -> int:
    """The number behind a name in a file of such lines; ValueError without one."""
    found = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    for words in found:
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    raise ValueError(f"{path} has no {name}")


def _free_pages() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _control_group_room(group: Path) -> int | None:
    """What a container's limit leaves, or None without one. Its pages of files that it can drop count as free."""
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    with suppress(OSError, ValueError):
        used -= _field(group / "memory.stat", "inactive_file")
    return max(0, limit - used)


def keep(
    weights: Mapping[str, Weight],
    choice: str | bool,
    *,
    backend: Backend,
    dtype: np.dtype[np.floating] = np.dtype(np.float64),  # noqa: B008 - a dtype is a constant
) -> dict[str, Weight]:
    """The matrices, wrapped so that they stay decoded after their first use, or as they are.

    Args:
        weights: matrices that ops multiply by.
        choice: True, False, or "auto": keep where all of them take at most half of the available memory.
        backend: where they are kept.
        dtype: float64, or float32 for layers that sum in it.

    Raises:
        ValueError: another choice.
    """
    if choice != "auto" and not isinstance(choice, bool):
        raise ValueError(f"keep_decoded must be 'auto', True or False, got {choice!r}")
    sizes = [weight.shape[0] * weight.operand_width for weight in weights.values()]
    if choice == "auto":
        available = available_bytes()
        choice = available is not None and dtype.itemsize * sum(sizes) <= SHARE * available
    if not choice:
        return dict(weights)
    # One allocation, so that the system can serve it with large pages: a tenth of a decode step where it was measured.
    arena = np.empty(sum(sizes), dtype=dtype)
    ends = np.cumsum(sizes)
    rooms = [arena[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    return {
        name: Kept(weight, backend=backend, room=room.reshape(weight.shape[0], weight.operand_width))
        for (name, weight), room in zip(weights.items(), rooms, strict=True)
    }
