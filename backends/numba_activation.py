"""Activations in kernels, plain and gated, and the soft cap: sixteen columns at a time.

Forms and bounds are those of `lepton_ref.ops.activation` and `lepton_ref.ops.softcap` with the functions of
`numba_functions`; relative, in units of 2⁻⁵³, before the three of the rounding test and one for the gate's product:

    relu 0        relu2 1        tanh 10        sigmoid 4        silu 5        quick_gelu 6 + 2·|z|, z = 1.702·x
    gelu_tanh 8 + 8·|z|        gelu 23 + 2·x²        soft cap 12

The terms in z and x² belong to the left tail; for x ≥ 0 they are at most 1, 3 and 1. What is open then and is x times a
sigmoid is computed in double-double: within 2⁻⁸⁵, as an argument's relative error of 2⁻¹⁰⁰ grows by |z| < 700.
NaN, infinities where they make one, and the rarer kinds are left to Python. Numbers that exp's range cuts off at
e^−708, or that underflow, are right all the same: they have the exact number's sign and round as it does, to a zero.
"""

from __future__ import annotations

from typing import Any

from lepton_ref.backends.numba_double import (
    add,
    exp,
    product,
    quotient,
    round_pair,
    splat_f64,
    times,
)  # fmt: skip
from lepton_ref.backends.numba_functions import ERFC, SIGMOID, TANH, erfc, logistic, tanh
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_rows import inside, keep, load_columns, rounded, store_columns
from lepton_ref.backends.numba_vectors import absolute, select

RELU, RELU2, SIGMOID_, TANH_, SILU, QUICK_GELU, GELU, GELU_TANH = range(8)
KINDS = {
    "relu": RELU, "relu2": RELU2, "sigmoid": SIGMOID_, "tanh": TANH_, "silu": SILU, "quick_gelu": QUICK_GELU,
    "gelu": GELU, "gelu_tanh": GELU_TANH,
}  # fmt: skip
"""Activation → its number in kernels."""

UNIT = 2.0**-53 * (1 + 2.0**-20)
SLOPE, CUBE, QUICK = 1.5957691216057308, 0.044715, 1.702
SLOPE_LOW, CUBE_LOW, QUICK_LOW = -9.96930880911092e-17, 2.1960211427085595e-18, 4.263256414560601e-17
ROOT_HALF = 0.7071067811865476
LEAST, LARGEST = 2.0**-600, 2.0**600


@njit(forceinline=True)
def _argument(kind: Any, x: Any) -> Any:
    """Z of x·sigmoid(z), or x."""
    if kind == QUICK_GELU:
        return x * splat_f64(QUICK)
    if kind == GELU_TANH:
        return splat_f64(SLOPE) * (x + splat_f64(CUBE) * x * x * x)
    return x


@njit(forceinline=True)
def _value(kind: Any, x: Any) -> Any:
    """-> activation(x) and its relative bound in units, of which it lacks the test's three and a gate's one."""
    none, one = splat_f64(0.0), splat_f64(1.0)
    if kind == SILU:
        return logistic(x, x), splat_f64(SIGMOID + 1.0)
    if kind == GELU_TANH:
        z = _argument(kind, x)
        return logistic(z, x), splat_f64(SIGMOID + 4.0) + select(x < none, splat_f64(8.0) * absolute(z), splat_f64(3.0))
    if kind == QUICK_GELU:
        z = _argument(kind, x)
        return logistic(z, x), splat_f64(SIGMOID + 2.0) + select(x < none, splat_f64(2.0) * absolute(z), one)
    if kind == GELU:
        units = splat_f64(ERFC + 3.5) + select(x < none, splat_f64(2.0) * x * x, one)
        return splat_f64(0.5) * x * erfc(none - x * splat_f64(ROOT_HALF)), units
    if kind == SIGMOID_:
        return logistic(x, one), splat_f64(SIGMOID)
    if kind == TANH_:
        return tanh(x), splat_f64(TANH)
    kept = select(x <= none, none, x)
    return (kept, none) if kind == RELU else (kept * kept, none)


@njit(nogil=True, cache=True)
def activate(
    F: Any, kind: Any, x: Any, x_stride: Any, y: Any, y_stride: Any, width: Any, first: Any, last: Any, form: Any,
    stuck: Any,
) -> None:  # fmt: skip
    """Rows [first, last): activation(F[x + row·x_stride + k]), of `KINDS`."""
    for row in range(first, last):
        at, out = x + row * x_stride, y + row * y_stride
        for k in range(0, width, 16):
            given = load_columns(F, at + k, width - k)
            value, units = _value(kind, given)
            if kind > RELU2:
                units = (units + splat_f64(3.0)) * splat_f64(UNIT)
            near, open_ = rounded(value, absolute(value) * units, form)
            open_ &= inside(width - k)
            if open_:
                better, unknown = _better(kind, given, splat_f64(1.0), form)
                keep(F, out + k, near, open_, better, unknown, width - k, stuck, row, k)
            else:
                store_columns(F, out + k, near, width - k)


@njit(nogil=True, cache=True)
def gated(
    F: Any, kind: Any, g: Any, g_stride: Any, u: Any, u_stride: Any, y: Any, y_stride: Any, width: Any, first: Any,
    last: Any, form: Any, stuck: Any,
) -> None:  # fmt: skip
    """Rows [first, last): activation(F[g + row·g_stride + k])·F[u + row·u_stride + k]."""
    if kind == SILU:  # a kind that is known when this is compiled has no branches within the loop
        _gated(F, SILU, g, g_stride, u, u_stride, y, y_stride, width, first, last, form, stuck)
    elif kind == GELU_TANH:
        _gated(F, GELU_TANH, g, g_stride, u, u_stride, y, y_stride, width, first, last, form, stuck)
    else:
        _gated(F, kind, g, g_stride, u, u_stride, y, y_stride, width, first, last, form, stuck)


@njit(forceinline=True)
def _gated(
    F: Any, kind: Any, g: Any, g_stride: Any, u: Any, u_stride: Any, y: Any, y_stride: Any, width: Any, first: Any,
    last: Any, form: Any, stuck: Any,
) -> None:  # fmt: skip
    for row in range(first, last):
        gates, ups, out = g + row * g_stride, u + row * u_stride, y + row * y_stride
        for k in range(0, width, 16):
            gate, up = load_columns(F, gates + k, width - k), load_columns(F, ups + k, width - k)
            value, units = _value(kind, gate)
            value = value * up
            if kind > RELU:
                units = (units + splat_f64(4.0)) * splat_f64(UNIT)
            near, open_ = rounded(value, absolute(value) * units, form)
            open_ &= inside(width - k)
            if open_:
                better, unknown = _better(kind, gate, up, form)
                keep(F, out + k, near, open_, better, unknown, width - k, stuck, row, k)
            else:
                store_columns(F, out + k, near, width - k)


@njit(nogil=True, cache=True)
def _better(kind: Any, x: Any, up: Any, form: Any) -> Any:
    """activation(x)·up from x·sigmoid(z) in double-double, rounded, and which lanes are open."""
    none, one = splat_f64(0.0), splat_f64(1.0)
    if kind != SILU and kind != GELU_TANH and kind != QUICK_GELU and kind != SIGMOID_:
        return round_pair(none, none, splat_f64(1e300), form)
    z = (x, none)
    if kind == QUICK_GELU:
        z = times((splat_f64(QUICK), splat_f64(QUICK_LOW)), x)
    elif kind == GELU_TANH:
        cube = times(times(times((splat_f64(CUBE), splat_f64(CUBE_LOW)), x), x), x)
        z = product((splat_f64(SLOPE), splat_f64(SLOPE_LOW)), add((x, none), cube))
    right = z[0] >= none
    e = exp(select(right, none - z[0], z[0]), select(right, none - z[1], z[1]))
    top = select(right, one, e[0]), select(right, none, e[1])
    y = quotient(top, add(e, (one, none)))
    if kind != SIGMOID_:
        y = times(y, x)
    inner = absolute(y[0])
    y = times(y, up)
    size = absolute(y[0])
    least, largest = splat_f64(LEAST), splat_f64(LARGEST)
    usual = (absolute(z[0]) < splat_f64(690.0)) & (inner > least) & (size > least) & (size < largest)
    return round_pair(y[0], y[1], select(usual, size * splat_f64(2.0**-85), splat_f64(1e300)), form)


@njit(nogil=True, cache=True)
def softcap(
    F: Any, x: Any, x_stride: Any, y: Any, y_stride: Any, width: Any, cap: Any, first: Any, last: Any, form: Any,
    stuck: Any,
) -> None:  # fmt: skip
    """Rows [first, last): cap·tanh(F[x + row·x_stride + k]/cap)."""
    by, relative = splat_f64(cap), splat_f64((TANH + 5.0) * UNIT)
    for row in range(first, last):
        at, out = x + row * x_stride, y + row * y_stride
        for k in range(0, width, 16):
            given = load_columns(F, at + k, width - k)
            value = tanh(given / by) * by
            near, open_ = rounded(value, absolute(value) * relative, form)
            open_ &= inside(width - k)
            if open_:
                keep(F, out + k, near, open_, near, open_, width - k, stuck, row, k)
            else:
                store_columns(F, out + k, near, width - k)
