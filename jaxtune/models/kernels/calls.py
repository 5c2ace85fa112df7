"""What is known of a call of attention before it runs: all that a choice between kernels may depend on."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxtyping import Array, Float

from jaxtune.models.attention import AttentionSpec


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of attention, by what is static in it.

    Attributes:
        rows: B, of the whole batch, not of one device's part.
        queries, keys: S and T.
        heads, kv_heads, head_size: H, K and C.
        window: see ``AttentionSpec``; "traced" where its number is only known when the program runs.
        moved: the queries do not begin at the first key (decoding with a cache).
        dropout: probabilities are dropped in this call.
        precision: of the matrix products.
    """

    rows: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_size: int
    dtype: str = "float32"
    causal: bool = False
    window: int | Literal["traced"] | None = None
    moved: bool = False
    bias: bool = False
    soft_cap: bool = False
    dropout: bool = False
    segments: bool = True
    precision: str = "default"

    def shape(self) -> str:
        """The call in words, for people."""
        heads = (
            f"{self.heads} heads" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads} heads"
        )
        words = [f"{self.queries} × {self.keys} tokens", f"{heads} of {self.head_size}", self.dtype]
        if self.causal:
            words.append("causal")
        if self.window is not None:
            words.append("windows by layer" if self.window == "traced" else f"window {self.window}")
        return ", ".join(words)


def call_of(
    query: Float[Array, "B S H C"],
    key: Float[Array, "B T K C"],
    spec: AttentionSpec,
    precision: str = "default",
) -> Call:
    """What is static in a call; the arrays may be traced."""
    rows, queries, heads, size = query.shape
    window = spec.window
    return Call(
        rows,
        queries,
        key.shape[1],
        heads,
        key.shape[2],
        size,
        str(query.dtype),
        spec.causal,
        window if window is None or isinstance(window, int) else "traced",
        not isinstance(spec.offset, int) or spec.offset != 0,
        spec.bias is not None,
        spec.soft_cap is not None,
        spec.dropout_key is not None and spec.dropout_rate > 0,
        spec.key_segments is not None,
        precision,
    )
