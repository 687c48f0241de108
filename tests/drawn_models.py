"""Small models of every family with drawn weights, special values among them, and the plain-Python twin of a run."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from golden_cases import case
from numpy.typing import NDArray
from strategies import SPECIAL

import lepton_ref
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.models import FAMILIES
from lepton_ref.models.inputs import make_batch
from lepton_ref.models.program import Program
from lepton_ref.numerics import Precision
from lepton_ref.plain.forward import Forward, forward
from lepton_ref.runtime.model import Model
from lepton_ref.runtime.operands import operands
from lepton_ref.runtime.parts import Parts
from lepton_ref.storage import Dense, Weight

BACKEND = NumpyBackend()
LAYERS = ("num_hidden_layers", "n_layers")
VOCABULARY = 11


@cache
def shape(name: str) -> tuple[str, Any, Program, str]:
    """(architecture, config, program, head) of a golden's family and options, with one layer and few tokens."""
    model = lepton_ref.load(case(name).folder, backend=BACKEND)
    parts = model.parts
    family = FAMILIES[parts.fields["model_type"]]
    fields = {field.name for field in dataclasses.fields(parts.config)}
    changes: dict[str, Any] = {layers: 1 for layers in LAYERS if layers in fields}
    changes["vocab_size"] = VOCABULARY
    for per_layer in ("windows", "rope_layers", "ropes"):  # a value for each layer
        if per_layer in fields and isinstance(getattr(parts.config, per_layer), tuple):
            changes[per_layer] = getattr(parts.config, per_layer)[:1]
    config = dataclasses.replace(parts.config, **changes)
    return parts.architecture, config, family.program(config, parts.head), parts.head


def drawn(name: str, precision: Precision, *, seed: int, specials: float) -> Model:
    """A model of that shape; `specials` is the share of weights that are ±0, subnormal, huge, infinite or NaN."""
    architecture, config, program, head = shape(name)
    rng = np.random.default_rng(seed)
    weights: dict[str, Weight] = {}
    for weight, size in program.weights.items():
        values = rng.standard_normal(size) / np.sqrt(size[-1]) + (1.0 if weight.endswith("norm.weight") else 0.0)
        values = np.where(rng.random(size) < specials, rng.choice(SPECIAL, size), values)
        weights[weight] = Dense(values.astype(np.float32), format="F32")
    weights |= operands(program, weights, precision)
    file: Any = SimpleNamespace(kind="none", tensors={})
    parts = Parts(Path("drawn"), architecture, head, config, program, weights, file, {})
    return Model(parts, backend=BACKEND, precision=precision)


def twin(model: Model, ids: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    """Every intermediate of one sequence by the specification: no NumPy, no float64 sum, no library function."""
    p = model.precision
    batch = make_batch(
        model.program, model.config, ids, attention_mask=None, position_ids=None, token_type_ids=None, cache=None,
        last_only=False,
    )  # fmt: skip
    run = Forward(
        {name: weight.decode().tolist() for name, weight in model.parts.weights.items()},
        {name: numbers[0].tolist() for name, numbers in batch.integers.items()},
        format=p.activations,
        operands=p.operands,
        rope_length=int(batch.rope_lengths[0]),
    )
    return {name: np.array(rows, dtype=np.float32) for name, rows in forward(run, model.program.ops).items()}
