r"""Dividing what several linear layers read by a scale of each channel, and multiplying their columns by it.

    W·x = (W·diag(s))·(x/s)

x/s costs nothing where the op that makes x is linear in a weight of its own, which is divided instead:

    made by                      divided by s
    rms_norm, layer_norm         the norm's weight, and layer_norm's bias
    gated: act(gate)·up          the rows of the up projection, and its bias
    attention                    the rows of v and its bias: as many key/value heads as heads, or an s that repeats
    linear                       its rows, and its bias

and it is refused where there is none: after a plain activation, a norm over heads or with an offset (Gemma's 1 + w),
or where anything but linear ops reads x, or what is divided is read by others.

With powers of two, and no number that becomes subnormal or overflows, every rounded intermediate but x and what makes
it is the same number, and those are divided by s exactly: the model's outputs keep their bits. For other scales the two
are equal in real arithmetic, and weights are rounded to float32 once more.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lepton_ref.models.program import Op, Program
from lepton_ref.storage import Dense, Weight

Reals = NDArray[np.float64]


def fold(program: Program, weights: Mapping[str, Weight], input: str, scale: Reals, /) -> dict[str, Weight]:
    """The weights that change, as F32: those that make the input and those that read it.

    Args:
        program: the op list.
        weights: its weights, norms and biases too.
        input: the name of the op that makes what the linear ops read.
        scale: (I) s, positive.

    Raises:
        ValueError: a scale that does not fit, an op that there is not, or one that cannot take the scale.
    """
    made = next((op for op in program.ops if op.name == input), None)
    if made is None:
        raise ValueError(f"no op is named {input!r}; the input of a linear op is meant, such as layers.0.attn_norm")
    if scale.shape != (made.width,) or not np.isfinite(scale).all() or (scale <= 0).any():
        raise ValueError(f"a scale of shape {scale.shape}; give {made.width} positive numbers, one for each channel")
    readers = _readers(program, input)
    changed: dict[str, Weight] = {}
    for name, rows in _sources(program, made, scale).items():
        _require_alone(program, name, made.name)
        array = weights[name].decode().astype(np.float64)
        changed[name] = _f32(name, array / (rows if array.ndim == 1 else rows[:, None]))
    for name in dict.fromkeys(op.weights["w"] for op in readers):
        if name in changed or sum(name in op.weights.values() for op in program.ops) != sum(
            op.weights["w"] == name for op in readers
        ):
            raise ValueError(f"{name} is read by other ops than those of {input}; untie it first")
        changed[name] = _f32(name, weights[name].decode().astype(np.float64) * scale)
    return changed


def _readers(program: Program, input: str) -> list[Op]:
    readers = [op for op in program.ops if input in op.inputs]
    others = [op.name for op in readers if op.kind != "linear"]
    if others or not readers:
        raise ValueError(f"{input} is read by {', '.join(others) or 'nothing'}; only linear ops can take a scale")
    return readers


def _sources(program: Program, made: Op, scale: Reals) -> dict[str, Reals]:
    """The weights to divide, and by what along their first axis."""
    ops = {op.name: op for op in program.ops}
    if made.kind in ("rms_norm", "layer_norm"):
        if made.options.get("offset", 0.0) or made.options.get("heads", 1) != 1 or "w" not in made.weights:
            raise ValueError(f"{made.name} has an offset, several heads or no weight; it cannot take a scale exactly")
        return dict.fromkeys(made.weights.values(), scale)
    if made.kind == "linear":
        return dict.fromkeys(made.weights.values(), scale)
    if made.kind in ("gated", "attention"):
        source = ops[made.inputs[1 if made.kind == "gated" else 2]]
        others = [op.name for op in program.ops if source.name in op.inputs and op is not made]
        if source.kind != "linear" or others:
            raise ValueError(
                f"{source.name}, which {made.name} reads, cannot take a scale; it is no linear op of its own"
            )
        return dict.fromkeys(source.weights.values(), scale if made.kind == "gated" else _of_values(made, scale))
    raise ValueError(f"{made.name} is of kind {made.kind}, which no scale goes through; leave it as it is")


def _of_values(made: Op, scale: Reals) -> Reals:
    """(H·K) → (G·K): the scale of each key/value head, which all of its queries' heads share."""
    heads, groups = made.options["heads"], made.options["kv_heads"]
    split = scale.reshape(groups, heads // groups, -1)
    if (split != split[:, :1]).any():
        raise ValueError(f"{made.name} shares {groups} heads of values among {heads}; give a scale that repeats so")
    return split[:, 0].reshape(-1)


def _require_alone(program: Program, name: str, input: str) -> None:
    if sum(name in op.weights.values() for op in program.ops) != 1:
        raise ValueError(f"{name}, which makes {input}, serves other ops too; it cannot take a scale")


def _f32(name: str, array: Reals) -> Weight:
    with np.errstate(over="ignore"):
        rounded = array.astype("<f4")
    if not np.isfinite(rounded).all():
        raise ValueError(f"{name} times its scale is beyond float32; take smaller scales")
    return Dense(rounded, format="F32")
