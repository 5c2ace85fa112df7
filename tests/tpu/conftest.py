"""A scripted Google Cloud per test."""

from __future__ import annotations

import pytest

from tests.tpu.cloud_stand_in import Cloud, make_cloud


@pytest.fixture
def cloud(tmp_path) -> Cloud:
    """Nothing is there yet."""
    return make_cloud(tmp_path)


@pytest.fixture
def active(cloud) -> Cloud:
    """The TPU is there, and nothing is installed on it."""
    cloud.set_state(state="ACTIVE")
    return cloud


@pytest.fixture
def ready(active) -> Cloud:
    """The TPU is there and set up."""
    active.script("setup.sh")
    active.forget()
    return active
