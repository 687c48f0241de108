"""What may come next, guessed from what came before: the n-gram look-up of prompt look-up decoding.

The longest end of the sequence that also stands earlier in it is found, at its latest place, and what follows there is
the guess. Where the guess runs into the end of the sequence it goes on in itself, so that what repeats is guessed at
any length. A guess costs no model and binds nobody: see `lepton_ref.runtime.decoding` for how it is verified.

Source: Saxena, Prompt Lookup Decoding (2023); the copy that overlaps itself is Lempel and Ziv's (1977).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHORTEST, LONGEST = 2, 64
"""Ids that must agree for a guess, and ids that are compared at most."""


def propose(ids: Sequence[int], count: int, /) -> list[int]:
    """The next `count` ids as the look-up guesses them; none where no end of two ids occurs earlier.

    Args:
        ids: the sequence so far.
        count: how many to guess; none for 0 or less.
    """
    if count < 1 or len(ids) <= SHORTEST:
        return []
    x = np.array(ids, dtype=np.int64)
    ends = np.flatnonzero(x[:-1] == x[-1])
    length = 1
    while length < LONGEST:
        longer = ends[ends >= length]
        longer = longer[x[longer - length] == x[-1 - length]]
        if longer.size == 0:
            break
        ends, length = longer, length + 1
    if ends.size == 0 or length < SHORTEST:
        return []
    after = int(ends[-1]) + 1
    period = len(ids) - after
    return [int(x[after + at % period]) for at in range(count)]
