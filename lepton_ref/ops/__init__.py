"""The ops of a transformer: each a function from real numbers to real numbers, rounded once."""

from lepton_ref.ops.activation import activate, gated
from lepton_ref.ops.attention import attention
from lepton_ref.ops.embed import embed
from lepton_ref.ops.layer_norm import layer_norm
from lepton_ref.ops.linear import linear
from lepton_ref.ops.masks import attention_mask
from lepton_ref.ops.pool import pool
from lepton_ref.ops.residual import add
from lepton_ref.ops.rms_norm import rms_norm
from lepton_ref.ops.rope import rope
from lepton_ref.ops.rope_frequencies import Rope, attention_factor, frequencies
from lepton_ref.ops.rope_tables import RopeTables, rope_tables
from lepton_ref.ops.softcap import softcap
from lepton_ref.ops.softmax import log_softmax, log_softmax_at, softmax

__all__ = [
    "Rope",
    "RopeTables",
    "activate",
    "add",
    "attention",
    "attention_factor",
    "attention_mask",
    "embed",
    "frequencies",
    "gated",
    "layer_norm",
    "linear",
    "log_softmax",
    "log_softmax_at",
    "pool",
    "rms_norm",
    "rope",
    "rope_tables",
    "softcap",
    "softmax",
]
