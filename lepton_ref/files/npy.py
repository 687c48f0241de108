"""Writing one array as .npy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lepton_ref.files.mapped import replacing
from lepton_ref.interface import HostArray


def require_target(path: Path, /) -> None:
    """Raise OSError in one line where no file of that name can be written or replaced."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; make it, or choose another place for {path.name}")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is a folder or a device; give the name of a file")


def write_npy(path: str | Path, array: HostArray, *, overwrite: bool = False) -> None:
    """Write an array, complete or not at all.

    Raises:
        FileExistsError: the file exists and `overwrite` is False, or it is a folder or a device.
        FileNotFoundError: the folder does not exist.
        ValueError: an array of objects, which only a pickle could hold.
    """
    require_target(Path(path))
    with replacing(Path(path), overwrite=overwrite) as file:
        np.save(file, array, allow_pickle=False)
