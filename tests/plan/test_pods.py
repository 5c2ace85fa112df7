"""Large models on whole pods: minutes of compiling each, so `make test-all` runs them, and CI does not."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
CASES = {
    "BERT-large": (["bert-large", "--topology", "v5e:2x4"], "plain"),
    "T5-3B": (["t5-3b", "--topology", "v5e:8x8", "--mesh.fsdp", "64"], "plain"),
    "Llama-3-8B, 2,048 on v5e": (["llama-3-8b", "--topology", "v5e:16x16", "--mesh.fsdp", "256"], "splash"),
    "Llama-3-8B, 8,192 on v5e": (
        ["llama-3-8b", "--topology", "v5e:16x16", "--mesh.fsdp", "256", "--data.max-length", "8192"],
        "splash",
    ),
    "Llama-3-8B, 2,048 on v5p": (["llama-3-8b", "--topology", "v5p:4x4x4", "--mesh.fsdp", "64"], "splash"),
    "Llama-3-8B, 8,192 on v5p": (
        ["llama-3-8b", "--topology", "v5p:4x4x4", "--mesh.fsdp", "64", "--data.max-length", "8192"],
        "splash",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_pods_hold_large_models(name):
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install -e '.[plan]'")
    words, kernel = CASES[name]
    command = [sys.executable, "-m", "jaxtune.cli", "plan", *words, "--json", "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = json.loads(done.stdout)
    assert found["fits"], found
    assert any(line.startswith(f"attention on tpu: {kernel} for") for line in found["attention"])
    assert found["host_memory"] <= 8 * 2**30
    assert 0 < found["bound"]["mfu"] <= 1
