"""What is wrong with a weight file, from its data: never a guess, and a verdict "cannot tell" where they do not decide.

values        numbers that are not finite; matrices, or rows of them, that are all zero or all one number
scales        scales of blocks that are not finite, or subnormal fp16 numbers of so few bits that their rounding
              moves a weight by half a step
duplicates    matrices of the same bytes
unquantised   a file that says it is quantised and has its matrices dense
mx-rounding   by which rule the shared scales of MX blocks were chosen: see `lepton_ref.storage.detect_rule`
nibble-order  see `lepton_ref.audit.lint_nibbles`
gptq-version, nvfp4-scale    see `lepton_ref.audit.lint_packed`

"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lepton_ref.audit.findings import Finding, Findings
from lepton_ref.audit.lint_nibbles import lint_nibbles
from lepton_ref.audit.lint_packed import lint_packed
from lepton_ref.audit.open_file import open_file
from lepton_ref.files import TensorFile
from lepton_ref.numerics.formats import decode_array
from lepton_ref.storage import DENSE_FORMATS, BlockQuantised, Dense, Weight
from lepton_ref.storage.detect_rule import largest, rule_of
from lepton_ref.storage.mx import MX

PANEL = 1 << 20
"""Elements that are decoded at a time."""

LOOKED_UP = (
    "token_embd",
    "embed_tokens",
    "wte",
    "embed_in",
    "word_embeddings",
    "lm_head",
    "output.weight",
    "embed_out",
)
"""Tables whose rows of tokens that never occurred are zero or alike in healthy models."""

SMALL = ("norm", "position_embd", "token_types", "ffn_gate_inp", "rotary", "rope", "wpe", "embed_positions")
"""Parts of the names of tensors that no tool quantises."""

FLOAT_FILES = (0, 1, 32)
"""`general.file_type` of files that are all F32, mostly F16, mostly BF16."""

Progress = Callable[[list[str]], Iterable[str]]


def lint(path: str | os.PathLike[str], /, *, progress: Progress | None = None) -> Findings:
    """What is wrong with a file, or cannot be told of it.

    Args:
        path: a .gguf or .safetensors file, or a folder with config.json.
        progress: wraps each list of tensors while it is worked through.

    Raises:
        FileNotFoundError: nothing there.
        FileFormatError: a damaged file.
    """
    packed = lint_packed(path, progress=progress)
    file = open_file(path) if not any(one.rule == "packed" for one in packed) else _plain(path)
    return Findings([*packed, *lint_tensors(file, progress=progress)])


def _plain(path: str | os.PathLike[str]) -> TensorFile:
    """The file as it lies there, where its packed matrices cannot be put together."""
    from lepton_ref.files import read_safetensors

    return read_safetensors(Path(path))


def lint_tensors(file: TensorFile, /, *, progress: Progress | None = None) -> Findings:
    """The same for an opened file, but for what only the file's own bytes say."""
    names = list(file.tensors)
    found: list[Finding] = []
    seen: dict[tuple[str, tuple[int, ...], str], str] = {}
    for name in names if progress is None else progress(names):
        weight = file.tensors[name]
        found += _values(name, weight)
        found += _scales(name, weight)
        found += _duplicates(name, weight, seen)
        found += lint_nibbles(name, weight, file.tensors)
    return Findings([*found, *_unquantised(file), *_mx_rounding(file)])


def _values(name: str, weight: Weight) -> Iterator[Finding]:
    rows = weight.shape[0]
    odd = dead = constant = 0
    low, high = math.inf, -math.inf
    step = max(1, PANEL // max(1, math.prod(weight.shape[1:])))
    for start in range(0, rows, step):
        values = weight.rows(start, min(start + step, rows))
        flat = values.reshape(len(values), -1)
        finite = np.isfinite(flat)
        odd += int(flat.size - np.count_nonzero(finite))
        low, high = min(low, float(flat.min())), max(high, float(flat.max()))
        alike = (flat == flat[:, :1]).all(axis=1)
        dead += int(np.count_nonzero(alike & (flat[:, 0] == 0)))
        constant += int(np.count_nonzero(alike & (flat[:, 0] != 0)))
    if odd:
        yield Finding(
            "error", "values", name, f"{odd} of {math.prod(weight.shape)} numbers are NaN or infinite",
            "fetch the file again, or quantise the model again from where it is healthy",
        )  # fmt: skip
    matrix = len(weight.shape) > 1 and rows > 1 and math.prod(weight.shape[1:]) > 1
    if low == high == 0 and (matrix or "norm" in name) and not name.endswith("bias"):
        yield Finding("error", "values", name, "every number is zero", "it passes nothing on; fetch the file again")
    elif matrix and low == high:
        yield Finding(
            "error", "values", name, f"every number is {low:g}", "it was never trained, or lost; fetch it again"
        )
    elif matrix and dead + constant and not any(part in name for part in LOOKED_UP):
        what = f"{dead} rows are all zero" if dead else f"{constant} rows are one number throughout"
        also = f" and {constant} one number throughout" if dead and constant else ""
        remedy = "outputs that say nothing: prune them, or fetch the file again if they were trained"
        yield Finding("warning", "values", name, f"{what}{also}, of {rows}", remedy)


def _scales(name: str, weight: Weight) -> Iterator[Finding]:
    if not isinstance(weight, BlockQuantised):
        return
    blocks = weight.raw.reshape(-1, weight.block.nbytes)
    for field in weight.block.fields:
        if field.what != "fp16":
            continue
        stored = np.ascontiguousarray(blocks[:, field.at : field.at + 2]).view("<u2").ravel()
        size = stored & np.uint16(0x7FFF)
        odd = int(np.count_nonzero(size >= 0x7C00))
        coarse = int(np.count_nonzero((size > 0) & (size < np.uint16(1 << _needed(weight)))))
        if odd:
            yield Finding(
                "error", "scales", name, f"{field.name} of {odd} of {len(blocks)} blocks is NaN or infinite",
                "quantise again: a scale beyond fp16's 65504 wants another format, or a model that is scaled down",
            )  # fmt: skip
        if coarse:
            yield Finding(
                "warning", "scales", name,
                f"{field.name} of {coarse} of {len(blocks)} blocks is a subnormal fp16 number of at most "
                f"{_needed(weight)} bits, whose rounding alone can move a weight by half a step",
                "the weights are too small for fp16 scales; keep the tensor in BF16 or F32, or scale it up",
            )  # fmt: skip


def _needed(weight: BlockQuantised) -> int:
    """Bits of a scale that are too few: half a unit of b bits is 2^−b of it, and moves code c by c·2^−b steps.

    Codes of w bits reach 2^(w−1) where they have a sign, 2^w where the format has a minimum.
    """
    read = weight.block.read
    if read is None or "[q]" in weight.block.formula:  # a code that names a level is no number of steps
        return 4
    if weight.format.startswith("TQ"):  # codes 0, 1, 2, whatever they are packed in
        return 2
    width = sum(bits.width for one in read(bytes(weight.block.nbytes), 0) if one.name == "q" for bits in one.where)
    return width + 1 if "m" in weight.block.formula.split("·q")[-1] else width


def _stored(weight: Weight) -> NDArray[np.uint8] | None:
    if isinstance(weight, BlockQuantised):
        return np.ascontiguousarray(weight.raw)
    if isinstance(weight, Dense):
        return np.ascontiguousarray(weight.array).view(np.uint8)
    return None


def _duplicates(name: str, weight: Weight, seen: dict[tuple[str, tuple[int, ...], str], str]) -> Iterator[Finding]:
    raw = _stored(weight) if len(weight.shape) > 1 and math.prod(weight.shape) > 1 else None
    if raw is None:
        return
    digest = hashlib.sha256(raw.data).hexdigest()
    first = seen.setdefault((weight.format, weight.shape, digest), name)
    if first != name:
        remedy = "where the two are meant to be tied, keep one; else one was written in the other's place"
        yield Finding("warning", "duplicates", name, f"has the same bytes as {first}", remedy)


def _unquantised(file: TensorFile) -> Iterator[Finding]:
    """Dense matrices in a GGUF that says, or shows by most of its matrices, that it is quantised."""
    matrices = {name: w for name, w in file.tensors.items() if len(w.shape) > 1 and not any(p in name for p in SMALL)}
    dense = [name for name, weight in matrices.items() if weight.format in DENSE_FORMATS]
    stated = file.metadata.get("general.file_type")
    says = file.kind == "gguf" and isinstance(stated, int) and stated not in FLOAT_FILES
    if not matrices or not dense or file.kind != "gguf":
        return
    if says and len(dense) == len(matrices):
        yield Finding(
            "error", "unquantised", "",
            f"general.file_type is {stated}, a quantised file, but all {len(dense)} matrices are dense",
            "quantise again; whoever wrote the file saved the weights as they were before",
        )  # fmt: skip
    elif len(dense) * 2 < len(matrices) or says:
        for name in dense:
            if matrices[name].shape[-1] % 32 == 0 and not any(part in name for part in LOOKED_UP):
                blocks = len(matrices) - len(dense)
                yield Finding(
                    "warning", "unquantised", name,
                    f"is {matrices[name].format} among {blocks} quantised matrices, though its rows are whole blocks",
                    "quantise it too, unless it was kept on purpose",
                )  # fmt: skip


def _mx_rounding(file: TensorFile) -> Iterator[Finding]:
    sizes: dict[str, list[NDArray[np.float64]]] = {}
    for weight in file.tensors.values():
        if isinstance(weight, MX):
            sizes.setdefault(weight.elements, []).append(largest(weight))
        elif isinstance(weight, BlockQuantised) and weight.format == "MXFP4":
            sizes.setdefault("MXFP4", []).append(_largest(weight))
    for elements, parts in sizes.items():
        found = rule_of(np.concatenate(parts), elements)
        what = f"{elements}: {found.reason}"
        if not found.blocks:
            continue
        if len(found.rules) == 1:
            yield Finding("info", "mx-rounding", "", what, "nothing to do")
        elif found.rules:
            remedy = "ask whoever quantised, if you must have the same bits"
            yield Finding("info", "mx-rounding", "", f"cannot tell which rule chose the scales of {what}", remedy)
        else:
            yield Finding("warning", "mx-rounding", "", what, "scales or codes are not those of one quantisation")


def _largest(weight: BlockQuantised) -> NDArray[np.float64]:
    """The largest |number| of each block of ggml's MXFP4 that says something: neither zero nor at an end of E8M0."""
    raw = weight.raw.reshape(-1, weight.block.nbytes)
    found = []
    for start in range(0, len(raw), PANEL // weight.block.length):
        part = raw[start : start + PANEL // weight.block.length]
        code = np.maximum(part[:, 1:] & 7, part[:, 1:] >> 4 & 7).max(axis=1)
        found.append(decode_array(code[(part[:, 0] > 0) & (part[:, 0] < 254)], "e2m1"))
    sizes = np.concatenate(found) if found else np.zeros(0)
    return sizes[sizes > 0]
