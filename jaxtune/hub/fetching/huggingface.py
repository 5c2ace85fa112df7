"""``org/name[@revision]``: a checkpoint from the Hugging Face Hub, through its own library and cache.

``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean everywhere.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from jaxtune.errors import SourceError
from jaxtune.hub.tensor_files.formats import FLAX_INDEX, has_safe_weights, is_pickle, pickle_refusal

_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?)(@(?P<revision>[^@\s]+))?")
_ALWAYS = [
    *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    *("model-*.safetensors", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "*.model", "chat_template*", "LICENSE*"),
]
_TOKENIZER = [name for name in _ALWAYS if "safetensors" not in name]
_FLAX = [*_ALWAYS, "flax_model*.msgpack", FLAX_INDEX]


def parse_hub_id(source: str) -> tuple[str, str | None] | None:
    """``(repository, revision)`` of a Hub id, or none if ``source`` cannot be one."""
    match = _ID.fullmatch(source)
    if not match or ".." in match["repo"] or "--" in match["repo"]:
        return None
    return match["repo"], match["revision"]


def fetch_hub(repo: str, revision: str | None = None) -> Path:
    """Folder in the Hugging Face cache with the config, tokenizer and safe weights of a model.

    Flax's ``flax_model.msgpack`` is fetched only where there are no safetensors, pickles never.

    Raises:
        SourceError: no network, no such model or revision, or no permission.
        WeightsError: the model has its weights only as pickles.
    """
    folder = _snapshot(repo, revision, _ALWAYS)
    if has_safe_weights(path.name for path in folder.iterdir()):
        return folder
    names = _names(repo, revision)
    if names is None or has_safe_weights(names):
        folder = _snapshot(repo, revision, _FLAX)
    elif any(map(is_pickle, names)):
        raise pickle_refusal(f"{repo} on the Hub", filter(is_pickle, names))
    return folder


def fetch_hub_tokenizer(repo: str, revision: str | None = None) -> Path:
    """Folder in the Hugging Face cache with the tokenizer of a model, whatever its weights are.

    Raises:
        SourceError: no network, no such model or revision, or no permission.
    """
    return _snapshot(repo, revision, _TOKENIZER)


def _snapshot(repo: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=["*/*"],  # other formats' folders, as onnx/
            endpoint=_endpoint(),
        )
    except Exception as error:
        raise _explained(repo, revision, error) from error
    return Path(folder)


def _names(repo: str, revision: str | None) -> list[str] | None:
    """Top-level file names of the model on the Hub, or none where it cannot be asked."""
    from huggingface_hub import HfApi

    try:
        files = HfApi(endpoint=_endpoint()).list_repo_files(repo, revision=revision)
    except Exception:
        # Whatever the reason, _snapshot runs into it again and explains it.
        return None
    return [name for name in files if "/" not in name]


def _endpoint() -> str | None:
    # Read here and not only when huggingface_hub was imported, so that a later setting counts.
    return os.environ.get("HF_ENDPOINT") or None


def _explained(repo: str, revision: str | None, error: Exception) -> SourceError:
    """Our words for what huggingface_hub raised; its classes are stable, its transport's are not."""
    from huggingface_hub import constants, errors

    where = _endpoint() or constants.ENDPOINT
    wanted = repo + (f"@{revision}" if revision else "")
    if isinstance(error, errors.GatedRepoError):
        return SourceError(
            f"{wanted} on {where} is gated: accept its terms there and log in with `hf auth login`."
        )
    if isinstance(error, errors.RepositoryNotFoundError) or _status(error) == 401:
        return SourceError(
            f"{wanted}: there is no such folder here and no such model on {where}, or it is private (then log in "
            "with `hf auth login` or set HF_TOKEN)."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(f"{repo} on {where} has no revision {revision!r}.")
    if isinstance(error, errors.HFValidationError):
        return SourceError(f"{wanted} is neither a folder here nor a Hub id (org/name or org/name@revision).")
    if isinstance(error, OSError) and error.errno is not None:
        return SourceError(
            f"{wanted}: cannot write to the Hugging Face cache: {error}. Set HF_HOME elsewhere."
        )
    first_line = (str(error) or type(error).__name__).splitlines()[0]
    return SourceError(
        f"{wanted}: cannot reach {where}, and the model is not in the Hugging Face cache ({first_line}). Without a "
        f"network, give a folder that holds config.json, model.safetensors and tokenizer.json: on a machine with "
        f"network `hf download {repo} --local-dir FOLDER` makes one. HF_ENDPOINT names a mirror."
    )


def _status(error: Any) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
