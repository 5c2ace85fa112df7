"""`import jaxtune` is cheap."""

import subprocess
import sys

HEAVY = ("jax", "numpy", "transformers", "flax", "tensorflow", "torch", "yaml", "tyro")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_loads_nothing_heavy():
    code = f"import jaxtune, jaxtune.config, jaxtune.errors, jaxtune.files, sys; print([m for m in {HEAVY} if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_import_takes_under_a_tenth_of_a_second():
    # CPU time, best of five fresh processes: the machine may be busy, the import itself may not be slow.
    code = "import time; t = time.process_time(); import jaxtune; print(time.process_time() - t)"
    assert min(float(run(code)) for _ in range(5)) < 0.1


def test_every_name_resolves():
    import jaxtune

    for name in jaxtune.__all__:
        assert getattr(jaxtune, name) is not None


def test_run_time_needs_neither_torch_nor_tensorflow():
    modules = "jaxtune.training.train, jaxtune.training.run, jaxtune.hub.pretrained, jaxtune.data.pipeline, jaxtune.cli, sys"
    code = f"import {modules}; print([m for m in ('torch', 'tensorflow') if m in sys.modules])"
    assert run(code).strip() == "[]"
