"""All linear layers of a model quantised, to an integer grid or GGUF's blocks, by what a calibration shows of inputs.

GPTQ, HQQ and rounding to nearest go layer by layer: the inputs of each are those that the layers before it give as they
are quantised by then (`sequential`), as the paper of GPTQ has it, or those of the model as it is. Weights that read the
same input are quantised as one matrix, one below the other: rows are independent, and the Hessian is factored once.

One format serves all, or each matrix has its own. GGUF's blocks come as the bytes of whole rows (`BlockQuantised`);
where one format is given, rows that are no whole blocks of it take llama.cpp's fallback, as in a file that
`quantise_file` writes (`lepton_ref.compress.mixtures.FALLBACKS`). They go into a file by
`lepton_ref.compress.ready.gguf_tensors`.

AWQ first folds a scale into the input of every group that can take one (see `lepton_ref.compress.fold`), by the model's
own activations, and then rounds to nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.activations import Progress, Seen, stream
from lepton_ref.compress.awq import search_scales
from lepton_ref.compress.calibration import Calibration, matrix_of
from lepton_ref.compress.fold import fold
from lepton_ref.compress.grid import Coded, Grid, round_to_nearest
from lepton_ref.compress.hessian import hessian
from lepton_ref.compress.mixtures import FALLBACKS
from lepton_ref.compress.quantise import METHODS, Quantised, grid_of, quantise_weight
from lepton_ref.compress.statistics import channels
from lepton_ref.compress.stored import affine_of
from lepton_ref.models.program import Program
from lepton_ref.plain.shown import shown
from lepton_ref.storage import FORMATS, BlockQuantised, Weight

Reals = NDArray[np.float64]

SETTINGS = ("scales", "damp", "act_order", "follow")
"""What else `quantise_layers` takes; awq the first of them."""


def quantise_layers(
    seen: Calibration,
    format: str | Mapping[str, str],
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
        format: a grid's name, such as "int4-g64", or a block format's, such as "Q4_K"; or matrix → its format, which
            says too which matrices change.
        method: one of `lepton_ref.compress.quantise.METHODS`; blocks have rtn and gptq.
        sequential: whether each layer sees what the quantised ones before it give; AWQ does not.
        only: which matrices, by name; all that nothing but linear ops reads where None, so not a tied head.
        progress: called before each op of the run.
        how: what else `quantise_weight` takes: scales, damp, act_order, follow; awq takes scales alone.

    Raises:
        ValueError: before anything is run: a format that is neither, a matrix that there is not, rows that are not
            whole groups or blocks, an unknown method or setting, or one that the format does not have; then what the
            method refuses of the numbers.
    """
    program: Program = seen.model.program
    formats = _formats(program, format, {name for name in matrices(program) if only is None or only(name)})
    _require_settings(formats, method, how)
    if method == "awq":
        return _by_awq(seen, formats, progress, **how)
    weights: dict[str, Weight] = dict(seen.model.parts.weights)
    out: dict[str, Weight] = {}
    for group in stream(seen.model, seen.over, weights=weights if sequential else None, progress=progress):
        names = [name for name in dict.fromkeys(map(matrix_of, group.ops)) if name in formats]
        if not names:
            continue
        if method == "gptq":
            how["hessian"] = hessian(group.sequences)
        else:
            how["importance"] = channels(group.sequences).importance
        for one in dict.fromkeys(formats[name] for name in names):
            alike = [name for name in names if formats[name] == one]
            arrays = [weights[name].decode() for name in alike]
            done = quantise_weight(np.concatenate(arrays), one, method=method, **how)
            found = dict(zip(alike, _apart(done, list(map(len, arrays))), strict=True))
            out.update(found)
            weights.update(found)
    return out


def _formats(program: Program, format: str | Mapping[str, str], wanted: set[str]) -> dict[str, str]:
    """The format of each matrix that changes."""
    if not isinstance(format, str | Mapping):
        raise ValueError(f"format is {shown(format)}; give a name such as 'Q4_K' or 'int4-g64', or matrix → name")
    if isinstance(format, str):
        return {name: _fitted(name, program.weights[name][1], format, fall_back=True) for name in sorted(wanted)}
    strange = [name for name in format if name not in wanted]
    if strange:
        raise ValueError(f"{strange[0]} is no matrix that linear ops alone read; take it out of the formats")
    return {name: _fitted(name, program.weights[name][1], one, fall_back=False) for name, one in format.items()}


def _fitted(name: str, width: int, format: str, *, fall_back: bool) -> str:
    """The format, or its fallback where rows are no whole blocks."""
    grid = grid_of(format)
    if format not in FORMATS and grid is None:
        raise ValueError(f"format {format!r} is no integer grid such as int4-g64 and no block format such as Q4_K")
    if grid is not None:
        try:
            grid.length(width)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    for one in (format, FALLBACKS.get(format, format)) if fall_back else (format,):
        if one not in FORMATS or width % FORMATS[one].length == 0:
            return one
    raise ValueError(f"{name} has rows of {width}, no whole blocks of {format}; take a format of shorter blocks")


def _require_settings(formats: Mapping[str, str], method: str, how: Mapping[str, Any]) -> None:
    """The method is one and has these settings and formats: each format is tried on one row of zeros."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"unknown method {shown(method)}; known: {', '.join(METHODS)}")
    known = SETTINGS[:1] if method == "awq" else SETTINGS
    for name in how:
        if name not in known:
            raise ValueError(f"{method} of layers has no setting {name!r}; it takes {', '.join(known)}")
    for one in dict.fromkeys(formats.values()):
        grid = grid_of(one)
        length = FORMATS[one].length if grid is None else grid.group or 1
        tried = {"hessian": np.eye(length), **how} if method == "gptq" else how
        quantise_weight(np.zeros((1, length)), one, method="rtn" if method == "awq" else method, **tried)


def matrices(program: Program, /) -> set[str]:
    """The names of the matrices that linear ops read and nothing else does: not a head that is the embedding too."""
    linear = {matrix_of(op) for op in program.ops if op.kind == "linear"}
    return linear - {name for op in program.ops if op.kind != "linear" for name in op.weights.values()}


def _apart(done: Quantised, rows: Sequence[int]) -> list[Weight]:
    """The weights of matrices that were one below the other."""
    ends = np.cumsum(rows)
    spans = zip([0, *ends[:-1]], ends, strict=True)
    if done.raw is not None:
        return [BlockQuantised(done.raw[a:b], format=FORMATS[done.format]) for a, b in spans]
    coded = done.coded
    assert coded is not None, "a weight is quantised to one or the other"
    return [affine_of(Coded(coded.grid, coded.codes[a:b], coded.scales[a:b], coded.zeros[a:b])) for a, b in spans]


def _by_awq(
    seen: Calibration, formats: Mapping[str, str], progress: Progress | None, *, scales: str = "minmax"
) -> dict[str, Weight]:
    wanted, grids = set(formats), {one: grid_of(one) for one in formats.values()}
    if len(grids) > 1 or None in grids.values():
        raise ValueError(
            f"awq has one integer grid for all matrices, got {', '.join(grids)}; give one such as int4-g64"
        )
    grid = next(iter(grids.values()), None)
    if grid is None:
        return {}
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
