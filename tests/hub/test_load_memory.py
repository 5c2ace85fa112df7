"""Loading holds the shards and one leaf, and nothing else: anonymous memory of a process of its own.

benchmarks/load_memory.py measures it; its allowance is what loading a model of no size needs (tracing, compiled
programs, Python's objects), and does not grow with the model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is Linux's")


def measured(*arguments):
    script = REPOSITORY / "benchmarks" / "load_memory.py"
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dtype", "F32"),
        ("--dtype", "BF16", "--param-dtype", "bfloat16", "--num-hidden-layers", "16"),
        ("--dtype", "F16", "--scan-layers"),
        ("--devices", "8", "--layout", "split"),
        ("--devices", "8", "--layout", "mixed", "--dtype", "BF16"),
        ("--devices", "8", "--layout", "copies", "--shard-bytes", "20000000"),
    ],
    ids=" ".join,
)
def test_the_peak_is_what_the_shards_hold_and_one_leaf(arguments):
    found = measured(*arguments)
    mib = {name: round(value / 2**20) for name, value in found.items() if name.endswith("_bytes")}
    print(mib)
    # So large that a second copy of the model, or of its leaves on eight devices, would break the bar.
    assert (
        found["shards_bytes"] > 2 * (found["largest_leaf_bytes"] + found["allowance_bytes"])
        or found["devices"] > 1
    )
    assert found["peak_bytes"] <= found["bound_bytes"], mib
