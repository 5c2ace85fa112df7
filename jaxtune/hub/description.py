"""A checkpoint without its weights: config.json with head and labels, and the tokenizer.

A run directory keeps one, so that the run can be resumed, evaluated and exported when the
checkpoint it started from is gone.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from jaxtune import files
from jaxtune.hub.fetching.locate import locate
from jaxtune.hub.model_config import check_vocabulary, head_of, labels_of, parse_config, read_config
from jaxtune.hub.pretrained import Pretrained
from jaxtune.hub.saving import hf_config
from jaxtune.hub.tokenizers import load_tokenizer


@dataclasses.dataclass(frozen=True)
class Description:
    """What is known of a checkpoint before its weights are read.

    Attributes:
        raw_config: config.json as it stands.
        config: configuration object of the family.
    """

    raw_config: dict[str, Any]
    config: Any
    tokenizer: Any

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of their ids; none for a head without labels."""
        return labels_of(self.raw_config, head_of(self.raw_config)) if self.raw_config.get("id2label") else ()


def read_description(source: str) -> Description:
    """Config and tokenizer of a checkpoint from any source.

    Raises:
        SourceError: not found, or no config.json or tokenizer in it.
        WeightsError: an architecture or option that is not supported.
    """
    folder = locate(source, checkpoint=True)
    raw = read_config(folder)
    config, tokenizer = parse_config(folder, raw), load_tokenizer(folder)
    check_vocabulary(source, tokenizer, config.vocab_size)
    return Description(raw, config, tokenizer)


def save_description(folder: str, pretrained: Pretrained) -> None:
    """Write config.json and the tokenizer of ``pretrained``; config.json last, as the sign that all is there."""
    with tempfile.TemporaryDirectory() as staging:
        pretrained.tokenizer.save_pretrained(staging)
        for name in sorted(path.name for path in Path(staging).iterdir()):
            files.write_bytes(files.join(folder, name), (Path(staging) / name).read_bytes())
    text = json.dumps(hf_config(pretrained), indent=2, ensure_ascii=False) + "\n"
    files.write_text(files.join(folder, "config.json"), text)
