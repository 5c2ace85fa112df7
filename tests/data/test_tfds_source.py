"""TFDS without TensorFlow: our own builder, prepared folders in both formats, and clear refusals."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxtune.data.sources import find_source, open_source
from jaxtune.data.sources.builders.vader_icwsm2014 import FILES, SOURCE
from jaxtune.data.sources.tfds import open_tfds
from jaxtune.data.sources.tfrecord import masked_crc32c
from jaxtune.data.splits import hash_text, places
from jaxtune.errors import DataError, SourceError

# A duplicate, a neutral sentence, a Latin-1 byte, and a byte (0x85) that other line splitters break at.
LINES = [
    "1\t2.5\tA good film.",
    "2\t-1.5\tA bad film.",
    "3\t0.04\tA film.",
    "4\t1.25\ta GOOD  film. ",
    "5\t-0.05\tClich\xe9s \x85 everywhere.",
    *(f"{i}\t{i % 7 - 3.2:.2f}\tSentence number {i}." for i in range(6, 200)),
]


@pytest.fixture
def vader(tmp_path, monkeypatch):
    """The builder's file, without the package index."""
    folder = tmp_path / "vader"
    folder.mkdir()
    for name in FILES.values():
        (folder / name).write_bytes("\r\n".join(LINES).encode("latin-1"))
    asked = []

    def locate(source, **_):
        asked.append(source)
        return folder / source.removeprefix(SOURCE)

    monkeypatch.setattr("jaxtune.hub.fetching.locate.locate", locate)
    return asked


def all_rows(source):
    return {split: [source.open(split)[i] for i in range(len(source.open(split)))] for split in source.splits}


def test_classes_are_signs_and_duplicates_stay_together(vader):
    rows = all_rows(find_source("tfds:vader_icwsm2014/movie"))
    assert list(rows) == ["train", "validation", "test"]
    together = [row for part in rows.values() for row in part]
    assert len(together) == len(LINES) - 1
    assert all(row["label"] == int(row["score"] > 0) for row in together)
    assert "Clich\xe9s \x85 everywhere." in {row["text"] for row in together}
    for split, part in rows.items():
        for row in part:
            place = places(np.array([hash_text(row["text"])], np.uint64))[0]
            assert split == ("validation" if place < 0.1 else "test" if place < 0.2 else "train")
    assert open_source("tfds:vader_icwsm2014/movie", "train").label_names == {
        "label": ("negative", "positive")
    }


def test_ratings_keep_every_row_and_have_no_label(vader):
    rows = all_rows(find_source("tfds:vader_icwsm2014/nyt_ratings"))
    together = [row for part in rows.values() for row in part]
    assert len(together) == len(LINES)
    assert set(together[0]) == {"text", "score"}
    assert {row["text"]: row["score"] for row in together}["A bad film."] == -1.5


def test_data_is_prepared_once_and_in_the_same_order(vader):
    first = open_source("tfds:vader_icwsm2014/movie", "train")
    second = open_source("tfds:vader_icwsm2014/movie[train]")
    assert len(vader) == 1
    assert first.fingerprint == second.fingerprint
    assert first.where(4) == "tfds:vader_icwsm2014/movie/1.0.0[train]: row 5"


def test_half_prepared_folders_are_not_trusted(vader, cache):
    folder = cache / "tfds" / "vader_icwsm2014" / "movie"
    killed = folder / "incomplete.ABC_1.0.0"
    killed.mkdir(parents=True)
    (killed / "dataset_info.json").write_text("{}")
    (folder / "1.0.0").mkdir()
    assert find_source("tfds:vader_icwsm2014/movie").splits == ("train", "validation", "test")
    assert not killed.exists()


@pytest.mark.slow
def test_two_processes_prepare_the_same_data_once(vader, cache, tmp_path):
    script = (
        "import sys, jaxtune.hub.fetching.locate as l; from pathlib import Path\n"
        "l.locate = lambda s, **k: Path(sys.argv[1]) / s.rsplit('/', 1)[1]\n"
        "from jaxtune.data.sources import open_source\n"
        "print(open_source('tfds:vader_icwsm2014/movie', 'train').fingerprint)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "vader")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert answers[0] == answers[1] != ""


def test_a_damaged_line_of_the_file_is_named(vader, tmp_path):
    (tmp_path / "vader" / FILES["tweets"]).write_text("1\t2.0\tgood\n2 no tabs")
    with pytest.raises(DataError, match=rf"{FILES['tweets']}:2: expected an id, a rating and a text"):
        open_source("tfds:vader_icwsm2014/tweets", "train")


def test_a_prepared_folder_by_path(vader, tmp_path):
    folder = Path(open_tfds("vader_icwsm2014/movie").data_dir)
    assert find_source(f"tfds:{folder}").splits == ("train", "validation", "test")
    assert find_source(f"tfds:{folder.parent}").splits == ("train", "validation", "test")
    assert open_source(f"tfds:{folder}", "test")[0] == open_source("tfds:vader_icwsm2014/movie", "test")[0]
    with pytest.raises(SourceError, match=r"there is no folder"):
        open_source(f"tfds:{tmp_path / 'none'}")
    (tmp_path / "other").mkdir()
    with pytest.raises(SourceError, match=r"has no dataset_info\.json"):
        open_source(f"tfds:{tmp_path / 'other'}")


def test_other_peoples_data_in_the_data_dir_is_found(vader, tmp_path, monkeypatch):
    folder = Path(open_tfds("vader_icwsm2014/movie").data_dir)
    target = tmp_path / "tfds" / "my_reviews"
    target.mkdir(parents=True)
    folder.rename(target / "2.0.0")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    assert len(open_source("tfds:my_reviews", "train")) > 100
    assert len(open_source("tfds:my_reviews:2.0.0", "train")) > 100


def as_tfrecord(folder, target):
    """The prepared ArrayRecord folder again, as TFDS would have written it with TensorFlow."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    target.mkdir()
    for split in builder.info.splits:
        rows = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        with (target / f"vader_icwsm2014-{split}.tfrecord-00000-of-00001").open("wb") as file:
            for i in range(len(rows)):
                length = struct.pack("<Q", len(rows[i]))
                file.write(length + struct.pack("<I", masked_crc32c(length)))
                file.write(rows[i] + struct.pack("<I", masked_crc32c(rows[i])))
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    (target / "dataset_info.json").write_text(json.dumps(info))
    for name in ("features.json", "label.labels.txt"):
        (target / name).write_bytes((folder / name).read_bytes())


def test_folders_prepared_as_tfrecord_are_read_by_our_own_reader(vader, tmp_path):
    folder = Path(open_tfds("vader_icwsm2014/movie").data_dir)
    as_tfrecord(folder, tmp_path / "records")
    source = find_source(f"tfds:{tmp_path / 'records'}")
    assert all_rows(source) == all_rows(find_source(f"tfds:{folder}"))
    assert source.open("train").label_names == {"label": ("negative", "positive")}
    (tmp_path / "records" / "vader_icwsm2014-test.tfrecord-00000-of-00001").unlink()
    with pytest.raises(SourceError, match=r"vader_icwsm2014-test\.tfrecord.* is missing"):
        find_source(f"tfds:{tmp_path / 'records'}")


def test_builders_that_tfds_hides_without_tensorflow_are_found(monkeypatch):
    monkeypatch.setattr("jaxtune.data.sources.tfds.getproxies", dict)

    def no_network(*_):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", no_network)
    for config in ("sst2", "cola", "mrpc", "stsb"):
        with pytest.raises(
            SourceError, match=rf"glue/{config} is not prepared.*needs the network.*tfds build"
        ):
            open_source(f"tfds:glue/{config}", "train")


def test_tags_and_answers_come_as_plain_lists(tmp_path):
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "tokens": tfds.features.Sequence(tfds.features.Text()),
            "ner": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-X"])),
            "answers": tfds.features.Sequence({"text": tfds.features.Text(), "answer_start": np.int32}),
        }
    )

    class Tagged(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            yield (
                0,
                {"tokens": ["né", "b"], "ner": ["O", "B-X"], "answers": [{"text": "b", "answer_start": 3}]},
            )

    builder = Tagged(data_dir=tmp_path)
    builder.download_and_prepare(file_format="array_record")
    records = open_source(f"tfds:{builder.data_dir}", "train")
    assert records[0] == {
        "tokens": ["né", "b"],
        "ner": [0, 1],
        "answers": {"text": ["b"], "answer_start": [3]},
    }
    assert records.label_names == {"ner": ("O", "B-X")}


def test_unknown_data_sets_and_configs_are_named():
    with pytest.raises(SourceError, match="TFDS has no data set 'nonsense'"):
        open_source("tfds:nonsense")
    with pytest.raises(SourceError, match="tfds:vader_icwsm2014/books cannot be used"):
        open_source("tfds:vader_icwsm2014/books")


def test_no_tensorflow_was_imported(vader):
    open_source("tfds:vader_icwsm2014/movie", "train")
    assert "tensorflow" not in sys.modules


@pytest.mark.real
def test_the_real_file_has_the_stated_rows():
    source = find_source("tfds:vader_icwsm2014/movie_ratings")
    counts = {split: len(source.open(split)) for split in source.splits}
    assert sum(counts.values()) == 10_605
    assert np.allclose([counts["validation"], counts["test"]], 1060, atol=90)
    kept = find_source("tfds:vader_icwsm2014/movie")
    assert sum(len(kept.open(split)) for split in kept.splits) == 10_555
