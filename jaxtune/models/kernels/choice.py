"""Which kernel computes attention: settled call by call when a program is traced, with the reasons kept.

A model may have calls of several kinds (with a bias, over a cache, with a window), so one run may use
more than one kernel; what no kernel takes goes to ``plain_attention``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxtune.models.attention import AttentionSpec, plain_attention
from jaxtune.models.kernels import cudnn, splash
from jaxtune.models.kernels.calls import Call, call_of

Name = Literal["splash", "cudnn", "plain"]
Asked = Literal["auto", "plain"]
PLATFORMS: Mapping[Name, str] = {"splash": "tpu", "cudnn": "gpu"}
"""Where a kernel runs; plain attention runs everywhere."""
_MOST_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class Place:
    """Where attention will run.

    Attributes:
        platform: "tpu", "gpu" or "cpu": that of the devices the program is compiled for.
        mesh: these devices; none for one of them, or within ``pmap``.
        windows: all windows that the model's layers have, where they differ; see ``splash.refuses``.
        packed: rows may hold several examples, or begin with padding.
        capability: compute capability of a GPU.
        asked: "plain" takes plain attention throughout.
        interpret: run TPU kernels in plain XLA, on any platform, for tests.
    """

    platform: str
    mesh: Mesh | None = None
    windows: tuple[int, ...] = ()
    packed: bool = True
    capability: float | None = None
    asked: Asked = "auto"
    interpret: bool = False


def place_on(mesh: Mesh, **options: Any) -> Place:
    """The place that the devices of a mesh are, with other fields of ``Place``."""
    device = mesh.devices.flat[0]
    capability = None
    if device.platform == "gpu":
        try:
            capability = float(device.compute_capability)
        except (AttributeError, ValueError):
            capability = 0.0  # not NVIDIA's
    return Place(device.platform, mesh, capability=capability, **options)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What computes a call.

    Attributes:
        attention: called as ``plain_attention`` is, precision included.
        refused: of each other kernel, why it does not.
    """

    name: Name
    attention: Callable[..., Array]
    refused: Mapping[Name, str]


def choose_attention(call: Call, place: Place) -> Choice:
    """The kernel for one call: that of the platform, where it takes the call, else plain attention."""
    refused: dict[Name, str] = {}
    for name in PLATFORMS:
        reason = _refuses(name, call, place)
        if reason is None:
            others: dict[Name, str] = {
                other: _elsewhere(other, place) for other in PLATFORMS if other != name
            }
            return Choice(name, _made(name, place), others)
        refused[name] = reason
    return Choice("plain", plain_attention, refused)


def _refuses(name: Name, call: Call, place: Place) -> str | None:
    if PLATFORMS[name] != place.platform:
        return _elsewhere(name, place)
    if place.asked == "plain":
        return "plain attention was asked for"
    if name == "splash":
        return splash.refuses(call, place.mesh, place.windows)
    return cudnn.refuses(call, place.mesh, packed=place.packed, capability=place.capability)


def _elsewhere(name: Name, place: Place) -> str:
    return f"it runs on {PLATFORMS[name]}, not on {place.platform}"


def _made(name: Name, place: Place) -> Callable[..., Array]:
    if name == "splash":
        return splash.make_splash(place.mesh, place.interpret, place.windows)
    return cudnn.make_cudnn(place.mesh)


class ChosenAttention:
    """Attention that looks at each call and takes the kernel for it; it remembers what it took.

    Attributes:
        place: where it runs.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._choices: dict[tuple[Place, Call], Choice] = {}

    def __call__(
        self,
        query: Float[Array, "B S H C"],
        key: Float[Array, "B T K C"],
        value: Float[Array, "B T K C"],
        spec: AttentionSpec,
        precision: str = "default",
    ) -> Float[Array, "B S H C"]:
        """What ``plain_attention`` computes."""
        call = call_of(query, key, spec, precision)
        choice = self._choices.get((self.place, call))
        if choice is None:
            choice = self._choices[self.place, call] = choose_attention(call, self.place)
        return choice.attention(query, key, value, spec, precision)

    def alone(self) -> ChosenAttention:
        """The same within ``pmap``, where each device is alone; both describe what both took."""
        other = ChosenAttention(dataclasses.replace(self.place, mesh=None))
        other._choices = self._choices
        return other

    @property
    def taken(self) -> tuple[tuple[Call, Choice], ...]:
        """What computed each kind of call so far, that is, of the programs traced so far."""
        return tuple((call, choice) for (_, call), choice in self._choices.items())

    def describe(self) -> list[str]:
        """Lines for people: each kernel with the calls it took, and why no other did."""
        groups: dict[tuple[str, tuple[tuple[Name, str], ...]], list[str]] = {}
        for call, choice in self.taken:
            groups.setdefault((choice.name, tuple(choice.refused.items())), []).append(call.shape())
        if not groups:
            return [f"attention on {self.place.platform}: nothing is traced yet"]
        return [
            f"attention on {self.place.platform}: {name} for {_listed(shapes)} "
            f"({'; '.join(f'not {other}: {reason}' for other, reason in refused)})"
            for (name, refused), shapes in groups.items()
        ]


def _listed(shapes: list[str]) -> str:
    different = list(dict.fromkeys(shapes))
    more = len(different) - _MOST_SHOWN
    return " | ".join(different[:_MOST_SHOWN]) + (f" | and {more} more" if more > 0 else "")
