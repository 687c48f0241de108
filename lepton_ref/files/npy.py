"""Writing one array as .npy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lepton_ref.files.mapped import replacing
from lepton_ref.interface import HostArray


def write_npy(path: str | Path, array: HostArray, *, overwrite: bool = False) -> None:
    """Write an array, complete or not at all.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        ValueError: an array of objects, which only a pickle could hold.
    """
    with replacing(Path(path), overwrite=overwrite) as file:
        np.save(file, array, allow_pickle=False)
