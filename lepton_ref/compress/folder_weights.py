"""What a folder's matrices become where no activations are asked for, and whether a folder can hold it at all.

int4-g64 …          integers, rounded to nearest or by HQQ: see `lepton_ref.compress.quantise`
fp8, fp8-channel    E4M3 with a float32 scale a row
fp8-tensor          with one a matrix
fp8-128x128         with one a block of so many rows and columns
nf4, nf4-128        bitsandbytes' table, in blocks of 64 numbers, or of so many
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_ref.compress.folder_plan import plan
from lepton_ref.compress.grid import Grid
from lepton_ref.compress.quantise import grid_of, quantise_weight
from lepton_ref.compress.stored import STORED, affine_of
from lepton_ref.compress.to_folder import FORMATS
from lepton_ref.interface import HostArray
from lepton_ref.models.program import Program
from lepton_ref.storage import Dense, Weight
from lepton_ref.storage.affine import Affine
from lepton_ref.storage.bnb4 import BLOCK_SIZES, BitsAndBytes4
from lepton_ref.storage.byte_codes import row_bytes
from lepton_ref.storage.encoders.bnb4 import encode_nf4
from lepton_ref.storage.encoders.fp8 import FP8Scheme, encode_fp8
from lepton_ref.storage.fp8 import FP8
from lepton_ref.storage.scales import FORMATS as SCALE_FORMATS
from lepton_ref.storage.scales import Per, Scales, tile_of, tiles

ALONE = ("rtn", "hqq")
"""Methods that look at a matrix alone."""

_NF4 = re.compile(r"nf4(?:-(\d{1,6}))?")
_FP8 = re.compile(r"fp8(?:-(?:(tensor|channel)|(\d{1,6})x(\d{1,6})))?")

Shape = tuple[int, int]


@dataclass(frozen=True)
class Kind:
    """What a name of a format stands for.

    Attributes:
        encode: a matrix and a method → the weight.
        blank: a shape → such a weight of that shape, of codes for which every format has a form, without memory.
        methods: the methods that `encode` takes.
    """

    encode: Callable[[HostArray, str], Weight]
    blank: Callable[[Shape], Weight]
    methods: tuple[str, ...] = ("rtn",)


def kind_of(format: str, /) -> Kind:
    """What a format's name stands for: see the module's page.

    Raises:
        ValueError: no such name, or blocks that bitsandbytes does not have.
    """
    grid, fp8, nf4 = grid_of(format), _FP8.fullmatch(format), _NF4.fullmatch(format)
    if grid is not None:
        return Kind(lambda array, method: _coded(array, format, method), lambda shape: _blank_codes(shape, grid), ALONE)
    if fp8 is not None:
        kind, rows, columns = fp8.groups()
        per: Per = kind or "channel" if rows is None else (int(rows), int(columns))
        scheme = FP8Scheme(per=per)
        return Kind(lambda array, _: encode_fp8(array, scheme=scheme), lambda shape: _blank_fp8(shape, scheme))
    if nf4 is not None:
        size = int(nf4[1] or 64)
        if size not in BLOCK_SIZES:
            raise ValueError(f"{format}: blocks of {size}; bitsandbytes has {', '.join(map(str, BLOCK_SIZES))}")
        return Kind(lambda array, _: encode_nf4(array, blocksize=size), lambda shape: _blank_nf4(shape, size))
    raise ValueError(f"unknown format of matrices {format!r}; give a grid such as int4-g64, or fp8-128x128, or nf4")


def layer_matrices(program: Program, /) -> list[str]:
    """The names of the matrices that are usually quantised: of linear ops in layers, that nothing else reads."""
    uses = Counter(name for op in program.ops for name in op.weights.values())
    linear = Counter(op.weights["w"] for op in program.ops if op.kind == "linear")
    return [name for name, count in linear.items() if uses[name] == count and re.search(r"\.\d+\.", name) is not None]


def quantise_matrices(
    model: Any,
    format: str,
    /,
    *,
    method: str = "rtn",
    names: Iterable[str] | None = None,
    progress: Callable[[list[str]], Iterable[str]] | None = None,
) -> dict[str, Weight]:
    """The matrices by name, each quantised on its own.

    Args:
        model: a `lepton_ref.Model`.
        format: a name that the module's page lists.
        method: one of `ALONE`; of what is no grid "rtn".
        names: which matrices; those of `layer_matrices` where None.
        progress: wraps the list of names.

    Raises:
        ValueError: an unknown format, a method that the format does not have, or a matrix that cannot be quantised so;
            the message names it.
    """
    kind = kind_of(format)
    if method not in kind.methods:
        raise ValueError(f"{format} has no method {method!r} without activations; known: {', '.join(kind.methods)}")
    wanted = layer_matrices(model.program) if names is None else list(names)
    out: dict[str, Weight] = {}
    for name in wanted if progress is None else progress(wanted):
        try:
            out[name] = kind.encode(model.parts.weights[name].decode(), method)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return out


def require_packable(model: Any, format: str, folder: str, /, *, names: Iterable[str] | None = None) -> None:
    """A folder of this format can hold the matrices of a model in this form, whatever their numbers are.

    Args:
        model: a `lepton_ref.Model` that was read from a folder.
        format: a name that the module's page lists.
        folder: one of `lepton_ref.compress.to_folder.FORMATS`.
        names: which matrices; those of `layer_matrices` where None.

    Raises:
        ValueError: it cannot; the message says what of which matrix.
    """
    kind, grid = kind_of(format), grid_of(format)
    if folder not in FORMATS:
        raise ValueError(f"unknown format of folders {folder!r}; known: {', '.join(FORMATS)}")
    if grid is not None and folder == "gptq" and not grid.symmetric:
        told = "take gptq_v2, or a symmetric grid: -sym"
        raise ValueError(f"gptq has no zero point of 0, which {format} may need; {told}")
    weights: dict[str, Weight] = {}
    for name in layer_matrices(model.program) if names is None else names:
        rows, columns = model.program.weights[name]
        try:
            weights[name] = kind.blank((rows, columns))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    FORMATS[folder](plan(model.parts, weights).matrices)


def _coded(array: HostArray, format: str, method: str) -> Affine:
    coded = quantise_weight(array, format, method=method).coded
    assert coded is not None, "a grid was asked for"
    return affine_of(coded)


def _blank_codes(shape: Shape, grid: Grid) -> Affine:
    tile = (1, grid.length(shape[1]))
    count = tiles(shape, tile)
    return Affine(
        np.broadcast_to(np.uint8(0), (shape[0], row_bytes(shape[1], grid.bits))),
        _ones(count, STORED[grid.stored]),
        np.broadcast_to(np.uint8(1 << (grid.bits - 1)), count),
        bits=grid.bits,
        columns=shape[1],
        tile=tile,
    )


def _blank_fp8(shape: Shape, scheme: FP8Scheme) -> FP8:
    tile = tile_of(scheme.per, shape)
    scales = _ones(tiles(shape, tile), scheme.scale_format)
    return FP8(np.broadcast_to(np.uint8(0), shape), scales, format=scheme.format, tile=tile)


def _blank_nf4(shape: Shape, size: int) -> BitsAndBytes4:
    count = shape[0] * shape[1]
    absmax = Dense(np.broadcast_to(np.float32(1), (-(-count // size),)), format="F32")
    packed = np.broadcast_to(np.uint8(0), (-(-count // 2),))
    return BitsAndBytes4(packed, absmax, shape=shape, kind="nf4", blocksize=size)


def _ones(count: Shape, format: str) -> Scales:
    return Scales(np.broadcast_to(SCALE_FORMATS[format][0].type(1), count), format)
