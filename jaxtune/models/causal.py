"""What every decoder without an encoder has in common: reading whole rows, or the next tokens of a cache."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import Attention, plain_attention
from jaxtune.models.cache import Cache
from jaxtune.models.heads import Head, WordHead
from jaxtune.models.layers import DropoutKey, Policy
from jaxtune.models.multi_head import Sight, next_tokens, whole_rows
from jaxtune.models.rows import last_tokens, row_positions
from jaxtune.models.weight_map import WeightEntry


class CausalBackbone(nn.Module):
    """Calls of a decoder; a family adds ``setup``, with the word table ``word``, and ``_run``."""

    config: Any
    policy: Policy = Policy()
    scan_layers: bool = False
    remat: str = "none"
    attention: Attention = plain_attention

    def _run(
        self, tokens: Int[Array, "B S"], positions: Int[Array, "B S"], sight: Sight, caches: Any
    ) -> tuple[Float[Array, "B S D"], Any]:
        """Last hidden states, and the caches of the layers with the tokens in them (none where none came in)."""
        raise NotImplementedError

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"] | None = None,
        token_types: Int[Array, "B S"] | None = None,
        key: DropoutKey | None = None,
    ) -> Float[Array, "B S D"]:
        """Last hidden states; ``token_types`` are not used."""
        return self._run(tokens, row_positions(tokens, positions), whole_rows(segment_ids, key), None)[0]

    def extend(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        cache: Cache,
    ) -> tuple[Float[Array, "B S D"], Cache]:
        """Hidden states of the next S tokens, and the cache that holds them too."""
        sight, cache = next_tokens(cache, segment_ids)
        hidden, layers = self._run(tokens, positions, sight, cache.layers)
        return hidden, cache.replace(layers=layers)  # type: ignore[attr-defined]

    def pool(
        self,
        hidden: Float[Array, "B S D"],
        segment_ids: Int[Array, "B S"],
        starts: Int[Array, "B N"] | None,
    ) -> Float[Array, "B N D"]:
        """The last token of each example: the only one that has seen all of it."""
        return last_tokens(hidden, segment_ids, starts)

    @property
    def table(self) -> Float[Array, "P D"]:
        """Word embeddings."""
        return self.word.table


def next_word_head(architecture: str) -> Head:
    """Scores of the next word, against the word table if config.json ties the two."""

    def build(config: Any, num_labels: int, policy: Policy, name: str) -> nn.Module:
        c = config
        return WordHead(
            c.vocab_size,
            c.hidden_size,
            c.initializer_range,
            policy,
            tied=c.tie_word_embeddings,
            soft_cap=c.final_soft_cap,
            name=name,
        )

    def weight_map(config: Any) -> tuple[WeightEntry, ...]:
        own = WeightEntry("lm_head.weight", "lm_head/embedding", "pad_rows")
        return () if config.tie_word_embeddings else (own,)

    return Head(architecture, build, weight_map)
