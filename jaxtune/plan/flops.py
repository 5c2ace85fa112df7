"""FLOPs of a train step by formula, counted from the shapes of parameters and batch.

A matrix product of m × k with k × n is 2·m·k·n. Forward, each kernel meets every token of its text; each
attention multiplies queries with keys, and weights with values, over all pairs of a row's tokens (4 per query
feature and pair); the head meets the tokens whose logits are computed. The backward pass is twice the forward
(Chowdhery et al. 2022, PaLM, appendix B). What is computed again under ``remat``, look-ups, norms, softmax and
the optimizer do not count: they are no progress.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict

OF_VOCABULARY = ("word", "lm_head")
"""Tables that hidden states are multiplied with."""


def step_flops(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], head: str) -> float:
    """Model FLOPs of one train step on a whole batch.

    Args:
        params: shapes of the canonical parameters.
        shapes: of the batch's fields; ``tokens`` [B, T], perhaps ``decoder_tokens`` [B, S], ``at`` [B, M].
        head: as ``Task.head``.
    """
    return 3.0 * sum(_forward(params, shapes, head).values())


def _forward(params: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], head: str) -> dict[str, float]:
    rows, length = shapes["tokens"]
    written = shapes.get("decoder_tokens", shapes["tokens"])[1]
    examples = math.prod(shapes["starts"])
    flat = {"/".join(path): leaf for path, leaf in flatten_dict(params).items()}
    two_texts = "decoder_tokens" in shapes
    flops = {"kernels": 0.0, "attention": 0.0, "head": 0.0}
    for path, leaf in flat.items():
        if not path.endswith("kernel"):
            continue
        of_decoder = two_texts and "decoder" in path
        own = rows * (written if of_decoder else length)
        cross = "cross_attention" in path
        if path.startswith("head/"):
            met = examples if _per_example(head) else rows * shapes.get("at", (rows, length))[1]
            flops["head"] += 2.0 * leaf.size * met
        elif "pooler" in path:
            flops["head"] += 2.0 * leaf.size * examples
        else:
            # Keys and values of a cross-attention are made of the text that is read.
            read = cross and path.split("/")[-2] in ("key", "value")
            flops["kernels"] += 2.0 * leaf.size * (rows * length if read else own)
        if path.endswith("attention/query/kernel"):
            pairs = own * (length if cross or not of_decoder else written)
            flops["attention"] += 4.0 * leaf.shape[-1] * pairs
    table = _table(flat, head)
    if table is not None:
        met = rows * shapes.get("at", (rows, written))[1]
        flops["head"] += 2.0 * table.size * met
    return flops


def _per_example(head: str) -> bool:
    return head in ("classification", "regression", "multiple_choice")


def _table(flat: Mapping[str, Any], head: str) -> Any:
    """The table that gives logits over the vocabulary, or none."""
    if head not in ("mlm", "causal_lm", "seq2seq_lm"):
        return None
    own = [leaf for path, leaf in flat.items() if "lm_head" in path and path.endswith("embedding")]
    shared = [leaf for path, leaf in flat.items() if path.endswith("word/embedding")]
    return (own or shared)[0]
