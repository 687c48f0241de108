r"""GPTQ whose codes are those of a GGUF block format: the file is read by everybody, the error is GPTQ's.

    v = s·L[q] + m        see `lepton_ref.storage.block_codes`

A block's scales, and with them s and m, are what the format's own encoder chooses (`lepton_ref.storage.encode`), with
the Hessian's diagonal as the weights of the inputs where the encoder takes weights: for all blocks before anything is
fed back, or, with `follow`, when the first column of a block has its turn, from what its columns are wanted to be by
then. Then `lepton_ref.compress.gptq.feed_back` goes from column to column, and each number takes the code whose v is
nearest to what is wanted, of two the lower level. v is compared exactly; its rounding to float32, which is what
`decode` gives, is the value whose error is fed back. Only the codes of the blocks are replaced.

With a diagonal H nothing is fed back, and the result is the nearest code of the encoder's scales: its error
Σ h·(w − v)² is at most the encoder's own, as a theorem.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.gptq import BLOCK, DAMP, feed_back
from lepton_ref.compress.grid import importance_of, matrix
from lepton_ref.compress.hessian import damped, require_hessian
from lepton_ref.storage import encode
from lepton_ref.storage.block_codes import CODED, code_of, codes, lines, with_codes
from lepton_ref.storage.encoders import WEIGHTED

Reals = NDArray[np.float64]
Bytes = NDArray[np.uint8]

UNUSED = {"Q8_0": -128.0, "TQ2_0": 3.0}
"""Levels that no encoder writes: the one has no opposite in int8, and TQ2_0 is ternary."""

BLOCKS = CODED
"""The formats that GPTQ is for."""


@dataclass(frozen=True, eq=False)
class Levels:
    """The different levels of a format, upwards, and the code of each."""

    values: Reals
    codes: Bytes


def levels_of(name: str, /) -> Levels:
    """The levels that are chosen from; of codes that say the same the lowest."""
    every = code_of(name).levels
    values, first = np.unique(every, return_index=True)
    used = values != UNUSED.get(name, np.inf)
    return Levels(values[used], first[used].astype(np.uint8))


def nearest(wanted: Reals, s: Reals, m: Reals, levels: Levels, /) -> tuple[Bytes, Reals]:
    """`(...) thrice -> (...) twice`: the codes whose s·L + m are nearest to what is wanted, and these in float32.

    Where s is 0 every code says the same.
    """
    t = np.divide(wanted - m, s, out=np.zeros_like(wanted), where=s != 0)
    above = np.clip(np.searchsorted(levels.values, t), 1, len(levels.values) - 1)
    low, high = s * levels.values[above - 1] + m, s * levels.values[above] + m
    both = low + high  # exact, as each is; so is twice what is wanted
    up = np.where(s > 0, 2 * wanted > both, 2 * wanted < both)
    return levels.codes[above - 1 + up], np.where(up, high, low).astype(np.float32).astype(np.float64)


@dataclass(frozen=True, eq=False)
class BlockCoded:
    """A matrix in blocks.

    Attributes:
        format: the blocks' format.
        raw: (O, bytes of a row) uint8, what `decode` takes.
        values: (O, I) float64, the float32 numbers that it gives.
        objective: Σ D·η² of `feed_back`: tr(Δ·H·Δᵀ) for the damped H.
    """

    format: str
    raw: Bytes
    values: Reals
    objective: float


def gptq_blocks(
    w: NDArray[np.floating],
    h: Reals,
    format: str,
    /,
    *,
    damp: float = DAMP,
    act_order: bool = True,
    block: int = BLOCK,
    follow: bool = False,
    importance: NDArray[np.floating] | None = None,
) -> BlockCoded:
    """`(O, I), (I, I) -> blocks` of a GGUF format. Rows are independent: those of several weights can be one matrix.

    Args:
        w: the weight, of numbers that float32 holds.
        h: its Hessian, undamped.
        format: one of `BLOCKS`.
        damp: what share of the mean of H's diagonal is added to the diagonal.
        act_order: take the columns in falling order of H's diagonal; they stay where they are in the blocks.
        block: columns between two products; with `follow`, the format's own length.
        follow: choose a block's scales when its turn comes. Not together with act_order.
        importance: (I) weights of the inputs when scales are chosen; H's diagonal where None.

    Raises:
        ValueError: a format whose elements have no codes of their own, rows that are not whole blocks, a weight, a
            Hessian or a setting that does not fit, H not positive definite, or a scale beyond the format.
    """
    if format not in BLOCKS:
        raise ValueError(f"GPTQ has no {format!r}, whose elements have no codes of their own; take {', '.join(BLOCKS)}")
    w64 = matrix(w)
    require_hessian(h, width=w64.shape[1])
    length, nbytes = code_of(format).format.length, code_of(format).format.nbytes
    if w64.shape[1] % length:
        raise ValueError(
            f"rows of {w64.shape[1]} are no whole blocks of {format}, which have {length}; take a format of shorter"
        )
    weigh = importance_of(np.diag(h) if importance is None else importance, w64.shape[1]).astype(np.float32)
    levels = levels_of(format)
    raw = np.empty((len(w64), w64.shape[1] // length * nbytes), dtype=np.uint8)
    s, m = np.empty_like(w64), np.empty_like(w64)
    encoded = np.empty(w64.shape, dtype=np.uint8)

    def choose(start: int, stop: int, source: Reals) -> None:
        here, there = slice(start, stop), slice(start // length * nbytes, stop // length * nbytes)
        weights = {"weights": weigh[here]} if format in WEIGHTED else {}
        raw[:, there] = encode(format, source[:, here], **weights)
        s[:, here], m[:, here] = lines(format, raw[:, there])
        encoded[:, here] = codes(format, raw[:, there])
        if not (np.isfinite(s[:, here]).all() and np.isfinite(m[:, here]).all()):
            raise ValueError(f"the weight reaches {np.abs(source).max():g}, beyond the scales of {format}; take BF16")

    def begin(start: int, wanted: Reals) -> None:
        with np.errstate(over="ignore"):  # the encoder says what is wrong with infinity
            choose(start, start + length, wanted.astype(np.float32).astype(np.float64))

    def closest(column: int, wanted: Reals) -> tuple[Bytes, Reals]:
        chosen, values = nearest(wanted, s[:, column], m[:, column], levels)
        return np.where(s[:, column] == 0, encoded[:, column], chosen), values

    if not follow:
        choose(0, w64.shape[1], w64)
    done = feed_back(
        w64, damped(h, damp), closest,
        act_order=act_order, block=length if follow else block, begin=begin if follow else None,
    )  # fmt: skip
    return BlockCoded(format, with_codes(format, raw, done.codes), done.values, done.objective)
