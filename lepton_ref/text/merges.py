"""The merges that a SentencePiece BPE vocabulary implies: its file holds only pieces and scores."""

from __future__ import annotations

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
