"""A whole model in memory, small enough for the specification in plain Python to run it.

Embedding, two blocks of norm, attention and a gated layer, a norm and a head: grouped heads, RoPE, biases, a window in
the first block, a soft cap at the end. It is a `Program` like any family's, run by the same interpreter.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.conformance.case import Case
from lepton_ref.conformance.numbers import held
from lepton_ref.interface import Array, Backend, HostArray
from lepton_ref.models.batch import Batch, Cache
from lepton_ref.models.execute import Run, execute
from lepton_ref.models.program import Program
from lepton_ref.ops import Rope
from lepton_ref.plain import forward as plain
from lepton_ref.storage import Dense
from lepton_ref.storage.encoded import as_operand

WIDTH, HEADS, GROUPS, HEAD, INNER, VOCABULARY = 6, 4, 2, 2, 7, 11
EPS = 1e-5


def program(options: Mapping[str, Any]) -> Program:
    """The op list; options are `interleaved`, `window` and `activation`."""
    p = Program()
    rope = Rope(theta=10000.0, width=HEAD, interleaved=options["interleaved"])
    x = p.embed("embed", VOCABULARY, WIDTH, scale=1.5)
    for layer in range(2):
        block = p.at(f"layers.{layer}")
        h = block.rms_norm("norm", x, eps=EPS, offset=1.0)
        q = block.rope("q_rope", block.linear("q", h, HEADS * HEAD, bias=True), rope, heads=HEADS)
        k = block.rope("k_rope", block.linear("k", h, GROUPS * HEAD, bias=True), rope, heads=GROUPS)
        v = block.linear("v", h, GROUPS * HEAD)
        window = options["window"] if layer == 0 else None
        y = block.attention("attention", q, k, v, heads=HEADS, kv_heads=GROUPS, scale=0.75, window=window)
        x = block.add("after_attention", x, block.linear("o", y, WIDTH))
        h = block.layer_norm("norm_2", x, eps=EPS)
        f = block.gated("gated", block.linear("gate", h, INNER), block.linear("up", h, INNER), options["activation"])
        x = block.add("after_gated", x, block.linear("down", f, WIDTH))
    return _headed(p, x)


def _headed(p: Program, x: Any) -> Program:
    p.softcap("logits", p.linear("head", p.rms_norm("norm", x, eps=EPS), VOCABULARY), 30.0)
    return p


def draw_model(rng: np.random.Generator, number: int, precision: str) -> Case:
    """A model of random weights and a batch of sequences of unequal lengths, padded on the left."""
    options = {
        "interleaved": bool(number % 2),
        "window": (None, 2)[number // 2 % 2],
        "activation": ("silu", "relu2", "gelu_tanh")[number % 3],
    }
    inputs: dict[str, NDArray[Any]] = {
        name: held(rng.standard_normal(shape), "fp32") for name, shape in program(options).weights.items()
    }
    lengths = rng.permutation([2, 4, 5])
    ids = rng.integers(0, VOCABULARY, (len(lengths), 5))
    mask = np.arange(5)[None, :] >= 5 - lengths[:, None]
    return Case("model", {**inputs, "ids": ids, "mask": mask}, options, precision, data="moderate")


def weights(case: Case) -> dict[str, HostArray]:
    """The case's weights by name."""
    return {name: array for name, array in case.inputs.items() if name not in ("ids", "mask", "order")}


class AppendedKeys:
    """A cache that keeps everything: keys and values of earlier runs, one after the other.

    Attributes:
        order: (B, S), each key's number in its sequence.
        valid: (B, S), False for padding.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.layers: dict[int, tuple[Array, Array]] = {}
        self.order: NDArray[np.int64] | None = None
        self.valid: NDArray[np.bool_] | None = None

    def begin(self, order_bt: NDArray[np.int64], valid_bt: NDArray[np.bool_]) -> None:
        """Take note of new positions, before the run that brings their keys."""
        self.order = order_bt if self.order is None else np.concatenate([self.order, order_bt], axis=1)
        self.valid = valid_bt if self.valid is None else np.concatenate([self.valid, valid_bt], axis=1)

    def extend(
        self, layer: int, k_btgk: Array, v_btgk: Array, /
    ) -> tuple[Array, Array, NDArray[np.int64], NDArray[np.bool_]]:
        """New keys and values → all of the layer's, with their numbers and validity."""
        assert self.order is not None, "begin comes first"
        assert self.valid is not None, "begin comes first"
        k, v = k_btgk, v_btgk
        if layer in self.layers:
            earlier = self.layers[layer]
            k, v = (self.backend.xp.concat([a, b], axis=1) for a, b in zip(earlier, (k, v), strict=True))
        self.layers[layer] = k, v
        return k, v, self.order, self.valid

    def addresses(self, layer: int, /) -> None:
        """Nowhere that a kernel of whole programs could read: it asks for keys by `extend`."""


def run_model(case: Case, backend: Backend, *, chunk: int | None = None) -> HostArray:
    """(B, T, V): the logits, zero at padding; with a cache and `chunk` positions at a time where a chunk is given."""
    ids, mask = case.inputs["ids"], case.inputs["mask"]
    if chunk is None:
        return np.where(mask[..., None], _logits(case, backend, ids, mask, 0, None), case.how.dtype.type(0))
    cache = AppendedKeys(backend)
    starts = range(0, ids.shape[1], chunk)
    parts = [_logits(case, backend, ids, mask[:, : at + chunk], at, cache) for at in starts]
    return np.where(mask[..., None], np.concatenate(parts, axis=1), case.how.dtype.type(0))


def _logits(
    case: Case, backend: Backend, ids: HostArray, mask: HostArray, start: int, cache: AppendedKeys | None
) -> HostArray:
    """The logits of the positions from `start` to the end of the mask."""
    counted = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, start:]
    new, stop = mask[:, start:], mask.shape[1]
    integers = {"input_ids": np.where(new, ids[:, start:stop], 0)}
    if cache is not None:
        cache.begin(counted, new)
    list_of_ops, how = program(case.options), case.how
    kept: Cache | None = cache
    matrices = {name: Dense(array, format="F32") for name, array in weights(case).items() if array.ndim == 2}
    run = Run(
        {name: as_operand(w, how.operands) if name != "embed.weight" else w for name, w in matrices.items()},
        {name: backend.from_numpy(array.copy()) for name, array in weights(case).items() if array.ndim == 1},
        Batch(integers, new, counted, counted, np.full(len(ids), mask.shape[1]), last_only=False),
        kept,
        backend,
        how,
    )
    return backend.to_numpy(execute(run, list_of_ops))


def specified_model(case: Case) -> HostArray:
    """(B, T, V): the logits by `lepton_ref.plain.forward`, one sequence at a time, zero at padding."""
    how, ids, mask = case.how, case.inputs["ids"], case.inputs["mask"]
    numbers = {name: array.astype(np.float64).tolist() for name, array in weights(case).items()}
    want = np.zeros((*ids.shape, VOCABULARY), dtype=how.dtype)
    for b, seen in enumerate(mask):
        integers = {"input_ids": ids[b][seen].tolist()}
        given = plain.Forward(numbers, integers, format=how.activations, operands=how.operands)
        want[b, seen] = plain.forward(given, program(case.options).ops)["logits"]
    return want
