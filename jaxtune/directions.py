"""Which direction of a metric is the better one: what training, tasks and reports all go by."""

from __future__ import annotations

_LOWER_IS_BETTER = frozenset(
    {
        "loss",
        "mse",
        "mae",
        "brier",
        "calibration_error",
        "perplexity",
        "bits_per_byte",
        "bits_per_token",
        "ter",
    }
)


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of this metric is the better one."""
    return metric not in _LOWER_IS_BETTER
