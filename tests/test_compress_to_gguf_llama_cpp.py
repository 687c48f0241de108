"""llama.cpp reads the files that folders become, and computes the folder's model.

No bound through a whole network says how near llama.cpp's float32 must come. So the measure is what a wrong conversion
makes: for every way to be wrong that tests/to_gguf_cases.py lists, llama.cpp on the right file must be a hundred times
nearer to this package than on the wrong one, and choose the same token everywhere.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import real_models
from llama_cpp_peer import VARIABLE, Job, ask, python
from numpy.typing import NDArray
from tiny_models import load
from to_gguf_cases import BUGS, CASES, ENCODERS, contents, folder_of, ids_of, write
from tokenizer_folders import NAMES, texts, tokenizer_folder, vocabulary_gguf

from lepton_ref.compress.quantise_file import quantise_file
from lepton_ref.compress.recipe import Recipe
from lepton_ref.text import Tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(python() is None, reason=f"llama_cpp is not installed; name a Python that has it in {VARIABLE}"),
]

FACTOR = 100
"""By how much the right file is nearer than a wrong one."""


def job(name: str, path: Path) -> Job:
    return Job(path, ids_of(name)[:1], states=name in ENCODERS)


def distances(folder: Path) -> tuple[dict[str, float], dict[tuple[str, str], float], list[str]]:
    """By case, by planted bug, and the cases where another token leads."""
    jobs: list[tuple[str, str, Job]] = []
    ours: dict[str, NDArray[Any]] = {}
    for name in CASES:
        tensors, metadata = contents(folder_of(name, folder / name))
        jobs.append((name, "", job(name, write(folder / f"{name}.gguf", tensors, metadata))))
        ours[name] = load(folder / name).forward(ids_of(name)[:1])[0]
        for case, what, bug in BUGS:
            if case == name:
                wrong, said = dict(tensors), dict(metadata)
                bug(wrong, said)
                jobs.append((name, what, job(name, write(folder / f"{len(jobs)}.gguf", wrong, said))))
    right: dict[str, float] = {}
    planted: dict[tuple[str, str], float] = {}
    others: list[str] = []
    for (name, what, asked), answer in zip(jobs, ask([each for _, _, each in jobs]), strict=True):
        assert answer.error == "", f"{asked.path}: {answer.error}"
        theirs = answer.outputs[0]
        distance = float(np.abs(theirs - ours[name]).max())
        if what:
            planted[name, what] = distance
        else:
            right[name] = distance
            others += [name] if (theirs.argmax(axis=-1) != ours[name].argmax(axis=-1)).any() else []
    return right, planted, others


def test_llama_cpp_computes_the_folder_s_model(tmp_path: Path) -> None:
    right, planted, others = distances(tmp_path)
    lines = [f"{name:24}{distance:10.2e}" for name, distance in right.items()]
    lines += [f"{name:24}{what:28}{distance / right[name]:10.0f} times" for (name, what), distance in planted.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    assert others == []
    near = {case: distance / right[case[0]] for case, distance in planted.items()}
    assert {case: ratio for case, ratio in near.items() if ratio <= FACTOR} == {}
    least = min(planted.values())
    unmeasured = {name: d for name, d in right.items() if name not in {case for case, _ in planted}}
    assert {name: d for name, d in unmeasured.items() if d * FACTOR >= least} == {}


OTHERWISE = {
    "mpt.json": "llama.cpp does not bring text to NFC", "qwen2.json": "llama.cpp does not bring text to NFC",
    "gpt-4o.json": "its engine has no upper and lower case", "tekken.json": "its engine has no upper and lower case",
    "default.json": "its tables are of another Unicode", "falcon.json": "its tables are of another Unicode",
    "unigram": "runs of line ends that can be cut in two ways of one score",
    "cased": "marks and control characters", "uncased": "marks and control characters",
    "cased.json": "marks and control characters", "uncased.json": "marks and control characters",
}  # fmt: skip
"""Tokenizers of which llama.cpp gives other ids for some texts, none of them of printable ASCII alone, and why."""


def test_llama_cpp_gives_the_folder_s_ids(tmp_path: Path) -> None:
    folders = {name: tokenizer_folder(tmp_path / name, name) for name in NAMES}
    files = {name: vocabulary_gguf(folder, tmp_path / f"{name}.gguf") for name, folder in folders.items()}
    every = texts()
    for name, answer in zip(files, ask([Job(path, texts=every) for path in files.values()]), strict=True):
        assert answer.error == "", f"{name}: {answer.error}"
        ours = Tokenizer.from_folder(folders[name])
        wrong = [text for text, ids in zip(every, answer.ids, strict=True) if ours.encode(text) != ids]
        assert (wrong != []) == (name in OTHERWISE), (name, wrong[:3])
        assert [text for text in wrong if text.isascii() and text.isprintable()] == [], name


def test_a_real_encoder_s_folder(tmp_path: Path) -> None:
    """The folder's bits and ids here; in llama.cpp, vectors that point the same way, and the ids of ordinary text."""
    folder = real_models.minilm()
    quantise_file(folder, tmp_path / "mini.gguf", Recipe(format="F32"))
    before, after = load(folder), load(tmp_path / "mini.gguf")
    text = "Paris is the capital of France, isn't it? The quick brown fox (1 of 3) jumps."
    ids = before.tokenizer.encode(text)
    answer = ask([Job(tmp_path / "mini.gguf", [ids], [text], states=True)])[0]
    assert after.tokenizer.encode(text) == answer.ids[0] == ids
    ours, theirs = before.forward([ids])[0], answer.outputs[0]
    np.testing.assert_array_equal(after.forward([ids])[0], ours)
    quantise_file(folder, tmp_path / "small.gguf", Recipe(format="Q8_0"))
    coarse = load(tmp_path / "small.gguf").forward([ids])[0]
    assert np.abs(theirs - ours).max() < np.abs(coarse - ours).max()  # nearer than 8 bits of weights are
