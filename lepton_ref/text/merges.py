"""The merges of BPE: those that a file states, and those that SentencePiece's pieces and scores imply."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from lepton_ref.text.parts import NORMAL, Vocabulary


def merges_from_scores(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to make a normal piece out of two normal pieces, the highest score first.

    SentencePiece merges the adjacent pair whose joined piece has the highest score, the leftmost first. As a list of
    merges that is each two-part split of each piece, ordered by the score of the whole, ties by id. The order among the
    splits of one piece does not matter: while a piece forms, no merge crosses its ends, so what happens inside is what
    would happen to the piece alone, and one split of it is the only one that ever comes up. Control, unknown,
    user-defined, unused and byte pieces take no part: text can never be merged into them (SentencePiece keeps them
    apart as well; llama.cpp looks the joined text up among all tokens, so there `<eos>` may arise from plain text).
    """
    normal = {token: index for index, token in enumerate(vocabulary.tokens) if vocabulary.types[index] == NORMAL}
    scores = vocabulary.scores
    # A stable sort from the largest score down keeps the order of ids among equal scores.
    order = sorted(normal, key=lambda token: scores[normal[token]], reverse=True)
    return [
        (left, right)
        for token in order
        for cut in range(1, len(token))
        if (left := token[:cut]) in normal and (right := token[cut:]) in normal
    ]


def stated_merges(merges: Any, tokens: Container[str], *, prefix: str = "", source: str) -> list[tuple[str, str]]:
    """The merges of a tokenizer.json, "a b" or ["a", "b"], as pairs of known tokens whose join is known.

    `tokenizers` ends the whole program where the join is not.

    Args:
        merges: as the file has them.
        tokens: the vocabulary.
        prefix: `continuing_subword_prefix`, which the join leaves out of its second half.
        source: the file, for messages.

    Raises:
        ValueError: with the first merge that is none, and its number.
    """
    if not isinstance(merges, list):
        raise ValueError(f"{source}: merges: {type(merges).__name__}: must be a list: fetch the file again")
    found = []
    for rank, merge in enumerate(merges):
        if isinstance(merge, str) and merge.startswith("#version"):
            continue
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(half, str) for half in pair):
            raise ValueError(
                f"{source}: merges: number {rank}, {merge!r}: must be two tokens, one space between: "
                "fetch the file again"
            )
        left, right = pair
        where = f"{source}: merges: number {rank}, {left!r} + {right!r}"
        if not right.startswith(prefix):
            raise ValueError(f"{where}: {right!r} does not begin with {prefix!r}: fetch the file again")
        for token in (left, right, left + right.removeprefix(prefix)):
            if token not in tokens:
                raise ValueError(
                    f"{where}: {token!r} is not a token: vocabulary and merges must come from the same model"
                )
        found.append((left, right))
    return found
