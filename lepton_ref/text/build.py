"""From a vocabulary to a `tokenizers.Tokenizer`: byte-level BPE, SentencePiece BPE, WordPiece, Unigram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lepton_ref.text.merges import merges_from_scores
from lepton_ref.text.parts import BYTE, CONTROL, UNKNOWN, USER_DEFINED, Vocabulary, library
from lepton_ref.text.pretokenizers import PreTokenizer

SPACE = "▁"
"""U+2581, which stands for a space in SentencePiece's pieces."""


def check_merges(vocabulary: Vocabulary) -> None:
    """Refuse merges that name or give a token that the vocabulary lacks.

    Raises:
        ValueError: with the first such merge and its number.
    """
    tokens = set(vocabulary.tokens)
    for rank, (left, right) in enumerate(vocabulary.merges):
        for token in (left, right, left + right):
            if token not in tokens:
                raise ValueError(
                    f"{vocabulary.source}: merges: number {rank}, {left!r} + {right!r}: {token!r} is not a token: "
                    "vocabulary and merges must come from the same model"
                )


def add_special(
    backend: Any,
    vocabulary: Vocabulary,
    *,
    normalized: bool = False,
    user_defined: bool = True,
    rstrip: frozenset[str] = frozenset(),
) -> None:
    """Make control and unknown tokens special, and user-defined ones (if asked) matched whole before any other rule.

    A token named in `rstrip` takes the white space that follows it with it.
    """
    added = library("tokenizers").AddedToken
    special = [vocabulary.tokens[index] for index in vocabulary.of_type(CONTROL, UNKNOWN)]
    backend.add_special_tokens([added(token, normalized=False, rstrip=token in rstrip) for token in special])
    whole = vocabulary.of_type(USER_DEFINED) if user_defined else []
    backend.add_tokens([added(vocabulary.tokens[index], normalized=normalized) for index in whole])


def add_ends(backend: Any, *, before: Sequence[tuple[str, int]], after: Sequence[tuple[str, int]]) -> None:
    """Put these tokens before and after every text that is encoded with its special tokens."""
    if len(before) + len(after) == 0:
        return
    template = [token for token, _ in before] + ["$A"] + [token for token, _ in after]
    processors = library("tokenizers").processors
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[*before, *after])


def byte_level(vocabulary: Vocabulary, pre: PreTokenizer) -> Any:
    """Byte-level BPE (GPT-2's): text is cut by `pre`, each byte becomes one letter, and merges apply in order."""
    tk = library("tokenizers")
    check_merges(vocabulary)
    model = tk.models.BPE(vocabulary.ids(), list(vocabulary.merges), ignore_merges=pre.ignore_merges)
    backend = tk.Tokenizer(model)
    if pre.nfc:
        backend.normalizer = tk.normalizers.NFC()
    splits = [tk.pre_tokenizers.Split(tk.Regex(split), behavior="isolated") for split in pre.splits]
    bytes_as_letters = tk.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = tk.pre_tokenizers.Sequence([*splits, bytes_as_letters])
    backend.decoder = tk.decoders.ByteLevel()
    add_special(backend, vocabulary)
    return backend


def mark_spaces(backend: Any, steps: Sequence[Any], *, space_prefix: bool) -> None:
    """Normalise by `steps`, put ▁ in front if asked, turn spaces into ▁; and decode the other way round."""
    tk = library("tokenizers")
    prefix = [tk.normalizers.Prepend(SPACE)] if space_prefix else []
    backend.normalizer = tk.normalizers.Sequence([*steps, *prefix, tk.normalizers.Replace(" ", SPACE)])
    strip = [tk.decoders.Strip(" ", 1, 0)] if space_prefix else []
    joined = [tk.decoders.Replace(SPACE, " "), tk.decoders.ByteFallback(), tk.decoders.Fuse()]
    backend.decoder = tk.decoders.Sequence([*joined, *strip])


def sentencepiece_bpe(
    vocabulary: Vocabulary, *, unknown: str | None, space_prefix: bool, rstrip: frozenset[str] = frozenset()
) -> Any:
    """SentencePiece BPE: spaces become ▁, pieces merge by score, what is left falls back to bytes.

    User-defined pieces are matched in the text after ▁ has replaced the spaces, leftmost and longest, as SentencePiece
    does; so a ▁ that the user wrote counts as a space. (llama.cpp matches them in the raw text, and differs there.)
    Where a space is put in front, it is put in front of each stretch between special tokens, as llama.cpp and the
    published tokenizer.json of Llama 2 do, and user-defined tokens are matched in the raw text.
    """
    tk = library("tokenizers")
    merges = list(vocabulary.merges) if len(vocabulary.merges) > 0 else merges_from_scores(vocabulary)
    fallback = len(vocabulary.of_type(BYTE)) > 0
    model = tk.models.BPE(vocabulary.ids(), merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback)
    backend = tk.Tokenizer(model)
    mark_spaces(backend, [], space_prefix=space_prefix)
    add_special(backend, vocabulary, normalized=not space_prefix, rstrip=rstrip)
    return backend


def word_piece(
    vocabulary: Vocabulary, *, unknown: str, lowercase: bool, strip_accents: bool | None, chinese: bool = True
) -> Any:
    """WordPiece (BERT's): words and punctuation, then the longest piece first; `##` marks one inside a word."""
    tk = library("tokenizers")
    if unknown not in vocabulary.tokens:
        raise ValueError(f"{vocabulary.source}: unknown token {unknown!r} is not in the vocabulary: WordPiece needs it")
    backend = tk.Tokenizer(tk.models.WordPiece(vocabulary.ids(), unk_token=unknown, max_input_chars_per_word=100))
    backend.normalizer = tk.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = tk.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tk.decoders.WordPiece(prefix="##", cleanup=True)
    add_special(backend, vocabulary)
    return backend


def unigram(vocabulary: Vocabulary, *, unk_id: int, charsmap: bytes, space_prefix: bool, collapse_spaces: bool) -> Any:
    """Unigram (T5's): the cut into pieces whose scores, log-probabilities, sum highest; a user-defined one costs 0."""
    tk = library("tokenizers")
    fallback = len(vocabulary.of_type(BYTE)) > 0
    scores = [
        0.0 if kind == USER_DEFINED else float(score)
        for kind, score in zip(vocabulary.types, vocabulary.scores, strict=True)
    ]
    pairs = list(zip(vocabulary.tokens, scores, strict=True))
    backend = tk.Tokenizer(tk.models.Unigram(pairs, unk_id, byte_fallback=fallback))
    steps = [tk.normalizers.Precompiled(charsmap)] if len(charsmap) > 0 else []
    if collapse_spaces:  # spaces alone: SentencePiece leaves tabs and line ends as they are
        steps += [tk.normalizers.Replace(tk.Regex(r"\A +| +\z"), ""), tk.normalizers.Replace(tk.Regex(" {2,}"), " ")]
    mark_spaces(backend, steps, space_prefix=space_prefix)
    add_special(backend, vocabulary, user_defined=False)
    return backend
