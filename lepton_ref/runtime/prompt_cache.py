"""A prompt read once and kept in a file: `lepton-ref run --prompt-cache FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lepton_ref.files import FileFormatError
from lepton_ref.runtime.cache import KVCache
from lepton_ref.runtime.decoding import go_back
from lepton_ref.runtime.progress import track
from lepton_ref.runtime.prompts import has_length_dependent_rope, require_language_model
from lepton_ref.runtime.saved_cache import load_cache

if TYPE_CHECKING:
    from lepton_ref.runtime.model import Model


def prompt_cache(
    model: Model, ids: list[int], path: Path, *, overwrite: bool = False, chunk: int = 512, progress: bool = False
) -> tuple[KVCache, int]:
    """A cache that holds all of a prompt but its last id, and how many of them the file held already.

    `generate(ids, cache=…, reuse=True)` reads the last id, which gives the first logits. A file that is not there is
    written; one that is there is used as far as the prompt begins with what it holds, and stays as it is.

    Args:
        model: a decoder with a language model's head.
        ids: the prompt's.
        path: the file.
        overwrite: whether a file that is there is replaced, also one of no use.
        chunk: tokens of the prompt fed at a time.
        progress: draw a bar while the prompt is read, where `rich` is installed.

    Raises:
        FileFormatError: a damaged file, one that is no cache's, or the cache of another model or precision.
        ValueError: an encoder, RoPE that depends on the length, or a cache of several sequences or kept in another way.
        ContextOverflowError: a prompt that does not fit.
    """
    require_language_model(model, "keep a prompt")
    if has_length_dependent_rope(model.program):
        raise ValueError("RoPE that depends on the length makes every prompt another; leave the prompt's cache out")
    there = path.exists()
    cache = _opened(model, path, replaced=overwrite) if there else model.new_cache()
    kept = go_back(cache, [ids])[0]
    starts = range(kept, len(ids) - 1, chunk)
    for start in track(starts, "prefill", wanted=progress):
        model.forward([ids[start : min(start + chunk, len(ids) - 1)]], cache=cache, last_only=True)
    if overwrite or not there:
        cache.save(path, overwrite=overwrite)
    return cache, kept


def _opened(model: Model, path: Path, *, replaced: bool) -> KVCache:
    try:
        cache = load_cache(model, path)
        if cache.batch != 1:
            raise FileFormatError(path, "sequences", str(cache.batch), "expected one; name another file")
        if cache.codec.name != model.kv_cache:
            remedy = f"the model's caches are {model.kv_cache}; load it with kv_cache={cache.codec.name!r}"
            raise FileFormatError(path, "kv_cache", cache.codec.name, remedy)
        return cache
    except FileFormatError:
        if replaced:
            return model.new_cache()
        raise
