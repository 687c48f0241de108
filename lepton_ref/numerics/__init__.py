"""Number formats, precisions, the one rounding, error bounds, and functions that array libraries lack."""

from lepton_ref.numerics.precision import PRECISIONS, Precision, get_precision
from lepton_ref.numerics.rounding import lift, round_once

__all__ = ["PRECISIONS", "Precision", "get_precision", "lift", "round_once"]
