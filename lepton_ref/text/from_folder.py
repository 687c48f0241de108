"""A tokenizer from a Hugging Face folder: tokenizer.json, tokenizer.model, vocab.txt, or vocab.json with merges.txt."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from lepton_ref.text import build
from lepton_ref.text.config_files import Settings, id_list, read_bytes, read_json, read_settings, read_text
from lepton_ref.text.from_gguf import ENDS_OF_TURN
from lepton_ref.text.parts import CONTROL, NORMAL, UNKNOWN, Parts, Vocabulary, library
from lepton_ref.text.pretokenizers import pre_tokenizer
from lepton_ref.text.sentencepiece import BPE, SentencePieceModel, read_sentencepiece
from lepton_ref.text.sound import require_sound

BYTE_LEVEL_FAMILIES = {
    "": "gpt-2",
    "gpt2": "gpt-2",
    "opt": "gpt-2",
    "roberta": "gpt-2",
    "qwen2": "qwen2",
    "qwen3": "qwen2",
}
"""Model type → how it cuts text, for folders without tokenizer.json. Without any config it is GPT-2's own layout."""


def _types(tokens: list[str], settings: Settings) -> list[int]:
    """Token types from the special tokens that the folder names."""
    unk = settings.special.get("unk_token")
    added = {entry["content"] for entry in settings.added.values() if entry.get("special")}
    control = added | set(settings.special.values())
    return [UNKNOWN if token == unk else CONTROL if token in control else NORMAL for token in tokens]


def _from_json(path: Path, settings: Settings) -> Any:
    """tokenizer.json as it is, without the truncation and padding that it may ask for."""
    require_sound(read_json(path), str(path))
    try:
        backend = library("tokenizers").Tokenizer.from_str(read_text(path))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{path}: {error}: not a tokenizer that this version of `tokenizers` reads") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def _with_defaults(settings: Settings, names: dict[str, str], tokens: set[str]) -> Settings:
    """The settings with a family's usual special tokens where the folder names none."""
    special = {role: token for role, token in names.items() if token in tokens} | settings.special
    return Settings(
        settings.folder, settings.config, settings.model, special, settings.added, settings.stop_ids,
        settings.chat_templates,
    )  # fmt: skip


def read_word_list(path: Path, settings: Settings) -> tuple[Vocabulary, Settings]:
    """vocab.txt: WordPiece, one token a line."""
    tokens = read_text(path).removesuffix("\n").split("\n")
    tokens = [token.removesuffix("\r") for token in tokens]
    usual = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
    settings = _with_defaults(settings, usual, set(tokens))
    missing = [role for role in ("unk_token", "cls_token", "sep_token") if role not in settings.special]
    if len(missing) > 0:
        raise ValueError(f"{path}: {missing[0]}: missing: WordPiece needs it in the vocabulary")
    return Vocabulary(str(path), tokens, _types(tokens, settings)), settings


def _from_word_list(path: Path, settings: Settings) -> tuple[Any, Settings]:
    vocabulary, settings = read_word_list(path, settings)
    lowercase, chinese = settings.flag("do_lower_case", True), settings.flag("tokenize_chinese_chars", True)
    backend = build.word_piece(
        vocabulary, unknown=settings.special["unk_token"], lowercase=lowercase is True,
        strip_accents=settings.flag("strip_accents", None), chinese=chinese is True,
    )  # fmt: skip
    return backend, settings


def _read_vocab_json(path: Path) -> list[str]:
    """vocab.json turned round: the token of each id, 0 … n−1 without a hole."""
    entries = read_json(path)
    tokens: list[str] = [""] * len(entries)
    taken = [False] * len(entries)
    for token, index in entries.items():
        if type(index) is not int or not 0 <= index < len(entries) or taken[index]:
            raise ValueError(f"{path}: {token!r}: {index!r}: ids must be 0 … {len(entries) - 1}, each once")
        tokens[index], taken[index] = token, True
    return tokens


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """merges.txt: two tokens a line, after a line with the version."""
    merges = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line == "" or (number == 1 and line.startswith("#version")):
            continue
        parts = line.removesuffix("\r").split(" ")
        if len(parts) != 2 or "" in parts:
            raise ValueError(f"{path}: line {number}: {line!r}: must be two tokens and one space")
        merges.append((parts[0], parts[1]))
    return merges


def read_vocab_and_merges(folder: Path, settings: Settings) -> tuple[Vocabulary, Settings]:
    """vocab.json and merges.txt: byte-level BPE, cut as the model's family cuts."""
    if settings.family not in BYTE_LEVEL_FAMILIES:
        known = ", ".join(sorted(name for name in BYTE_LEVEL_FAMILIES if name != ""))
        raise ValueError(
            f"{folder / 'config.json'}: model_type: {settings.family!r}: vocab.json does not say how text is cut and "
            f"only {known} are known: give the model's tokenizer.json"
        )
    tokens = _read_vocab_json(folder / "vocab.json")
    usual = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    if settings.family in ("roberta", "opt"):
        usual = {f"{role}_token": f"<{role}>" for role in ("unk", "pad", "mask")}
        usual |= {"bos_token": "<s>", "eos_token": "</s>"}
    settings = _with_defaults(settings, usual, set(tokens))
    vocabulary = Vocabulary(
        str(folder / "vocab.json"), tokens, _types(tokens, settings), merges=_read_merges(folder / "merges.txt")
    )
    return vocabulary, settings


def _from_vocab_and_merges(folder: Path, settings: Settings) -> tuple[Any, Settings]:
    vocabulary, settings = read_vocab_and_merges(folder, settings)
    pre = pre_tokenizer(BYTE_LEVEL_FAMILIES[settings.family], source=str(folder))
    return build.byte_level(vocabulary, pre), settings


def read_pieces(path: Path, settings: Settings) -> tuple[SentencePieceModel, Settings]:
    """tokenizer.model: SentencePiece BPE, which does not normalise, or Unigram."""
    model = read_sentencepiece(read_bytes(path), str(path))
    tokens, count = model.vocabulary.tokens, len(model.vocabulary.tokens)
    roles = {"bos_token": model.bos_id, "eos_token": model.eos_id, "unk_token": model.unk_id, "pad_token": model.pad_id}
    settings = _with_defaults(settings, {r: tokens[i] for r, i in roles.items() if 0 <= i < count}, set(tokens))
    if not 0 <= model.unk_id < count:
        raise ValueError(f"{path}: unk_id: {model.unk_id}: the vocabulary has {count} pieces")
    if model.model_type == BPE and (model.charsmap != b"" or model.collapse_spaces):
        raise ValueError(f"{path}: normalizer_spec: BPE that normalises text is not supported: give tokenizer.json")
    return model, settings


def _from_sentencepiece(path: Path, settings: Settings) -> tuple[Any, Settings]:
    model, settings = read_pieces(path, settings)
    if model.model_type != BPE:
        backend = build.unigram(
            model.vocabulary, unk_id=model.unk_id, charsmap=model.charsmap, space_prefix=model.space_prefix,
            collapse_spaces=model.collapse_spaces,
        )  # fmt: skip
        return backend, settings
    unknown = model.vocabulary.tokens[model.unk_id]
    backend = build.sentencepiece_bpe(model.vocabulary, unknown=unknown, space_prefix=model.space_prefix)
    return backend, settings


def _add_tokens(backend: Any, settings: Settings) -> None:
    """Tokens that the folder adds beside its vocabulary, in the order of their ids."""
    added = library("tokenizers").AddedToken
    for index, entry in sorted(settings.added.items()):
        flags = {name: value for name, value in entry.items() if name != "content"}
        token = added(entry["content"], **flags)
        if backend.token_to_id(entry["content"]) is None:
            backend.add_tokens([token])
        if backend.token_to_id(entry["content"]) != index:
            raise ValueError(
                f"{settings.folder / 'tokenizer_config.json'}: added_tokens_decoder[{index}]: {entry['content']!r} has "
                f"id {backend.token_to_id(entry['content'])} here: vocabulary and added tokens must be of one model"
            )


def _add_ends(backend: Any, settings: Settings, *, bos: str | None, eos: str | None) -> None:
    """BOS and EOS by token; a token that the vocabulary lacks is left out."""
    ends = [[(token, backend.token_to_id(token))] if token is not None else [] for token in (bos, eos)]
    before, after = ([end for end in pair if end[1] is not None] for pair in ends)
    build.add_ends(backend, before=before, after=after)


def usual_ends(settings: Settings, layout: str) -> tuple[str | None, str | None]:
    """What a family puts around a text when tokenizer.json is not there to say it."""
    special = settings.special
    if layout == "vocab.txt":
        return special.get("cls_token"), special.get("sep_token")
    if settings.family == "roberta":
        return special.get("bos_token"), special.get("eos_token")
    if settings.family == "opt":
        return special.get("eos_token"), None  # OPT begins every text with </s>
    if settings.family in ("t5", "mt5", "umt5"):
        return None, special.get("eos_token")
    if layout == "tokenizer.model":
        return special.get("bos_token"), None
    return None, None


def _ends(backend: Any, settings: Settings, layout: str) -> None:
    """Put BOS and EOS around texts: as the config says, else as tokenizer.json or the family does."""
    bos_flag, eos_flag = settings.flag("add_bos_token", None), settings.flag("add_eos_token", None)
    if bos_flag is None and eos_flag is None:
        if layout != "tokenizer.json":
            bos, eos = usual_ends(settings, layout)
            _add_ends(backend, settings, bos=bos, eos=eos)
        return
    usual = usual_ends(settings, layout) if layout != "tokenizer.json" else (None, None)
    special = settings.special
    bos = usual[0] if bos_flag is None else special.get("bos_token") if bos_flag else None
    eos = usual[1] if eos_flag is None else special.get("eos_token") if eos_flag else None
    backend.post_processor = library("tokenizers").processors.ByteLevel(trim_offsets=False)  # adds nothing
    _add_ends(backend, settings, bos=bos, eos=eos)


def _piece_kind(backend: Any) -> tuple[str, bool]:
    """How tokens become bytes, and whether a leading space is dropped, by the decoder that the file describes."""
    if backend.decoder is None:
        return "library", False
    state = json.loads(backend.decoder.__getstate__())
    if state["type"] == "ByteLevel":
        return "byte-level", False
    steps = state.get("decoders", [])
    kinds = [step["type"] for step in steps]
    if kinds[:3] == ["Replace", "ByteFallback", "Fuse"] and steps[0]["content"] == " " and kinds[3:] in ([], ["Strip"]):
        return "sentencepiece", kinds[3:] == ["Strip"]
    return "library", False


def _assemble(backend: Any, settings: Settings, kind: str) -> Parts:
    """Look the special tokens' ids up and gather the parts."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    ids = {role: vocabulary[token] for role, token in settings.special.items() if token in vocabulary}
    size = max(vocabulary.values(), default=-1) + 1
    special = {index for index, token in backend.get_added_tokens_decoder().items() if token.special}
    names = {token.content: index for index, token in backend.get_added_tokens_decoder().items() if token.special}
    ends = {index for token, index in names.items() if token in ENDS_OF_TURN}
    eos = ids.get("eos_token")
    stop = ends | set(settings.stop_ids) | ({eos} if eos is not None else set())
    bos, pad = ids.get("bos_token"), ids.get("pad_token")
    if bos is None:
        stated = id_list(settings.model.get("bos_token_id"), f"{settings.folder / 'config.json'}: bos_token_id")
        bos = stated[0] if len(stated) > 0 else None
    piece_kind, strip = _piece_kind(backend)
    spelling = {"byte-level": "byte-level ", "sentencepiece": "SentencePiece ", "library": ""}[piece_kind]
    return Parts(
        backend=backend, kind=spelling + kind, vocab_size=size, bos_id=bos, eos_id=eos, pad_id=pad,
        unk_id=ids.get("unk_token"), stop_ids=frozenset(stop),
        control_ids=frozenset(special - {ids.get("unk_token")}), skip_ids=frozenset(special),
        piece_kind=piece_kind, strip_space=strip, special_tokens=settings.special,
        chat_templates=settings.chat_templates,
    )  # fmt: skip


def parts_from_folder(path: str | PathLike[str]) -> Parts:
    """The built parts.

    Raises:
        FileNotFoundError: no such folder, or none of the files that define a tokenizer.
        ValueError: a file is malformed or names what is not supported.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: not a folder: give the one that holds tokenizer.json")
    settings = read_settings(folder)
    if (folder / "tokenizer.json").is_file():
        layout, backend = "tokenizer.json", _from_json(folder / "tokenizer.json", settings)
    elif (folder / "tokenizer.model").is_file():
        layout = "tokenizer.model"
        backend, settings = _from_sentencepiece(folder / "tokenizer.model", settings)
    elif (folder / "vocab.txt").is_file():
        layout = "vocab.txt"
        backend, settings = _from_word_list(folder / "vocab.txt", settings)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        layout = "vocab.json"
        backend, settings = _from_vocab_and_merges(folder, settings)
    else:
        raise FileNotFoundError(
            f"{folder}: no tokenizer.json, tokenizer.model, vocab.txt, or vocab.json with merges.txt: give one of them"
        )
    _add_tokens(backend, settings)
    _ends(backend, settings, layout)
    return _assemble(backend, settings, type(backend.model).__name__)
