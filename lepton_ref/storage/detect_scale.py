"""Whether an NVFP4 file's global scale G multiplies or divides: what the data say, and why.

The scales of groups look alike under both conventions: the largest is 448, or near it. G does not. Let P be the largest
|s·q| of the row with the largest scale, where the largest weight of the matrix lies: it is P·G if G multiplies and P/G
if it divides, and the two differ by G². Trained matrices have a largest weight between 2⁻²⁰ and 2¹⁰; where one of the
conventions puts it there and the other does not, that one is found. Where both or neither do, nothing is: the name of
the tensor, or its author, must say. The two ends are experience, not a theorem, which is why a loader trusts names, and
this contradicts them or is silent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.nvfp4_two_level import NVFP4TwoLevel

LEAST, GREATEST = 2.0**-20, 2.0**10
"""Between these lies the largest weight of a trained matrix."""


@dataclass(frozen=True)
class ScaleVerdict:
    """What the data say about a global scale.

    Attributes:
        convention: "multiply", "divide", or None where the data do not say.
        reason: one sentence.
        if_multiplied: the largest weight of the row with the largest scale if G multiplies.
        if_divided: the same if G divides.
    """

    convention: str | None
    reason: str
    if_multiplied: float
    if_divided: float


def detect_global_scale(packed: NDArray[np.uint8], scales: NDArray[np.uint8], global_scale: float, /) -> ScaleVerdict:
    """What a matrix in NVFP4 says about its global scale.

    Args:
        packed: `(O, I/2)` uint8, two E2M1 numbers a byte.
        scales: `(O, I/16)` uint8, E4M3 codes.
        global_scale: the stored number.

    Raises:
        ValueError: arrays or a global scale that `NVFP4TwoLevel` does not take.
    """
    weight = NVFP4TwoLevel(packed, scales, global_scale, convention="multiply")
    sizes = np.nan_to_num(np.abs(weight.scales.values())).max(axis=1, initial=0.0)
    row = np.argsort(-sizes, kind="stable")[:1]
    largest = float(np.nanmax(np.abs(weight.unrounded(row)), initial=0.0))
    product = largest / weight.global_scale
    multiplied, divided = largest, product / weight.global_scale
    if product == 0.0:
        return ScaleVerdict(None, "the row with the largest scale is zero under both conventions", 0.0, 0.0)
    plausible = [name for name, size in (("multiply", multiplied), ("divide", divided)) if LEAST <= size <= GREATEST]
    facts = (
        f"the largest weight is {multiplied:.3g} if G = {weight.global_scale:.6g} multiplies, "
        f"{divided:.3g} if it divides"
    )
    if len(plausible) != 1:
        why = "both are plausible" if plausible else "neither is plausible"
        return ScaleVerdict(None, f"{facts}; {why}", multiplied, divided)
    which = "former" if plausible[0] == "multiply" else "latter"
    return ScaleVerdict(plausible[0], f"{facts}; only the {which} is plausible", multiplied, divided)
