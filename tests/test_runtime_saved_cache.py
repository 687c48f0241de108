"""Caches in files: the same bits afterwards, one file whatever the layout, what is foreign or damaged refused."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import mutated
from test_runtime_generate import HOT, KINDS, PROMPTS, model
from tiny_models import changed, f32, load

from lepton_ref import Model
from lepton_ref.files import FileFormatError, read_safetensors, write_safetensors
from lepton_ref.numerics import get_precision
from lepton_ref.runtime import decoding, saved_cache
from lepton_ref.runtime.cache import KVCache
from lepton_ref.runtime.prompt_cache import prompt_cache

LONG = [5, 6, 7, 8, 9, 10, 11] * 4


def filled(tested: Model, *prompts: list[int], paged: bool = False, chunk: int = 512, **how: Any) -> KVCache:
    cache = tested.new_cache(len(prompts), paged=paged, **how)
    tested.generate(list(prompts), max_new_tokens=3, stop_ids=(), chunk=chunk, cache=cache)
    return cache


def goes_on(name: str, kv_cache: str, folder: Path) -> None:
    """Saved from blocks or one piece, in chunks or whole, restored to either: one file, and the bits of no saving."""
    tested = model(name)
    prompts = [LONG, [12, 13]]
    how: dict[str, Any] = {"kv_cache": kv_cache, "capacity": 45}
    wanted = tested.generate([[9], [10]], max_new_tokens=6, stop_ids=(), cache=filled(tested, *prompts, **how), **HOT)
    files = set()
    for number, (paged, chunk, back) in enumerate(itertools.product((False, True), (3, 512), (False, True))):
        cache = filled(tested, *prompts, paged=paged, chunk=chunk, **how)
        path = cache.save(folder / f"{name} {kv_cache} {number}")
        files.add(path.read_bytes())
        restored = tested.load_cache(path, paged=back)
        assert restored.ids == cache.ids
        assert restored.counts.tolist() == cache.counts.tolist()
        assert (restored.capacity, restored.codec.name) == (45, kv_cache)
        assert tested.generate([[9], [10]], max_new_tokens=6, stop_ids=(), cache=restored, **HOT) == wanted
    assert len(files) == 1


@pytest.mark.parametrize("kv_cache", ["dense", "int4"])
@pytest.mark.parametrize("name", KINDS)
def test_a_restored_cache_goes_on_with_the_same_bits(name: str, kv_cache: str, tmp_path: Path) -> None:
    goes_on(name, kv_cache, tmp_path)


@given(st.lists(st.lists(st.integers(0, 60), max_size=40), min_size=1, max_size=3), st.integers(0, 3), st.booleans())
def test_any_batch_comes_back(prompts: list[list[int]], back: int, paged: bool) -> None:
    """Sequences without a token too, and after going back."""
    tested = model("gemma3")
    cache = tested.new_cache(len(prompts), paged=paged)
    longest = max(1, *map(len, prompts))
    ids = np.array([[*row, *[0] * (longest - len(row))] for row in prompts])
    mask = np.array([[t < len(row) for t in range(longest)] for row in prompts])
    tested.forward(ids, attention_mask=mask, cache=cache)
    wanted = np.maximum(cache.counts - back, 0)
    if cache.can_truncate(wanted):
        cache.truncate(wanted)
    path = Path(CACHES.name) / "any"
    cache.save(path, overwrite=True)
    restored = tested.load_cache(path, paged=not paged)
    assert restored.ids == cache.ids
    step = [[3]] * len(prompts)
    assert np.array_equal(tested.forward(step, cache=restored), tested.forward(step, cache=cache))


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    CACHES.name = str(tmp_path_factory.mktemp("caches"))


class CACHES:
    """Where the property's file lies."""

    name = ""


PLACES = [
    ("first_seen(len(ids or ()), spec.window) - first :", "first_seen(len(ids or ()), spec.window) - first + 1 :"),
    ("first_seen(len(ids or ()), spec.window) - first :", "0:"),
    ('tensors[f"sequences.{b}.ids"] = np.array(ids,', 'tensors[f"sequences.{b}.ids"] = np.array(cache.ids[0],'),
    ("for part in parts]", "for part in parts[:1]]"),
    ("    cache.fill(ids, parts)\n", "    cache.fill(ids, parts[::-1])\n"),
]
"""(a place in saved_cache.py, the bug that is planted there)."""


@pytest.mark.parametrize(("place", "bug"), PLACES)
def test_a_planted_bug_is_caught(place: str, bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = mutated(saved_cache, place.strip("\n"), bug.strip("\n"))
    monkeypatch.setattr(KVCache, "save", wrong.save)
    monkeypatch.setattr(Model, "load_cache", wrong.load_cache)
    with pytest.raises((AssertionError, ValueError)):
        goes_on("gemma3", "int4", tmp_path)


def test_keys_that_are_not_held_are_not_said_to_be(tmp_path: Path) -> None:
    """A window's older keys are not in the file, so the restored cache cannot go back to them."""
    tested = model("mistral")
    window = min(spec.window for spec in tested.program.caches() if spec.window is not None)
    for paged in (False, True):
        cache = tested.new_cache(paged=paged)
        tested.forward([[5] * (window + 2)], cache=cache)
        assert cache.can_truncate(window + 1)
        restored = tested.load_cache(cache.save(tmp_path / f"{paged}"), paged=paged)
        assert not restored.can_truncate(window + 1)
        assert restored.can_truncate(0)


# --- files ------------------------------------------------------------------------------------------------------------


def test_nothing_is_written_over_unless_it_is_asked_for(tmp_path: Path) -> None:
    cache = filled(model(), [5, 6, 7])
    path = tmp_path / "kept.cache"
    assert cache.save(str(path)) == path
    first = path.read_bytes()
    model().forward([8], cache=cache)
    with pytest.raises(FileExistsError, match=r"kept.cache exists; pass overwrite=True to replace it"):
        cache.save(path)
    assert path.read_bytes() == first
    cache.save(path, overwrite=True)
    assert path.read_bytes() != first
    assert [each.name for each in tmp_path.iterdir()] == ["kept.cache"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = filled(model(), [5, 6, 7])
    path = cache.save(tmp_path / "kept.cache")
    first = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cache.save(path, overwrite=True)
    assert path.read_bytes() == first
    assert [each.name for each in tmp_path.iterdir()] == ["kept.cache"]


@given(st.data())
def test_any_damaged_byte_is_found(data: st.DataObject) -> None:
    path = Path(CACHES.name) / "damaged"
    filled(model(), [5, 6, 7]).save(path, overwrite=True)
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw[: data.draw(st.sampled_from([len(raw), at]))])
    with pytest.raises(FileFormatError, match=str(path)):
        model().load_cache(path)


def test_the_cache_of_another_model_or_precision_is_refused(tmp_path: Path) -> None:
    path = filled(model(), [5, 6, 7]).save(tmp_path / "c")

    def other_norm(tensors: dict[str, Any]) -> dict[str, Any]:
        ones = np.ones(24, dtype=np.float32)
        return {**tensors, "model.norm.weight": f32(np.nextafter(ones, np.float32(2)))}

    for tested, message in (
        (model("gpt2"), "model: '.*', not '.*': the cache is another model's; load that one, or read the prompt again"),
        (load(changed(tmp_path / "tuned", tensors=other_norm)), "model: .*: the cache is another model's"),
        (load(changed(tmp_path / "eps", config={"rms_norm_eps": 1e-4})), "model: .*: the cache is another model's"),
        (load(model().parts.path, precision="bf16"), "precision: 'reference', not 'bf16': the cache was made under an"),
        (
            load(model().parts.path, precision=get_precision("reference").override({"head": "bf16"})),
            "arithmetic: .*: the precision of that name was another, or the backend was",
        ),
        (model("bert"), "model: .*: the cache is another model's"),
    ):
        with pytest.raises(FileFormatError, match=message):
            tested.load_cache(path)
    assert load(changed(tmp_path / "same")).load_cache(path).ids == model().load_cache(path).ids


def test_what_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello", encoding="utf-8")
    write_safetensors(tmp_path / "weights", {"w": np.zeros(3, dtype=np.float32)}, {"format": "pt"})
    for path, error, message in (
        ("text", FileFormatError, "text: size: 5 bytes"),
        ("weights", FileFormatError, "format: 'pt': expected lepton_ref.cache.1, as cache.save writes"),
        ("", FileFormatError, "file: a folder: give the file that cache.save wrote"),
        ("none", FileNotFoundError, "none"),
    ):
        with pytest.raises(error, match=message):
            model().load_cache(tmp_path / path)
    with pytest.raises(TypeError, match="the path must be text or a pathlib\\.Path, got 3"):
        model().load_cache(3)


Change = Callable[[dict[str, str], dict[str, Any]], None]

LIES: list[tuple[str, Change]] = [
    ("capacity: '-3': expected a number of slots, or none", lambda about, t: about.update(capacity="-3")),
    (
        "capacity must be an integer of at least 1, got 0: the",
        lambda about, t: about.update(capacity="0", rope_length="0"),
    ),
    ("overflow the cache's capacity of 4", lambda about, t: about.update(capacity="4", rope_length="4")),
    ("rope_length: '7', not '1': RoPE took another length", lambda about, t: about.update(rope_length="7")),
    ("unknown kv_cache 'int3'", lambda about, t: about.update(kv_cache="int3")),
    (r"keys.0 is float32 \(2, 5, 6\), not uint8", lambda about, t: about.update(kv_cache="int8")),
    (r"layers.1.values.0 is none, not float32 \(2, 5, 6\)", lambda about, t: t.pop("sequences.0.layers.1.values.0")),
    (r"is float32 \(2, 4, 6\), not float32", lambda about, t: t.update({KEY: t[KEY][:, 1:]})),
    (r"is uint8 \(2, 5, 6\), not float32", lambda about, t: t.update({KEY: t[KEY].astype(np.uint8)})),
    ("ids is not a list of ids of the model's", lambda about, t: t.update({IDS: t[IDS] + 60})),
    ("ids is not a list of ids", lambda about, t: t.update({IDS: t[IDS][None]})),
    ("ids is not a list of ids", lambda about, t: t.update({IDS: t[IDS].astype(np.int32)})),
    ("batch must be an integer of at least 1, got 0", lambda about, t: t.pop(IDS)),
]
"""(message, a change to metadata and tensors whose digest is made to agree)."""

KEY, IDS = "sequences.0.layers.0.keys.0", "sequences.0.ids"


def digest(about: Mapping[str, str], tensors: Mapping[str, Any]) -> str:
    """The digest, written a second time."""
    seen = hashlib.sha256(repr(sorted(about.items())).encode())
    for name, array in sorted(tensors.items()):
        seen.update(repr((name, array.dtype.name, array.shape)).encode() + np.ascontiguousarray(array).tobytes())
    return seen.hexdigest()


@pytest.mark.parametrize(("message", "change"), LIES, ids=[message for message, _ in LIES])
def test_a_file_that_lies_is_refused_though_its_digest_agrees(message: str, change: Change, tmp_path: Path) -> None:
    file = read_safetensors(filled(model(), [5, 6, 7]).save(tmp_path / "c"))
    tensors = {name: np.array(weight.decode()) for name, weight in file.tensors.items()} | dict(file.integers)
    about = dict(file.metadata)
    assert about.pop("digest") == digest(about, tensors)
    change(about, tensors)
    write_safetensors(tmp_path / "lie", tensors, {**about, "digest": digest(about, tensors)})
    with pytest.raises(FileFormatError, match=message):
        model().load_cache(tmp_path / "lie")


def test_what_cannot_be_saved_is_refused(tmp_path: Path) -> None:
    cache = model().new_cache()
    model().forward([5, 6], position_ids=[1, 2], cache=cache)
    with pytest.raises(ValueError, match="tokens whose ids or positions only the caller knows; leave position_ids out"):
        cache.save(tmp_path / "c")
    gone = load(model().parts.path).new_cache()
    with pytest.raises(ValueError, match="the cache's model is gone, so nothing could read the file"):
        gone.save(tmp_path / "c")
    root: Any = model().new_cache(capacity=3, paged=True)
    both = type(root).together([root, model().new_cache(capacity=4, paged=root)])
    with pytest.raises(ValueError, match="the cache's sequences have several capacities; save them one by one"):
        both.save(tmp_path / "c")
    with pytest.raises(FileNotFoundError):
        model().new_cache().save(tmp_path / "none" / "c")
    with pytest.raises(ValueError, match="the path is empty"):
        model().new_cache().save("")


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_a_prompt_that_begins_as_one_before_is_read_from_there(name: str, tmp_path: Path) -> None:
    tested, path = model(name), tmp_path / "c"
    for prompt, there in ((LONG[:20], 0), (LONG[:20], 19), ([*LONG[:20], 3, 4], 19), (LONG[:3], None), ([3, 4], 0)):
        cache, kept = prompt_cache(tested, prompt, path, chunk=7)
        assert kept == there or (there is None and kept in (0, 2))  # a window may have let go
        assert cache.ids == (tuple(prompt[:-1]),)
        found = tested.generate(prompt, max_new_tokens=6, stop_ids=(), cache=cache, reuse=True, **HOT)
        assert found == tested.generate(prompt, max_new_tokens=6, stop_ids=(), **HOT)
    assert tested.load_cache(path).ids == (tuple(LONG[:19]),)
    prompt_cache(tested, [3, 4, 5], path, overwrite=True)
    assert tested.load_cache(path).ids == ((3, 4),)


def test_a_file_of_no_use_is_refused_or_replaced(tmp_path: Path) -> None:
    path = tmp_path / "c"
    for other, message in (
        (filled(model("gpt2"), [5]), "another model's"),
        (filled(model(), [5], [6]), "sequences: 2: expected one; name another file"),
        (filled(model(), [5], kv_cache="int8"), "kv_cache: int8: the model's caches are dense; load it with kv_cache="),
    ):
        other.save(path, overwrite=True)
        with pytest.raises(FileFormatError, match=message):
            prompt_cache(model(), [5, 6], path)
        assert prompt_cache(model(), [5, 6], path, overwrite=True)[0].ids == ((5,),)
    with pytest.raises(ValueError, match="RoPE that depends on the length makes every prompt another; leave"):
        prompt_cache(model("llama_rope_dynamic"), [5, 6], tmp_path / "d")
    with pytest.raises(ValueError, match="BertModel sees both ways and cannot keep a prompt"):
        prompt_cache(model("bert"), [5, 6], tmp_path / "d")


def reuse_changes_nothing(name: str = "gemma3") -> None:
    tested = model(name)
    cache = tested.new_cache(len(PROMPTS))
    again = [[*prompt, 3, 4] for prompt in PROMPTS[::-1]]
    others = [[4, *prompt[1:], 3] for prompt in again]
    for prompts in (PROMPTS, PROMPTS, again, others, [prompt[:1] for prompt in PROMPTS], [[9] * 30] * 4):
        found = tested.generate(prompts, max_new_tokens=5, stop_ids=(), cache=cache, reuse=True, **HOT)
        assert found == tested.generate(prompts, max_new_tokens=5, stop_ids=(), **HOT)


@pytest.mark.parametrize("name", ["llama", "gemma3", "mistral", "gpt2"])
def test_reuse_changes_no_answer(name: str) -> None:
    reuse_changes_nothing(name)


@pytest.mark.parametrize(
    ("place", "bug"),
    [
        ("prompt[:-1], strict", "prompt, strict"),
        ("[*same, False].index(False)", "sum(same)"),
        ("[*same, False].index(False)", "len(same)"),
        ("    cache.truncate(kept)\n    found", "    found"),
    ],
)
def test_a_planted_bug_of_reuse_is_caught(place: str, bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lepton_ref.runtime.generate.jobs", mutated(decoding, place, bug).jobs)
    with pytest.raises((AssertionError, ValueError, UnboundLocalError)):
        reuse_changes_nothing("llama")


def test_reuse_without_a_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="reuse takes a cache that holds the beginning of the prompt; give one, or"):
        model().generate([5], reuse=True)
