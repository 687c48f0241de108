r"""Where byte-level BPE cuts text before it merges: one record for each name in `tokenizer.ggml.pre`.

A split is a regular expression in Oniguruma's syntax, as the PyPI package `tokenizers` runs it. Each expression cuts
every piece that the one before it left, and both what matches and what lies between matches stay. Parts shared by
several models are written once, below. The expressions are facts of the published tokenizer.json of each family; where
llama.cpp approximates one (its engine has no \p{Lu}), the published one is used, and a comment says so.
"""

from __future__ import annotations

from dataclasses import dataclass

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

_LEAD = r"[^\r\n\p{L}\p{N}]?"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cl100k(digits: str) -> str:
    """The cut of OpenAI's cl100k with its own rule for numbers: Llama 3, Qwen2 and others."""
    return f"{_ENDINGS}|{_WORD}|{digits}|{_SYMBOLS}[\\r\\n]*|{_SPACES}"


def _o200k(digits: str, endings: str) -> str:
    """The cut of OpenAI's o200k, which also cuts between lower and upper case: GPT-4o, Llama 4, Tekken."""
    words = f"{_LEAD}{_UPPER}*{_LOWER}+{endings}|{_LEAD}{_UPPER}+{_LOWER}*{endings}"
    return f"{words}|{digits}|{_SYMBOLS}[\\r\\n/]*|{_SPACES}"


@dataclass(frozen=True)
class PreTokenizer:
    """How a family of byte-level BPE treats text before merging.

    Attributes:
        splits: regular expressions, applied one after another.
        nfc: text is brought to Unicode's normal form C first.
        ignore_merges: a piece that is a whole token is taken as it is, without merging.
        add_bos: whether a file that does not say so wants the BOS token in front.
    """

    splits: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False
    add_bos: bool = False


_PLAIN = PreTokenizer((_GPT2,))
# GPT-NeoX (hence MPT and the first OLMo), Command R and Qwen2 normalise to NFC in their tokenizer.json; llama.cpp does
# not, so on text that is not NFC it gives other ids than the models were trained with. The model's own way is taken.
_NEOX = PreTokenizer((_GPT2,), nfc=True)
_DIGIT_BY_DIGIT = PreTokenizer((r"\p{N}", _GPT2))
_LLAMA3 = PreTokenizer((_cl100k(r"\p{N}{1,3}"),), ignore_merges=True, add_bos=True)
_CL100K = PreTokenizer((_cl100k(r"\p{N}{1,3}"),))
_QWEN2 = PreTokenizer((_cl100k(r"\p{N}"),), nfc=True)
_STABLELM2 = PreTokenizer((_cl100k(r"\p{N}"),))  # Qwen2's cut without its NFC
_GPT4O = PreTokenizer((_o200k(r"\p{N}{1,3}", f"{_ENDINGS}?"),))
_TEKKEN = PreTokenizer((_o200k(r"\p{N}", ""),), ignore_merges=True, add_bos=True)
_FALCON = PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]"))
_DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": _DEFAULT,
    "gpt-2": _PLAIN,
    "phi-2": _PLAIN,
    "jais": _PLAIN,
    "mpt": _NEOX,
    "olmo": _NEOX,
    "smollm": _DIGIT_BY_DIGIT,
    "starcoder": _DIGIT_BY_DIGIT,
    "refact": _DIGIT_BY_DIGIT,
    "codeshell": _DIGIT_BY_DIGIT,
    "command-r": PreTokenizer((r"\p{N}", _GPT2), nfc=True),
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "falcon3": _LLAMA3,
    "pixtral": _LLAMA3,
    "dbrx": _CL100K,
    "smaug-bpe": _CL100K,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _STABLELM2,
    "stablelm2": _STABLELM2,
    "gpt-4o": _GPT4O,
    "llama4": _GPT4O,
    "tekken": _TEKKEN,
    "falcon": _FALCON,
}
"""Name in `tokenizer.ggml.pre` → how that family cuts text. OLMo 2's files say "dbrx": it cuts as cl100k does."""


def pre_tokenizer(name: str, *, source: str) -> PreTokenizer:
    """The record for this name.

    Raises:
        ValueError: the name is not known. A cut by guess would give other ids than the model was trained with.
    """
    if name not in PRE_TOKENIZERS:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise ValueError(f"{source}: tokenizer.ggml.pre: {name!r} is not known: use one of {known}")
    return PRE_TOKENIZERS[name]
