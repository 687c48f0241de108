"""Machine models over whole matrices: the vectorised twin of `lepton_ref.plain.machine_dot.dot`, bit for bit.

A panel of outputs is one array, and takes every step of the machine at once; the loop is over the products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from lepton_ref.numerics.formats import round_array
from lepton_ref.numerics.machine_units import Numbers, Reals, Unit, float_record, unit_for
from lepton_ref.numerics.tensor_core import tensor_core
from lepton_ref.plain.machines import MACHINES, Machine, Sums, TensorCore, get_machine

__all__ = ["MACHINES", "Machine", "Sums", "TensorCore", "get_machine", "machine_matmul"]

PANEL = 1 << 14
"""Outputs at a time: what one operation needs of memory then stays in the second-level cache."""

OPERANDS = 1 << 20
"""Elements of x and of w at a time, at most, unless one row has more: 8 MiB each in float64."""


def machine_matmul(
    x: Reals, w: Reals, bias: Reals | None, machine: str | Machine, /, *, first_feature: int = 0
) -> Reals:
    """`(M, K), (N, K), (N) -> (M, N)` x·wᵀ + bias as the machine computes it; the records say how.

    float64 in and out. The same bits as `lepton_ref.plain.machine_dot.dot` gives for each element, in whatever panels
    the outputs are computed. Beside the inputs and the result it needs less than 64 MiB while a row has at most 2²⁰
    elements.

    Args:
        x: activations.
        w: weights, a row for each output feature.
        bias: one for each output feature, or None.
        machine: a record, or its name.
        first_feature: the number of w's first row, from which stochastic rounding draws.

    Raises:
        TypeError: an array that is not float64.
        ValueError: shapes that do not fit together; an unknown machine; a first_feature below 0.
    """
    found = get_machine(machine)
    _check(x, w, bias, first_feature)
    y = np.empty((x.shape[0], w.shape[0]))
    with np.errstate(all="ignore"):
        for rows, columns in _panels(*y.shape, x.shape[1]):
            part = None if bias is None else bias[columns]
            y[rows, columns] = _panel(x[rows], w[columns], part, found, first_feature + columns.start)
    y[np.isnan(y)] = np.nan  # the one NaN, whatever sign the processor gave it
    return y


def _check(x: Reals, w: Reals, bias: Reals | None, first_feature: int) -> None:
    for name, array, axes in (("x", x, 2), ("w", w, 2), ("bias", bias, 1)):
        if array is None:
            continue
        if not isinstance(array, np.ndarray) or array.dtype != np.float64:
            raise TypeError(f"{name} is {getattr(array, 'dtype', type(array).__name__)}; give a NumPy array of float64")
        if array.ndim != axes:
            raise ValueError(f"{name} has shape {array.shape}; give {axes} axes")
    if x.shape[1] != w.shape[1]:
        raise ValueError(f"x has {x.shape[1]} columns and w has {w.shape[1]}; give one weight for each activation")
    if bias is not None and bias.shape[0] != w.shape[0]:
        raise ValueError(f"bias has {bias.shape[0]} elements and w has {w.shape[0]} rows; give one for each row")
    if first_feature < 0:
        raise ValueError(f"first_feature {first_feature}; give the number of w's first row, 0 or more")


def _panels(m: int, n: int, k: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the output that are computed together."""
    longest = max(1, OPERANDS // max(1, k))
    rows = max(1, min(m, longest, 512))
    columns = max(1, min(n, longest, PANEL // rows))
    for top in range(0, m, rows):
        for left in range(0, n, columns):
            yield slice(top, min(top + rows, m)), slice(left, min(left + columns, n))


def _panel(x: Reals, w: Reals, bias: Reals | None, machine: Machine, feature: int) -> Numbers:
    """`(M, K), (N, K), (N) -> (M, N)`; x and w go on with their products' axis first, in memory too."""
    flush = isinstance(machine, Sums) and machine.flush_to_zero
    x, w = (_rounded(np.ascontiguousarray(array.T), machine.inputs, flush) for array in (x, w))
    if isinstance(machine, TensorCore):
        return _tensor_core(x, w, bias, machine)
    unit = unit_for(x, w, machine, feature)
    total = _ORDERS[machine.order](unit, 0, x.shape[0]) if x.shape[0] > 0 else unit.zeros()
    if bias is None:
        return total
    last = _rounded(bias, machine.accumulate, flush).astype(total.dtype)
    return unit.add(total, np.broadcast_to(last, total.shape))


def _rounded(x: Reals, format: str, flush: bool) -> Reals:
    """To nearest even, and subnormals to zero if the machine flushes them."""
    rounded = round_array(x, format)
    return rounded * (np.abs(rounded) >= 2.0 ** float_record(format).emin) if flush else rounded


def _tensor_core(x: Reals, w: Reals, bias: Reals | None, core: TensorCore) -> Reals:
    """`(K, M), (K, N), (N) -> (M, N)`; the bias's one rounding is innocuously double in fp16, as in `NativeUnit`."""
    total = tensor_core(x, w, core)
    if bias is None:
        return total
    added = total.astype(np.float32) + round_array(bias, core.result).astype(np.float32)
    return round_array(added.astype(np.float64), core.result)


def _sequential(unit: Unit, start: int, stop: int) -> Numbers:
    total = unit.multiply(start)
    for k in range(start + 1, stop):
        total = unit.add_product(k, total)
    return total


def _blocked(unit: Unit, start: int, stop: int) -> Numbers:
    n = unit.machine.block
    total = _sequential(unit, start, min(start + n, stop))
    for left in range(start + n, stop, n):
        total = unit.add(total, _sequential(unit, left, min(left + n, stop)))
    return total


def _pairwise(unit: Unit, start: int, stop: int) -> Numbers:
    if stop - start == 1:
        return unit.multiply(start)
    middle = start + (1 << (stop - start - 1).bit_length() - 1)  # the largest power of two below the length
    first = _pairwise(unit, start, middle)
    return unit.add(first, _pairwise(unit, middle, stop))


def _kahan(unit: Unit, start: int, stop: int) -> Numbers:
    total = unit.multiply(start)
    correction = unit.zeros()
    for k in range(start + 1, stop):
        y = unit.add_product(k, -correction)
        new = unit.add(total, y)
        correction = unit.add(unit.add(new, -total), -y)
        total = new
    return total


_ORDERS: dict[str, Callable[[Unit, int, int], Numbers]] = {
    "sequential": _sequential,
    "blocked": _blocked,
    "pairwise": _pairwise,
    "kahan": _kahan,
}
