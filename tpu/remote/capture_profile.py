"""Asks a running JAX process for a profile: its profiler server is on this host, see jax.profiler.start_server.

XProf's client does the asking (https://github.com/openxla/xprof), as jax.collect_profile has it do. It runs in an
environment of its own, since the one of the job must not change while the job runs; it needs no JAX and touches no TPU.
"""

from __future__ import annotations

import argparse


def main() -> None:
    """Writes FOLDER/plugins/profile/TIME/HOST.xplane.pb, which XProf and TensorBoard read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--folder", required=True)
    given = parser.parse_args()

    from xprof.convert import _pywrap_profiler_plugin as client

    # The Python tracer is left out: it slows the host so much that the device waits for it.
    options = {"host_tracer_level": 2, "device_tracer_level": 1, "python_tracer_level": 0}
    attempts = 3
    client.trace(f"127.0.0.1:{given.port}", given.folder, "", True, 1000 * given.seconds, attempts, options)


if __name__ == "__main__":
    main()
