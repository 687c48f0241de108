"""Pruning, quantising, calibration and search: offline, dense weights in, storage out.

What looks at a model and its activations is here; how a chosen form lies in memory, and the encoders that look at the
weight alone, belong to `lepton_ref.storage`.
"""

from __future__ import annotations

from lepton_ref.compress.calibration import Calibration, calibrate
from lepton_ref.compress.imatrix import ImportanceMatrix, read_imatrix, write_imatrix
from lepton_ref.compress.quantise import Quantised, quantise_weight

__all__ = [
    "Calibration",
    "ImportanceMatrix",
    "Quantised",
    "calibrate",
    "quantise_weight",
    "read_imatrix",
    "write_imatrix",
]
