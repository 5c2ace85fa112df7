"""Every test runs on the CPU backend, with eight fake devices for those about sharding."""

import os
import sys
from pathlib import Path

import hypothesis  # early: imported late, by its plugin, it sometimes crashed Python 3.11.7's parser
import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
# Half of the suite's time goes into compiling programs that run for milliseconds: LLVM need not optimise them.
# YNNPACK's kernels, chosen by shape, sum in another order in a batch than in a row: seven times the rounding between
# decoding with a cache and without one (mT5, JAX 0.12), which says nothing of our code. XLA's own loops do not.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_experimental_ynn_fusion_type= "
    + os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
).strip()
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests compile the same tiny models over and over; the cache makes that three times as fast.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Drop what a module compiled: each program maps memory, and a process may have some 65,000 mappings only."""
    yield
    if "jax" in sys.modules:  # a module that needs none shall not pay for its import
        sys.modules["jax"].clear_caches()


# A busy machine is no failure: no test is judged by the clock.
hypothesis.settings.register_profile("jaxtune", deadline=None)
hypothesis.settings.load_profile("jaxtune")
