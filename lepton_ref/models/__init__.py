"""The families of models: each a page that its paper's reader recognises, all run by one loop over a list of ops."""

from collections.abc import Mapping
from types import MappingProxyType

from lepton_ref.models import (
    bert,
    distilbert,
    gemma2,
    gemma3,
    gpt2,
    gpt_neox,
    llama,
    mistral,
    olmo2,
    opt,
    phi3,
    qwen2,
    qwen3,
    roberta,
)
from lepton_ref.models.family import Family

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.model_type: family
        for family in (
            llama.FAMILY,
            mistral.FAMILY,
            qwen2.FAMILY,
            qwen3.FAMILY,
            gemma2.FAMILY,
            gemma3.FAMILY,
            phi3.FAMILY,
            olmo2.FAMILY,
            gpt2.FAMILY,
            gpt_neox.FAMILY,
            opt.FAMILY,
            bert.FAMILY,
            roberta.FAMILY,
            distilbert.FAMILY,
        )
    }
)
"""`model_type` of config.json → family."""

GGUF_FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.gguf.architecture: family for family in FAMILIES.values() if family.gguf is not None}
)
"""`general.architecture` of a GGUF → family."""

__all__ = ["FAMILIES", "GGUF_FAMILIES", "Family"]
