"""What every encoder has in common: its fields, how it is called, and what a head may ask of it."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxtune.models.attention import Attention, plain_attention
from jaxtune.models.layer_stack import layer_stack
from jaxtune.models.layers import DropoutKey, Policy
from jaxtune.models.rows import first_tokens, row_positions


class BidirectionalBackbone(nn.Module):
    """Calls of an encoder; a family adds ``setup``, with the word table ``word``, and ``_run``.

    Attributes:
        scan_layers: hold the layers stacked as [L, …] under ``layers`` and scan over them.
        remat: what the backward pass keeps; see ``layer_stack.REMAT_POLICIES``.
    """

    config: Any
    policy: Policy = Policy()
    scan_layers: bool = False
    remat: str = "none"
    attention: Attention = plain_attention

    def _run(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"],
        token_types: Int[Array, "B S"],
        key: DropoutKey | None,
    ) -> Float[Array, "B S D"]:
        """Last hidden states."""
        raise NotImplementedError

    def __call__(
        self,
        tokens: Int[Array, "B S"],
        segment_ids: Int[Array, "B S"],
        positions: Int[Array, "B S"] | None = None,
        token_types: Int[Array, "B S"] | None = None,
        key: DropoutKey | None = None,
    ) -> Float[Array, "B S D"]:
        """Last hidden states.

        Args:
            segment_ids: 0 for padding, else the number of the example within its row; a
                Hugging Face attention mask is the case of one example per row.
            positions: counted from 0 within each example; none counts along the row.
            token_types: none has type 0 throughout.
            key: dropout key; none runs without dropout.
        """
        if token_types is None:
            token_types = jnp.zeros_like(tokens)
        return self._run(tokens, segment_ids, row_positions(tokens, positions), token_types, key)

    def pool(
        self,
        hidden: Float[Array, "B S D"],
        segment_ids: Int[Array, "B S"],
        starts: Int[Array, "B N"] | None,
    ) -> Float[Array, "B N D"]:
        """One vector per example: the hidden state of its first token, unless a family says otherwise."""
        return first_tokens(hidden, starts)

    @property
    def table(self) -> Float[Array, "P E"]:
        """Word embeddings."""
        return self.word.table

    def _stack(self, layer: type[nn.Module], *args: Any) -> nn.Module:
        """The layers as the run wants them; ``args`` are the fields each is built with."""
        count = self.config.num_hidden_layers
        return layer_stack(layer, args, count, scan=self.scan_layers, remat=self.remat)

    def _through(self, x: Float[Array, "B S D"], context: Any) -> Float[Array, "B S D"]:
        """What comes out of the layers; ``context`` is what they share."""
        return self.layers(x, jnp.arange(self.config.num_hidden_layers), None, context)[0]
