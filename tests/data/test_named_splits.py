"""A data set whose splits have names of their own, as MNLI's: the preset says which of them are validation and test."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

from jaxtune.data.parts import resolve
from jaxtune.tasks.registry import make_task

SCRIPT = Path(__file__).parents[2] / "experiments" / "classification.py"
SPLITS = {
    "train": 5,
    "validation_matched": 2,
    "validation_mismatched": 3,
    "test_matched": 2,
    "test_mismatched": 2,
}


def mnli(data_dir):
    """A few rows in MNLI's schema, prepared; the test splits without labels, as there."""
    import tensorflow_datasets as tfds

    names = ["entailment", "neutral", "contradiction"]
    features = tfds.features.FeaturesDict(
        {
            "premise": tfds.features.Text(),
            "hypothesis": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=names),
        }
    )

    class Mnli(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split, count) for split, count in SPLITS.items()}

        def _generate_examples(self, split, count):
            for i in range(count):
                label = -1 if split.startswith("test") else i % 3
                yield i, {"premise": f"{split} {i}", "hypothesis": "so", "label": label}

    builder = Mnli(data_dir=data_dir)
    builder.download_and_prepare(file_format="array_record")
    return str(builder.data_dir)


def test_mnli_is_validated_on_matched_and_tested_on_mismatched_genres(tmp_path):
    spec = importlib.util.spec_from_file_location("classification_presets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    preset = module.PRESETS["mnli"][1]
    folder = mnli(tmp_path)
    here = {
        name: getattr(preset.data, name).replace("glue/mnli", folder)
        for name in ("train", "validation", "test")
    }
    data = dataclasses.replace(preset.data, **here)
    parts = resolve(data, make_task(preset).columns_read)
    assert {name: len(part.indices) for name, part in parts.items()} == {
        "train": 5,
        "validation": 2,
        "test": 3,
    }
    assert parts["test"].records[0]["premise"].startswith("validation_mismatched")
    assert sorted(parts["validation"].labels) == [0, 1]
