"""A program's ops evaluated in narrow arithmetic in a random order: what estimates and enclosures are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rounded import Machine, to_format

from lepton_ref import ops
from lepton_ref.audit.replay import float64_run
from lepton_ref.models.execute import Run
from lepton_ref.models.inputs import make_batch
from lepton_ref.models.program import Op

Reals = NDArray[np.float64]


def start(model: Any, ids: Any, **inputs: Any) -> Run:
    """The model's weights with a batch: only they are read here, nothing of the package's ops computes."""
    given = {"attention_mask": None, "position_ids": None, "token_type_ids": None, **inputs}
    return float64_run(model, make_batch(model.program, model.config, ids, cache=None, last_only=False, **given))


def evaluate(m: Machine, run: Run, op: Op, inputs: list[Reals], kept_in: str, *, textbook: bool) -> Reals:
    """One op, its result rounded to the format that activations are kept in."""
    return to_format(_result(m, run, op, inputs, textbook), kept_in)


def _split(x: Reals, heads: int) -> Reals:
    return x.reshape(*x.shape[:2], heads, -1)


def _result(m: Machine, run: Run, op: Op, inputs: list[Reals], textbook: bool) -> Reals:
    o, batch = op.options, run.batch
    w = run.weights[op.weights["w"]].decode().astype(np.float64) if "w" in op.weights else np.ones(op.width)
    b = run.weights[op.weights["b"]].decode().astype(np.float64) if "b" in op.weights else None
    match op.kind:
        case "embed":
            rows = w[batch.integers[o["of"]] + o["offset"]]
            return m.fl(rows) if o["scale"] == 1 else m.embed(rows, scale=o["scale"])
        case "linear":
            return m.linear(inputs[0], w, b)
        case "rms_norm":
            return m.rms_norm(_split(inputs[0], o["heads"]), w, eps=o["eps"], offset=o["offset"]).reshape(
                inputs[0].shape
            )
        case "layer_norm":
            return m.layer_norm(inputs[0], w, b, eps=o["eps"])
        case "rope":
            rope = o["rope"]
            assert not rope.depends_on_length
            found, factor = ops.frequencies(rope, length=1), ops.attention_factor(rope)
            x = _split(inputs[0], o["heads"])
            y = m.rope(x, batch.positions.astype(float), found, factor=factor, interleaved=rope.interleaved)
            return y.reshape(inputs[0].shape)
        case "attention":
            heads = (o["heads"], o["kv_heads"], o["kv_heads"])
            q, k, v = (_split(x, n) for x, n in zip(inputs, heads, strict=True))
            seen = ops.attention_mask(batch.order, batch.order, batch.mask, causal=o["causal"], window=o["window"])
            return m.attention(q, k, v, seen, scale=o["scale"], cap=o["cap"]).reshape(*q.shape[:2], -1)
        case "add":
            return m.add(*inputs)
        case "activate":
            return m.activation(inputs[0], kind=o["activation"], textbook=textbook)
        case "gated":
            return m.gated(*inputs, kind=o["activation"], textbook=textbook)
        case "softcap":
            return m.softcap(inputs[0], cap=o["cap"])
        case "first":
            return inputs[0][np.arange(len(inputs[0])), batch.mask.argmax(axis=1)][:, None]
        case _:
            return inputs[0]


def whole(m: Machine, model: Any, ids: Any, kept_in: str, **inputs: Any) -> Reals:
    """The output of a whole run."""
    run, values = start(model, ids, **inputs), {}
    for op in model.program.ops:
        values[op.name] = evaluate(m, run, op, [values[name] for name in op.inputs], kept_in, textbook=False)
    return values[model.program.output]
