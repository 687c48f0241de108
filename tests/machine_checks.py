"""Checks of the machine models: literals worked out by hand, rows measured on hardware, NumPy's and libm's arithmetic.

Each takes `Tools`, so that a planted mistake can be put in. `value` runs both twins and compares their bits first.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lepton_ref.numerics import machine_units
from lepton_ref.numerics import machines as array_machines
from lepton_ref.numerics import tensor_core as array_core
from lepton_ref.plain import machine_dot
from lepton_ref.plain.formats import decode
from lepton_ref.plain.machines import MACHINES, Machine, Sums, TensorCore
from lepton_ref.plain.philox import random_bits

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Tools:
    """What is checked: the scalar specification, its vectorised twin, and the records."""

    dot: Callable[..., float] = machine_dot.dot
    step: Callable[[Sequence[float], Sequence[float], float, TensorCore], float] = machine_dot.step
    matmul: Callable[..., Reals] = array_machines.machine_matmul
    array_step: Callable[[Reals, Reals, Reals, TensorCore], Reals] = array_core.step
    unit: type[machine_units.GeneralUnit] = machine_units.GeneralUnit
    machines: Mapping[str, Machine] = field(default_factory=lambda: MACHINES)


def bits(value: float) -> bytes:
    return np.float64(value).tobytes()


def value(
    tools: Tools, machine: str | Machine, x: Sequence[float], w: Sequence[float], bias: float | None = None
) -> float:
    """What both twins give."""
    record = tools.machines[machine] if isinstance(machine, str) else machine
    scalar = tools.dot(x, w, bias, record)
    added = None if bias is None else np.array([bias], dtype=np.float64)
    array = tools.matmul(np.array([x], dtype=np.float64), np.array([w], dtype=np.float64), added, record)
    assert bits(scalar) == array.tobytes(), f"{record}: dot gives {scalar!r}, machine_matmul {array[0, 0]!r}"
    return scalar


def sums(tools: Tools, machine: str | Machine, terms: Sequence[float], bias: float | None = None) -> float:
    """The terms, each times 1."""
    return value(tools, machine, terms, [1.0] * len(terms), bias)


MEASURED = [
    (
        "v100-fp16",
        "b700 a1b2 4070 37bd",
        "375f 387e 32b8 bb31",
        "0x1.71913c0000000p-1",
        "0x1.1717d60000000p-1",
    ),
    (
        "v100-fp16",
        "3620 c18e adb2 b8c0",
        "30f1 b9f5 2667 280f",
        "0x1.3fef860000000p-2",
        "0x1.3594520000000p+1",
    ),
    (
        "v100-fp16-fp16",
        "3bd5 3c3e b534 3df8",
        "38ca b935 36bf 34ec",
        "0x1.fe80000000000p-1",
        "0x1.3700000000000p+0",
    ),
    (
        "a100-fp16",
        "3856 2c49 30f8 bcc4 34d0 3852 354d ac40",
        "bac6 b006 33ba b044 b926 366c bc9a ba03",
        "0x1.3436fa0000000p-1",
        "0x1.77daa00000000p-6",
    ),
    (
        "a100-fp16",
        "b701 b739 3cc1 b8ae 2ae5 34fb b810 3651",
        "b69b 3d04 bede 32a6 be7e 2a4a 3222 c041",
        "0x1.42caa40000000p-3",
        "-0x1.b309820000000p+1",
    ),
    (
        "a100-fp16-fp16",
        "2a93 3ec4 3f46 c054 2269 345c 3d8c 34c5",
        "956e 3481 3b78 3c50 b8ed b2ef 37a7 96c3",
        "0x1.a6c0000000000p-1",
        "0x1.4340000000000p+0",
    ),
    (
        "a100-fp16-fp16",
        "35f8 356c 34e2 9891 b194 b16e 3c1c bd9f",
        "3416 b6e6 bfc7 2c2c 2c80 39f1 c093 3c44",
        "0x1.fe80000000000p-1",
        "-0x1.d140000000000p+1",
    ),
    (
        "a100-bf16",
        "bfa0 bdb2 3f5b 3fe6 3f48 be4c 3f42 bf47",
        "bfb8 3f87 3f03 bfbb bfaa 3f09 bf76 bfc2",
        "0x1.ec5fd60000000p-2",
        "-0x1.6423160000000p-1",
    ),
    (
        "a100-bf16",
        "bfc0 3f0c 3e6a 3df2 3c21 3f2f be7d bf57",
        "4010 bf8f 3f8d 3f15 be75 c025 bf21 bf2e",
        "0x1.a86bfe0000000p-1",
        "-0x1.f0014a0000000p+1",
    ),
    (
        "a100-tf32",
        "5f9d3 1f74c 5ff49 5fa16",
        "5feef 5fd5d 1ddcd 1fccd",
        "0x1.cc77c20000000p-2",
        "0x1.6a128c0000000p-3",
    ),
    (
        "a100-tf32",
        "1f3ec 5ff9c 1f19c 1ff27",
        "1fc92 5f896 600ef 1fcfb",
        "0x1.931d7c0000000p-2",
        "0x1.c7ce860000000p+1",
    ),
    (
        "a100-tf32",
        "1f856 1ec49 1f0f8 5fcc4",
        "5fac6 5f006 1f3ba 5f044",
        "0x1.3389020000000p-1",
        "0x1.518f9a0000000p-2",
    ),
    (
        "h100-fp16",
        "b571 bd62 399c 3ba4 3c98 b717 bd1c a3cf bcf4 3b5d b4a9 4027 bb36 3c63 3c5e 3163",
        "351b bd1f 9f9a bdb0 3f91 3ac6 a9cd 2469 399e b861 bc80 3122 bd61 bdb2 b5ad bb0d",
        "0x1.5db3400000000p-3",
        "0x1.5bb3bc0000000p-1",
    ),
    (
        "h100-fp16",
        "b43f 3206 b922 a4f9 316b b9e7 3a7f b563 3494 2d1d 3567 ba1b 3e07 b57f bea4 37e1",
        "3c29 39b5 3b81 abb3 3479 bb3a b204 3cac b8dd bd1e 3715 26eb 400b 3cb6 b9c8 c0cf",
        "0x1.e1c3dc0000000p-1",
        "0x1.702eec0000000p+1",
    ),
    (
        "h100-fp16",
        "b21e b4aa 3794 b948 bc2b 1d9e 38ee 3bb8 38ff 350b 39a5 b9b2 39a8 bb67 3b62 ad6a",
        "bd56 39e3 3cc5 38e1 a177 bf32 ad2d b97d b92c afb9 30a2 b65d ba02 b861 bb26 3e6d",
        "0x1.2955820000000p-1",
        "-0x1.efed820000000p-1",
    ),
    (
        "h100-fp16-fp16",
        "3bd5 3c3e b534 3df8 b9e8 356e 3c05 3f47 3b17 3ae9 bc60 359f 2788 34e3 3c37 3ac8",
        "38ca b935 36bf 34ec bf9a 3797 be0b bc83 2df8 b98b ba97 4075 a388 40f2 30e1 b527",
        "0x1.cec0000000000p-1",
        "0x1.da00000000000p-1",
    ),
    (
        "h100-bf16",
        "3fdf bdea bf05 3e29 bf07 3ee6 4023 bf97 3f8e bf8c bf3a 3f92 bdee be84 3fa6 bf60",
        "3fcb 3f9b bd7a 3ea5 3f7f bd71 bf0a bec1 be63 bc13 3f88 bf5d bfb4 bf61 3f6c 3fba",
        "0x1.6083d40000000p-10",
        "-0x1.ca7ebe0000000p-2",
    ),
    (
        "h100-bf16",
        "3f7a 3f87 bea6 3fbf bf3d 3ead 3f80 3fe8 3f62 3f5d bf8c 3eb3 3cf1 3e9c 3f86 3f59",
        "3f19 bf26 3ed7 3e9d bff3 3ef2 bfc1 bf90 3dbf bf31 bf52 400e bc71 401e 3e1c bea4",
        "0x1.684af20000000p-1",
        "0x1.7989ba0000000p-1",
    ),
    (
        "h100-bf16",
        "bf3a 3ee9 bfe9 bf42 bf48 bfb6 bf52 bf81 bf17 bed7 be75 3dcd be55 3f8c 3faa 3eab",
        "bfdd bfab 3bb9 3f99 3f5a 4003 3e02 3fc6 3e3b 3fd5 bcb5 3e87 3f46 be3f bf99 3f28",
        "0x1.4403e80000000p-1",
        "-0x1.d88cca0000000p+2",
    ),
    (
        "h100-fp8",
        "1b bd 32 bc 26 b1 2b 1e 3e 38 34 b5 b5 aa 3f b8 af 2b b2 8d b6 38 35 9e 21 ba 97 89 ab 26 30 3e",
        "b6 2f 3a b3 b5 a6 b1 b2 b7 27 ad ba c3 31 a5 bb 07 bc 32 27 b2 38 b8 b0 b0 a6 28 ae 30 bc 2d b1",
        "0x0.0p+0",
        "0x1.cd58000000000p+0",
    ),
    (
        "h100-fp8",
        "37 38 aa 3b b3 2a 38 3e 36 35 b8 2b 0f 29 38 35 b8 37 03 ba ae a6 3a 3d 92 26 b0 af b3 33 42 2d",
        "31 b2 2d 29 bf 2f bc b9 1b b3 b5 40 87 41 21 aa b7 3f b2 31 ad 9d b8 3a 3d 3b 9b 86 bc ac 12 83",
        "0x0.0p+0",
        "0x1.e4f8000000000p+1",
    ),
]
"""Record, codes of A and of B, C, D: rows of `model_validation` in MATLAB-tensor-core (Copyright 2025 F. A. Khattak and
M. Mikaitis, BSD 2-Clause), chosen so that F one off, another alignment or another rounding gives other bits.
"""

E11, E10, E9 = 2.0**-11, 2.0**-10, 2.0**-9
"""Half, one and two units in the last place of 1 in fp16."""


def sequential_fp16_of_length_4096(tools: Tools) -> None:
    rng = np.random.default_rng(0)
    x, w = (rng.random(4096).astype(np.float16) for _ in range(2))
    exact = math.fsum(float(a) * float(b) for a, b in zip(x, w, strict=True))
    assert round(exact, 2) == 1009.62
    total = x[0] * w[0]
    for a, b in zip(x[1:], w[1:], strict=True):
        total = total + a * b
    assert float(total) == 925.5
    assert float(x @ w) == float((x * w).sum()) == 1009.5
    assert value(tools, "sequential-fp16", x.astype(float).tolist(), w.astype(float).tolist()) == 925.5


def order_of_addition(tools: Tools) -> None:
    assert sums(tools, "sequential-fp16", [1, E11, E11, E11]) == 1.0  # each is a tie, to even
    assert sums(tools, "sequential-fp16", [E11, E11, 1]) == 1 + E10
    assert sums(tools, "pairwise-fp16", [1, E11, E11, E11]) == 1 + E10
    assert sums(tools, "pairwise-fp16", [1, E11, E11]) == 1.0  # (1 + e) + e: the first part is the longer one
    assert sums(tools, "pairwise-fp16", [E11, E11, 1, E11]) == 1 + E10
    two = Sums("blocked", inputs="fp16", accumulate="fp16", order="blocked", block=2)
    assert sums(tools, two, [1, E11, E11, E11]) == 1 + E10
    assert sums(tools, two, [1, E11, E11, E11, E11]) == 1 + E9  # 1 + 2⁻¹⁰ is odd
    assert sums(tools, replace(two, block=3), [1, E11, E11, E11]) == 1.0
    assert sums(tools, "blocked-fp16", [1] + [E11] * 31) == 1.0
    assert sums(tools, "blocked-fp16", [1] + [E11] * 33) == 1 + E10


def kahan(tools: Tools) -> None:
    assert sums(tools, "kahan-fp16", [1, E11, E11]) == 1 + E10
    assert sums(tools, "kahan-fp16", [1, *[E11] * 8]) == 1 + 4 * E10
    assert sums(tools, "kahan-bf16", [1, *[2.0**-8] * 4]) == 1 + 2.0**-6
    assert math.isnan(sums(tools, "kahan-fp16", [math.inf, 1, 1]))  # (∞ − ∞) is what the loop computes
    assert sums(tools, "kahan-fp16", [4096, 1, -4096, 1]) == 1.0  # 4095 is a tie, to 4096: the 1 is lost


def products_are_rounded(tools: Tools) -> None:
    x, w = [-(1 + E9), 1 + E10], [1, 1 + E10]  # the second product is 1 + 2⁻⁹ + 2⁻²⁰
    assert value(tools, "sequential-fp16", x, w) == 0.0
    assert value(tools, "fma-fp16", x, w) == 2.0**-20
    assert value(tools, "sequential-fp32", x, w) == 2.0**-20
    assert value(tools, Sums("", "fp16", "bf16", "sequential"), [1 + E10], [1]) == 1.0


def inputs_are_rounded(tools: Tools) -> None:
    assert value(tools, Sums("", "bf16", "fp32", "sequential"), [1 + 2.0**-8], [1 + 3 * 2.0**-8]) == 1 + 2.0**-6
    assert value(tools, "a100-tf32", [1 + E11], [1 + 3 * E11]) == 1 + E9  # both are ties
    assert value(tools, "sequential-fp16", [65520], [1]) == math.inf
    assert math.isnan(value(tools, "h100-fp8", [500], [1]))  # E4M3 has no ∞; whoever scales keeps below 464


def nothing_is_rounded_twice(tools: Tools) -> None:
    wide = Sums("", "fp32", "fp16", "sequential")
    assert value(tools, wide, [1 + 2.0**-12], [1 + 2.0**-12]) == 1 + E10  # above the tie by 2⁻²⁴, a tie of fp32
    a, b = 80581 * 2.0**-27, 13325 * 2.0**-27  # a·b = 2⁻²⁴ + 2⁻⁵⁴
    assert value(tools, "fma-fp32", [1, a], [1, b]) == 1 + 2.0**-23  # above a tie by what float64 has no room for
    assert value(tools, "fma-fp32", [1 + 2.0**-22, -a], [1, b]) == 1 + 2.0**-23  # and below one, to the odd side
    assert value(tools, "fma-fp32", [-1, -a], [1, b]) == -1 - 2.0**-23
    small = Sums("", "tf32", "bf16", "sequential")
    a, b = 1141 * 2.0**-84, 1838 * 2.0**-71  # a·b is above 2⁻¹³⁴, a tie, by 6·2⁻¹⁵⁵: fp32 has no room for that
    assert value(tools, small, [a], [b]) == 2.0**-133


def a_bias_comes_last(tools: Tools) -> None:
    assert sums(tools, "sequential-fp16", [1, 2048], -2048) == 0.0
    assert sums(tools, "sequential-fp16", [-2048, 1], 2048) == 1.0
    assert sums(tools, "sequential-fp16", [2.0**-12], 1 + 2.0**-12 + 2.0**-14) == 1.0  # the bias is rounded, too
    assert sums(tools, "sequential-fp16", [], 3.0) == 3.0
    assert bits(sums(tools, "sequential-fp16", [])) == bits(0.0)
    assert bits(sums(tools, "sequential-fp16", [-0.0])) == bits(-0.0)  # no 0 is added at the start
    assert bits(sums(tools, "sequential-fp16", [-0.0], -0.0)) == bits(-0.0)
    assert sums(tools, "a100-fp16", [1], 2.0**-24 + 2.0**-40) == 1 + 2.0**-23  # to nearest, not cut off
    assert sums(tools, "a100-fp16-fp16", [2048], 1.0) == 2048.0
    assert sums(tools, "a100-fp16-fp16", [2048], 3.0) == 2052.0
    assert sums(tools, "h100-fp8", [1], 2.0**-20) == 1 + 2.0**-20  # an fp32 addition


def subnormals_are_flushed(tools: Tools) -> None:
    for x, w, kept in (([2.0**-15], [16384], 0.5), ([16384], [2.0**-15], 0.5), ([2.0**-8], [-(2.0**-7)], -(2.0**-15))):
        assert value(tools, "sequential-fp16", x, w) == kept
        assert bits(value(tools, "ftz-fp16", x, w)) == bits(math.copysign(0.0, kept))
    assert value(tools, "ftz-fp16", [2.0**-14, 2.0**-14], [1.5, -1]) == 0.0  # the sum is 2⁻¹⁵
    assert value(tools, "ftz-fp16", [1 - E11], [2.0**-14]) == 2.0**-14  # a tie, to even: subnormal before rounding only
    assert sums(tools, "sequential-fp16", [2.0**-14], 2.0**-24) == 2.0**-14 + 2.0**-24
    assert sums(tools, "ftz-fp16", [2.0**-14], 2.0**-24) == 2.0**-14
    assert value(tools, "ftz-fp32", [2.0**-70], [2.0**-70]) == 0.0
    fused = replace(MACHINES["ftz-fp16"], fused=True)
    assert value(tools, fused, [2.0**-14, 2.0**-14], [1.5, -1]) == 0.0
    assert value(tools, fused, [1, 2.0**-8], [2.0**-14, 2.0**-7]) == 1.5 * 2.0**-14  # the product is never by itself


def rounding_toward_zero(tools: Tools) -> None:
    cut = Sums("", "fp16", "fp16", "sequential", mode="zero")
    assert sums(tools, cut, [1, E10 - 2.0**-20]) == 1.0
    assert sums(tools, cut, [-1, -E10 + 2.0**-20]) == -1.0
    assert sums(tools, cut, [1, -(2.0**-24)]) == 1 - E11
    assert sums(tools, cut, [65504, 65504]) == 65504.0  # IEEE 754 §7.4
    assert sums(tools, "sequential-fp16", [65504, 65504]) == math.inf


def stochastic_rounding(tools: Tools) -> None:
    """1 + 2⁻¹² is a quarter of the way; rounding 2 (after two products) of each feature decides."""
    n, record = 512, replace(MACHINES["stochastic-fp16"], seed=2**40 + 5)
    x, w = np.array([[1, 2.0**-12], [1, 2.0**-12]]), np.ones((n, 2))
    y = tools.matmul(x, w, None, record, first_feature=3)
    drawn = [random_bits(2**40 + 5, o, 2) for o in range(3, n + 3)]
    expected = np.array([1 + E10 if draw < 2**62 else 1.0 for draw in drawn])
    assert np.array_equal(y, np.stack([expected, expected]))  # every row of the batch alike
    assert [tools.dot([1, 2.0**-12], [1, 1], None, record, feature=o) for o in range(3, n + 3)] == expected.tolist()
    shift = math.sqrt(math.log(2e9) / (2 * n))  # Hoeffding: farther from the mean once in 10⁹
    assert abs(float(np.mean(y[0] > 1)) - 0.25) <= shift
    other = tools.matmul(x, w, None, replace(record, seed=6), first_feature=3)
    assert not np.array_equal(other, y)


def steps_of_a_tensor_core(tools: Tools) -> None:
    half, quarter = 2.0**-24, 2.0**-25
    assert value(tools, "v100-fp16", [1, 2.0**-12, 2.0**-12], [1, 2.0**-12, 2.0**-12]) == 1.0
    assert value(tools, "a100-fp16", [1, 2.0**-12, 2.0**-12], [1, 2.0**-12, 2.0**-12]) == 1 + 2 * half
    assert value(tools, "a100-fp16", [1, 2.0**-12, -1], [1, 2.0**-12, 1]) == half
    assert value(tools, "h100-fp16", [1, *[2.0**-12] * 4], [1, *[2.0**-13] * 4]) == 1 + 4 * quarter
    assert value(tools, "a100-fp16", [1, *[2.0**-12] * 4], [1, *[2.0**-13] * 4]) == 1.0
    assert value(tools, "v100-fp16", [1, -(2.0**-12)], [1, 2.0**-12]) == 1.0  # toward zero
    assert value(tools, "a100-fp16", [1, -(2.0**-12)], [1, 2.0**-12]) == 1 - half
    assert value(tools, "a100-fp16", [-1, -(2.0**-12)], [1, 2.0**-12]) == -1.0
    late = [1, 0, 0, 0, 0, 0, 0, 0, 2.0**-12, 2.0**-12]  # the second step's are aligned to C
    assert value(tools, "a100-fp16", late, late) == 1 + 2 * half
    assert value(tools, "v100-fp16", late, late) == 1.0
    together = [2.0**-12, 2.0**-12, 2.0**-12, 1]
    assert value(tools, "v100-fp16", together, together) == 1.0
    early = [2.0**-12, 2.0**-12, 0, 0, 1]
    assert value(tools, "v100-fp16", early, early) == 1 + 2 * half
    tiny = [2.0**-7, 2.0**-7]
    assert value(tools, "h100-fp8", [1, *tiny], [1, *tiny]) == 1.0
    assert value(tools, "b200-fp8", [1, *tiny], [1, *tiny]) == 1 + 2.0**-13
    assert value(tools, "h100-fp8", [8, 2.0**-7, 2.0**-7], [1, 2.0**-3, 2.0**-3]) == 8 + 2.0**-9
    assert value(tools, "h100-fp8", [1.75, 1.75, 2.0**-6, 2.0**-6], [1.75, 1.75, 2.0**-7, 2.0**-7]) == 6.125
    assert value(tools, "b200-fp8", [1.75, 1.75, 2.0**-6, 2.0**-6], [1.75, 1.75, 2.0**-7, 2.0**-7]) == 6.125 + 2.0**-12


def exponents_of_a_tensor_core(tools: Tools) -> None:
    """1.5·1.5 = 2.25 has exponent 0, not 1; a subnormal has its format's least exponent."""
    core = TensorCore("", "fp16", products=4, fraction_bits=11)
    assert value(tools, core, [1.5, 2.0**-6, -1.5], [1.5, 2.0**-5, 1.5]) == E11
    assert value(tools, core, [2, 2.0**-6, -2], [1, 2.0**-5, 1]) == 0.0
    assert value(tools, core, [2.0**-24, 2.0**-14, -(2.0**-24)], [1, 2.0**-12, 1]) == 0.0  # cut off below 2⁻¹⁴⁻¹¹
    assert value(tools, core, [2.0**-24, -(2.0**-24)], [1, 0.5]) == 2.0**-25
    assert value(tools, "a100-tf32", [2.0**100, 1, 0], [0, 2.0**-40, 2.0**100]) == 2.0**-40  # zeros take no part
    least = replace(core, least_exponent=-10)
    assert value(tools, least, [2.0**-11, 2.0**-11], [2.0**-11, 2.0**-10]) == 2.0**-21
    assert value(tools, core, [2.0**-11, 2.0**-11], [2.0**-11, 2.0**-10]) == 3 * 2.0**-22


def results_of_a_tensor_core(tools: Tools) -> None:
    huge = 2.0**127
    assert value(tools, "a100-tf32", [huge, huge], [1, 1]) == math.inf  # though it rounds toward zero
    assert value(tools, "a100-tf32", [-huge, -huge], [1, 1]) == -math.inf
    assert value(tools, "a100-tf32", [huge, huge, -huge], [1, 1, 1]) == huge
    assert value(tools, "a100-tf32", [huge, huge, 0, 0, -huge], [1] * 5) == math.inf
    assert bits(value(tools, "a100-tf32", [-(2.0**-75)], [2.0**-75])) == bits(-0.0)
    assert value(tools, "a100-tf32", [2.0**-75, 2.0**-74], [1.5 * 2.0**-75, 2.0**-75]) == 2.0**-149
    assert value(tools, "a100-tf32", [2.0**-75, 2.0**-74], [1.5 * 2.0**-74, 2.0**-74]) == 3 * 2.0**-149
    assert bits(value(tools, "a100-fp16", [1, -1], [1, 1])) == bits(0.0)
    assert bits(value(tools, "a100-fp16", [-0.0, 0.0], [1, -1])) == bits(0.0)
    assert value(tools, "v100-fp16-fp16", [2048, 1], [1, 1]) == 2048.0
    assert value(tools, "v100-fp16-fp16", [2048, 3], [1, 1]) == 2052.0
    assert value(tools, "v100-fp16", [2048, 3], [1, 1]) == 2051.0
    assert value(tools, "v100-fp16-fp16", [65504, 16], [1, 1]) == math.inf
    assert value(tools, "v100-fp16-fp16", [65504, 8], [1, 1]) == 65504.0


def zeros_of_a_tensor_core(tools: Tools) -> None:
    """A cut leaves −0, which then is the accumulator; a sum of zeros is +0 all the same."""
    terms = [-(2.0**-75), 0, 0, 0, -0.0]
    assert bits(value(tools, "a100-tf32", terms, [2.0**-75, 1, 1, 1, 1])) == bits(0.0)
    assert bits(value(tools, "a100-tf32", terms, [2.0**-75, -1, -1, -1, 1])) == bits(0.0)


def kahan_and_ties_in_bf16(tools: Tools) -> None:
    """2⁻⁷ is bf16's unit at 1: ties to the even side, both up and down."""
    assert sums(tools, "sequential-bf16", [1, 2.0**-8]) == 1.0
    assert sums(tools, "sequential-bf16", [1 + 2.0**-7, 2.0**-8]) == 1 + 2.0**-6
    assert sums(tools, "sequential-bf16", [1, 2.0**-8 + 2.0**-15]) == 1 + 2.0**-7
    assert sums(tools, "kahan-bf16", [1 + 2.0**-7, 2.0**-8, 2.0**-8]) == 1 + 2.0**-6


def subnormals_of_fp16(tools: Tools) -> None:
    assert value(tools, "sequential-fp16", [2.0**-14], [2.0**-11]) == 0.0  # a tie, to even
    assert value(tools, "sequential-fp16", [2.0**-14], [3 * 2.0**-11]) == 2.0**-23
    assert value(tools, "sequential-fp16", [2.0**-14], [1.25 * 2.0**-10]) == 2.0**-24


def far_stochastic_sums(tools: Tools) -> None:
    """1 + 2⁻¹⁰⁰ goes up at a chance of 0 alone, which no seed here draws; float64 has no such number."""
    record = Sums("", "bf16", "bf16", "sequential", mode="stochastic")
    assert {sums(tools, replace(record, seed=seed), [1, 2.0**-100]) for seed in range(20)} == {1.0}
    unit = tools.unit(np.ones((1, 1)), np.ones((1, 1)), record, 0)
    unit.draws, unit.roundings = np.zeros((32, 1), dtype=np.uint64), 1  # the chance is 0
    assert unit.add(np.array([[2.0**-133]]), np.array([[2.0**-200]])) == 2.0**-132
    assert unit.multiply(0) == 1.0
    unit.x[0, 0], unit.w[0, 0] = -(2.0**-100), 2.0**-100
    assert unit.multiply(0) == -(2.0**-133)  # any fraction exceeds 0
    unit.x[0, 0] = -(2.0**228)
    assert unit.multiply(0) == -math.inf
    unit.x[0, 0] = 1.0
    unit.draws[:] = 2**62
    assert unit.add(np.array([[1.0]]), np.array([[2.0**-9]])) == 1.0  # a quarter does not exceed a quarter
    unit.draws[:] = 0
    assert unit.add(np.array([[1.0]]), np.array([[2.0**-100]])) == 1 + 2.0**-7
    assert unit.add(np.array([[1.0]]), np.array([[-(2.0**-100)]])) == 1.0
    with np.errstate(all="ignore"):  # as machine_matmul does
        assert unit.add(np.array([[math.inf]]), np.array([[1.0]])) == math.inf


def special_values(tools: Tools) -> None:
    inf, nan = math.inf, math.nan
    for name in ("sequential-fp16", "pairwise-bf16", "blocked-fp32", "fma-fp32", "ftz-fp16", "stochastic-bf16"):
        _special_values(tools, name)
    for name in ("v100-fp16", "a100-fp16-fp16", "a100-tf32", "h100-bf16"):
        _special_values(tools, name)
        assert sums(tools, name, [inf, *[0] * 40, 5]) == inf
        assert math.isnan(sums(tools, name, [inf, *[0] * 40, -inf]))
    assert math.isnan(value(tools, "h100-fp8", [nan, 1], [1, 1]))


def _special_values(tools: Tools, name: str) -> None:
    inf, nan, canonical = math.inf, math.nan, bits(math.nan)
    assert sums(tools, name, [1, inf, -5]) == inf
    assert sums(tools, name, [1, -inf, -5]) == -inf
    assert sums(tools, name, [1, 2], -inf) == -inf
    for terms in ([inf, -inf], [-inf, 1, inf], [nan, 1], [1, -nan]):
        assert bits(sums(tools, name, terms)) == canonical
    assert bits(value(tools, name, [0, 1], [inf, 1])) == canonical
    assert bits(value(tools, name, [inf, 1], [-0.0, 1])) == canonical
    assert bits(sums(tools, name, [inf], -inf)) == canonical


def as_numpy_computes(tools: Tools) -> None:
    """NumPy's scalars round each operation once: a loop over them is a sequential, pairwise or Kahan machine."""
    rng = np.random.default_rng(1)
    for dtype, name in ((np.float16, "fp16"), (np.float32, "fp32")):
        x, w = (rng.standard_normal((2, 3, 45)).astype(dtype)[k] for k in range(2))
        operands = x.astype(np.float64), w.astype(np.float64)
        for order, loop in (("sequential", _loop), ("pairwise", _tree), ("kahan", _kahan_loop)):
            y = tools.matmul(*operands, None, tools.machines[f"{order}-{name}"])
            expected = [[float(loop([a * b for a, b in zip(row, column, strict=True)])) for column in w] for row in x]
            assert np.array_equal(y, np.array(expected)), (order, name)


def _loop(products: list[np.floating]) -> np.floating:
    total = products[0]
    for product in products[1:]:
        total = total + product
    return total


def _tree(products: list[np.floating]) -> np.floating:
    """A counter of equal counts, merged from the right at the end."""
    stack: list[tuple[int, np.floating]] = []
    for product in products:
        stack.append((1, product))
        while len(stack) > 1 and stack[-1][0] == stack[-2][0]:
            (count, last), (_, before) = stack.pop(), stack.pop()
            stack.append((2 * count, before + last))
    while len(stack) > 1:
        (_, last), (count, before) = stack.pop(), stack.pop()
        stack.append((count, before + last))
    return stack[0][1]


def _kahan_loop(products: list[np.floating]) -> np.floating:
    total, correction = products[0], products[0] * 0
    for product in products[1:]:
        y = product - correction
        new = total + y
        correction, total = (new - total) - y, new
    return total


def as_the_processor_fuses(tools: Tools) -> None:
    """C's fmaf, which rounds once by its standard."""
    name = ctypes.util.find_library("m")
    assert name is not None, "a C library has a mathematical part"
    fmaf = ctypes.CDLL(name).fmaf
    fmaf.argtypes, fmaf.restype = [ctypes.c_float] * 3, ctypes.c_float
    rng = np.random.default_rng(2)
    x, w = ((rng.standard_normal((3, 40)) * np.exp2(rng.integers(-15, 15, (3, 40)))).astype("f4") for _ in range(2))
    y = tools.matmul(x.astype(np.float64), w.astype(np.float64), None, tools.machines["fma-fp32"])
    for i in range(3):
        for j in range(3):
            total = float(x[i, 0] * w[j, 0])
            for a, b in zip(x[i, 1:], w[j, 1:], strict=True):
                total = fmaf(float(a), float(b), total)
            assert total == y[i, j]


def measured(tools: Tools) -> None:
    """Rows that Khattak and Mikaitis measured: D from A, B and C in one step of the hardware."""
    for name, a, b, c, d in MEASURED:
        core = tools.machines[name]
        x, w = ([decode(int(code, 16), core.inputs) for code in codes.split()] for codes in (a, b))
        total, expected = float.fromhex(c), float.fromhex(d)
        assert len(x) == core.products
        assert bits(tools.step(x, w, total, core)) == bits(expected), (name, a)
        got = tools.array_step(np.array(x)[:, None], np.array(w)[:, None], np.array([[total]]), core)
        assert got.tobytes() == bits(expected), (name, a)
