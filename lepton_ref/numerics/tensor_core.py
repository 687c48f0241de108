"""Tensor cores over whole matrices: the vectorised twin of the steps in `lepton_ref.plain.machine_dot`.

Everything is exact in float64 but the cuts: a product has at most 48 bits; times a power of two and cut to an integer
it is below 2^(F+2), and no sum of 1025 of those leaves 53 bits, F being at most 35. ∞ and NaN pass through the same
operations by IEEE 754's rules, and have no exponent that could move the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics.formats import round_array
from lepton_ref.numerics.machine_units import Reals, float_record
from lepton_ref.plain.machines import TensorCore

Exponents = NDArray[np.int16]

NO_PART = -9999
"""The exponent of what takes no part in aligning; two of them, and any other exponent, are int16."""

FP32_EMIN = -126
"""The exponent of fp32's least normal number."""


def tensor_core(x: Reals, w: Reals, core: TensorCore, /) -> Reals:
    """`(K, M), (K, N) -> (M, N)` the sums of products, without a bias; x and w are numbers of the core's inputs."""
    total = np.zeros((x.shape[1], w.shape[1]))
    for start in range(0, x.shape[0], core.products):
        total = step(x[start : start + core.products], w[start : start + core.products], total, core)
    return total


def step(x: Reals, w: Reals, total: Reals, core: TensorCore, /) -> Reals:
    """`(P, M), (P, N), (M, N) -> (M, N)` one step: the accumulator and at most `core.products` products."""
    emin = float_record(core.inputs).emin
    x_exponents, w_exponents = exponents(x, emin), exponents(w, emin)
    largest = exponents(total, float_record(core.result).emin)
    np.maximum(largest, core.least_exponent, out=largest)
    for a, b in zip(x_exponents, w_exponents, strict=True):
        np.maximum(largest, a[:, None] + b, out=largest)
    scale = power_of_two(core.fraction_bits - largest)
    total = np.trunc(total * scale)
    for a, b in zip(x, w, strict=True):
        product = a[:, None] * b
        product *= scale
        total += np.trunc(product, out=product)
    total += 0.0  # −0 becomes +0
    total *= power_of_two(largest - core.fraction_bits)
    return result_of(total, core)


def exponents(x: Reals, emin: int, /) -> Exponents:
    """`(...) -> (...)` of a number's leading bit, at least emin; `NO_PART` for 0, ∞ and NaN."""
    found = np.maximum(np.frexp(x)[1] - 1, emin)
    return np.where(np.isfinite(x) & (x != 0), found, NO_PART).astype(np.int16)


def power_of_two(exponent: Exponents, /) -> Reals:
    """`(...) -> (...)` 2^exponent, from the bits of a normal float64."""
    return (exponent.astype(np.int64) + 1023 << 52).view(np.float64)


def result_of(total: Reals, core: TensorCore, /) -> Reals:
    """`(...) -> (...)` exact sums in the format of the core's result: fp32 toward zero, fp16 to nearest even."""
    if core.result == "fp16":
        return round_array(total, "fp16")
    dropped = np.int64((1 << 52 - core.kept_bits) - 1)
    cut = (total.view(np.int64) & ~dropped).view(np.float64)
    size = np.abs(total)
    small = size < 2.0**FP32_EMIN
    if small.any():
        spacing = 2.0 ** (FP32_EMIN - core.kept_bits)
        cut[small] = np.trunc(total[small] / spacing) * spacing
    cut[size >= 2.0**128] *= np.inf
    return cut
