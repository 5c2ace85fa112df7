"""Runs that cannot go well: what is said, with which exit status, and that nothing is lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from jaxtune.config import dump_yaml, load_yaml
from jaxtune.errors import ConfigError, DataError, RunError, SourceError, WeightsError
from jaxtune.persistence.checkpoints import Checkpoints
from jaxtune.training.train import train
from tests import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


@pytest.fixture(autouse=True)
def own_cache(folder, monkeypatch):
    monkeypatch.setenv("JAXTUNE_CACHE", str(folder / "cache"))


def fails(folder, error, said, name, **changes):
    experiment = tiny.experiment(folder, name=name, **changes)
    with pytest.raises(error, match=said):
        train(experiment, quiet=True)
    assert not (folder / "runs" / name / "checkpoints").exists()


# ------------------------------------------------------------------------------------------------
# Data
# ------------------------------------------------------------------------------------------------

GOOD = b"".join(json.dumps(row).encode() + b"\n" for row in [{"text": "a warm film", "label": "good"}] * 30)
BAD = b"".join(json.dumps(row).encode() + b"\n" for row in [{"text": "a grim plot", "label": "bad"}] * 30)
CSV = b"text,label\n" + b"".join(b"film %d warm,good\nfilm %d grim,bad\n" % (i, i) for i in range(40))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", r"a\.jsonl: the file is empty"),
        ("a.jsonl", b"\n\n", r"a\.jsonl: the file has blank lines only"),
        ("a.jsonl", b"text,label\nwarm,good\n", r"a\.jsonl:1: not valid JSON"),
        ("a.jsonl", GOOD + BAD + b"{oops\n", r"a\.jsonl:61: not valid JSON"),
        ("a.jsonl", GOOD + BAD + b'{"text": null, "label": "bad"}\n', r"a\.jsonl:61: .*is null"),
        ("a.jsonl", GOOD + BAD + b'{"text": 7, "label": "bad"}\n', r"a\.jsonl:61: .*holds the int 7"),
        ("a.jsonl", GOOD + BAD + b'{"text": "", "label": "bad"}\n', r"a\.jsonl:61: .*is empty"),
        ("a.jsonl", GOOD + BAD + b'{"text": "\xff", "label": "bad"}\n', r"a\.jsonl:61: not valid UTF-8"),
        ("a.csv", CSV.replace(b"text", b"review"), r"no column 'text'.*the columns are 'review', 'label'"),
        ("a.csv", CSV.replace(b"text,label", b"text,text"), r"a\.csv:1: .*'text' more than once"),
        ("a.csv", b"text,label\n", r"a\.csv: the file has a header and no rows"),
        ("a.csv", CSV + b"warm \xff film,good\n", r"a\.csv:82: column 'text' is not valid UTF-8"),
        ("a.csv", CSV + b"warm, but long,good\n", r"a\.csv:82: 3 fields, expected 2"),
        ("a.csv", CSV.decode().encode("utf-16"), r"a\.csv: the file is in UTF-16"),
        ("a.csv", b"t\xebxt,label\n" + CSV, r"a\.csv:1: the header line is not valid UTF-8"),
        ("a.csv", b"\x1f\x8b\x08\x00" + CSV, r"a\.csv: this is no text file"),
    ],
)
def test_bad_data_is_named_with_file_and_line(folder, tmp_path, request, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    data = {"train": f"{path.suffix[1:]}:{path}", "holdout": (0.0, 0.0)}
    fails(folder, DataError, said, f"data-{request.node.callspec.indices['content']}", data=data)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + CSV,
        CSV.replace(b"\n", b"\r\n"),
        CSV.replace(b",", b";"),
        b"\n".join(b"," + line + b",," for line in CSV.splitlines()),
        CSV + b'"' + b"warm film " * 100_000 + b'",good\n',
        CSV + b'"one\nwarm, ""funny"" film",good\n',
    ],
    ids=["bom", "crlf", "semicolons", "columns-without-names", "1-mb-text", "quotes"],
)
def test_odd_but_sound_csv_is_read(folder, tmp_path, request, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    data, steps = {"train": f"csv:{path}", "holdout": (0.2, 0.2)}, {"steps": 1}
    run = train(tiny.experiment(folder, name=request.node.callspec.id, data=data, train=steps), quiet=True)
    assert run.results["splits"].keys() == {"validation", "test"}


def test_text_labels_for_a_regression(folder):
    fails(folder, DataError, "no training row has a number in column 'label'", "texts", task="regression")


def test_a_length_without_room_for_text(folder):
    fails(folder, ConfigError, "leaves no room for text beside", "short", data={"max_length": 2})


def test_a_batch_much_larger_than_the_data_makes_no_huge_rows(folder):
    huge = tiny.experiment(folder, name="huge", train={"batch_size": 100_000, "steps": 1})
    run = train(huge, quiet=True)
    assert run.metrics[0]["padding_share"] < 0.5


def test_a_mistake_at_the_first_start_can_be_corrected(folder):
    fails(folder, DataError, "no column 'review'", "typo", data={"text": "review"})
    assert train(tiny.experiment(folder, name="typo", train={"steps": 1}), quiet=True).results["steps"] == 1


def test_a_finished_run_without_its_checkpoints_keeps_its_configuration(folder):
    train(tiny.experiment(folder, name="pruned", train={"steps": 1}), quiet=True)
    shutil.rmtree(folder / "runs" / "pruned" / "checkpoints")
    with pytest.raises(RunError, match="was started with another configuration"):
        train(tiny.experiment(folder, name="pruned", train={"steps": 2}), quiet=True)


# ------------------------------------------------------------------------------------------------
# Checkpoints and configurations
# ------------------------------------------------------------------------------------------------


def test_a_hub_id_without_network_fails_fast(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    said = r"some-org/some-model: cannot reach .*give a folder that holds config\.json"
    fails(folder, SourceError, said, "hub", model={"source": "some-org/some-model"})
    assert time.monotonic() - start < 30


def test_a_checkpoint_of_pickles_only(folder, tmp_path):
    source = tiny.write_checkpoint(tmp_path / "pickled")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    fails(folder, WeightsError, "pickle files.*safetensors", "pickles", model={"source": str(source)})


def test_weights_cut_short(folder, tmp_path):
    source = tiny.write_checkpoint(tmp_path / "cut")
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    fails(folder, WeightsError, "not a sound safetensors file", "cut", model={"source": str(source)})


def test_a_run_directory_of_a_newer_version(folder):
    first = tiny.experiment(folder, name="newer", train={"steps": 2, "save_every": 1})
    train(first, quiet=True)
    config = folder / "runs" / "newer" / "config.yaml"
    config.write_text(config.read_text().replace("version: 1", "version: 99"))
    with pytest.raises(ConfigError, match=r"config\.yaml: version 99 was written by a newer jaxtune"):
        train(first, quiet=True)


def test_a_folder_of_somebody_else(folder):
    theirs = folder / "runs" / "theirs"
    theirs.mkdir(parents=True)
    (theirs / "config.yaml").write_text("lr: 1\n")
    for changes in ({}, {"resume": "never", "overwrite": True}):
        with pytest.raises(RunError, match="is not a jaxtune run"):
            train(tiny.experiment(folder, name="theirs", **changes), quiet=True)
    assert [path.name for path in theirs.iterdir()] == ["config.yaml"]


# ------------------------------------------------------------------------------------------------
# Real processes: signals, full and read-only disks
# ------------------------------------------------------------------------------------------------


def command(folder, name, **changes):
    """A config file, and the command that trains with it in ``output``."""
    path = folder / f"{name}.yaml"
    path.write_text(dump_yaml(tiny.experiment(folder, name=name, **changes)))
    return [sys.executable, "-m", "jaxtune.cli", "train", "--config", str(path)]


@contextmanager
def started(argv, log):
    """A process whose standard error goes to ``log``; killed if it outlives the block."""
    with log.open("wb") as err:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=err, cwd=ROOT, env=dict(os.environ))
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for(log, words, process):
    for _ in range(600):
        if words in log.read_text():
            return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"{words!r} did not appear:\n{log.read_text()}")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_saves_and_says_how_to_go_on(folder, number, status):
    name = f"stopped-{number.name}"
    argv, log = command(folder, name, train={"epochs": 500, "batch_size": 16}), folder / f"{name}.log"
    with started(argv, log) as process:
        wait_for(log, "validation  loss", process)
        process.send_signal(number)
        out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (status, b"")
    said = re.search(
        rf"{number.name}: saved at step (\d+) in .*start the same command again", log.read_text()
    )
    assert said
    assert Checkpoints(str(folder / "runs" / name / "checkpoints"), writable=False).steps()[-1] == int(
        said[1]
    )
    with started(argv, log) as process:
        wait_for(log, f"resumed from step {said[1]} of", process)
        wait_for(log, "compiled", process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in log.read_text()


@pytest.fixture
def namespace():
    """Runs a shell script that may mount; skips where the system does not let us."""
    argv = ["unshare", "--map-root-user", "--mount", "bash", "-ec"]
    try:
        probe = subprocess.run([*argv, "mount -t tmpfs tmpfs /mnt"], capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        pytest.skip("no unshare here")
    if probe.returncode:
        pytest.skip(f"cannot mount here: {probe.stderr.decode().strip()}")

    def run(script, **names):
        env = {**os.environ, **{name: str(value) for name, value in names.items()}}
        return subprocess.run([*argv, script], capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)

    return run


@pytest.mark.slow
def test_a_disk_that_fills_up_stops_the_run_and_loses_nothing(folder, namespace, tmp_path):
    changes = {"train": {"steps": 8, "save_every": 2, "keep": 9}}
    expected = train(tiny.experiment(folder, name="roomy", **changes), quiet=True)
    argv, small, kept = command(folder, "full", **changes), tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    script = (
        'mount -t tmpfs -o size=900k tmpfs "$SMALL"\n'
        f'status=0; {" ".join(argv)} --output "$SMALL" || status=$?\n'
        'cp -r "$SMALL" "$KEPT"; exit $status'
    )
    done = namespace(script, SMALL=small, KEPT=kept)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    found = re.search(
        r"error: step (\d+) could not be saved in (.*) \([\d.]+ MB free\): No space left on device\n"
        r"Earlier checkpoints are intact: ([\d, ]+)\. Make room",
        done.stderr,
    )
    assert found, done.stderr
    earlier = [int(step) for step in found[3].split(",")]
    checkpoints = Checkpoints(str(kept / "full" / "checkpoints"), writable=False)
    assert checkpoints.steps() == earlier
    assert checkpoints.newest_sound() == earlier[-1] < int(found[1])
    # With room, the same command ends as if nothing had been.
    again = train(tiny.experiment(folder, name="full", output=str(kept), **changes), quiet=True)
    assert again.results == expected.results


@pytest.mark.slow
def test_a_read_only_run_directory(folder, namespace, tmp_path):
    train(tiny.experiment(folder, name="frozen", train={"steps": 2}), quiet=True)
    argv, mount = command(folder, "frozen", train={"steps": 2}), tmp_path / "mount"
    mount.mkdir()
    prepare = (
        'mount -t tmpfs tmpfs "$MOUNT"; cp -r "$RUNS/frozen" "$MOUNT/frozen"\n'
        '{}mount -o remount,ro "$MOUNT"\n'
    )
    names = {"MOUNT": mount, "RUNS": folder / "runs"}
    unfinished = prepare.format('rm "$MOUNT/frozen/results.json"; ')
    done = namespace(unfinished + f'{" ".join(argv)} --output "$MOUNT"', **names)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {mount}/frozen/config.yaml cannot be written: Read-only file system" in done.stderr
    assert "another --output" in done.stderr
    assert "Traceback" not in done.stderr
    predict = f'{sys.executable} -m jaxtune.cli predict "$MOUNT/frozen" --text "a warm film"'
    done = namespace(prepare.format("") + predict, **names)
    assert done.returncode == 0, done.stderr
    assert "label" in json.loads(done.stdout)


def test_the_saved_config_is_plain_yaml(folder):
    run = train(tiny.experiment(folder, name="plain", train={"steps": 1}), quiet=True)
    assert load_yaml((folder / "runs" / "plain" / "config.yaml").read_text()) == run.config
