"""The well-known mixtures: which tensor of a model gets which format under "Q4_K_M" and the like, as data.

Source: `llama_tensor_get_type_impl` and `tensor_type_fallback` in src/llama-quant.cpp of
github.com/ggml-org/llama.cpp; golden/mixtures holds what it chooses. A mixture has a base format and rules for the
tensors that matter more; the first rule that fits counts. The output head, or the embedding where it is the head too,
has a format of its own, and Q8_0 where its rows are no whole blocks of the base. MXFP4_MOE is what it is for models
without experts: Q8_0 throughout.

llama.cpp makes some formats only where it is told how much each column counts: see `IMPORTANCE_WANTED`. Here every
column counts alike then, and `quantise_file` says of which tensors that is so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in its model.

    Attributes:
        index: how many tensors of its kind stand before it: the layer's number in most models.
        count: how many tensors of its kind there are; of "ffn_down", how many layers.
        sharing: query heads to a key/value head.
        importance: whether the encoder is told how much each column counts.
    """

    index: int
    count: int
    sharing: int = 1
    importance: bool = False


@dataclass(frozen=True)
class Rule:
    """A format for the tensors of a kind, where a condition holds."""

    kind: str
    format: str
    when: Callable[[Place], bool] = lambda place: True


@dataclass(frozen=True)
class Mixture:
    """One mixture.

    Attributes:
        base: the format of all tensors that no rule speaks of.
        file_type: the number that GGUF's `general.file_type` has for it.
        rules: the exceptions, the first that fits counts.
        head: the format of the output head.
        more_in_70b: whether attn_v of the 70B models has at least Q5_K in place of Q3_K or Q4_K.
    """

    base: str
    file_type: int
    rules: tuple[Rule, ...] = ()
    head: str = "Q6_K"
    more_in_70b: bool = True


def more_bits(place: Place) -> bool:
    """The first and the last eighth of the layers, and every third between them."""
    i, n = place.index, place.count
    return i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2


def first_eighth(place: Place) -> bool:
    """The first eighth of the layers."""
    return place.index < place.count // 8


def shared(place: Place) -> bool:
    """Four query heads or more to a key/value head, so that attn_v is small and counts the more."""
    return place.sharing >= 4


def middle(place: Place) -> bool:
    """All layers but the first and the last eighth."""
    return place.count // 8 <= place.index < 7 * place.count // 8


def unweighted(place: Place) -> bool:
    """The encoder is not told how much each column counts."""
    return not place.importance


def _lowest(base: str, file_type: int, better: str, output: str | None = None) -> Mixture:
    """Two bits and below: what is small, first or looked up is in the better format."""
    rules = [
        Rule("token_embd", better), Rule("attn_v", "Q4_K", shared), Rule("attn_v", better),
        Rule("ffn_down", better, first_eighth), *([] if output is None else [Rule("attn_output", output)]),
    ]  # fmt: skip
    return Mixture(base, file_type, tuple(rules), head="Q5_K", more_in_70b=False)


IQ4 = (
    Rule("attn_v", "Q5_K", shared),
    Rule("ffn_down", "Q5_K", lambda p: unweighted(p) and first_eighth(p)),
)

MIXTURES: Mapping[str, Mixture] = MappingProxyType(
    {
        "Q4_0": Mixture("Q4_0", 2, (Rule("ffn_down", "Q4_1", lambda p: p.importance and first_eighth(p)),)),
        "Q4_1": Mixture("Q4_1", 3),
        "Q8_0": Mixture("Q8_0", 7, head="Q8_0"),
        "Q5_0": Mixture("Q5_0", 8, (Rule("ffn_down", "Q5_1", lambda p: p.importance and first_eighth(p)),)),
        "Q5_1": Mixture("Q5_1", 9),
        "Q2_K": Mixture(
            "Q2_K", 10,
            (
                Rule("attn_v", "Q4_K", shared), Rule("attn_v", "Q3_K"), Rule("ffn_down", "Q3_K"),
                Rule("attn_output", "Q3_K"),
            ),
        ),
        "Q2_K_S": Mixture(
            "Q2_K", 21, (Rule("attn_v", "Q4_K", shared), Rule("ffn_down", "Q4_K", first_eighth))
        ),
        "Q3_K_S": Mixture("Q3_K", 11),
        "Q3_K_M": Mixture(
            "Q3_K", 12,
            (
                Rule("attn_v", "Q5_K", lambda p: p.index < 2), Rule("attn_v", "Q4_K"),
                Rule("ffn_down", "Q5_K", lambda p: p.index < p.count // 16), Rule("ffn_down", "Q4_K"),
                Rule("attn_output", "Q4_K"),
            ),
        ),
        "Q3_K_L": Mixture(
            "Q3_K", 13, (Rule("attn_v", "Q5_K"), Rule("ffn_down", "Q5_K"), Rule("attn_output", "Q5_K"))
        ),
        "Q4_K_S": Mixture(
            "Q4_K", 14, (Rule("attn_v", "Q5_K", lambda p: p.index < 4), Rule("ffn_down", "Q5_K", first_eighth))
        ),
        "Q4_K_M": Mixture("Q4_K", 15, (Rule("attn_v", "Q6_K", more_bits), Rule("ffn_down", "Q6_K", more_bits))),
        "Q5_K_S": Mixture("Q5_K", 16),
        "Q5_K_M": Mixture("Q5_K", 17, (Rule("attn_v", "Q6_K", more_bits), Rule("ffn_down", "Q6_K", more_bits))),
        "Q6_K": Mixture("Q6_K", 18),
        "IQ1_S": _lowest("IQ1_S", 24, "Q2_K", output="IQ2_XXS"),
        "IQ1_M": _lowest("IQ1_M", 31, "Q2_K", output="IQ2_XXS"),
        "IQ2_XXS": _lowest("IQ2_XXS", 19, "Q2_K"),
        "IQ2_XS": _lowest("IQ2_XS", 20, "Q2_K"),
        "IQ2_S": _lowest("IQ2_XS", 28, "IQ3_S", output="IQ3_S"),
        "IQ2_M": _lowest("IQ2_S", 29, "IQ3_S", output="IQ3_S"),
        "IQ3_XXS": Mixture(
            "IQ3_XXS", 23,
            (
                Rule("token_embd", "IQ3_S"), Rule("attn_v", "Q4_K", shared), Rule("attn_v", "IQ3_S", unweighted),
                Rule("attn_q", "IQ2_S"), Rule("attn_k", "IQ2_S"), Rule("attn_output", "IQ3_S"),
                Rule("ffn_down", "Q4_K", lambda p: unweighted(p) and first_eighth(p)),
                Rule("ffn_down", "Q3_K", unweighted),
            ),
            head="Q5_K",
        ),
        "IQ3_XS": Mixture(
            "IQ3_S", 22,
            (
                Rule("attn_v", "Q4_K", shared), Rule("attn_q", "IQ3_XXS"), Rule("attn_k", "IQ3_XXS"),
                Rule("ffn_gate", "IQ3_XXS", middle), Rule("ffn_up", "IQ3_XXS", middle),
            ),
        ),
        "IQ3_S": Mixture("IQ3_S", 26, (Rule("attn_v", "Q4_K", shared),)),
        "IQ3_M": Mixture(
            "IQ3_S", 27,
            (Rule("attn_v", "Q4_K"), Rule("ffn_down", "Q4_K", first_eighth), Rule("attn_output", "Q4_K")),
        ),
        "IQ4_NL": Mixture("IQ4_NL", 25, IQ4),
        "IQ4_XS": Mixture("IQ4_XS", 30, IQ4),
        "TQ1_0": Mixture("TQ1_0", 36, (Rule("token_embd", "Q4_K"),)),
        "TQ2_0": Mixture("TQ2_0", 37, (Rule("token_embd", "Q4_K"),)),
        "MXFP4_MOE": Mixture("Q8_0", 38, head="Q8_0"),
        "Q1_0": Mixture("Q1_0", 40),
        "Q2_0": Mixture("Q2_0", 41, (Rule("token_embd", "Q4_K"),)),
    }
)  # fmt: skip
"""Name → mixture."""

FILE_TYPES: Mapping[str, int] = MappingProxyType(
    {m.base: m.file_type for m in reversed([*MIXTURES.values()])}
    | {"F32": 0, "F16": 1, "BF16": 32, "NVFP4": 39}
    | {name: MIXTURES[name].file_type for name in ("IQ2_XS", "IQ2_S", "IQ3_S", "Q8_0")}
)
"""Format → `general.file_type` of a file that is mostly of it; formats without a number are not in it."""

IMPORTANCE_WANTED = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS"})
"""Formats that llama.cpp makes of no tensor but the embedding and the head unless it is told how much columns count;
and Q2_K, in the mixture Q2_K_S."""

FALLBACKS: Mapping[str, str] = MappingProxyType(
    {
        "Q2_0": "Q4_0", "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0",
        "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
        **dict.fromkeys(
            ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"
        ),
    }
)  # fmt: skip
"""Format → the format of rows that are no whole blocks of it; where those are no whole blocks either, F16."""
