"""Every op as a function of Python numbers: what it gives is a real number, NaN or an infinity, not yet rounded.

One position at a time, lists of floats in and lists of values out; `rounded` turns a value into the float that a format
has for it. The pages behind this one say what each op is and how its ties are decided.
"""

from lepton_ref.plain.algebraic import add, embed, layer_norm, linear, pool, rms_norm
from lepton_ref.plain.attention import attention, log_softmax, softmax
from lepton_ref.plain.real import Real, UndecidedError, Value, rounded
from lepton_ref.plain.transcendental import ACTIVATIONS, activate, gated, softcap
from lepton_ref.plain.turn import rope

__all__ = [
    "ACTIVATIONS",
    "Real",
    "UndecidedError",
    "Value",
    "activate",
    "add",
    "attention",
    "embed",
    "gated",
    "layer_norm",
    "linear",
    "log_softmax",
    "pool",
    "rms_norm",
    "rope",
    "rounded",
    "softcap",
    "softmax",
]
