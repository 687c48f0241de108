r"""What ggml's linear layers multiply: activations in the blocks that go with a weight's format, one row at a time.

    Q8_0   32 numbers: d = amax/127, q = x·(1/d) half away from zero; d is kept as fp16; the value d·q
    Q8_1   as Q8_0, and s = d·Σq with the d that is not yet fp16, kept as fp16; it multiplies a weight's minimum
    Q8_K   256 numbers: c = 127/amax, q = c·x to nearest even, d = 1/c
    F16    each number to fp16; BF16 likewise; F32 and F64 take activations as they are

These are ggml's reference encoders, `quantize_row_q8_0_ref`, `quantize_row_q8_1_ref`, `quantize_row_q8_K_ref`, in which
every operation is rounded to float32. Builds for one processor may round q otherwise. A block that holds NaN or an
infinity is NaN, and of one so small that 1/d is infinite nothing is left. For Q8_K ggml takes c with the sign that
makes the largest number −127: c, d and q change their signs together, and d·q does not.

With a minimum m, a weight's block is d'·q' + m, and ggml takes m·s where the sum of m·(d·q) would be m·d·Σq. So a row
of activations is given as its values followed by s − d·Σq for each block, and a row of such a weight as its values
followed by its minima: one sum of products is both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

from lepton_ref.plain.formats import round_to

BLOCKS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("Q1_0", "Q2_0", "Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4"), "Q8_0")
    | dict.fromkeys(("Q4_1", "Q5_1"), "Q8_1")
    | dict.fromkeys(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0"), "Q8_K")
    | dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "Q8_K")
    | {"F16": "F16", "BF16": "BF16", "F32": "F32", "F64": "F32"}
)
"""A weight's format → that of the activations it is multiplied by (`vec_dot_type` in ggml-cpu.c)."""

LENGTHS: Mapping[str, int] = MappingProxyType({"Q8_0": 32, "Q8_1": 32, "Q8_K": 256})


def activations(x: Sequence[float], format: str) -> list[float]:
    """One row of activations, float32 numbers, as a weight of this format is multiplied by it.

    Raises:
        ValueError: an unknown format, or a row that is not whole blocks.
    """
    if format not in BLOCKS:
        raise ValueError(f"ggml has no activations for weights in {format!r}; known: {', '.join(BLOCKS)}")
    blocks = BLOCKS[format]
    if blocks in ("F16", "BF16"):
        return [round_to(number, "fp16" if blocks == "F16" else "bf16") for number in x]
    if blocks == "F32":
        return list(x)
    length = LENGTHS[blocks]
    if len(x) % length:
        raise ValueError(f"{blocks} takes rows of whole blocks of {length}, got {len(x)} numbers")
    parts = [_block(x[at : at + length], blocks) for at in range(0, len(x), length)]
    values = [y for part, _ in parts for y in part]
    return values + [rest for _, rest in parts] if blocks == "Q8_1" else values


def _block(x: Sequence[float], blocks: str) -> tuple[list[float], float]:
    """The values of one block, and s − d·Σq."""
    if not all(map(math.isfinite, x)):
        return [math.nan] * len(x), math.nan
    amax, whole = Fraction(max(map(abs, x))), blocks == "Q8_K"
    exact = _float32(amax / 127)
    inverse = _inverse(exact) if not whole else _float32(127 / amax) if amax else 0.0
    if inverse == 0 or math.isinf(inverse):  # of numbers so small, nothing is left in any format
        return [0.0] * len(x), 0.0
    if whole:
        return [_inverse(inverse) * round_to(_times(number, inverse), "int8") for number in x], 0.0
    d = round_to(exact, "fp16")
    codes = [round_to(_times(number, inverse), "int8", mode="away") for number in x]
    s = round_to(_float32(Fraction(exact) * Fraction(sum(codes))), "fp16")
    return [d * q for q in codes], s - d * sum(codes)


def _inverse(x: float) -> float:
    return _float32(1 / Fraction(x)) if x else 0.0


def _times(number: float, factor: float) -> float:
    return _float32(Fraction(number) * Fraction(factor))


def _float32(x: Fraction) -> float:
    return round_to(x, "fp32")
