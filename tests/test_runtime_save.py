"""Saving: the same bytes and bits again, complete or not at all, and nothing of anybody else's lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import golden_cases
import numpy as np
import pytest
from planted import mutated
from tiny_models import Stored, changed, f32, llama_gguf, load

from lepton_ref import Model
from lepton_ref.files import model_folder, read_safetensors
from lepton_ref.runtime import save as saving

TINY = golden_cases.GOLDEN / "tiny"
IDS = [[5, 6, 7], [8, 9, 10]]


def contents(folder: Path) -> dict[str, bytes | str]:
    """Everything in a folder: bytes of files, targets of links."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }


def bits(model: Model) -> bytes:
    return model.forward(IDS).tobytes()


@pytest.mark.parametrize("name", ["llama", "llama_sharded", "llama_tied", "gpt2_hub", "bert", "phi3"])
def test_a_saved_folder_is_the_same_model(name: str, tmp_path: Path) -> None:
    model = load(TINY / name)
    assert model.save(tmp_path / "deep" / "saved") == tmp_path / "deep" / "saved"
    again = load(tmp_path / "deep" / "saved")
    assert again.config == model.config
    assert again.parts.fields == model.parts.fields
    assert bits(again) == bits(model)
    old, new = read_safetensors(TINY / name), read_safetensors(tmp_path / "deep" / "saved")
    assert {n: (w.format, w.shape, w.decode().tobytes()) for n, w in new.tensors.items()} == {
        n: (w.format, w.shape, w.decode().tobytes()) for n, w in old.tensors.items()
    }
    assert {n: a.tobytes() for n, a in new.integers.items()} == {n: a.tobytes() for n, a in old.integers.items()}
    again.save(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "deep" / "saved")


def test_another_number_would_be_found(tmp_path: Path) -> None:
    model = load(TINY / "llama")
    other = changed(tmp_path, tensors=lambda t: {**t, "model.norm.weight": f32(np.ones(24))})
    assert bits(load(other)) != bits(model)


@pytest.mark.parametrize("format_", ["F16", "BF16", "F64"])
def test_tensors_keep_their_type(format_: str, tmp_path: Path) -> None:
    raw = np.random.default_rng(1).integers(0x3000, 0x3FFF, (24, 4 if format_ == "F64" else 1), dtype=np.uint16)
    kept = (format_, (24,), raw.tobytes())
    model = load(changed(tmp_path / "a", tensors=lambda t: {**t, "model.norm.weight": kept}))
    model.save(tmp_path / "b")
    weight = read_safetensors(tmp_path / "b").tensors["model.norm.weight"]
    assert weight.format == format_
    assert (tmp_path / "b" / "model.safetensors").read_bytes().count(raw.tobytes()) == 1
    assert bits(load(tmp_path / "b")) == bits(model)


def test_a_gguf_is_written_back_byte_for_byte(tmp_path: Path) -> None:
    path = llama_gguf(tmp_path / "a.gguf", metadata={"general.name": "Müller", "x.list": ["a", "", "ü"], "x.f": 0.1})
    model = load(path)
    model.save(tmp_path / "deep" / "b.gguf")
    assert (tmp_path / "deep" / "b.gguf").read_bytes() == path.read_bytes()
    assert bits(load(tmp_path / "deep" / "b.gguf")) == bits(model)


def test_a_joined_gguf_no_longer_says_that_it_is_split(tmp_path: Path) -> None:
    whole = llama_gguf(tmp_path / "a.gguf")
    split = llama_gguf(tmp_path / "b.gguf", metadata={"split.count": 1, "split.no": 0, "split.tensors.count": 21})
    load(split).save(tmp_path / "c.gguf")
    assert (tmp_path / "c.gguf").read_bytes() == whole.read_bytes() != split.read_bytes()


@pytest.mark.parametrize("path", [None, 3, b"x"])
def test_a_path_of_another_type_is_refused(path: Any) -> None:
    with pytest.raises(TypeError, match=f"the path must be text or a pathlib.Path, got {path!r}; give a folder or"):
        load(TINY / "llama").save(path)


def test_each_kind_has_its_own_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.gguf: this model was read from a folder and is saved as one; give a fo"):
        load(TINY / "llama").save(tmp_path / "x.gguf")
    with pytest.raises(ValueError, match=r"/x: this model was read from GGUF and is saved as GGUF; end the path in \."):
        load(llama_gguf(tmp_path / "a.gguf")).save(tmp_path / "x")
    assert set(contents(tmp_path)) == {"a.gguf"}


def fp8(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """The first matrix as FP8 with a scale, and nothing else changed."""
    name = "model.layers.0.self_attn.q_proj"
    codes = np.random.default_rng(3).integers(0, 0x50, tensors[f"{name}.weight"][1]).astype(np.uint8)
    coded: Stored = ("F8_E4M3", codes.shape, codes.tobytes())
    return {**tensors, f"{name}.weight": coded, f"{name}.weight_scale": f32(np.array([0.01]))}


def test_small_floats_are_written_back(tmp_path: Path) -> None:
    model = load(changed(tmp_path / "a", config={"quantization_config": {"quant_method": "fp8"}}, tensors=fp8))
    model.save(tmp_path / "b")
    assert bits(load(tmp_path / "b")) == bits(model) != bits(load(TINY / "llama"))
    one, other = (read_safetensors(tmp_path / folder) for folder in "ab")
    assert (
        {n: (k, a.tobytes()) for n, (k, a) in other.codes.items()}
        == {n: (k, a.tobytes()) for n, (k, a) in one.codes.items()}
        != {}
    )


def test_a_tensor_that_cannot_be_written_is_not_left_out(tmp_path: Path) -> None:
    extra: Stored = ("F4", (2,), b"\x00")
    model = load(changed(tmp_path / "a", tensors=lambda t: {**t, "model.rotary_emb.inv_freq": extra}))
    with pytest.raises(ValueError, match=r"tensor 'model.rotary_emb.inv_freq' is stored as F4, which is not written;"):
        model.save(tmp_path / "b")
    assert not (tmp_path / "b").exists()


# --- what is there already -------------------------------------------------------------------------------------------


def occupy(path: Path, how: str) -> None:
    if how == "file":
        path.write_text("mine")
    elif how == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("how", ["file", "folder", "dangling link"])
@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_what_is_there_is_not_replaced_unasked(how: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    model = load(TINY / "llama") if kind == "folder" else load(llama_gguf(tmp_path / "source" / "a.gguf"))
    target = tmp_path / ("x" if kind == "folder" else "x.gguf")
    occupy(target, how)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="exists; give another path, or overwrite=True"):
        model.save(target)
    assert contents(tmp_path) == before


def test_an_empty_folder_is_replaced_when_asked(tmp_path: Path) -> None:
    occupy(tmp_path / "x", "folder")
    model = load(TINY / "llama")
    model.save(tmp_path / "x", overwrite=True)
    assert bits(load(tmp_path / "x")) == bits(model)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("how", ["file", "dangling link", "somebody's folder"])
def test_what_is_no_model_s_folder_is_never_replaced(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occupy(tmp_path / "x", "folder" if how == "somebody's folder" else how)
    if how == "somebody's folder":
        (tmp_path / "x" / "thesis.txt").write_text("years of work")
    before = contents(tmp_path)
    told = "has no config.json, and only" if how == "somebody's folder" else "is no folder, and only a folder is"
    model = load(TINY / "llama")
    with pytest.raises(FileExistsError, match=told) as error:
        model.save(tmp_path / "x", overwrite=True)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    if how == "file":
        careless = mutated(model_folder, "if not target.is_dir():", "if False:")
        monkeypatch.setattr(careless, "require_place", lambda target, *, overwrite: None)
        monkeypatch.setattr(saving, "replacing_folder", careless.replacing_folder)
        model.save(tmp_path / "x", overwrite=True)
        assert contents(tmp_path) != before


def test_what_comes_in_the_meantime_is_not_replaced(tmp_path: Path) -> None:
    def write(page: ModuleType) -> None:
        with page.replacing_folder(tmp_path / "x", overwrite=False) as fresh:
            (fresh / "config.json").write_text("new")
            changed(tmp_path / "x", "gpt2")

    with pytest.raises(FileExistsError, match="x exists; give another path, or overwrite it"):
        write(model_folder)
    before = contents(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert len(before) > 1
    shutil.rmtree(tmp_path / "x")
    write(mutated(model_folder, PLACE, f"{PLACE.splitlines()[0]}\n"))
    assert contents(tmp_path) != before


PLACE = '''its name; what stood there goes only once the new one stands."""
    require_place(target, overwrite=overwrite)
'''


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_comes_at_the_last_moment_stays(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    occupy(tmp_path / "x", what)
    if what == "folder":
        (tmp_path / "x" / "mine").write_text("years of work")
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.path.lexists", lambda path: False)
        with pytest.raises(OSError, match=r"x'$"), model_folder.replacing_folder(tmp_path / "x", overwrite=False):
            pass
    assert contents(tmp_path) == before


def check_flushed(page: ModuleType, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the new folder takes its place all in it is flushed, and then the folder around it."""
    flushed: list[tuple[int, bool]] = []
    honest = os.fsync

    def fsync(handle: int) -> None:
        flushed.append((os.fstat(handle).st_ino, target.exists()))
        honest(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with page.replacing_folder(target, overwrite=False) as fresh:
            (fresh / "1_Pooling").mkdir()
            for name in ("config.json", "1_Pooling/config.json"):
                (fresh / name).write_text("{}")
    inside = {(path.stat().st_ino, False) for path in (target, *target.rglob("*"))}
    assert len(inside) == 4
    assert set(flushed) == {*inside, (target.parent.stat().st_ino, True)}


@pytest.mark.skipif(not hasattr(os, "O_DIRECTORY"), reason="folders are not opened here")
def test_all_is_on_the_disk_before_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_flushed(model_folder, tmp_path / "a", monkeypatch)
    for number, text in enumerate(("_sync(fresh)", "sync_folder(target.parent)", "os.fsync(file.fileno())")):
        with pytest.raises(AssertionError):
            check_flushed(mutated(model_folder, text, "pass"), tmp_path / str(number), monkeypatch)


def test_a_model_can_be_saved_onto_itself(tmp_path: Path) -> None:
    model = load(changed(tmp_path / "a", "llama_sharded"), keep_decoded=False)
    want = bits(model)
    for _ in range(2):
        model.save(tmp_path / "a", overwrite=True)
        assert bits(model) == want, "its maps of the old file stay valid"
        assert bits(load(tmp_path / "a")) == want
    assert sorted(contents(tmp_path / "a")) == ["config.json", "generation_config.json", "model.safetensors"]
    gguf = llama_gguf(tmp_path / "a.gguf")
    before = gguf.read_bytes()
    model = load(gguf, keep_decoded=False)
    want = bits(model)
    model.save(gguf, overwrite=True)
    assert gguf.read_bytes() == before
    assert bits(model) == bits(load(gguf)) == want


def test_a_replaced_model_takes_its_own_files_along_and_leaves_all_others(tmp_path: Path) -> None:
    old = changed(tmp_path / "old", "llama_sharded")
    (old / "tokenizer.json").write_text("of the old model")
    (old / "1_Pooling").mkdir()
    (old / "1_Pooling" / "config.json").write_text("of the old model")
    (old / ".git").mkdir()
    (old / ".git" / "HEAD").write_text("history")
    (old / "thesis.tex").write_text("years of work")
    (old / "README.md").write_text("read me")
    load(TINY / "gpt2").save(old, overwrite=True)
    found = contents(old)
    assert sorted(found) == [
        ".git/HEAD", "README.md", "config.json", "generation_config.json", "model.safetensors", "thesis.tex",
    ]  # fmt: skip
    assert (found[".git/HEAD"], found["thesis.tex"], found["README.md"]) == (b"history", b"years of work", b"read me")
    assert bits(load(old)) == bits(load(TINY / "gpt2"))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


MINE = {
    "requirements.txt": "numpy", "package.json": "{}", "thesis.txt": "years of work", "weights.index.json": "[]",
    "2_photos/a.jpg": "p", "3_letters/config.json": "{}", "3_letters/b.txt": "b", "1_Pooling/c.md": "c",
}  # fmt: skip


def check_kept(page: ModuleType, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that has a step replaces one that has too, in a folder with files of another kind."""
    changed(old, "llama_sharded")
    source = changed(old.parent / f"{old.name} source", "gpt2")
    theirs = {"tokenizer.json": "{}", "4_Dense/config.json": "{}", "4_Dense/model.safetensors": "", "merges.txt": "#"}
    for folder, texts in (
        (old, {**MINE, **theirs, "1_Pooling/config.json": "old"}),
        (source, {"1_Pooling/config.json": "new"}),
    ):
        for name, text in texts.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    monkeypatch.setattr(saving, "replacing_folder", page.replacing_folder)
    load(source).save(old, overwrite=True)
    found = contents(old)
    assert {name: found.get(name) for name in MINE} == {name: text.encode() for name, text in MINE.items()}
    assert found.keys() - MINE == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "1_Pooling/config.json",
    }
    assert found["1_Pooling/config.json"] == b"new"


def test_files_that_only_look_like_a_model_s_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_kept(model_folder, tmp_path / "a", monkeypatch)


@pytest.mark.parametrize(
    ("text", "bug"),
    [
        ("any(path.match(name) for name in MODEL)", "_belongs(path.name) or path.match('*.safetensors')"),
        ("each.is_dir() or not _is_models(each) for each in held", "False for each in held"),
        ("            _carry_over(path, kept)\n", "            pass\n"),
        ("            if not _is_models(path):\n", "            if True:\n"),
    ],
)
def test_a_file_of_anybody_s_that_goes_is_found(
    text: str, bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError):
        check_kept(mutated(model_folder, text, bug), tmp_path / "a", monkeypatch)


def test_a_link_is_replaced_and_what_it_points_at_is_not_touched(tmp_path: Path) -> None:
    real = changed(tmp_path / "real")
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    before = contents(real)
    load(TINY / "gpt2").save(tmp_path / "link", overwrite=True)
    assert contents(real) == before
    assert not (tmp_path / "link").is_symlink()
    assert bits(load(tmp_path / "link")) == bits(load(TINY / "gpt2"))


# --- what goes along -------------------------------------------------------------------------------------------------

COMPANIONS = {
    "tokenizer.json": "{}", "tokenizer_config.json": "{}", "added_tokens.json": "{}", "vocab.txt": "[PAD]",
    "merges.txt": "#", "tokenizer.model": "m", "chat_template.jinja": "{{ x }}", "modules.json": "[]",
    "config_sentence_transformers.json": "{}", "sentence_bert_config.json": "{}", "1_Pooling/config.json": "{}",
    "README.md": "r", "LICENSE": "l", "NOTICE.txt": "n",
}  # fmt: skip
STRANGERS = {
    "pytorch_model.bin": "pickle", "pytorch_model.bin.index.json": "{}", "model.onnx": "o", ".gitattributes": "g",
    "notes": "private", "runs/log.json": "{}", "optimizer.pt": "p",
}  # fmt: skip


def test_the_model_s_other_files_go_along_and_no_stranger(tmp_path: Path) -> None:
    source = changed(tmp_path / "a")
    for name, text in {**COMPANIONS, **STRANGERS}.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    load(source).save(tmp_path / "b")
    found = contents(tmp_path / "b")
    assert set(found) == {*COMPANIONS, "config.json", "model.safetensors", "generation_config.json"}
    assert {name: found[name] for name in COMPANIONS} == {name: text.encode() for name, text in COMPANIONS.items()}


def test_links_in_a_folder_are_followed_as_a_download_cache_lays_them(tmp_path: Path) -> None:
    blobs = changed(tmp_path / "blobs")
    (blobs / "tokenizer.json").write_text("{}")
    (tmp_path / "a").mkdir()
    for path in blobs.iterdir():
        (tmp_path / "a" / path.name).symlink_to(path)
    model = load(tmp_path / "a")
    model.save(tmp_path / "b")
    shutil.rmtree(blobs)
    assert not any(path.is_symlink() for path in (tmp_path / "b").iterdir())
    assert (tmp_path / "b" / "tokenizer.json").read_text() == "{}"
    assert bits(load(tmp_path / "b")) == bits(model)


def test_a_config_of_any_text_is_kept(tmp_path: Path) -> None:
    odd = {"id2label": {"0": "Müller ☃", "1": "\ud800"}, "nan": float("nan"), "big": 10**40}
    model = load(changed(tmp_path / "a", config=odd))
    model.save(tmp_path / "b")
    again = json.loads((tmp_path / "b" / "config.json").read_text(encoding="utf-8"))
    assert again["id2label"] == odd["id2label"]
    assert again["big"] == odd["big"]
    assert again["nan"] != again["nan"]


def test_the_folder_has_the_rights_of_any_new_one(tmp_path: Path) -> None:
    load(TINY / "llama").save(tmp_path / "a")
    (tmp_path / "b").mkdir()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


# --- a failure in the middle -----------------------------------------------------------------------------------------


def fail(*_: object, **__: object) -> NoReturn:
    raise OSError("no space left on device")


def fail_at(step: str, patch: pytest.MonkeyPatch) -> None:
    """Let one step of saving fail."""
    if step == "the bytes of a tensor":
        patch.setattr("lepton_ref.files.stored.Stored.pieces", fail)
    elif step == "the config":
        patch.setattr(json, "dumps", fail)
    elif step == "a companion":
        patch.setattr(shutil, "copyfile", fail)
    else:
        renames = []
        honest = Path.rename

        def rename(self: Path, target: Any) -> Path:
            renames.append(target)
            if len(renames) == int(step.rpartition(" ")[2]):
                fail()
            return honest(self, target)

        patch.setattr(Path, "rename", rename)


STEPS = ("the bytes of a tensor", "the config", "a companion", "rename 1")


@pytest.mark.parametrize(
    ("step", "over"), [*((step, over) for step in STEPS for over in (True, False)), ("rename 2", True)]
)
def test_a_save_that_fails_leaves_what_was_there_and_nothing_else(
    step: str, over: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if over:
        changed(tmp_path / "x", "gpt2")
    model = load(TINY / "llama")
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        fail_at(step, patch)
        with pytest.raises(OSError, match="no space left"):
            model.save(tmp_path / "x", overwrite=over)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (["x"] if over else [])


def test_a_gguf_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = llama_gguf(tmp_path / "a.gguf")
    model = load(path)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        fail_at("the bytes of a tensor", patch)
        for target in (path, tmp_path / "b.gguf"):
            with pytest.raises(OSError, match="no space left"):
                model.save(target, overwrite=True)
    assert contents(tmp_path) == before


def test_what_could_not_be_carried_over_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(tmp_path / "x", "gpt2")
    (tmp_path / "x" / "thesis.tex").write_text("years of work")
    model = load(TINY / "llama")
    with monkeypatch.context() as patch:
        patch.setattr(model_folder, "_carry_over", fail)
        with pytest.raises(OSError, match="no space left"):
            model.save(tmp_path / "x", overwrite=True)
    assert [path.read_text() for path in tmp_path.rglob("thesis.tex")] == ["years of work"]
    assert bits(load(tmp_path / "x")) == bits(model)


@pytest.mark.parametrize("careless", ["in place", "deleting first"])
def test_a_careless_save_is_found(careless: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same check, over two ways in which a folder is often written."""

    def in_place(parts: Any, path: Path, *, overwrite: bool) -> None:
        if careless == "deleting first":
            shutil.rmtree(path)
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text("{}")
        fail()

    monkeypatch.setattr(saving, "save", in_place)
    check: Callable[..., None] = test_a_save_that_fails_leaves_what_was_there_and_nothing_else
    with pytest.raises(AssertionError):
        check("a companion", True, tmp_path, monkeypatch)
