"""What transformers in torch makes of a checkpoint folder of any family; for the goldens and the live tests.

    python tests/goldens/torch_family.py

answers jobs from standard input, a JSON object per line: {"folder", "head", "inputs": .npz of the arguments,
"outputs": .npz to write "out" to}. The answer is a line too: {"loading": what did not match when the checkpoint
was read} or {"error": text}.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import transformers

CLASSES = {
    None: transformers.AutoModel,
    "classification": transformers.AutoModelForSequenceClassification,
    "regression": transformers.AutoModelForSequenceClassification,
    "token_classification": transformers.AutoModelForTokenClassification,
    "multiple_choice": transformers.AutoModelForMultipleChoice,
    "span": transformers.AutoModelForQuestionAnswering,
    "mlm": transformers.AutoModelForMaskedLM,
    "causal_lm": transformers.AutoModelForCausalLM,
    "seq2seq_lm": transformers.AutoModelForSeq2SeqLM,
}


def load(folder: Path, head: str | None) -> tuple[Any, dict[str, list[str]]]:
    """The model in float32 with plain ("eager") attention, and what did not match when it was read."""
    model, info = CLASSES[head].from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    assert model.config._attn_implementation == "eager"
    return model.eval(), {name: sorted(map(str, keys)) for name, keys in info.items() if keys}


def tensors(inputs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array.astype(np.int64)) for name, array in inputs.items()}


def outputs(model: Any, head: str | None, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Logits, or the last hidden states without a head; start and end of a span side by side.

    For multiple choice the rows are the choices of one question, and the logits [B, 1].
    """
    given = tensors(inputs)
    if head == "multiple_choice":
        given = {name: tensor[None] for name, tensor in given.items()}
    with torch.no_grad():
        out = model(**given)
    if head is None:
        return out.last_hidden_state.numpy()
    if head == "span":
        return torch.stack([out.start_logits, out.end_logits], -1).numpy()
    return out.logits.T.numpy() if head == "multiple_choice" else out.logits.numpy()


def untied(model: Any) -> bool:
    """Whether the output table is another tensor, with other values, than the input's."""
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return table.data_ptr() != head.data_ptr() and not torch.equal(table, head)


def serve(lines: IO[str], answers: IO[str]) -> None:
    for line in lines:
        job = json.loads(line)
        try:
            model, info = load(Path(job["folder"]), job["head"])
            np.savez(job["outputs"], out=outputs(model, job["head"], dict(np.load(job["inputs"]))))
            answer = {"loading": info}
        except Exception:  # the peer's answer, whatever it is, is for the test to judge
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(2)
    transformers.utils.logging.disable_progress_bar()
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints is no answer
    serve(sys.stdin, answers)
