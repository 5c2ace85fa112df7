"""``jaxtune plan`` and ``jaxtune sweep``."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxtune import files
from jaxtune.cli.output import print_lines
from jaxtune.config import Experiment, validate
from jaxtune.errors import ConfigError, RunError

if TYPE_CHECKING:
    from jaxtune.plan.compiled import Compiled
    from jaxtune.plan.topologies import Topology

_Experiment = Annotated[Experiment, tyro.conf.arg(name="")]
REPORT = ("plan.csv", "plan.md", "plan.png")
TARGETS = (
    "EXPERIMENT is a shape (bert-base, bert-large, gpt2, t5-base, t5-3b, llama-3-8b, llama-3-70b, gemma-2-2b), "
    "a YAML file as a run's config.yaml, or a run directory. Its fields may be changed as those of `jaxtune train`."
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which mesh, before any TPU is rented: the experiment's train step compiled for chips that are elsewhere.

    Needs neither weights nor tokenizer nor data, and no TPU: `pip install 'jaxtune[plan]'` brings the compiler.

    Example: jaxtune plan llama-3-8b --topology v5e:16x16 --mesh.fsdp 256

    Example: jaxtune plan bert-base --topology v5e:4x4 --sweep --report plans/bert

    Example: jaxtune plan runs/reviews/config.yaml --topology 2xv5e:4x4 --train.batch-size 256 --sweep
    """

    topology: str = "v5e:2x4"
    """Chip and shape: v4, v5e, v5p or v6e, as v5e:16x16; several slices as 2xv5e:4x4; fake devices of this machine as cpu:8."""
    sweep: bool = False
    """Try every sensible mesh instead of the experiment's own."""
    most: int = 16
    """Most meshes of a sweep, the simplest first."""
    workers: int | None = None
    """How many to compile side by side; none takes one per core and 3 GiB of free memory."""
    limit: float = 1800.0
    """Seconds after which the compiler is given up on."""
    report: str | None = None
    """Folder for plan.csv, plan.md and plan.png."""
    overwrite_report: bool = False
    """Replace a report that is there."""
    json: bool = False
    """Print JSON instead of tables."""
    cache: bool = True
    """Take what was compiled before, from the cache."""
    accelerators: bool = False
    """Only list the chips that are known, with their figures and sources."""
    experiment: _Experiment = dataclasses.field(default_factory=Experiment)

    def __call__(self) -> int:
        from jaxtune.plan.compiling import default_workers
        from jaxtune.plan.planning import fixed_mesh, meshes_for, plan_meshes
        from jaxtune.plan.reading import raw_config_of, with_precision_for
        from jaxtune.plan.topologies import parse_topology

        _check(self)
        topology = parse_topology(self.topology)
        experiment = with_precision_for(self.experiment, topology.accelerator is not None)
        validate(experiment)
        raw = raw_config_of(experiment)
        if self.sweep:
            meshes = meshes_for(experiment, raw, topology.chips, topology.slices, self.most)
        else:
            meshes = [fixed_mesh(experiment.mesh, topology.chips, topology.slices)]
        found = plan_meshes(
            experiment,
            raw,
            meshes,
            topology,
            workers=self.workers or default_workers(),
            limit=self.limit,
            cached=self.cache,
            progress=_counter(len(meshes)),
        )
        return _show(found, topology, experiment, self)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Run the experiment's real step on the devices that are here, on one mesh after the other, and time it.

    Example: jaxtune sweep runs/reviews/config.yaml --over mesh --steps 20

    Example: XLA_FLAGS=--xla_force_host_platform_device_count=8 jaxtune sweep bert-base --train.batch-size 16
    """

    over: Literal["mesh"] = "mesh"
    """What is varied."""
    steps: int = 10
    """Steps to time on each mesh, after two that warm up."""
    most: int = 16
    """Most meshes, the simplest first."""
    limit: float = 1800.0
    """Seconds after which a mesh is given up on."""
    report: str | None = None
    """Folder for plan.csv, plan.md and plan.png."""
    overwrite_report: bool = False
    """Replace a report that is there."""
    json: bool = False
    """Print JSON instead of tables."""
    experiment: _Experiment = dataclasses.field(default_factory=Experiment)

    def __call__(self) -> int:
        from jaxtune.plan.here import devices_here
        from jaxtune.plan.planning import measure_meshes, meshes_for
        from jaxtune.plan.reading import raw_config_of, with_precision_for

        _check(self)
        here = devices_here(self.limit)
        experiment = with_precision_for(self.experiment, here.accelerator is not None)
        validate(experiment)
        raw = raw_config_of(experiment)
        meshes = meshes_for(experiment, raw, here.chips, here.slices, self.most)
        found = measure_meshes(
            experiment,
            raw,
            meshes,
            steps=self.steps,
            capacity=here.capacity,
            limit=self.limit,
            progress=_counter(len(meshes)),
        )
        return _show(found, here, experiment, self)


NAMES: dict[str, type[Plan] | type[Sweep]] = {"plan": Plan, "sweep": Sweep}


def command_of(name: str, argv: Sequence[str]) -> Callable[[], int]:
    """The command ``plan`` or ``sweep``, its fields read: the experiment first, then what is given beside it.

    Raises:
        ConfigError: no experiment, or one that cannot be read.
    """
    kind = NAMES[name]
    if "--accelerators" in argv and kind is Plan:
        return _print_accelerators
    targets = [word for word in argv[:1] if not word.startswith("-")]
    asked_for_help = {"-h", "--help"} & set(argv)
    if not targets and not asked_for_help:
        raise ConfigError(f"jaxtune {name} names no experiment. {TARGETS}")
    default = kind()
    if targets:
        from jaxtune.plan.reading import read_experiment

        default = dataclasses.replace(default, experiment=read_experiment(targets[0]))
    description = f"{inspect.getdoc(kind)}\n\nUsage: jaxtune {name} EXPERIMENT [--field value …]\n\n{TARGETS}"
    rest = list(argv[len(targets) :])
    found: Any = tyro.cli(kind, prog=f"jaxtune {name}", args=rest, default=default, description=description)
    return found


def _check(asked: Plan | Sweep) -> None:
    """Refuse what cannot be done before anything is compiled."""
    for name in ("most", "limit", "workers", "steps"):
        value = getattr(asked, name, None)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name} is {value}; expected more than 0")
    if asked.report and not asked.overwrite_report:
        for file in REPORT:
            path = files.join(asked.report, file)
            if files.exists(path):
                raise RunError(
                    f"{path} exists; choose another --report, or replace it with --overwrite-report"
                )


def _counter(total: int) -> Callable[[Compiled], None]:
    """Says of each mesh, as it ends, what became of it."""
    from jaxtune.parallel.mesh import describe

    numbers = itertools.count(1)

    def say(found: Compiled) -> None:
        said = f"compiled in {found.seconds:.0f} s" if found.fits else "does not fit"
        if found.measured is not None:
            said = f"{1000 * found.measured:.1f} ms a step"
        print(f"[{next(numbers)}/{total}] {describe(found.mesh)}: {found.error or said}", file=sys.stderr)

    return say


def _show(
    compiled: Sequence[Compiled], topology: Topology, experiment: Experiment, asked: Plan | Sweep
) -> int:
    """Print the plan and write its report; 1 where no mesh fits."""
    from jaxtune.plan.advice import Facts
    from jaxtune.plan.bounds import best_first, bound_of
    from jaxtune.plan.pictures import plan_picture
    from jaxtune.plan.report import csv_text, markdown_text, print_report

    found = best_first((each, bound_of(each, topology)) for each in compiled)
    facts = Facts.of(experiment)
    # First, as a reader of the output may go, as `| head` does.
    if asked.report:
        title = f"{experiment.name} on {topology.name}"
        files.make_dirs(asked.report)
        table, text, picture = (files.join(asked.report, file) for file in REPORT)
        files.write_text(table, csv_text(found, topology, facts))
        files.write_text(text, markdown_text(found, topology, facts, title))
        files.write_bytes(picture, plan_picture(found, topology, title))
        print(f"written: {table}, {text}, {picture}", file=sys.stderr)
    if asked.json:
        print(json.dumps([_values(*each) for each in found], indent=2, ensure_ascii=False))
    else:
        print_report(found, topology, facts)
    return 0 if any(each.fits for each in compiled) else 1


def _values(compiled: Compiled, bound: Any) -> dict[str, Any]:
    """Plain values of one mesh."""
    extra = None if bound is None else {**dataclasses.asdict(bound), "step": bound.step, "binds": bound.binds}
    return {**compiled.to_json(), "fits": compiled.fits, "bound": extra}


def _print_accelerators() -> int:
    from jaxtune.plan.report import accelerators_text

    print_lines(accelerators_text().splitlines())
    return 0
