"""Measuring in turn: one sample of every engine, then the next of every engine, so that a disturbance meets all.

A sample during which other processes took more than `FOREIGN` of a core is set aside. /proc/stat counts in ticks, of
which one at each end may be another's: `TICK` seconds are forgiven. Where fewer than `FEWEST` clean samples were had
in `TRIES` times as many rounds as were asked for, the ones set aside count too, and the figure says DIRTY.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from peers_worker import busy

FOREIGN = 0.08
TICK = 0.012
FEWEST = 3
TRIES = 3
PAUSE = 0.15
"""Seconds between samples: BLAS's and OpenMP's idle threads spin for a while before they sleep."""
PATIENCE = 20.0
"""Seconds that a sample waits at most for other processes to leave the cores alone."""
SLOW = 4.0
"""Seconds of a sample from which on `FEWEST` clean ones are enough; from three times as many, one of any kind is."""

Sample = Mapping[str, float]


def clean(sample: Sample) -> bool:
    """Whether other processes left the sample alone."""
    return sample["foreign"] <= FOREIGN * sample["wall"] + TICK


def settle(pause: float = PAUSE, patience: float = PATIENCE) -> None:
    """Sleep, and again as long as others are at work, until patience runs out."""
    end = time.perf_counter() + patience
    while True:
        before, start = busy(), time.perf_counter()
        time.sleep(pause)
        if clean({"foreign": busy() - before, "wall": time.perf_counter() - start}) or time.perf_counter() > end:
            return


def in_turn(
    engines: Mapping[str, Callable[[], dict[str, Any]]], rounds: int, *, before: Callable[[], None] = settle
) -> dict[str, dict[str, Any]]:
    """For each engine its clean samples, those set aside, and an error where it gave one; seconds of one repetition.

    An engine that has enough clean samples is not asked again, nor one that failed. `before` runs ahead of a sample.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}; 7 is what the pages are made with")
    found: dict[str, dict[str, Any]] = {name: {"clean": [], "dirty": []} for name in engines}
    wanted = dict.fromkeys(engines, rounds)
    for _ in range(TRIES * rounds):
        left = [name for name in engines if len(found[name]["clean"]) < wanted[name] and "error" not in found[name]]
        if not left:
            break
        for name in left:
            before()
            sample = engines[name]()
            if "error" in sample:
                found[name]["error"] = sample["error"]
                continue
            found[name]["clean" if clean(sample) else "dirty"].append(sample["seconds"])
            if sample["wall"] > SLOW:
                wanted[name] = min(rounds, FEWEST)
                if sample["wall"] > 3 * SLOW or len(found[name]["dirty"]) >= TRIES * FEWEST:
                    wanted[name] = 0
    return found


def median(entry: Mapping[str, Any]) -> tuple[float, bool]:
    """The median seconds of what `in_turn` found, and whether samples had to count that others disturbed.

    Raises:
        ValueError: there is no sample.
    """
    undisturbed = list(entry["clean"])
    dirty = len(undisturbed) < FEWEST and bool(entry["dirty"])
    counted = undisturbed + list(entry["dirty"]) if dirty else undisturbed
    if not counted:
        raise ValueError(f"no sample was taken: {dict(entry)}; measure again")
    return statistics.median(counted), dirty
