"""Chips that models are trained on, and what their makers say they can do.

All figures are of a chip, dense (no structured sparsity) and at best; nothing measured here. Peaks are of
bfloat16, of float16 where a chip has no bfloat16. Sizes count GiB, rates count powers of ten, as the makers do.
"""

from __future__ import annotations

import dataclasses
from typing import Any

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One kind of chip.

    Attributes:
        name: as in the name of a topology.
        kind: ``tpu`` or ``gpu``.
        peak_flops: bfloat16 FLOP/s.
        hbm: bytes of memory.
        hbm_bandwidth: bytes/s.
        interconnect: bytes/s that a chip can send over all its links (ICI, NVLink, PCIe) together, one direction.
        links: how many links it has; 1 where a switch joins all chips.
        dcn: bytes/s that a chip can send to other slices or hosts; none where there is no public figure.
        source: page with these figures.
        interconnect_source: page with those of the links, where it is another one.
        device_kinds: how ``jax.Device.device_kind`` begins.
        devices: that JAX shows for a chip.
        usable: bytes of ``hbm`` that TPU programs get, as the compiler (libtpu 0.0.42) says when it refuses one.
    """

    name: str
    kind: str
    peak_flops: float
    hbm: int
    hbm_bandwidth: float
    interconnect: float
    links: int
    dcn: float | None
    source: str
    interconnect_source: str = ""
    device_kinds: tuple[str, ...] = ()
    devices: int = 1
    usable: int | None = None

    @property
    def capacity(self) -> int:
        """Bytes that a program may use: ``usable`` where it is known, else all there is."""
        return self.hbm if self.usable is None else self.usable

    @property
    def link(self) -> float:
        """Bytes/s over one link, one direction."""
        return self.interconnect / self.links


_GOOGLE = "https://docs.cloud.google.com/tpu/docs/"
# Achievable rates, about 9/10 of what the wires carry.
_SCALING_BOOK = "https://jax-ml.github.io/scaling-book/tpus/"

_TPUS = (
    Accelerator(
        name="v3",
        kind="tpu",
        peak_flops=123e12,
        hbm=32 * GIB,
        hbm_bandwidth=900e9,
        # All-reduce bandwidth of a pod, 340 TB/s, over its 1,024 chips; the scaling book rounds to 100 GB/s a link.
        interconnect=332e9,
        links=4,
        dcn=None,
        source=_GOOGLE + "v3",
        device_kinds=("TPU v3",),
        devices=2,
        usable=2 * round(15.48 * GIB),  # of each of its two devices
    ),
    Accelerator(
        name="v4",
        kind="tpu",
        peak_flops=275e12,
        hbm=32 * GIB,
        hbm_bandwidth=1200e9,
        interconnect=6 * 45e9,
        links=6,
        dcn=25e9 / 4,  # an estimate: 25 GB/s for a host, which has 4 chips
        source=_GOOGLE + "v4",
        interconnect_source=_SCALING_BOOK,
        device_kinds=("TPU v4",),
        usable=round(30.75 * GIB),
    ),
    Accelerator(
        name="v5e",
        kind="tpu",
        peak_flops=197e12,
        hbm=16 * GIB,
        hbm_bandwidth=819e9,
        interconnect=4 * 45e9,  # 400 GB/s in both directions by the data sheet
        links=4,
        dcn=6.4e12 / 8 / 256,  # 6.4 Tbit/s for a pod of 256 chips
        source=_GOOGLE + "v5e",
        interconnect_source=_SCALING_BOOK,
        device_kinds=("TPU v5 lite", "TPU v5e"),
        usable=round(15.75 * GIB),
    ),
    Accelerator(
        name="v5p",
        kind="tpu",
        peak_flops=459e12,
        hbm=96 * GIB,  # the page lists the 95 GiB that are left to programs, and names the 96
        hbm_bandwidth=2765e9,
        interconnect=6 * 90e9,  # 1,200 GB/s in both directions by the data sheet
        links=6,
        dcn=50e9 / 8,
        source=_GOOGLE + "v5p",
        interconnect_source=_SCALING_BOOK,
        device_kinds=("TPU v5", "TPU v5p"),
        usable=round(95.74 * GIB),
    ),
    Accelerator(
        name="v6e",
        kind="tpu",
        peak_flops=918e12,
        hbm=32 * GIB,
        hbm_bandwidth=1600e9,
        interconnect=4 * 90e9,  # 800 GB/s in both directions by the data sheet
        links=4,
        dcn=25.6e12 / 8 / 256,  # 25.6 Tbit/s for a pod of 256 chips
        source=_GOOGLE + "v6e",
        interconnect_source=_SCALING_BOOK,
        device_kinds=("TPU v6 lite", "TPU v6e"),
        usable=round(31.25 * GIB),
    ),
    Accelerator(
        name="tpu7x",
        kind="tpu",
        peak_flops=2307e12,
        hbm=192 * GIB,
        hbm_bandwidth=7370e9,
        interconnect=600e9,  # 1.2 TB/s in both directions: what the wires carry; nothing else is public
        links=6,
        dcn=None,
        source=_GOOGLE + "tpu7x",
        device_kinds=("TPU7x",),
        devices=2,
        usable=2 * round(94.75 * GIB),  # of each of its two devices
    ),
)

_NVIDIA = "https://www.nvidia.com/en-us/data-center/"
# NVIDIA counts NVLink and PCIe in both directions together, and matrix products with structured sparsity.
_GPUS = (
    Accelerator(
        name="v100",
        kind="gpu",
        peak_flops=125e12,  # float16
        hbm=32 * GIB,  # of the larger of two; the other has 16
        hbm_bandwidth=900e9,
        interconnect=150e9,
        links=1,
        dcn=None,
        source=_NVIDIA + "v100/",
        device_kinds=("Tesla V100",),
    ),
    Accelerator(
        name="t4",
        kind="gpu",
        peak_flops=65e12,  # float16
        hbm=16 * GIB,
        hbm_bandwidth=320e9,
        interconnect=16e9,  # PCIe 3
        links=1,
        dcn=None,
        source=_NVIDIA + "tesla-t4/",
        device_kinds=("Tesla T4",),
    ),
    Accelerator(
        name="a10",
        kind="gpu",
        peak_flops=125e12,
        hbm=24 * GIB,
        hbm_bandwidth=600e9,
        interconnect=32e9,  # PCIe 4
        links=1,
        dcn=None,
        source=_NVIDIA + "products/a10-gpu/",
        device_kinds=("NVIDIA A10",),
    ),
    Accelerator(
        name="a10g",
        kind="gpu",
        peak_flops=70e12,  # made for one cloud, and not on NVIDIA's own pages: second-hand
        hbm=24 * GIB,
        hbm_bandwidth=600e9,
        interconnect=32e9,  # PCIe 4
        links=1,
        dcn=None,
        source="https://www.baseten.co/blog/nvidia-a10-vs-a10g-for-ml-model-inference/",
        device_kinds=("NVIDIA A10G",),
    ),
    Accelerator(
        name="a100-40",
        kind="gpu",
        peak_flops=312e12,
        hbm=40 * GIB,
        hbm_bandwidth=1555e9,
        interconnect=300e9,
        links=1,
        dcn=None,
        source=_NVIDIA + "a100/",
        device_kinds=("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
    ),
    Accelerator(
        name="a100-80",
        kind="gpu",
        peak_flops=312e12,
        hbm=80 * GIB,
        hbm_bandwidth=2039e9,
        interconnect=300e9,
        links=1,
        dcn=None,
        source=_NVIDIA + "a100/",
        device_kinds=("NVIDIA A100",),
    ),
    Accelerator(
        name="l4",
        kind="gpu",
        peak_flops=121e12,
        hbm=24 * GIB,
        hbm_bandwidth=300e9,
        interconnect=32e9,  # PCIe 4
        links=1,
        dcn=None,
        source=_NVIDIA + "l4/",
        device_kinds=("NVIDIA L4",),
    ),
    Accelerator(
        name="h100",
        kind="gpu",
        peak_flops=989e12,
        hbm=80 * GIB,
        hbm_bandwidth=3350e9,
        interconnect=450e9,
        links=1,
        dcn=None,
        source=_NVIDIA + "h100/",
        device_kinds=("NVIDIA H100",),
    ),
    Accelerator(
        name="h200",
        kind="gpu",
        peak_flops=989e12,
        hbm=141 * GIB,
        hbm_bandwidth=4800e9,
        interconnect=450e9,
        links=1,
        dcn=None,
        source=_NVIDIA + "h200/",
        device_kinds=("NVIDIA H200",),
    ),
    Accelerator(
        name="b200",
        kind="gpu",
        peak_flops=2250e12,
        hbm=180 * GIB,
        hbm_bandwidth=8000e9,
        interconnect=900e9,
        links=1,
        dcn=None,
        source=_NVIDIA + "dgx-b200/",
        device_kinds=("NVIDIA B200",),
    ),
)

ACCELERATORS: dict[str, Accelerator] = {chip.name: chip for chip in (*_TPUS, *_GPUS)}
"""By name."""


def accelerator_of(device_kind: str) -> Accelerator | None:
    """The chip of a device, or none that is known.

    Args:
        device_kind: of ``jax.Device``, as "TPU v5 lite".
    """
    names = {name: chip for chip in ACCELERATORS.values() for name in chip.device_kinds}
    found = [name for name in names if _begins(device_kind, name)]
    return names[max(found, key=len)] if found else None


def accelerator_rows() -> list[dict[str, Any]]:
    """The table of ``jaxtune plan --accelerators``: one row per chip, a column per figure."""
    return [
        {
            "chip": chip.name,
            "peak TFLOP/s": f"{chip.peak_flops / 1e12:,.0f}",
            "HBM GiB": f"{chip.hbm / GIB:.0f}",
            "usable GiB": "" if chip.usable is None else f"{chip.usable / GIB:.2f}",
            "HBM GB/s": f"{chip.hbm_bandwidth / 1e9:,.0f}",
            "links GB/s": f"{chip.links} × {chip.link / 1e9:.0f}",
            "DCN GB/s": "" if chip.dcn is None else f"{chip.dcn / 1e9:.2f}",
            "source": " ".join(filter(None, (chip.source, chip.interconnect_source))),
        }
        for chip in ACCELERATORS.values()
    ]


def _begins(device_kind: str, name: str) -> bool:
    """Whether a name is followed by nothing or by another word: an A10 is no A100, an L4 no L40."""
    rest = device_kind.removeprefix(name)
    return device_kind.startswith(name) and (not rest or not rest[0].isalnum())
