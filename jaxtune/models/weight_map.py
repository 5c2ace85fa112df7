"""Names: how a Hugging Face tensor is called, where it lies in our tree, and how it is turned."""

from __future__ import annotations

import dataclasses
from typing import Literal

Transform = Literal["none", "transpose", "pad_rows", "pad_columns"]


@dataclasses.dataclass(frozen=True)
class WeightEntry:
    """One parameter of ours, and the tensor it is stored in.

    Attributes:
        hf: name in the checkpoint; for a backbone without the family's prefix (``bert.``).
        path: place in the tree of the backbone or of the head, joined by ``/``.
        transform: ``transpose`` for a torch Linear [out, in] and our kernel [in, out];
            ``pad_rows`` for what has a row per word ([V, D] or [V]), rounded up to a multiple of 128;
            ``pad_columns`` for a file's [1, V] and our [V] (final_logits_bias), rounded up as well.
        part: ``(i, n)`` where the checkpoint fuses n parameters in one tensor along the outputs
            (GPT-2's c_attn): this one is the i-th of n equal slices.
        aliases: other names under which checkpoints store the same tensor (tied embeddings).
        optional: a checkpoint may lack it without a word of warning.
        fallback: name of another parameter's tensor to begin with where the checkpoint has none of these
            (T5's output table, of which transformers 5 may save only the input's).
    """

    hf: str
    path: str
    transform: Transform = "none"
    optional: bool = False
    part: tuple[int, int] | None = None
    aliases: tuple[str, ...] = ()
    fallback: str | None = None


def linear(hf: str, path: str, *, bias: bool = True, optional: bool = False) -> tuple[WeightEntry, ...]:
    """The entries of a torch ``Linear``."""
    kernel = WeightEntry(f"{hf}.weight", f"{path}/kernel", "transpose", optional)
    return (kernel, WeightEntry(f"{hf}.bias", f"{path}/bias", "none", optional)) if bias else (kernel,)


def norm(hf: str, path: str, *, bias: bool = True) -> tuple[WeightEntry, ...]:
    """The entries of a torch ``LayerNorm``, or of an RMSNorm, which has no bias."""
    scale = WeightEntry(f"{hf}.weight", f"{path}/scale")
    return (scale, WeightEntry(f"{hf}.bias", f"{path}/bias")) if bias else (scale,)


def fused(hf: str, paths: tuple[str, ...], *, transpose: bool, bias: bool = True) -> tuple[WeightEntry, ...]:
    """The entries of a Linear whose outputs are several of ours, one after the other."""
    entries = []
    for i, path in enumerate(paths):
        part = (i, len(paths))
        entries.append(
            WeightEntry(f"{hf}.weight", f"{path}/kernel", "transpose" if transpose else "none", part=part)
        )
        if bias:
            entries.append(WeightEntry(f"{hf}.bias", f"{path}/bias", part=part))
    return tuple(entries)


OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
"""Endings that checkpoints converted from TensorFlow use for LayerNorm, and today's."""
