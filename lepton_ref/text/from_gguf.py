"""A tokenizer from GGUF metadata: the keys `tokenizer.ggml.*` and `tokenizer.chat_template*`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lepton_ref.text import build
from lepton_ref.text.parts import CONTROL, NORMAL, UNKNOWN, Parts, Vocabulary
from lepton_ref.text.pretokenizers import pre_tokenizer

PREFIX = "tokenizer.ggml."

ENDS_OF_TURN = frozenset(
    ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>")
)
"""Control tokens that end a turn or a text in the published families, whether or not the file's ids name them."""

_ID_KEYS = {
    "bos": "bos_token_id", "eos": "eos_token_id", "eot": "eot_token_id", "eom": "eom_token_id",
    "unk": "unknown_token_id", "sep": "seperator_token_id", "pad": "padding_token_id", "cls": "cls_token_id",
    "mask": "mask_token_id",
}  # fmt: skip
# "seperator" is the format's own spelling.


class Metadata:
    """Typed, checked reads of `tokenizer.ggml.*`; every error names the key and the value."""

    def __init__(self, entries: Mapping[str, Any], source: str) -> None:
        self.entries, self.source = entries, source

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return PREFIX + key in self.entries

    def get(self, key: str) -> Any:
        """The value, a NumPy array or scalar turned into Python's own."""
        if not self.has(key):
            raise ValueError(f"{self.source}: {PREFIX}{key}: missing: the file does not hold a whole tokenizer")
        value = self.entries[PREFIX + key]
        return value.tolist() if isinstance(value, np.ndarray | np.generic) else value

    def typed(self, key: str, kind: type, default: Any = None) -> Any:
        """The value if it is of this type, the default where it is missing."""
        if not self.has(key):
            return default
        value = self.get(key)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{self.source}: {PREFIX}{key}: {value!r}: must be of type {kind.__name__}")
        return value

    def list_of(self, key: str, *kinds: type) -> list[Any]:
        """The list if each entry is of one of these types, empty where it is missing."""
        if not self.has(key):
            return []
        values = self.get(key)
        if not isinstance(values, list | tuple):
            raise ValueError(f"{self.source}: {PREFIX}{key}: {values!r}: must be a list")
        if not set(map(type, values)) <= set(kinds):
            index = next(index for index, value in enumerate(values) if type(value) not in kinds)
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{self.source}: {PREFIX}{key}: entry {index}, {values[index]!r}: must be {names}")
        return list(values)


def special_ids(meta: Metadata, count: int) -> dict[str, int]:
    """Role ("bos", "eos", …) → id, for those that the file names, each checked against the vocabulary."""
    ids: dict[str, int] = {}
    for role, key in _ID_KEYS.items():
        value = meta.typed(key, int)
        if value is None:
            continue
        if not 0 <= value < count:
            raise ValueError(f"{meta.source}: {PREFIX}{key}: {value}: the vocabulary has {count} tokens")
        ids[role] = value
    return ids


def _vocabulary(meta: Metadata) -> Vocabulary:
    """The vocabulary as the file states it, merges split in two."""
    if not meta.has("tokens"):
        raise ValueError(f"{meta.source}: {PREFIX}tokens: missing: the file does not hold a tokenizer")
    tokens = meta.list_of("tokens", str)
    types = meta.list_of("token_type", int)
    if len(types) == 0:
        ids = special_ids(meta, len(tokens))
        unk, control = ids.get("unk"), {index for role, index in ids.items() if role != "unk"}
        types = [UNKNOWN if i == unk else CONTROL if i in control else NORMAL for i in range(len(tokens))]
    merges = []
    for rank, merge in enumerate(meta.list_of("merges", str)):
        left, space, right = merge.partition(" ")
        if left == "" or right == "" or space == "" or " " in right:
            raise ValueError(f"{meta.source}: {PREFIX}merges: number {rank}, {merge!r}: must be two tokens, one space")
        merges.append((left, right))
    return Vocabulary(meta.source, tokens, types, meta.list_of("scores", float, int), merges)


def _need_scores(vocabulary: Vocabulary) -> None:
    if len(vocabulary.scores) == 0:
        raise ValueError(f"{vocabulary.source}: {PREFIX}scores: missing: they define this kind of tokenizer")


def _byte_level(meta: Metadata, vocabulary: Vocabulary, ids: dict[str, int]) -> tuple[Any, str, bool]:
    if not meta.has("merges"):
        raise ValueError(f"{meta.source}: {PREFIX}merges: missing: byte-level BPE is defined by its merges")
    if not meta.has("pre"):
        raise ValueError(
            f"{meta.source}: {PREFIX}pre: missing: the file does not say how text is cut; set it to the model's own, "
            'such as "llama-bpe", "qwen2" or "gpt-2"'
        )
    pre = pre_tokenizer(meta.typed("pre", str), source=meta.source)
    backend = build.byte_level(vocabulary, pre)
    _add_bos_eos(backend, meta, vocabulary, ids, bos=pre.add_bos, eos=False)
    return backend, "byte-level", False


def _space_prefix(meta: Metadata) -> bool:
    return bool(meta.typed("add_space_prefix", bool, True))


def _sentencepiece(meta: Metadata, vocabulary: Vocabulary, ids: dict[str, int]) -> tuple[Any, str, bool]:
    _need_scores(vocabulary)
    unknown = vocabulary.tokens[ids["unk"]] if "unk" in ids else None
    prefix = _space_prefix(meta)
    rstrip: frozenset[str] = frozenset()
    name = str(meta.entries.get("general.name", "")).lower()
    if "phi-3" in name or "phi3" in name:
        # Phi-3's own tokenizer.json lets its special tokens take the white space after them, these three excepted.
        special = {vocabulary.tokens[index] for index in vocabulary.of_type(CONTROL, UNKNOWN)}
        rstrip = frozenset(special - {"<unk>", "<s>", "<|endoftext|>"})
    backend = build.sentencepiece_bpe(vocabulary, unknown=unknown, space_prefix=prefix, rstrip=rstrip)
    _add_bos_eos(backend, meta, vocabulary, ids, bos=True, eos=False)
    return backend, "sentencepiece", prefix


def respell_word_pieces(vocabulary: Vocabulary) -> Vocabulary:
    """GGUF marks the start of a word by ▁ and nothing inside it; WordPiece marks the inside by ## instead."""
    tokens = [
        token if kind != NORMAL else token[1:] if token.startswith(build.SPACE) else "##" + token
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
    ]
    return Vocabulary(vocabulary.source, tokens, vocabulary.types)


def _word_piece(meta: Metadata, vocabulary: Vocabulary, ids: dict[str, int]) -> tuple[Any, str, bool]:
    spelled = respell_word_pieces(vocabulary)
    by_name = spelled.ids()
    cls = ids.get("cls", ids.get("bos", by_name.get("[CLS]")))
    sep = ids.get("sep", ids.get("eos", by_name.get("[SEP]")))
    unk = ids.get("unk", by_name.get("[UNK]"))
    if cls is None or sep is None or unk is None:
        raise ValueError(f"{meta.source}: tokens: WordPiece needs [CLS], [SEP] and [UNK]: name them by their ids")
    # The file does not say whether capitals count. A vocabulary without any would make each capital unknown, so there
    # text is lower-cased and stripped of accents (BERT uncased); with capitals it is taken as it is (BERT cased).
    uncased = not any(t != t.lower() for t, k in zip(spelled.tokens, spelled.types, strict=True) if k == NORMAL)
    backend = build.word_piece(spelled, unknown=spelled.tokens[unk], lowercase=uncased, strip_accents=None)
    wants_sep = meta.typed("add_sep_token", bool, meta.typed("add_eos_token", bool, True))
    before = [(spelled.tokens[cls], cls)] if meta.typed("add_bos_token", bool, True) else []
    after = [(spelled.tokens[sep], sep)] if wants_sep else []
    build.add_ends(backend, before=before, after=after)
    return backend, "library", False


def _unigram(meta: Metadata, vocabulary: Vocabulary, ids: dict[str, int]) -> tuple[Any, str, bool]:
    _need_scores(vocabulary)
    if "unk" not in ids:
        raise ValueError(f"{meta.source}: {PREFIX}unknown_token_id: missing: Unigram needs it")
    charsmap = bytes(meta.list_of("precompiled_charsmap", int)) if meta.has("precompiled_charsmap") else b""
    collapse = bool(meta.typed("remove_extra_whitespaces", bool, False))
    prefix = _space_prefix(meta)
    backend = build.unigram(
        vocabulary, unk_id=ids["unk"], charsmap=charsmap, space_prefix=prefix, collapse_spaces=collapse
    )
    _add_bos_eos(backend, meta, vocabulary, ids, bos=False, eos=True)
    return backend, "sentencepiece", prefix


def _add_bos_eos(
    backend: Any, meta: Metadata, vocabulary: Vocabulary, ids: dict[str, int], *, bos: bool, eos: bool
) -> None:
    """Put BOS and EOS where the file says, else where this kind of tokenizer has them; never one that it lacks."""
    ends: dict[str, list[tuple[str, int]]] = {}
    for role, default in (("bos", bos), ("eos", eos)):
        wanted = meta.typed(f"add_{role}_token", bool, default and role in ids)
        if wanted and role not in ids:
            raise ValueError(
                f"{meta.source}: {PREFIX}add_{role}_token: True, but {PREFIX}{role}_token_id is missing: give the id"
            )
        ends[role] = [(vocabulary.tokens[ids[role]], ids[role])] if wanted else []
    build.add_ends(backend, before=ends["bos"], after=ends["eos"])


_Builder = Callable[[Metadata, Vocabulary, dict[str, int]], tuple[Any, str, bool]]
KINDS: dict[str, tuple[str, _Builder]] = {
    "gpt2": ("byte-level BPE", _byte_level),
    "llama": ("SentencePiece BPE", _sentencepiece),
    "bert": ("WordPiece", _word_piece),
    "t5": ("Unigram", _unigram),
}
"""`tokenizer.ggml.model` → (name for people, builder)."""


def _chat_templates(meta: Metadata) -> dict[str, str]:
    """Name → template: `tokenizer.chat_template` is "default", `tokenizer.chat_template.NAME` another."""
    key = "tokenizer.chat_template"
    names = {"default": key} | {k[len(key) + 1 :]: k for k in meta.entries if k.startswith(key + ".")}
    found = {name: meta.entries[entry] for name, entry in names.items() if entry in meta.entries}
    for name, template in found.items():
        if not isinstance(template, str):
            raise ValueError(f"{meta.source}: {names[name]}: {type(template).__name__}: must be a string")
    return found


def parts_from_gguf(entries: Mapping[str, Any], *, source: str) -> Parts:
    """The built parts.

    Raises:
        ValueError: a key is missing, of the wrong type, out of range, or names something that is not supported.
    """
    meta = Metadata(entries, source)
    model = meta.typed("model", str)
    if model not in KINDS:
        raise ValueError(f"{source}: {PREFIX}model: {model!r} is not supported: use one of {', '.join(KINDS)}")
    vocabulary = _vocabulary(meta)
    ids = special_ids(meta, len(vocabulary.tokens))
    kind, builder = KINDS[model]
    backend, piece_kind, strip = builder(meta, vocabulary, ids)
    special = vocabulary.of_type(CONTROL, UNKNOWN)
    control = vocabulary.of_type(CONTROL)
    ends = {index for index in control if vocabulary.tokens[index] in ENDS_OF_TURN}
    stop = ends | {ids[role] for role in ("eos", "eot", "eom") if role in ids}
    names = {f"{role}_token": vocabulary.tokens[index] for role, index in ids.items()}
    return Parts(
        backend=backend, kind=kind, vocab_size=len(vocabulary.tokens),
        bos_id=ids.get("bos"), eos_id=ids.get("eos"), pad_id=ids.get("pad"), unk_id=ids.get("unk"),
        stop_ids=frozenset(stop), control_ids=frozenset(control) - {ids.get("unk", -1)}, skip_ids=frozenset(special),
        piece_kind=piece_kind, strip_space=strip,
        special_tokens=names, chat_templates=_chat_templates(meta),
    )  # fmt: skip
