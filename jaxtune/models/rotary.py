"""Rotary position embeddings (Su et al. 2021) with the scalings that checkpoints ask for.

The two halves of a head are rotated against each other, as in transformers (GPT-NeoX's layout; the
interleaved layout of the original Llama files is un-permuted when GGUF files are read).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

SCALINGS = ("default", "linear", "llama3", "yarn")
NO_POSITIONS = "none"
"""Kind of a rotary embedding that turns nothing, for layers without positions (SmolLM3)."""


@dataclasses.dataclass(frozen=True)
class Rotary:
    """What turns positions into angles.

    Attributes:
        theta: base of the wavelengths.
        kind: one of ``SCALINGS``, or ``NO_POSITIONS``.
        factor: how many times longer the context is than in pretraining.
        original_length: context of the pretraining.
        low_freq_factor, high_freq_factor: where llama3's interpolation begins and ends.
        beta_fast, beta_slow, truncate: where yarn's ramp begins and ends.
        attention_factor: yarn's factor of cosine and sine.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_length: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0

    def frequencies(self, size: int) -> np.ndarray:
        """Angle per position of each pair of a head of ``size``: float32 [size / 2]."""
        if self.kind == NO_POSITIONS:
            return np.zeros(size // 2, np.float32)
        inverse = 1.0 / self.theta ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))
        inverse = inverse.astype(np.float32)
        if self.kind == "linear":
            return inverse / np.float32(self.factor)
        if self.kind == "llama3":
            return self._llama3(inverse)
        if self.kind == "yarn":
            return self._yarn(inverse, size)
        return inverse

    def _llama3(self, inverse: np.ndarray) -> np.ndarray:
        """Llama 3.1's: long wavelengths are stretched, short ones kept, those between blended."""
        length = float(self.original_length or 8192)
        wavelength = 2 * math.pi / inverse
        low, high = length / self.low_freq_factor, length / self.high_freq_factor
        stretched = np.where(wavelength > low, inverse / self.factor, inverse)
        smooth = (length / wavelength - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        blended = (1 - smooth) * stretched / self.factor + smooth * stretched
        between = (wavelength >= high) & (wavelength <= low)
        return np.where(between, blended, stretched).astype(np.float32)

    def _yarn(self, inverse: np.ndarray, size: int) -> np.ndarray:
        """YaRN (Peng et al. 2023): interpolate the slow pairs, extrapolate the fast, a ramp between."""
        length = self.original_length or 2048

        def pair_with(rotations: float) -> float:
            return size * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = pair_with(self.beta_fast), pair_with(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        high = high + 0.001 if low == high else high
        ramp = np.clip((np.arange(size // 2, dtype=np.float32) - low) / (high - low), 0, 1)
        return (inverse / self.factor * ramp + inverse * (1 - ramp)).astype(np.float32)


def rotary_from_hf(raw: Mapping[str, Any], *, theta: float = 10000.0, context: int | None = None) -> Rotary:
    """Read ``rope_theta`` and ``rope_scaling``, or today's ``rope_parameters``, which joins the two.

    Args:
        raw: config.json, or an object with the same settings.
        theta: default of the family.
        context: ``max_position_embeddings``.

    Raises:
        ValueError: a scaling that is not supported.
    """
    scaling = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    if float(raw.get("partial_rotary_factor") or scaling.get("partial_rotary_factor") or 1.0) != 1.0:
        raise ValueError("config.json: partial_rotary_factor is not supported; use 1.0")
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in SCALINGS:
        raise ValueError(
            f"config.json: rope_type={kind!r} is not supported; use one of {', '.join(SCALINGS)}"
        )
    theta = float(scaling.get("rope_theta") or raw.get("rope_theta") or theta)
    if kind == "default":
        return Rotary(theta)
    original = scaling.get("original_max_position_embeddings") or context
    factor = float(scaling.get("factor") or (context / original if context and original else 1.0))
    return Rotary(
        theta,
        kind,
        factor,
        original,
        low_freq_factor=float(scaling.get("low_freq_factor") or 1.0),
        high_freq_factor=float(scaling.get("high_freq_factor") or 4.0),
        beta_fast=float(scaling.get("beta_fast") or 32.0),
        beta_slow=float(scaling.get("beta_slow") or 1.0),
        truncate=bool(scaling.get("truncate", True)),
        attention_factor=_attention_factor(scaling, factor) if kind == "yarn" else 1.0,
    )


def _attention_factor(scaling: Mapping[str, Any], factor: float) -> float:
    """YaRN's temperature, folded into cosine and sine (Peng et al. 2023, eq. 22)."""
    given = scaling.get("attention_factor")
    if given is not None:
        return float(given)

    def scale(mscale: float) -> float:
        return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0

    mscale, all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return scale(mscale) / scale(all_dim) if mscale and all_dim else scale(1.0)


def angles(
    positions: Int[Array, "B S"], rotary: Rotary, size: int
) -> tuple[Float[Array, "B S 1 h"], Float[Array, "B S 1 h"]]:
    """Cosine and sine for heads of ``size``, float32, h = size / 2; computed once for all layers."""
    angle = positions[..., None].astype(jnp.float32) * rotary.frequencies(size)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos[:, :, None] * rotary.attention_factor, sin[:, :, None] * rotary.attention_factor


def rotate(
    x: Float[Array, "B S H C"], cos: Float[Array, "B S 1 h"], sin: Float[Array, "B S 1 h"]
) -> Float[Array, "B S H C"]:
    """Turn each pair (x[i], x[i + C/2]) by its angle."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
