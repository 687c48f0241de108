"""New tiny checkpoints that nobody has tuned to: random sizes, weights and options, with a true float64 run.

    .venv-peers/bin/python golden/fresh.py --family llama --seed 123 OUT             # one checkpoint, OUT/llama-123
    .venv-peers/bin/python golden/fresh.py --family all --seed 0 --count 20 OUT      # twenty of every family

Each folder is laid out as those of golden/tiny (golden/README.md), with the case's own settings in case.json. Nothing
here is checked in: the same command makes the same files. ``--exotic`` adds options that few published models use.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lepton_ref.golden.checkpoint import Case, frozen, make

ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "quick_gelu")
ALIASES = ("swish", "gelu_fast", "gelu_python", "gelu_python_tanh", "gelu_accurate")
EXOTIC_ACTIVATIONS = ("relu2", "tanh", "sigmoid", "mish", "hardswish", "relu6", "leaky_relu")
SHORT = 16  # the padded batch and the greedy text are no longer than this; a limit on the length lies at or above it


class Draw:
    """Random choices of one case."""

    def __init__(self, seed: list[int], exotic: bool) -> None:
        self.rng = np.random.default_rng(seed)
        self.exotic = exotic

    def one(self, *options: Any) -> Any:
        """One of the options."""
        return options[int(self.rng.integers(len(options)))]

    def often(self, probability: float) -> bool:
        """True with that probability."""
        return bool(self.rng.random() < probability)

    def whole(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def real(self, low: float, high: float) -> float:
        """A number between low and high, uniform in its logarithm."""
        return float(f"{np.exp(self.rng.uniform(np.log(low), np.log(high))):.6g}")

    def activation(self) -> str:
        """The name of an activation."""
        if self.exotic and self.often(0.3):
            return str(self.one(*EXOTIC_ACTIVATIONS))
        return str(self.one(*(ALIASES if self.often(0.15) else ACTIVATIONS)))


# --- RoPE ------------------------------------------------------------------------------------------------------------


def _factors(d: Draw, count: int) -> list[float]:
    return [d.real(1.0, 8.0) for _ in range(count)]


def rope(d: Draw, kinds: tuple[str, ...], width: int, length: int, longest: int) -> dict[str, Any]:
    """RoPE parameters of a random kind, for ``width`` rotated columns."""
    kind = d.one(*kinds)
    found: dict[str, Any] = {"rope_type": kind, "rope_theta": d.real(20.0, 1e6)}
    if kind in ("linear", "dynamic", "yarn", "llama3"):
        found["factor"] = d.real(1.5, 9.0)
    if kind in ("yarn", "llama3"):
        found["original_max_position_embeddings"] = d.one(longest, d.whole(8, 60))
    if kind == "llama3":
        low = d.real(0.5, 2.0)
        found |= {"low_freq_factor": low, "high_freq_factor": low * d.real(1.5, 6.0)}
    if kind == "yarn":
        extra = {"beta_fast": d.real(3.0, 40.0), "beta_slow": d.real(0.1, 2.0), "truncate": d.often(0.5)}
        scales = {"mscale": d.real(0.5, 2.0), "mscale_all_dim": d.real(0.5, 2.0)}
        found |= {key: value for key, value in extra.items() if d.often(0.6)}
        found |= scales if d.often(0.3) else {"attention_factor": d.real(0.7, 1.6)} if d.often(0.3) else {}
    if kind == "longrope":
        found |= {"short_factor": _factors(d, width // 2), "long_factor": _factors(d, width // 2)}
        found |= {"attention_factor": d.real(0.7, 1.6)} if d.often(0.3) else {}
        found["original_max_position_embeddings"] = d.one(SHORT, length + 4)
    return found


ALL_ROPES = ("default", "default", "linear", "dynamic", "llama3", "yarn", "longrope")


# --- sizes -----------------------------------------------------------------------------------------------------------


def _base(d: Draw) -> dict[str, Any]:
    """What every decoder with RoPE has; ``_length`` is taken out again."""
    heads = d.one(1, 2, 3, 4, 6)
    width = 2 * d.whole(2, 9)
    length = d.whole(10, 40)
    vocabulary = d.whole(41, 130)
    return {
        "_length": length,
        "vocab_size": vocabulary,
        "hidden_size": heads * width,
        "intermediate_size": d.whole(17, 90),
        "num_hidden_layers": d.whole(1, 4),
        "num_attention_heads": heads,
        "num_key_value_heads": d.one(*(n for n in range(1, heads + 1) if heads % n == 0)),
        "rms_norm_eps": d.one(1e-6, 1e-5, d.real(1e-8, 0.3)),
        "max_position_embeddings": d.one(SHORT, SHORT + 3, 64, 2048),
        "tie_word_embeddings": d.often(0.4),
        "pad_token_id": d.one(None, 0, vocabulary - 1, d.whole(1, vocabulary - 2)),
        "bos_token_id": d.whole(0, 30),
        "eos_token_id": d.one(d.whole(0, 30), [3, 5]),
    }


def _with_rope(d: Draw, config: dict[str, Any], kinds: tuple[str, ...] = ALL_ROPES) -> dict[str, Any]:
    """``config`` with RoPE parameters for its whole heads."""
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    parameters = rope(d, kinds, width, config["_length"], config["max_position_embeddings"])
    return config | {"rope_parameters": parameters}


def _window(d: Draw, config: dict[str, Any]) -> int:
    return int(d.one(1, 2, d.whole(3, config["_length"]), 100))


def _layers(d: Draw, config: dict[str, Any]) -> list[str]:
    return [d.one("sliding_attention", "full_attention") for _ in range(config["num_hidden_layers"])]


# --- families: (architectures, the first the commonest; configuration) -----------------------------------------------


def _llama(d: Draw) -> tuple[str, dict[str, Any]]:
    config = _base(d) | {"hidden_act": d.activation(), "attention_bias": d.often(0.4), "mlp_bias": d.often(0.4)}
    if d.often(0.5):
        config["head_dim"] = 2 * d.whole(2, 10)
    return d.one("LlamaForCausalLM", "LlamaForCausalLM", "LlamaModel"), _with_rope(d, config)


def _mistral(d: Draw) -> tuple[str, dict[str, Any]]:
    config = _base(d) | {"hidden_act": d.activation()}
    config["sliding_window"] = d.one(None, _window(d, config), _window(d, config))
    if d.often(0.5):
        config |= {"head_dim": 2 * d.whole(2, 10), "hidden_size": d.whole(20, 70)}
    return d.one("MistralForCausalLM", "MistralForCausalLM", "MistralModel"), _with_rope(d, config)


def _qwen(d: Draw, config: dict[str, Any]) -> dict[str, Any]:
    """The windows of Qwen 2 and 3."""
    if d.often(0.6):
        config |= {"use_sliding_window": True, "sliding_window": _window(d, config)}
        config |= {"layer_types": _layers(d, config)} if d.often(0.5) else {"max_window_layers": d.whole(0, 4)}
    return _with_rope(d, config)


def _qwen2(d: Draw) -> tuple[str, dict[str, Any]]:
    return d.one("Qwen2ForCausalLM", "Qwen2ForCausalLM", "Qwen2Model"), _qwen(
        d, _base(d) | {"hidden_act": d.activation()}
    )


def _qwen3(d: Draw) -> tuple[str, dict[str, Any]]:
    config = _base(d) | {"hidden_act": d.activation(), "attention_bias": d.often(0.4), "head_dim": 2 * d.whole(2, 10)}
    if d.often(0.5):
        config["hidden_size"] = d.whole(20, 70)
    return d.one("Qwen3ForCausalLM", "Qwen3ForCausalLM", "Qwen3Model"), _qwen(d, config)


def _gemma(d: Draw) -> dict[str, Any]:
    """What Gemma 2 and 3 share."""
    config = _base(d)
    config |= {
        "tie_word_embeddings": d.often(0.8),
        "hidden_activation": d.activation(),
        "attention_bias": d.often(0.3),
        "head_dim": 2 * d.whole(2, 10),
        "query_pre_attn_scalar": d.whole(3, 40),
        "sliding_window": _window(d, config),
        "attn_logit_softcapping": d.one(None, d.real(0.8, 50.0)),
        "final_logit_softcapping": d.one(None, d.real(2.0, 30.0)),
    }
    return config


def _gemma2(d: Draw) -> tuple[str, dict[str, Any]]:
    config = _gemma(d)
    if d.often(0.4):
        config["layer_types"] = _layers(d, config)
    return d.one("Gemma2ForCausalLM", "Gemma2ForCausalLM", "Gemma2Model"), _with_rope(d, config)


def _gemma3(d: Draw) -> tuple[str, dict[str, Any]]:
    config = _gemma(d)
    config |= {"layer_types": _layers(d, config)} if d.often(0.4) else {"sliding_window_pattern": d.whole(1, 4)}
    if d.exotic and d.often(0.3):
        config["use_bidirectional_attention"] = True
    kinds = ("default", "linear", "linear", "llama3", "yarn")
    sizes = config["head_dim"], config["_length"], config["max_position_embeddings"]
    local = rope(d, ("default",) if d.often(0.8) else kinds, *sizes)
    config["rope_parameters"] = {"full_attention": rope(d, kinds, *sizes), "sliding_attention": local}
    return d.one("Gemma3ForCausalLM", "Gemma3ForCausalLM", "Gemma3TextModel"), config


def _phi3(d: Draw) -> tuple[str, dict[str, Any]]:
    config = _base(d) | {"hidden_act": d.activation()}
    config["sliding_window"] = d.one(None, _window(d, config))
    part = d.one(1.0, 1.0, 0.5, 0.75)
    width = int(config["hidden_size"] // config["num_attention_heads"] * part)
    if width % 2:
        part, width = 1.0, config["hidden_size"] // config["num_attention_heads"]
    config["rope_parameters"] = rope(d, ("default", "longrope", "longrope"), width, config["_length"], 0)
    config["rope_parameters"]["partial_rotary_factor"] = part
    if "original_max_position_embeddings" in config["rope_parameters"]:
        config["original_max_position_embeddings"] = config["rope_parameters"]["original_max_position_embeddings"]
        config["max_position_embeddings"] = d.one(64, 2048)
    return d.one("Phi3ForCausalLM", "Phi3ForCausalLM", "Phi3Model"), config


def _olmo2(d: Draw) -> tuple[str, dict[str, Any]]:
    config = _base(d) | {"hidden_act": d.activation(), "attention_bias": d.often(0.4)}
    return d.one("Olmo2ForCausalLM", "Olmo2ForCausalLM", "Olmo2Model"), _with_rope(d, config)


def _gpt2(d: Draw) -> tuple[str, dict[str, Any]]:
    heads, length = d.whole(1, 5), d.whole(10, 40)
    config = {
        "_length": length,
        "vocab_size": d.whole(41, 130),
        "n_positions": 2 * length + d.whole(0, 30),
        "n_embd": heads * d.whole(3, 14),
        "n_layer": d.whole(1, 4),
        "n_head": heads,
        "n_inner": d.one(None, d.whole(17, 90)),
        "activation_function": d.activation(),
        "layer_norm_epsilon": d.one(1e-5, d.real(1e-7, 0.3)),
        "scale_attn_weights": d.often(0.7),
        "scale_attn_by_inverse_layer_idx": d.often(0.4),
        "reorder_and_upcast_attn": d.often(0.4),
        "tie_word_embeddings": d.often(0.6),
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    return d.one("GPT2LMHeadModel", "GPT2LMHeadModel", "GPT2Model"), config


def _gpt_neox(d: Draw) -> tuple[str, dict[str, Any]]:
    config = _base(d)
    width = config["hidden_size"] // config["num_attention_heads"]
    rotated = 2 * d.whole(2, width // 2)
    part = next(f for f in (rotated / width, (rotated + 0.5) / width) if int(width * f) == rotated)
    del config["num_key_value_heads"], config["rms_norm_eps"]
    config |= {
        "layer_norm_eps": d.one(1e-5, d.real(1e-7, 0.3)),
        "hidden_act": d.activation(),
        "attention_bias": d.often(0.6),
        "use_parallel_residual": d.often(0.5),
    }
    kinds = ("default", "default", "linear", "dynamic", "llama3", "yarn", "longrope")
    parameters = rope(d, kinds, rotated, config["_length"], config["max_position_embeddings"])
    config["rope_parameters"] = parameters | {"partial_rotary_factor": part}
    return d.one("GPTNeoXForCausalLM", "GPTNeoXForCausalLM", "GPTNeoXModel"), config


def _opt(d: Draw) -> tuple[str, dict[str, Any]]:
    heads, length = d.whole(1, 5), d.whole(10, 40)
    hidden = heads * d.whole(3, 14)
    vocabulary = d.whole(41, 130)
    config = {
        "_length": length,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": d.whole(1, 4),
        "ffn_dim": d.whole(17, 90),
        "max_position_embeddings": 2 * length + d.whole(0, 30),
        "num_attention_heads": heads,
        "activation_function": d.activation(),
        "do_layer_norm_before": d.often(0.5),
        "word_embed_proj_dim": d.one(hidden, d.whole(7, 40)),
        "enable_bias": d.often(0.7),
        "layer_norm_elementwise_affine": d.often(0.8),
        "_remove_final_layer_norm": d.often(0.2),
        "tie_word_embeddings": d.often(0.7),
        "pad_token_id": d.one(1, 0, d.whole(0, vocabulary - 1)),
    }
    return d.one("OPTForCausalLM", "OPTForCausalLM", "OPTModel"), config


def _bert_like(d: Draw) -> dict[str, Any]:
    """What BERT and RoBERTa share."""
    heads, length = d.whole(1, 5), d.whole(10, 40)
    vocabulary = d.whole(41, 130)
    pad = d.one(0, 1, d.whole(2, 12))
    return {
        "_length": length,
        "vocab_size": vocabulary,
        "hidden_size": heads * d.whole(3, 14),
        "num_hidden_layers": d.whole(1, 4),
        "num_attention_heads": heads,
        "intermediate_size": d.whole(17, 90),
        "hidden_act": d.activation(),
        "max_position_embeddings": 2 * max(length, SHORT) + pad + d.whole(1, 20),
        "type_vocab_size": d.whole(1, 3),
        "layer_norm_eps": d.one(1e-12, 1e-5, d.real(1e-7, 0.3)),
        "pad_token_id": pad,
        "tie_word_embeddings": d.often(0.7),
        "num_labels": d.whole(1, 7),
    }


def _bert(d: Draw) -> tuple[str, dict[str, Any]]:
    config = _bert_like(d)
    more = ("BertForTokenClassification",) if d.exotic else ()
    return d.one("BertModel", "BertForMaskedLM", "BertForSequenceClassification", *more), config


def _roberta(d: Draw) -> tuple[str, dict[str, Any]]:
    config = _bert_like(d)
    more = ("RobertaForSequenceClassification", "RobertaForTokenClassification") if d.exotic else ()
    return d.one("RobertaModel", "RobertaForMaskedLM", *more), config


def _distilbert(d: Draw) -> tuple[str, dict[str, Any]]:
    config = _bert_like(d)
    names = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
    names |= {"intermediate_size": "hidden_dim", "hidden_act": "activation"}
    renamed = {names.get(key, key): value for key, value in config.items()}
    del renamed["type_vocab_size"], renamed["layer_norm_eps"]
    renamed["activation"] = d.one("gelu", "relu")
    more = ("DistilBertForSequenceClassification",) if d.exotic else ()
    return d.one("DistilBertModel", "DistilBertForMaskedLM", *more), renamed


FAMILIES: dict[str, Callable[[Draw], tuple[str, dict[str, Any]]]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "olmo2": _olmo2,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "bert": _bert,
    "roberta": _roberta,
    "distilbert": _distilbert,
}
HUB_FORMS = ("LlamaForCausalLM", "GPT2LMHeadModel", "BertModel", "BertForMaskedLM", "OPTForCausalLM")


# --- one case --------------------------------------------------------------------------------------------------------


def _form(d: Draw, architecture: str, config: dict[str, Any]) -> str:
    """How config.json and the tensors are named."""
    if architecture in HUB_FORMS and d.often(0.2):
        return "hub" if architecture != "OPTForCausalLM" or config["tie_word_embeddings"] else "v5"
    if "sliding_attention" in (parameters := config.get("rope_parameters", {})):
        plain = parameters["sliding_attention"]["rope_type"] == "default"
        return "v4" if plain and "layer_types" not in config and d.often(0.4) else "v5"
    return "v4" if d.often(0.4) else "v5"


def _may_skip_positions(config: dict[str, Any]) -> bool:
    """Position numbers with gaps have one meaning only where no window and no limit on the length counts positions."""
    parameters = config.get("rope_parameters") or {}
    scaled = "longrope" in str(parameters) or "dynamic" in str(parameters)
    return config.get("sliding_window") is None and not scaled


def sample(family: str, seed: int, attempt: int = 0, exotic: bool = False) -> Case:
    """The case of that family and seed."""
    d = Draw([seed, attempt, zlib.crc32(family.encode())], exotic)
    architecture, config = FAMILIES[family](d)
    length = config.pop("_length")
    form = _form(d, architecture, config | {"_length": length})
    return Case(
        f"{family}-{seed}",
        architecture,
        frozen(**config),
        dtype=d.one("float32", "float32", "bfloat16", "float16"),
        max_shard_size=d.one("50GB", "50GB", "50GB", "30KB") if form != "hub" else "50GB",
        form=form,
        batch=d.whole(1, 4),
        length=length,
        padded=(d.whole(1, SHORT - 2), d.whole(1, SHORT - 2)),  # the batch is 2 wider
        prompt=d.whole(1, 4),
        positions=_may_skip_positions(config) and d.often(0.5),
        seed=seed * 100 + attempt,
    )


def make_fresh(family: str, seed: int, out: Path, exotic: bool = False) -> tuple[Case, dict[str, float]]:
    """Write the checkpoint of that family and seed below ``out``; a model too flat or too wild is drawn again."""
    for attempt in range(20):
        case = sample(family, seed, attempt, exotic)
        folder = out / case.name
        shutil.rmtree(folder, ignore_errors=True)
        try:
            figures = make(case, folder)
        except ValueError as error:
            if "standard deviation" not in str(error):
                raise
            continue
        record = dataclasses.asdict(dataclasses.replace(case, config={})) | {"config": dict(case.config)}
        (folder / "case.json").write_text(json.dumps(record | figures, indent=1) + "\n")
        return case, figures
    raise ValueError(f"{family}-{seed}: twenty draws gave no usable model; widen the limits in checkpoint.truth")


def main() -> None:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=[*FAMILIES, "all"], required=True)
    parser.add_argument("--seed", type=int, required=True, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds from there on (default 1)")
    parser.add_argument("--exotic", action="store_true", help="also options that few published models use")
    parser.add_argument("out", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    families = list(FAMILIES) if arguments.family == "all" else [arguments.family]
    for family in families:
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            case, figures = make_fresh(family, seed, arguments.out, arguments.exotic)
            sys.stdout.write(f"{case.name}: {case.architecture}, {case.dtype}, form {case.form}, {figures}\n")


if __name__ == "__main__":
    main()
