"""The cases of the encoder families (see ``family_cases.py``)."""

from __future__ import annotations

from typing import Any

from tests.models.family_cases import Case, labels

_SHAPE = {
    "vocab_size": 101,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 40,
    "initializer_range": 0.02,
}
_ONE_LAYER = {"num_hidden_layers": 1}
BERT = {"model_type": "bert", **_SHAPE, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0}
ROBERTA = {
    **BERT,
    "model_type": "roberta",
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
DISTILBERT = {
    "model_type": "distilbert",
    "vocab_size": 101,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "activation": "gelu",
    "max_position_embeddings": 40,
    "sinusoidal_pos_embds": False,
    "tie_weights_": True,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}
ELECTRA = {
    **BERT,
    "model_type": "electra",
    "embedding_size": 16,
    "summary_type": "first",
    "summary_use_proj": True,
    "summary_activation": "gelu",
    "summary_last_dropout": 0.1,
}
DEBERTA_V3 = {
    "model_type": "deberta-v2",
    **_SHAPE,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "pad_token_id": 0,
    "relative_attention": True,
    "position_buckets": 4,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "max_relative_positions": -1,
    "position_biased_input": False,
    "pooler_dropout": 0,
    "pooler_hidden_act": "gelu",
    "pooler_hidden_size": 32,
}
DEBERTA_V2 = {**DEBERTA_V3, "attention_head_size": 8, "conv_kernel_size": 3, "conv_act": "gelu"}
MODERNBERT = {
    "model_type": "modernbert",
    "vocab_size": 101,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "hidden_activation": "gelu",
    "max_position_embeddings": 64,
    "initializer_range": 0.02,
    "initializer_cutoff_factor": 2.0,
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "decoder_bias": True,
    "classifier_bias": False,
    "classifier_activation": "gelu",
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "deterministic_flash_attn": False,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "local_attention": 6,
    "layer_norm_eps": 1e-5,
    "position_embedding_type": "absolute",
    "sparse_prediction": False,
    "sparse_pred_ignore_index": -100,
    "reference_compile": False,
    "tie_word_embeddings": True,
    "bos_token_id": 98,
    "cls_token_id": 98,
    "eos_token_id": 99,
    "sep_token_id": 99,
    "pad_token_id": 100,
}

_OLD_NORMS = ((r"LayerNorm\.weight$", "LayerNorm.gamma"), (r"LayerNorm\.bias$", "LayerNorm.beta"))
_NEXT_SENTENCE = {"cls.seq_relationship.weight": (2, 32), "cls.seq_relationship.bias": (2,)}


def _heads(name: str, config: dict[str, Any], small: dict[str, Any]) -> tuple[Case, ...]:
    """A family's per-example and per-token heads; ``small`` is what makes it one layer deep."""
    return (
        Case(f"{name}_classification", {**config, **labels(3)}, "classification", packs=True),
        Case(f"{name}_regression", {**config, **small, **labels(1)}, "regression"),
        Case(f"{name}_token_classification", {**config, **small, **labels(4)}, "token_classification"),
        Case(f"{name}_span", {**config, **small}, "span"),
    )


def _choices(name: str, config: dict[str, Any]) -> Case:
    """The head for multiple choice."""
    return Case(f"{name}_multiple_choice", config, "multiple_choice")


ENCODERS = (
    Case("bert_base", {**BERT, **_ONE_LAYER}, None),
    Case("bert_mlm", BERT, "mlm", matters={"layer_norm_eps": 0.01, "hidden_act": "relu"}),
    Case("bert_mlm_old_names", BERT, "mlm", renames=_OLD_NORMS, unused=_NEXT_SENTENCE),
    *_heads("bert", BERT, _ONE_LAYER),
    _choices("bert", {**BERT, **_ONE_LAYER}),
    Case("roberta_mlm", {**ROBERTA, "model_type": "roberta"}, "mlm"),
    *_heads("roberta", ROBERTA, _ONE_LAYER),
    _choices("roberta", ROBERTA),
    Case("xlm_roberta_mlm", {**ROBERTA, "model_type": "xlm-roberta"}, "mlm"),
    *_heads("xlm_roberta", {**ROBERTA, "model_type": "xlm-roberta"}, _ONE_LAYER),
    _choices("xlm_roberta", {**ROBERTA, "model_type": "xlm-roberta"}),
    Case("distilbert_mlm", DISTILBERT, "mlm", matters={"activation": "relu"}),
    *_heads("distilbert", DISTILBERT, {"n_layers": 1}),
    _choices("distilbert", {**DISTILBERT, "n_layers": 1}),
    Case("electra_mlm", ELECTRA, "mlm", matters={"hidden_act": "relu"}),
    Case("electra_mlm_same_width", {**ELECTRA, **_ONE_LAYER, "embedding_size": 32}, "mlm"),
    *_heads("electra", ELECTRA, _ONE_LAYER),
    _choices("electra", {**ELECTRA, **_ONE_LAYER}),
    # DeBERTa-v3: log buckets, no absolute positions. v2-xlarge has a convolution beside its first layer.
    Case("deberta_v3_mlm", DEBERTA_V3, "mlm", matters={"max_relative_positions": 6, "norm_rel_ebd": "none"}),
    *_heads("deberta_v3", DEBERTA_V3, _ONE_LAYER),
    _choices("deberta_v3", {**DEBERTA_V3, **_ONE_LAYER}),
    Case("deberta_v2_conv", DEBERTA_V2, "mlm", matters={"conv_act": "tanh"}),
    Case("deberta_v2_conv_classification", {**DEBERTA_V2, **labels(3)}, "classification", packs=True),
    Case(
        "deberta_v2_own_position_keys",
        {**DEBERTA_V3, "share_att_key": False, "position_biased_input": True, "type_vocab_size": 2},
        "mlm",
        matters={"position_biased_input": False},
    ),
    Case(
        "deberta_v2_c2p",
        {**DEBERTA_V3, "pos_att_type": ["c2p"], "position_buckets": -1},
        "mlm",
    ),
    Case(
        "deberta_v2_p2c",
        {
            **DEBERTA_V3,
            "pos_att_type": "p2c",
            "share_att_key": False,
            "norm_rel_ebd": "none",
            "max_relative_positions": 6,
            "position_buckets": -1,
        },
        "mlm",
    ),
    Case(
        "deberta_v2_absolute",
        {**DEBERTA_V3, "relative_attention": False, "position_biased_input": True, "pos_att_type": None}
        | {"norm_rel_ebd": "none"},
        "mlm",
        # Torch makes the norm of the distances' embeddings even where there are none.
        unused={"deberta.encoder.LayerNorm.weight": (32,), "deberta.encoder.LayerNorm.bias": (32,)},
    ),
    Case(
        "modernbert_mlm",
        MODERNBERT,
        "mlm",
        matters={
            "local_attention": 16,
            "local_rope_theta": 100.0,
            "global_rope_theta": 100.0,
            "global_attn_every_n_layers": 2,
        },
    ),
    *_heads("modernbert", {**MODERNBERT, "num_hidden_layers": 2}, _ONE_LAYER),
    Case(
        "modernbert_biases",
        {**MODERNBERT, "attention_bias": True, "mlp_bias": True, "norm_bias": True, "decoder_bias": False}
        | {"global_attn_every_n_layers": 2},
        "mlm",
    ),
    Case(
        "modernbert_cls_pooling",
        {**MODERNBERT, **_ONE_LAYER, "classifier_pooling": "cls", "classifier_bias": True, **labels(3)},
        "classification",
        matters={"classifier_pooling": "mean", "classifier_activation": "relu"},
    ),
)
