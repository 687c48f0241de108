"""All claims by name, in the order in which they are tried: the contract first, on which all else rests."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lepton_ref.conformance import laws, laws_model
from lepton_ref.conformance.claim import Claim, judge_op
from lepton_ref.conformance.contract import CONTRACT
from lepton_ref.conformance.draws import DRAWS
from lepton_ref.conformance.draws_storage import draw_storage
from lepton_ref.conformance.laws import PERMUTED, drawn_from, permutable, rope_example
from lepton_ref.conformance.laws_scaling import CHANGES, powers_of_two, scalable
from lepton_ref.conformance.library import draw_arguments, library
from lepton_ref.conformance.subjects import SUBJECTS
from lepton_ref.conformance.tiny_model import draw_model

_TIMED = [name for name, subject in SUBJECTS.items() if subject.timed]

_LAWS = (
    Claim("batch_position", drawn_from("linear", "attention", *SUBJECTS), laws.batch_position),
    Claim("padding_side", drawn_from("attention", "pool"), laws.padding_side),
    Claim("chunked_is_whole", drawn_from(*_TIMED), laws.chunks),
    Claim("gqa_is_repeated_mha", drawn_from("attention"), laws.gqa_is_repeated),
    Claim("rope_shift", drawn_from("rope", then=rope_example), laws.rope_laws),
    Claim("permutations", drawn_from("linear", "attention", *PERMUTED, then=permutable), laws.permutations),
    Claim("powers_of_two", drawn_from(*CHANGES, then=scalable), powers_of_two),
    Claim("model", draw_model, laws_model.model, most=3),
    Claim("model_batch_position", draw_model, laws_model.model_batch_position, most=6),
    Claim("model_padding_side", draw_model, laws_model.model_padding_side, most=6),
    Claim("cache_is_none", draw_model, laws_model.model_cache, most=6),
    Claim("model_vocabulary", draw_model, laws_model.model_vocabulary, most=6),
)

CLAIMS: Mapping[str, Claim] = MappingProxyType(
    {
        claim.name: claim
        for claim in (
            *(Claim(name, draw, judge, kind="contract", most=12) for name, (judge, draw) in CONTRACT.items()),
            Claim("library", draw_arguments, library, kind="contract", most=6),
            *(Claim(name, draw, judge_op, kind="op") for name, draw in DRAWS.items()),
            Claim("storage", draw_storage, judge_op, kind="op"),
            *_LAWS,
        )
    }
)
"""Name → claim."""
