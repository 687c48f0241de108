"""Tiny random checkpoints: a configuration, weights drawn from a seed, and what a true float64 run makes of them.

Weights and inputs come from NumPy's generator, so that they do not depend on the version of torch. Norm weights,
biases and embeddings are random too: a loader that drops one, or applies 1 + w for w, changes the result.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from lepton_ref.golden.true_float64 import run, true_float64, widen

ENCODERS = ("bert", "roberta", "distilbert")
GEMMAS = ("gemma2", "gemma3_text")  # their norms multiply by 1 + weight


@dataclasses.dataclass(frozen=True)
class Case:
    """One checkpoint: what it is, how it is stored, how long its inputs are."""

    name: str
    architecture: str  # the transformers class, as config.json's `architectures` names it
    config: Mapping[str, Any]  # arguments of its configuration class
    dtype: str = "float32"
    max_shard_size: str = "50GB"
    form: str = "v5"  # "v4": config.json with the field names of transformers 4; "hub": also its old tensor names
    batch: int = 2
    length: int = 17
    padded: tuple[int, int] = (9, 5)
    prompt: int = 8
    new_tokens: int = 12
    positions: bool = False  # also run with position numbers that skip some
    seed: int = 0
    note: str = ""

    @property
    def model_class(self) -> Any:
        """The transformers class."""
        return getattr(transformers, self.architecture)

    @property
    def is_decoder(self) -> bool:
        """Whether the model gives next-token logits."""
        return self.architecture.endswith(("ForCausalLM", "LMHeadModel"))


# --- weights ---------------------------------------------------------------------------------------------------------


def _standard_deviation(module: torch.nn.Module, parameter: str, shape: tuple[int, ...], tied: bool) -> float:
    """The spread that keeps activations and logits near 1 and attention far from uniform."""
    if isinstance(module, torch.nn.Embedding):
        return 0.9 / shape[1] ** 0.5 if tied else 0.7
    if parameter == "bias" or "Norm" in type(module).__name__:
        return 0.3
    fan_in = shape[0] if type(module).__name__ == "Conv1D" else shape[-1]
    return 1.4 / fan_in**0.5


def randomise(model: Any, rng: np.random.Generator) -> None:
    """Draw every parameter of ``model`` from ``rng``, in the order of the modules."""
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    one_plus = model.config.model_type in GEMMAS
    drawn: set[int] = set()
    for _, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in drawn:
                continue
            drawn.add(id(parameter))
            shape = tuple(parameter.shape)
            values = rng.standard_normal(shape) * _standard_deviation(module, name, shape, tied)
            if "Norm" in type(module).__name__ and name == "weight" and not one_plus:
                values = 1 + values
            parameter.data = torch.from_numpy(values).to(parameter.dtype)


# --- the files -------------------------------------------------------------------------------------------------------


def as_version_4(config: dict[str, Any]) -> dict[str, Any]:
    """config.json with the names that transformers 4 wrote: rope_theta, rope_scaling, torch_dtype and so on."""
    old = dict(config)
    old["torch_dtype"] = old.pop("dtype")
    old["transformers_version"] = "4.41.0"
    rope = old.pop("rope_parameters", None)
    if rope is None:
        return old
    if old["model_type"] == "gemma3_text":
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
        del old["layer_types"]
        old["sliding_window_pattern"] = old.pop("_sliding_window_pattern", 6)
    rope = dict(rope)
    old["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        old["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if old["model_type"] == "gpt_neox":
        old["rotary_emb_base"], old["rotary_pct"] = old.pop("rope_theta"), old.pop("partial_rotary_factor")
    kind = rope.pop("rope_type")
    if kind == "default":
        old["rope_scaling"] = None
    elif kind == "longrope" and old["model_type"] == "phi3":  # the first Phi-3 files called it "su"
        old["rope_scaling"] = {"type": "su", **rope}
    elif kind in ("linear", "dynamic") and old["model_type"] != "gemma3_text":  # until 4.43 it was `type`
        old["rope_scaling"] = {"type": kind, **rope}
    else:
        old["rope_scaling"] = {"rope_type": kind, **rope}
    return old


def without_defaults(config: dict[str, Any], default: Any) -> dict[str, Any]:
    """``config`` without the fields that equal the family's defaults, as hand-written files leave them out."""
    usual = default.to_dict()
    return {k: v for k, v in config.items() if k == "model_type" or k not in usual or v != usual[k]}


def _replace_end(name: str, ends: Mapping[str, str]) -> str:
    """``name`` with its ending replaced where ``ends`` has one for it."""
    for end, new in ends.items():
        if name.endswith(end):
            return name.removesuffix(end) + new
    return name


def as_hub_names(tensors: dict[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors under the names, and with the buffers, that well-known old checkpoints carry."""
    kind = config["model_type"]
    if kind == "gpt2":  # openai-community/gpt2: no `transformer.` prefix, a causal mask in every layer
        named = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        mask = torch.tril(torch.ones(config["n_positions"], config["n_positions"]))[None, None]
        return named | {f"h.{layer}.attn.bias": mask.clone() for layer in range(config["n_layer"])}
    if kind == "llama":  # meta-llama's first conversions: the RoPE frequencies of every layer
        half = config["head_dim"] // 2
        frequencies = config["rope_theta"] ** (-torch.arange(half) / half)
        layers = range(config["num_hidden_layers"])
        return tensors | {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": frequencies.clone() for i in layers}
    if kind == "bert":  # google-bert: gamma and beta for weight and bias of a norm; both store the position numbers
        old = {".LayerNorm.weight": ".LayerNorm.gamma", ".LayerNorm.bias": ".LayerNorm.beta"}
        named = {_replace_end(name, old): tensor for name, tensor in tensors.items()}
        prefix = "" if "embeddings.word_embeddings.weight" in named else "bert."
        return named | {f"{prefix}embeddings.position_ids": torch.arange(config["max_position_embeddings"])[None]}
    if kind == "opt":  # facebook/opt-350m: no `model.` prefix, and the tied head stored again
        named = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        return named | {"lm_head.weight": named["decoder.embed_tokens.weight"].clone()}
    raise ValueError(f"{kind}: no old form of this family is known here; add it to as_hub_names")


def write_checkpoint(case: Case, folder: Path) -> None:
    """Make the model of ``case`` and save it under ``folder`` with save_pretrained, in the form that it asks for."""
    config = case.model_class.config_class(**case.config)
    model = case.model_class(config).eval()
    randomise(model, np.random.default_rng([case.seed, 1]))
    model.to(getattr(torch, case.dtype)).save_pretrained(folder, max_shard_size=case.max_shard_size)
    if case.form == "v5":
        return
    written = json.loads((folder / "config.json").read_text())
    if written["model_type"] == "gemma3_text":
        written["_sliding_window_pattern"] = case.config.get("sliding_window_pattern", 6)
    written = as_version_4(written)
    if case.form == "hub":
        tensors = as_hub_names(load_file(folder / "model.safetensors"), written)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        written = without_defaults(written, type(config)())
    (folder / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")


def load_true_float64(model_class: Any, folder: Path) -> Any:
    """The float64 model of a saved checkpoint, from its files alone; call outside true_float64.

    Raises:
        ValueError: transformers itself found a tensor missing, left over or of another shape.
    """
    stored, info = model_class.from_pretrained(folder, dtype="auto", output_loading_info=True)
    left_over = [name for name in info["unexpected_keys"] if not name.endswith((".attn.bias", "inv_freq", "_ids"))]
    if info["missing_keys"] or left_over or info["mismatched_keys"]:
        raise ValueError(f"{folder}: transformers loads it with {info}")
    config = transformers.AutoConfig.from_pretrained(folder)
    with true_float64():
        return widen(model_class, config, stored.state_dict())


# --- the truth -------------------------------------------------------------------------------------------------------


def _ids(case: Case, rng: np.random.Generator, *shape: int) -> NDArray[np.int64]:
    """Random token ids; never the padding id, which RoBERTa gives no position."""
    vocabulary = case.config["vocab_size"]
    pad = case.model_class.config_class(**case.config).pad_token_id
    ids = rng.integers(0, vocabulary - 1, shape)
    return ids if pad is None else np.where(ids >= pad, ids + 1, ids)


def _outputs(model: Any, **inputs: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Logits or hidden states (and the pooled state where there is one) as NumPy arrays."""
    with true_float64():
        out = run(model, **{name: torch.from_numpy(array) for name, array in inputs.items()})
    names = [name for name in ("logits", "last_hidden_state", "pooler_output") if name in out]
    return {name: out[name].numpy() for name in names if out[name] is not None}


def _hidden(model: Any, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """(L + 1, D): the hidden state at the last position before each layer and, last, at the end (if as wide)."""
    with true_float64():
        states = run(model, input_ids=torch.from_numpy(ids[None]), output_hidden_states=True).hidden_states
    rows = [state[0, -1].numpy() for state in states]
    return np.stack([row for row in rows if row.shape == rows[0].shape])


def _greedy(model: Any, prompt: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """``count`` tokens, each the arg-max of a run over the whole text, and its lead over the second."""
    ids, margins = list(prompt), []
    for _ in range(count):
        last = _outputs(model, input_ids=np.array(ids)[None])["logits"][0, -1]
        second, first = np.sort(last)[-2:]
        ids.append(np.argmax(last))
        margins.append(first - second)
    return np.array(ids[len(prompt) :]), np.array(margins)


def _padded(case: Case, model: Any, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Two sequences of unequal length in one batch, padded left and right; the truth is each one alone."""
    config = model.config
    pad = 0 if config.pad_token_id is None else config.pad_token_id
    width = max(case.padded) + 2  # every row has padding
    found: dict[str, NDArray[Any]] = {}
    for side in ("left", "right"):
        found[f"padded_{side}_ids"] = np.full((2, width), pad)
        found[f"padded_{side}_mask"] = np.zeros((2, width), np.int64)
    for row, length in enumerate(case.padded):
        ids = _ids(case, rng, length)
        out = _outputs(model, input_ids=ids[None])
        found[f"padded_{row}"] = next(iter(out.values()))[0]
        for side, place in (("left", slice(width - length, None)), ("right", slice(0, length))):
            found[f"padded_{side}_ids"][row, place] = ids
            found[f"padded_{side}_mask"][row, place] = 1
    return found


def _with_positions(
    case: Case, model: Any, ids: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """The output at positions that rise by 1 or 2; a mask of ones keeps transformers from seeing packed texts."""
    positions = np.cumsum(rng.integers(1, 3, ids.shape), axis=1) - 1
    out = _outputs(model, input_ids=ids, position_ids=positions, attention_mask=np.ones_like(ids))
    return {"position_ids": positions, "with_position_ids": next(iter(out.values()))}


def truth(case: Case, folder: Path) -> dict[str, NDArray[Any]]:
    """Inputs and true float64 outputs of the checkpoint in ``folder`` (the names: see golden/README.md).

    Raises:
        ValueError: the model is too flat or too wild to show an error in.
    """
    model = load_true_float64(case.model_class, folder)
    rng = np.random.default_rng([case.seed, 2])
    inputs = {"input_ids": _ids(case, rng, case.batch, case.length)}
    if case.config.get("type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = rng.integers(0, case.config["type_vocab_size"], (case.batch, case.length))
    outputs = _outputs(model, **inputs)
    spread = next(iter(outputs.values())).std()
    if not 0.2 < spread < 20:
        raise ValueError(f"{case.name}: its output has a standard deviation of {spread:.3g}; want 0.2 to 20")
    found: dict[str, NDArray[Any]] = {**inputs, **outputs, **_padded(case, model, rng)}
    found["hidden"] = _hidden(model, inputs["input_ids"][0])
    if case.positions:
        found |= _with_positions(case, model, inputs["input_ids"], rng)
    if case.is_decoder:
        prompt = _ids(case, rng, case.prompt)
        found["greedy_prompt"] = prompt
        found["greedy_ids"], found["greedy_margins"] = _greedy(model, prompt, case.new_tokens)
    return found


def ordinary_distance(case: Case, folder: Path, expected: Mapping[str, NDArray[Any]]) -> float:
    """How far an ordinary float64 run, float32 inside its norms and RoPE, is: the maximum, in standard deviations.

    Raises:
        ValueError: so far that lifting the casts must have changed more than the rounding.
    """
    config = transformers.AutoConfig.from_pretrained(folder)
    if getattr(config, "reorder_and_upcast_attn", False):
        config.reorder_and_upcast_attn = False  # it refuses to run in float64, and names the same function
    settings = {"config": config, "dtype": torch.float64, "attn_implementation": "eager"}
    model = case.model_class.from_pretrained(folder, **settings).eval()
    names = [name for name in ("input_ids", "token_type_ids") if name in expected]
    with torch.no_grad():
        out = model(**{name: torch.from_numpy(expected[name]) for name in names})
    key = "logits" if "logits" in expected else "last_hidden_state"
    distance = float(np.abs(out[key].numpy() - expected[key]).max() / expected[key].std())
    if distance > 1e-3:
        raise ValueError(f"{case.name}: an ordinary float64 run is {distance:.3g} away; true_float64 changed the model")
    return distance


def make(case: Case, folder: Path) -> dict[str, float]:
    """Write the checkpoint and ``expected.npz`` into ``folder``; return figures for the manifest."""
    folder.mkdir(parents=True)
    write_checkpoint(case, folder)
    expected = truth(case, folder)
    np.savez_compressed(folder / "expected.npz", **expected)  # type: ignore[arg-type]
    return {"ordinary_float64_distance_in_std": float(f"{ordinary_distance(case, folder, expected):.2g}")}


def frozen(**fields: Any) -> Mapping[str, Any]:
    """A read-only mapping of the given fields."""
    return MappingProxyType(fields)
