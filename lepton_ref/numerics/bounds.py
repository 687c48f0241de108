"""How far an op's value may lie from the exact value, element by element, whatever the order of evaluation.

Every bound takes the values that the op really had, as NumPy arrays, and gives float64 of the op's output shape: the
most by which any evaluation in the arithmetic, in any order of summation, fused or not, with library functions of at
most `ulps` ulps, can differ from the op's real-number function. `arithmetic` says what that model of arithmetic is. A
constant (ε, a scale, a cap) is rounded to the working format as well, or not. No bound depends on the result alone:
cancellation is not an error.

Keywords that all bounds have:

    arithmetic   "fp64" (the default), "fp32", "tf32", "bf16", "fp16", "pure_fp16", "pure_bf16", or a record
    output       a format to which the result is rounded at the end: half an ulp of it is added, or half of its least
                 subnormal; None (the default) where the working format's number is the result
    radius       None where the evaluation had these inputs; otherwise how far each of its inputs, numbers of the
                 working format, may lie from them (`radii`, one for each input, where there are several). Then the
                 bound is on the distance from the function's value at the inputs that are given here

and bounds of contractions have `held`, the format of the evaluation's inputs where it is narrower than the working one.
Where nothing can be promised (γₙ of 1 or more, overflow inside, a root of zero), a bound is infinite; it is never NaN.
Each docstring is the proof. u is the arithmetic's unit, η its least subnormal, e stands for `ulps`; an ulp is at most
2u of its number. Roundings that meet in a product or a quotient are counted, and n of them are γₙ.
"""

from lepton_ref.numerics.arithmetic import SLACK, TINY, ULPS, UNIT, Reals, gamma, reals
from lepton_ref.numerics.bounds_activation import activation_bound, gated_bound, softcap_bound
from lepton_ref.numerics.bounds_linear import add_bound, embed_bound, linear_bound, rope_bound
from lepton_ref.numerics.bounds_norm import layer_norm_bound, pool_bound, rms_norm_bound
from lepton_ref.numerics.bounds_softmax import attention_bound, log_softmax_bound, softmax_bound

__all__ = [
    "SLACK",
    "TINY",
    "ULPS",
    "UNIT",
    "Reals",
    "activation_bound",
    "add_bound",
    "attention_bound",
    "embed_bound",
    "gamma",
    "gated_bound",
    "layer_norm_bound",
    "linear_bound",
    "log_softmax_bound",
    "pool_bound",
    "reals",
    "rms_norm_bound",
    "rope_bound",
    "softcap_bound",
    "softmax_bound",
]
