r"""Which token comes next: from one row of logits to one id.

In this order, which is transformers':

    1. repetition penalty r   x ← x/r where x ≥ 0, x·r where x < 0, for every id of the prompt and of what was generated
    2. temperature T          x ← (x − max x)/T
    3. top-k                  only the k largest stay
    4. top-p                  of those, by falling probability, an id stays where what is before it sums to less than p
    5. min-p                  of those, an id stays if its probability is at least min-p times the largest

Steps 1 and 2 are float64's own operations, rounded as IEEE 754 has it; every probability after that is the real number
exp(x)/Σ exp(x), and every comparison with p, min-p or u is decided as one of real numbers: no order of summation and no
library's exponential is in the choice (`lepton_ref.runtime.exponentials`).

Temperature 0 takes the largest x after step 1 and leaves the rest out. Among equal numbers the lower index goes first
in every step, so top-k keeps exactly k (transformers keeps all that are equal to the k-th).

A draw is the inverse of the distribution function, in the order of ids: the first id whose probability, added to those
of all ids before it, exceeds u. u is a multiple of 2⁻⁵³ in [0, 1), the first number of NumPy's Philox with the key
(seed, sequence) and the counter (0, step, 0, 0): it depends on nothing else, so neighbours in a batch change no draw.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lepton_ref.plain.attention import Exponent, sign_of_sum
from lepton_ref.plain.functions import exp
from lepton_ref.plain.interval import Interval
from lepton_ref.plain.real import Real
from lepton_ref.runtime.exponentials import Exponentials

WORD = 2**64
"""A seed is one word of Philox's key."""


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen.

    Attributes:
        temperature: 0 takes the likeliest; above 0 logits are divided by it and a token is drawn.
        top_k: draw among the k likeliest only; None for all.
        top_p: draw among the fewest whose probabilities sum to p; None for all.
        min_p: draw among those at least min-p times as likely as the likeliest; None for all.
        repetition_penalty: above 1, tokens that have occurred become less likely; 1 changes nothing.
        seed: the key of all draws.

    Raises:
        ValueError: a number outside its range.
        TypeError: no number at all.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_number("temperature", self.temperature, low=0, remedy="0 takes the likeliest token")
        if self.top_k is not None:
            require_integer("top_k", self.top_k, low=1, remedy="leave it out to keep all")
        if self.top_p is not None:
            require_number("top_p", self.top_p, low=0, high=1, remedy="leave it out to keep all")
        if self.min_p is not None:
            require_number("min_p", self.min_p, low=0, high=1, remedy="leave it out to keep all")
        penalty = self.repetition_penalty
        require_number("repetition_penalty", penalty, low=0, low_included=False, remedy="1 changes nothing")
        require_integer("seed", self.seed, low=0, high=WORD - 1, remedy="it is one word of a key")


def require_number(
    name: str, value: object, *, low: float, high: float = math.inf, low_included: bool = True, remedy: str
) -> None:
    """Raise TypeError for what is no real number, ValueError for one that is not finite or not from low to high."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not (low <= value <= high and math.isfinite(value)) or (value == low and not low_included):
        least = "at least" if low_included else "above"
        wanted = f"{least} {low} and finite" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name} is {value!r}, but must be {wanted}; {remedy}")


def require_integer(name: str, value: object, *, low: int, high: float = math.inf, remedy: str) -> None:
    """Raise TypeError for what is no integer, ValueError for one that is not from low to high."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not low <= int(value) <= high:
        wanted = f"at least {low}" if high == math.inf else f"from {low} to {high}"
        raise ValueError(f"{name} is {value!r}, but must be {wanted}; {remedy}")


def uniform(seed: int, sequence: int, step: int) -> float:
    """A multiple of 2⁻⁵³ in [0, 1) that depends on these three numbers alone."""
    stream = np.random.Philox(key=np.array([seed, sequence], dtype=np.uint64), counter=[0, step, 0, 0])
    return float(np.random.Generator(stream).random())


def choose(logits_v: ArrayLike, sampling: Sampling, *, seen: Iterable[int] = (), u: float = 0.0) -> int:
    """(V) -> an id.

    Args:
        logits_v: one row of logits; −inf is a probability of zero.
        sampling: how.
        seen: ids that the repetition penalty is for, those of the prompt and of what was generated.
        u: from `uniform`; greedy sampling does not read it.

    Raises:
        ValueError: a logit that is NaN or +inf, or no logit above −inf.
    """
    scores = filtered(logits_v, sampling, seen=seen)
    if sampling.temperature == 0:
        return int(np.argmax(scores))
    return Exponentials(scores).first(u, beyond=True)


def probabilities(logits_v: ArrayLike, sampling: Sampling, *, seen: Iterable[int] = ()) -> NDArray[np.float64]:
    """(V) -> (V), how probable each id is under this sampling, rounded once; greedy sampling gives all of it to one.

    Raises:
        ValueError: as `choose`.
    """
    scores = filtered(logits_v, sampling, seen=seen)
    if sampling.temperature == 0:
        scores = np.where(np.arange(scores.size) == np.argmax(scores), 0.0, -np.inf)
    return Exponentials(scores).shares()


def filtered(logits_v: ArrayLike, sampling: Sampling, *, seen: Iterable[int] = ()) -> NDArray[np.float64]:
    """(V) -> (V), the steps above: −inf where an id was removed, the largest 0 unless sampling is greedy.

    Raises:
        ValueError: as `choose`.
    """
    x: NDArray[np.float64] = np.array(logits_v, dtype=np.float64)
    _require_usable(x)
    with np.errstate(over="ignore"):  # overflow to ±inf is what these steps mean at the end of the range
        if sampling.repetition_penalty != 1:
            x = _penalised(x, np.fromiter(seen, dtype=np.int64), sampling.repetition_penalty)
        if sampling.temperature == 0:
            return x
        x = _tempered(x, sampling.temperature)
    if sampling.top_k is not None and sampling.top_k < x.size:
        x = _top_k(x, sampling.top_k)
    if sampling.top_p is not None and sampling.top_p < 1:
        x = _top_p(x, sampling.top_p)
    if sampling.min_p is not None:
        x[~Exponentials(x).at_least(sampling.min_p)] = -np.inf
    return x


def _require_usable(x: NDArray[np.float64]) -> None:
    if x.ndim != 1 or x.size == 0:
        raise ValueError(f"logits must be one row of shape (V), got {x.shape}")
    wrong = np.flatnonzero(np.isnan(x) | (x == np.inf))
    if wrong.size:
        raise ValueError(
            f"logits[{wrong[0]}] is {x[wrong[0]]}, one of {wrong.size} that no token can be drawn by; "
            "run_with_trace shows the op where they begin"
        )
    if x.max() == -np.inf:
        raise ValueError(f"all {x.size} logits are −inf, so no token has a probability; leave one of them finite")


def _penalised(x: NDArray[np.float64], seen: NDArray[np.int64], penalty: float) -> NDArray[np.float64]:
    x[seen] = np.where(x[seen] < 0, x[seen] * penalty, x[seen] / penalty)  # once, however often an id occurs
    if not np.isfinite(x.max()):
        raise ValueError(f"repetition_penalty {penalty} makes the logits overflow; give one nearer 1")
    return x


def _tempered(x: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    x -= x.max()  # the largest is 0 before it is divided, so nothing overflows upwards
    x /= temperature
    return x


def _top_k(x: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    edge = np.partition(x, x.size - k)[x.size - k]
    kept = x > edge
    kept[np.flatnonzero(x == edge)[: k - int(kept.sum())]] = True
    return np.where(kept, x, -np.inf)


def _top_p(x: NDArray[np.float64], p: float) -> NDArray[np.float64]:
    order = np.flatnonzero(x > -np.inf)
    order = order[np.argsort(-x[order], kind="stable")]
    stays = order[: Exponentials(x[order]).first(p, beyond=False) + 1]
    y = np.full_like(x, -np.inf)
    y[stays] = x[stays]
    return y


def choose_scalar(logits_v: Sequence[float], sampling: Sampling, *, seen: Iterable[int] = (), u: float = 0.0) -> int:
    """`choose` in plain numbers, every comparison one of real numbers: the specification."""
    x, s = [float(value) for value in logits_v], sampling
    for index in set(seen):
        x[index] = x[index] * s.repetition_penalty if x[index] < 0 else x[index] / s.repetition_penalty
    order = sorted(range(len(x)), key=lambda index: (-x[index], index))
    if s.temperature == 0:
        return order[0]
    z = {index: (x[index] - x[order[0]]) / s.temperature for index in order[: s.top_k] if x[index] > -math.inf}
    stays = list(z)
    if s.top_p is not None and s.top_p < 1:
        sums = [_against_share([z[i] for i in stays], count, s.top_p) for count in range(len(stays))]
        stays = [index for number, index in enumerate(stays) if number == 0 or sums[number] < 0]
    stays = sorted(index for index in stays if s.min_p is None or _against_exp(z[index], s.min_p) >= 0)
    return next(i for n, i in enumerate(stays) if _against_share([z[j] for j in stays], n + 1, u) > 0)


def _against_share(z: Sequence[float], count: int, share: float) -> int:
    """The sign of the first `count` exponentials' sum less a share of all."""
    terms: dict[Exponent, Fraction] = {}
    for number, each in enumerate(z):
        key = Exponent(Fraction(each))
        terms[key] = terms.get(key, Fraction(0)) + (number < count) - Fraction(share)
    return Real(lambda digits: sign_of_sum(terms, digits)).compare(0)


def _against_exp(z: float, share: float) -> int:
    """The sign of exp(z) − share."""
    return Real(lambda digits: exp(Interval.of(z, digits)), lambda m: z == 0 and m == 1).compare(Fraction(share))
