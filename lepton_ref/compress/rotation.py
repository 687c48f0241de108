r"""Rotations by Hadamard matrices, which spread outliers over all channels (QuaRot and SpinQuant, 2024).

    R = n^(−1/2)·(1 ⊗ H_n)·diag(±1),   H_1 = 1,  H_2n = [[H_n, H_n], [H_n, −H_n]]

with n the largest power of two that divides the width: blocks of n, signs from a seed. R·Rᵀ = 1 exactly in real
arithmetic; all entries are 0 or ±n^(−1/2), so for n = 4ᵏ they are powers of two and a rotated number is a sum of n
numbers, shifted. Two places in which nothing changes, in real arithmetic:

    the residual stream   x → R·x: an RMSNorm without weight commutes with R, since ‖R·x‖ = ‖x‖. Norm weights go into
                          what reads the norm first, W ← W·diag(g). Then what reads the stream through a norm becomes
                          W·Rᵀ, what adds to it R·W and R·b, the embedding E·Rᵀ.
    heads of values       v → R·v in each key/value head, undone by o: W_v ← R·W_v, W_o ← W_o·Rᵀ in each head.

Rotated weights are float64 sums of float32 numbers, rounded once to float32 (`fwht` errs by log₂ n·2⁻⁵³ of Σ|x|·n^(−½)
before): the two models differ by that rounding, and bits are not kept, unlike under `lepton_ref.compress.fold`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lepton_ref.models.program import Op, Program
from lepton_ref.numerics.philox import random_bits
from lepton_ref.storage import Dense, Weight

Reals = NDArray[np.float64]


def block_of(width: int, /) -> int:
    """The largest power of two that divides the width."""
    if width < 1:
        raise ValueError(f"a rotation of width {width}; give at least 1")
    return width & -width


def signs(width: int, seed: int, /) -> Reals:
    """(D) ±1 from Philox, the same on every machine.

    Raises:
        ValueError: a seed that is no integer of 64 bits.
    """
    words = random_bits(seed, np.arange(width, dtype=np.uint64), np.zeros(width, dtype=np.uint64))
    return np.where(words & np.uint64(1), -1.0, 1.0)


def fwht(x: Reals, block: int, /) -> Reals:
    """`(..., D) -> (..., D)` (1 ⊗ H_n)·x along the last axis, without n^(−1/2): additions and subtractions alone.

    Raises:
        ValueError: a block that is no power of two, or does not divide the width.
    """
    if block < 1 or block & (block - 1) or x.shape[-1] % block:
        raise ValueError(f"blocks of {block} along {x.shape[-1]} channels; give a power of two that divides them")
    out = x.astype(np.float64).reshape(-1, x.shape[-1])
    span = 1
    while span < block:
        pairs = out.reshape(len(out), -1, 2, span)
        out = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        out = out.reshape(len(out), -1)
        span *= 2
    return out.reshape(x.shape)


def rotate(x: Reals, sign: Reals, /, *, block: int | None = None) -> Reals:
    """`(..., D), (D) -> (..., D)` R·x along the last axis; of a weight, W·Rᵀ."""
    if sign.ndim != 1 or x.shape[-1:] != sign.shape:
        raise ValueError(f"signs of shape {sign.shape} for {x.shape[-1]} channels; give one for each")
    n = block_of(len(sign)) if block is None else block
    return np.asarray(fwht(x * sign, n) / np.sqrt(np.float64(n)))


def rotate_stream(
    program: Program, weights: Mapping[str, Weight], /, *, seed: int = 0, block: int | None = None
) -> dict[str, Weight]:
    """All weights of a program whose residual stream is rotated, changed ones as F32.

    Args:
        program: the op list.
        weights: its weights, norms and biases too.
        seed: of the signs.
        block: n; None for the largest power of two that divides the width.

    Raises:
        ValueError: a program whose stream does not commute with a rotation: LayerNorm, norms with an offset, soft caps
            or activations on the stream, a head tied to the embedding, embeddings with positions.
    """
    stream, norms = _stream(program)
    out = dict(weights)
    width = next(op.width for op in program.ops if op.name in stream)
    sign = signs(width, seed)
    done: set[str] = set()
    for op in program.ops:
        reads_norm = next((norms[name] for name in op.inputs if name in norms), None)
        if op.kind not in ("linear", "embed"):
            continue
        name = op.weights["w"]
        w = weights[name].decode().astype(np.float64)
        if name in done:
            raise ValueError(f"{name} serves two ops, of which one reads the stream and one makes it; untie it first")
        done.add(name)
        if reads_norm is not None:
            w = rotate(w * weights[reads_norm.weights["w"]].decode().astype(np.float64), sign, block=block)
        elif op.kind == "embed":
            w = rotate(w, sign, block=block)
        if op.kind == "linear" and op.name in stream:
            w = rotate(w.T, sign, block=block).T
            if "b" in op.weights:
                bias = rotate(weights[op.weights["b"]].decode().astype(np.float64), sign, block=block)
                out[op.weights["b"]] = _f32(bias)
        if reads_norm is not None or op.name in stream:
            out[name] = _f32(w)
    for op in norms.values():
        out[op.weights["w"]] = _f32(np.ones(op.width))
    return out


def _stream(program: Program) -> tuple[set[str], dict[str, Op]]:
    """The names of what is in the stream's basis, and the norms that read it, by their names."""
    stream: set[str] = set()
    grown = True
    stream |= {op.name for op in program.ops if op.kind == "embed"}
    while grown:  # sums, and all that is added, forward and backward
        before = len(stream)
        for op in program.ops:
            if op.kind in ("add", "last") and stream & {op.name, *op.inputs}:
                stream |= {op.name, *op.inputs}
        grown = len(stream) > before
    norms = {}
    for op in program.ops:
        if op.name in stream and op.kind not in ("embed", "linear", "add", "last"):
            raise ValueError(f"{op.name} is of kind {op.kind} and adds to the stream; its output cannot be rotated")
        if stream & {*op.inputs} and op.kind not in ("add", "last"):
            plain = (
                op.kind == "rms_norm" and op.options["heads"] == 1 and not op.options["offset"] and "w" in op.weights
            )
            if not plain:
                raise ValueError(
                    f"{op.name} is of kind {op.kind} and reads the stream; only RMSNorm without offset may"
                )
            norms[op.name] = op
    for op in program.ops:
        if {*op.inputs} & {*norms} and op.kind != "linear":
            raise ValueError(f"{op.name} is of kind {op.kind} and reads a norm; its weight cannot go into it")
    return stream, norms


def rotate_values(program: Program, weights: Mapping[str, Weight], /, *, seed: int = 0) -> dict[str, Weight]:
    """All weights of a program whose values are rotated in each head, changed ones as F32.

    Args:
        program: the op list.
        weights: its weights and biases.
        seed: of the signs, the same in all heads.

    Raises:
        ValueError: an attention whose values are not a linear op of their own, or that more than one linear op reads.
    """
    ops = {op.name: op for op in program.ops}
    out = dict(weights)
    for op in (op for op in program.ops if op.kind == "attention"):
        v = ops[op.inputs[2]]
        readers = [each for each in program.ops if op.name in each.inputs]
        others = [each for each in program.ops if v.name in each.inputs and each is not op]
        if v.kind != "linear" or others or [each.kind for each in readers] != ["linear"]:
            raise ValueError(
                f"{op.name} does not stand between two linear ops of its own; its values cannot be rotated"
            )
        width = v.width // op.options["kv_heads"]
        sign = signs(width, seed)
        for name in v.weights.values():
            out[name] = _f32(_heads(weights[name].decode().astype(np.float64).T, width, sign).T)
        name = readers[0].weights["w"]
        out[name] = _f32(_heads(weights[name].decode().astype(np.float64), width, sign))
    return out


def _heads(x: Reals, width: int, sign: Reals) -> Reals:
    """(..., heads·K) each head rotated."""
    return rotate(x.reshape(*x.shape[:-1], -1, width), sign).reshape(x.shape)


def _f32(array: Reals) -> Weight:
    return Dense(np.ascontiguousarray(array, dtype="<f4"), format="F32")
