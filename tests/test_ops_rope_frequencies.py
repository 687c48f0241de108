"""RoPE's frequencies against decimal arithmetic that follows the papers, and against transformers in a slow test."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from exact import PI
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.numerics.bounds import ULPS, UNIT
from lepton_ref.ops import Rope, attention_factor, frequencies, rope_tables

FACTORS_SHORT, FACTORS_LONG = (1.0, 1.5, 2.0, 3.5), (1.25, 4.0, 16.0, 64.0)


def plain(theta: float | Decimal, width: int) -> list[Decimal]:
    return [(Decimal(theta).ln() * Decimal(-2 * j) / width).exp() for j in range(width // 2)]


def dynamic(rope: Rope, length: int) -> list[Decimal]:
    long, m, s = Decimal(max(length, rope.original_length)), Decimal(rope.original_length), Decimal(rope.factor)
    base = Decimal(rope.theta) * (s * long / m - (s - 1)) ** (Decimal(rope.width) / (rope.width - 2))
    return plain(base, rope.width)


def llama3(rope: Rope, length: int) -> list[Decimal]:
    """By wavelengths, as Meta's code has it: short ones stay, long ones are stretched, others lie between."""
    out = []
    for f in plain(rope.theta, rope.width):
        wavelength = 2 * PI / f
        if wavelength < rope.original_length / Decimal(rope.high_freq_factor):
            out.append(f)
        elif wavelength > rope.original_length / Decimal(rope.low_freq_factor):
            out.append(f / Decimal(rope.factor))
        else:
            low, high = Decimal(rope.low_freq_factor), Decimal(rope.high_freq_factor)
            smooth = (rope.original_length / wavelength - low) / (high - low)
            out.append((1 - smooth) * f / Decimal(rope.factor) + smooth * f)
    return out


def yarn(rope: Rope, length: int) -> list[Decimal]:
    """Peng et al., §3.2: γ of the turns that a pair makes over M, here by the pair's number as their code has it."""

    def pair(turns: float) -> Decimal:
        return rope.width * (rope.original_length / (2 * PI * Decimal(turns))).ln() / (2 * Decimal(rope.theta).ln())

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = Decimal(math.floor(low)), Decimal(math.ceil(high))
    low, high = max(low, Decimal(0)), min(high, Decimal(rope.width - 1))
    high += Decimal("0.001") if low == high else 0
    out = []
    for j, f in enumerate(plain(rope.theta, rope.width)):
        stretched = min(max((j - low) / (high - low), Decimal(0)), Decimal(1))
        out.append(stretched * f / Decimal(rope.factor) + (1 - stretched) * f)
    return out


def divided(rope: Rope, length: int) -> list[Decimal]:
    by = {
        "default": (1.0,) * (rope.width // 2),
        "linear": (rope.factor,) * (rope.width // 2),
        "longrope": rope.long_factors if length > rope.original_length else rope.short_factors,
        "proportional": rope.short_factors,
    }[rope.kind]
    return [f / Decimal(d) for f, d in zip(plain(rope.theta, rope.width), by, strict=True)]


FORMULAS = {"dynamic": dynamic, "llama3": llama3, "yarn": yarn}

ROPES = {
    "default": Rope(theta=10000.0, width=64),
    "a large base": Rope(theta=5e6, width=128),
    "linear": Rope(theta=10000.0, width=32, kind="linear", factor=4.0),
    "dynamic": Rope(theta=10000.0, width=64, kind="dynamic", factor=2.0, original_length=2048),
    "llama3": Rope(theta=500000.0, width=128, kind="llama3", factor=8.0, original_length=8192),
    "llama3, other bounds": Rope(
        theta=500000.0, width=64, kind="llama3", factor=32.0, original_length=8192, low_freq_factor=2.0,
        high_freq_factor=8.0,
    ),
    "yarn": Rope(theta=10000.0, width=128, kind="yarn", factor=16.0, original_length=4096),
    "yarn, bounds not whole": Rope(
        theta=150000.0, width=64, kind="yarn", factor=32.0, original_length=4096, truncate=False
    ),
    "yarn, other turns": Rope(
        theta=1e6, width=64, kind="yarn", factor=4.0, original_length=32768, beta_fast=64.0, beta_slow=2.0
    ),
    "yarn, one bound": Rope(
        theta=10000.0, width=8, kind="yarn", factor=4.0, original_length=8, beta_fast=8.0, beta_slow=4.0
    ),
    "longrope": Rope(
        theta=10000.0, width=8, kind="longrope", factor=32.0, original_length=4096,
        short_factors=FACTORS_SHORT, long_factors=FACTORS_LONG,
    ),
    "proportional": Rope(
        theta=10000.0, width=8, kind="proportional", short_factors=(1.0, 2.0, 8.0, math.inf)
    ),
}  # fmt: skip
LENGTHS = (1, 2048, 2049, 4096, 4097, 16384)


def units(rope: Rope) -> float:
    """Relative error in 2⁻⁵³: the default's, and what a scaling adds.

    dynamic: the base's own rounding, two powers and four operations, and the logarithm of what it grew by. llama3 and
    yarn: a blend errs absolutely by at most four times the default (its quotient cancels by less than half), and the
    result is at least 1/factor of the plain frequency.
    """
    default = 2 * ULPS + math.log(rope.theta) + 1
    if rope.kind in ("llama3", "yarn"):
        return default * (1 + 4 * rope.factor)
    return default + {"default": 0, "dynamic": 2 * ULPS + 4 + 8}.get(rope.kind, 1)


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize("length", LENGTHS)
def test_frequencies_equal_the_papers_formulas(name: str, length: int) -> None:
    rope = ROPES[name]
    with localcontext() as context:
        context.prec = 50
        want = FORMULAS.get(rope.kind, divided)(rope, length)
        got = frequencies(rope, length=length)
        assert got.dtype == np.float64
        assert got.shape == (rope.width // 2,)
        most = Decimal(units(rope) * UNIT)
        assert all(abs(Decimal(float(g)) - w) <= most * abs(w) for g, w in zip(got, want, strict=True))


LITERALS = [
    ("default", 1, 1, "0.74989420933245582730"),
    ("linear", 1, 1, "0.14058533129758728"),
    ("dynamic", 4096, 31, "0.0000444507144054441"),
    ("longrope", 4096, 3, "0.000285714285714"),
    ("longrope", 4097, 3, "0.000015625"),
]
"""Name, length, pair, value: 10⁴^(−2/64); 10⁴^(−2/32)/4; 10^(−3.875)/3; 10⁻³/3.5; 10⁻³/64."""


@pytest.mark.parametrize(("name", "length", "pair", "value"), LITERALS)
def test_frequencies_known_by_hand(name: str, length: int, pair: int, value: str) -> None:
    digits = len(value.rstrip("0").lstrip("0.").replace(".", ""))
    got = frequencies(ROPES[name], length=length)[pair]
    assert abs(got - float(value)) <= max(10.0 ** -(digits - 1), 2.0**-50) * float(value)


def test_a_pair_whose_factor_is_infinite_does_not_turn() -> None:
    assert frequencies(ROPES["proportional"], length=1)[3] == 0.0


def test_llama3_keeps_the_fast_pairs_and_stretches_the_slow_ones_exactly() -> None:
    rope = ROPES["llama3"]
    base = frequencies(Rope(theta=rope.theta, width=rope.width), length=1)
    got = frequencies(rope, length=1)
    wavelengths = 2 * math.pi / base
    fast, slow = wavelengths < 8192 / 4, wavelengths > 8192
    assert fast.any()
    assert slow.any()
    assert np.array_equal(got[fast], base[fast])
    assert np.array_equal(got[slow], base[slow] / 8)
    between = ~fast & ~slow
    assert ((base[between] / 8 < got[between]) & (got[between] < base[between])).all()


@settings(max_examples=15)  # each of every kind, exactly rounded
@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_others_than_dynamic_and_longrope_do_not_depend_on_the_length(one: int, other: int) -> None:
    for rope in ROPES.values():
        if not rope.depends_on_length:
            assert np.array_equal(frequencies(rope, length=one), frequencies(rope, length=other))


def test_dynamic_and_longrope_depend_on_the_length() -> None:
    ends = {
        rope.kind
        for rope in ROPES.values()
        if not np.array_equal(frequencies(rope, length=1), frequencies(rope, length=10**6))
    }
    assert ends == {rope.kind for rope in ROPES.values() if rope.depends_on_length} == {"dynamic", "longrope"}


@given(st.integers(1, 2048))
def test_dynamic_is_the_default_up_to_the_original_length(length: int) -> None:
    assert np.array_equal(frequencies(ROPES["dynamic"], length=length), frequencies(ROPES["default"], length=1))


YARN: dict[str, Any] = {"theta": 10000.0, "width": 128, "kind": "yarn", "original_length": 4096}
LONGROPE: dict[str, Any] = {
    "theta": 1e4,
    "width": 8,
    "kind": "longrope",
    "original_length": 4096,
    "short_factors": FACTORS_SHORT,
    "long_factors": FACTORS_LONG,
}
SCALES = [
    (ROPES["linear"], 1.0),
    (ROPES["llama3"], 1.0),
    (Rope(**YARN, factor=40.0), 1.3688879454113936),  # 0.1·ln 40 + 1
    (Rope(**YARN, factor=1.0), 1.0),
    (Rope(**YARN, factor=0.5), 1.0),
    (Rope(**YARN, factor=40.0, attention_factor=0.707), 0.707),
    (Rope(**YARN, factor=40.0, mscale=1.0, mscale_all_dim=1.0), 1.0),
    (
        Rope(**YARN, factor=40.0, mscale=0.707, mscale_all_dim=1.0),
        0.9210423553163399,
    ),  # (1 + 0.0707·ln 40)/(1 + 0.1·ln 40)
    (Rope(**YARN, factor=40.0, mscale=0.707), 1.3688879454113936),  # one of the two alone counts for nothing
    (Rope(**YARN, factor=40.0, mscale=0.707, mscale_all_dim=0.0), 1.3688879454113936),
    (Rope(**LONGROPE, factor=32.0), 1.1902380714238083),  # √(1 + 5/12): ln 32/ln 4096 is 5/12
    (Rope(**LONGROPE, factor=1.0), 1.0),
    (Rope(**LONGROPE, factor=32.0, attention_factor=1.25), 1.25),
]


@pytest.mark.parametrize(("rope", "scale"), SCALES)
def test_the_attention_factor(rope: Rope, scale: float) -> None:
    assert abs(attention_factor(rope) - scale) <= 4 * 2.0**-53 * scale


BAD: list[tuple[dict[str, Any], str]] = [
    ({"kind": "ntk"}, "unknown RoPE scaling 'ntk'; known: default, linear"),
    ({"width": 7}, "the rotary width must be even and positive, got 7"),
    ({"width": 0}, "the rotary width must be even and positive, got 0"),
    ({"theta": 0.0}, "RoPE's base must be positive and finite, got 0.0"),
    ({"theta": math.nan}, "RoPE's base must be positive and finite, got nan"),
    ({"factor": -1.0}, "RoPE's scaling factor must be positive and finite, got -1.0"),
    ({"kind": "yarn"}, "RoPE scaling 'yarn' needs the original length, got 0"),
    ({"kind": "yarn", "original_length": 8, "theta": 1.0}, "the base must not be 1"),
    ({"kind": "dynamic", "original_length": 8, "width": 2}, "the rotary width must exceed 2, got 2"),
    ({"kind": "llama3", "original_length": 8, "low_freq_factor": 4.0}, "up to high_freq_factor, got 4.0 and 4.0"),
    ({"kind": "longrope", "original_length": 8, "short_factors": (1.0,)}, "short_factors must hold 4 numbers, got 1"),
    ({"kind": "proportional"}, "short_factors must hold 4 numbers, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_a_wrong_record_is_refused_with_its_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Rope(**{"theta": 10000.0, "width": 8, **fields})


def _transformers_parameters(rope: Rope) -> dict[str, Any]:
    """transformers' `rope_parameters` of a record."""
    fields = {
        "factor": rope.factor,
        "original_max_position_embeddings": rope.original_length,
        "low_freq_factor": rope.low_freq_factor,
        "high_freq_factor": rope.high_freq_factor,
        "beta_fast": rope.beta_fast,
        "beta_slow": rope.beta_slow,
        "truncate": rope.truncate,
        "attention_factor": rope.attention_factor,
        "mscale": rope.mscale,
        "mscale_all_dim": rope.mscale_all_dim,
        "short_factor": list(rope.short_factors),
        "long_factor": list(rope.long_factors),
    }
    taken = {
        "linear": {"factor"},
        "dynamic": {"factor"},
        "llama3": {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
        "yarn": {
            "factor",
            "original_max_position_embeddings",
            "beta_fast",
            "beta_slow",
            "truncate",
            "attention_factor",
            "mscale",
            "mscale_all_dim",
        },
        "longrope": {"factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"},
    }[rope.kind]
    kept = {key: value for key, value in fields.items() if key in taken and value is not None}
    return {"rope_type": rope.kind, "rope_theta": rope.theta, **kept}


SCALED = [
    rope for rope in [*ROPES.values(), *(rope for rope, _ in SCALES)] if rope.kind not in ("default", "proportional")
]


@pytest.mark.slow
@pytest.mark.parametrize("rope", SCALED, ids=repr)
@pytest.mark.parametrize("length", LENGTHS)
def test_frequencies_equal_transformers(rope: Rope, length: int) -> None:
    """transformers computes them in float32: the exponent and every operation round to 2⁻²⁴, blends by factor more."""
    reason = "transformers and torch are not installed; they are the oracle here"
    pytest.importorskip("torch", reason=reason)
    functions = pytest.importorskip("transformers.modeling_rope_utils", reason=reason).ROPE_INIT_FUNCTIONS
    config = pytest.importorskip("transformers", reason=reason).LlamaConfig(
        hidden_size=2 * rope.width,
        num_attention_heads=2,
        head_dim=rope.width,
        max_position_embeddings=rope.original_length or 2048,
        rope_parameters=_transformers_parameters(rope),
    )
    got, scale = functions[rope.kind](config, "cpu", seq_len=length)
    want = frequencies(rope, length=length)
    most = (math.log(rope.theta) + 12 + 8 * rope.factor) * 2.0**-24
    assert (np.abs(got.numpy().astype(np.float64) - want) <= most * want).all()
    assert abs(scale - attention_factor(rope)) <= 4 * 2.0**-53 * scale


@pytest.mark.slow
def test_transformers_proportional_is_a_factor_for_some_pairs_and_infinity_for_the_others() -> None:
    reason = "transformers and torch are not installed; they are the oracle here"
    pytest.importorskip("torch", reason=reason)
    functions = pytest.importorskip("transformers.modeling_rope_utils", reason=reason).ROPE_INIT_FUNCTIONS
    config = pytest.importorskip("transformers", reason=reason).LlamaConfig(
        hidden_size=32,
        num_attention_heads=2,
        head_dim=16,
        rope_parameters={"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25, "factor": 2.0},
    )
    got, scale = functions["proportional"](config, "cpu")
    rope = Rope(theta=1e6, width=16, kind="proportional", short_factors=(2.0,) * 2 + (math.inf,) * 6)
    want = frequencies(rope, length=1)
    assert (np.abs(got.numpy().astype(np.float64) - want) <= (math.log(1e6) + 4) * 2.0**-24 * want).all()
    assert scale == attention_factor(rope) == 1.0


def test_each_sequence_may_have_frequencies_of_its_own() -> None:
    """Two sequences of different lengths under a scaling that depends on the length: each turns as it would alone."""
    rope, positions = ROPES["dynamic"], np.array([[5, 6, 7], [2998, 2999, 3000]])
    lengths = np.array([8, 3001])
    assert not np.array_equal(*(frequencies(rope, length=int(length)) for length in lengths))
    together = rope_tables(positions, rope, lengths=lengths, backend=NumpyBackend())
    for b in range(2):
        alone = rope_tables(positions[b : b + 1], rope, lengths=lengths[b : b + 1], backend=NumpyBackend())
        assert np.array_equal(together.cos[b : b + 1], alone.cos)
        assert np.array_equal(together.sin[b : b + 1], alone.sin)


@pytest.mark.parametrize(
    ("positions", "lengths", "message"),
    [
        (np.zeros((1, 2)), None, r"integers of shape \(B, T\), got float64 \(1, 2\)"),
        (np.zeros(2, dtype=np.int64), None, r"got int64 \(2,\)"),
        (np.zeros((1, 2), dtype=np.int64), None, "'dynamic' depends on the context's length; give lengths"),
        (np.zeros((2, 2), dtype=np.int64), np.array([1, 2, 3]), r"shape \(2,\) or \(1,\), got \(3,\)"),
    ],
)
def test_tables_of_wrong_positions_are_refused(positions: Any, lengths: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rope_tables(positions, ROPES["dynamic"], lengths=lengths, backend=NumpyBackend())
