"""The cases of the encoder-decoder families (see ``family_cases.py``)."""

from __future__ import annotations

from tests.models.family_cases import Case

T5 = {
    "model_type": "t5",
    "vocab_size": 101,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    # Few and near, so that 13 positions reach the logarithmic buckets and the last one.
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "use_cache": True,
    "n_positions": 512,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
FLAN = {
    **T5,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "num_decoder_layers": 1,
    # Heads that do not add up to the width, as in t5-small v1.1.
    "num_heads": 3,
}
MT5 = {**FLAN, "model_type": "mt5", "num_heads": 4, "num_decoder_layers": 2}
BART = {
    "model_type": "bart",
    "vocab_size": 101,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "max_position_embeddings": 64,
    "activation_function": "gelu",
    "activation_dropout": 0.1,
    "attention_dropout": 0.1,
    "dropout": 0.1,
    "classifier_dropout": 0.0,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "use_cache": True,
    "scale_embedding": False,
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "normalize_before": False,
    "normalize_embedding": True,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
MBART = {
    **BART,
    "model_type": "mbart",
    "scale_embedding": True,
    "add_final_layer_norm": True,
    "normalize_before": True,
    "activation_function": "relu",
}
MARIAN = {
    **{name: value for name, value in BART.items() if name != "classifier_dropout"},
    "model_type": "marian",
    "decoder_vocab_size": 101,
    "activation_function": "swish",
    "scale_embedding": True,
    "add_final_layer_norm": False,
    "normalize_embedding": False,
    "static_position_embeddings": True,
    "share_encoder_decoder_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "forced_eos_token_id": 0,
    "decoder_start_token_id": 100,
    "pad_token_id": 100,
}
PEGASUS = {
    **MBART,
    "model_type": "pegasus",
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": 1,
    "static_position_embeddings": True,
    "normalize_embedding": False,
}

_TABLES = {f"model.{side}.embed_tokens.weight": "model.shared.weight" for side in ("encoder", "decoder")} | {
    "lm_head.weight": "model.shared.weight"
}
_T5_TABLES = {f"{side}.embed_tokens.weight": "shared.weight" for side in ("encoder", "decoder")}
_SINUSOIDS = {f"model.{side}.embed_positions.weight": (64, 32) for side in ("encoder", "decoder")}

SEQ2SEQ = (
    Case(
        "t5",
        {**T5, "feed_forward_proj": "relu"},
        "seq2seq_lm",
        packs=True,
        matters={"relative_attention_max_distance": 16, "tie_word_embeddings": False},
    ),
    # T5's first checkpoints say nothing of tying and carry the table three times.
    Case("t5_copies", {**T5, "num_layers": 1}, "seq2seq_lm", copies=_T5_TABLES),
    Case(
        "t5_flan",
        FLAN,
        "seq2seq_lm",
        untied=True,
        packs=True,
        matters={"feed_forward_proj": "gated-silu", "tie_word_embeddings": True},
    ),
    Case("t5_byt5", {**FLAN, "num_layers": 3, "num_decoder_layers": 1}, "seq2seq_lm", untied=True),
    Case("mt5", MT5, "seq2seq_lm", untied=True, packs=True),
    Case(
        "bart",
        BART,
        "seq2seq_lm",
        packs=True,
        matters={"scale_embedding": True, "activation_function": "relu"},
    ),
    Case(
        "bart_copies",
        {**BART, "encoder_layers": 1, "scale_embedding": True, "activation_function": "gelu_new"},
        "seq2seq_lm",
        copies=_TABLES,
    ),
    Case("mbart", MBART, "seq2seq_lm", packs=True, matters={"scale_embedding": False}),
    Case("pegasus", PEGASUS, "seq2seq_lm", unused=_SINUSOIDS, matters={"scale_embedding": False}),
    Case(
        "marian",
        MARIAN,
        "seq2seq_lm",
        packs=True,
        matters={"scale_embedding": False, "activation_function": "gelu"},
    ),
)
