"""Whether logits have the same bits elsewhere: what to compute, running it in other processes, and comparing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import golden_cases
import golden_hashes
import numpy as np
from numpy.typing import NDArray
from tiny_models import config_of, f32, write_stored

from lepton_ref.numerics import PRECISIONS

ROOT = Path(__file__).parent.parent
PROGRAM = Path(__file__).parent / "hash_logits.py"
Job = dict[str, Any]
Matrix = NDArray[np.float64]


class Report(TypedDict):
    """What hash_logits.py prints."""

    where: dict[str, Any]
    hashes: dict[str, str]
    control: dict[str, str]


ROUNDED_ONCE = tuple(name for name, how in PRECISIONS.items() if how.proven and how.machine is None)
MACHINES = tuple(name for name, how in PRECISIONS.items() if how.proven and how.machine is not None)
"""Each machine model adds in an order of its own, which is part of its definition."""


def tiny(*names: str, precisions: Iterable[str] = ROUNDED_ONCE) -> list[Job]:
    """These golden checkpoints on the two texts of equal length."""
    jobs = []
    for name in names:
        expected = golden_cases.case(name).expected
        inputs = {key: expected[key].tolist() for key in ("input_ids", "token_type_ids") if key in expected}
        path = f"golden:tiny/{name}"
        jobs.append({"name": f"tiny/{name}", "path": path, "inputs": inputs, "precisions": list(precisions)})
    return jobs


def smollm2(path: str, *, texts: str, precisions: Iterable[str]) -> Job:
    """SmolLM2 at that path on the texts that the golden hashes call "short", "long" or "both", padded on the right."""
    some = golden_hashes.padded(golden_hashes.smollm2()[0][texts], "right")
    inputs = {name: array.tolist() for name, array in some.items()}
    return {"name": f"smollm2/{texts}", "path": path, "inputs": inputs, "precisions": list(precisions)}


def medium(folder: Path) -> Job:
    """A Llama wide enough for BLAS to cut its products into blocks, so that their last bits depend on the machine."""
    return {**_written(folder, "medium", _llama(192, 520, 389), [1, 24]), "precisions": ["reference", "bf16", "w8a8"]}


def cancelling(folder: Path) -> Job:
    """A Llama whose sums have large terms that cancel exactly: float64 leaves no bit of them right, in any order.

    The first half of the hidden state is two equal quarters, and every matrix that reads it weighs one quarter with
    what it weighs the other with, negated: 2**26 times as much as the rest in the first layer and at the head, 2**80
    times in the second layer, which is beyond double-double as well. Only where weights are multiplied as they are
    stored: a scale of a block or a row would be that of the large ones, and infinite in Q8_0.
    """
    tensors = _llama(64, 96, 61)
    rng = np.random.default_rng(21)
    for name, value in tensors.items():
        if name.endswith(("embed_tokens", "norm")):
            value[..., 16:32] = value[..., :16]
        elif name.endswith(("o_proj", "down_proj")):
            value[16:32] = value[:16]
        else:
            value[:, :16] = rng.standard_normal((len(value), 16)) * (2.0**80 if ".1." in name else 2.0**26)
            value[:, 16:32] = -value[:, :16]
    stored = [name for name in ROUNDED_ONCE if PRECISIONS[name].operands == "stored"]
    return {**_written(folder, "cancelling", tensors, [2, 9]), "precisions": stored}


def _llama(width: int, inner: int, vocabulary: int) -> dict[str, Matrix]:
    """Random weights of two layers, six query heads and two key heads of 32."""
    rng = np.random.default_rng(20)

    def matrix(out: int, into: int, scale: float = 1) -> Matrix:
        return rng.standard_normal((out, into)) * scale / np.sqrt(into)

    tensors = {"model.embed_tokens": matrix(vocabulary, width, 14), "lm_head": matrix(vocabulary, width)}
    tensors["model.norm"] = 1 + rng.standard_normal(width) / 8
    for layer in ("model.layers.0.", "model.layers.1."):
        tensors[layer + "self_attn.q_proj"] = matrix(192, width, 2)
        tensors[layer + "self_attn.k_proj"] = matrix(64, width, 2)
        tensors[layer + "self_attn.v_proj"] = matrix(64, width)
        tensors[layer + "self_attn.o_proj"] = matrix(width, 192)
        tensors[layer + "mlp.gate_proj"] = matrix(inner, width)
        tensors[layer + "mlp.up_proj"] = matrix(inner, width)
        tensors[layer + "mlp.down_proj"] = matrix(width, inner)
        tensors[layer + "input_layernorm"] = 1 + rng.standard_normal(width) / 8
        tensors[layer + "post_attention_layernorm"] = 1 + rng.standard_normal(width) / 8
    return tensors


def _written(folder: Path, name: str, tensors: dict[str, Matrix], shape: list[int]) -> Job:
    """The checkpoint folder/name, and the job of running it on ids of this shape."""
    vocabulary, width = tensors["lm_head"].shape
    inner = len(tensors["model.layers.0.mlp.up_proj"])
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32, "num_hidden_layers": 2}
    sizes = {"hidden_size": width, "intermediate_size": inner, "vocab_size": vocabulary}
    (folder / name).mkdir(parents=True)
    (folder / name / "config.json").write_text(json.dumps({**config_of("llama"), **heads, **sizes}), encoding="utf-8")
    stored = {f"{tensor}.weight": f32(value) for tensor, value in tensors.items()}
    write_stored(folder / name / "model.safetensors", stored)
    ids = np.random.default_rng(22).integers(3, vocabulary, shape).tolist()
    return {"name": name, "path": name, "inputs": {"input_ids": ids}, "precisions": list(ROUNDED_ONCE)}


def write_jobs(path: Path, jobs: Iterable[Job]) -> Path:
    """The jobs as hash_logits.py reads them."""
    path.write_text(json.dumps(list(jobs)), encoding="utf-8")
    return path


def report(
    jobs: Path, *, python: Path | str = sys.executable, environment: Mapping[str, str | None] | None = None
) -> Report:
    """Run hash_logits.py in a process of its own; a variable that is None in `environment` is unset there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    set_ = {name: value for name, value in {**kept, **(environment or {})}.items() if value is not None}
    command = [python, "-W", "error", PROGRAM, jobs]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=set_)
    assert done.returncode == 0, done.stderr
    found: Report = json.loads(done.stdout)
    return found


def differences(got: Mapping[str, str], want: Mapping[str, str]) -> list[str]:
    """The names whose hashes are unequal or that only one side has.

    Raises:
        ValueError: nothing to compare.
    """
    if not got or not want:
        raise ValueError(f"nothing to compare: {len(got)} hashes against {len(want)}; give the same jobs to both")
    return sorted(name for name in got.keys() | want.keys() if got.get(name) != want.get(name))


def goldens() -> dict[str, str]:
    """The hash that the repository holds for each job on golden texts, "model precision" → SHA-256."""
    found = {f"tiny/{name}": {p: lists["equal"] for p, lists in h.items()} for name, h in golden_hashes.tiny().items()}
    for precision, lists in golden_hashes.smollm2()[1].items():
        for texts, value in lists.items():
            found.setdefault(f"smollm2/{texts}", {})[precision] = value
    return {f"{name} {precision}": value for name, hashes in found.items() for precision, value in hashes.items()}


def assert_same_bits(got: Report, want: Report, *, precision: str | None = None) -> None:
    """Equal hashes of every model under every precision, or under one; the golden's hash where there is one."""
    ours, theirs = (
        {name: value for name, value in report["hashes"].items() if precision in (None, name.rpartition(" ")[2])}
        for report in (got, want)
    )
    wrong = differences(ours, theirs)
    assert not wrong, f"{len(wrong)} of {len(theirs)} differ on {got['where']}: {wrong}"
    known = goldens()
    wrong = [name for name in ours if ours[name] != known.get(name, ours[name])]
    assert not wrong, f"{len(wrong)} are not the goldens' on {got['where']}: {wrong}"


def build_wheel(folder: Path) -> Path:
    """The package's wheel, built from a copy so that nothing is left in the checkout."""
    source = folder / "source"
    for name in ("lepton_ref", "backends", "golden"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source)
    return next(folder.glob("lepton_ref-*.whl"))


def unpack_wheel(wheel: Path, folder: Path) -> Path:
    """A folder from which the wheel's package can be imported and its entry points found."""
    pip("install", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


def pip(*arguments: str | Path, python: Path | None = None) -> None:
    """This environment's pip, working on this environment or on another."""
    other = [] if python is None else ["--python", str(python)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *other, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
