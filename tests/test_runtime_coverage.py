"""The table of what computed a model's ops."""

from __future__ import annotations

import dataclasses

import numpy as np
from drawn_models import drawn

from lepton_ref.backends.numba_backend import NumbaBackend
from lepton_ref.numerics import PRECISIONS
from lepton_ref.runtime.coverage import coverage
from lepton_ref.runtime.model import Model
from lepton_ref.storage.kept import Kept

IDS = np.array([[1, 2, 3]])


def on_numba(precision: str) -> Model:
    model = drawn("llama", PRECISIONS["reference"], seed=3, specials=0.0)
    weights = {name: w.base if isinstance(w, Kept) else w for name, w in model.parts.weights.items()}
    parts = dataclasses.replace(model.parts, weights=weights)
    return Model(parts, backend=NumbaBackend(), precision=PRECISIONS[precision], threads=1)


def test_a_run_on_numba_is_by_kernels_but_for_the_embedding() -> None:
    model = on_numba("reference")
    assert {row[3] for row in model.coverage().rows} == {"op"}
    model.forward(IDS)
    rows = model.coverage().rows
    assert {row[0] for row in rows if row[3] == "op"} == {"embed"}
    assert sum(row[4] for row in rows) == len(model.program.ops)
    assert {row[2] for row in rows} == {"reference"}


def test_what_has_no_kernel_is_not_said_to_have_one() -> None:
    model = on_numba("float64")
    model.forward(IDS)
    assert {row[3] for row in model.coverage().rows} == {"op"}


def test_a_model_on_numpy_has_no_kernels() -> None:
    model = drawn("llama", PRECISIONS["reference"], seed=3, specials=0.0)
    model.forward(IDS)
    assert {row[3] for row in model.coverage().rows} == {"op"}


def test_the_table_is_aligned_and_escaped() -> None:
    model = on_numba("reference")
    precision = dataclasses.replace(PRECISIONS["reference"], name="<mine>")
    names = {op.name: op.kind != "add" for op in model.program.ops}
    table = coverage(model.program, model.parts.weights, precision, names)
    lines = repr(table).splitlines()
    assert lines[0].split() == ["op", "weights", "precision", "computed", "by", "ops"]
    assert len({len(line) for line in lines}) == 1
    assert any(line.split()[0] == "add" and line.split()[-2] == "op" for line in lines[1:])
    assert "<td>&lt;mine&gt;</td>" in table._repr_html_()
    assert "<mine>" not in table._repr_html_()
