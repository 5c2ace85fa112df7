"""Every family live beside transformers in torch, on other weights than the goldens'; skipped without torch."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

import jaxtune
from tests.hub.test_torch_parity import BOUND, TORCH_PYTHON
from tests.models.family_cases import inputs, real_rows
from tests.models.family_cases_all import CASES
from tests.models.family_golden import FamilyGolden

PEER = Path(__file__).parents[1] / "goldens" / "torch_family.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        TORCH_PYTHON is None, reason="no torch here, and JAXTUNE_TORCH_PYTHON names no Python with it"
    ),
]


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """Runs checkpoint folders in one process with torch: outputs, and what did not match."""
    folder = tmp_path_factory.mktemp("peer")
    process = subprocess.Popen(
        [str(TORCH_PYTHON), str(PEER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(checkpoint, head, given):
        np.savez(folder / "in.npz", **given)
        job = {
            "folder": str(checkpoint),
            "head": head,
            "inputs": str(folder / "in.npz"),
            "outputs": str(folder / "out.npz"),
        }
        print(json.dumps(job), file=process.stdin, flush=True)
        answer = json.loads(process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return np.load(folder / "out.npz")["out"], answer["loading"]

    yield run
    process.stdin.close()
    process.wait(timeout=60)


@pytest.mark.parametrize("name", CASES)
def test_as_read_and_as_saved_with_modern_names(name, tmp_path, peer):
    golden, given = FamilyGolden(CASES[name]), inputs(CASES[name], salt="live")
    golden.write(tmp_path / "source", salt="live")
    lm = jaxtune.load_pretrained(tmp_path / "source", golden.case.head, matmul_precision="highest")
    ours = real_rows(golden.case, np.asarray(lm(**given)))
    theirs, _ = peer(tmp_path / "source", golden.case.head, given)
    assert np.abs(ours - real_rows(golden.case, theirs)).max() <= BOUND
    jaxtune.save_pretrained(tmp_path / "modern", lm, modern_names=True)
    theirs, loading = peer(tmp_path / "modern", golden.case.head, given)
    assert np.abs(ours - real_rows(golden.case, theirs)).max() <= BOUND
    assert not loading, "transformers finds every tensor, and no other"
