"""Optimizers and learning-rate schedules, by name.

An optimizer here gives a descent direction; the step multiplies it with the schedule's learning
rate. So the rate depends on the run's step alone, also after skipped updates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import path_aware_map

from jaxtune.config import OptimConfig
from jaxtune.models.layer_stack import stack_layers, unstack_layers


def make_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """The chain: L1, global-norm clipping, the optimizer's own direction, decoupled weight decay."""
    parts: list[optax.GradientTransformation] = []
    if config.l1:
        parts.append(add_l1(config.l1))
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    parts.append(DIRECTIONS[config.name](config))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=decays))
    return optax.chain(*parts)


def _adafactor(config: OptimConfig) -> optax.GradientTransformation:
    """Shazeer & Stern (2018) with their update clipping and relative step size."""
    chain = optax.chain(
        optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()
    )
    return per_layer(chain)


DIRECTIONS: dict[str, Callable[[OptimConfig], optax.GradientTransformation]] = {
    "adamw": lambda c: optax.scale_by_adam(c.beta1, c.beta2, c.epsilon),
    "lion": lambda c: optax.scale_by_lion(c.beta1, c.beta2),
    "sgd": lambda c: optax.trace(c.beta1),
    "adafactor": _adafactor,
}


def per_layer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Run an optimizer whose arithmetic looks at whole tensors on the canonical tree.

    Adafactor normalises by the RMS of a tensor; on stacked layers that would be the RMS of all
    layers together, and a scanned run would train differently.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        canonical = unstack_layers(updates)
        stacked = len(jax.tree.leaves(canonical)) != len(jax.tree.leaves(updates))
        direction, state = inner.update(canonical, state, unstack_layers(params))
        return (stack_layers(direction) if stacked else direction), state

    return optax.GradientTransformation(lambda params: inner.init(unstack_layers(params)), update)


def decays(params: Any) -> Any:
    """Mask of what weight decay and L1 apply to: all but biases and norms."""
    return path_aware_map(lambda path, _: not _is_bias_or_norm(path), params)


def _is_bias_or_norm(path: tuple[Any, ...]) -> bool:
    return path[-1] in ("bias", "scale") or "norm" in path[-2:-1]


def add_l1(strength: float) -> optax.GradientTransformation:
    """Add the gradient of ``strength * Σ|p|`` over what ``decays`` names."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        penalised = jax.tree.map(
            lambda g, p, on: g + strength * jnp.sign(p) if on else g, updates, params, decays(params)
        )
        return penalised, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def make_schedule(config: OptimConfig, total_steps: int) -> optax.Schedule:
    """Learning rate at a step: linear warm-up from 0, then the decay of ``config.schedule``.

    As in transformers, the first update is taken at 0 under warm-up, and ``linear`` reaches
    its end value only after the last step.
    """
    warmup = warmup_steps(config, total_steps)
    peak, end = config.learning_rate, config.learning_rate * config.end_factor
    rest = max(total_steps - warmup, 1)
    decay = SCHEDULES[config.schedule](config, peak, end, rest, warmup)
    if warmup == 0:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])


def warmup_steps(config: OptimConfig, total_steps: int) -> int:
    """Warm-up in steps: a share of the total (rounded up, as transformers does) or a number."""
    if config.warmup >= 1:
        return int(config.warmup)
    return -int(-(total_steps * config.warmup) // 1)


def _inverse_sqrt(peak: float, timescale: int) -> optax.Schedule:
    """``peak * sqrt(timescale / (timescale + step))`` (Vaswani et al. 2017, eq. 3, after the warm-up)."""
    # join_schedules also asks for steps before the warm-up ends, which are negative here.
    return lambda step: peak * jnp.sqrt(timescale / (timescale + jnp.maximum(step, 0)))


SCHEDULES: dict[str, Callable[[OptimConfig, float, float, int, int], optax.Schedule]] = {
    "linear": lambda c, peak, end, rest, warmup: optax.linear_schedule(peak, end, rest),
    "cosine": lambda c, peak, end, rest, warmup: optax.cosine_decay_schedule(peak, rest, c.end_factor),
    "constant": lambda c, peak, end, rest, warmup: optax.constant_schedule(peak),
    "polynomial": lambda c, peak, end, rest, warmup: optax.polynomial_schedule(peak, end, c.power, rest),
    # A decay to exactly 0 is not exponential; a thousandth of the peak stands in for it.
    "exponential": lambda c, peak, end, rest, warmup: optax.exponential_decay(
        peak, rest, c.end_factor or 1e-3, end_value=end
    ),
    "inverse_sqrt": lambda c, peak, end, rest, warmup: _inverse_sqrt(peak, max(warmup, 1)),
}
