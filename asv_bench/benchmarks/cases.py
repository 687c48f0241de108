"""What is measured: an op of given sizes under a precision by a backend, with its operands, its work and its bound.

A case has the arrays and the function, how many bytes the op must move and how many operations it must do whatever the
program, and how far from float64's value, itself within 2⁻⁴⁰ of the exact one, the result may lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.operands import inputs, random_weight
from lepton_ref import ops, registry
from lepton_ref.numerics import bounds, counting, get_precision
from lepton_ref.numerics.operands import activations
from lepton_ref.storage.encoded import as_operand

BACKENDS = ("numpy", "numba")
"""Those that a benchmark is run by; one whose library is missing is left out."""

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One op with its operands.

    Attributes:
        run: the op; it gives the backend's array.
        result: the same on the host.
        near: float64's value.
        bound: of each element, how far the result may lie from the exact value.
        nbytes: of operands and result, each counted once.
        operations: additions and multiplications, exponentials counted as one.
    """

    run: Callable[[], Any]
    result: Callable[[], NDArray[Any]]
    near: Callable[[], Reals]
    bound: Callable[[], Reals]
    nbytes: int
    operations: int

    def error_over_bound(self) -> float:
        """The worst of all elements: at most 1 where the result is right."""
        error, bound = np.abs(self.result().astype(np.float64) - self.near()), self.bound()
        return float(np.max(np.divide(error, bound, out=np.where(error > 0, np.inf, 0.0), where=bound > 0)))

    def ambiguous_share(self) -> float:
        """Which part of the elements the rounding test left open."""
        with counting() as counts:
            self.run()
        total = counts.total
        return total.ambiguous / total.elements if total.elements else 0.0


def backend_of(name: str) -> Any:
    """The backend.

    Raises:
        NotImplementedError: it is not there; asv then leaves the benchmark out.
    """
    try:
        return registry.get(name)
    except (ImportError, ValueError) as error:
        raise NotImplementedError(f"backend {name}: {error}") from error


def arithmetic(precision: str) -> dict[str, Any]:
    """What the bounds take for a precision: float64 and one rounding where it is proven."""
    how = get_precision(precision)
    return {"arithmetic": "fp64" if how.accumulate == "float64" else "fp32", "output": how.activations}


def linear(backend: str, precision: str, format: str, shape: tuple[int, int, int]) -> Case:
    """(M, I) times (O, I)."""
    m, rows, columns = shape
    how, chosen = get_precision(precision), backend_of(backend)
    weight = as_operand(random_weight(format, rows, columns), how.operands)
    x = ops.embed(np.arange(m)[None], _table(inputs(m, columns)), backend=chosen, precision=how)  # in its format
    host = np.asarray(chosen.to_numpy(x))[0].astype(np.float64)

    def run() -> Any:
        return ops.linear(x, weight, backend=chosen, precision=how)

    def operands() -> tuple[Reals, Reals]:
        numpy = registry.get("numpy")
        every = np.arange(rows)
        return np.asarray(activations(host, how.operands, format, backend=numpy)), np.asarray(weight.operand(every))

    def near() -> Reals:
        a, b = operands()
        return (a @ b.T)[None]

    def bound() -> Reals:
        return np.asarray(bounds.linear_bound(*operands(), **arithmetic(precision)))[None]

    nbytes = weight.nbytes + 4 * m * (rows + columns)
    return Case(run, lambda: chosen.to_numpy(run()), near, bound, nbytes, 2 * m * rows * columns)


def _table(array: NDArray[np.float32]) -> Any:
    from lepton_ref.storage import Dense

    return Dense(array, format="F32")


def _of_op(
    backend: str, precision: str, arrays: list[NDArray[Any]], call: Callable[..., Any], bound: Any, operations: int
) -> Case:
    how, chosen = get_precision(precision), backend_of(backend)
    rounded = [_in_format(array, how) for array in arrays]
    here = [chosen.from_numpy(array) for array in rounded]
    wide = [array.astype(np.float64) if array.dtype == np.float32 else array for array in rounded]
    numpy, exact = registry.get("numpy"), get_precision("float64")

    def run() -> Any:
        return call(*here, backend=chosen, precision=how)

    result = run()
    nbytes = sum(array.nbytes for array in rounded) + 4 * int(np.prod(result.shape))
    return Case(
        run,
        lambda: chosen.to_numpy(run()),
        lambda: np.asarray(call(*wide, backend=numpy, precision=exact)),
        lambda: np.asarray(bound(*rounded, **arithmetic(precision))),
        nbytes,
        operations,
    )


def _in_format(array: NDArray[Any], how: Any) -> NDArray[Any]:
    from lepton_ref.numerics import round_array

    if array.dtype != np.float32 or how.activations == "fp32":
        return array
    return round_array(array.astype(np.float64), how.activations).astype(np.float32)


def rms_norm(backend: str, precision: str, tokens: int) -> Case:
    """Tokens of 1024 numbers."""
    arrays: list[NDArray[Any]] = [inputs(1, tokens, 1024), 1 + inputs(1024) / 8]

    def call(x: Any, w: Any, **how: Any) -> Any:
        return ops.rms_norm(x, w, eps=1e-5, **how)

    def bound(x: Any, w: Any, **how: Any) -> Any:
        return bounds.rms_norm_bound(x, w, eps=1e-5, **how)

    return _of_op(backend, precision, arrays, call, bound, 4 * tokens * 1024)


def gated(backend: str, precision: str, tokens: int) -> Case:
    """SwiGLU of tokens of 2048 numbers."""
    both = inputs(2, 1, tokens, 2048)

    def call(gate: Any, up: Any, **how: Any) -> Any:
        return ops.gated(gate, up, kind="silu", **how)

    def bound(gate: Any, up: Any, **how: Any) -> Any:
        return bounds.gated_bound(gate, up, kind="silu", **how)

    return _of_op(backend, precision, [both[0], both[1]], call, bound, 5 * tokens * 2048)


def softmax(backend: str, precision: str, tokens: int) -> Case:
    """Rows of 8192 scores."""
    return _of_op(backend, precision, [inputs(1, tokens, 8192)], ops.softmax, bounds.softmax_bound, 4 * tokens * 8192)


def attention(backend: str, precision: str, tokens: int) -> Case:
    """The last tokens of 512, 8 heads over 2 of keys, of width 64."""
    heads, groups, width, keys = 8, 2, 64, 512
    q, k = inputs(1, tokens, heads, width), inputs(1, keys, groups, width)
    v = np.ascontiguousarray(k[:, ::-1])
    mask = np.arange(keys)[None, :] <= np.arange(keys - tokens, keys)[:, None]

    def call(*arrays: Any, **how: Any) -> Any:
        return ops.attention(*arrays, scale=0.125, **how)

    def bound(*arrays: Any, **how: Any) -> Any:
        return bounds.attention_bound(*arrays, scale=0.125, **how)

    return _of_op(backend, precision, [q, k, v, mask[None]], call, bound, tokens * heads * keys * (4 * width + 4))


OPS: dict[str, Callable[[str, str, int], Case]] = {
    "rms_norm": rms_norm,
    "gated": gated,
    "softmax": softmax,
    "attention": attention,
}
