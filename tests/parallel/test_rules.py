"""Where parameters lie: the table of patterns, FSDP, and what is refused."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from jaxtune.config import MeshConfig
from jaxtune.errors import ConfigError
from jaxtune.models.model import build_model, init_params
from jaxtune.models.registry import family_of
from jaxtune.parallel.mesh import make_mesh
from jaxtune.parallel.rules import check_heads, rules_of, shardings_of, spec_of
from tests.models.family_cases_all import CASES


def mesh_of(**sizes):
    return make_mesh(MeshConfig(**sizes))


def spec(path, shape, *overrides, family="bert", **sizes):
    return spec_of(path, shape, rules_of(family, overrides), mesh_of(**sizes))


KERNEL = "backbone/layers/3/attention/query/kernel"


def test_tensor_splits_columns_of_what_reads_and_rows_of_what_writes():
    sizes = {"tensor": 4}
    assert spec(KERNEL, (256, 256), **sizes) == P(None, "tensor")
    assert spec("backbone/layers/3/attention/query/bias", (256,), **sizes) == P("tensor")
    assert spec("backbone/layers/3/attention/output/kernel", (256, 256), **sizes) == P("tensor", None)
    assert spec("backbone/layers/3/attention/output/bias", (256,), **sizes) == P(None)
    assert spec("backbone/layers/3/mlp_up/kernel", (256, 512), **sizes) == P(None, "tensor")
    assert spec("backbone/layers/3/mlp_down/kernel", (512, 256), **sizes) == P("tensor", None)
    assert spec("backbone/embeddings/word/embedding", (1280, 256), **sizes) == P("tensor", None)


def test_fsdp_takes_the_largest_dimension_that_is_left_and_divides():
    assert spec("backbone/layers/3/mlp_up/kernel", (256, 512), fsdp=8) == P(None, "fsdp")
    assert spec("backbone/layers/3/mlp_up/kernel", (256, 510), fsdp=8) == P("fsdp", None)
    assert spec("backbone/layers/3/mlp_up/kernel", (256, 512), fsdp=2, tensor=4) == P("fsdp", "tensor")
    assert spec("backbone/layers/3/mlp_up/kernel", (250, 510), fsdp=8) == P(None, None)


def test_small_arrays_stay_whole_and_large_vectors_do_not():
    assert spec(KERNEL, (127, 128), fsdp=8) == P(None, None)
    assert spec(KERNEL, (128, 128), fsdp=8) == P("fsdp", None)
    assert spec("head/bias", (30592,), fsdp=8) == P("fsdp")


def test_the_axis_of_stacked_layers_is_never_split():
    stacked = spec("backbone/layers/mlp_up/kernel", (64, 16, 32), fsdp=8)
    assert stacked == P(None, None, None)  # 512 elements a layer
    assert spec("backbone/layers/mlp_up/kernel", (64, 256, 512), fsdp=2, tensor=4) == P(
        None, "fsdp", "tensor"
    )


def test_what_the_user_says_comes_first_and_is_taken_as_it_is():
    assert spec(KERNEL, (256, 256), "*/query/kernel=tensor,-", fsdp=2, tensor=4) == P("tensor", None)
    assert spec("mine/own", (256, 256), "mine/*=-,fsdp", fsdp=8) == P(None, "fsdp")


@pytest.mark.parametrize(
    ("rule", "message"),
    [("*/query/kernel", "no `=`"), ("*=fdsp", "'fdsp' is no mesh axis"), ("=fsdp", "expected PATTERN")],
)
def test_a_rule_that_is_none_is_refused(rule, message):
    with pytest.raises(ConfigError, match=message):
        rules_of("bert", [rule])


def test_a_parameter_without_a_rule_stops_the_run_with_its_path():
    with pytest.raises(
        ConfigError, match=r"backbone/new/thing \(4, 4\).*--mesh.rules 'backbone/new/thing=-,-'"
    ):
        spec("backbone/new/thing", (4, 4))


def test_widths_that_do_not_divide_are_refused_with_those_that_fit():
    with pytest.raises(
        ConfigError, match=r"mlp_up/kernel.*dimension 1 of 510.*sizes that fit: 1, 2, 3, 5, 6"
    ):
        spec("backbone/layers/0/mlp_up/kernel", (256, 510), tensor=4, data=2)


def test_a_vocabulary_that_does_not_divide_stays_whole():
    assert spec("backbone/word/embedding", (129, 100), tensor=8) == P(None, None)


def test_heads_that_do_not_divide_are_refused_with_those_that_fit():
    check_heads(12, 12, mesh_of(tensor=4))
    with pytest.raises(ConfigError, match=r"`mesh.tensor` is 8.*12 heads; expected one of 1, 2, 3, 4, 6, 12"):
        check_heads(12, 12, mesh_of(tensor=8))
    with pytest.raises(ConfigError, match=r"32 heads and 4 key/value heads; expected one of 1, 2, 4"):
        check_heads(32, 4, mesh_of(tensor=8))


def test_the_optimizer_follows_its_parameters():
    import optax

    params = {"backbone": {"layers": {"0": {"mlp_up": {"kernel": jnp.zeros((256, 512))}}}}}
    state = {"params": 0}, optax.adam(1e-3).init(params)
    layout = shardings_of(state[1], rules_of("bert"), mesh_of(fsdp=2, tensor=4))
    specs = {str(s.spec) for s in jax.tree.leaves(layout)}
    assert specs == {str(P("fsdp", "tensor")), str(P())}


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_of_every_family_has_a_rule(name):
    case = CASES[name]
    config = family_of(case.model_type).config_class.from_hf(case.config)
    model = build_model(config, case.head, 3)
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    layout = shardings_of(shapes, rules_of(case.model_type), mesh_of(data=4, fsdp=2))
    assert len(jax.tree.leaves(layout)) == len(jax.tree.leaves(shapes))
