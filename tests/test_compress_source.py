"""What a manifest says of a folder: the SHA-256 of every file that makes the bytes, and of no other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import mutated
from test_compress_tokenizer_to_gguf import folder
from to_gguf_cases import folder_of
from tokenizer_folders import tokenizer_folder

from lepton_ref.compress import source as page
from lepton_ref.compress.manifest import MANIFEST
from lepton_ref.compress.quantise_file import quantise_file
from lepton_ref.compress.recipe import Recipe
from lepton_ref.compress.source import open_source
from lepton_ref.files import read_gguf, read_safetensors, write_safetensors

DECODER = ["config.json", "generation_config.json", "model.safetensors"]


def digests(path: Path, *names: str) -> list[str]:
    return [hashlib.sha256((path / name).read_bytes()).hexdigest() for name in names]


def sources(path: Path) -> Any:
    """The SHA-256 in the manifest of a GGUF."""
    return json.loads(read_gguf(path).metadata[MANIFEST])["source"]["sha256"]


def written(path: Path, target: Path) -> Path:
    quantise_file(path, target, Recipe(format="F32"), overwrite=True)
    return target


def test_two_tokenizers_give_two_manifests(tmp_path: Path) -> None:
    made = folder(tmp_path / "in")
    first = written(made, tmp_path / "first.gguf")
    assert sources(first) == digests(made, *DECODER, "tokenizer.json", "tokenizer_config.json")
    text = (made / "tokenizer.json").read_text(encoding="utf-8")
    (made / "tokenizer.json").write_text(text.replace("[57]", "[ 57 ]") + " ", encoding="utf-8")
    assert sources(written(made, tmp_path / "second.gguf")) != sources(first)


def named(path: Path, *, gguf: bool = True) -> list[str]:
    return [file.relative_to(path).as_posix() for file in open_source(path, gguf=gguf).files]


MORE = ("added_tokens.json", "special_tokens_map.json")


def test_every_file_that_is_read_is_named_in_order_and_no_other(tmp_path: Path) -> None:
    made = folder(tmp_path / "in")
    (made / "README.md").write_text("not read", encoding="utf-8")
    for name in MORE:
        (made / name).write_text("{}", encoding="utf-8")
    (made / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    (made / "additional_chat_templates").mkdir()
    (made / "additional_chat_templates" / "tool.jinja").write_text("{{ tools }}", encoding="utf-8")
    kept = [*DECODER, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    assert named(made) == sorted([*kept, *MORE, "additional_chat_templates/tool.jinja"])
    assert named(made, gguf=False) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("gpt-2.vocab", ["merges.txt", "vocab.json"]), ("bpe", ["tokenizer.model"]),
        ("cased", ["tokenizer_config.json", "vocab.txt"]), ("bpe.json", ["tokenizer.json", "tokenizer_config.json"]),
    ],
)  # fmt: skip
def test_a_tokenizer_of_every_layout_is_named(name: str, files: list[str], tmp_path: Path) -> None:
    made = folder_of("gpt2" if name == "gpt-2.vocab" else "llama", tmp_path)
    tokenizer_folder(made, name)
    assert named(made) == sorted(["config.json", "model.safetensors", *files])


def test_the_pooling_is_named(tmp_path: Path) -> None:
    made = folder_of("bert", tmp_path)
    (made / "1_Pooling").mkdir()
    (made / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}', encoding="utf-8")
    (made / "modules.json").write_text('[{"type": "a.Pooling", "path": "1_Pooling"}]', encoding="utf-8")
    assert named(made) == ["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json"]


def test_the_index_of_shards_is_named_where_it_is_read(tmp_path: Path) -> None:
    made = folder_of("llama", tmp_path)
    tensors = {k: np.array(w.decode()) for k, w in read_safetensors(made / "model.safetensors").tensors.items()}
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (made / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert named(made, gguf=False) == ["config.json", "model.safetensors"]
    (made / "model.safetensors").unlink()
    write_safetensors(made / "model-00001-of-00001.safetensors", tensors)
    want = ["config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"]
    assert named(made, gguf=False) == named(made) == want


def test_a_manifest_without_the_tokenizer_is_found(tmp_path: Path) -> None:
    wrong = mutated(page, "files.union(made.files)", "files")
    made = folder(tmp_path / "in")
    assert wrong.open_source(made, gguf=True).files != open_source(made, gguf=True).files
