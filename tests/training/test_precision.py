"""Which precision `auto` takes, on machines of all kinds."""

import jax
import pytest

from jaxtune.training import precision
from jaxtune.training.precision import make_policy, resolve_precision


def device(platform, kind="chip", capability=None):
    return type("Device", (), {"platform": platform, "device_kind": kind, "compute_capability": capability})()


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_what_is_asked_for_is_taken(asked):
    assert resolve_precision(asked) == (asked, "as configured")


@pytest.mark.parametrize(
    ("machine", "taken"),
    [
        (device("tpu", "TPU v4"), "bfloat16"),
        (device("gpu", "NVIDIA A100", "8.0"), "bfloat16"),
        (device("gpu", "Tesla V100", "7.0"), "float32"),
    ],
)
def test_accelerators_are_known(monkeypatch, machine, taken):
    monkeypatch.setattr(jax, "devices", lambda: [machine])
    found, reason = resolve_precision("auto")
    assert found == taken
    assert machine.device_kind in reason


@pytest.mark.parametrize(
    ("flags", "seconds", "taken", "said"),
    [
        ({"avx2"}, None, "float32", "no bfloat16 instructions"),
        ({"avx512_bf16"}, {"float32": 2.0, "bfloat16": 1.0}, "bfloat16", "2.00×"),
        ({"amx_bf16"}, {"float32": 1.0, "bfloat16": 0.9}, "float32", "1.11×"),
    ],
)
def test_a_cpu_is_looked_at_and_then_timed(monkeypatch, flags, seconds, taken, said):
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset(flags))
    # Without the instructions nothing may be timed: there it would take long.
    monkeypatch.setattr(precision, "_time_block", (seconds or {}).__getitem__)
    found, reason = resolve_precision("auto")
    assert found == taken
    assert said in reason


def test_the_real_timing_runs():
    assert precision._time_block("float32") > 0


def test_parameters_and_outputs_stay_float32():
    policy = make_policy("bfloat16", "highest")
    assert (policy.param_dtype, policy.output_dtype) == (jax.numpy.float32, jax.numpy.float32)
    assert policy.compute_dtype == jax.numpy.bfloat16
