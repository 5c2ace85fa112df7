"""The cases of the decoder families (see ``family_cases.py``)."""

from __future__ import annotations

from tests.models.family_cases import Case, labels

GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 101,
    "n_positions": 64,
    "n_ctx": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "summary_activation": None,
    "summary_proj_to_labels": True,
    "summary_first_dropout": 0.1,
    "bos_token_id": 100,
    "eos_token_id": 100,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "pretraining_tp": 1,
    "tie_word_embeddings": False,
    "use_cache": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA_GQA_TIED = {**LLAMA, "num_key_value_heads": 2, "tie_word_embeddings": True}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 48,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
_OF_LLAMA = ("attention_bias", "mlp_bias", "pretraining_tp", "rope_scaling")
_RMS = {
    **{name: value for name, value in LLAMA.items() if name not in _OF_LLAMA},
    "num_key_value_heads": 2,
}
MISTRAL = {**_RMS, "model_type": "mistral", "sliding_window": 4, "tie_word_embeddings": False}
QWEN2 = {
    **_RMS,
    "model_type": "qwen2",
    "rope_theta": 1000000.0,
    "sliding_window": 4,
    "use_sliding_window": False,
    "max_window_layers": 2,
    "tie_word_embeddings": True,
}
QWEN3 = {**QWEN2, "model_type": "qwen3", "head_dim": 16, "attention_bias": False, "rope_scaling": None}
SMOLLM3 = {
    **_RMS,
    "model_type": "smollm3",
    "num_hidden_layers": 4,
    "no_rope_layers": [1, 1, 0, 1],
    "no_rope_layer_interval": 4,
    "rope_theta": 5000000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
    "max_window_layers": 28,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
GEMMA2 = {
    **{name: value for name, value in _RMS.items() if name != "hidden_act"},
    "model_type": "gemma2",
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "query_pre_attn_scalar": 24,
    "sliding_window": 4,
    "cache_implementation": "hybrid",
    # Low enough for the cap to bend what these small models give.
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
GEMMA3 = {
    **{name: value for name, value in GEMMA2.items() if name != "hidden_act"},
    "model_type": "gemma3_text",
    "num_hidden_layers": 3,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "rope_scaling": None,
    "sliding_window_pattern": 2,
}
_MASKS = {f"h.{i}.attn.bias": (1, 1, 64, 64) for i in range(2)}


DECODERS = (
    Case(
        "gpt2",
        GPT2,
        "causal_lm",
        packs=True,
        matters={
            "scale_attn_by_inverse_layer_idx": True,
            "activation_function": "relu",
            "layer_norm_epsilon": 0.01,
        },
    ),
    # As the Hub has it: no "transformer." before the names, and the causal mask as a tensor.
    Case("gpt2_hub_names", GPT2, "causal_lm", renames=((r"^transformer\.", ""),), unused=_MASKS),
    Case(
        "gpt2_widths",
        {**GPT2, "n_inner": 40, "activation_function": "relu"},
        "causal_lm",
    ),
    Case("gpt2_classification", {**GPT2, "n_layer": 1, "pad_token_id": 0, **labels(3)}, "classification"),
    Case("gpt2_base", {**GPT2, "n_layer": 1}, None),
    Case("llama", LLAMA, "causal_lm", matters={"rope_theta": 100.0, "rms_norm_eps": 0.01}),
    Case("llama_gqa_tied", LLAMA_GQA_TIED, "causal_lm", packs=True),
    Case(
        "llama_llama3",
        {**LLAMA_GQA_TIED, "rope_scaling": _LLAMA3},
        "causal_lm",
        matters={"rope_scaling": None},
    ),
    Case(
        "llama_linear",
        {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.5}},
        "causal_lm",
        matters={"rope_scaling": None},
    ),
    Case(
        "llama_yarn", {**LLAMA_GQA_TIED, "rope_scaling": _YARN}, "causal_lm", matters={"rope_scaling": None}
    ),
    Case(
        "llama_yarn_attention_factor",
        {**LLAMA, "rope_scaling": {**_YARN, "attention_factor": 0.7, "beta_fast": 2.0, "beta_slow": 0.5}},
        "causal_lm",
        matters={"rope_scaling": _YARN},
    ),
    Case(
        "llama_biases_head_dim",
        {**LLAMA_GQA_TIED, "attention_bias": True, "mlp_bias": True, "head_dim": 16, "hidden_act": "gelu"},
        "causal_lm",
        matters={"hidden_act": "silu"},
    ),
    # As transformers 5 writes it.
    Case(
        "llama_rope_parameters",
        {name: value for name, value in LLAMA_GQA_TIED.items() if not name.startswith("rope_")}
        | {"rope_parameters": {**_LLAMA3, "rope_theta": 5000.0}, "dtype": "float32"},
        "causal_lm",
        matters={"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}},
    ),
    Case(
        "llama_classification",
        {**LLAMA, "num_hidden_layers": 1, "pad_token_id": 0, **labels(3)},
        "classification",
        packs=True,
    ),
    Case("llama_base", {**LLAMA, "num_hidden_layers": 1}, None),
    Case("mistral_window", MISTRAL, "causal_lm", packs=True, matters={"sliding_window": 5}),
    Case("mistral_no_window", {**MISTRAL, "sliding_window": None, "head_dim": 16}, "causal_lm"),
    Case("qwen2", {**QWEN2, "tie_word_embeddings": False}, "causal_lm"),
    Case(
        "qwen2_window",
        {**QWEN2, "use_sliding_window": True, "max_window_layers": 1},
        "causal_lm",
        packs=True,
        matters={"use_sliding_window": False, "max_window_layers": 0},
    ),
    Case("qwen3", QWEN3, "causal_lm", packs=True),
    Case(
        "qwen3_biases_window",
        {**QWEN3, "attention_bias": True, "use_sliding_window": True, "max_window_layers": 0}
        | {"tie_word_embeddings": False},
        "causal_lm",
        matters={"use_sliding_window": False, "max_window_layers": 1},
    ),
    Case("smollm3", SMOLLM3, "causal_lm", matters={"no_rope_layers": [1, 1, 1, 1]}),
    Case(
        "gemma2",
        GEMMA2,
        "causal_lm",
        norm_center=0.0,
        packs=True,
        matters={"attn_logit_softcapping": None, "final_logit_softcapping": None, "query_pre_attn_scalar": 16}
        | {"sliding_window": 64},
    ),
    Case(
        "gemma2_no_caps",
        {**GEMMA2, "attn_logit_softcapping": None, "final_logit_softcapping": None},
        "causal_lm",
        norm_center=0.0,
    ),
    Case(
        "gemma3",
        GEMMA3,
        "causal_lm",
        norm_center=0.0,
        packs=True,
        matters={
            "query_pre_attn_scalar": 16,
            "sliding_window": 64,
            "sliding_window_pattern": 3,
            "rope_theta": 100.0,
        }
        | {"rope_local_base_freq": 100.0},
    ),
    Case(
        "gemma3_linear",
        {**GEMMA3, "rope_scaling": {"factor": 4.0, "rope_type": "linear"}},
        "causal_lm",
        norm_center=0.0,
        matters={"rope_scaling": None},
    ),
    # As transformers 5 writes it.
    Case(
        "gemma3_rope_parameters",
        {
            name: value
            for name, value in GEMMA3.items()
            if not name.startswith("rope_") and name != "sliding_window_pattern"
        }
        | {
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
                "full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100000.0},
            },
        },
        "causal_lm",
        norm_center=0.0,
    ),
)
