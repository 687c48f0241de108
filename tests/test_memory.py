"""How much memory is held: one decoded panel of a quantised model, and one layer of a model that is calibrated.

Measured with tracemalloc, which NumPy tells of its arrays; mapped files are not among them. Bounds are sizes of arrays
that must be there; what Python objects take beside them is far less than the array that must not.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wide_model
from planted import mutated
from wide_model import VOCABULARY, WIDTH, wide_gguf, wide_tensors

import lepton_ref
from lepton_ref import ops
from lepton_ref.backends.numpy_backend import NumpyBackend
from lepton_ref.compress import activations, calibration, quantise_file
from lepton_ref.compress.calibration import calibrate
from lepton_ref.compress.layers import quantise_layers
from lepton_ref.compress.recipe import Recipe
from lepton_ref.numerics import get_precision
from lepton_ref.storage import FORMATS, BlockQuantised, Weight, base, encode
from lepton_ref.storage.encoded import as_operand
from lepton_ref.storage.kept import Kept

NUMPY = NumpyBackend()
PANEL = 1 << 16
"""Bytes of a panel here: 32 rows of 256 float64 numbers."""
FLOAT64 = 8


def most_of(call: Callable[[], Any]) -> int:
    """The most bytes that are held at a time during a call, beyond what was held before."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


class Panels:
    """Counts the panels that are alive whenever one more is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made, self.most = 0, 0
        self._alive: list[weakref.ref[Any]] = []
        honest = Weight.panels

        def panels(weight: Weight, *, backend: Any) -> Iterator[base.Panel]:
            for panel in honest(weight, backend=backend):
                self._seen(panel)
                yield panel
                del panel

        monkeypatch.setattr(base, "PANEL_BYTES", PANEL)
        monkeypatch.setattr(Weight, "panels", panels)

    def _seen(self, panel: base.Panel) -> None:
        self.made += 1
        self._alive = [ref for ref in self._alive if ref() is not None] + [weakref.ref(panel.rows)]
        self.most = max(self.most, len(self._alive))


def blocks(rows: int, format: str = "Q4_K") -> BlockQuantised:
    """A matrix of rows of 256 in a block format."""
    values = np.random.default_rng(rows).standard_normal((rows, WIDTH)).astype(np.float32) / 16
    return BlockQuantised(encode(format, values), format=FORMATS[format])


# --- one panel --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["reference", "w8a8", "ggml", "float64", "fast"])
def test_a_linear_layer_holds_one_decoded_panel(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    panels, how, rows = Panels(monkeypatch), get_precision(precision), 2048
    weight = as_operand(blocks(rows, "Q8_0"), how.operands)
    x = np.random.default_rng(0).standard_normal((2, WIDTH)).astype(how.dtype)
    run = partial(ops.linear, x, weight, backend=NUMPY, precision=how)
    run()  # what is made once and kept, such as tables, is no part of it
    most = most_of(run)
    assert panels.made == 2 * rows * WIDTH * FLOAT64 // PANEL
    assert panels.most == 1
    outputs = 2 * rows * FLOAT64
    # the panel; its squares or its float32 numbers; the decoder's pieces; and activations, sums and results
    assert most < 3 * PANEL + 3 * outputs
    assert most < rows * WIDTH * FLOAT64 // 8


def test_two_panels_at_a_time_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    panels = Panels(monkeypatch)
    let_go = "        del panel  # so that the next one is not decoded beside it\n"
    wrong = mutated(sys.modules["lepton_ref.ops.linear"], let_go, "")
    x = np.ones((2, WIDTH), dtype=np.float32)
    wrong.linear(x, blocks(128), backend=NUMPY, precision=get_precision("reference"))
    assert panels.most == 2


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, all matrices in Q4_K but the table, which is the head as well, in Q6_K."""
    tensors = wide_tensors(2)
    stored: dict[str, Any] = {
        name.replace(".", "__"): BlockQuantised(encode(form, values), format=FORMATS[form])
        for name, values in tensors.items()
        if values.ndim == 2
        for form in ("Q6_K" if name == "token_embd.weight" else "Q4_K",)
    }
    return wide_gguf(tmp_path_factory.mktemp("memory") / "q4_k.gguf", 2, **stored)


def test_a_quantised_model_holds_one_decoded_panel(quantised: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panels = Panels(monkeypatch)
    model = lepton_ref.load(quantised, keep_decoded=False)
    decoded = sum(FLOAT64 * int(np.prod(weight.shape)) for weight in model.parts.weights.values())
    ids = [[3, 5, 7]]
    model.forward(ids)
    panels.made = 0
    most = most_of(lambda: model.forward(ids))
    assert panels.most == 1
    assert panels.made * PANEL >= decoded - VOCABULARY * WIDTH * FLOAT64
    assert most < 4 * PANEL < decoded / 24
    kept = lepton_ref.load(quantised, keep_decoded=True)
    assert any(isinstance(weight, Kept) for weight in kept.parts.weights.values())
    assert most_of(lambda: kept.forward(ids)) > 0


def test_a_model_that_kept_what_it_decodes_would_be_seen(quantised: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    panels, held = Panels(monkeypatch), []
    honest = Weight.operand

    def operand(weight: Weight, index: Any, /) -> Any:
        held.append(honest(weight, index))
        return held[-1]

    monkeypatch.setattr(Weight, "operand", operand)
    model = lepton_ref.load(quantised, keep_decoded=False)
    assert most_of(lambda: model.forward([[3, 5, 7]])) > 4 * PANEL
    assert panels.most > 1


# --- one layer --------------------------------------------------------------------------------------------------------

NARROW = mutated(wide_model, "WIDTH, VOCABULARY, HEADS, SHARED = 256,", "WIDTH, VOCABULARY, HEADS, SHARED = 64,")
"""The same models of a quarter of the width: what grows with the layers shows there as well."""

TOKENS, LENGTH = 256, 64
IDS = np.random.default_rng(0).integers(3, VOCABULARY, TOKENS).tolist()
ONE_INPUT = TOKENS * NARROW.WIDTH * 4
"""Bytes of what one linear layer is given over the calibration set, float32."""
ONE_HESSIAN = NARROW.WIDTH**2 * FLOAT64
ONE_LAYER = 6 * NARROW.WIDTH**2 * 4
"""Bytes of the matrices of a layer, float32: seven, of which two have half the rows."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, lepton_ref.Model]:
    """Models of two and of eight layers in float32, mapped, nothing kept decoded."""
    folder = tmp_path_factory.mktemp("layers")
    return {
        count: lepton_ref.load(
            NARROW.wide_gguf(folder / f"{count}.gguf", count), keep_decoded=False, precision="float64", backend=NUMPY
        )
        for count in (2, 8)
    }


def streamed(model: lepton_ref.Model, *, page: Any = activations) -> None:
    for _ in page.stream(model, page.corpus(IDS, length=LENGTH)):
        pass


def hessians(model: lepton_ref.Model) -> None:
    over = activations.corpus(IDS, length=LENGTH)
    for _ in calibration.Calibration(model, over, {}).hessians():
        pass


def growth(call: Callable[[Any], Any], of: Mapping[int, Any]) -> int:
    """By how many bytes six more layers raise the most that is held."""
    call(of[2])
    few, many = (most_of(partial(call, of[count])) for count in (2, 8))
    return many - few


@pytest.mark.parametrize("call", [streamed, hessians], ids=lambda call: call.__name__)
def test_more_layers_need_no_more_memory(call: Any, models: dict[int, lepton_ref.Model]) -> None:
    """Six layers more, and not even one of the 42 inputs or of the 24 Hessians more."""
    assert growth(call, models) < min(ONE_INPUT, ONE_HESSIAN)


def test_inputs_that_are_not_let_go_would_be_seen(models: dict[int, lepton_ref.Model]) -> None:
    wrong = mutated(activations, "                    del each[name]\n", "                    pass\n")
    assert growth(partial(streamed, page=wrong), models) > 6 * ONE_INPUT


def test_a_calibration_keeps_sums_for_each_channel_and_nothing_else(models: dict[int, lepton_ref.Model]) -> None:
    numbers = {}
    for count, model in models.items():
        found = {id(one): one for one in calibrate(model, IDS, length=LENGTH).channels.values()}
        numbers[count] = sum(getattr(one, name).nbytes for one in found.values() for name in SUMS)
    grown = numbers[8] - numbers[2]
    assert grown == 6 * 4 * len(SUMS) * NARROW.WIDTH * FLOAT64, "of the four inputs that a layer's linear ops have"
    assert growth(lambda model: calibrate(model, IDS, length=LENGTH), models) < grown + ONE_INPUT


SUMS = ("squares", "lows", "highs", "magnitudes")


def test_quantising_layer_by_layer_holds_one_layer_and_the_codes(models: dict[int, lepton_ref.Model]) -> None:
    """Of six layers more the codes, and not even the numbers of one of them."""
    over = activations.corpus(IDS[:64], length=LENGTH)
    seen = {count: calibration.Calibration(model, over, {}) for count, model in models.items()}

    def run(model: lepton_ref.Model) -> dict[str, Weight]:
        return quantise_layers(seen[model.config.num_hidden_layers], "int4-g64", method="gptq")

    out = run(models[8])
    codes = sum(weight.nbytes for weight in out.values()) * 6 // 8
    assert growth(run, models) < codes + ONE_LAYER


WIDE_LAYER = 6 * WIDTH**2 * 4
"""As `ONE_LAYER`, of the wide model: a tensor's name, shape and place in the file take two kilobytes beside it."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Wide models of two and of eight layers in float32."""
    folder = tmp_path_factory.mktemp("files")
    return {count: wide_gguf(folder / f"{count}.gguf", count) for count in (2, 8)}


def written(path: Path, *, page: Any = quantise_file, threads: int = 1) -> None:
    target = path.with_suffix(f".out{threads}.gguf")
    page.quantise_file(path, target, Recipe(format="Q8_0"), overwrite=True, threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_writing_a_file_holds_no_layer_more(threads: int, files: dict[int, Path]) -> None:
    assert growth(partial(written, threads=threads), files) < WIDE_LAYER


def test_tensors_that_are_kept_until_all_are_written_would_be_seen(files: dict[int, Path]) -> None:
    before = "            places[name] = (begin, spool.tell())\n"
    keeps = before + "            pool.kept = [*getattr(pool, 'kept', []), weight.decode() * 1]\n"
    wrong = mutated(quantise_file, before, keeps)
    assert growth(partial(written, page=wrong), files) > 5 * WIDE_LAYER
