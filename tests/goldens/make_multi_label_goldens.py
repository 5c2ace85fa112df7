"""Writes multi_label.npz: torch's BCEWithLogitsLoss in float64 on random logits, and its gradients.

    python tests/goldens/make_multi_label_goldens.py

Keys of each case: CASE/logits float64 [n, C], CASE/targets int32 [n, C], CASE/pos_weight float64 [C] or empty,
CASE/loss float64 [], CASE/gradient float64 [n, C]; and versions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "multi_label.npz"
CASES = {"plain": (6, 4, False), "weighted": (6, 4, True), "large": (3, 5, True)}
"""Name → examples, labels, whether positives are weighted."""


def main() -> None:
    import torch

    arrays: dict[str, np.ndarray] = {"versions": np.array(f"torch {torch.__version__}")}
    rng = np.random.RandomState(0)
    for name, (count, labels, weighted) in CASES.items():
        logits = rng.normal(0, 40 if name == "large" else 2, (count, labels)).astype(np.float32)
        targets = rng.randint(0, 2, (count, labels)).astype(np.int32)
        pos_weight = rng.uniform(0.3, 4, labels if weighted else 0).astype(np.float32)
        given = torch.tensor(logits.astype(np.float64), requires_grad=True)
        weight = torch.tensor(pos_weight.astype(np.float64)) if weighted else None
        loss = torch.nn.BCEWithLogitsLoss(pos_weight=weight)(
            given, torch.tensor(targets, dtype=torch.float64)
        )
        loss.backward()
        arrays |= {
            f"{name}/logits": logits.astype(np.float64),
            f"{name}/targets": targets,
            f"{name}/pos_weight": pos_weight.astype(np.float64),
            f"{name}/loss": np.array(loss.item()),
            f"{name}/gradient": given.grad.numpy(),
        }
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
