"""Which of several layouts of one name a checkpoint has: decided where the data decide, never guessed.

GPTQ's zeros. Version 1 stores z − 1, version 2 stores z, under the same tensor names. Symmetric quantisation has
z = 2^(b−1) everywhere, so its stored zeros are all 2^(b−1) − 1 in version 1 and all 2^(b−1) in version 2. Asymmetric
zeros may be any code in both; there, only the config can tell.

GPTQ or AWQ. Both call their tensors qweight, qzeros and scales. GPTQ packs along the inputs, qweight (I·b/32, O); AWQ
along the outputs, (I, O·b/32). Scales are (groups, O) in both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.storage.bitstream import words_for

STATED = {"gptq": 1, "gptq_v2": 2}
"""What a config's checkpoint_format says → the version."""

REMEDY = 'say "checkpoint_format": "gptq" (zeros stored as z − 1) or "gptq_v2" (as z) in quantization_config'


@dataclass(frozen=True)
class Verdict:
    """What was found, and why.

    Attributes:
        answer: the layout, or None where nothing decides it or the witnesses contradict each other.
        reason: what decided, in one sentence.
        remedy: what to do where there is no answer.
    """

    answer: int | str | None
    reason: str
    remedy: str = ""


def gptq_version(
    zeros: Iterable[NDArray[Any]], bits: int, *, stated: str | None = None, symmetric: bool | None = None
) -> Verdict:
    """Whether zeros are stored as z − 1 (1) or as z (2).

    Args:
        zeros: the unpacked codes in qzeros, an array a layer, padding cut off.
        bits: of a code.
        stated: `checkpoint_format` of the config.
        symmetric: `sym` of the config; None where it is silent.

    Returns:
        1, 2 or None, with the reason.
    """
    if stated is not None and stated not in STATED:
        return Verdict(None, f"checkpoint_format is {stated!r}, neither 'gptq' nor 'gptq_v2'", REMEDY)
    middle = 1 << (bits - 1)
    seen: set[int] = set()
    for layer in zeros:
        seen.update(int(code) for code in np.unique(layer))
    found = {middle - 1: 1, middle: 2}.get(next(iter(seen))) if len(seen) == 1 else None
    if stated is not None:
        said = STATED[stated]
        if symmetric and seen and found != said:
            listed = ", ".join(map(str, sorted(seen)[:4]))
            wanted = middle - 1 if said == 1 else middle
            reason = f"checkpoint_format is {stated!r} and sym is true, which stores every zero as {wanted}, but the "
            return Verdict(None, reason + f"stored zeros are {listed}", f"correct sym, or {REMEDY}")
        return Verdict(said, f"checkpoint_format is {stated!r}")
    if symmetric is not False and found is not None:
        only = next(iter(seen))
        return Verdict(found, f"every stored zero is {only}, as version {found} stores the {middle} of symmetric codes")
    if not seen:
        return Verdict(None, "there are no zeros to look at", REMEDY)
    if symmetric:
        reason = f"sym is true, but the stored zeros are not all {middle - 1} or all {middle}: {sorted(seen)[:4]}"
        return Verdict(None, reason, f"correct sym, or {REMEDY}")
    return Verdict(None, "zeros of asymmetric quantisation may be any code in both versions", REMEDY)


def ambiguous_zeros(zeros: Iterable[NDArray[Any]], bits: int) -> int:
    """How many stored zeros of GPTQ's version 1 are 2^b − 1, of which engines make 0, 2^b or a carry into another."""
    return sum(int(np.count_nonzero(layer == (1 << bits) - 1)) for layer in zeros)


def mean_shift(codes: NDArray[Any], zeros: NDArray[Any], groups: NDArray[Any], bits: int) -> tuple[float, float]:
    """`(O, I) codes, (O, G) stored zeros, (I,) groups ->` mean of q − z in steps, under version 1 and under version 2.

    Evidence for people, no proof: trained weights have a mean near 0, and the wrong version shifts it by a step.
    """
    q = float(np.mean(codes, dtype=np.float64))
    size = np.bincount(groups, minlength=zeros.shape[1]) / max(1, len(groups))
    one = float(np.mean(((zeros.astype(np.int64) + 1) % (1 << bits)) @ size))
    two = float(np.mean(zeros.astype(np.int64) @ size))
    return q - one, q - two


def packing(qweight: tuple[int, ...], scales: tuple[int, ...], bits: int) -> Verdict:
    """Whether a qweight of this shape is "gptq" or "awq", from the scales' (groups, O).

    A matrix of eight or fewer outputs or so can be both; then the answer is None.
    """
    if len(qweight) != 2 or len(scales) != 2:
        return Verdict(None, f"qweight {qweight} and scales {scales} are not both matrices")
    along_inputs = qweight[1] == scales[1]
    along_outputs = qweight[1] == words_for(scales[1], bits)
    if along_inputs == along_outputs:
        what = "fits both" if along_inputs else "fits neither"
        remedy = "say which in quant_method"
        return Verdict(None, f"qweight {qweight} beside scales {scales} {what} GPTQ and AWQ", remedy)
    if along_inputs:
        return Verdict("gptq", f"qweight has a column for each of the {scales[1]} outputs: packed along the inputs")
    return Verdict("awq", f"qweight has a word for {32 // bits} of the {scales[1]} outputs: packed along the outputs")


def alignment(words: int, count: int, bits: int) -> Verdict:
    """Whether lines of `count` codes in so many words are "dense" or "aligned"; see `lepton_ref.storage.bitstream`.

    compressed-tensors packs ⌊32/b⌋ codes a word up to 0.17 and without gaps from 0.18; the format's name is the same.
    """
    dense, aligned = words_for(count, bits), words_for(count, bits, aligned=True)
    if 32 % bits == 0 or count <= 32 // bits:
        if words == dense:
            return Verdict("dense", f"codes of {bits} bits lie alike in both packings")
    elif dense == aligned == words:
        return Verdict(
            None,
            f"{count} codes of {bits} bits take {words} words with or without gaps",
            "say which: aligned=, or the version of compressed-tensors",
        )
    elif words == dense:
        return Verdict("dense", f"{words} words hold {count} codes of {bits} bits without gaps")
    elif words == aligned:
        return Verdict("aligned", f"{words} words hold {count} codes of {bits} bits, {32 // bits} a word")
    wanted = f"{dense}" if dense == aligned else f"{dense} or, {32 // bits} a word, {aligned}"
    return Verdict(None, f"{count} codes of {bits} bits take {wanted} words, got {words}")
