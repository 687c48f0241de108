r"""RoPE's frequencies and the ways in which long-context models change them.

    default       fⱼ = θ^(−2j/R)
    linear        fⱼ / factor                                              (Chen et al. 2023, position interpolation)
    dynamic       θ' = θ·(factor·L/M − (factor − 1))^(R/(R − 2)) for a length L above M      (dynamic NTK)
    llama3        fⱼ kept where its wavelength is short, fⱼ/factor where long, a linear blend between
    yarn          a blend over j between fⱼ and fⱼ/factor; the result scaled by 0.1·ln factor + 1   (Peng et al. 2023)
    longrope      fⱼ / short[j] or fⱼ / long[j] by the length; scaled by √(1 + ln s / ln M)         (Ding et al. 2024)
    proportional  fⱼ / factors[j], the factors stored in the file (GGUF's rope_freqs); a pair of factor ∞ does not turn

M is the length that the model was first trained for. Where the frequencies depend on a length, it is the length that
the cache was created for, and without a cache the number of positions: so cutting a prompt in chunks changes nothing.
(transformers takes for L the largest position seen so far, plus one: there the chunks matter.)

Bound: the default's fⱼ errs by at most (2e + (2j/R)·|ln θ|)·2⁻⁵³ of itself, pow within e ulps: the rounded exponent
−2j/R enters multiplied by ln θ. linear, longrope and proportional add one unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "proportional")
LISTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"longrope": ("short_factors", "long_factors"), "proportional": ("short_factors",)}
)
"""Kind → which fields hold one number for each pair."""


@dataclass(frozen=True)
class Rope:
    """How a model rotates.

    Attributes:
        theta: the base θ.
        width: the rotary width R, even.
        kind: one of `KINDS`.
        factor: by how much the context is stretched.
        original_length: M.
        low_freq_factor, high_freq_factor: llama3's two bounds, in wavelengths per M.
        beta_fast, beta_slow: yarn's two bounds, in turns over M.
        truncate: yarn rounds its two bounds to whole pairs.
        attention_factor: yarn's and longrope's scale of the result; None for the papers' own.
        mscale, mscale_all_dim: yarn's attention factor as a quotient; None where the model has none.
        short_factors, long_factors: longrope's two lists; proportional uses short_factors.
        interleaved: pairs are neighbours, not halves.
    """

    theta: float
    width: int
    kind: str = "default"
    factor: float = 1.0
    original_length: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    interleaved: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown RoPE scaling {self.kind!r}; known: {', '.join(KINDS)}")
        if self.width <= 0 or self.width % 2:
            raise ValueError(f"the rotary width must be even and positive, got {self.width}")
        if not (self.theta > 0 and math.isfinite(self.theta)):
            raise ValueError(f"RoPE's base must be positive and finite, got {self.theta}")
        if not (self.factor > 0 and math.isfinite(self.factor)):
            raise ValueError(f"RoPE's scaling factor must be positive and finite, got {self.factor}")
        if self.kind in ("dynamic", "llama3", "yarn", "longrope") and self.original_length <= 0:
            raise ValueError(f"RoPE scaling {self.kind!r} needs the original length, got {self.original_length}")
        if self.kind == "dynamic" and self.width == 2:
            raise ValueError("dynamic RoPE scaling raises to R/(R − 2), so the rotary width must exceed 2, got 2")
        if self.kind == "llama3" and not self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"llama3 blends from low_freq_factor up to high_freq_factor, "
                f"got {self.low_freq_factor} and {self.high_freq_factor}"
            )
        if self.kind == "longrope" and self.attention_factor is None and self.factor > 1 and self.original_length == 1:
            raise ValueError("longrope divides by the logarithm of the original length, so it must exceed 1, got 1")
        if self.kind == "yarn" and self.theta == 1:
            raise ValueError("yarn divides by the logarithm of RoPE's base, so the base must not be 1")
        for name in LISTS.get(self.kind, ()):
            if len(getattr(self, name)) != self.width // 2:
                raise ValueError(f"{name} must hold {self.width // 2} numbers, got {len(getattr(self, name))}")

    @property
    def depends_on_length(self) -> bool:
        """Whether the frequencies change with the length of the context."""
        return self.kind in ("dynamic", "longrope")


def frequencies(rope: Rope, /, *, length: int) -> NDArray[np.float64]:
    """-> (R/2) radians per position, float64.

    Args:
        rope: the record.
        length: the context's length, for the kinds that depend on it.
    """
    plain = _default(rope.theta, rope.width)
    match rope.kind:
        case "linear":
            return np.divide(plain, rope.factor)
        case "dynamic":
            return _dynamic(rope, length)
        case "llama3":
            return _llama3(plain, rope)
        case "yarn":
            return _yarn(plain, rope)
        case "longrope":
            return np.divide(plain, rope.long_factors if length > rope.original_length else rope.short_factors)
        case "proportional":
            return np.divide(plain, rope.short_factors)
        case _:
            return plain


def attention_factor(rope: Rope, /) -> float:
    """The scale of the rotated numbers: 1 but for yarn and longrope."""
    if rope.kind not in ("yarn", "longrope"):
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.factor <= 1:
        return 1.0
    if rope.kind == "longrope":
        return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_length))
    if rope.mscale not in (None, 0) and rope.mscale_all_dim not in (None, 0):  # 0 is DeepSeek's way to leave one out
        return _yarn_scale(rope.factor, rope.mscale) / _yarn_scale(rope.factor, rope.mscale_all_dim)
    return _yarn_scale(rope.factor, 1.0)


def _default(theta: float, width: int) -> NDArray[np.float64]:
    return np.array([theta ** (-2 * j / width) for j in range(width // 2)])


def _dynamic(rope: Rope, length: int) -> NDArray[np.float64]:
    beyond = max(length, rope.original_length) - rope.original_length
    stretch = 1 + rope.factor * beyond / rope.original_length  # the formula above without its cancellation
    return _default(rope.theta * stretch ** (rope.width / (rope.width - 2)), rope.width)


def _llama3(plain: NDArray[np.float64], rope: Rope) -> NDArray[np.float64]:
    turns = rope.original_length * plain / (2 * math.pi)  # over the original length
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return np.add((1 - blend) * plain / rope.factor, blend * plain)


def _yarn(plain: NDArray[np.float64], rope: Rope) -> NDArray[np.float64]:
    def pair_that_turns(times: float) -> float:
        return rope.width * math.log(rope.original_length / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = pair_that_turns(rope.beta_fast), pair_that_turns(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.width - 1)
    if low == high:
        high += 0.001  # the reference code's way out of a division by zero
    ramp = np.clip((np.arange(rope.width // 2) - low) / (high - low), 0.0, 1.0)
    blended: NDArray[np.float64] = plain / rope.factor * ramp + plain * (1 - ramp)
    return blended


def _yarn_scale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0
