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

The formulas as real numbers are `lepton_ref.plain.rope`'s, and RoPE itself takes nothing else: no power, logarithm or
angle of any mathematical library is in its tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from lepton_ref.plain import rope as plain
from lepton_ref.plain.real import Real

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
    """-> (R/2) radians per position: each real number above rounded once to float64.

    Args:
        rope: the record.
        length: the context's length, for the kinds that depend on it.

    Raises:
        ValueError: a factor of zero or NaN.
    """
    pairs = range(rope.width // 2)
    return np.array([Real(plain.frequency(rope, pair, length=length)).round("fp64") for pair in pairs])


def attention_factor(rope: Rope, /) -> float:
    """The scale of the rotated numbers, rounded once to float64: 1 but for yarn and longrope."""
    return plain.attention_factor(rope).round("fp64")
