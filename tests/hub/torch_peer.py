"""What transformers in torch makes of a checkpoint; run by tests, and by a Python that has torch.

    python tests/hub/torch_peer.py FOLDER INPUTS.npz OUTPUTS.npz [HEADED]

INPUTS holds input_ids, attention_mask and token_type_ids, int64 [B, S]. Without a fourth argument
OUTPUTS holds hidden [B, S, D] and pooled [B, D] of the backbone; with it logits [B, C] of the sequence
classifier, and config.json as transformers understood it.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification


def main(folder: str, inputs: str, outputs: str, headed: bool) -> None:
    arrays = {name: torch.from_numpy(array) for name, array in np.load(inputs).items()}
    kind = AutoModelForSequenceClassification if headed else AutoModel
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    model = model.eval().float()
    with torch.no_grad():
        out = model(**arrays)
    if headed:
        config = {
            name: getattr(model.config, name)
            for name in ("id2label", "label2id", "problem_type", "num_labels")
        }
        config["loading"] = {name: sorted(map(str, keys)) for name, keys in info.items() if keys}
        np.savez(outputs, logits=out.logits.numpy(), config=json.dumps(config))
    else:
        np.savez(outputs, hidden=out.last_hidden_state.numpy(), pooled=out.pooler_output.numpy())


if __name__ == "__main__":
    main(*sys.argv[1:4], headed=len(sys.argv) > 4)
