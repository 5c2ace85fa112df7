"""TensorFlow Datasets without TensorFlow: finding, preparing and reading them.

A data set is read from its prepared folder (the one with ``dataset_info.json``): ArrayRecord through TFDS's
``as_data_source``, TFRecord through tfrecord.py. What is not prepared yet is prepared as ArrayRecord.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from jaxtune.data.records import Record, fingerprint_of
from jaxtune.data.sources.tfrecord import TfRecordFile
from jaxtune.errors import JaxtuneError, SourceError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

logger = logging.getLogger(__name__)

BUILDERS = {
    "vader_icwsm2014": ("jaxtune.data.sources.builders.vader_icwsm2014", "VaderIcwsm2014"),
    "spam_assassin": ("jaxtune.data.sources.builders.spam_assassin", "SpamAssassin"),
    "moby_dick": ("jaxtune.data.sources.builders.moby_dick", "MobyDick"),
    "ner_finance": ("jaxtune.data.sources.builders.ner_finance", "NerFinance"),
    "debian_descriptions": ("jaxtune.data.sources.builders.debian_descriptions", "DebianDescriptions"),
}
"""Our own data sets: module and class."""

_INFO = "dataset_info.json"


def open_tfds(name: str) -> tfds.core.DatasetBuilder:
    """The builder of a prepared data set, prepared first if it is not yet.

    Args:
      name: ``NAME[/CONFIG][:VERSION]``, or the path of a folder that TFDS prepared.

    Raises:
      SourceError: there is no such data set, or it cannot be prepared or read here.
    """
    import tensorflow_datasets as tfds

    folder = _named_folder(name) or _prepared(name) or _prepare(name)
    try:
        builder = tfds.builder_from_directory(folder)
    except Exception as error:
        raise SourceError(
            f"tfds:{name}: the folder {folder} cannot be read as a prepared data set: {error}"
        ) from error
    for split, info in builder.info.splits.items():
        missing = [path for path in info.filepaths if not Path(path).is_file()]
        if missing:
            raise SourceError(
                f"tfds:{name}: the file {missing[0]} of the split {split!r} is missing; delete the folder {folder} "
                "and prepare the data set again"
            )
    return builder


class TfdsRecords:
    """One split of a prepared data set."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        import tensorflow_datasets as tfds

        self._name = f"tfds:{builder.info.full_name}[{split}]"
        self._features = builder.info.features
        # Sorted: TFDS keeps no order.
        self.columns: tuple[str, ...] = tuple(sorted(self._features))
        # A tag for every word is a sequence of labels.
        inner = {column: getattr(feature, "feature", feature) for column, feature in self._features.items()}
        self.label_names: dict[str, tuple[str, ...]] = {
            column: tuple(feature.names)
            for column, feature in inner.items()
            if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes
        }
        paths = [Path(path) for path in builder.info.splits[split].filepaths]
        self.fingerprint: str = fingerprint_of(["tfds", *paths])
        file_format = builder.info.file_format.value if builder.info.file_format else "tfrecord"
        try:
            self._rows = self._open(builder, split, file_format, paths)
        except JaxtuneError:
            raise
        except Exception as error:
            raise SourceError(f"{self._name} cannot be read: {error}") from error

    def _open(
        self, builder: tfds.core.DatasetBuilder, split: str, file_format: str, paths: list[Path]
    ) -> Sequence[Any]:
        if file_format == "array_record":
            rows: Sequence[Any] = builder.as_data_source(split)
            return rows
        if file_format == "tfrecord":
            return _TfRecords(paths, self._features)
        raise SourceError(
            f"{self._name} is stored as {file_format}; expected array_record or tfrecord. Convert it where TensorFlow "
            f"is installed: tfds convert_format --dataset_dir={builder.data_dir} --out_file_format=array_record "
            "--out_path=FOLDER, then use tfds:FOLDER"
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        row = self._rows[index]
        return {column: _plain(row[column]) for column in self.columns}

    def where(self, index: int) -> str:
        """``tfds:NAME/CONFIG/VERSION[SPLIT]: row N``, counted from 1."""
        return f"{self._name}: row {index + 1}"


class _TfRecords(Sequence[Any]):
    """The examples of a split's TFRecord files."""

    def __init__(self, paths: Sequence[Path], features: Any) -> None:
        self._files = [TfRecordFile(path) for path in paths]
        self._features = features
        self._places = [(file, i) for file in self._files for i in range(len(file))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        file, inner = self._places[index]
        return self._features.deserialize_example_np(file[inner])


def _plain(value: Any) -> Any:
    """NumPy scalars as Python values, sequences of texts or numbers as lists, and bytes as text where they are UTF-8."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if hasattr(value, "ndim"):
        value = value.item() if value.ndim == 0 else value.tolist()
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    return value


def _data_dirs() -> list[Path]:
    """Folders of prepared data sets. New ones go into the first."""
    from jaxtune.hub.fetching.cache import cache_dir

    own = [Path(os.environ["TFDS_DATA_DIR"]).expanduser()] if os.environ.get("TFDS_DATA_DIR") else []
    return [*own, cache_dir() / "tfds", Path.home() / "tensorflow_datasets"]


def _named_folder(name: str) -> Path | None:
    """The prepared folder that a path names: itself, or the newest version inside it."""
    path = Path(name).expanduser()
    is_path = name.startswith(("/", "./", "../", "~", ".\\", "..\\")) or path.is_absolute()
    if not is_path and not (path / _INFO).is_file():
        return None
    if not path.is_dir():
        raise SourceError(f"tfds:{name}: there is no folder {path}")
    return _newest(path, name) or _no_data(path, name)


def _no_data(path: Path, name: str) -> Path:
    raise SourceError(
        f"tfds:{name}: the folder {path} has no {_INFO}; expected a folder that TFDS prepared, as "
        "…/glue/sst2/2.0.0"
    )


def _prepared(name: str) -> Path | None:
    base, _, version = name.partition(":")
    for data_dir in _data_dirs():
        folder = data_dir / base
        if version and (folder / version / _INFO).is_file():
            return folder / version
        if not version and folder.is_dir():
            found = _newest(folder, name)
            if found:
                return found
    return None


def _newest(folder: Path, name: str) -> Path | None:
    """``folder`` itself if prepared, else its newest version, else that of its only (or default) config."""
    if (folder / _INFO).is_file():
        return folder
    inside = [p for p in sorted(folder.iterdir()) if p.is_dir() and "incomplete." not in p.name]
    versions = [p for p in inside if (p / _INFO).is_file()]
    if versions:
        return max(versions, key=lambda p: [int(n) if n.isdigit() else -1 for n in p.name.split(".")])
    configs = {p.name: p for p in inside if any((v / _INFO).is_file() for v in p.iterdir() if v.is_dir())}
    default = _default_config(folder)
    if default:
        return _newest(configs[default], name) if default in configs else None
    if len(configs) > 1:
        listed = ", ".join(configs)
        raise SourceError(
            f"tfds:{name}: several configs are prepared in {folder} ({listed}); name one of them"
        )
    return _newest(next(iter(configs.values())), name) if configs else None


def _default_config(folder: Path) -> str:
    """Config that TFDS noted as the one to take where none is named."""
    try:
        noted = json.loads((folder / ".config" / "metadata.json").read_text(encoding="utf-8"))
        return str(noted["default_config_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _prepare(name: str) -> Path:
    """Prepare a data set as ArrayRecord: one process at a time, and all of it or nothing."""
    import tensorflow_datasets as tfds

    from jaxtune.hub.fetching.cache import locked

    data_dir = _data_dirs()[0]
    builder = _builder(name, data_dir)
    folder = Path(builder.data_dir)
    with locked(folder):
        if (folder / _INFO).is_file():  # another process was faster
            return folder
        # What a killed process left: TFDS renames a folder into place only when it is whole.
        for leftover in [folder, *folder.parent.glob(f"incomplete.*_{folder.name}")]:
            shutil.rmtree(leftover, ignore_errors=True)
        logger.info("preparing tfds:%s in %s", name, folder)
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        try:
            if name.partition("/")[0] not in BUILDERS:
                _check_network(builder)
            # TFDS prints, and a command's standard output belongs to its result.
            with contextlib.redirect_stdout(sys.stderr):
                builder.download_and_prepare(
                    download_dir=data_dir / "downloads",
                    file_format="array_record",
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                )
        except JaxtuneError:
            raise
        except (Exception, SystemExit) as error:
            raise SourceError(_cannot_prepare(name, folder, error)) from error
    return folder


def _check_network(builder: tfds.core.DatasetBuilder) -> None:
    """Raise OSError if no host of the data set has an address: TFDS itself would try for minutes."""
    hosts = {urlsplit(url).hostname or "" for url in builder.url_infos} - {""}
    if not hosts or getproxies():
        return
    failure: OSError | None = None
    for host in sorted(hosts):
        try:
            socket.getaddrinfo(host, 443)
            return
        except OSError as error:
            failure = OSError(f"no address for {host}: {error.strerror or error}")
    if failure:
        raise failure


def _cannot_prepare(name: str, folder: Path, error: BaseException) -> str:
    reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return (
        f"tfds:{name} is not prepared in {folder}, and preparing it failed ({reason}). It needs the network, and some "
        "data sets need TensorFlow or Apache Beam to be prepared. On a machine that has them run `tfds build "
        f"{name.partition(':')[0]} --file_format=array_record`, copy the folder, and use tfds:FOLDER or "
        "set TFDS_DATA_DIR"
    )


def _builder(name: str, data_dir: Path) -> tfds.core.DatasetBuilder:
    import tensorflow_datasets as tfds

    base, _, version = name.partition(":")
    short, _, config = base.partition("/")
    options: dict[str, Any] = {"data_dir": os.fspath(data_dir)}
    if version:
        options["version"] = version
    if config:
        options["config"] = config
    try:
        if short in BUILDERS:
            module, cls = BUILDERS[short]
            return getattr(importlib.import_module(module), cls)(**options)
        _import_builder(short)
        return tfds.builder(short, try_gcs=False, **options)
    except tfds.core.registered.DatasetNotFoundError:
        raise SourceError(
            f"tfds:{name}: TFDS has no data set {short!r}, and none is prepared in "
            f"{', '.join(str(folder) for folder in _data_dirs())}"
        ) from None
    except (ImportError, ValueError, AssertionError, KeyError, TypeError) as error:
        raise SourceError(f"tfds:{name} cannot be used: {error}") from error


def _import_builder(name: str) -> None:
    """Import the module of a builder that TFDS leaves out of its registry where TensorFlow is missing."""
    import tensorflow_datasets as tfds

    if name in tfds.core.registered.list_imported_builders():
        return
    for module in _candidate_modules(Path(tfds.__file__).parent, name):
        try:
            importlib.import_module(module)
        except Exception as error:
            raise SourceError(
                f"tfds:{name}: its builder cannot be loaded without TensorFlow: {error}"
            ) from error


def _candidate_modules(root: Path, name: str) -> Iterator[str]:
    # Packages under datasets/ register themselves when they are asked for.
    for path in sorted([*root.glob(f"*/{name}.py"), *root.glob(f"*/{name}/{name}.py")]):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] not in ("core", "scripts", "testing", "datasets"):
            yield ".".join(("tensorflow_datasets", *parts))
