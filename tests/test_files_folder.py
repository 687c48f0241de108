"""A model folder: what is missing is named, pickles are never read, and a replaced file is whole or untouched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lepton_ref.files import FileFormatError, read_folder, write_safetensors
from lepton_ref.files.errors import shown
from lepton_ref.files.json_reading import read_object
from lepton_ref.files.mapped import replacing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "scale": float("inf")}))
    write_safetensors(tmp_path / "model.safetensors", {"w": np.array([1.0], np.float32)})
    return tmp_path


def test_config_and_weights_are_read(folder: Path) -> None:
    checkpoint = read_folder(str(folder))
    assert checkpoint.config == {"model_type": "llama", "scale": float("inf")}
    assert checkpoint.tensors.tensors["w"].decode().tolist() == [1.0]


def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"weights: none found: expected model\.safetensors, or model\.safetens"):
        read_folder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileFormatError, match=r"config\.json: is missing"):
        read_folder(folder)
    with pytest.raises(FileNotFoundError, match="does not exist; give the folder of a model"):
        read_folder(folder / "absent")
    (folder / "file").write_bytes(b"")
    with pytest.raises(FileFormatError, match="is not a folder"):
        read_folder(folder / "file")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"])
def test_a_pickle_is_never_read(name: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(FileFormatError, match=rf"{name}: weights: are a pickle: .*never read; .*save_file"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "content: not JSON"),
        (b"[1]", "content: is a list: expected a JSON object"),
        (b"null", "content: is a NoneType"),
        (b'{"a": 1, "a": 2}', "key 'a' stands twice"),
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "not JSON"),
        (b" " * (64 << 20) + b"{}", "size: 67108866 bytes: expected at most 67108864"),
    ],
    ids=range(8),
)
def test_a_wrong_config_is_one_clear_error(content: bytes, message: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=message) as raised:
        read_folder(folder)
    assert "config.json: " in str(raised.value)


def test_keys_may_repeat_in_different_objects(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": {"a": 1}, "b": [{"a": 2}, {"a": 3}]}')
    assert read_object(tmp_path / "x.json") == {"a": {"a": 1}, "b": [{"a": 2}, {"a": 3}]}


def test_a_message_is_one_short_line_whatever_the_value() -> None:
    for value in ("a\nb\x1b[31m", "x" * 10**6, [0] * 10**5, 10**5000, b"\xff" * 1000, "\ud800"):
        text = str(FileFormatError("f", "x", shown(value), "remedy"))
        assert len(text) < 130
        assert text.isprintable()
        assert text.isascii() or "…" in text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with replacing(path, overwrite=True) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with replacing(path, overwrite=True) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
