"""Names: how a Hugging Face tensor is called, where it lies in our tree, and how it is turned."""

from __future__ import annotations

import dataclasses
from typing import Literal

Transform = Literal["none", "transpose", "pad_rows"]


@dataclasses.dataclass(frozen=True)
class WeightEntry:
    """One tensor.

    Attributes:
        hf: name in the checkpoint, without the family's prefix (``bert.``).
        path: place in the tree of the backbone or of the head, joined by ``/``.
        transform: ``transpose`` for a torch Linear [out, in] and our kernel [in, out];
            ``pad_rows`` for an embedding table whose rows are rounded up to a multiple of 128.
        optional: a checkpoint may lack it (a pooler); it is then newly initialised, and said.
    """

    hf: str
    path: str
    transform: Transform = "none"
    optional: bool = False


def linear(hf: str, path: str, *, bias: bool = True, optional: bool = False) -> tuple[WeightEntry, ...]:
    """The entries of a torch ``Linear``."""
    kernel = WeightEntry(f"{hf}.weight", f"{path}/kernel", "transpose", optional)
    return (kernel, WeightEntry(f"{hf}.bias", f"{path}/bias", "none", optional)) if bias else (kernel,)


def norm(hf: str, path: str) -> tuple[WeightEntry, ...]:
    """The entries of a torch ``LayerNorm``."""
    return WeightEntry(f"{hf}.weight", f"{path}/scale"), WeightEntry(f"{hf}.bias", f"{path}/bias")


OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
"""Endings that checkpoints converted from TensorFlow use for LayerNorm, and today's."""
