"""Data sets on the Hugging Face Hub, read from their Parquet, JSON-lines or CSV files.

Which files make up a config and its splits is said in the front matter of the repository's README.md;
where it is not, folder and file names say it. No code of the repository runs.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtune.data.splits import SPLITS, by_split, split_of_name
from jaxtune.errors import SourceError

ENDINGS = (".parquet", ".jsonl", ".csv", ".tsv")

_NAME = re.compile(r"(?P<repo>[\w.-]+(/[\w.-]+)?)(:(?P<config>[^@\s]+))?(@(?P<revision>[^@\s]+))?")


@dataclass(frozen=True)
class HubFiles:
    """Files of a data set by split, and the class names its README declares."""

    splits: dict[str, list[Path]]
    label_names: dict[str, tuple[str, ...]]


def fetch_dataset(name: str) -> HubFiles:
    """Download (or find in the Hugging Face cache) the files of ``ORG/NAME[:CONFIG][@REVISION]``.

    Raises:
      SourceError: no network, no such data set or config, or no files of a kind that can be read.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise SourceError(f"hf:{name}: expected hf:org/name, hf:org/name:config or hf:org/name@revision")
    repo, config, revision = match["repo"], match["config"], match["revision"]
    card = _card(_snapshot(repo, revision, ["README.md"]) / "README.md")
    patterns = _declared(name, card, config)
    if patterns:
        wanted = [pattern for several in patterns.values() for pattern in several]
    elif config:
        wanted = [f"{folder}{config}/*{ending}" for folder in ("", "*/") for ending in ENDINGS]
    else:
        wanted = [f"*{ending}" for ending in ENDINGS]
    folder = _snapshot(repo, revision, wanted)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in ENDINGS)
    if patterns:
        splits = {split: [n for n in names if _matches(n, several)] for split, several in patterns.items()}
        splits = {split: found for split, found in splits.items() if found}
    else:
        splits = _undeclared(name, names, config)
    if not splits:
        raise SourceError(
            f"hf:{name}: found no {', '.join(ENDINGS)} files"
            + (f" of the config {config!r}" if config else "")
            + "; data sets that need their own code cannot be used"
        )
    paths = {split: [folder / n for n in found] for split, found in splits.items()}
    return HubFiles(paths, _label_names(card, config))


def _snapshot(repo: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import constants, errors, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        found = snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=patterns, endpoint=endpoint
        )
    except errors.GatedRepoError as error:
        raise SourceError(
            f"hf:{repo} is gated: accept its terms on the Hub and log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise SourceError(
            f"hf:{repo}: there is no such data set on {endpoint or constants.ENDPOINT}, or it is private"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise SourceError(f"hf:{repo} has no revision {revision!r}") from error
    except Exception as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise SourceError(
            f"hf:{repo}: cannot reach {endpoint or constants.ENDPOINT}, and the data set is not in the Hugging Face "
            f"cache ({first_line}). Without a network, run `hf download {repo} --repo-type dataset --local-dir "
            "FOLDER` elsewhere, and use parquet:FOLDER, jsonl:FOLDER or csv:FOLDER. HF_ENDPOINT names a mirror."
        ) from error
    return Path(found)


def _card(readme: Path) -> Mapping[str, Any]:
    """The front matter of README.md; empty where there is none."""
    import yaml

    if not readme.is_file():
        return {}
    match = re.match(r"---\s*\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        card = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return {}
    return card if isinstance(card, dict) else {}


def _declared(name: str, card: Mapping[str, Any], config: str | None) -> dict[str, list[str]]:
    """Patterns of files by split, from the card's ``configs``; empty where it declares no files."""
    configs = [c for c in _listed(card.get("configs")) if isinstance(c, dict) and c.get("data_files")]
    if not configs:
        return {}
    names = [str(c.get("config_name", "default")) for c in configs]
    by_default = [str(c.get("config_name")) for c in configs if c.get("default")]
    if config is None:
        config = by_default[0] if by_default else "default" if "default" in names else names[0]
        if len(names) > 1 and not by_default and config != "default":
            raise SourceError(
                f"hf:{name}: name one of its configs ({', '.join(names)}), as hf:{name}:{config}"
            )
    if config not in names:
        raise SourceError(f"hf:{name}: there is no config {config!r}; there are {', '.join(names)}")
    files = configs[names.index(config)]["data_files"]
    if not isinstance(files, list) or not all(isinstance(item, dict) for item in files):
        return {"train": [str(pattern) for pattern in _listed(files)]}
    return {
        split_of_name(str(item.get("split", "train"))) or str(item["split"]): [
            str(pattern) for pattern in _listed(item.get("path"))
        ]
        for item in files
    }


def _undeclared(name: str, names: list[str], config: str | None) -> dict[str, list[str]]:
    """Splits by file names, after making sure that the files belong to one config."""
    if config:
        return by_split(n for n in names if config in n.split("/")[:-1])
    folders = {n.rpartition("/")[0].split("/")[-1] for n in names} - {"", "data", *SPLITS}
    folders = {folder for folder in folders if not split_of_name(folder)}
    if len(folders) > 1:
        listed = ", ".join(sorted(folders))
        raise SourceError(f"hf:{name}: name one of its configs ({listed}), as hf:{name}:{min(folders)}")
    return by_split(names)


def _label_names(card: Mapping[str, Any], config: str | None) -> dict[str, tuple[str, ...]]:
    """Class names from the card's ``dataset_info``."""
    found: dict[str, tuple[str, ...]] = {}
    for info in _listed(card.get("dataset_info")):
        if not isinstance(info, dict) or (config and info.get("config_name") not in (None, config)):
            continue
        for feature in _listed(info.get("features")):
            # A tag for every word is written as a "sequence" (newer: a "list") of labels.
            keys = ("dtype", "sequence", "list")
            kinds = [feature.get(key) for key in keys] if isinstance(feature, dict) else []
            kind = next((k for k in kinds if isinstance(k, dict)), None)
            names = kind["class_label"].get("names") if kind and "class_label" in kind else None
            if isinstance(names, dict):
                found[feature["name"]] = tuple(str(names[key]) for key in sorted(names, key=int))
            elif names:
                found[feature["name"]] = tuple(str(n) for n in names)
    return found


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
