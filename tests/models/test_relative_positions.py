"""T5's buckets against tables that torch's T5Attention._relative_position_bucket gave, and the bias they select."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.models.layers import Embedding
from jaxtune.models.relative_positions import check_buckets, relative_bias, relative_bucket

BOTH_SIDES = {
    -200: 15,
    -128: 15,
    -91: 15,
    -90: 14,
    -64: 14,
    -46: 13,
    -45: 12,
    -32: 12,
    -23: 11,
    -16: 10,
    -12: 9,
    -11: 8,
    -8: 8,
    -7: 7,
    -1: 1,
    0: 0,
    1: 17,
    7: 23,
    8: 24,
    11: 24,
    12: 25,
    16: 26,
    23: 27,
    32: 28,
    45: 28,
    46: 29,
    64: 30,
    90: 30,
    91: 31,
    200: 31,
}
BEHIND = {
    -200: 31,
    -113: 31,
    -112: 30,
    -99: 30,
    -98: 29,
    -64: 26,
    -32: 21,
    -17: 16,
    -15: 15,
    -1: 1,
    0: 0,
    50: 0,
}
FEW_BOTH_SIDES = [3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 1, 0, 5, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7]
FEW_BEHIND = [7, 7, 7, 7, 7, 6, 5, 4, 4, 3, 2, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("bidirectional", "buckets", "farthest", "expected"),
    [
        (True, 32, 128, BOTH_SIDES),
        (False, 32, 128, BEHIND),
        (True, 8, 10, dict(zip(range(-11, 12), FEW_BOTH_SIDES))),
        (False, 8, 10, dict(zip(range(-12, 3), FEW_BEHIND))),
    ],
)
def test_buckets_are_torchs(bidirectional, buckets, farthest, expected):
    found = relative_bucket(
        jnp.array(list(expected)), bidirectional=bidirectional, buckets=buckets, max_distance=farthest
    )
    assert found.tolist() == list(expected.values())


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_bias_of_later_queries_is_the_lower_part_of_the_whole(bidirectional):
    table = Embedding(8, 3)
    params = table.init(jax.random.key(0), jnp.arange(2))

    def bias(queries, offset):
        def run(module):
            return relative_bias(module, queries, 9, offset, bidirectional=bidirectional, max_distance=10)

        return table.apply(params, method=run)

    whole = bias(9, 0)
    assert whole.shape == (3, 9, 9)
    later = jax.jit(lambda offset: bias(4, offset))(5)
    np.testing.assert_array_equal(later, whole[:, 5:])
    # By distance alone: every diagonal is one number.
    np.testing.assert_array_equal(whole[:, 1:, 1:], whole[:, :-1, :-1])


@pytest.mark.parametrize("buckets", [0, 2, 7])
def test_numbers_of_buckets_that_the_formula_cannot_make_are_refused(buckets):
    with pytest.raises(ValueError, match=f"relative_attention_num_buckets={buckets} is not supported"):
        check_buckets(buckets, 128)


def test_a_distance_within_the_exact_buckets_is_refused():
    with pytest.raises(
        ValueError, match=r"relative_attention_max_distance=16 is not supported; .* must be over 16"
    ):
        check_buckets(32, 16)
