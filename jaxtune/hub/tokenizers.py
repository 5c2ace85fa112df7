"""Tokenizers of checkpoints, through transformers; never with a checkpoint's own code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jaxtune.errors import SourceError
from jaxtune.hub.tensor_files.formats import is_gguf

_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a checkpoint folder or GGUF file (a transformers ``PreTrainedTokenizerFast``).

    Raises:
        SourceError: no tokenizer there, or one that only runs with code of its own.
    """
    # Its advice to install torch would puzzle a reader: nothing here needs it.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    if is_gguf(folder):
        from jaxtune.hub.tensor_files.gguf_tokenizer import tokenizer_of_gguf

        return tokenizer_of_gguf(folder)
    if not any((folder / name).is_file() for name in _FILES):
        raise SourceError(
            f"{folder} holds no tokenizer: expected tokenizer.json (or {', '.join(_FILES[1:])})."
        )
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise plain Exception for damaged files
        first_line = (str(error) or repr(error)).splitlines()[0]
        raise SourceError(
            f"the tokenizer in {folder} cannot be read: {type(error).__name__}: {first_line}. Expected a sound "
            "tokenizer.json: fetch the checkpoint again."
        ) from error
    if not tokenizer.is_fast:
        raise SourceError(f"the tokenizer in {folder} has no tokenizer.json, which the fast tokenizers need.")
    return tokenizer
