"""Quantised panels times one row of activations in digits: exact integers in each block, at the speed of bytes.

A digit times the codes of a block is an exact int32, and two of them beside one another as well. With X and its digits
as `lepton_ref.backends.numba_real_digits` has them, |Σ X·c| < 32·2³⁸·255 < 2⁵¹, so the sum over the digits is exact in
float64, and so is what is subtracted for an offset of the codes. Scales have 24 bits at most; one fused multiply-add
brings scale·2^(e − 38)·Σ X·(c − offset) to the sum of the blocks, another the minimum times Σ X.

Bound. n fused additions err by γₙ·‖X‖·‖w‖, the remainder r by ‖r‖·‖w‖, with ‖w‖ at least the length of
|scale·code| + |minimum|, and ‖X‖ ≤ ‖x‖ + ‖r‖. All is put into one length of x, `whole_length`, in units of n + 10
roundings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lepton_ref.backends.numba_bytes import (
    half_to_f64,
    int_to_f64,
    load_bytes16,
    load_f32,
    load_halves,
    load_i32,
    signed_to_i32,
    unsigned_to_i32,
)  # fmt: skip
from lepton_ref.backends.numba_dot import IsaType, dotted
from lepton_ref.backends.numba_jit import njit
from lepton_ref.backends.numba_real_digits import FACTORS
from lepton_ref.backends.numba_real_kinds import StoredType, eight, five, four, six_high, six_low
from lepton_ref.backends.numba_rounding import splat_f64, to_f64
from lepton_ref.backends.numba_types import F64X16, I8X64, I32, I32X16, I64, ask_for, declared, pointer, splatted
from lepton_ref.backends.numba_vectors import fma

DIGITS = 5
UNIT = 2.0**-53
UPWARD = 1 + 2.0**-20

BYTES = {"eight": (0, 8), "spread": (0, 8), "eight_low": (0, 4), "eight_high": (4, 8)}
"""Layout of codes in bytes → the first vector of a block, and the one behind the last; "spread" were nibbles."""

AHEAD = 4096
"""Bytes between a block and what is asked for beside it, so that it has come when its turn comes."""


@njit(nogil=True, cache=True, _nrt=False)
def roundings(blocks: Any) -> Any:
    """How many units of roundings the bound counts."""
    return 2 * blocks + 10


@njit(nogil=True, cache=True, _nrt=False)
def whole_length(length: Any, left: Any, blocks: Any) -> Any:
    """‖x‖ so much longer that the bound covers the remainder too; NaN for zeros, whose signs digits do not have."""
    if length == 0.0:
        return np.nan
    return (length + left + left / (roundings(blocks) * UNIT)) * UPWARD


@intrinsic
def block_sum(
    typing: Any, isa: Any, stored: Any, w: Any, codes: Any, high: Any, digits: Any, d: Any, P: Any, p: Any, start: Any
) -> Any:
    """`(isa, stored, W, codes, high, D, d, P, p, start) -> f64`: u·Σ X·c of a block for sixteen rows, and `start`."""
    if not isinstance(isa, IsaType) or not isinstance(stored, StoredType):
        return None

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def at(which: int, start: Any, offset: int, llvm: Any) -> Any:
            first = pointer(context, builder, signature.args[which], args[which], start, ir.IntType(8))
            return _read(builder, first, offset, llvm)

        if signature.args[2].dtype == types.uint8:
            for offset in range(AHEAD, AHEAD + (512 if stored.stored == "eight" else 256), 64):
                first = pointer(context, builder, signature.args[2], args[2], args[3], ir.IntType(8))
                ask_for(builder, builder.gep(first, [ir.Constant(I64, offset)]))
        sums = [ir.Constant(I32X16.llvm, None)] * DIGITS
        for number, vector in _code_vectors(builder, stored.stored, lambda *rest: at(2, *rest), args[3], args[4]):
            for j in range(DIGITS):
                word = splatted(builder, at(5, args[6], 32 * j + 4 * number, I32), 16)
                sums[j] = dotted(isa, builder, sums[j], vector, builder.bitcast(word, I8X64.llvm))
        first = pointer(context, builder, signature.args[7], args[7], args[8], ir.IntType(8))
        factors = [splatted(builder, _read(builder, first, 8 * n, ir.DoubleType()), 16) for n in range(3)]
        return _whole(builder, sums, factors, splatted(builder, args[9], 16), stored.stored in ("four", "spread"))

    number = types.int64
    return F64X16(isa, stored, w, number, number, digits, number, P, number, types.float64), emit


def _read(builder: Any, first: Any, offset: int, llvm: Any) -> Any:
    """What lies `offset` bytes behind an address, at any alignment."""
    value = builder.load(builder.bitcast(builder.gep(first, [ir.Constant(I64, offset)]), llvm.as_pointer()))
    value.align = 1
    return value


def _whole(builder: Any, sums: list[Any], factors: list[Any], value: Any, narrow: bool) -> Any:
    """The digits' sums times u as one number in float64, and `value` added: exact.

    Of codes up to 15 the upper three digits are one integer: |d₄| ≤ 65, 32·65·15·2¹⁶ + 32·128·15·257 < 2³¹.
    """
    parts = [_joined(builder, sums[j], sums[j + 1], 8) for j in (0, 2)]
    parts = [parts[0], _joined(builder, parts[1], sums[4], 16)] if narrow else [*parts, sums[4]]
    fma_ = declared(builder, "llvm.fma.v16f64", F64X16.llvm, [F64X16.llvm] * 3)
    for part, factor in zip(parts, factors, strict=False):
        value = builder.call(fma_, [builder.sitofp(part, F64X16.llvm), factor, value])
    return value


def _joined(builder: Any, low: Any, high: Any, bits: int) -> Any:
    return builder.add(low, builder.shl(high, ir.Constant(low.type, [bits] * 16)))


def _code_vectors(builder: Any, layout: str, at: Callable[[Any, int, Any], Any], codes: Any, high: Any) -> Any:
    """Yield (number, vector): the codes of inputs 4·number … 4·number + 3 of the block, from 0 on."""
    vector = I8X64.llvm
    if layout in BYTES:
        first, last = BYTES[layout]
        yield from ((j, at(codes, 64 * j, vector)) for j in range(first, last))
        return
    for j in range(4):
        both = at(codes, 64 * j, vector)
        for half in (0, 1):
            if layout == ("six_high", "six_low")[half]:
                continue
            code = _moved(builder, both, -4 * half, 15)
            if layout == "five":
                bits = builder.bitcast(at(high, 8 * j + 32 * half, I64), ir.VectorType(ir.IntType(1), 64))
                sixteen = ir.Constant(vector, [16] * 64)
                code = builder.or_(code, builder.select(bits, sixteen, ir.Constant(vector, None)))
            elif layout != "four":
                code = builder.or_(code, _moved(builder, at(high, 64 * half, vector), 4 - 2 * j, 48))
            yield j + 4 * half, code


def _moved(builder: Any, value: Any, up: int, mask: int) -> Any:
    """Bytes shifted up, or down if that is below 0, and masked; sixteen bits at a time, as processors shift."""
    words = ir.VectorType(ir.IntType(16), 32)
    moved = (builder.shl if up > 0 else builder.lshr)(builder.bitcast(value, words), ir.Constant(words, [abs(up)] * 32))
    return builder.and_(builder.bitcast(moved if up else value, value.type), ir.Constant(value.type, [mask] * 64))


@njit(nogil=True, cache=True, _nrt=False)
def _plain(
    isa: Any, stored: Any, offset: Any, step: Any, W: Any, codes: Any, high: Any, scales: Any, blocks: Any,
    D: Any, d: Any, P: Any, p: Any,
) -> Any:  # fmt: skip
    """Q8_0, Q4_0, Q5_0."""
    value = splat_f64(0.0)
    for b in range(blocks):
        place = p + FACTORS * b
        start = -offset * (P[place + 3] + P[place + 4])
        total = block_sum(isa, stored, W, codes + step * b, high + 64 * b, D, d + 160 * b, P, place, start)
        value = fma(total, half_to_f64(load_halves(W, scales + 32 * b)), value)
    return value


@njit(nogil=True, cache=True, _nrt=False)
def _with_minimum(
    isa: Any, stored: Any, W: Any, codes: Any, high: Any, scales: Any, blocks: Any, D: Any, d: Any, P: Any, p: Any
) -> Any:
    """Q4_1, Q5_1."""
    value, least = splat_f64(0.0), splat_f64(0.0)
    for b in range(blocks):
        place = p + FACTORS * b
        total = block_sum(isa, stored, W, codes + 256 * b, high + 64 * b, D, d + 160 * b, P, place, 0.0)
        value = fma(total, half_to_f64(load_halves(W, scales + 64 * b)), value)
        least = fma(splat_f64(P[place + 3] + P[place + 4]), half_to_f64(load_halves(W, scales + 64 * b + 32)), least)
    return value + least


@njit(nogil=True, cache=True, _nrt=False)
def _k(
    isa: Any, stored: Any, W: Any, codes: Any, high: Any, scales: Any, fine: Any, blocks: Any,
    D: Any, d: Any, P: Any, p: Any,
) -> Any:  # fmt: skip
    """Q4_K, Q5_K."""
    value, least = splat_f64(0.0), splat_f64(0.0)
    scale, minimum = value, value
    for b in range(blocks):
        if b % 8 == 0:
            scale = half_to_f64(load_halves(W, scales + 8 * b))
            minimum = half_to_f64(load_halves(W, scales + 8 * b + 32))
        place = p + FACTORS * b
        total = block_sum(isa, stored, W, codes + 256 * b, high + 64 * b, D, d + 160 * b, P, place, 0.0)
        value = fma(total, scale * int_to_f64(unsigned_to_i32(load_bytes16(W, fine + 32 * b))), value)
        own = minimum * int_to_f64(unsigned_to_i32(load_bytes16(W, fine + 32 * b + 16)))
        least = fma(splat_f64(P[place + 3] + P[place + 4]), own, least)
    return value - least


@njit(nogil=True, cache=True, _nrt=False)
def _six(
    isa: Any, W: Any, codes: Any, high: Any, scales: Any, fine: Any, blocks: Any, D: Any, d: Any, P: Any, p: Any
) -> Any:
    """Q6_K."""
    value, other = splat_f64(0.0), splat_f64(0.0)
    scale = value
    for b in range(blocks):
        if b % 8 == 0:
            scale = half_to_f64(load_halves(W, scales + 4 * b))
        place, at, bits, digits = p + FACTORS * b, codes + 256 * b, high + 128 * b, d + 160 * b
        total = block_sum(isa, six_low(), W, at, bits, D, digits, P, place, -32.0 * P[place + 3])
        value = fma(total, scale * int_to_f64(signed_to_i32(load_bytes16(W, fine + 32 * b))), value)
        total = block_sum(isa, six_high(), W, at, bits, D, digits, P, place, -32.0 * P[place + 4])
        other = fma(total, scale * int_to_f64(signed_to_i32(load_bytes16(W, fine + 32 * b + 16))), other)
    return value + other


@njit(nogil=True, cache=True, _nrt=False)
def _groups(
    isa: Any, stored: Any, step: Any, shared: Any, W: Any, codes: Any, scales: Any, blocks: Any,
    D: Any, d: Any, P: Any, p: Any,
) -> Any:  # fmt: skip
    """INT8, INT4: a float32 scale and a zero point for `shared` blocks."""
    value = splat_f64(0.0)
    for b in range(blocks):
        group, place = scales + 128 * (b // shared), p + FACTORS * b
        total = block_sum(isa, stored, W, codes + step * b, 0, D, d + 160 * b, P, place, 0.0)
        total = fma(int_to_f64(load_i32(W, group + 64)), splat_f64(-P[place + 3] - P[place + 4]), total)
        value = fma(total, to_f64(load_f32(W, group)), value)
    return value


@njit(nogil=True, cache=True, _nrt=False)
def quantised_dot(
    isa: Any, kind: Any, W: Any, w0: Any, at: Any, panel: Any, width: Any, D: Any, d: Any, P: Any, p: Any
) -> Any:
    """`-> f64`: sixteen outputs of one row that was `cut`."""
    blocks = (width + 31) // 32
    first = panel * blocks
    nibbles, high = w0 + at[0] + 256 * first, w0 + at[3] + 64 * first
    if kind == 0:
        scales = w0 + at[1] + 32 * first
        return _plain(isa, eight(), 128.0, 512, W, w0 + at[0] + 512 * first, 0, scales, blocks, D, d, P, p)
    if kind == 1:
        return _plain(isa, four(), 8.0, 256, W, nibbles, 0, w0 + at[1] + 32 * first, blocks, D, d, P, p)
    if kind == 2:
        return _with_minimum(isa, four(), W, nibbles, 0, w0 + at[1] + 64 * first, blocks, D, d, P, p)
    if kind == 3:
        return _plain(isa, five(), 16.0, 256, W, nibbles, high, w0 + at[1] + 32 * first, blocks, D, d, P, p)
    if kind == 4:
        return _with_minimum(isa, five(), W, nibbles, high, w0 + at[1] + 64 * first, blocks, D, d, P, p)
    fine, eighths = w0 + at[2] + 32 * first, panel * ((blocks + 7) // 8)
    if kind == 5:
        return _k(isa, four(), W, nibbles, 0, w0 + at[1] + 64 * eighths, fine, blocks, D, d, P, p)
    if kind == 6:
        return _k(isa, five(), W, nibbles, high, w0 + at[1] + 64 * eighths, fine, blocks, D, d, P, p)
    if kind == 7:
        high = w0 + at[3] + 128 * first
        return _six(isa, W, nibbles, high, w0 + at[1] + 32 * eighths, fine, blocks, D, d, P, p)
    shared = at[5]
    scales = w0 + at[1] + 128 * panel * ((blocks + shared - 1) // shared)
    if kind == 8:
        return _groups(isa, eight(), 512, shared, W, w0 + at[0] + 512 * first, scales, blocks, D, d, P, p)
    return _groups(isa, four(), 256, shared, W, nibbles, scales, blocks, D, d, P, p)
