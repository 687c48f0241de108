"""The contract of a backend, member by member: what `lepton_ref.interface.Backend` says, tried.

Ops rest on it: that float64 is IEEE 754's, that a NaN is not lost on the way, that contractions accumulate in what they
are asked for. A backend that breaks it gives wrong bits somewhere; here it is told where.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.conformance.case import Case
from lepton_ref.conformance.numbers import moderate, scattered, sizes, wild
from lepton_ref.conformance.observed import Observed
from lepton_ref.conformance.verdict import Verdict, equal_bits, first_wrong, within_bound
from lepton_ref.interface import XP_NAMES, Backend, HostArray
from lepton_ref.numerics.bounds import linear_bound
from lepton_ref.numerics.cast import cast
from lepton_ref.numerics.formats import round_array
from lepton_ref.plain.algebraic import dot, over_root
from lepton_ref.plain.formats import round_to
from lepton_ref.plain.real import rounded

Generator = np.random.Generator


def draw_wild(rng: Generator, number: int, precision: str) -> Case:
    """Two arrays of one shape, special values included, and a mask."""
    shape = tuple(sizes(rng, 3, largest=5))
    draw = (wild, scattered)[number % 2]
    inputs = {"a": draw(rng, shape), "b": draw(rng, shape), "mask": rng.random(shape) < 0.5}
    return Case("contract", inputs, data=("wild", "scattered")[number % 2])


def draw_contraction(rng: Generator, number: int, precision: str) -> Case:
    """Factors whose sums in float32 are far from those in float64."""
    *batch, m, k, n = sizes(rng, (3, 5, 4)[number % 3], largest=9)
    big = np.where(rng.random((*batch, m, k)) < 0.3, 2.0**26, 1.0)
    return Case("contract", {"a": moderate(rng, (*batch, m, k)) * big, "b": moderate(rng, (*batch, k, n))})


def members(case: Case, backend: Backend) -> Verdict:
    """Members are of the right kind, and a contraction's policy is keyword-only and has no default."""
    backend = backend.backend if isinstance(backend, Observed) else backend  # whose signatures are its own
    lacking = [name for name in XP_NAMES if not hasattr(backend.xp, name)]
    found = {
        f"xp lacks {', '.join(lacking)}": not lacking,
        f"name is {backend.name!r}; give it a word": isinstance(backend.name, str) and backend.name != "",
        f"ulps is {backend.ulps!r}; give a positive number": _positive(backend.ulps),
        "kernels has a key that is no (op name, storage class)": all(map(_is_key, backend.kernels)),
        "kernels has a value that cannot be called": all(map(callable, backend.kernels.values())),
        "matmul takes its policy by position, or has a default": _strict(backend.matmul, 2, "accumulate"),
        "sum takes its policy by position, or has a default": _strict(backend.sum, 1, "axis", "keepdims", "accumulate"),
    }
    wrong = next((text for text, good in found.items() if not good), None)
    return Verdict(len(found), wrong)


def _positive(ulps: object) -> bool:
    return isinstance(ulps, int | float) and 0 < ulps < math.inf


def _is_key(key: object) -> bool:
    return isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str) and isinstance(key[1], type)


def _strict(method: Callable[..., Any], positional: int, *keywords: str) -> bool:
    """Whether a call fits the signature with the keywords, and neither without them nor with one in their place."""
    calls = ((positional, keywords), (positional, keywords[:-1]), (positional + 1, keywords[1:]))
    return [_fits(method, count, names) for count, names in calls] == [True, False, False]


def _fits(method: Callable[..., Any], positional: int, keywords: Sequence[str]) -> bool:
    try:
        inspect.signature(method).bind(*[None] * positional, **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


def round_trip(case: Case, backend: Backend) -> Verdict:
    """From NumPy and back: dtype, shape and numbers stay, also of arrays with strides of their own."""
    a = case.inputs["a"]
    with np.errstate(all="ignore"):
        narrow = a.astype(np.float32)
    arrays = {
        "float64": a,
        "float32": narrow,
        "bool": case.inputs["mask"],
        "int64": np.arange(a.size).reshape(a.shape) - 2**40,
        "transposed": a.transpose(2, 0, 1),
        "sliced": a[:, ::2],
        "one element": a[:1, :1, :1],
    }
    return first_wrong(
        [
            equal_bits(backend.to_numpy(backend.from_numpy(array.copy("K"))), array, what=name, any_nan=True)
            for name, array in arrays.items()
        ]
    )


def conversion(case: Case, backend: Backend) -> Verdict:
    """Float64 is rounded once to float32, to nearest even, with subnormals, and comes back exactly; and to others."""
    a = case.inputs["a"]
    half = np.ldexp(1.0, np.frexp(np.where(np.isfinite(a), a, 1.0))[1] - 25)  # half an ulp of float32
    ties = np.concatenate([a, round_array(a, "fp32") + half, round_array(a, "fp32") * (1 + 2.0**-24)])
    given, xp = backend.from_numpy(ties), backend.xp
    got = {name: backend.to_numpy(cast(given, name, backend=backend)) for name in ("fp32", "bf16", "fp16")}
    verdicts = [
        equal_bits(array, round_array(ties, name).astype(np.float32), what=f"to {name}", any_nan=True)
        for name, array in got.items()
    ]
    back = backend.to_numpy(xp.astype(backend.from_numpy(got["fp32"]), xp.float64))
    return first_wrong([*verdicts, equal_bits(back, got["fp32"].astype(np.float64), what="to float64", any_nan=True)])


def arithmetic(case: Case, backend: Backend) -> Verdict:
    """+ − × ÷ √ of float64 are IEEE 754's, subnormals and the sign of zero included, against rational numbers."""
    a, b = case.inputs["a"], case.inputs["b"]
    with np.errstate(all="ignore"):
        a = np.concatenate([a, a * 2.0**-600 * 2.0**-300])  # products that leave float64's range
        b = np.concatenate([b, b * 2.0**-150])
    x, y = backend.from_numpy(a.copy()), backend.from_numpy(b.copy())
    got = {"+": x + y, "-": x - y, "*": x * y, "/": x / y, "sqrt": backend.xp.sqrt(backend.xp.abs(x))}
    return first_wrong(
        [
            equal_bits(backend.to_numpy(array), _ieee(name, a, b), what=f"float64 {name}", any_nan=True)
            for name, array in got.items()
        ]
    )


def _ieee(name: str, a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    pairs = zip(a.ravel().tolist(), b.ravel().tolist(), strict=True)
    return np.array([_rounded(name, x, y) for x, y in pairs]).reshape(a.shape)


def _rounded(name: str, x: float, y: float) -> float:
    """One operation as a rational number, rounded; where a rule about special values decides, Python's own."""
    if name == "sqrt":
        x = abs(x)
        return over_root(Fraction(x), Fraction(x)).round("fp64") if 0 < x < math.inf else x
    if name == "/":
        if y == 0:
            return (
                math.nan
                if x == 0 or math.isnan(x)
                else math.copysign(math.inf, math.copysign(1, x) * math.copysign(1, y))
            )
        special = x / y
    else:
        special = {"+": x + y, "-": x - y, "*": x * y}[name]
    if x == 0 or y == 0 or not (math.isfinite(x) and math.isfinite(y)):
        return special
    p, q = Fraction(x), Fraction(y)
    exact = {"+": p + q, "-": p - q, "*": p * q, "/": p / q}[name]
    return round_to(exact, "fp64") if exact else special


def functions(case: Case, backend: Backend) -> Verdict:
    """The other names of xp, against NumPy's functions of the standard's meaning: NaN wins a maximum, axes are axes."""
    a, b, mask, xp = case.inputs["a"], case.inputs["b"], case.inputs["mask"], backend.xp
    x, y, m = (backend.from_numpy(array.copy()) for array in (a, b, mask))
    middle = np.arange(a.shape[1])[::-1].copy()
    got = {
        "abs": (xp.abs(x), np.abs(a)),
        "isfinite": (xp.isfinite(x), np.isfinite(a)),
        "where": (xp.where(m, x, y), np.where(mask, a, b)),
        "where, a number": (xp.where(m, x, -0.0), np.where(mask, a, -0.0)),
        "reshape": (xp.reshape(x, (a.size,)), a.reshape(-1)),
        "permute_dims": (xp.permute_dims(x, (2, 0, 1)), a.transpose(2, 0, 1)),
        "expand_dims": (xp.expand_dims(x, axis=1), a[:, None]),
        "expand_dims, from the end": (xp.expand_dims(x, axis=-1), a[..., None]),
        "concat": (xp.concat([x, y, x], axis=1), np.concatenate([a, b, a], axis=1)),
        "take": (xp.take(x, backend.from_numpy(middle), axis=1), a[:, middle]),
        "less": (x < y, a < b),
        "equal": (x == y, a == b),
        "not equal": (x != y, a != b),
        "and, or, not": ((m & (x < y)) | ~m, (mask & (a < b)) | ~mask),
    }
    for axis in (0, 1, -1):
        got[f"max over {axis}"] = (xp.max(x, axis=axis, keepdims=True), np.max(a, axis=axis, keepdims=True))
        got[f"any over {axis}"] = (xp.any(m, axis=axis), mask.any(axis=axis))
        got[f"all over {axis}"] = (xp.all(m, axis=axis, keepdims=True), mask.all(axis=axis, keepdims=True))
    got["any"] = (xp.any(m), np.asarray(mask.any()))
    got["all"] = (xp.all(m), np.asarray(mask.all()))
    return first_wrong(
        [
            equal_bits(np.asarray(backend.to_numpy(mine)), np.asarray(theirs), what=name, any_nan=True)
            for name, (mine, theirs) in got.items()
        ]
    )


def matmul(case: Case, backend: Backend) -> Verdict:
    """Every element in float64, in any order: within γ_K·Σ|a·b| of the exact sum of products."""
    a, b = case.inputs["a"], case.inputs["b"]
    x, y = backend.from_numpy(a.copy()), backend.from_numpy(b.copy())
    got = backend.to_numpy(backend.matmul(x, y, accumulate="float64"))
    values = np.empty((*a.shape[:-1], b.shape[-1]), dtype=object)
    bound = np.empty(values.shape)
    for at in np.ndindex(*a.shape[:-2]):
        bound[at] = linear_bound(a[at], b[at].T)
        for m, n in np.ndindex(*values.shape[-2:]):
            values[(*at, m, n)] = dot(a[at][m].tolist(), b[at][:, n].tolist())
    return _in_float64(got, values, bound)


def sums(case: Case, backend: Backend) -> Verdict:
    """Sums along each axis in float64, in any order: within γ·Σ|a| of the exact one."""
    verdicts = []
    array = case.inputs["a"]
    for axis, keepdims in itertools.product((0, 1, -1), (False, True)):
        got = backend.sum(backend.from_numpy(array.copy()), axis=axis, keepdims=keepdims, accumulate="float64")
        rows = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
        shape = np.sum(array, axis=axis, keepdims=keepdims).shape
        ones = np.ones((1, rows.shape[-1]))
        values = np.array([dot(row, ones[0].tolist()) for row in rows.tolist()], dtype=object).reshape(shape)
        verdicts.append(_in_float64(backend.to_numpy(got), values, linear_bound(rows, ones).reshape(shape)))
    return first_wrong(verdicts)


def _in_float64(got: HostArray, values: NDArray[np.object_], bound: NDArray[np.float64]) -> Verdict:
    if got.dtype != np.float64:
        want = np.array([rounded(value, "fp64") for value in values.ravel()]).reshape(values.shape)
        return Verdict(values.size, f"{got.dtype} where float64 must be", got, want)
    return within_bound(got, values, bound)


CONTRACT: Mapping[str, tuple[Callable[[Case, Backend], Verdict], Callable[[Generator, int, str], Case]]] = (
    MappingProxyType(
        {
            "members": (members, draw_wild),
            "round_trip": (round_trip, draw_wild),
            "conversion": (conversion, draw_wild),
            "arithmetic": (arithmetic, draw_wild),
            "functions": (functions, draw_wild),
            "matmul": (matmul, draw_contraction),
            "sums": (sums, draw_contraction),
        }
    )
)
"""Name → how it is judged, and its examples."""
