"""One weight, quantised: by a format's name and a method, with what a calibration knows of its inputs.

    rtn    each number to the nearest code; scales by range, clip or least squares, weighted by importance
    gptq   column by column, the error fed back: needs the Hessian
    awq    scales of inputs searched for, then rtn: needs importance or the Hessian. What is given back decodes to the
           weight for inputs divided by `Quantised.inputs`: see `lepton_ref.compress.fold`
    hqq    zero points by half-quadratic turns; needs nothing

GGUF's formats have encoders of their own, `storage.encode`, which take importance as weights: that is their "rtn".
Those whose elements have codes of their own have "gptq" too: see `lepton_ref.compress.gptq_blocks`.

"int4-g64" names a grid: codes of 4 bits, groups of 64 inputs; "int8" has one scale a row; "int4-g64-sym" is symmetric;
"-bf16" or "-fp32" at the end stores scales so, and not as fp16.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.awq import search_scales
from lepton_ref.compress.gptq import BLOCK, DAMP, gptq
from lepton_ref.compress.gptq_blocks import BLOCKS, gptq_blocks
from lepton_ref.compress.grid import STORED, Coded, Grid, importance_of, matrix, round_to_nearest
from lepton_ref.compress.hqq import hqq
from lepton_ref.interface import HostArray
from lepton_ref.plain.shown import shown
from lepton_ref.storage import DENSE_FORMATS, encode
from lepton_ref.storage.encoders import ENCODERS, WEIGHTED

Reals = NDArray[np.float64]

METHODS = ("rtn", "gptq", "awq", "hqq")
_GRID = re.compile(r"int([2-8])(?:-g(\d+))?(-sym)?(?:-(fp16|bf16|fp32))?")


@dataclass(frozen=True, eq=False)
class Quantised:
    """A quantised weight.

    Attributes:
        format: as it was asked for.
        method: by which method.
        raw: the bytes of whole rows, of a GGUF format; None of a grid.
        coded: codes, scales and zero points, of a grid; None of a GGUF format.
        inputs: (I) what the inputs are to be divided by (AWQ); None where by nothing.
    """

    format: str
    method: str
    raw: NDArray[np.uint8] | None = None
    coded: Coded | None = None
    inputs: Reals | None = None


def grid_of(format: str, /) -> Grid | None:
    """The grid that a name such as "int4-g64-sym" stands for; None where it is no such name.

    Raises:
        ValueError: what is no word, or a grid that there is not.
    """
    if not isinstance(format, str):
        raise ValueError(f"unknown format {shown(format)}; give a name such as 'Q4_K' or 'int4-g64'")
    found = _GRID.fullmatch(format)
    if found is None:
        return None
    bits, group, symmetric, stored = found.groups()
    return Grid(int(bits), None if group is None else int(group), symmetric is not None, stored or STORED[0])


def effective_settings(
    format: str,
    method: str,
    /,
    *,
    scales: str = "minmax",
    damp: float = DAMP,
    act_order: bool | None = None,
    follow: bool = False,
) -> dict[str, Any]:
    """What `quantise_weight` goes by when it is given the same, for the record of how a file was made.

    Args:
        format: as `quantise_weight` takes it; others' encoders have no settings.
        method: likewise, as are the rest.
        scales: how a grid's scales are chosen.
        damp: GPTQ's damping.
        act_order: None: what the format makes of it.
        follow: whether scales are chosen when their turn comes.

    Returns:
        scales, of a grid but by hqq; and of gptq damp, act_order, follow, and block: the columns between two products,
        left out where scales follow, since it is a group's or a block's length then.

    Raises:
        ValueError: an unknown method, or what is no word.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"unknown method {shown(method)}; known: {', '.join(METHODS)}")
    grid = grid_of(format)
    found: dict[str, Any] = {} if grid is None or method == "hqq" else {"scales": scales}
    if method != "gptq":
        return found
    order = grid is None and not follow if act_order is None else act_order
    return {**found, "damp": damp, "act_order": order, "follow": follow, **({} if follow else {"block": BLOCK})}


def quantise_weight(
    array: HostArray,
    format: str,
    /,
    *,
    method: str = "rtn",
    importance: NDArray[np.floating] | None = None,
    hessian: Reals | None = None,
    scales: str = "minmax",
    damp: float = DAMP,
    act_order: bool | None = None,
    follow: bool = False,
) -> Quantised:
    """`(O, I) -> codes or bytes`.

    Args:
        array: the weight, floats.
        format: a GGUF format that has an encoder, or a grid's name: see the module's page.
        method: one of `METHODS`.
        importance: (I) the mean of x² of each input.
        hessian: (I, I) Σ x·xᵀ.
        scales: how a grid's scales are chosen: see `lepton_ref.compress.grid`.
        damp: GPTQ's damping.
        act_order: whether GPTQ takes the columns in falling order of the Hessian's diagonal. None: of a GGUF format,
            whose columns stay where they are, yes unless the scales follow; of a grid no.
        follow: whether GPTQ chooses a group's or a block's scales when its turn comes.

    Raises:
        ValueError: an unknown format or method, a method that the format does not have or whose statistics are missing.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"unknown method {shown(method)}; known: {', '.join(METHODS)}")
    if not isinstance(array, np.ndarray) or array.ndim == 0:
        raise ValueError(f"a weight is a NumPy array with rows of inputs, got {shown(array)}; numpy.asarray makes one")
    for name, flag in (("act_order", act_order), ("follow", follow)):
        if not isinstance(flag, bool) and (flag is not None or name == "follow"):
            raise ValueError(f"{name} is {shown(flag)}; give True or False")
    grid = grid_of(format)
    if method == "gptq" and (grid is not None or format in BLOCKS):
        if hessian is None:
            raise ValueError("gptq needs the Hessian of the weight's inputs; calibrate, and give hessian=")
        settings = effective_settings(format, method, scales=scales, damp=damp, act_order=act_order, follow=follow)
        if grid is None:
            raw = gptq_blocks(array, hessian, format, importance=importance, **settings).raw
            return Quantised(format, method, raw=raw)
        return Quantised(format, method, coded=gptq(array, hessian, grid, importance=importance, **settings))
    if grid is None:
        return _blocks(array, format, method, importance)
    if method == "hqq":
        return Quantised(format, method, coded=hqq(array, grid, whole=True))
    if method == "awq":
        if importance is None and hessian is None:
            raise ValueError("awq needs to know the weight's inputs; calibrate, and give importance= or hessian=")
        inputs = search_scales([matrix(array)], grid, importance=importance, hessian=hessian, how=scales)
        weigh = None if importance is None else importance_of(importance, array.shape[1]) / inputs**2
        coded = round_to_nearest(matrix(array) * inputs, grid, how=scales, importance=weigh)
        return Quantised(format, method, coded=coded, inputs=inputs)
    return Quantised(format, method, coded=round_to_nearest(array, grid, how=scales, importance=importance))


def _blocks(array: HostArray, format: str, method: str, importance: NDArray[np.floating] | None) -> Quantised:
    if format not in ENCODERS and format not in DENSE_FORMATS:
        known = ", ".join([*DENSE_FORMATS, *ENCODERS])
        raise ValueError(f"unknown format {format!r}; known: {known}, or a grid such as int4-g64")
    if method != "rtn":
        other = "" if format not in BLOCKS else " or 'gptq'"
        raise ValueError(
            f"{format} has an encoder of its own and no {method}; take method='rtn'{other}, or a grid: int4-g64"
        )
    weights = importance_of(importance, array.shape[-1]).astype(np.float32)
    if importance is not None and format in WEIGHTED:
        return Quantised(format, method, raw=encode(format, array, weights=weights))
    return Quantised(format, method, raw=encode(format, array))
