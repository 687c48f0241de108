"""Panels of integers of 4 and 8 bits with a scale and a zero point for each group of inputs."""

from __future__ import annotations

from lepton_ref.backends.numba_panels import Panels
from lepton_ref.storage.base import Weight


def pack_groups(weight: Weight) -> Panels | None:
    """A weight of such integers; None for another."""
    return None
