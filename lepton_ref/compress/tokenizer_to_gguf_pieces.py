"""SentencePiece in a GGUF: pieces with scores. A tokenizer.model has them; a tokenizer.json of BPE has merges instead.

Scores that give the same merges exist where the merges of each piece stand together and are every way to cut it into
two pieces: then the piece's score is minus its place. That is checked, as `lepton_ref.text.merges` turns scores into
merges, and a tokenizer of which it does not hold is not said. Added tokens never reach the merges, being cut out of the
text first, so merges that make or use one count for nothing; one with ▁ in it is an ordinary piece, as text makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from lepton_ref.compress.tokenizer_to_gguf_checks import as_bytes, as_id, as_score, as_scored, as_vocabulary
from lepton_ref.compress.tokenizer_to_gguf_words import (
    Unsayable,
    Words,
    added_tokens,
    ends_of,
    json_of,
    laid_out,
    require_plain_merges,
    shown,
)
from lepton_ref.compress.tokenizer_to_gguf_words import white_space_notes as notes_of
from lepton_ref.text.build import SPACE
from lepton_ref.text.config_files import Settings
from lepton_ref.text.from_folder import read_pieces, usual_ends
from lepton_ref.text.merges import merges_from_scores, stated_merges
from lepton_ref.text.parts import BYTE, NORMAL, UNKNOWN, USER_DEFINED, Vocabulary
from lepton_ref.text.sentencepiece import BPE

BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
COLLAPSE = [
    {"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""},
    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
]
"""SentencePiece's removal of extra white space, as `lepton_ref.text.build` writes it."""

NO_SCORE = -1e6
"""Of tokens that no merge makes: below every place in a list of merges. User-defined ones have 0, SentencePiece's."""

PHI3_KEEPS = frozenset(("<unk>", "<s>", "<|endoftext|>"))
"""Phi-3's special tokens that leave the white space behind them alone; a file named so has the others take it."""

Merges = list[tuple[str, str]]


def pieces_from_model(path: Path, settings: Settings, rows: int) -> Words:
    """A tokenizer.model.

    Raises:
        ValueError: a damaged model.
        Unsayable: more tokens than rows.
    """
    model, settings = read_pieces(path, settings)
    read = model.vocabulary
    added = {index: entry for index, entry in settings.added.items() if index >= len(read.tokens)}
    vocabulary = dict(enumerate(zip(read.tokens, read.types, strict=True)))
    tokens, kinds = laid_out(vocabulary, added, rows, path)
    scores = [as_score(score, f"{path}: score of piece {index}") for index, score in enumerate(read.scores)]
    more: dict[str, Any] = {
        "scores": [*scores, *map(_rest, kinds[len(read.scores) :])],
        "add_space_prefix": model.space_prefix,
        "unknown_token_id": model.unk_id,
    }
    if model.model_type != BPE:
        more |= {"remove_extra_whitespaces": model.collapse_spaces, **_map(model.charsmap)}
    silent = settings.flag("add_bos_token", None) is None and settings.flag("add_eos_token", None) is None
    ends = usual_ends(settings, "tokenizer.model") if silent else ends_of({}, settings)
    names = {token: index for index, token in enumerate(tokens)}
    kind = "llama" if model.model_type == BPE else "t5"
    return Words(kind, tokens, kinds, settings, ends, more, names, notes_of(added))


def _rest(kind: int) -> float:
    """The score of a token that has none of its own."""
    return 0.0 if kind == USER_DEFINED else NO_SCORE


def _map(charsmap: bytes) -> dict[str, list[int]]:
    """How characters are normalised, where they are: llama.cpp refuses an empty map."""
    return {"precompiled_charsmap": list(charsmap)} if charsmap else {}


def is_pieces(found: Mapping[str, Any]) -> bool:
    """Whether the BPE of a tokenizer.json is SentencePiece's: spaces are ▁."""
    return bool(found["model"].get("byte_fallback")) or SPACE in str((found.get("normalizer"), found["pre_tokenizer"]))


def pieces_from_json(found: Mapping[str, Any], settings: Settings, rows: int) -> Words:
    """The BPE of a tokenizer.json, with spaces as ▁.

    Raises:
        ValueError: ids, tokens or merges that are none.
        Unsayable: merges that no scores give, or another reason.
    """
    model = found["model"]
    prefix, notes = _space_prefix(found.get("normalizer"), found.get("pre_tokenizer"))
    added = added_tokens(found, settings)
    unknown = model.get("unk_token") or settings.special.get("unk_token")
    fallback = bool(model.get("byte_fallback"))
    if model.get("ignore_merges") or not (model.get("fuse_unk") or fallback):
        raise Unsayable("GGUF's pieces are merged always, and unknown ones fused; ignore_merges and fuse_unk differ")
    require_plain_merges(model)
    path = json_of(settings)
    known = as_vocabulary(model["vocab"], f"{path}: model.vocab")
    merges = stated_merges(model.get("merges", []), model["vocab"], source=str(path))
    made = {"".join(pair) for pair in merges}
    spaced = {i: e for i, e in added.items() if not e.get("special") and SPACE in e["content"]}
    ordinary = {index for index, entry in spaced.items() if entry["content"] in made}
    if any(not entry.get("normalized") for index, entry in spaced.items() if index not in ordinary):
        raise Unsayable("an added token holds a ▁ that is not a space there, and would be one in GGUF")
    whole = {index: entry for index, entry in added.items() if index not in ordinary}
    vocabulary = {i: (t, BYTE if fallback and t in BYTES else NORMAL) for i, t in known.items()}
    tokens, kinds = laid_out(vocabulary, whole, rows, path)
    if unknown in tokens:
        kinds[tokens.index(unknown)] = UNKNOWN
    if prefix and any(e.get("normalized") for e in whole.values() if not e.get("special")):
        raise Unsayable("added tokens are matched in normalised text, behind the space that is put in front")
    scores = scores_of(tokens, kinds, merges)
    more: dict[str, Any] = {"scores": scores, "add_space_prefix": prefix}
    names = {token: index for index, token in enumerate(tokens)}
    if unknown in names:
        more["unknown_token_id"] = names[unknown]
    if _like_phi3(added, unknown):
        more["general.name"] = "Phi-3"
    else:
        notes = (*notes, *notes_of(added))
    return Words("llama", tokens, kinds, settings, ends_of(found, settings), more, names, notes)


def _like_phi3(added: Mapping[int, Mapping[str, Any]], unknown: str | None) -> bool:
    special = {entry["content"] for entry in added.values() if entry.get("special")} | {unknown}
    taking = {entry["content"] for entry in added.values() if entry.get("rstrip")}
    leading = any(entry.get("lstrip") or entry.get("single_word") for entry in added.values())
    return bool(taking) and not leading and taking == special - PHI3_KEEPS


def scores_of(tokens: list[str], kinds: list[int], merges: Iterable[tuple[str, ...]]) -> list[float]:
    """A score for each token that gives these merges.

    Raises:
        Unsayable: no scores do.
    """
    normal = {token for token, kind in zip(tokens, kinds, strict=True) if kind == NORMAL}
    wanted: Merges = [(left, right) for left, right in merges if {left, right, left + right} <= normal]
    places: dict[str, int] = {}
    for left, right in wanted:
        places.setdefault(left + right, len(places))
    rest = map(_rest, kinds)
    scores = [float(-places.get(token, -score)) for token, score in zip(tokens, rest, strict=True)]
    given = merges_from_scores(Vocabulary("the tokenizer", tokens, kinds, scores))
    runs = _runs(given), _runs(wanted)
    if runs[0] != runs[1] or set(given) != set(wanted):
        first = next(
            (piece for piece, other in zip(*reversed(runs), strict=False) if piece != other), "a piece's halves"
        )
        raise Unsayable(f"no scores of pieces give its merges: they differ at {shown(first, 80)}")
    return scores


def _runs(merges: Merges) -> list[str]:
    """The piece that each run of merges makes; the order inside a run does not matter."""
    return [piece for piece, _ in groupby(left + right for left, right in merges)]


def _space_prefix(normalizer: Any, cut: Any) -> tuple[bool, tuple[str, ...]]:
    """Whether a space is put in front of a text, and what of it cannot be said."""
    steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    prepends = {"type": "Prepend", "prepend": SPACE}
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if cut is None or _no_cut(cut):
        if steps in ([prepends, replaces], [replaces]):
            return steps[0] == prepends, ()
    elif (
        not steps and cut.get("type") == "Metaspace" and cut.get("replacement") == SPACE and not cut.get("split", True)
    ):
        scheme = cut.get("prepend_scheme", "always" if cut.get("add_prefix_space", True) else "never")
        where = "at the start of a text, if none is there" if scheme == "first" else "where none is"
        note = f"the folder puts a space in front {where}, and a GGUF in front of each stretch between special tokens"
        return scheme != "never", () if scheme == "never" else (note,)
    raise Unsayable(f"GGUF cannot say how it treats spaces: normalizer {shown(normalizer)}, cut {shown(cut)}")


def _no_cut(cut: Any) -> bool:
    """Gemma's cut at spaces, of which none is left when it comes."""
    return bool(cut == {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False})


def unigram_from_json(found: Mapping[str, Any], settings: Settings, rows: int) -> Words:
    """The Unigram of a tokenizer.json that cuts whole texts, or at spaces where no piece has one inside.

    Raises:
        ValueError: ids, tokens or scores that are none.
        Unsayable: a normalisation or a cut that GGUF cannot say.
    """
    model = found["model"]
    path = json_of(settings)
    pairs = as_scored(model["vocab"], f"{path}: model.vocab")
    added = added_tokens(found, settings)
    silent = model.get("unk_id") is None
    unknown = None if silent else pairs[as_id(model["unk_id"], f"{path}: model.unk_id", below=len(pairs))][0]
    cut: Any = found.get("pre_tokenizer")
    normalizer: Any = found.get("normalizer")
    steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    maps = [step for step in steps if isinstance(step, dict) and step.get("type") == "Precompiled"]
    rest = steps[len(maps) :]
    collapse = rest[: len(COLLAPSE)] == COLLAPSE
    if unknown is None or len(maps) > 1 or steps[: len(maps)] != maps:
        raise Unsayable(f"GGUF cannot say how it treats text: normalizer {shown(normalizer)}, unknown {unknown!r}")
    if isinstance(cut, dict) and cut.get("split", True) and any(SPACE in token[1:] for token, _ in pairs):
        raise Unsayable(
            "it cuts text at spaces, and GGUF cannot keep its pieces with a space inside from crossing them"
        )
    joined = {**cut, "split": False} if isinstance(cut, dict) else cut
    prefix, notes = _space_prefix({"normalizers": rest[len(COLLAPSE) if collapse else 0 :]}, joined)
    fallback = bool(model.get("byte_fallback"))
    vocabulary = {i: (t, BYTE if fallback and t in BYTES else NORMAL) for i, (t, _) in enumerate(pairs)}
    tokens, kinds = laid_out(vocabulary, added, rows, path)
    kinds[model["unk_id"]] = UNKNOWN
    more: dict[str, Any] = {
        "scores": [*(score for _, score in pairs), *map(_rest, kinds[len(pairs) :])],
        "add_space_prefix": prefix,
        "remove_extra_whitespaces": collapse,
        **_map(as_bytes(maps[0]["precompiled_charsmap"], f"{path}: normalizer.precompiled_charsmap") if maps else b""),
        "unknown_token_id": model["unk_id"],
    }
    names = {token: index for index, token in enumerate(tokens)}
    return Words("t5", tokens, kinds, settings, ends_of(found, settings), more, names, (*notes, *notes_of(added)))
