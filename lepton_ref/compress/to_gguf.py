"""A model's folder as a GGUF holds it: the inverse of how `lepton_ref.models` reads one, for each family that GGUF has.

    names and rows     the families' own two tables          lepton_ref.compress.to_gguf_tensors
    what is implied    a record a family                     lepton_ref.compress.to_gguf_families
    how heads turn     keys and tensors                      lepton_ref.compress.to_gguf_rope
    words              the tokenizer and the chat template   lepton_ref.compress.tokenizer_to_gguf

Numbers of the metadata are rounded to float32, and vectors are float32 tensors; Gemma's norms are 1 + w. The folder and
the file are one model, to the bit, where these roundings change nothing, and a note tells where 1 + w is rounded. A
folder without a tokenizer that GGUF can say becomes a file that runs on ids, in llama.cpp too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton_ref.compress.to_gguf_families import FORMS, Form
from lepton_ref.compress.to_gguf_pooling import pooling_to_gguf
from lepton_ref.compress.to_gguf_rope import rope_to_gguf
from lepton_ref.compress.to_gguf_tensors import as_float32, tensors_to_gguf
from lepton_ref.compress.tokenizer_to_gguf import NO_WORDS, tokenizer_metadata
from lepton_ref.files import Checkpoint
from lepton_ref.models import FAMILIES, GGUF_FAMILIES, Family
from lepton_ref.models.names import bind
from lepton_ref.models.plausible import naming, require_plausible
from lepton_ref.models.reader import Reader
from lepton_ref.storage import RowView, Weight
from lepton_ref.text.config_files import files_read


@dataclass(frozen=True)
class Converted:
    """A folder as GGUF holds it.

    Attributes:
        tensors: by GGUF's names.
        metadata: keys and values.
        types: of some of the metadata.
        files: those that were read beside config.json and the weights.
        notes: what could not be said, and what llama.cpp makes of the file that this package does not.
    """

    tensors: dict[str, Weight]
    metadata: dict[str, Any]
    types: dict[str, str]
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def to_gguf(checkpoint: Checkpoint, /) -> Converted:
    """A folder as GGUF holds it; nothing is decoded but vectors and small tables.

    Raises:
        ValueError: a family, a head or a setting that a GGUF of it cannot say; the message names it.
        WeightsError: tensors that are not the config's.
    """
    fields = Reader(checkpoint.config, where=str(checkpoint.path / "config.json"))
    kind = fields.text("model_type")
    if kind not in FORMS:
        known = ", ".join(FORMS)
        raise fields.wrong("model_type", kind, f"one of {known} to become a GGUF; write a .safetensors instead")
    packed = fields.section("quantization_config")
    if packed.fields:
        raise packed.wrong("quant_method", packed.raw("quant_method", None), "absent: decode the model first")
    family, form = FAMILIES[kind], FORMS[kind]
    require_plausible(fields, checkpoint.tensors.tensors)
    with naming(fields.where):
        config = family.read(fields)
    _check(form, config, fields)
    said, notes = form.say(config, fields)
    tensors, left = _tensors(checkpoint, family, form, config, fields)
    turned: dict[str, Any] = {}
    if form.ropes:
        turned, more, why = rope_to_gguf(config.rope, form.ropes, fields)
        tensors, notes = tensors | more, (*notes, *why)
    rows = tensors["token_embd.weight"].shape[0]
    own = {**_sizes(config, tensors), **turned, **said, "vocab_size": rows}
    with files_read() as files:
        words, types, untold = tokenizer_metadata(checkpoint.path, rows)
        words = words or dict(NO_WORDS)
        if form.architecture == "bert":
            pooled, more_notes = pooling_to_gguf(checkpoint.path)
            own, left = own | pooled, (*left, *more_notes)
    if form.architecture == "bert":
        words["tokenizer.ggml.token_type_count"] = getattr(config, "type_vocab_size", 1)
    metadata = {f"{form.architecture}.{key}": _float32(value) for key, value in own.items()}
    metadata = {"general.architecture": form.architecture, **metadata, **words}
    return Converted(tensors, metadata, types, tuple(files), (*left, *notes, *untold))


def _float32(value: Any) -> Any:
    """GGUF's readers take float32 for a number."""
    return float(np.float32(value)) if isinstance(value, float) else value


def _check(form: Form, config: Any, fields: Reader) -> None:
    """Refuse what the architecture takes for granted otherwise."""
    implied = f"which a GGUF of {form.architecture} implies"
    for given in ("hidden_act", "activation_function", "activation"):
        if getattr(config, given, form.activation) != form.activation:
            name = "hidden_activation" if fields.has("hidden_activation") else given
            raise fields.wrong(name, fields.raw(name, getattr(config, given)), f"{form.activation!r}, {implied}")
    width = getattr(config, "head_dim", None)
    if form.even_heads and width is not None and width * config.num_attention_heads != config.hidden_size:
        share = f"{config.hidden_size / config.num_attention_heads:g}"
        raise fields.wrong("head_dim", width, f"{share}, an equal share of hidden_size, {implied}")
    if not form.biased_output and getattr(config, "attention_bias", False):
        raise fields.wrong("attention_bias", True, f"false: a GGUF of {form.architecture} has no bias behind attention")


def _heads(family: Family, form: Form, fields: Reader) -> tuple[str, str, tuple[str, ...]]:
    """The folder's head, the file's, and what is left out."""
    heads = family.architectures
    listed = fields.raw("architectures", [])
    named = str(listed[0]) if isinstance(listed, list) and listed else ""
    head, wanted = heads.get(named, "base"), "causal_lm" if "causal_lm" in heads.values() else "base"
    if wanted == "causal_lm" and head != "causal_lm":
        names = " or ".join(name for name, kind in heads.items() if kind == "causal_lm")
        raise fields.wrong("architectures", listed, f"{names}: a GGUF of {form.architecture} has an output head")
    if head not in (wanted, "masked_lm"):
        raise fields.wrong("architectures", listed, "a base model: a GGUF of bert has no classifier that is read here")
    left = head != wanted
    return head, wanted, (f"the head of {named} is left out: a GGUF of bert gives hidden states",) if left else ()


def _tensors(
    checkpoint: Checkpoint, family: Family, form: Form, config: Any, fields: Reader
) -> tuple[dict[str, Weight], tuple[str, ...]]:
    """The tensors, and what is left out or rounded."""
    head, wanted, notes = _heads(family, form, fields)
    file, where = checkpoint.tensors, str(checkpoint.path)
    others = [*file.integers, *file.refused]
    bind(family.program(config, head), family.names, file.tensors, others=others, config=config, where=where)
    gguf = GGUF_FAMILIES[form.architecture].gguf
    assert gguf is not None, "it is among the families that GGUF knows"
    tensors = tensors_to_gguf(family.program(config, wanted), family.names, gguf.names, file.tensors, config)
    if family.model_type == "roberta":  # the first positions, padding's among them, are those of no token
        first, table = config.pad_token_id + 1, tensors["position_embd.weight"]
        tensors["position_embd.weight"] = as_float32(RowView(table, np.arange(first, table.shape[0])))
    if form.own_head and config.tie_word_embeddings:
        tensors["output.weight"] = tensors["token_embd.weight"]
    moved, rounded = _moved_norms(tensors, getattr(config, "norm_offset", 0.0))
    return tensors | moved, (*notes, *rounded)


def _moved_norms(tensors: Mapping[str, Weight], offset: float) -> tuple[dict[str, Weight], tuple[str, ...]]:
    """Norms with what the family adds to their weights, and how many of them that rounds."""
    if not offset:
        return {}, ()
    names = [name for name in tensors if name.endswith("norm.weight")]
    moved: dict[str, Weight] = {name: as_float32(tensors[name], offset) for name in names}
    back = (moved[name].decode().astype(np.float64) - offset for name in names)
    rounded = sum(not np.array_equal(w, tensors[name].decode()) for name, w in zip(names, back, strict=True))
    note = f"1 + w is rounded to float32 in {rounded} of {len(names)} norms, which GGUF stores so"
    return moved, (note,) if rounded else ()


def _sizes(config: Any, tensors: Mapping[str, Weight]) -> dict[str, Any]:
    """The model's numbers, whatever its config calls them."""

    def number(*names: str) -> Any:
        return next(getattr(config, name) for name in names if hasattr(config, name))

    hidden, heads = number("hidden_size", "dim"), number("num_attention_heads", "n_heads")
    positions = tensors.get("position_embd.weight")
    found = {
        "context_length": config.max_position_embeddings if positions is None else positions.shape[0],
        "embedding_length": hidden,
        "block_count": number("num_hidden_layers", "n_layers"),
        "feed_forward_length": number("intermediate_size", "hidden_dim"),
        "attention.head_count": heads,
    }
    if hasattr(config, "rms_norm_eps"):
        found["attention.layer_norm_rms_epsilon"] = config.rms_norm_eps
    else:
        known = [getattr(config, n) for n in ("layer_norm_eps", "layer_norm_epsilon") if hasattr(config, n)]
        found["attention.layer_norm_epsilon"] = known[0] if known else 1e-12  # DistilBERT's, which no config changes
    if hasattr(config, "num_key_value_heads"):
        found["attention.head_count_kv"] = config.num_key_value_heads
    if hasattr(config, "head_dim"):  # transformers has another default than an equal share for some families
        found |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    return found
