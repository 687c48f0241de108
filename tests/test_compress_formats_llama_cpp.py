"""Files in every block format: llama.cpp runs them, `gguf` reads them, and precision `ggml` is llama.cpp's arithmetic.

With one token, attention is the value itself, and no exponential comes between. What is left of llama.cpp is its blocks
of activations, its integer products and its cache of half-precision numbers, which precision `ggml` states. Code flips,
where a number lies between two codes of a block, part them for some tokens, as they part two builds of llama.cpp: so it
is the median over tokens that must be a hundred times nearer to `ggml` than to `reference`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from llama_cpp_peer import F16, VARIABLE, Job, ask, python
from tiny_models import load
from wide_model import wide_gguf

from lepton_ref.compress.quantise_file import quantise_file
from lepton_ref.compress.recipe import Recipe
from lepton_ref.files import read_gguf, write_gguf
from lepton_ref.storage import FORMATS

pytestmark = pytest.mark.slow

NO_WEIGHTS = ("Q8_1", "Q8_K")
"""Formats of activations, in which llama.cpp has no weights: it ends at once. So it does with F64."""

RUN = ("F32", "F16", "BF16", *(name for name in FORMATS if name not in NO_WEIGHTS))
FACTOR = 100
TOKENS = tuple(range(0, 60, 4))


def source(folder: Path) -> Path:
    """A layer, rows of 256, ids alone."""
    plain = read_gguf(wide_gguf(folder / "words.gguf", tied=False, words=False))
    said = {
        **plain.metadata,
        "tokenizer.ggml.model": "none",
        "llama.vocab_size": plain.tensors["output.weight"].shape[0],
    }
    write_gguf(folder / "source.gguf", dict(plain.tensors), said)
    return folder / "source.gguf"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The model in each format."""
    folder = tmp_path_factory.mktemp("formats")
    model = source(folder)
    for name in RUN:
        quantise_file(model, folder / f"{name}.gguf", Recipe(format=name))
    return {name: folder / f"{name}.gguf" for name in RUN}


@pytest.mark.skipif(python() is None, reason=f"llama_cpp is not installed; name a Python that has it in {VARIABLE}")
def test_precision_ggml_is_llama_cpp_s_arithmetic_in_every_format(files: dict[str, Path]) -> None:
    ids = [[token] for token in TOKENS]
    answers = ask([Job(path, ids, cache=F16) for path in files.values()])
    medians: dict[str, tuple[float, float]] = {}
    for (name, path), answer in zip(files.items(), answers, strict=True):
        assert answer.error == "", f"{name}: {answer.error}"
        theirs = np.stack([rows[0] for rows in answer.outputs])
        ours = [load(path, precision=precision).forward(ids)[:, 0] for precision in ("ggml", "reference")]
        near, far = (float(np.median(np.abs(theirs - rows).max(axis=1))) for rows in ours)
        medians[name] = near, far
    lines = [f"{name:8} from ggml {near:.1e}, from reference {far:.1e}" for name, (near, far) in medians.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    assert {name: pair for name, pair in medians.items() if pair[0] * FACTOR > pair[1]} == {}


def test_gguf_reads_the_same_numbers_in_every_format(files: dict[str, Path]) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed beside this Python")
    unread = []
    for name, path in files.items():
        ours = read_gguf(path)
        try:
            theirs = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
        except (ValueError, NotImplementedError):  # a type that this version does not know, or does not decode
            unread.append(name)
            continue
        for key, weight in ours.tensors.items():
            numbers = np.asarray(theirs[key], dtype=np.float32).reshape(weight.shape)
            assert np.array_equal(numbers, weight.decode()), f"{name}: {key}"
    sys.stdout.write(f"not read by gguf: {', '.join(unread) or 'none'}\n")
    assert set(unread) <= {"Q1_0", "Q2_0"}
