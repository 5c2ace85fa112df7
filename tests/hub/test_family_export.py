"""What was read is written as it was: every tensor with its name, type and bits, for every family."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import jaxtune
from tests.models.family_cases_all import CASES
from tests.models.family_golden import FamilyGolden

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def raw_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every tensor of a safetensors file, read without any library."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header.pop("__metadata__", None)
    return {
        name: (
            entry["dtype"],
            tuple(entry["shape"]),
            data[slice(*(end + at for at in entry["data_offsets"]))],
        )
        for name, entry in header.items()
    }


@pytest.mark.parametrize(("name", "dtype"), [(name, DTYPES[i % 3]) for i, name in enumerate(CASES)])
def test_every_tensor_keeps_its_name_type_and_bits(name, dtype, tmp_path):
    from safetensors.numpy import save_file

    golden, source, saved = FamilyGolden(CASES[name]), tmp_path / "source", tmp_path / "saved"
    unused = {"somebody.elses.weight": np.ones((2, 3), dtype), "position_ids": np.arange(9)[None]}
    save_file({**golden.write(source, dtype), **unused}, source / "model.safetensors", {"format": "pt"})
    jaxtune.save_pretrained(saved, jaxtune.load_pretrained(source, golden.case.head))
    assert raw_tensors(saved / "model.safetensors") == raw_tensors(source / "model.safetensors")
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, saved))
    changed = {key for key in before if after.get(key, ...) != before[key]}
    assert not changed - {"num_labels", "dtype"}, "only what describes the file and the head"
