"""The bounds of narrow arithmetics: evaluated in random orders and attacked, and bounds that leave out a term."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import exact
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from planted import mutated
from rounded import FORMATS, MACHINES, Machine, to_format

from lepton_ref.numerics import arithmetic as arithmetic_module
from lepton_ref.numerics import bounds, bounds_activation, bounds_linear, bounds_norm, bounds_softmax
from lepton_ref.numerics.arithmetic import ARITHMETICS, get_arithmetic, half_ulp, holds
from lepton_ref.ops.activation import ACTIVATIONS
from lepton_ref.plain.formats import FORMATS as FORMATS_OF_PLAIN
from lepton_ref.plain.formats import decode, round_to

Reals = NDArray[np.float64]
Found = Iterator[tuple[Reals, Any, Reals]]
"""What a search yields: the evaluation's value, the exact value, the bound."""


@dataclass
class Attack:
    """Draws for one arithmetic.

    Attributes:
        m: a module that holds the bounds, real or mutated.
        bare: no radius and no rounding to an output, so that the arithmetic's own errors are looked at.
    """

    rng: np.random.Generator
    name: str
    m: Any = bounds
    bare: bool = False

    @property
    def working(self) -> str:
        return ARITHMETICS[self.name].working

    @property
    def unit(self) -> float:
        return ARITHMETICS[self.name].unit

    def machine(self) -> Machine:
        return Machine(self.rng, **MACHINES[self.name])

    def draw(self, *shape: int, spread: float = 2.0) -> Reals:
        """Numbers of the working format."""
        x = self.rng.standard_normal(shape) * np.exp2(self.rng.uniform(-spread, spread, shape))
        return to_format(x, self.working)

    def ladder(self, *shape: int) -> Reals:
        """One, and numbers that a sum loses: nearly u; and nearly 2u where it cuts."""
        x = np.full(shape, self.unit * (1.998 if ARITHMETICS[self.name].blocks and self.rng.random() < 0.5 else 0.999))
        x[..., 0] = 1.0
        return to_format(x, self.working)

    def near(self, x: Reals) -> tuple[Reals, Reals | None]:
        """Numbers of the working format within a radius of x, and the radius; or x, and None."""
        if self.bare or self.rng.random() < 0.6:
            return x, None
        radius = np.abs(x) * 2.0 ** self.rng.integers(-12, -3)
        given = to_format(x + radius * self.rng.uniform(-1, 1, x.shape), self.working)
        return np.where(np.abs(given - x) <= radius, given, x), radius

    def rounds(self, y: Reals) -> tuple[Reals, dict[str, Any]]:
        """The result as it is, or rounded to a format."""
        output = "" if self.bare else self.rng.choice(["", "fp32", "bf16", "fp16"])
        how = {"arithmetic": self.name, "output": str(output) or None}
        return (to_format(y, str(output)) if output else y), how


def linear(a: Attack) -> Found:
    for step in range(40):
        n = int(a.rng.choice([1, 2, 5, 17, 40]))
        x, w = (a.ladder(2, n), np.ones((2, n))) if step % 4 == 0 else (a.draw(2, n, spread=6), a.draw(2, n, spread=6))
        b = a.draw(2) if step % 2 else None
        if step % 5 == 4 and ARITHMETICS[a.name].operands == "fp16":
            x = x * 2.0**-22  # operands underflow
        given, radius = a.near(to_format(x, a.working))
        y, how = a.rounds(a.machine().linear(given, w, b))
        x = to_format(x, a.working)
        yield y, exact.linear(x, w, b), a.m.linear_bound(x, w, b, radius=radius, **how)


def embed(a: Attack) -> Found:
    for scale in (math.sqrt(5), 7.3, 1.0):
        rows = a.draw(40)
        y, how = a.rounds(a.machine().embed(rows, scale=scale))
        want = exact.times(exact.decimals(rows), exact.decimals(np.full(rows.shape, scale)))
        yield y, want, a.m.embed_bound(rows, scale=scale, **how)


def add(a: Attack) -> Found:
    for _ in range(10):
        x, f = a.draw(30), a.draw(30)
        (x_given, x_radius), (f_given, f_radius) = a.near(x), a.near(f)
        y, how = a.rounds(a.machine().add(x_given, f_given))
        yield (
            y,
            exact.plus(exact.decimals(x), exact.decimals(f)),
            a.m.add_bound(x, f, radii=(x_radius, f_radius), **how),
        )


def rms_norm(a: Attack) -> Found:
    for step in range(30):
        n = int(a.rng.choice([1, 2, 7, 33]))
        x, w = a.draw(2, n) * 2.0 ** a.rng.integers(-9, 3), a.draw(n)
        if step % 3 == 0:
            x = np.sqrt(a.ladder(2, n))
        x, eps, offset = to_format(x, a.working), float(a.rng.choice([1e-6, 1e-5, 1e-3])), float(step % 2)
        given, radius = a.near(x)
        y, how = a.rounds(a.machine().rms_norm(given, w, eps=eps, offset=offset))
        bound = a.m.rms_norm_bound(x, w, eps=eps, offset=offset, radius=radius, **how)
        yield y, exact.rms_norm(x, w, eps=eps, offset=offset), bound


def layer_norm(a: Attack) -> Found:
    for _ in range(30):
        n = int(a.rng.choice([1, 2, 7, 33]))
        far = a.rng.choice([0.0, 1.0, 64.0])
        x, w, b = to_format(a.draw(2, n) + far, a.working), a.draw(n), a.draw(n)
        given, radius = a.near(x)
        y, how = a.rounds(a.machine().layer_norm(given, w, b, eps=1e-3))
        yield y, exact.layer_norm(x, w, b, eps=1e-3), a.m.layer_norm_bound(x, w, b, eps=1e-3, radius=radius, **how)


def softmax(a: Attack) -> Found:
    for _ in range(20):
        x = to_format(a.draw(2, int(a.rng.choice([1, 2, 6, 20]))) * a.rng.choice([1.0, 5.0]), a.working)
        given, radius = a.near(x)
        y, how = a.rounds(a.machine().softmax(given))
        yield y, exact.softmax(x), a.m.softmax_bound(x, radius=radius, **how)


def log_softmax(a: Attack) -> Found:
    for _ in range(20):
        x = to_format(a.draw(2, int(a.rng.choice([1, 2, 6, 20]))) * a.rng.choice([1.0, 5.0]), a.working)
        given, radius = a.near(x)
        y, how = a.rounds(a.machine().log_softmax(given))
        yield y, exact.log_softmax(x), a.m.log_softmax_bound(x, radius=radius, **how)


def softcap(a: Attack) -> Found:
    for cap in (0.3, 7.0, 30.0) * 3:
        x = a.draw(40, spread=6)
        given, radius = a.near(x)
        y, how = a.rounds(a.machine().softcap(given, cap=cap))
        yield y, exact.softcap(x, cap=cap), a.m.softcap_bound(x, cap=cap, radius=radius, **how)


def rope(a: Attack) -> Found:
    frequencies = 50.0 ** (-np.arange(3) / 3)
    for step in range(12):
        x, positions = a.draw(1, 3, 1, 8), a.rng.integers(0, 3000 if a.working == "fp32" else 40, (1, 3))
        given, radius = a.near(x)
        interleaved = bool(step % 2)
        y = a.machine().rope(given, positions, frequencies, factor=1.2, interleaved=interleaved)
        y, how = a.rounds(y)
        bound = a.m.rope_bound(
            x, positions, frequencies, factor=1.2, interleaved=interleaved, frequency_units=1, radius=radius, **how
        )
        halves = [0, 2, 4, 1, 3, 5] if interleaved else [0, 1, 2, 3, 4, 5]
        want = exact.rope_of_halves(x[0, :, 0, halves].T, positions[0], frequencies, factor=1.2)
        yield y[0, :, 0, halves].T, want, bound[0, :, 0, halves].T
        yield y[..., 6:], exact.decimals(x[..., 6:]), bound[..., 6:]


def attention(a: Attack) -> Found:
    for step in range(24):
        keys = int(a.rng.integers(1, 9))
        q, k, v = a.draw(2, 4), a.draw(keys, 4), a.draw(keys, 3, spread=5)
        mask = a.rng.random((2, keys)) < 0.7
        mask[:, 0] = True
        cap, sink, tiles = (None, 3.0)[step % 2], (None, 0.5)[step // 2 % 2], min(keys, (1, 3)[step // 4 % 2])
        near = [a.near(x[None, :, None]) for x in (q, k, v)]
        sinks = None if sink is None else np.array([sink])
        how: dict[str, Any] = {"scale": 0.5, "cap": cap}
        y = a.machine().attention(*(given for given, _ in near), mask[None], sinks, tiles=tiles, **how)
        y, rounding = a.rounds(y)
        bound = a.m.attention_bound(
            *(x[None, :, None] for x in (q, k, v)), mask[None], sinks, rescalings=tiles if tiles > 1 else 0,
            radii=tuple(radius for _, radius in near), **how, **rounding,
        )  # fmt: skip
        yield y[0, :, 0], exact.attention(q, k, v, mask, sink, **how), bound[0, :, 0]


def pool(a: Attack) -> Found:
    for step in range(12):
        x = to_format(a.draw(int(a.rng.choice([1, 2, 6])), 4, spread=3), a.working)
        given, radius = a.near(x[None])
        normalise, mask = bool(step % 2), np.ones((1, len(x)), dtype=bool)
        y, how = a.rounds(a.machine().mean_pool(given[0], normalise=normalise))
        bound = a.m.pool_bound(x[None], mask, kind="mean", normalise=normalise, radius=radius, **how)[0]
        yield y, exact.mean_pool(x, normalise=normalise), bound


def activation(kind: str) -> Callable[[Attack], Found]:
    def search(a: Attack) -> Found:
        for step in range(8):
            x = to_format(np.concatenate([a.rng.uniform(-14, 8, 25), a.rng.uniform(-110, 0, 5)]), a.working)
            up, textbook = a.draw(len(x)), bool(step % 2)
            (x_given, x_radius), (up_given, up_radius) = a.near(x), a.near(up)
            y, how = a.rounds(a.machine().activation(x_given, kind=kind, textbook=textbook))
            bound = a.m.activation_bound(x, kind=kind, textbook=textbook, radius=x_radius, **how)
            yield y, exact.activation(x, kind=kind), bound
            y, how = a.rounds(a.machine().gated(x_given, up_given, kind=kind, textbook=textbook))
            want = exact.times(exact.activation(x, kind=kind), exact.decimals(up))
            radii = (x_radius, up_radius)
            yield y, want, a.m.gated_bound(x, up, kind=kind, textbook=textbook, radii=radii, **how)

    return search


SEARCHES: dict[str, Callable[[Attack], Found]] = {
    "linear": linear,
    "embed": embed,
    "add": add,
    "rms_norm": rms_norm,
    "layer_norm": layer_norm,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "softcap": softcap,
    "rope": rope,
    "attention": attention,
    "pool": pool,
    **{kind: activation(kind) for kind in ACTIVATIONS},
}


def worst(found: Found) -> tuple[float, float]:
    """The largest |got − want|/bound where the bound is finite, and the share of bounds that are."""
    ratio, finite, count = 0.0, 0, 0
    for got, want, bound in found:
        assert not np.isnan(bound).any()
        kept = np.isfinite(bound)
        finite, count = finite + int(kept.sum()), count + bound.size
        assert np.isfinite(got[kept]).all(), "an overflow where the bound is finite"
        if kept.any():
            ratio = max(ratio, exact.worst_ratio(got[kept], want[kept], bound[kept]))
    return ratio, finite / count


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("op", SEARCHES)
def test_no_evaluation_is_further_from_the_exact_value_than_the_bound(op: str, name: str) -> None:
    ratio, finite = worst(SEARCHES[op](Attack(np.random.default_rng(11), name)))
    assert ratio <= 1
    assert finite > 0.5, "a bound that is infinite throughout promises nothing"


NO_SUBNORMALS = mutated(
    arithmetic_module, "np.maximum(exponent, f.emin + 1) - f.precision - 1", "exponent - f.precision - 1"
)
NO_BLOCKS = mutated(
    arithmetic_module, "gamma(n + 2 * math.ceil(n / BLOCK) + 1, unit=BLOCK_UNIT)", "gamma(n, unit=UNIT)"
)
NOT_READ = mutated(arithmetic_module, "np.where(is_number_of(x, f.name), 0.0, half_ulp(x, f.name))", "0.0 * x")
NOT_READ_AGAIN = mutated(arithmetic_module, "given + half_ulp(np.abs(x) + given, f.name)", "given")
NO_OUTPUT = mutated(arithmetic_module, "outer + half_ulp(size, output)", "outer")


def forgetful(module: Any, **names: Any) -> Any:
    """The module with some of the names that it imports replaced."""
    copy = mutated(module, module.__doc__, module.__doc__)
    vars(copy).update(names)
    return copy


def planted(op: str, name: str, module: Any, text: str, bug: str, *, bare: bool = True) -> Any:
    return pytest.param(op, name, mutated(module, text, bug), bare, id=f"{op}, {name}: {bug or 'without ' + text}")


def misled(op: str, name: str, module: Any, what: str, broken: Any, *, id: str, bare: bool = True) -> Any:
    return pytest.param(op, name, forgetful(module, **{what: getattr(broken, what)}), bare, id=id)


PLANTED = [
    planted("linear", "fp32", bounds_linear, "a.dot(w64.shape[1])", "a.dot(1)"),
    planted("linear", "bf16", bounds_linear, "matmul(rho, np.abs(w64)) + ", ""),
    planted("linear", "bf16", bounds_linear, "matmul(np.abs(x64) + rho, omega)", "0.0"),
    planted("linear", "pure_fp16", bounds_linear, " + w64.shape[1] * a.tiny", ""),
    planted("linear", "pure_bf16", bounds_linear, "[1]) * size", "[1]) * np.abs(x64 @ w64.T)"),
    planted("embed", "fp32", bounds_linear, "a.gamma(2) * size", "a.gamma(1) * size"),
    planted("add", "fp32", bounds_linear, "a.unit * (np.abs(y) + moved)", "a.unit / 2 * (np.abs(y) + moved)"),
    planted("add", "fp32", bounds_linear, "a.read(f64, radii[1])", "0", bare=False),
    planted("rope", "fp32", bounds_linear, "[:, :, None, :]) * angle", "[:, :, None, :]) * 0 * angle"),
    planted("rope", "fp32", bounds_linear, "(sin + aside) * rho[..., first] + ", "", bare=False),
    planted("rms_norm", "fp32", bounds_norm, "width / 2 + 7", "7"),
    planted("rms_norm", "pure_fp16", bounds_norm, "1.5 * a.tiny / least**2", "0 * least"),
    planted("rms_norm", "fp32", bounds_norm, "(rho + scaled * step) / least", "rho / least", bare=False),
    planted("layer_norm", "fp32", bounds_norm, "SLACK * a.gamma(width + 1) * mean_size", "0 * mean_size"),
    planted("layer_norm", "fp32", bounds_norm, "(rho + rho.mean(axis=-1, keepdims=True) + ", "(", bare=False),
    planted("pool", "fp32", bounds_norm, "a.gamma(count + 1)", "a.unit / 2"),
    planted("softmax", "fp32", bounds_softmax, "+ SPAN * (distance + moves)", ""),
    planted("softmax", "fp32", bounds_softmax, "np.minimum(y * np.expm1(moves) * SLACK, 1.0)", "0.0", bare=False),
    planted("log_softmax", "fp32", bounds_softmax, "terms = n - 1", "terms = -2 * ulps * (1 + log_total) - distance"),
    planted("softcap", "fp32", bounds_activation, "a.gamma(2 * ulps + 4) * (np", "a.gamma(ulps) * (np"),
    planted("attention", "bf16", bounds_softmax, "moved + theta * grown", "theta * grown"),
    planted("attention", "fp32", bounds_softmax, " + p @ rho", "", bare=False),
    planted("attention", "fp32", bounds_softmax, "delta + a.gamma(SPAN", "0 * delta + 0 * a.gamma(SPAN"),
    planted("silu", "fp32", bounds_activation, '_sigmoid(x), lambda x, e: 2 * e + 3,', '_sigmoid(x), lambda x, e: 3,'),
    planted("gelu", "fp32", bounds_activation, "2 * x * x, 1.0", "0.0, 1.0"),
    planted("gelu", "fp32", bounds_activation, "lost + 2 / a.largest", "2 / a.largest"),
    planted("silu", "pure_fp16", bounds_activation, "lost + 2 / a.largest", "lost"),
    planted("silu", "fp32", bounds_activation, "16 * UNIT * (1 + np.abs(x)) + shape.bend * rho", "0", bare=False),
    planted("relu", "fp32", bounds_activation, "a.gamma(1) * size", "0 * size"),
    misled("linear", "fp16", bounds_linear, "get_arithmetic", NO_SUBNORMALS, id="operands that underflow"),
    misled("linear", "tf32", bounds_linear, "get_arithmetic", NO_BLOCKS, id="blocks that cut"),
    misled("linear", "tf32", bounds_linear, "get_arithmetic", NOT_READ, id="operands not rounded"),
    misled("linear", "bf16", bounds_linear, "get_arithmetic", NOT_READ_AGAIN, id="moved operands", bare=False),
    misled("attention", "bf16", bounds_softmax, "get_arithmetic", NOT_READ, id="queries not rounded"),
    misled("softmax", "fp32", bounds_softmax, "finish", NO_OUTPUT, id="the output not rounded", bare=False),
]  # fmt: skip
"""(op, arithmetic, module of bounds, bare): each leaves out a term."""


@pytest.mark.parametrize(("op", "name", "module", "bare"), PLANTED)
def test_the_search_violates_a_bound_that_leaves_out_a_term(op: str, name: str, module: Any, bare: bool) -> None:
    ratios = (worst(SEARCHES[op](Attack(np.random.default_rng(s), name, module, bare)))[0] for s in range(20))
    assert any(ratio > 1 for ratio in ratios)


def test_the_search_sees_an_overflow_that_a_bound_ignores() -> None:
    ignoring = forgetful(bounds_norm, unless_beyond=lambda bound, *_: bound)
    x, w = np.array([[300.0, 1.0]]), np.ones(2)
    got, want = (
        Machine(np.random.default_rng(0), "fp16", "fp16").rms_norm(x, w, eps=1e-3),
        exact.rms_norm(x, w, eps=1e-3),
    )
    assert bounds.rms_norm_bound(x, w, eps=1e-3, arithmetic="pure_fp16").tolist() == [[np.inf, np.inf]]
    assert worst(iter([(got, want, ignoring.rms_norm_bound(x, w, eps=1e-3, arithmetic="pure_fp16"))]))[0] > 1


@given(x=st.floats(allow_nan=False, allow_infinity=False), name=st.sampled_from(["fp64", *FORMATS, "e4m3fn", "e5m2"]))
def test_half_an_ulp_is_what_rounding_moves_at_most(x: float, name: str) -> None:
    half = float(half_ulp(x, name))
    f = FORMATS_OF_PLAIN[name]
    assert (half == np.inf) == (abs(x) > f.largest)
    rounded = round_to(x, name)
    assert half == np.inf or abs(Fraction(rounded) - Fraction(x)) <= Fraction(half)
    exactly = float(ARITHMETICS["fp32"].read(np.array(x))) if name == "fp32" else None
    assert exactly is None or (exactly == 0) == (rounded == x)


@given(bits=st.integers(0, 2**16 - 2), name=st.sampled_from(["fp16", "bf16"]))
def test_half_an_ulp_is_reached(bits: int, name: str) -> None:
    """Halfway between two neighbours."""
    low, high = (decode(code, name) for code in (bits, bits + 1))
    if math.isfinite(low) and math.isfinite(high) and low != high and low * high >= 0:
        middle = (Fraction(low) + Fraction(high)) / 2
        assert Fraction(float(half_ulp(float(middle), name))) == abs(Fraction(high) - Fraction(low)) / 2


def test_literals() -> None:
    u = 2.0**-24
    one = np.ones((1, 3))
    slack = 1 + 2.0**-20
    assert 4 * u * 3 < bounds.linear_bound(one, one, arithmetic="fp32")[0, 0] < 4 * u * 3 * slack
    assert (4 + 2) * 2 * u * 3 < bounds.linear_bound(one, one, arithmetic="bf16")[0, 0] < 6 * 2 * u * 3 * (1 + 1e-5)
    rounded = bounds.linear_bound(one, one, arithmetic="fp32", output="bf16")[0, 0]
    assert 2.0**-7 + 12 * u <= rounded <= (2.0**-7 + 12 * u) * slack  # 3 is between 2 and 4: an ulp of bf16 is 2⁻⁶
    third = np.full((1, 1), 1 / 3)
    read = abs(float(to_format(1 / 3, "bf16")) - 1 / 3)
    assert 2 * read / 3 < bounds.linear_bound(third, third, arithmetic="bf16")[0, 0]
    assert bounds.embed_bound(one, arithmetic="bf16", output="bf16").tolist() == [[0.0, 0.0, 0.0]]
    assert bounds.add_bound(one, -one, arithmetic="fp16").tolist() == [[0.0, 0.0, 0.0]]


def test_nothing_is_promised_where_the_worst_case_is_vacuous_or_overflows() -> None:
    long = np.ones((1, 2048))
    assert bounds.linear_bound(long, long, arithmetic="pure_fp16") == np.inf
    assert bounds.linear_bound(long, long, arithmetic="fp16") < 1
    assert bounds.linear_bound(np.array([[300.0]]), np.array([[300.0]]), arithmetic="pure_fp16") == np.inf
    assert bounds.linear_bound(np.array([[300.0]]), np.array([[300.0]]), arithmetic="fp16", output="fp16") == np.inf
    assert bounds.linear_bound(np.array([[7e4]]), np.array([[0.0]]), arithmetic="fp16") == np.inf, (
        "an operand overflows"
    )
    assert bounds.rms_norm_bound(np.array([[300.0]]), np.ones(1), eps=1e-3, arithmetic="pure_fp16") == np.inf
    for bad in (np.nan, np.inf):
        assert (bounds.add_bound(np.array([bad]), np.ones(1)) == np.inf).all()


@given(seed=st.integers(0, 2**32 - 1))
def test_a_finer_arithmetic_has_a_smaller_bound_and_a_radius_only_adds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w, b = to_format(rng.standard_normal((2, 9)), "bf16"), to_format(rng.standard_normal((3, 9)), "bf16"), np.ones(3)
    found = [bounds.linear_bound(x, w, b, arithmetic=name) for name in ("fp64", "fp32", "pure_fp16", "pure_bf16")]
    assert all((fine < coarse).all() for fine, coarse in itertools.pairwise(found))
    norms = [
        bounds.layer_norm_bound(x, w[0], w[1], eps=1e-3, radius=np.full(x.shape, radius), arithmetic="fp32")
        for radius in (0.0, 1e-6, 1e-3)
    ]
    assert all((small < large).all() for small, large in itertools.pairwise(norms))


def test_the_slopes_of_activations_are_not_exceeded() -> None:
    """On a fine grid: |g'| and |g''| by differences of the float64 values, and the g' that the table has."""
    x, step = np.linspace(-20, 20, 400_001), 1e-4
    for name, shape in bounds_activation.SHAPES.items():
        slope = np.diff(shape.value(x)) / step
        assert np.abs(slope).max() <= shape.steepest + 1e-9
        if name != "relu":  # which has a corner
            assert np.abs(slope - shape.slope(x[:-1] + step / 2)).max() < 2e-4
            assert np.abs(np.diff(slope) / step).max() <= shape.bend + 1e-3


def test_what_is_unknown_is_named_with_what_is_known() -> None:
    with pytest.raises(ValueError, match=r"^unknown arithmetic 'fp8'; known: fp64, fp32, tf32, bf16, fp16, pure_fp16"):
        get_arithmetic("fp8")
    with pytest.raises(ValueError, match=r"^unknown floating-point format 'int8'; known: fp64"):
        bounds.add_bound(np.ones(1), np.ones(1), output="int8")
    with pytest.raises(ValueError, match=r"^unknown activation 'swish'; known: relu"):
        bounds.gated_bound(np.ones(2), np.ones(2), kind="swish")
    assert get_arithmetic(ARITHMETICS["bf16"]) is ARITHMETICS["bf16"]
    assert holds("fp32", "bf16")
    assert not holds("bf16", "fp16")
    assert not holds("fp16", "bf16")
