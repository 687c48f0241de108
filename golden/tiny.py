"""The tiny checkpoints of the goldens: every family, and the variations that change its mathematics."""

from __future__ import annotations

from typing import Any

from lepton_ref.golden.checkpoint import Case, frozen

_SHARED = {
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "vocab_size": 61,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA = {
    **_SHARED,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
}
_ROPE = {
    "default": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.5},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.5},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 100.0,
        "factor": 6.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 3.0,
        "original_max_position_embeddings": 40,
    },
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 100.0,
        "factor": 4.0,
        "original_max_position_embeddings": 24,
        "beta_fast": 4.0,
        "beta_slow": 0.5,
    },
}


def _llama(name: str, architecture: str = "LlamaForCausalLM", **fields: Any) -> Case:
    """A Llama of the base configuration with ``config`` laid over it."""
    config = {**_LLAMA, "rope_parameters": _ROPE["default"], **fields.pop("config", {})}
    return Case(name, architecture, frozen(**config), **fields)


_LLAMAS = (
    _llama("llama", note="grouped queries"),
    _llama("llama_sharded", dtype="bfloat16", max_shard_size="20KB", note="several files with an index"),
    _llama("llama_tied", dtype="bfloat16", config={"tie_word_embeddings": True, "num_key_value_heads": 4}),
    _llama(
        "llama_biased",
        dtype="float16",
        config={"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
        note="one key head; biases everywhere",
    ),
    _llama("llama_head_width", config={"head_dim": 10, "hidden_act": "gelu"}, note="heads wider than hidden / heads"),
    _llama("llama_rope_linear", dtype="bfloat16", config={"head_dim": 12, "rope_parameters": _ROPE["linear"]}),
    _llama(
        "llama_rope_dynamic",
        dtype="bfloat16",
        length=23,
        prompt=4,
        config={"head_dim": 12, "max_position_embeddings": 16, "rope_parameters": _ROPE["dynamic"]},
        note="input_ids are longer than max_position_embeddings, so the base grows; the rest is shorter",
    ),
    _llama("llama_rope_llama3", dtype="bfloat16", config={"head_dim": 12, "rope_parameters": _ROPE["llama3"]}),
    _llama("llama_rope_yarn", dtype="bfloat16", config={"head_dim": 12, "rope_parameters": _ROPE["yarn"]}),
    _llama(
        "llama_v4_linear",
        dtype="float16",
        form="hub",
        config={"head_dim": 12, "rope_parameters": _ROPE["linear"]},
        note="rope_theta and rope_scaling with `type`; the files carry rotary_emb.inv_freq",
    ),
    _llama(
        "llama_v4_llama3",
        dtype="bfloat16",
        form="v4",
        config={"head_dim": 12, "rope_parameters": _ROPE["llama3"]},
        note="rope_theta and rope_scaling with `rope_type`",
    ),
    _llama("llama_bare", "LlamaModel", dtype="bfloat16", note="no head, no `model.` prefix; gives hidden states"),
)


def _decoder(name: str, architecture: str, config: dict[str, Any], **fields: Any) -> Case:
    """A decoder laid over Llama's sizes."""
    return Case(name, architecture, frozen(**{**_LLAMA, "rope_parameters": _ROPE["default"], **config}), **fields)


_GEMMA = {
    "head_dim": 8,
    "hidden_size": 20,
    "query_pre_attn_scalar": 11,
    "sliding_window": 5,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
}
_GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 900.0, "factor": 8.0},
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.25, 1.5, 1.75],
    "long_factor": [1.5, 2.5, 4.0, 7.0],
}
_PHI = {"pad_token_id": 0, "hidden_size": 32}

_DECODERS = (
    _decoder("mistral", "MistralForCausalLM", {"sliding_window": 7}, note="the window is shorter than the text"),
    _decoder(
        "mistral_full", "MistralForCausalLM", {"sliding_window": None, "head_dim": 8}, dtype="bfloat16", form="v4"
    ),
    _decoder("qwen2", "Qwen2ForCausalLM", {"tie_word_embeddings": True}, note="q, k and v have biases"),
    _decoder(
        "qwen2_sliding",
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
        dtype="bfloat16",
        form="v4",
    ),
    _decoder("qwen3", "Qwen3ForCausalLM", {"head_dim": 8}, note="per-head q and k norms"),
    _decoder(
        "qwen3_biased",
        "Qwen3ForCausalLM",
        {
            "head_dim": 10,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        dtype="bfloat16",
    ),
    _decoder(
        "gemma2",
        "Gemma2ForCausalLM",
        {**_GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0, "num_hidden_layers": 3},
        note="soft caps low enough to matter; alternating windows",
    ),
    _decoder(
        "gemma2_uncapped",
        "Gemma2ForCausalLM",
        {**_GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True},
        dtype="bfloat16",
        form="v4",
    ),
    _decoder(
        "gemma3",
        "Gemma3ForCausalLM",
        {**_GEMMA, "num_hidden_layers": 3, "sliding_window_pattern": 3, "rope_parameters": _GEMMA3_ROPE},
        note="two RoPE bases; linear scaling on the full layers",
    ),
    _decoder(
        "gemma3_v4",
        "Gemma3ForCausalLM",
        {**_GEMMA, "num_hidden_layers": 4, "sliding_window_pattern": 2, "rope_parameters": _GEMMA3_ROPE},
        dtype="bfloat16",
        form="v4",
        note="rope_theta, rope_local_base_freq, sliding_window_pattern, no layer_types",
    ),
    _decoder("phi3", "Phi3ForCausalLM", {**_PHI, "sliding_window": 9}, note="fused qkv and gate-up; a window"),
    _decoder(
        "phi3_longrope",
        "Phi3ForCausalLM",
        {**_PHI, "original_max_position_embeddings": 16, "rope_parameters": _LONGROPE},
        dtype="bfloat16",
        length=21,
        prompt=4,
        note="input_ids are longer than the original length (long factors), the rest is shorter (short factors)",
    ),
    _decoder(
        "phi3_partial",
        "Phi3ForCausalLM",
        {**_PHI, "rope_parameters": {**_ROPE["default"], "partial_rotary_factor": 0.5}, "tie_word_embeddings": True},
        dtype="float16",
        form="v4",
    ),
    _decoder("olmo2", "Olmo2ForCausalLM", {"pad_token_id": 0}, note="norms after the sub-layers; q and k norms whole"),
    _decoder("olmo2_biased", "Olmo2ForCausalLM", {"pad_token_id": 0, "attention_bias": True}, dtype="bfloat16"),
)

_GPT2 = {"vocab_size": 59, "n_positions": 32, "n_embd": 20, "n_layer": 2, "n_head": 2}
_GPT2_IDS = {"bos_token_id": 0, "eos_token_id": 0}
_NEOX = {**_SHARED, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
_NEOX_ROPE = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.25}
_OPT = {**_SHARED, "hidden_size": 24, "ffn_dim": 40, "num_attention_heads": 3, "pad_token_id": 1, "bos_token_id": 2}

_OLDER = (
    Case("gpt2", "GPT2LMHeadModel", frozen(**_GPT2, **_GPT2_IDS), note="learned positions; weights stored (in, out)"),
    Case(
        "gpt2_inverse_layer",
        "GPT2LMHeadModel",
        frozen(
            **_GPT2,
            **_GPT2_IDS,
            n_inner=36,
            scale_attn_by_inverse_layer_idx=True,
            reorder_and_upcast_attn=True,
            activation_function="gelu",
            layer_norm_epsilon=1e-3,
            tie_word_embeddings=False,
        ),
        dtype="bfloat16",
    ),
    Case(
        "gpt2_hub",
        "GPT2LMHeadModel",
        frozen(**{**_GPT2, "n_positions": 24}, **_GPT2_IDS),
        dtype="float16",
        form="hub",
        note="no `transformer.` prefix; every layer carries its causal mask as attn.bias",
    ),
    Case(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        frozen(**_NEOX, rope_parameters=_NEOX_ROPE),
        note="parallel residual; a quarter of each head rotates; q, k, v interleaved by head",
    ),
    Case(
        "gpt_neox_sequential",
        "GPTNeoXForCausalLM",
        frozen(
            **_NEOX,
            rope_parameters={**_NEOX_ROPE, "partial_rotary_factor": 0.5},
            use_parallel_residual=False,
            attention_bias=False,
            hidden_act="gelu_new",
        ),
        dtype="bfloat16",
        form="v4",
        note="rotary_pct and rotary_emb_base",
    ),
    Case("opt", "OPTForCausalLM", frozen(**_OPT), note="learned positions from 2 on"),
    Case(
        "opt_post_norm",
        "OPTForCausalLM",
        frozen(**_OPT, do_layer_norm_before=False, word_embed_proj_dim=14, activation_function="gelu"),
        dtype="float16",
        form="hub",
        note="as opt-350m: norm after, embeddings projected, no final norm; old names, the tied head stored again",
    ),
)

_BERT = {
    **_SHARED,
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 36,
    "max_position_embeddings": 28,
    "type_vocab_size": 2,
}
_ROBERTA = {**_BERT, "pad_token_id": 1, "bos_token_id": 0, "type_vocab_size": 1}
_DISTIL = {"vocab_size": 61, "dim": 24, "n_heads": 2, "n_layers": 2, "hidden_dim": 36, "max_position_embeddings": 28}

_ENCODERS = (
    Case("bert", "BertModel", frozen(**_BERT), form="hub", note="the file carries embeddings.position_ids"),
    Case(
        "bert_masked_lm",
        "BertForMaskedLM",
        frozen(**_BERT),
        dtype="float16",
        form="hub",
        note="norms stored as gamma and beta, as google-bert does",
    ),
    Case(
        "bert_classifier",
        "BertForSequenceClassification",
        frozen(**_BERT, hidden_act="gelu_new", num_labels=5, layer_norm_eps=1e-5),
        dtype="bfloat16",
        form="v4",
    ),
    Case("roberta", "RobertaModel", frozen(**_ROBERTA), dtype="bfloat16", note="positions start after the padding id"),
    Case("roberta_masked_lm", "RobertaForMaskedLM", frozen(**_ROBERTA, layer_norm_eps=1e-5)),
    Case("distilbert", "DistilBertModel", frozen(**_DISTIL)),
    Case("distilbert_masked_lm", "DistilBertForMaskedLM", frozen(**_DISTIL, activation="relu"), dtype="bfloat16"),
)

CASES: tuple[Case, ...] = (*_LLAMAS, *_DECODERS, *_OLDER, *_ENCODERS)
