"""Rotary embeddings: relative, and scaled as each kind of checkpoint asks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.models.rotary import NO_POSITIONS, Rotary, angles, rotary_from_hf, rotate

SIZE = 8


def test_plain_frequencies_are_powers_of_theta():
    np.testing.assert_allclose(Rotary(100.0).frequencies(4), [1.0, 0.1], rtol=1e-6)


def test_rotation_is_relative_and_keeps_lengths():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, SIZE))

    def score(i, j):
        at = [angles(jnp.array([[p]]), Rotary(50.0), SIZE) for p in (i, j)]
        return float(jnp.sum(rotate(q, *at[0]) * rotate(k, *at[1])))

    assert score(3, 1) == pytest.approx(score(10, 8), abs=1e-5)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)
    turned = rotate(q, *angles(jnp.array([[7]]), Rotary(), SIZE))
    assert float(jnp.linalg.norm(turned)) == pytest.approx(float(jnp.linalg.norm(q)), rel=1e-6)


def test_linear_scaling_divides_positions():
    scaled = rotary_from_hf({"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 77.0})
    assert scaled.theta == 77.0
    np.testing.assert_allclose(
        angles(jnp.array([[8]]), scaled, SIZE)[0], angles(jnp.array([[2]]), Rotary(77.0), SIZE)[0], rtol=1e-6
    )


def test_llama3_keeps_short_wavelengths_and_stretches_long_ones():
    rotary = rotary_from_hf(
        {
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        }
    )
    plain, scaled = Rotary(500000.0).frequencies(128), rotary.frequencies(128)
    wavelength = 2 * math.pi / plain
    short, long = wavelength < 8192 / 4, wavelength > 8192
    assert short.any()
    assert long.any()
    np.testing.assert_array_equal(scaled[short], plain[short])
    np.testing.assert_allclose(scaled[long], plain[long] / 8, rtol=1e-6)
    between = ~short & ~long
    assert (scaled[between] < plain[between]).all()
    assert (scaled[between] > plain[between] / 8).all()


def test_yarn_interpolates_slow_pairs_only_and_sharpens_attention():
    raw = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}
    rotary = rotary_from_hf(raw, context=256)
    plain, scaled = Rotary().frequencies(64), rotary.frequencies(64)
    assert scaled[0] == plain[0]
    assert scaled[-1] == pytest.approx(plain[-1] / 4, rel=1e-6)
    assert (np.diff(scaled / plain) <= 1e-6).all()
    assert rotary.attention_factor == pytest.approx(0.1 * math.log(4.0) + 1)
    cos, sin = angles(jnp.array([[0]]), rotary, 64)
    np.testing.assert_allclose(cos, rotary.attention_factor, rtol=1e-6)
    np.testing.assert_array_equal(sin, 0)
    given = rotary_from_hf({"rope_scaling": {**raw["rope_scaling"], "attention_factor": 0.7}})
    assert given.attention_factor == 0.7


def test_todays_joint_setting_is_read_too():
    raw = {"rope_parameters": {"rope_type": "linear", "rope_theta": 5.0, "factor": 2.0}}
    assert rotary_from_hf(raw) == Rotary(5.0, "linear", 2.0)
    assert rotary_from_hf({"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}) == Rotary(5.0)


def test_no_positions_turns_nothing():
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, SIZE))
    turned = rotate(x, *angles(jnp.arange(3)[None], Rotary(kind=NO_POSITIONS), SIZE))
    np.testing.assert_array_equal(turned, x)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_other_scalings_are_refused_by_name(kind):
    with pytest.raises(ValueError, match=f"rope_type='{kind}' is not supported; use one of default, linear"):
        rotary_from_hf({"rope_scaling": {"rope_type": kind, "factor": 2.0}})


def test_a_part_of_a_head_cannot_be_rotated():
    with pytest.raises(ValueError, match="partial_rotary_factor"):
        rotary_from_hf({"partial_rotary_factor": 0.5})
