"""Number formats, precisions, the one rounding and its proof, error bounds, and functions that array libraries lack."""

from lepton_ref.numerics.counts import Count, Counts, counting
from lepton_ref.numerics.formats import decode_array, encode_array, round_array
from lepton_ref.numerics.precision import PRECISIONS, Precision, get_precision
from lepton_ref.numerics.rounding import lift, round_once
from lepton_ref.plain.formats import FORMATS

__all__ = [
    "FORMATS",
    "PRECISIONS",
    "Count",
    "Counts",
    "Precision",
    "counting",
    "decode_array",
    "encode_array",
    "get_precision",
    "lift",
    "round_array",
    "round_once",
]
