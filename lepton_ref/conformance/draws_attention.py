"""Examples of attention: who sees whom, equal scores, sinks, caps, and numbers that must not leak."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lepton_ref import ops
from lepton_ref.conformance.case import Case
from lepton_ref.conformance.drawer import MOST, Drawer
from lepton_ref.conformance.numbers import Generator

MASKS = ("causal", "scattered", "window", "all")
"""Who sees whom, in turn."""


def attention_mask(rng: Generator, kind: str, b: int, t: int, s: int) -> NDArray[np.bool_]:
    """(B, T, S): queries are the last t of s tokens, as with a cache; "scattered" has rows that see nothing."""
    if kind == "scattered":
        mask = rng.random((b, t, s)) < 0.5
        mask[0, 0] = False
        return mask
    keys = np.tile(np.arange(s), (b, 1))
    window = 2 if kind == "window" else None
    valid = np.ones(keys.shape, dtype=np.bool_)
    seen = ops.attention_mask(keys[:, s - t :], keys, valid, causal=kind != "all", window=window)
    return np.array(seen)


def draw_attention(rng: Generator, number: int, precision: str) -> Case:
    """Grouped heads, keys that nobody sees full of NaN, every second example with a cap or sinks."""
    drawer = Drawer(rng, number // 2, precision, (*MOST[:3], "huge"))
    kind = MASKS[number % len(MASKS)]
    t, s = ((2, 5), (3, 4))[number // 3 % 2]
    b, (h, g), (k, width) = (
        1 + number % 2,
        ((6, 3), (4, 1), (2, 2), (6, 2))[number // 2 % 4],
        ((3, 3), (4, 2))[number // 2 % 2],
    )
    mask = attention_mask(rng, kind, b, t, s)
    inputs = {
        "q": drawer.activations(b, t, h, k),
        "k": drawer.activations(b, s, g, k),
        "v": drawer.activations(b, s, g, width),
        "mask": mask,
    }
    if number % 5 == 3:
        inputs["q"][...] = 0.0  # equal scores: means, which tie
    unseen = ~mask.any(axis=1)
    inputs["k"][unseen] = np.nan
    inputs["v"][unseen] = np.inf
    if number // 4 % 2 == 1:
        inputs["sinks"] = drawer.vector(h)
    cap = 2.0 if number % 3 == 1 else None
    return drawer.case("attention", inputs, scale=(0.5, float(np.float32(k**-0.5)))[number % 2], cap=cap)
