"""Ids back to text: round trips, streams that never emit half a character, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_cases import byte_level_metadata, read, tiny_tokenizers

from lepton_ref.text import Tokenizer

KINDS = ("byte-level", "bpe", "bpe-prefix", "unigram", "unigram-prefix", "word-piece")
TEXTS: list[str] = read("tiny/texts.json")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return tiny_tokenizers(tmp_path_factory.mktemp("tokenizers"))


def streamed(tokenizer: Tokenizer, ids: list[int], *, skip_special: bool) -> list[str]:
    stream = tokenizer.stream(skip_special=skip_special)
    return [*(stream.push(index) for index in ids), stream.finish()]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_stream_of_any_ids_joins_to_decode(kind: str, tokenizers: dict[str, Tokenizer], data: st.DataObject) -> None:
    tokenizer = tokenizers[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    for skip in (True, False):
        assert "".join(streamed(tokenizer, ids, skip_special=skip)) == tokenizer.decode(ids, skip_special=skip)


@pytest.mark.parametrize("kind", KINDS)
def test_decode_equals_the_library_s_decoder_on_whole_texts(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers[kind]
    for text in TEXTS:
        ids = tokenizer.encode(text)
        for skip in (True, False):
            assert tokenizer.decode(ids, skip_special=skip) == tokenizer._parts.backend.decode(
                ids, skip_special_tokens=skip
            )


@pytest.mark.parametrize("kind", ["byte-level", "bpe"])
@given(text=st.text(max_size=30))
def test_what_is_encoded_decodes_to_itself(kind: str, tokenizers: dict[str, Tokenizer], text: str) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text, parse_special=False, add_special=False)
    # SentencePiece writes a space as ▁ and cannot tell the two apart.
    expected = text.replace("▁", " ") if kind == "bpe" else text
    assert tokenizer.decode(ids, skip_special=False) == expected


@pytest.mark.parametrize("kind", ["byte-level", "bpe"])
def test_no_piece_of_a_stream_holds_half_a_character(kind: str, tokenizers: dict[str, Tokenizer]) -> None:
    text = "é 漢字 👩‍👩‍👧‍👦 𝔘𝔫𝔦 \U0010ffff"
    ids = tokenizers[kind].encode(text, add_special=False)
    pieces = streamed(tokenizers[kind], ids, skip_special=True)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    # The check can fail: decoding each id alone breaks characters apart.
    assert "".join(tokenizers[kind].decode([index]) for index in ids) != text


def test_bytes_that_are_no_character_become_one_mark_each_and_spoil_nothing_else(
    tokenizers: dict[str, Tokenizer],
) -> None:
    tokenizer = tokenizers["bpe"]
    euro = [tokenizer.id_of(token) for token in ("<0xE2>", "<0x82>", "<0xAC>")]
    bad, letter = tokenizer.id_of("<0xFF>"), tokenizer.id_of("a")
    assert None not in [*euro, bad, letter]
    ids = [index for index in [*euro, bad, letter, *euro[:2]] if index is not None]
    # E2 82 AC is €; FF is no UTF-8; E2 82 is a character cut short: one U+FFFD for each.
    assert tokenizer.decode(ids) == "€\ufffda\ufffd"
    assert streamed(tokenizer, ids, skip_special=True) == ["", "", "€", "\ufffd", "a", "", "", "\ufffd"]


def test_a_metaspace_decoder_is_followed_and_one_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    import tokenizers as library

    names = ["<unk>", "▁", "▁ab", "ab", "c"]
    backend = library.Tokenizer(library.models.Unigram([(name, -1.0) for name in names], 0))
    backend.pre_tokenizer, backend.decoder = library.pre_tokenizers.Metaspace(), library.decoders.Metaspace()
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(tmp_path)
    for ids in ([2, 3, 2, 4], [1, 1, 4], [3, 2], [4]):
        assert tokenizer.decode(ids, skip_special=False) == backend.decode(ids)
        assert "".join(streamed(tokenizer, ids, skip_special=False)) == backend.decode(ids)
    backend.decoder = library.decoders.BPEDecoder()
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"decoder BPEDecoder: .*not supported"):
        Tokenizer.from_folder(tmp_path).decode([2, 3])


def test_an_id_without_a_token_has_no_text(tmp_path: Path) -> None:
    import tokenizers as library

    backend = library.Tokenizer(library.models.WordLevel({"a": 0, "b": 2}, "a"))
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.vocab_size, tokenizer.token(1), tokenizer.decode([1, 0, 1, 2, 1])) == (3, "", "a b")


def test_the_space_put_in_front_is_dropped_once_and_only_in_front(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["bpe-prefix"]
    for text in ("a", " a", "  a", "a b", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    plain = tokenizers["bpe"]
    assert plain.decode(plain.encode(" a")) == " a"


def test_special_ids_are_left_out_on_request_alone() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level_metadata())
    ids = tokenizer.encode("a<|im_end|>b")
    assert (tokenizer.decode(ids), tokenizer.decode(ids, skip_special=False)) == ("ab", "a<|im_end|>b")


@pytest.mark.parametrize("give", [int, np.int64, np.uint8], ids=["int", "int64", "uint8"])
def test_ids_may_be_of_any_integer_type(give: Callable[[int], int], tokenizers: dict[str, Tokenizer]) -> None:
    assert tokenizers["byte-level"].decode([give(68), give(69)]) == tokenizers["byte-level"].decode([68, 69])


@pytest.mark.parametrize("index", [-1, 900, 10**9])
def test_an_id_outside_the_vocabulary_is_refused_by_number(index: int, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["byte-level"]
    assert tokenizer.vocab_size == 900
    for call in (
        lambda: tokenizer.decode([index]),
        lambda: tokenizer.stream().push(index),
        lambda: tokenizer.token(index),
    ):
        with pytest.raises(IndexError, match=rf"id {index} is outside the vocabulary of 900 tokens"):
            call()


def test_what_is_no_integer_is_refused(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(TypeError, match=r"id: 1\.0: must be an integer"):
        tokenizers["byte-level"].decode([1.0])  # type: ignore[list-item]


def test_a_finished_stream_takes_no_more(tokenizers: dict[str, Tokenizer]) -> None:
    stream = tokenizers["byte-level"].stream()
    stream.finish()
    with pytest.raises(RuntimeError, match="finish"):
        stream.push(1)


def test_a_byte_level_token_added_as_text_stands_for_its_own_letters() -> None:
    entries = byte_level_metadata()
    entries["tokenizer.ggml.tokens"] = [*entries["tokenizer.ggml.tokens"], "日本"]
    entries["tokenizer.ggml.token_type"] = [*entries["tokenizer.ggml.token_type"], 4]
    tokenizer = Tokenizer.from_gguf(entries)
    assert tokenizer.encode("日本") == [900]
    assert tokenizer.decode([900]) == "日本"
