"""What transformers in torch makes of a causal or masked language model; run by tests, and by a Python that has torch.

    python tests/hub/torch_word_peer.py FOLDER INPUTS.npz OUTPUTS.npz [FILE.gguf]

INPUTS holds input_ids [B, S], perhaps attention_mask, and texts. OUTPUTS holds logits [B, S, V] as float32, and
input ids that the tokenizer makes of each text, joined by -1. With a fourth argument transformers reads the GGUF
file of that name in the folder itself: its own dequantiser, its own idea of the permuted rows and of the tokenizer.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer


def main(folder: str, inputs: str, outputs: str, gguf_file: str | None) -> None:
    given = dict(np.load(inputs))
    where = {} if gguf_file is None else {"gguf_file": gguf_file}
    config = AutoConfig.from_pretrained(folder, **where)
    kind = AutoModelForMaskedLM if config.model_type == "bert" else AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32, **where).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **where)
    ids: list[int] = []
    for text in given.pop("texts", []):
        ids += [*tokenizer(str(text))["input_ids"], -1]
    with torch.no_grad():
        logits = model(**{name: torch.from_numpy(array) for name, array in given.items()}).logits
    np.savez(outputs, logits=logits.numpy(), token_ids=np.array(ids, np.int64))


if __name__ == "__main__":
    main(*sys.argv[1:4], sys.argv[4] if len(sys.argv) > 4 else None)
