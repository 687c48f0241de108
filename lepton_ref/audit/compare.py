r"""Two models of one architecture side by side: their weights, what their layers give, and what they predict.

    weights   e = b − a over a tensor: rms √(Σe²/n), largest |e|, relative √(Σe²/Σa²)
    layers    the same over what each layer hands to the next, at the same tokens
    logits    KL(a‖b) = Σᵥ p_a(v)·(log p_a(v) − log p_b(v)) at each position, from the logits in float64; its mean over
              positions, with the interval between the 2.5 % and 97.5 % quantiles of the means of resampled windows'
              positions (bootstrap, the seed is part of the result); how often both put the same token first

The text is cut into windows of W tokens that do not overlap; each is run on its own, from position 0, by both models,
and every position of it is compared. Sums are of panels, added exactly: no order of panels is in the result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.interface import HostArray
from lepton_ref.numerics.philox import random_bits
from lepton_ref.storage import Weight

PANEL = 1 << 20
"""Elements of a weight that are decoded at a time."""

RESAMPLES = 1000
"""Means that a bootstrap interval is read from."""

Reals = NDArray[np.float64]
Progress = Callable[[list[str]], Iterable[str]]


@dataclass
class Difference:
    """How far b is from a, summed up panel by panel.

    Attributes:
        name: of what.
        elements: how many numbers.
        largest: the largest |b − a|.
        odd: numbers that are finite in one alone, or both not finite and not the same.
        squares: parts of Σ(b − a)².
        sizes: parts of Σa².
        note: what else there is to say.
    """

    name: str
    elements: int = 0
    largest: float = 0.0
    odd: int = 0
    squares: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    note: str = ""

    def add(self, a: HostArray, b: HostArray) -> None:
        """Take a panel in: arrays of one shape."""
        x, y = (np.asarray(array, dtype=np.float64).ravel() for array in (a, b))
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        finite = np.isfinite(x) & np.isfinite(y)
        with np.errstate(over="ignore"):
            e = np.where(finite & ~same, np.where(finite, y, 0) - np.where(finite, x, 0), 0.0)
            self.squares.append(float(np.dot(e, e)))
            self.sizes.append(float(np.sum(np.square(x, where=finite, out=np.zeros_like(x)))))
        self.largest = max(self.largest, float(np.max(np.abs(e), initial=0.0)))
        self.odd += int(np.count_nonzero(~finite & ~same))
        self.elements += x.size

    @property
    def rms(self) -> float:
        """√(Σ(b − a)²/n)."""
        return math.sqrt(math.fsum(self.squares) / max(1, self.elements))

    @property
    def relative(self) -> float:
        """√(Σ(b − a)²/Σa²); 0 where both are zero, infinite where only a is."""
        error, size = math.fsum(self.squares), math.fsum(self.sizes)
        if error == 0:
            return 0.0
        return math.inf if size == 0 else math.sqrt(error / size)

    def row(self) -> dict[str, Any]:
        """For a table; nothing stands for what was not compared."""
        shown = {"rms": self.rms, "largest": self.largest, "relative": self.relative, "not finite": self.odd}
        numbers = shown if self.elements else dict.fromkeys(shown)
        return {"name": self.name, **numbers, "note": self.note}


@dataclass(frozen=True)
class Predictions:
    """How two models' predictions differ on a text.

    Attributes:
        kl: the mean KL(a‖b), in nats.
        kl_low, kl_high: the bootstrap's 95 % interval of the mean.
        kl_largest: of one position.
        agreement: the share of positions where both put the same token first.
        positions: how many were compared.
        window: tokens that were run at a time.
        seed: of the bootstrap.
        layers: the difference of what each layer gives.
    """

    kl: float
    kl_low: float
    kl_high: float
    kl_largest: float
    agreement: float
    positions: int
    window: int
    seed: int
    layers: tuple[Difference, ...]

    @property
    def protocol(self) -> str:
        """What was done, in one sentence."""
        return (
            f"windows of {self.window} tokens that do not overlap, each from position 0; all {self.positions} "
            f"positions compared; interval: {RESAMPLES} resamples of positions, seed {self.seed}"
        )


def compare_weights(
    a: Mapping[str, Weight], b: Mapping[str, Weight], /, *, progress: Progress | None = None
) -> list[Difference]:
    """The difference of each tensor that both have; those that one lacks, or has in another shape, say so in a note.

    Args:
        a: what is measured against, by name.
        b: the other.
        progress: wraps the list of names while it is worked through.

    Raises:
        ValueError: they have no name in common.
    """
    names = [*a, *(name for name in b if name not in a)]
    if not any(name in b for name in a):
        raise ValueError(
            f"the two have no tensor in common; a has {next(iter(a), 'none')}, b has {next(iter(b), 'none')}"
        )
    found = []
    for name in names if progress is None else progress(names):
        here = Difference(name)
        found.append(here)
        if name not in a or name not in b:
            here.note = "only in b" if name not in a else "only in a"
        elif a[name].shape != b[name].shape:
            here.note = f"{a[name].shape} in a, {b[name].shape} in b"
        else:
            _add_weight(here, a[name], b[name])
            here.note = a[name].format if a[name].format == b[name].format else f"{a[name].format} → {b[name].format}"
    return found


def _add_weight(here: Difference, a: Weight, b: Weight) -> None:
    step = max(1, PANEL // max(1, math.prod(a.shape[1:])))
    for start in range(0, a.shape[0], step):
        stop = min(start + step, a.shape[0])
        here.add(a.rows(start, stop), b.rows(start, stop))


def by_layer(differences: Iterable[Difference], /) -> list[Difference]:
    """The differences of tensors added up layer by layer; what belongs to no layer stays alone."""
    found: dict[str, Difference] = {}
    for one in differences:
        match = re.match(r"(?:layers|blk|model\.layers)\.(\d+)\.", one.name)
        name = one.name if match is None else f"layer {match[1]}"
        into = found.setdefault(name, Difference(name))
        into.elements += one.elements
        into.largest = max(into.largest, one.largest)
        into.odd += one.odd
        into.squares += one.squares
        into.sizes += one.sizes
    return list(found.values())


def compare_predictions(
    a: Any, b: Any, ids: Sequence[int], /, *, window: int = 256, seed: int = 0, progress: Progress | None = None
) -> Predictions:
    """What two models give at the tokens of a text.

    Args:
        a: a `Model` with a language model's head.
        b: another of the same vocabulary and number of layers.
        ids: the tokens; at least one.
        window: tokens that are run at a time.
        seed: of the bootstrap.
        progress: wraps the list of windows while it is worked through.

    Raises:
        ValueError: models whose vocabularies or layers differ, no tokens, a window below 1, or logits that are NaN.
    """
    _require_alike(a, b)
    if type(window) is not int or window < 1:
        raise ValueError(f"window is {window!r}; give at least 1 token")
    if len(ids) == 0:
        raise ValueError("there are no tokens to compare at; give a text")
    names = layer_outputs(a.program)
    layers = {name: Difference(_short(name)) for name in names}
    kl: list[Reals] = []
    same: list[NDArray[np.bool_]] = []
    starts = {f"tokens {at}": at for at in range(0, len(ids), window)}
    for start in starts if progress is None else progress(list(starts)):
        fed = [int(token) for token in ids[starts[start] : starts[start] + window]]
        left, right = _traced(a, fed), _traced(b, fed)
        for name in names:
            layers[name].add(left[name], right[name])
        kl.append(kl_divergence(left.output[0], right.output[0]))
        same.append(left.output[0].argmax(axis=-1) == right.output[0].argmax(axis=-1))
    every = np.concatenate(kl)
    low, high = bootstrap_interval(every, seed=seed)
    return Predictions(
        kl=math.fsum(every) / len(every), kl_low=low, kl_high=high, kl_largest=float(every.max()),
        agreement=float(np.concatenate(same).mean()), positions=len(every), window=window, seed=seed,
        layers=tuple(layers.values()),
    )  # fmt: skip


def _traced(model: Any, fed: list[int]) -> Any:
    """A run as the model generates: one whose cache rounds keys and values runs with that cache."""
    cache = None if model.kv_cache == "dense" else model.new_cache(capacity=len(fed))
    return model.run_with_trace([fed], cache=cache)


def kl_divergence(a: HostArray, b: HostArray, /) -> Reals:
    """`(T, V), (T, V) logits -> (T)` KL(a‖b) in nats, in float64.

    Raises:
        ValueError: shapes that differ, or logits that are NaN or +∞.
    """
    if a.shape != b.shape:
        raise ValueError(f"logits of shapes {a.shape} and {b.shape} cannot be compared; are the vocabularies the same?")
    for name, logits in (("a", a), ("b", b)):
        wrong = np.isnan(logits) | (logits == np.inf)
        if wrong.any():
            raise ValueError(
                f"{int(wrong.sum())} logits of {name} are NaN or infinite; a model's Model.run_with_trace shows where"
            )
    p, q = log_softmax(a), log_softmax(b)
    probability = np.exp(p)
    with np.errstate(invalid="ignore"):  # a token without a chance is −∞ in both, and counts nothing
        terms = np.where(probability > 0, probability * (p - q), 0.0)
    return np.asarray(np.maximum(terms.sum(axis=-1), 0.0))  # its roundings may be below the true value's zero


def log_softmax(logits: HostArray, /) -> Reals:
    """`(..., V) -> (..., V)` the logarithms of probabilities, in float64."""
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def bootstrap_interval(values: Reals, /, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """`(N) ->` the 2.5 % and 97.5 % quantiles of the mean of N values drawn with replacement, many times.

    The draws are Philox's, of (resample, number), so that the interval is the same everywhere.

    Raises:
        ValueError: no values.
    """
    if values.size == 0:
        raise ValueError("there are no values to resample")
    means = np.empty(resamples)
    numbers = np.arange(values.size, dtype=np.uint64)
    for at in range(resamples):
        drawn = random_bits(seed, numbers, np.uint64(at) * np.ones(1, dtype=np.uint64))
        means[at] = math.fsum(values[(drawn % np.uint64(values.size)).astype(np.int64)]) / values.size
    means.sort()
    return float(means[int(0.025 * resamples)]), float(means[min(resamples - 1, int(0.975 * resamples))])


def layer_outputs(program: Any, /) -> list[str]:
    """The op whose output each layer hands to the next, in order: the last of those that begin with its name."""
    last: dict[str, str] = {}
    for op in program.ops:
        match = re.match(r"layers\.\d+\.", op.name)
        if match is not None:
            last[match[0]] = op.name
    return list(last.values())


def _short(name: str) -> str:
    return "layer " + name.split(".")[1]


def _require_alike(a: Any, b: Any) -> None:
    for name, model in (("a", a), ("b", b)):
        if model.parts.head != "causal_lm":
            raise ValueError(f"{name} gives {model.parts.head.replace('_', ' ')} output; only causal_lm is compared")
    if a.config.vocab_size != b.config.vocab_size:
        raise ValueError(f"a has {a.config.vocab_size} tokens, b {b.config.vocab_size}; give models of one vocabulary")
    if layer_outputs(a.program) != layer_outputs(b.program):
        counts = f"{len(layer_outputs(a.program))} and {len(layer_outputs(b.program))}"
        raise ValueError(f"a and b have {counts} layers, or other ones; give models of one architecture")
