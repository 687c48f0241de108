"""BERT, RoBERTa and DistilBERT a second time, in plain NumPy over the tensors' names in the file; and random ones.

One sequence at a time, without padding, masks or batches: what a padded batch must give is each sequence alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.files import write_safetensors

Tensors = dict[str, NDArray[np.float32]]

ACTIVATIONS: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_new": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "tanh": np.tanh,
}


def sizes(config: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """D, F, L, H under either family's names."""
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    if config["model_type"] == "distilbert":
        names = ("dim", "hidden_dim", "n_layers", "n_heads")
    return tuple(config[name] for name in names)  # type: ignore[return-value]


def layer_names(kind: str) -> dict[str, str]:
    if kind == "distilbert":
        return {
            "layers": "transformer.layer", "q": "attention.q_lin", "k": "attention.k_lin", "v": "attention.v_lin",
            "o": "attention.out_lin", "norm1": "sa_layer_norm", "up": "ffn.lin1", "down": "ffn.lin2",
            "norm2": "output_layer_norm",
        }  # fmt: skip
    return {
        "layers": "encoder.layer", "q": "attention.self.query", "k": "attention.self.key",
        "v": "attention.self.value", "o": "attention.output.dense", "norm1": "attention.output.LayerNorm",
        "up": "intermediate.dense", "down": "output.dense", "norm2": "output.LayerNorm",
    }  # fmt: skip


class Oracle:
    """One checkpoint. `tensors` carry the prefix "bert." and so on, or none where the model is bare."""

    def __init__(self, config: Mapping[str, Any], tensors: Tensors) -> None:
        self.config = config
        self.kind: str = config["model_type"]
        self.tensors = tensors
        self.prefix = f"{self.kind}." if any(name.startswith(f"{self.kind}.") for name in tensors) else ""
        self.eps = 1e-12 if self.kind == "distilbert" else config["layer_norm_eps"]
        self.act = ACTIVATIONS[config["activation" if self.kind == "distilbert" else "hidden_act"]]

    def get(self, name: str) -> NDArray[np.float64]:
        return self.tensors[name].astype(np.float64)

    def linear(self, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        return x @ self.get(f"{name}.weight").T + self.get(f"{name}.bias")

    def norm(self, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.eps)
        return scaled * self.get(f"{name}.weight") + self.get(f"{name}.bias")

    def hidden(self, ids: list[int], types: list[int], positions: list[int] | None = None) -> NDArray[np.float64]:
        _, _, layers, heads = sizes(self.config)
        if positions is None:
            positions = list(range(len(ids)))
            if self.kind == "roberta":
                pad, count = self.config["pad_token_id"], np.cumsum([i != self.config["pad_token_id"] for i in ids])
                positions = [pad if i == pad else pad + int(n) for i, n in zip(ids, count, strict=True)]
        e = f"{self.prefix}embeddings."
        x = self.get(f"{e}word_embeddings.weight")[ids] + self.get(f"{e}position_embeddings.weight")[positions]
        if self.kind != "distilbert":
            x = x + self.get(f"{e}token_type_embeddings.weight")[types]
        x = self.norm(f"{e}LayerNorm", x)
        names = layer_names(self.kind)
        for layer in range(layers):
            at = {key: f"{self.prefix}{names['layers']}.{layer}.{name}" for key, name in names.items()}
            q, k, v = (self.linear(at[key], x).reshape(len(ids), heads, -1).swapaxes(0, 1) for key in "qkv")
            scores = np.exp(q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1]))
            mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ v
            x = self.norm(at["norm1"], x + self.linear(at["o"], mixed.swapaxes(0, 1).reshape(x.shape)))
            x = self.norm(at["norm2"], x + self.linear(at["down"], self.act(self.linear(at["up"], x))))
        return x

    def head(self, architecture: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
        if architecture.endswith("Model"):
            return x
        if architecture.endswith("ForTokenClassification"):
            return self.linear("classifier", x)
        if architecture.endswith("ForMaskedLM"):
            return self.masked_lm(x)
        first = x[0]
        if self.kind == "bert":
            return self.linear("classifier", np.tanh(self.linear("bert.pooler.dense", first)))
        if self.kind == "roberta":
            return self.linear("classifier.out_proj", np.tanh(self.linear("classifier.dense", first)))
        return self.linear("classifier", np.maximum(self.linear("pre_classifier", first), 0))

    def masked_lm(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        dense, norm, decoder, bias = {
            "bert": ("transform.dense", "transform.LayerNorm", "decoder", "bias"),
            "roberta": ("dense", "layer_norm", "decoder", "bias"),
            "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"),
        }[self.kind]
        head = {"bert": "cls.predictions.", "roberta": "lm_head.", "distilbert": ""}[self.kind]
        act = ACTIVATIONS["gelu"] if self.kind == "roberta" else self.act
        t = self.norm(head + norm, act(self.linear(head + dense, x)))
        table = f"{head}{decoder}.weight"
        if self.config.get("tie_word_embeddings", True):
            table = f"{self.prefix}embeddings.word_embeddings.weight"
        return t @ self.get(table).T + self.get(head + bias)


def shapes(config: Mapping[str, Any], architecture: str) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor that transformers writes for the architecture."""
    kind = config["model_type"]
    d, f, layers, _ = sizes(config)
    base = "" if architecture.endswith("Model") else f"{kind}."
    found: dict[str, tuple[int, ...]] = {
        f"{base}embeddings.word_embeddings.weight": (config["vocab_size"], d),
        f"{base}embeddings.position_embeddings.weight": (config["max_position_embeddings"], d),
    }
    if kind != "distilbert":
        found[f"{base}embeddings.token_type_embeddings.weight"] = (config["type_vocab_size"], d)
    norms, linears = [f"{base}embeddings.LayerNorm"], {}
    names = layer_names(kind)
    for layer in range(layers):
        at = f"{base}{names['layers']}.{layer}."
        norms += [at + names["norm1"], at + names["norm2"]]
        linears |= {at + names[key]: (d, d) for key in "qkvo"}
        linears |= {at + names["up"]: (f, d), at + names["down"]: (d, f)}
    labels, vocabulary = config.get("num_labels", 2), config["vocab_size"]
    tied = config.get("tie_word_embeddings", True)
    if kind != "distilbert" and (architecture.endswith("Model") or architecture == "BertForSequenceClassification"):
        linears[f"{base}pooler.dense"] = (d, d)
    if architecture.endswith("ForMaskedLM"):
        head = {"bert": "cls.predictions.", "roberta": "lm_head.", "distilbert": "vocab_"}[kind]
        part = {"bert": "transform.", "roberta": "", "distilbert": ""}[kind]
        dense, norm, decoder = {
            "bert": ("dense", "LayerNorm", "decoder"), "roberta": ("dense", "layer_norm", "decoder"),
            "distilbert": ("transform", "layer_norm", "projector"),
        }[kind]  # fmt: skip
        linears[head + part + dense] = (d, d)
        norms.append(head + part + norm)
        found[f"{head}bias" if kind != "distilbert" else "vocab_projector.bias"] = (vocabulary,)
        if not tied:
            found[f"{head}{decoder}.weight"] = (vocabulary, d)
    elif architecture.endswith("ForTokenClassification"):
        linears["classifier"] = (labels, d)
    elif architecture.endswith("ForSequenceClassification"):
        out = {"bert": "classifier", "roberta": "classifier.out_proj", "distilbert": "classifier"}[kind]
        linears[out] = (labels, d)
        linears |= {"roberta": {"classifier.dense": (d, d)}, "distilbert": {"pre_classifier": (d, d)}}.get(kind, {})
    for name in norms:
        found |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
    for name, shape in linears.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


def random_tensors(config: Mapping[str, Any], architecture: str, seed: int) -> Tensors:
    """Weights under which every part of the model shows in the output."""
    rng = np.random.default_rng(seed)
    drawn: Tensors = {}
    for name, shape in shapes(config, architecture).items():
        scale = 1.5 / math.sqrt(shape[-1]) if len(shape) == 2 and "embeddings" not in name else 0.5
        centre = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        drawn[name] = (centre + scale * rng.standard_normal(shape)).astype(np.float32)
    return drawn


def write_folder(folder: Path, config: Mapping[str, Any], architecture: str, tensors: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    labels = config.get("num_labels", 2)
    fields = {name: value for name, value in config.items() if name != "num_labels"}
    fields |= {"architectures": [architecture]}
    if labels != 2:
        fields["id2label"] = {str(number): f"LABEL_{number}" for number in range(labels)}
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    (folder / "model.safetensors").unlink(missing_ok=True)
    write_safetensors(folder / "model.safetensors", dict(tensors), {"format": "pt"})
    return folder
