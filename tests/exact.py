"""The ops' real-number functions in decimal arithmetic of 90 digits: an oracle that shares no code with the package.

Every function takes float arrays, whose values are exact decimals, and gives an object array of Decimal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGITS = 90
Exact = NDArray[np.object_]


def in_digits(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a function with `DIGITS` digits and an exponent range that nothing here leaves."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with localcontext(Context(prec=DIGITS, Emax=10**9, Emin=-(10**9))):
            return function(*args, **kwargs)

    return run


def decimals(array: NDArray[Any]) -> Exact:
    """Each float as the decimal that it is."""
    flat = [Decimal(float(x)) for x in np.asarray(array).ravel()]
    out = np.empty(len(flat), dtype=object)
    out[:] = flat
    return out.reshape(np.shape(array))


def each(function: Callable[[Decimal], Decimal]) -> Callable[[Exact], Exact]:
    return np.frompyfunc(function, 1, 1)


exp = each(lambda x: x.exp())
log = each(lambda x: x.ln())
sqrt = each(lambda x: x.sqrt())


@in_digits
def _pi() -> Decimal:
    """Machin: 16·arctan(1/5) − 4·arctan(1/239)."""

    def arctan_of_inverse(n: int) -> Decimal:
        term, total, k = Decimal(1) / n, Decimal(0), 0
        while term > Decimal(10) ** -(DIGITS + 5):
            total += (-term if k % 2 else term) / (2 * k + 1)
            term, k = term / (n * n), k + 1
        return total

    return 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)


PI = _pi()


@in_digits
def tanh_of(x: Decimal) -> Decimal:
    """(1 − e)/(1 + e) with e = exp(−2|x|)."""
    if abs(x) < Decimal("1e-10"):
        return x - x**3 / 3 + 2 * x**5 / 15
    small = (-2 * abs(x)).exp()
    return ((1 - small) / (1 + small)).copy_sign(x)


@in_digits
def erfc_of(z: Decimal) -> Decimal:
    """Taylor's series of erf for |z| < 5, the continued fraction beyond."""
    if z < 0:
        return 2 - erfc_of(-z)
    if z < 5:
        term, total, n = z, z, 0
        while abs(term) > Decimal(10) ** -DIGITS and z:
            n += 1
            term = -term * z * z / n
            total += term / (2 * n + 1)
        return 1 - 2 * total / PI.sqrt()
    fraction = z
    for k in range(400, 0, -1):
        fraction = z + Decimal(k) / 2 / fraction
    return (-z * z).exp() / (fraction * PI.sqrt())


@in_digits
def cos_and_sin_of(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Taylor's series after whole turns are taken off."""
    x = angle - 2 * PI * (angle / (2 * PI)).to_integral_value()
    sums, term, n = [Decimal(0), Decimal(0)], Decimal(1), 0
    while abs(term) > Decimal(10) ** -DIGITS or n < 4:
        sums[n % 2] += -term if n % 4 >= 2 else term
        n += 1
        term = term * x / n
    return sums[0], sums[1]


def sigmoid_of(x: Decimal) -> Decimal:
    return 1 / (1 + (-x).exp())


GELU_CUBE, QUICK = Decimal("0.044715"), Decimal("1.702")
ACTIVATIONS: dict[str, Callable[[Decimal], Decimal]] = {
    "relu": lambda x: max(x, Decimal(0)),
    "relu2": lambda x: max(x, Decimal(0)) ** 2,
    "sigmoid": sigmoid_of,
    "tanh": tanh_of,
    "silu": lambda x: x * sigmoid_of(x),
    "quick_gelu": lambda x: x * sigmoid_of(QUICK * x),
    "gelu": lambda x: x / 2 * erfc_of(-x / Decimal(2).sqrt()),
    "gelu_tanh": lambda x: x * sigmoid_of(2 * (2 / PI).sqrt() * (x + GELU_CUBE * x**3)),
}


@in_digits
def plus(a: Exact, b: Exact) -> Exact:
    return a + b


@in_digits
def times(a: Exact, b: Exact) -> Exact:
    return a * b


@in_digits
def activation(x: NDArray[Any], *, kind: str) -> Exact:
    return each(ACTIVATIONS[kind])(decimals(x))


@in_digits
def softcap(x: NDArray[Any], *, cap: float) -> Exact:
    return Decimal(cap) * each(tanh_of)(decimals(x) / Decimal(cap))


@in_digits
def linear(x: NDArray[Any], w_oi: NDArray[Any], b_o: NDArray[Any] | None = None) -> Exact:
    return decimals(x) @ decimals(w_oi).T + (0 if b_o is None else decimals(b_o))


@in_digits
def rms_norm(x: NDArray[Any], w_d: NDArray[Any], *, eps: float, offset: float = 0.0) -> Exact:
    x_exact = decimals(x)
    square = (x_exact * x_exact).sum(axis=-1, keepdims=True) / x.shape[-1] + Decimal(eps)
    return x_exact / sqrt(square) * (decimals(w_d) + Decimal(offset))


@in_digits
def layer_norm(x: NDArray[Any], w_d: NDArray[Any], b_d: NDArray[Any], *, eps: float) -> Exact:
    x_exact = decimals(x)
    centred = x_exact - x_exact.sum(axis=-1, keepdims=True) / x.shape[-1]
    variance = (centred * centred).sum(axis=-1, keepdims=True) / x.shape[-1]
    return centred / sqrt(variance + Decimal(eps)) * decimals(w_d) + decimals(b_d)


@in_digits
def softmax(x: NDArray[Any]) -> Exact:
    exps = exp(decimals(x))
    return exps / exps.sum(axis=-1, keepdims=True)


@in_digits
def log_softmax(x: NDArray[Any]) -> Exact:
    x_exact = decimals(x)
    return x_exact - log(exp(x_exact).sum(axis=-1, keepdims=True))


@in_digits
def rope_of_halves(x: NDArray[Any], positions: NDArray[Any], frequencies: NDArray[Any], *, factor: float) -> Exact:
    """(T, K), (T), (K/2) -> (T, K)"""
    x_exact, half = decimals(x), len(frequencies)
    y = np.empty(x.shape, dtype=object)
    for t, position in enumerate(positions):
        for j, frequency in enumerate(frequencies):
            cos, sin = cos_and_sin_of(Decimal(int(position)) * Decimal(float(frequency)))
            first, second = x_exact[t, j], x_exact[t, half + j]
            y[t, j] = (first * cos - second * sin) * Decimal(factor)
            y[t, half + j] = (first * sin + second * cos) * Decimal(factor)
    return y


@in_digits
def attention(
    q_tk: NDArray[Any],
    k_sk: NDArray[Any],
    v_sk: NDArray[Any],
    mask_ts: NDArray[Any],
    sink: float | None,
    *,
    scale: float,
    cap: float | None,
) -> Exact:
    """One head, (T, K), (S, K), (S, K), (T, S) -> (T, K), every query seeing at least one key."""
    scores = decimals(q_tk) @ decimals(k_sk).T * Decimal(scale)
    if cap is not None:
        scores = Decimal(cap) * each(tanh_of)(scores / Decimal(cap))
    weights = exp(scores) * mask_ts.astype(object)
    total = weights.sum(axis=-1, keepdims=True) + (0 if sink is None else Decimal(sink).exp())
    return weights @ decimals(v_sk) / total


@in_digits
def mean_pool(x_td: NDArray[Any], *, normalise: bool) -> Exact:
    """(T, D) -> (D), all positions unmasked."""
    value = decimals(x_td).sum(axis=0) / len(x_td)
    return value / max((value * value).sum().sqrt(), Decimal("1e-12")) if normalise else value


@in_digits
def worst_ratio(got: NDArray[Any], want: Exact, bound: NDArray[np.float64]) -> float:
    """The largest |got − want|/bound; 0/0 is 0."""
    worst = Decimal(0)
    for value, exact, most in zip(decimals(got).flat, want.flat, decimals(bound).flat, strict=True):
        error = abs(value - exact)
        if error:
            worst = max(worst, error / most if most else Decimal("Infinity"))
    return float(worst)
