"""A folder with random sizes, options and weights, of any family that a GGUF can say, all constants float32 numbers."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lepton_ref.compress.to_gguf_families import FORMS
from lepton_ref.files import write_safetensors
from lepton_ref.models import FAMILIES
from lepton_ref.models.reader import Reader

ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
NORM = 2.0**-15


class Draw:
    """Random choices."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def one(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def whole(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def real(self, low: float, high: float) -> float:
        return float(np.float32(self.rng.uniform(low, high)))

    def rope(self, kinds: tuple[str, ...], width: int) -> dict[str, Any]:
        """Parameters for so many turning numbers."""
        kind = self.one(*kinds)
        found: dict[str, Any] = {"rope_type": kind, "rope_theta": self.real(20, 5e5)}
        if kind in ("linear", "yarn", "llama3"):
            found["factor"] = self.one(2.0, 4.0, 8.0)
        if kind in ("yarn", "llama3"):
            found["original_max_position_embeddings"] = self.whole(8, 60)
        if kind == "yarn":
            found |= self.one({}, {"attention_factor": 1.5}, {"beta_fast": 8.0, "beta_slow": 0.5})
        if kind == "llama3":
            found |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        if kind == "longrope":
            lists = {f"{name}_factor": [self.real(1, 8) for _ in range(width // 2)] for name in ("short", "long")}
            found |= {**lists, "original_max_position_embeddings": self.one(8, 256)}
        return found


def config(d: Draw, family: str) -> dict[str, Any]:
    """A config.json that a GGUF can say."""
    form, heads, width = FORMS[family], d.whole(1, 4), 2 * d.whole(2, 8)
    hidden = heads * width if form.even_heads else d.one(heads * width, 2 * d.whole(6, 29))
    sizes = {"vocab_size": d.whole(41, 129), "num_hidden_layers": d.whole(1, 3), "num_attention_heads": heads}
    found: dict[str, Any] = {
        **sizes, "model_type": family, "hidden_size": hidden, "intermediate_size": d.whole(17, 89),
        "max_position_embeddings": 512, "tie_word_embeddings": d.one(True, False),
        "hidden_act": ACTIVATIONS[form.activation],
    }  # fmt: skip
    names = [name for name, head in FAMILIES[family].architectures.items() if head in ("causal_lm", "base")]
    found["architectures"] = names[:1]
    if family == "gpt2":
        return found | {"activation_function": "gelu_new", "n_inner": d.one(None, 33), "layer_norm_epsilon": NORM}
    if family in ("bert", "roberta", "distilbert"):
        return found | {"layer_norm_eps": NORM, "pad_token_id": d.whole(0, 3), "type_vocab_size": d.whole(1, 2)}
    if family == "gpt_neox":
        rope = d.rope(form.ropes, width) | {"partial_rotary_factor": d.one(1.0, 0.5) if width % 4 == 0 else 1.0}
        return found | {"layer_norm_eps": NORM, "use_parallel_residual": d.one(True, False), "rope_parameters": rope}
    shared = d.one(*(count for count in range(1, heads + 1) if heads % count == 0))
    found |= {"num_key_value_heads": shared, "head_dim": width, "rms_norm_eps": NORM, "sliding_window": None}
    if family == "llama":
        found |= {"attention_bias": d.one(True, False), "mlp_bias": d.one(True, False)}
    if family in ("gemma2", "gemma3_text"):
        return _gemma(d, found, width)
    return found | {"rope_parameters": d.rope(form.ropes, width)}


def _gemma(d: Draw, found: dict[str, Any], width: int) -> dict[str, Any]:
    rope, layers = d.rope(("default", "linear"), width), 2
    caps = {"attn_logit_softcapping": d.real(1, 50), "final_logit_softcapping": d.real(2, 30)}
    if found["model_type"] == "gemma3_text":
        rope = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": d.real(20, 500)}}
        layers, caps = 6, {"final_logit_softcapping": d.one(None, 4.0)}
    else:
        found["tie_word_embeddings"] = True
    found |= {"hidden_activation": found.pop("hidden_act"), "query_pre_attn_scalar": width, "rope_parameters": rope}
    return found | caps | {"num_hidden_layers": layers, "sliding_window": d.whole(1, 20)}


def drawn_folder(folder: Path, family: str, seed: int) -> Path:
    """A folder of the family."""
    d = Draw(seed)
    fields = config(d, family)
    known = FAMILIES[family]
    program = known.program(
        known.read(Reader(fields, where="drawn")), known.architectures[str(fields["architectures"][0])]
    )
    shapes: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    turned: set[str] = set()
    for weight, shape in program.weights.items():
        part, name = known.names.source(weight)
        shapes[name].append(shape)
        if part.transpose and len(shape) == 2:
            turned.add(name)
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, parts in shapes.items():
        values = d.rng.standard_normal((sum(part[0] for part in parts), *parts[0][1:])) / 4
        values = np.round(values * 1024) / 1024  # 1 + w is a float32 number
        tensors[name] = np.ascontiguousarray(values.T if name in turned else values, dtype="<f4")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"}, overwrite=True)
    return folder
