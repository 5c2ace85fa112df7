"""How a process learns that it is one of several, and how it ends. No devices: the run time itself is in test_many_processes."""

import sys

import pytest

from jaxtune.errors import ConfigError
from jaxtune.parallel.distributed import (
    COORDINATOR,
    PROCESS,
    PROCESSES,
    as_process,
    read_environment,
    start_distributed,
)

FOUR = {COORDINATOR: "10.0.0.1:8476", PROCESSES: "4", PROCESS: "3"}


def test_three_variables_are_all_that_jax_is_told():
    assert read_environment(FOUR) == {
        "coordinator_address": "10.0.0.1:8476",
        "num_processes": 4,
        "process_id": 3,
        "local_device_ids": [],
    }


def test_the_coordinator_of_one_machine_is_open_to_that_machine_only():
    found = read_environment({**FOUR, COORDINATOR: "127.0.0.1:5000"})
    assert found is not None
    assert found["coordinator_bind_address"] == "127.0.0.1:5000"


@pytest.mark.parametrize("environment", [{}, {**FOUR, PROCESSES: "1", PROCESS: "0"}, {"SLURM_NTASKS": "1"}])
def test_a_single_process_needs_nothing(environment):
    assert start_distributed(environment) is False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({PROCESS: ""}, f"the environment has {COORDINATOR}, {PROCESSES}, but not {PROCESS}"),
        ({PROCESS: "4"}, f"{PROCESS} is 4; expected 0 to 3"),
        ({PROCESSES: "four"}, f"{PROCESSES} is 'four'; expected a whole number"),
        ({PROCESSES: "0", PROCESS: "0"}, f"{PROCESSES} is 0; expected at least 1"),
        ({COORDINATOR: "10.0.0.1"}, "expected HOST:PORT of process 0"),
        ({COORDINATOR: "10.0.0.1:http"}, "expected HOST:PORT of process 0"),
    ],
)
def test_variables_without_sense_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        read_environment({**FOUR, **changes})


def test_a_single_process_ends_as_it_would_anyway():
    assert as_process(lambda: 7) == 7
    with pytest.raises(SystemExit):
        as_process(lambda: sys.exit(3))
    with pytest.raises(KeyError):
        as_process(lambda: {}["x"])
