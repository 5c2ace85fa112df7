"""``python -m jaxtune.plan.worker JOB RESULT``: compiles one mesh in a process of its own, which may die or be killed.

A compiler that runs out of memory or crashes takes this process with it, not the plan.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax

from jaxtune import files
from jaxtune.errors import JaxtuneError
from jaxtune.plan.collectives import collectives_of
from jaxtune.plan.compiled import Compiled
from jaxtune.plan.compiled_flops import compiled_flops, hbm_traffic
from jaxtune.plan.jobs import Job
from jaxtune.plan.measuring import measure
from jaxtune.plan.program import Program, fingerprint, make_program
from jaxtune.plan.topologies import devices

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([KMGT]?)"
_OUT_OF_MEMORY = (
    re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
    # where one buffer alone is larger than the memory
    re.compile(rf"HLO temporaries \({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
)
"""How the TPU compiler says what it needs, and what there is."""
_MOST_SAID = 600


def work(job: Job) -> Compiled:
    """Compile, or find, the program of a job.

    Raises:
        JaxtuneError: the experiment does not go with the model or the mesh.
    """
    there = None if job.topology is None else devices(job.topology)
    program = make_program(job.experiment, job.raw_config, there)
    mesh = {axis: size for axis, size in program.prepared.network.mesh.shape.items() if size > 1}
    known = Compiled(mesh, model_flops=program.model_flops, tokens=program.tokens)
    if job.capacity is not None and (least := sum(program.state_memory().values())) > job.capacity:
        return dataclasses.replace(known, needed=least, available=job.capacity)
    lowered = program.lower()
    known = dataclasses.replace(known, attention=tuple(program.prepared.network.attention_lines()))
    options = job.experiment.train.compiler_options
    name = fingerprint(lowered, repr(job.topology), repr(options), *_versions(), _reader())
    kept = job.cache and files.join(job.cache, f"{name}.json")
    if kept and not job.steps and files.exists(kept):
        return Compiled.from_json(json.loads(files.read_text(kept)))
    found = _compiled(program, lowered, known, job.steps)
    if kept and found.error is None:
        files.make_dirs(str(job.cache))
        files.write_text(kept, json.dumps(found.to_json()))
    return found


def _compiled(program: Program, lowered: Any, known: Compiled, steps: int) -> Compiled:
    start = time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options=program.prepared.compiler_options)
    except jax.errors.JaxRuntimeError as error:
        return _refused(known, str(error), time.perf_counter() - start)
    seconds = time.perf_counter() - start
    text = compiled.as_text()
    return dataclasses.replace(
        known,
        memory=program.memory(compiled),
        compiled_flops=compiled_flops(text),
        hbm_bytes=hbm_traffic(text),
        collectives=tuple(collectives_of(text, dict(program.prepared.network.mesh.shape))),
        seconds=seconds,
        measured=measure(program, compiled, steps) if steps else None,
        host_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _refused(known: Compiled, message: str, seconds: float) -> Compiled:
    """What the compiler said, with the numbers read out of it where memory was lacking."""
    known = dataclasses.replace(known, seconds=seconds)
    numbers = next(filter(None, (pattern.search(message) for pattern in _OUT_OF_MEMORY)), None)
    if numbers is None:
        return dataclasses.replace(known, error=" ".join(message.split())[:_MOST_SAID])
    needed, unit, available, other = numbers.groups()
    return dataclasses.replace(
        known,
        needed=round(float(needed) * _UNITS[unit]),
        available=round(float(available) * _UNITS[other]),
    )


def _reader() -> str:
    """A hash of the code that reads compiled programs: what an older one read is not taken from the cache."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _versions() -> tuple[str, ...]:
    import jaxlib

    try:
        import libtpu
    except ImportError:
        return jax.__version__, jaxlib.__version__
    return jax.__version__, jaxlib.__version__, str(getattr(libtpu, "__version__", ""))


def main(job: Path, result: Path) -> int:
    """Do the job of a file and write what came of it."""
    try:
        found = work(Job.from_json(json.loads(job.read_text(encoding="utf-8"))))
    except JaxtuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result.write_text(json.dumps(found.to_json()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    status = main(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stderr.flush()
    os._exit(status)  # libtpu's threads have been seen to hang at exit
