"""All linear layers of a model quantised to an integer grid, by what a calibration shows of their inputs.

GPTQ, HQQ and rounding to nearest go layer by layer: the inputs of each are those that the layers before it give as they
are quantised by then (`sequential`), as the paper of GPTQ has it, or those of the model as it is. Weights that read the
same input are quantised as one matrix, one below the other: rows are independent, and the Hessian is factored once.

AWQ first folds a scale into the input of every group that can take one (see `lepton_ref.compress.fold`), by the model's
own activations, and then rounds to nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.activations import Progress, Seen, stream
from lepton_ref.compress.awq import search_scales
from lepton_ref.compress.calibration import Calibration, matrix_of
from lepton_ref.compress.fold import fold
from lepton_ref.compress.grid import Coded, Grid, round_to_nearest
from lepton_ref.compress.hessian import hessian
from lepton_ref.compress.quantise import grid_of, quantise_weight
from lepton_ref.compress.statistics import channels
from lepton_ref.compress.stored import affine_of
from lepton_ref.models.program import Program
from lepton_ref.storage import Weight

Reals = NDArray[np.float64]


def quantise_layers(
    seen: Calibration,
    format: str,
    /,
    *,
    method: str = "gptq",
    sequential: bool = True,
    only: Callable[[str], bool] | None = None,
    progress: Progress | None = None,
    **how: Any,
) -> dict[str, Weight]:
    """The weights that change, by their names in the program.

    Args:
        seen: from `calibrate`.
        format: a grid's name, such as "int4-g64".
        method: one of `lepton_ref.compress.quantise.METHODS`.
        sequential: whether each layer sees what the quantised ones before it give; AWQ does not.
        only: which matrices, by name; all that nothing but linear ops reads where None, so not a tied head.
        progress: called before each op of the run.
        how: what else `quantise_weight` takes: scales, damp, act_order, follow.

    Raises:
        ValueError: a format that is no grid, rows that are not whole groups, or what the method refuses.
    """
    grid = grid_of(format)
    if grid is None:
        raise ValueError(f"format {format!r} is no integer grid; give one such as int4-g64, or encode with importance")
    program: Program = seen.model.program
    wanted = _wanted(program, only)
    if method == "awq":
        return _by_awq(seen, format, wanted, progress, **how)
    weights: dict[str, Weight] = dict(seen.model.parts.weights)
    out: dict[str, Weight] = {}
    for group in stream(seen.model, seen.over, weights=weights if sequential else None, progress=progress):
        names = [name for name in dict.fromkeys(map(matrix_of, group.ops)) if name in wanted]
        if not names:
            continue
        arrays = [weights[name].decode() for name in names]
        if method == "gptq":
            how["hessian"] = hessian(group.sequences)
        else:
            how["importance"] = channels(group.sequences).importance
        done = quantise_weight(np.concatenate(arrays), format, method=method, **how)
        assert done.coded is not None, "a grid was asked for"
        found = dict(zip(names, map(affine_of, _apart(done.coded, list(map(len, arrays)))), strict=True))
        out.update(found)
        weights.update(found)
    return out


def _wanted(program: Program, only: Callable[[str], bool] | None) -> set[str]:
    linear = {matrix_of(op) for op in program.ops if op.kind == "linear"}
    others = {name for op in program.ops if op.kind != "linear" for name in op.weights.values()}
    return {name for name in linear - others if only is None or only(name)}


def _apart(coded: Coded, rows: Sequence[int]) -> list[Coded]:
    """The codes of matrices that were one below the other."""
    ends = np.cumsum(rows)
    return [
        Coded(coded.grid, coded.codes[a:b], coded.scales[a:b], coded.zeros[a:b])
        for a, b in zip([0, *ends[:-1]], ends, strict=True)
    ]


def _by_awq(
    seen: Calibration, format: str, wanted: set[str], progress: Progress | None, *, scales: str = "minmax"
) -> dict[str, Weight]:
    grid = grid_of(format)
    assert grid is not None, "checked by the caller"
    plain, importance = dict(seen.model.parts.weights), {}
    changed: dict[str, Weight] = {}
    for group, h in seen.hessians(progress=progress):
        names = [name for name in dict.fromkeys(map(matrix_of, group.ops)) if name in wanted]
        importance.update({name: np.diag(h).copy() for name in names})
        found = _scale(seen.model.program, group, plain, names, h, grid, scales)
        if found is not None:
            s, folded = found
            plain.update(folded)
            changed.update(folded)
            importance.update({name: importance[name] / s**2 for name in names})
    for name in wanted:
        coded = round_to_nearest(plain[name].decode(), grid, how=scales, importance=importance[name])
        changed[name] = affine_of(coded)
    return changed


def _scale(
    program: Program,
    group: Seen,
    weights: dict[str, Weight],
    names: list[str],
    h: Reals,
    grid: Grid,
    how: str,
) -> tuple[Reals, dict[str, Weight]] | None:
    """A group's scale and the weights with it folded in; None where the input takes none."""
    if len(names) != len({*map(matrix_of, group.ops)}):
        return None
    try:
        fold(program, weights, group.input, np.ones(len(h)))
    except ValueError:  # an input that takes no scale: after a plain activation, of shared heads, of a tied head
        return None
    arrays = [weights[name].decode().astype(np.float64) for name in names]
    s = search_scales(arrays, grid, hessian=h, how=how)
    try:
        return s, fold(program, weights, group.input, s)
    except ValueError:  # heads of values that are shared, and a scale that does not repeat
        return None
