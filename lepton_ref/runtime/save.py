"""Write a model down again: its tensors' bytes as they are stored, with config and tokenizer."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from lepton_ref.files import write_gguf, write_safetensors
from lepton_ref.interface import HostArray
from lepton_ref.runtime.parts import Parts
from lepton_ref.storage import Weight

COMPANIONS = (
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "1_Pooling/config.json",
)
"""Files of a folder that are copied as they are: the tokenizer's and those of sentence-transformers."""


def save(parts: Parts, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the model to `path`, complete or not at all; tensors keep their stored bytes.

    Args:
        parts: the model's.
        path: a folder for a model that was read from a folder, a .gguf file for one read from GGUF.
        overwrite: whether what is there may be replaced.

    Returns:
        The path.

    Raises:
        FileExistsError: something is there and `overwrite` is False.
        ValueError: a folder asked of a GGUF model or the other way round.
    """
    target = Path(path)
    if parts.file.kind == "gguf":
        if target.suffix != ".gguf":
            raise ValueError(f"{target}: this model was read from GGUF and is saved as GGUF; end the path in .gguf")
        plain = {key: value for key, value in parts.fields.items() if not key.startswith("split.")}
        types = parts.file.metadata_types
        write_gguf(target, parts.file.tensors, plain, metadata_types=types, overwrite=overwrite)
        return target
    if target.suffix == ".gguf":
        raise ValueError(f"{target}: this model was read from a folder and is saved as one; give a folder's path")
    _save_folder(parts, target, overwrite=overwrite)
    return target


def _save_folder(parts: Parts, target: Path, *, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; give another path, or overwrite=True")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        tensors: dict[str, Weight | HostArray] = {**parts.file.tensors, **parts.file.integers}
        write_safetensors(beside / "model.safetensors", tensors, dict(parts.file.metadata) or {"format": "pt"})
        text = json.dumps(dict(parts.fields), indent=2, ensure_ascii=False)
        (beside / "config.json").write_text(text + "\n", encoding="utf-8")
        for name in COMPANIONS:
            if (parts.path / name).is_file():
                (beside / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(parts.path / name, beside / name)
        beside.chmod(0o755)
        _take_place(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _take_place(beside: Path, target: Path) -> None:
    """Rename a finished folder to its name; what stood there goes only once the new one stands."""
    if not target.exists():
        beside.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    target.rename(old / "model")
    try:
        beside.rename(target)
    except OSError:
        (old / "model").rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
