"""Packed matrices for tests: random ones of every format, and each format's definition read element by element.

The twins share nothing with the library: a line of words is one long Python integer, values are fractions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.plain.formats import round_to
from lepton_ref.storage import Dense, Weight

Array = NDArray[Any]


def stream(words: Array) -> int:
    """Words as one integer, the first word's bits lowest."""
    return sum(int(word) % 2**32 << 32 * n for n, word in enumerate(words))


def code(words: Array, bits: int, e: int, *, aligned: bool = False) -> int:
    """Code number e of a line of words."""
    at = bits * e
    if aligned:
        each = 32 // bits
        at = 32 * (e // each) + bits * (e % each)
    return stream(words) >> at & (2**bits - 1)


def packed_line(codes: list[int], bits: int, *, aligned: bool = False) -> list[int]:
    """A line of codes as int32 words, bit by bit."""
    each = 32 // bits if aligned else None
    places = [32 * (e // each) + bits * (e % each) if each else bits * e for e in range(len(codes))]
    whole = sum(value << at for value, at in zip(codes, places, strict=True))
    count = -(-len(codes) // each) if each else -(-bits * len(codes) // 32)
    words = [whole >> 32 * n & (2**32 - 1) for n in range(count)]
    return [word - 2**32 if word >= 2**31 else word for word in words]


def pack_along(codes: Array, bits: int, axis: int, *, aligned: bool = False) -> NDArray[np.int32]:
    """A matrix of codes, packed along an axis."""
    lines = codes if axis == 1 else codes.T
    words = np.array([packed_line([int(c) for c in line], bits, aligned=aligned) for line in lines], dtype=np.int32)
    words = words.reshape(len(lines), -1)
    return words if axis == 1 else np.ascontiguousarray(words.T)


def dense(values: Array, format: str) -> Dense:
    """Numbers stored as this format; BF16 by cutting the lower half off."""
    if format == "BF16":
        return Dense((np.asarray(values, dtype="<f4").view(np.uint32) >> 16).astype("<u2"), format="BF16")
    return Dense(np.asarray(values, dtype={"F16": "<f2", "F32": "<f4"}[format]), format=format)


@dataclass
class Case:
    """What a packed matrix is made of, under the names that its constructor gives them, and the twin of its values."""

    parts: dict[str, Any]
    exact: Callable[[int, int], Fraction]
    shape: tuple[int, int]
    scales: Array = field(default_factory=lambda: np.zeros(0))


def gptq(
    rng: np.random.Generator, *, bits: int, version: int, outputs: int, inputs: int, groups: int, order: str = "none",
    format: str = "F16",
) -> Case:  # fmt: skip
    """order: "none" is no g_idx, "plain" i // size, "act" a shuffled one, "any" one of unequal groups."""
    q = rng.integers(0, 2**bits, (outputs, inputs))
    z = rng.integers(0, 2**bits, (outputs, groups))
    size = -(-inputs // groups)
    plain = np.minimum(np.arange(inputs) // size, groups - 1)
    g = {"act": rng.permutation(plain), "any": rng.integers(0, groups, inputs)}.get(order, plain)
    scales = dense(rng.uniform(-2, 2, (groups, outputs)).astype(np.float32), format)
    stored = z if version == 2 else (z - 1) % 2**bits
    parts = {
        "qweight": pack_along(q.T, bits, 0), "qzeros": pack_along(stored.T, bits, 1), "scales": scales,
        "bits": bits, "version": version, "g_idx": None if order == "none" else g.astype(np.int32), "group_size": size,
    }  # fmt: skip
    values = scales.decode()

    def exact(o: int, i: int) -> Fraction:
        group = int(parts["g_idx"][i]) if parts["g_idx"] is not None else i // size
        zero = code(parts["qzeros"][group], bits, o)
        zero = (zero + 1) % 2**bits if version == 1 else zero
        return Fraction(float(values[group, o])) * (code(parts["qweight"][:, o], bits, i) - zero)

    return Case(parts, exact, (outputs, inputs), values)


AWQ_OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)


def awq(rng: np.random.Generator, *, eights: int, inputs: int, groups: int, format: str = "F16") -> Case:
    """Random words: every one is a valid one."""

    def words(n: int) -> NDArray[np.int32]:
        return rng.integers(-(2**31), 2**31, (n, eights), dtype=np.int64).astype(np.int32)

    scales = dense(rng.uniform(-2, 2, (groups, 8 * eights)).astype(np.float32), format)
    parts: dict[str, Any] = {"qweight": words(inputs), "qzeros": words(groups), "scales": scales}
    values = scales.decode()

    def nibble(line: Array, o: int) -> int:
        return int(line[o // 8]) % 2**32 >> 4 * AWQ_OUTPUTS.index(o % 8) & 15

    def exact(o: int, i: int) -> Fraction:
        group = i * groups // inputs
        difference = nibble(parts["qweight"][i], o) - nibble(parts["qzeros"][group], o)
        return Fraction(float(values[group, o])) * difference

    return Case(parts, exact, (8 * eights, inputs), values)


def compressed(
    rng: np.random.Generator, *, bits: int, outputs: int, inputs: int, groups: int, zeros: str = "none",
    order: str = "none", aligned: bool = False, format: str = "BF16",
) -> Case:  # fmt: skip
    """groups 0 is one scale for the whole tensor; zeros "none", "packed" or "int8"."""
    half = 2 ** (bits - 1)
    scale_shape = (1,) if groups == 0 else (outputs, groups)
    count = max(1, groups)
    size = -(-inputs // count)
    u = rng.integers(0, 2**bits, (outputs, inputs))
    z = rng.integers(-half, half, scale_shape)
    plain = np.arange(inputs) // size
    g = {"act": rng.permutation(plain), "any": rng.integers(0, count, inputs)}.get(order, plain)
    scales = dense(rng.uniform(-2, 2, scale_shape).astype(np.float32), format)
    stored: Array | None = None
    if zeros == "packed":
        stored = pack_along(z + half, bits, 0, aligned=aligned)
    elif zeros == "int8":
        stored = z.astype(np.int8)
    parts = {
        "packed": pack_along(u, bits, 1, aligned=aligned), "scale": scales, "shape": (outputs, inputs), "bits": bits,
        "zero_point": stored, "g_idx": None if order == "none" else g.astype(np.int32), "group_size": size,
        "aligned": aligned,
    }  # fmt: skip
    values = scales.decode()

    def exact(o: int, i: int) -> Fraction:
        group = int(parts["g_idx"][i]) if parts["g_idx"] is not None else i // size
        at = (0,) if groups == 0 else (o, group)
        zero = 0
        if zeros == "packed":
            zero = code(parts["zero_point"][:, group], bits, o, aligned=aligned) - half
        elif zeros == "int8":
            zero = int(parts["zero_point"][at])
        return Fraction(float(values[at])) * (code(parts["packed"][o], bits, i, aligned=aligned) - half - zero)

    return Case(parts, exact, (outputs, inputs), values)


def differences(weight: Weight, case: Case, *, some: int | None = None) -> int:
    """How many elements are not the twin's value, rounded once to float32; also of `unrounded`, where it is exact."""
    got, wide = weight.decode(), weight.unrounded(np.arange(weight.shape[0]))
    assert got.dtype == np.float32
    assert got.shape == wide.shape == weight.shape == case.shape
    wrong = 0
    for o in range(case.shape[0]):
        for i in range(case.shape[1]):
            exact = case.exact(o, i)
            wrong += float(got[o, i]) != round_to(exact, "fp32") or float(wide[o, i]) != float(exact)
    return wrong
