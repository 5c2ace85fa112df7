"""Writes the golden files of all model families: what torch makes of the cases in tests/models/family_cases*.py.

    python tests/goldens/make_family_goldens.py [--only PATTERN] [--out tests/goldens/families]

runs under torch and transformers (nothing of jaxtune). Each checkpoint is written to a folder first and read
from there, in float32 with plain ("eager") attention. Weights follow from names and shapes, and are not stored.

Keys of a case's file, <case>.npz:
    config      config.json as a JSON string; the tests refuse a golden of another configuration
    shapes      JSON: name → shape of the tensors of model.safetensors
    inputs/NAME int32, arguments of the call
    out         float32 [R, C], logits (hidden states without a head) of the real positions row by row,
                or [B, C] where the head is one per example
    versions    torch and transformers
of a case whose gradients are compared, beside these:
    labels          int32, [B] of a classifier, [B, S] or [B, T] of a language model (-100: no loss)
    loss            float32 [], mean cross-entropy
    total_norm      float64 [], norm of the gradients of all parameters together
    names           the names of the file that have a gradient
    norm/NAME       float64 [], norm of the gradient by tensor NAME
    grad/NAME       that gradient: whole if it has at most 64 elements, else 64 of its elements
    at/NAME         int32 [64], where those lie in the flattened gradient (only if not whole)
Files of generation, generate_<case>.npz: see ``make_generation``.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import fnmatch
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.goldens import torch_family
from tests.models.family_cases import Case, inputs, real_rows, write_folder
from tests.models.family_cases_all import CASES, GENERATION, GRADIENTS, GenerationCase

SAMPLES = 64
PERTURBATIONS = 4
VISIBLE = 1e-3
MADE_BY_TORCH = re.compile(r"embed_positions\.weight$")
"""Marian's sinusoids, which its checkpoints leave out (and Pegasus' do not)."""


def shapes_of(case: Case) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a checkpoint of a case has on the Hub."""
    raw = copy.deepcopy(dict(case.config))  # transformers changes what it is given
    config = transformers.AutoConfig.for_model(raw.pop("model_type"), **raw)
    model = torch_family.CLASSES[case.head].from_config(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", framework="np") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if case.untied:
        found["lm_head.weight"] = found["shared.weight"]
    for name, source in case.copies.items():
        found[name] = found[source]
    renamed = {}
    for name, shape in found.items():
        for pattern, replacement in case.renames:
            name = re.sub(pattern, replacement, name)
        renamed[name] = shape
    return {name: renamed[name] for name in sorted(renamed)} | dict(case.unused)


def load_checked(folder: Path, case: Case) -> Any:
    """Torch's model of a written folder, which must have taken every tensor from it, and tied what is tied."""
    model, info = torch_family.load(folder, case.head)
    missing = [name for name in info.pop("missing_keys", []) if not MADE_BY_TORCH.search(name)]
    unexpected = set(info.pop("unexpected_keys", [])) - set(case.unused)
    wrong = [*missing, *unexpected, *info]
    assert not wrong, f"{case.name}: {wrong}"
    if case.untied:
        assert torch_family.untied(model), f"{case.name}: torch has tied the tables"
    elif case.head in ("mlm", "causal_lm", "seq2seq_lm"):
        tied = case.config.get("tie_word_embeddings", case.model_type not in ("llama", "mistral"))
        assert torch_family.untied(model) != tied, f"{case.name}: tied is not {tied}"
    return model


def make_case(case: Case, folder: Path) -> dict[str, Any]:
    """The keys of a case's file."""
    shapes, given = shapes_of(case), inputs(case)
    write_folder(folder, case, shapes)
    model = load_checked(folder, case)
    out = real_rows(case, torch_family.outputs(model, case.head, given))
    assert np.isfinite(out).all()
    assert 0.1 < out.std() < 20, f"{case.name}: outputs of size {out.std():.2g}"
    check_options(case, folder, shapes, out)
    golden = {
        **description(case, shapes),
        **{f"inputs/{name}": array for name, array in given.items()},
        "out": out,
    }
    return {**golden, **gradients(model, case, given)} if case.name in GRADIENTS else golden


def check_options(case: Case, folder: Path, shapes: dict[str, tuple[int, ...]], out: np.ndarray) -> None:
    """The options a case is there for make a difference: torch heeds them, and the inputs can show it."""
    for option, value in case.matters.items():
        other = dataclasses.replace(case, config={**case.config, option: value})
        write_folder(folder, other, shapes)
        model, _ = torch_family.load(folder, case.head)
        changed = real_rows(case, torch_family.outputs(model, case.head, inputs(case)))
        difference = np.abs(changed - out).max()
        assert difference > VISIBLE, f"{case.name}: {option}={value!r} changes nothing ({difference:.1e})"


def description(case: Case, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {
        "config": json.dumps(dict(case.config)),
        "shapes": json.dumps(shapes),
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }


def gradients(model: Any, case: Case, given: dict[str, np.ndarray]) -> dict[str, Any]:
    """Loss of the case's task and its gradient by tensor."""
    labels = labels_of(case, given)
    model.zero_grad()
    logits = model(**torch_family.tensors(given)).logits
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), torch.tensor(labels, dtype=torch.long).reshape(-1)
    )
    loss.backward()
    grads = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    norms = {name: np.linalg.norm(grad.astype(np.float64)) for name, grad in grads.items()}
    found = {
        "labels": labels,
        "loss": loss.detach().numpy(),
        "total_norm": np.sqrt(sum(norm**2 for norm in norms.values())),
        "names": np.array(sorted(grads)),
    }
    rng = np.random.RandomState(1)
    for name, grad in grads.items():
        found[f"norm/{name}"] = norms[name]
        if grad.size > SAMPLES:
            # Elements that are zero for certain (rows of words that do not occur) would prove nothing.
            nonzero = np.flatnonzero(grad)
            at = np.sort(rng.choice(nonzero, min(SAMPLES, nonzero.size), replace=False)).astype(np.int32)
            found[f"grad/{name}"], found[f"at/{name}"] = grad.reshape(-1)[at], at
        else:
            found[f"grad/{name}"] = grad
    return found


def labels_of(case: Case, given: dict[str, np.ndarray]) -> np.ndarray:
    """Classes of the examples, the next token of a decoder, or any words on the decoder's side."""
    if case.head == "causal_lm":
        ids = np.where(given["attention_mask"] == 1, given["input_ids"], -100)
        return np.concatenate([ids[:, 1:], np.full_like(ids[:, :1], -100)], 1).astype(np.int32)
    rng = np.random.RandomState(2)
    if case.head == "classification":
        return rng.randint(0, 3, len(given["input_ids"])).astype(np.int32)
    target = given["decoder_input_ids"]
    words = rng.randint(1, case.config["vocab_size"], target.shape)
    return np.where(target == case.config["pad_token_id"], -100, words).astype(np.int32)


def make_generation(plan: GenerationCase, folder: Path) -> dict[str, Any]:
    """The keys of a generation's file: config, shapes and versions as above, and

        prompts/input_ids, prompts/attention_mask   int32 [20, S], padded on the left for a decoder
        tokens/<search>                             int32 [20, T], what was generated after the prompt, or the start token
        arguments                                   JSON: search → arguments of torch's generate

    Raises:
        AssertionError: the tokens of a search hang on a difference near rounding.
    """
    case, shapes = plan.case, shapes_of(plan.case)
    write_folder(folder, case, shapes, salt=plan.salt)
    (folder / "generation_config.json").write_text(json.dumps(plan.generation_config))
    model, given = load_checked(folder, case), plan.prompts()
    found = {**description(case, shapes), **{f"prompts/{k}": v for k, v in given.items()}}
    found["arguments"] = json.dumps(plan.searches)
    found["generation_config"] = json.dumps(plan.generation_config)
    for name, arguments in plan.searches.items():
        found[f"tokens/{name}"] = generate(model, case, given, arguments)
    check_ends(plan, found)
    assert top_two_gap(model, case, given, plan.searches["greedy"]) > 1e-4, f"{case.name}: a near tie"
    check_steady(model, plan, given, found)
    return found


def generate(model: Any, case: Case, given: dict[str, np.ndarray], arguments: dict[str, Any]) -> np.ndarray:
    with torch.no_grad():
        out = model.generate(**torch_family.tensors(given), do_sample=False, **arguments).numpy()
    return out[:, 1 if case.seq2seq else given["input_ids"].shape[1] :].astype(np.int32)


def top_two_gap(model: Any, case: Case, given: dict[str, np.ndarray], arguments: dict[str, Any]) -> float:
    """The least distance of the best two logits at any step of a row that has not ended."""
    with torch.no_grad():
        out = model.generate(
            **torch_family.tensors(given),
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **arguments,
        )
    best = torch.stack(out.logits, 1).topk(2, -1).values
    tokens = out.sequences[:, -best.shape[1] :]
    ended = (tokens == case.config["eos_token_id"]).cumsum(1) - (tokens == case.config["eos_token_id"]).int()
    return float((best[..., 0] - best[..., 1])[ended == 0].min())


def check_ends(plan: GenerationCase, found: dict[str, Any]) -> None:
    """Some rows end early, some do not, and no two rows are the same: else the tokens would prove little."""
    eos = plan.case.config["eos_token_id"]
    for name in plan.searches:
        tokens = found[f"tokens/{name}"]
        ended = (tokens[:, :-1] == eos).any(1)
        distinct = len({row.tobytes() for row in tokens})
        print(f"    {name}: {ended.sum()} of {len(tokens)} rows end early, {distinct} are different")
        assert 3 <= ended.sum() <= len(tokens) - 3 or name not in ("greedy", "beam"), (
            f"{plan.case.name} {name}"
        )
        assert distinct >= 8, f"{plan.case.name} {name}: {distinct} different rows"


def check_steady(
    model: Any, plan: GenerationCase, given: dict[str, np.ndarray], found: dict[str, Any]
) -> None:
    """The tokens stay the same when every weight moves by up to 3e-6 of itself."""
    original = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(PERTURBATIONS):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + torch.empty_like(parameter).uniform_(-3e-6, 3e-6, generator=generator))
        for name, arguments in plan.searches.items():
            same = np.array_equal(generate(model, plan.case, given, arguments), found[f"tokens/{name}"])
            assert same, f"{plan.case.name}: {name} hangs on rounding"
        model.load_state_dict(original)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the golden files of the model families.")
    parser.add_argument("--only", default="*", help="shell pattern of the files' names to write")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "families")
    args = parser.parse_args()
    torch.set_num_threads(2)
    transformers.utils.logging.disable_progress_bar()
    args.out.mkdir(exist_ok=True)
    jobs = [(name, make_case, case) for name, case in CASES.items()]
    jobs += [(f"generate_{name}", make_generation, plan) for name, plan in GENERATION.items()]
    total = 0
    for name, make, what in jobs:
        if not fnmatch.fnmatch(name, args.only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            golden = make(what, Path(folder))
        path = args.out / f"{name}.npz"
        np.savez_compressed(path, **golden)
        total += path.stat().st_size
        size = f", outputs of size {np.abs(golden['out']).max():.1f}" if "out" in golden else ""
        print(f"{name}: {path.stat().st_size / 1024:.0f} KiB{size}")
    print(f"{total / 1024:.0f} KiB in all")


if __name__ == "__main__":
    main()
