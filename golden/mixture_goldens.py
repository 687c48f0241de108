"""What llama.cpp makes of each tensor under each of its mixtures: `llama_model_quantize`, run dry, and its own log.

The models have the names and the hyper-parameters of real ones, with matrices of one row: nothing is computed.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np

MOSTLY = "LLAMA_FTYPE_MOSTLY_"
LEFT_OUT = ("F16", "BF16", "NVFP4")
"""What is no mixture; and NVFP4, for which this llama.cpp has a number and which it refuses to make."""

MIXTURES = {
    name.removeprefix(MOSTLY): number
    for name, number in vars(llama_cpp).items()
    if name.startswith(MOSTLY) and name.removeprefix(MOSTLY) not in LEFT_OUT
}
"""Name → `general.file_type`, all that this llama.cpp makes."""

HEADS = 8
SPLIT = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
FUSED = ("attn_qkv", "attn_output", "ffn_up", "ffn_down")
TYPE = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\S+), size = [^\n(]*(?:\((\S+)\))?\n")


@dataclass(frozen=True)
class Shape:
    """What a mixture looks at."""

    layers: int
    sharing: int
    importance: bool
    architecture: str = "llama"
    tied: bool = False
    width: int = 256

    @property
    def kinds(self) -> tuple[str, ...]:
        """The matrices of a layer."""
        return FUSED if self.architecture == "phi3" else SPLIT

    def names(self) -> list[str]:
        """Every tensor, in a file's order."""
        layer = [*self.kinds, "attn_norm", "ffn_norm"]
        found = [f"blk.{number}.{kind}.weight" for number in range(self.layers) for kind in layer]
        return ["token_embd.weight", *found, "output_norm.weight", *([] if self.tied else ["output.weight"])]


def shapes() -> Iterator[Shape]:
    """Depths and shares of keys, with and without importance; then a tied head, 80 layers, fused matrices, odd rows."""
    for importance in (False, True):
        for layers in (2, 8, 16, 30):
            for sharing in (1, 2, 4, 8):
                yield Shape(layers, sharing, importance)
        yield Shape(16, 1, importance, tied=True)
        for architecture in ("llama", "qwen2"):
            for sharing in (1, 2, 8):
                yield Shape(80, sharing, importance, architecture=architecture)
        for sharing in (1, 4):
            yield Shape(16, sharing, importance, architecture="phi3")
        yield Shape(16, 1, importance, width=576)
        yield Shape(16, 1, importance, width=576, tied=True)


def write(path: Path, shape: Shape) -> None:
    """A file of that shape."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS // shape.sharing)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.width // HEADS)
    writer.add_vocab_size(1)
    for name in shape.names():
        rows = () if name.endswith("norm.weight") else (2,)
        writer.add_tensor(name, np.ones((*rows, shape.width), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def types(path: Path, file_type: int, shape: Shape) -> tuple[dict[str, str], bool]:
    """Tensor → format; and whether llama.cpp refuses to do this without an importance matrix.

    Raises:
        ValueError: a type that its log does not tell.
    """
    said: list[str] = []

    @llama_cpp.llama_log_callback
    def log(level: int, text: bytes, user_data: Any) -> None:
        said.append(text.decode("utf-8", "replace"))

    llama_cpp.llama_log_set(log, ctypes.c_void_p())
    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype, how.dry_run, how.nthread = file_type, True, 1
    column = (ctypes.c_float * shape.width)(*[1.0] * shape.width)
    entries = (llama_cpp.llama_model_imatrix_data * 2)()
    entries[0].name, entries[0].data, entries[0].size = b"blk.0.ffn_down.weight", column, shape.width
    if shape.importance:
        how.imatrix = entries
    code = llama_cpp.llama_model_quantize(str(path).encode(), b"", ctypes.byref(how))
    text = "".join(said)
    if code and "no tensor type fallback is defined" in text:
        return {}, False
    found = {name: (new or old).upper() for name, old, new in TYPE.findall(text)}
    if set(found) != set(shape.names()):
        raise ValueError(f"llama.cpp ended with {code} and told {len(found)} of {len(shape.names())} types: {text}")
    return found, "will require an imatrix" in text


def spans(numbers: list[int]) -> str:
    """Rising numbers as text: "0-3 7 9-10"."""
    pairs: list[list[int]] = []
    for number in numbers:
        if pairs and number == pairs[-1][1] + 1:
            pairs[-1][1] = number
        else:
            pairs.append([number, number])
    return " ".join(str(low) if low == high else f"{low}-{high}" for low, high in pairs)


def told(found: dict[str, str], shape: Shape) -> dict[str, Any]:
    """The most frequent format of a layer's matrices, and which have another: by kind, format → the layers."""
    inside = {kind: [found[f"blk.{n}.{kind}.weight"] for n in range(shape.layers)] for kind in shape.kinds}
    most = Counter(format_ for column in inside.values() for format_ in column).most_common(1)[0][0]
    others: dict[str, Any] = {}
    for kind, column in inside.items():
        for format_ in dict.fromkeys(column):
            if format_ != most:
                layers = [number for number, given in enumerate(column) if given == format_]
                others.setdefault(kind, {})[format_] = "all" if len(layers) == shape.layers else spans(layers)
    tops = {name: found[f"{name}.weight"] for name in ("token_embd", "output") if f"{name}.weight" in found}
    return {"most": most, **tops, "others": others}


def mixture(number: int, files: dict[Shape, Path]) -> dict[str, Any]:
    """What one mixture gives: the numbers of the shapes that come out alike, and what comes out."""
    alike: dict[str, list[int]] = {}
    refusals: list[int] = []
    for index, (shape, path) in enumerate(files.items()):
        chosen, refused = types(path, number, shape)
        alike.setdefault(json.dumps(told(chosen, shape) if chosen else {}), []).append(index)
        refusals += [index] if refused else []
    groups = [{"shapes": spans(which), **json.loads(text)} for text, which in alike.items()]
    return {"file type": number, "refused without importance": spans(refusals), "groups": groups}


def make(folder: Path) -> dict[str, Any]:
    """Write mixtures.json: the shapes; and of each mixture its number and what the shapes come out as."""
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        files = {shape: Path(scratch) / f"{number}.gguf" for number, shape in enumerate(shapes())}
        for shape, path in files.items():
            write(path, shape)
        found = {name: mixture(number, files) for name, number in sorted(MIXTURES.items(), key=lambda each: each[1])}
    lines = [f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}" for name, entry in found.items()]
    fields = [field.name for field in dataclasses.fields(Shape)]
    listed = json.dumps([[getattr(shape, field) for field in fields] for shape in files], separators=(",", ":"))
    text = f'{{"fields": {json.dumps(fields)},\n"shapes": {listed},\n"mixtures": {{\n' + ",\n".join(lines) + "\n}}\n"
    (folder / "mixtures.json").write_text(text, encoding="utf-8")
    return {"mixtures": len(found), "shapes": len(files)}


GROUPS = [
    (
        "mixtures",
        "which format llama.cpp gives each tensor, under every mixture that it has, for models of several shapes",
        "llama_model_quantize of llama-cpp-python, run dry on files of one row a matrix; its log says the types",
        make,
        None,
    )
]
