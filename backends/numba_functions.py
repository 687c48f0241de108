"""Elementary functions of float64 vectors in kernels, from + − × ÷ and bits alone: the same bits on every processor.

Relative errors, in units of u = 2⁻⁵³ (each is proven at its function):

    exp 1.75        expm1 7 (x ≥ 0)        tanh 10        sigmoid 4        erfc 19.5

Arguments are numbers: what NaN and infinities give is not defined here. exp takes what lies below −708 for −708, and
above 709 for 709.
"""

from __future__ import annotations

from typing import Any

from lepton_ref.backends.numba_double import INVERSE_LN_2, LN_2_HIGH, MAGIC, power_of_two, splat_f64
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_vectors import absolute, copysign, fma, select
from lepton_ref.numerics.special import ERFCX_CHEBYSHEV, SPLIT

EXP, EXPM1, TANH, SIGMOID, ERFC = 1.75, 7.0, 10.0, 4.0, 19.5
"""Units; see above."""

LN_2_REST = 5.497923018708371e-14
"""ln 2 − LN_2_HIGH, rounded."""

LOWEST, HIGHEST = -708.0, 709.0
ERFC_FARTHEST = 28.0


@njit(forceinline=True)
def _reduced(x: Any) -> Any:
    """-> (MAGIC + k, r, q) with x = k·ln 2 + r and q = (e^r − 1)/r.

    |r| < 0.3466. LN_2_HIGH has 42 bits, so the first step is exact; the second rounds r by u/4. Taylor's 13 terms leave
    out 2⁻⁵⁸. In Horner's steps q errs by u·(1 + 0.35·(0.5 + …)) < 1.2u.
    """
    shifted = fma(x, splat_f64(INVERSE_LN_2), splat_f64(MAGIC))
    minus = splat_f64(MAGIC) - shifted
    r = fma(minus, splat_f64(LN_2_REST), fma(minus, splat_f64(LN_2_HIGH), x))
    q = fma(splat_f64(1.6059043836821613e-10), r, splat_f64(2.08767569878681e-09))
    q = fma(q, r, splat_f64(2.505210838544172e-08))
    q = fma(q, r, splat_f64(2.755731922398589e-07))
    q = fma(q, r, splat_f64(2.7557319223985893e-06))
    q = fma(q, r, splat_f64(2.48015873015873e-05))
    q = fma(q, r, splat_f64(0.0001984126984126984))
    q = fma(q, r, splat_f64(0.001388888888888889))
    q = fma(q, r, splat_f64(0.008333333333333333))
    q = fma(q, r, splat_f64(0.041666666666666664))
    q = fma(q, r, splat_f64(0.16666666666666666))
    q = fma(q, r, splat_f64(0.5))
    return shifted, r, fma(q, r, splat_f64(1.0))


@njit(forceinline=True)
def exp(x: Any) -> Any:
    """e^x within 1.75u.

    1 + r·q is rounded once: by at most u where it is 1 or more and 0.71u of it below. r·q inherits 1.2u·|r|: together
    1.3u at most; the rounding of r 0.25u; what Taylor leaves out 0.04u.
    """
    x = select(x < splat_f64(LOWEST), splat_f64(LOWEST), x)
    x = select(x > splat_f64(HIGHEST), splat_f64(HIGHEST), x)
    shifted, r, q = _reduced(x)
    return fma(r, q, splat_f64(1.0)) * power_of_two(shifted)


@njit(forceinline=True)
def expm1(x: Any) -> Any:
    """e^x − 1 for 0 ≤ x ≤ 700 within 7u, near 0 too.

    With p = r·q it is s·p + (s − 1), s = 2^k. k = 0: r is x, and p errs by 1.2u of q, which is 1 or more, and by u.
    k ≥ 1: p errs by 0.83u and by 0.25u·e^r, absolutely, and e^x − 1 ≥ 0.414·2^(k − 1): 1.2·2/0.414·u + 1u < 7u.
    """
    shifted, r, q = _reduced(x)
    s = power_of_two(shifted)
    return fma(s, r * q, s - splat_f64(1.0))


@njit(forceinline=True)
def tanh(x: Any) -> Any:
    """Tanh x within 10u: m/(m + 2), m = expm1(2|x|), whose error shrinks by 2/(m + 2); sum and quotient add 2u."""
    size = absolute(x)
    size = select(size > splat_f64(40.0), splat_f64(40.0), size)
    m = expm1(size + size)
    return copysign(m / (m + splat_f64(2.0)), x)


@njit(forceinline=True)
def logistic(x: Any, factor: Any) -> Any:
    """factor/(1 + e^−x) within 5u; within 4u where the factor is 1, and never overflowing.

    With e = exp(−|x|) it is factor/(1 + e) or factor·e/(1 + e): e 1.75u, of which the sum gives back e/(1 + e), the sum
    1u, product and quotient 1u each.
    """
    e = exp(splat_f64(0.0) - absolute(x))
    top = select(x >= splat_f64(0.0), factor, factor * e)
    return top / (splat_f64(1.0) + e)


@njit(inline="never")
def erfc(x: Any) -> Any:
    """1 − erf x within 19.5u, as `lepton_ref.numerics.special.erfc` computes it: 16u and two exponentials of 1.75u."""
    zero, one = splat_f64(0.0), splat_f64(1.0)
    z = absolute(x)
    z = select(z > splat_f64(ERFC_FARTHEST), splat_f64(ERFC_FARTHEST), z)
    t = (z - splat_f64(4.0)) / (z + splat_f64(4.0))
    double = t + t
    one_step, two_steps = zero, zero
    for i in range(len(ERFCX_CHEBYSHEV) - 1, 0, -1):
        one_step, two_steps = double * one_step - two_steps + splat_f64(ERFCX_CHEBYSHEV[i]), one_step
    erfcx = (t * one_step - two_steps + splat_f64(ERFCX_CHEBYSHEV[0])) / (one + z + z)
    high = z * splat_f64(SPLIT) - (z * splat_f64(SPLIT) - z)
    upper = exp((zero - high) * high) * exp((high - z) * (z + high)) * erfcx
    return select(x >= zero, upper, splat_f64(2.0) - upper)
