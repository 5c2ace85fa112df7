"""Chips are found by the names JAX gives their devices, and each figure has a source."""

import pytest

from jaxtune.parallel.accelerators import ACCELERATORS, GIB, accelerator_of, accelerator_rows


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v3", "v3"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
    ],
)
def test_a_chip_is_found_by_the_name_of_its_devices(kind, name):
    assert accelerator_of(kind) is ACCELERATORS[name]


@pytest.mark.parametrize("kind", ["NVIDIA L40S", "NVIDIA A1000", "TPU v51", "cpu", ""])
def test_a_chip_that_only_sounds_alike_is_not_known(kind):
    assert accelerator_of(kind) is None


@pytest.mark.parametrize("chip", ACCELERATORS.values(), ids=lambda chip: chip.name)
def test_figures_are_in_range_and_have_a_source(chip):
    assert 50e12 < chip.peak_flops < 5e15
    assert 15 * GIB < chip.capacity <= chip.hbm <= 192 * GIB
    assert chip.interconnect < chip.hbm_bandwidth < chip.peak_flops
    assert chip.dcn is None or chip.dcn < chip.link
    assert chip.source.startswith("https://")
    assert chip.device_kinds


def test_the_table_has_a_row_per_chip():
    rows = {row["chip"]: row for row in accelerator_rows()}
    assert list(rows) == list(ACCELERATORS)
    assert rows["v5e"] == {
        "chip": "v5e",
        "peak TFLOP/s": "197",
        "HBM GiB": "16",
        "usable GiB": "15.75",
        "HBM GB/s": "819",
        "links GB/s": "4 × 45",
        "DCN GB/s": "3.12",
        "source": "https://docs.cloud.google.com/tpu/docs/v5e https://jax-ml.github.io/scaling-book/tpus/",
    }
