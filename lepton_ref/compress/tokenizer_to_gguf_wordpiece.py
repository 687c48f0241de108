"""WordPiece in a GGUF: ▁ begins a word there, and nothing marks the inside, which a vocab.txt marks by ##.

GGUF does not say what is done with capitals, accents and Chinese characters. A reader goes by the vocabulary: without a
capital in it, text is lower-cased and stripped of accents. llama.cpp lower-cases unless the key `normalizer.lowercase`
is false. A tokenizer that does otherwise is not said.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_ref.compress.tokenizer_to_gguf_checks import as_vocabulary
from lepton_ref.compress.tokenizer_to_gguf_words import (
    Unsayable,
    Words,
    added_tokens,
    ends_of,
    json_of,
    laid_out,
    shown,
)
from lepton_ref.compress.tokenizer_to_gguf_words import white_space_notes as notes_of
from lepton_ref.text.build import SPACE
from lepton_ref.text.config_files import Settings
from lepton_ref.text.from_folder import read_word_list, usual_ends
from lepton_ref.text.parts import NORMAL, UNKNOWN

INSIDE = "##"


def word_piece_from_json(found: Mapping[str, Any], settings: Settings, rows: int) -> Words:
    """The WordPiece of a tokenizer.json.

    Raises:
        ValueError: ids or tokens that are none.
        Unsayable: a normalisation or a cut that is not BERT's.
    """
    model, cut = found["model"], found.get("pre_tokenizer")
    normalizer: Any = found.get("normalizer")
    usual = model.get("continuing_subword_prefix") == INSIDE and model.get("max_input_chars_per_word", 100) == 100
    forms = isinstance(normalizer, dict) and normalizer.get("type") == "BertNormalizer"
    if not usual or not forms or cut != {"type": "BertPreTokenizer"} or not normalizer.get("clean_text", True):
        raise Unsayable(f"GGUF's words are BERT's alone: normalizer {shown(normalizer)}, cut {shown(cut)}")
    path = json_of(settings)
    vocabulary = {i: (token, NORMAL) for i, token in as_vocabulary(model["vocab"], f"{path}: model.vocab").items()}
    added = added_tokens(found, settings)
    unknown = model.get("unk_token")
    tokens, kinds = laid_out(vocabulary, added, rows, path)
    flags = [normalizer.get(key) for key in ("lowercase", "strip_accents", "handle_chinese_chars")]
    return _words(tokens, kinds, settings, ends_of(found, settings), unknown, flags, notes_of(added))


def word_piece_from_list(path: Path, settings: Settings, rows: int) -> Words:
    """A vocab.txt.

    Raises:
        ValueError: a malformed file.
        Unsayable: a normalisation that is not BERT's.
    """
    read, settings = read_word_list(path, settings)
    added = {index: entry for index, entry in settings.added.items() if index >= len(read.tokens)}
    vocabulary = dict(enumerate(zip(read.tokens, read.types, strict=True)))
    tokens, kinds = laid_out(vocabulary, added, rows, path)
    flags = [settings.flag("do_lower_case", True), settings.flag("strip_accents", None)]
    flags.append(settings.flag("tokenize_chinese_chars", True))
    silent = settings.flag("add_bos_token", None) is None and settings.flag("add_eos_token", None) is None
    ends = usual_ends(settings, "vocab.txt") if silent else ends_of({}, settings)
    return _words(tokens, kinds, settings, ends, settings.special["unk_token"], flags, notes_of(added))


def _words(
    tokens: list[str],
    kinds: list[int],
    settings: Settings,
    ends: tuple[str | None, str | None],
    unknown: str | None,
    flags: list[Any],
    notes: tuple[str, ...],
) -> Words:
    lowercase, accents, chinese = flags
    plain = all(token == token.lower() for token, kind in zip(tokens, kinds, strict=True) if kind == NORMAL)
    if bool(lowercase) != plain or accents not in (None, bool(lowercase)) or chinese is not True:
        what = f"lowercase {lowercase}, strip_accents {accents}, handle_chinese_chars {chinese}"
        raise Unsayable(
            f"GGUF goes by the vocabulary, which {'has no' if plain else 'has'} capitals, and cannot say {what}"
        )
    names = {token: index for index, token in enumerate(tokens)}
    if unknown not in names:
        raise Unsayable(f"its unknown token {unknown!r} is not in its vocabulary")
    if ends != (settings.special.get("cls_token"), settings.special.get("sep_token")) or None in ends:
        raise Unsayable(f"GGUF's words stand between cls_token and sep_token, here between {ends[0]!r} and {ends[1]!r}")
    kinds[names[unknown]] = UNKNOWN
    spelled = [_spelled(token) if kind == NORMAL else token for token, kind in zip(tokens, kinds, strict=True)]
    if len(set(spelled)) < len(spelled):
        raise Unsayable(
            "two of its tokens are spelled alike in GGUF, where ▁ begins a word and nothing marks the inside"
        )
    more: dict[str, Any] = {"unknown_token_id": names[unknown], "bos_token_id": names[str(ends[0])]}
    more |= {"normalizer.lowercase": bool(lowercase), "normalizer.strip_accents": bool(lowercase)}
    return Words("bert", spelled, kinds, settings, ends, more, names, notes)


def _spelled(token: str) -> str:
    return token.removeprefix(INSIDE) if token.startswith(INSIDE) else SPACE + token
