"""Machine models: the arithmetic of real hardware and of the loops people write, with every rounding in its place.

Here order matters, and is written down. A record says what a machine does; `lepton_ref.plain.machine_dot` does it for
one dot product in exact fractions, and `lepton_ref.numerics.machines` for whole matrices, to the same bits.

Tensor cores: Xie et al., MMA-Sim, arXiv:2511.10909; Khattak and Mikaitis, Accurate Models of NVIDIA Tensor Cores,
arXiv:2512.07004, who publish 5,000 measured steps for each of the ten records of V100, A100 and H100 below: all come
out bit for bit, and the tests hold some. Those numbers are of moderate size; what they cannot show, the signs of zeros
and `least_exponent`, is as the sources' programs have it or, where those differ, as `TensorCore` says. B200's FP8
record is MMA-Sim's of tcgen05, without measurements; the published ones are of its mma.sync, which adds the
accumulator apart, rounded to nearest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

INPUTS = ("fp32", "tf32", "bf16", "fp16", "e4m3fn", "e5m2")
"""Formats of weights and activations: two significands make at most 48 bits, so float64 holds every product."""

ACCUMULATORS = ("fp32", "bf16", "fp16")
"""Formats that partial sums are rounded to."""

ORDERS = ("sequential", "pairwise", "blocked", "kahan")
"""How products are added; see `Sums`."""

SUM_MODES = ("even", "zero", "stochastic")
"""Rounding modes of `Sums`."""

RESULTS = ("fp32", "fp16")
"""Formats that a tensor core gives out."""


@dataclass(frozen=True)
class Sums:
    """A machine that multiplies and adds one number at a time and rounds after each operation.

    Weights and activations are first rounded to `inputs`, to nearest even. Each product is rounded to `accumulate`, and
    so is each addition. The sum begins with the first product, not with 0, and a sum of nothing is +0. A bias is
    rounded to `accumulate` to nearest even and added last.

    Orders: "sequential" from left to right. "blocked": sequential within blocks of `block` products, then the blocks'
    sums sequentially. "pairwise": n products are the sum of the first 2^j and of the others, 2^j being the largest
    power of two below n; each part likewise. That is the tree which an accumulator that merges equal counts builds on
    line, and zeros added at the end would not move it. "kahan": with a correction c, at first 0, each product p gives
    y = p − c, t = s + y, c = (t − s) − y, s = t, four roundings.

    Attributes:
        name: what `MACHINES` and `--precision` call it.
        inputs: one of `INPUTS`.
        accumulate: one of `ACCUMULATORS`.
        order: one of `ORDERS`.
        fused: a product is not rounded by itself but with the addition that follows it (fma); not in pairs, where two
            products meet.
        flush_to_zero: inputs, biases and results that are subnormal (after rounding) become zero, the sign kept.
        mode: one of `SUM_MODES`, for everything but the inputs and the bias. "stochastic" draws the chance of rounding
            number n (from 0, as they are executed) of output feature o from `random_bits(seed, o, n)`: neither the
            rest of the batch nor the way it is cut up changes it.
        seed: of "stochastic".
        block: of "blocked"; 32 by default, as many as a warp has lanes and a Q8_0 block has elements.

    Raises:
        ValueError: an attribute that is none of these.
    """

    name: str
    inputs: str
    accumulate: str
    order: str
    fused: bool = False
    flush_to_zero: bool = False
    mode: str = "even"
    seed: int = 0
    block: int = 32

    def __post_init__(self) -> None:
        _one_of(self.name, "inputs", self.inputs, INPUTS)
        _one_of(self.name, "accumulate", self.accumulate, ACCUMULATORS)
        _one_of(self.name, "order", self.order, ORDERS)
        _one_of(self.name, "mode", self.mode, SUM_MODES)
        _between(self.name, "seed", self.seed, 0, 2**64 - 1)
        _between(self.name, "block", self.block, 1, 2**31)
        if self.fused and self.order == "pairwise":
            raise ValueError(f"machine {self.name!r}: pairwise sums add two products, so fused must be False")


@dataclass(frozen=True)
class TensorCore:
    """A tensor core: many products and the accumulator added at once in fixed point, without rounding to nearest.

    Inputs are rounded to `inputs` to nearest even. A step takes the next `products` products (the last one what is
    left) and the accumulator C, at first +0. A number's exponent is that of its leading bit, and not below its format's
    least normal exponent; a product's exponent is the sum of its factors', whether or not it is 2 or more beyond that.
    Zeros take no part. With E the largest exponent, or `least_exponent` if that is larger, each product, exact, and C
    are cut off below 2^(E−F), toward zero, F being `fraction_bits`, and are added exactly. A sum of zero is +0. The sum
    becomes the new C: toward zero with `kept_bits` fraction bits where the result is fp32, but ∞ from 2¹²⁸ on; to
    nearest even in fp16. Subnormals are kept. NaN and ∞ follow IEEE 754; every NaN is the one NaN. A bias is rounded to
    `result` and added last by an ordinary addition to nearest even.

    Attributes:
        name: what `MACHINES` and `--precision` call it.
        inputs: one of `INPUTS`.
        products: how many there are in a step.
        fraction_bits: F.
        result: one of `RESULTS`.
        kept_bits: 23, or 13 for FP8 on Ada and Hopper; no part in an fp16 result.
        least_exponent: acts on products that lie far below the result's range alone.

    Raises:
        ValueError: an attribute that is none of these.
    """

    name: str
    inputs: str
    products: int
    fraction_bits: int
    result: str = "fp32"
    kept_bits: int = 23
    least_exponent: int = -133

    def __post_init__(self) -> None:
        _one_of(self.name, "inputs", self.inputs, INPUTS)
        _one_of(self.name, "result", self.result, RESULTS)
        _between(self.name, "products", self.products, 1, 1024)
        _between(self.name, "fraction_bits", self.fraction_bits, 1, 35)  # 1025 terms below 2^37 fit in 53 bits
        _between(self.name, "kept_bits", self.kept_bits, 1, 23)
        _between(self.name, "least_exponent", self.least_exponent, -300, 0)


Machine = Sums | TensorCore


def _one_of(name: str, attribute: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"machine {name!r}: {attribute} {value!r}; known: {', '.join(known)}")


def _between(name: str, attribute: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"machine {name!r}: {attribute} {value!r}; give an integer of {low} … {high}")


_ALL: tuple[Machine, ...] = (
    *(Sums(f"{order}-{f}", inputs=f, accumulate=f, order=order) for order in ORDERS for f in ACCUMULATORS),
    *(Sums(f"fma-{f}", inputs=f, accumulate=f, order="sequential", fused=True) for f in ACCUMULATORS),
    *(Sums(f"ftz-{f}", inputs=f, accumulate=f, order="sequential", flush_to_zero=True) for f in ACCUMULATORS),
    *(Sums(f"stochastic-{f}", f, f, order="sequential", mode="stochastic") for f in ("bf16", "fp16")),
    TensorCore("v100-fp16", "fp16", products=4, fraction_bits=23),
    TensorCore("v100-fp16-fp16", "fp16", products=4, fraction_bits=23, result="fp16", least_exponent=-19),
    TensorCore("a100-fp16", "fp16", products=8, fraction_bits=24, least_exponent=-132),
    TensorCore("a100-fp16-fp16", "fp16", products=8, fraction_bits=24, result="fp16", least_exponent=-20),
    TensorCore("a100-bf16", "bf16", products=8, fraction_bits=24, least_exponent=-132),
    TensorCore("a100-tf32", "tf32", products=4, fraction_bits=24, least_exponent=-132),
    TensorCore("h100-fp16", "fp16", products=16, fraction_bits=25),
    TensorCore("h100-fp16-fp16", "fp16", products=16, fraction_bits=25, result="fp16", least_exponent=-21),
    TensorCore("h100-bf16", "bf16", products=16, fraction_bits=25),
    TensorCore("h100-fp8", "e4m3fn", products=32, fraction_bits=13, kept_bits=13),
    TensorCore("b200-fp8", "e4m3fn", products=32, fraction_bits=25),
)

MACHINES: Mapping[str, Machine] = MappingProxyType({machine.name: machine for machine in _ALL})
"""Every machine by name. A second format in a tensor core's name is its result's; without one it is fp32."""


def get_machine(machine: str | Machine, /) -> Machine:
    """The machine of that name, or the record itself.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if isinstance(machine, Sums | TensorCore):
        return machine
    if not isinstance(machine, str) or machine not in MACHINES:
        raise ValueError(f"unknown machine {machine!r}; known: {', '.join(MACHINES)}")
    return MACHINES[machine]
