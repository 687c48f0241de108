"""What in a tokenizer.json would end the program: `tokenizers` panics there, which no `except Exception` catches.

merges        a pair of tokens whose join is not in the vocabulary
template      a special token that the template does not describe
charsmap      a compiled normalisation that is cut off
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

from lepton_ref.text.merges import stated_merges


def require_sound(found: Mapping[str, Any], source: str) -> None:
    """Refuse such a file; whatever else is wrong with it, the library says.

    Raises:
        ValueError: with the place, the value and the remedy.
    """
    model = found.get("model")
    if isinstance(model, dict) and model.get("type", "BPE") == "BPE" and isinstance(model.get("vocab"), dict):
        prefix = model.get("continuing_subword_prefix")
        prefix = prefix if isinstance(prefix, str) else ""
        stated_merges(model.get("merges", []), model["vocab"], prefix=prefix, source=source)
    for step in _steps(found.get("post_processor"), "processors"):
        known: Any = step.get("special_tokens")
        names = [*_specials(step.get("single")), *_specials(step.get("pair"))] if isinstance(known, dict) else []
        for name in names:
            if name not in known:
                raise ValueError(f"{source}: post_processor: {name!r} is not in special_tokens: fetch the file again")
    for step in _steps(found.get("normalizer"), "normalizers"):
        given = step.get("precompiled_charsmap")
        if isinstance(given, str) and not _whole(given):
            raise ValueError(f"{source}: precompiled_charsmap: {given[:40]!r} is cut off: fetch the file again")


def _steps(value: Any, inner: str) -> Iterator[Mapping[str, Any]]:
    """A step, and those inside of it."""
    if isinstance(value, dict):
        yield value
        for step in value[inner] if isinstance(value.get(inner), list) else []:
            yield from _steps(step, inner)


def _specials(parts: Any) -> Iterator[str]:
    """The names of a template's special tokens."""
    for part in parts if isinstance(parts, list) else []:
        special = part.get("SpecialToken") if isinstance(part, dict) else None
        if isinstance(special, dict) and isinstance(special.get("id"), str):
            yield special["id"]


def _whole(charsmap: str) -> bool:
    """Whether there are as many bytes as the first four say, and UTF-8 behind them."""
    try:
        data = base64.b64decode(charsmap, validate=True)
        size = int.from_bytes(data[:4], "little")
        data[4 + size // 4 * 4 :].decode("utf-8")
    except (binascii.Error, UnicodeError):
        return False
    return len(data) >= 4 + size
