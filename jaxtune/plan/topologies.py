"""Machines that a plan is for: chips elsewhere, by the name and shape that a cloud sells them under.

``v5e:4x4`` is 16 chips of v5e, ``2xv5e:4x4`` is two such slices joined by the data-centre network, ``cpu:8`` is
eight fake devices of this machine. The TPU compiler (libtpu) runs on any x86 machine and needs no TPU.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from jaxtune.errors import ConfigError
from jaxtune.parallel.accelerators import ACCELERATORS, Accelerator, accelerator_of

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
SHAPES: dict[str, tuple[str, ...]] = {
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", *_CUBES),
    "v5e": _FLAT,
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", *_CUBES, "16x16x24"),
    "v6e": _FLAT,
}
"""Shapes that each chip is sold in: https://docs.cloud.google.com/tpu/docs/v4, …/v5e, …/v5p and …/v6e."""
TWO_DEVICES_A_CHIP = ("v2", "v3", "tpu7x", "v7x")
"""JAX shows each core of these as a device, which the counts of a plan, all of them per chip, do not provide for."""
MOST_DEVICES = 512
"""Fake devices of a CPU: each is a thread."""

_FAKE = "--xla_force_host_platform_device_count"
_NAME = re.compile(r"(?:(\d+)[x*])?([a-z]\w*):(\d+(?:x\d+)*)")
_EXAMPLES = "expected a chip and a shape as v5e:4x4, slices in front as 2xv5e:4x4, or fake devices as cpu:8"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips and how they are joined.

    Attributes:
        chip: name in ``ACCELERATORS``, or ``cpu``.
        shape: chips along each dimension of the torus of a slice.
        slices: of that shape.
    """

    chip: str
    shape: tuple[int, ...]
    slices: int = 1

    def __post_init__(self) -> None:
        """Also takes what JSON makes of a shape."""
        object.__setattr__(self, "shape", tuple(self.shape))

    @property
    def name(self) -> str:
        """As ``parse_topology`` reads it."""
        front = f"{self.slices}x" if self.slices > 1 else ""
        return f"{front}{self.chip}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """Of all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def accelerator(self) -> Accelerator | None:
        """Figures of the chip; none of a CPU."""
        return ACCELERATORS.get(self.chip)

    @property
    def capacity(self) -> int | None:
        """Bytes of HBM that a program gets on a device; none where there are no figures."""
        chip = self.accelerator
        return None if chip is None else chip.capacity // chip.devices

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Which dimensions are rings rather than lines.

        v5e and v6e close a dimension of 16 only; the others close all of them where the slice is made of whole cubes
        of 4 × 4 × 4 (https://jax-ml.github.io/scaling-book/tpus/).
        """
        if self.chip in ("v5e", "v6e"):
            return tuple(size == 16 for size in self.shape)
        whole = len(self.shape) == 3 and all(size % 4 == 0 for size in self.shape)
        return (whole,) * len(self.shape)


def parse_topology(text: str) -> Topology:
    """A topology by its name.

    Args:
        text: as ``v5e:4x4``, ``2xv5e:4x4`` or ``cpu:8``; ``*`` may stand for the first ``x``.

    Raises:
        ConfigError: not such a name, a chip that is not known, or a shape that it is not sold in (lists them).
    """
    match = _NAME.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigError(f"--topology {text!r} is not understood; {_EXAMPLES}. Known: {known()}")
    slices, chip, layout = int(match[1] or 1), match[2], match[3]
    shape = tuple(map(int, layout.split("x")))
    if slices < 1:
        raise ConfigError(f"--topology {text!r} has no slice; {_EXAMPLES}")
    if chip == "cpu":
        if slices > 1 or len(shape) > 1 or not 1 <= shape[0] <= MOST_DEVICES:
            raise ConfigError(
                f"--topology {text!r}: fake devices are cpu:1 to cpu:{MOST_DEVICES}, in one slice"
            )
        return Topology(chip, shape)
    if chip in TWO_DEVICES_A_CHIP:
        raise ConfigError(
            f"--topology {text!r}: JAX shows a chip of {chip} as two devices, which a plan cannot count; expected "
            f"one of {', '.join(SHAPES)}"
        )
    if chip not in SHAPES:
        other = " (a GPU, for which nothing compiles ahead of time)" if chip in ACCELERATORS else ""
        raise ConfigError(f"--topology {text!r}: the chip {chip} is not known{other}; known: {known()}")
    if layout not in SHAPES[chip]:
        raise ConfigError(
            f"--topology {text!r}: {chip} has no shape {layout}; known: {', '.join(SHAPES[chip])}"
        )
    return Topology(chip, shape, slices)


def known() -> str:
    """All names of one slice, in a line."""
    tpus = "; ".join(f"{chip}:{', '.join(shapes)}" for chip, shapes in SHAPES.items())
    return f"{tpus}; cpu:N"


def devices(topology: Topology) -> list[Any]:
    """Devices that programs can be compiled for, one per chip; they hold no data.

    The process must have been started with ``environment``.

    Raises:
        ConfigError: libtpu is missing (names the extra) or refuses the shape; or fewer fake devices than asked for.
    """
    if topology.chip == "cpu":
        return _fake_devices(topology)
    _check_libtpu()
    layout = "x".join(map(str, topology.shape))
    options: dict[str, Any] = {}
    if topology.slices > 1:
        options["num_slices"] = topology.slices
    if topology.chip == "v4":
        options["chip_config_name"] = "megacore"  # else its two cores are a device each
    if math.prod(topology.shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(f"{topology.chip}:{layout}", "tpu", **options)
    except Exception as error:  # several classes, by the version of JAX
        raise ConfigError(
            f"the TPU compiler refuses {topology.name}: {str(error).splitlines()[0]}. Known: {known()}"
        ) from error
    return list(found.devices)


def environment(topology: Topology) -> dict[str, str]:
    """What a process that compiles for it must have set before JAX starts."""
    if topology.chip == "cpu":
        return {
            "JAX_PLATFORMS": "cpu",
            # The last of two equal flags counts.
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {_FAKE}={topology.chips}".strip(),
        }
    return {
        "JAX_PLATFORMS": "cpu",  # of this process itself; the compiler is asked for by name
        "TPU_SKIP_MDS_QUERY": "1",  # no metadata server answers outside the cloud
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # else the second process aborts at the first one's lock file
    }


def topology_here(here: Sequence[Any]) -> Topology:
    """The topology of devices that are here, of ``jax.devices()``.

    TPUs are laid out by their coordinates, all others in a line. A chip that is not in ``ACCELERATORS`` goes by its
    platform's name, and has no figures.
    """
    first = here[0]
    known_chip = accelerator_of(first.device_kind)
    chip = first.platform if known_chip is None else known_chip.name
    slices = len({getattr(device, "slice_index", 0) for device in here})
    places = [getattr(device, "coords", None) for device in here]
    if first.platform == "tpu" and all(places) and (known_chip is None or known_chip.devices == 1):
        spans = [sorted({place[d] for place in places if place}) for d in range(len(first.coords))]
        shape = tuple(span[-1] - span[0] + 1 for span in spans)
        shape = shape[:2] if chip in ("v5e", "v6e") else shape  # which have no third dimension
        if slices * math.prod(shape) == len(here):
            return Topology(chip, shape, slices)
    return Topology(chip, (len(here) // slices,), slices)


def _fake_devices(topology: Topology) -> list[Any]:
    found = jax.devices("cpu")[: topology.chips]
    if len(found) < topology.chips:
        raise ConfigError(
            f"{topology.name} needs {topology.chips} fake devices, and this process has {len(found)}; start it with "
            f"XLA_FLAGS={_FAKE}={topology.chips}"
        )
    return found


def _check_libtpu() -> None:
    if importlib.util.find_spec("libtpu") is None and not os.environ.get("TPU_LIBRARY_PATH"):
        raise ConfigError(
            "plans for TPUs need the TPU compiler, which is not installed; "
            "pip install 'jaxtune[plan]' brings it (no TPU is needed)"
        )
