"""The real TPU compiler takes the train step of every family, for every generation."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxtune.models.registry import FAMILIES
from jaxtune.plan.topologies import environment, parse_topology

pytestmark = pytest.mark.slow
TOPOLOGIES = ("v4:2x2x2", "v5e:2x4", "v5p:2x2x2", "v6e:2x4")
WITHOUT_ATTENTION = {"bilstm", "textcnn"}
WITH_BIAS = {"t5", "mt5", "deberta-v2"}
"""Their attention adds a bias to the scores, which splash attention does not take."""


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_family_compiles(topology):
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install -e '.[plan]'")
    parsed = parse_topology(topology)
    assert parsed.chips == 8
    done = subprocess.run(
        [sys.executable, "-m", "tests.plan.compile_families", topology],
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment(parsed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = {row["family"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert set(found) == set(FAMILIES)
    for family, row in found.items():
        assert 0 < row["peak"] < 2**30, family
        kernels = " ".join(row["attention"])
        if family not in WITHOUT_ATTENTION:
            assert "plain for" in kernels if family in WITH_BIAS else "splash for" in kernels, (
                family,
                kernels,
            )
