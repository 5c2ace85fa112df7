"""DeBERTa: buckets of distances, scores by distance, the convolution, and what its config.json may say."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxtune
from jaxtune.models.disentangled import DistanceContext, bucket, distance_rows, shift
from jaxtune.models.families.deberta_v2 import DebertaConvolution, DebertaV2Config
from jaxtune.models.layers import Policy
from tests.models.family_cases import write_folder
from tests.models.family_cases_all import CASES
from tests.models.family_cases_encoders import DEBERTA_V2, DEBERTA_V3
from tests.models.family_golden import FamilyGolden

# What transformers' make_log_bucket_position gives.
BUCKETS = {
    (8, 64): (
        (0, 1, 3, 4, 5, 6, 7, 9, 12, 20, 40, 63, 64, 100),
        (0, 1, 3, 4, 5, 5, 5, 5, 6, 6, 7, 7, 8, 8),
    ),
    # 128 and 256 lie exactly on borders: rounding decides, and in float64 it decides otherwise.
    (128, 513): ((64, 127, 128, 129, 255, 256, 257, 512), (64, 85, 85, 86, 106, 106, 107, 127)),
    (256, 512): (
        (127, 128, 129, 130, 131, 200, 256, 300, 400, 500, 510, 511, 512, 513, 600),
        (127, 128, 129, 130, 131, 169, 192, 207, 233, 254, 255, 255, 256, 256, 270),
    ),
}


@pytest.mark.parametrize("setting", BUCKETS)
def test_buckets_are_those_of_torch(setting):
    distances, expected = map(np.array, BUCKETS[setting])
    np.testing.assert_array_equal(bucket(distances, *setting), expected)
    np.testing.assert_array_equal(bucket(-distances, *setting), -expected)


def test_rows_of_the_table_of_distances():
    # One per distance up to 3, and all beyond together.
    assert distance_rows(6, -1, 3).tolist() == [5, 5, 5, 5, 4, 3, 2, 1, 0, 0, 0]
    # Buckets: 4 for each direction, of which 2 are single distances.
    assert distance_rows(6, 4, 40).tolist() == [7, 7, 7, 6, 5, 4, 3, 2, 1, 1, 1]


def test_scores_by_distance_become_scores_by_index():
    length = 5
    scores = np.random.default_rng(0).normal(size=(2, 3, length, 2 * length - 1))
    out = shift(scores)
    for i in range(length):
        for j in range(length):
            # The first column is the largest distance: that of the last query to the first key.
            np.testing.assert_array_equal(out[:, :, i, j], scores[:, :, i, length - 1 - (i - j)].astype("f4"))


def test_a_convolution_reads_neighbours_of_its_own_example_only():
    config = DebertaV2Config.from_hf({**DEBERTA_V2, "conv_kernel_size": 5, "conv_groups": 2})
    layer = DebertaConvolution(config, Policy(matmul_precision="highest"))
    x = np.random.default_rng(0).normal(size=(1, 9, 32)).astype("f4")
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 0, 0]])
    params = layer.init(jax.random.key(0), x, x, DistanceContext(segments), 5)

    def run(x, segments):
        return np.asarray(layer.apply(params, x, np.zeros_like(x), DistanceContext(segments), 5))

    packed = run(x, segments)
    np.testing.assert_allclose(packed[:, :3], run(x[:, :3], np.ones((1, 3), int)), atol=1e-6)
    np.testing.assert_allclose(packed[:, 3:7], run(x[:, 3:7], np.ones((1, 4), int)), atol=1e-6)
    assert np.abs(packed[:, 1] - run(x[:, 1:2], np.ones((1, 1), int))[:, 0]).max() > 1e-3


def test_the_masked_word_head_is_found_under_either_set_of_names(tmp_path):
    """The Hub's v3 files have the newer names, and a config.json that does not say so."""
    case = CASES["deberta_v3_mlm"]
    golden = FamilyGolden(case)
    tensors = golden.write(tmp_path)
    expected = jaxtune.load_pretrained(tmp_path, "mlm")(**golden.inputs)
    renamed = {
        name.replace("cls.predictions.transform", "lm_predictions.lm_head").replace(
            "cls.predictions.bias", "lm_predictions.lm_head.bias"
        ): array
        for name, array in tensors.items()
    }
    assert len(set(renamed) - set(tensors)) == 5
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    lm = jaxtune.load_pretrained(tmp_path, "mlm")
    assert not lm.report.missing
    np.testing.assert_array_equal(lm(**golden.inputs), expected)


def test_settings_are_read_as_transformers_reads_them():
    config = DebertaV2Config.from_hf(DEBERTA_V3)
    assert config.pos_att_type == ("c2p", "p2c")
    assert (config.max_relative_positions, config.span) == (40, 4)
    assert DebertaV2Config.from_hf({**DEBERTA_V3, "position_buckets": -1}).span == 40
    assert DebertaV2Config.from_hf({**DEBERTA_V3, "pos_att_type": ["p2c"]}).pos_att_type == ("p2c",)
    assert DebertaV2Config.from_hf({**DEBERTA_V3, "pos_att_type": None}).pos_att_type == ()
    assert config.embedding_size == config.hidden_size == 32
    # Distances have no end; absolute positions have.
    assert config.max_position_embeddings is None
    assert (
        DebertaV2Config.from_hf({**DEBERTA_V3, "position_biased_input": True}).max_position_embeddings == 40
    )
    assert DebertaV2Config.from_hf({}) == DebertaV2Config()


def test_a_row_longer_than_the_table_of_distances(tmp_path):
    case = CASES["deberta_v2_p2c"]
    golden = FamilyGolden(case)
    write_folder(tmp_path, case, golden.shapes)
    lm = jaxtune.load_pretrained(tmp_path, "mlm")
    ids = np.arange(60)[None] % 101
    assert np.isfinite(lm(ids, np.ones_like(ids))).all()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("pos_att_type", "p2p|c2p", "pos_att_type='p2p' is not supported; use c2p, p2c or both"),
        ("norm_rel_ebd", "batch_norm", "norm_rel_ebd='batch_norm' is not supported"),
        ("attention_head_size", 16, "attention_head_size=16 is not supported; use one of None, 8"),
        ("pooler_hidden_size", 64, "pooler_hidden_size=64 is not supported"),
        ("pooler_hidden_act", "mish", "pooler_hidden_act='mish' is not supported"),
        ("conv_act", "mish", "conv_act='mish' is not supported"),
        ("conv_kernel_size", 4, "conv_kernel_size=4 is not supported; use an odd number"),
        ("position_buckets", 1, "position_buckets=1 is not supported"),
        ("max_relative_positions", 3, "position_buckets=4 is not supported with max_relative_positions=3"),
        ("tie_word_embeddings", False, "tie_word_embeddings=False is not supported"),
    ],
)
def test_options_that_change_the_network_are_refused_by_name(option, value, said):
    with pytest.raises(ValueError, match=said):
        DebertaV2Config.from_hf({**DEBERTA_V3, option: value})
