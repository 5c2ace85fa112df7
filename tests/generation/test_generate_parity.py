"""Greedy and beam search against transformers' ``generate``: the same tokens for twenty ragged prompts at once."""

import json

import pytest

import jaxtune
from jaxtune.generation.settings import settings_for
from jaxtune.generation.text import generate_texts
from tests.models.family_cases_all import GENERATION, PROMPT_LENGTHS
from tests.models.family_golden import FamilyGolden

SEARCHES = [(name, search) for name, plan in GENERATION.items() for search in plan.searches]
_LOADED = {}


def load(name, folder):
    """The golden of a model and the model itself; read once, so that a search compiles its prefill once."""
    if name not in _LOADED:
        plan = GENERATION[name]
        golden = FamilyGolden(plan.case, f"generate_{name}")
        golden.write(folder, salt=plan.salt)
        _LOADED[name] = golden, jaxtune.load_pretrained(folder, plan.case.head, matmul_precision="highest")
    return _LOADED[name]


def shortened(row, eos):
    """Tokens up to the end of the text: torch fills up the rest."""
    return row[: row.index(eos) + 1] if eos in row else row


@pytest.mark.parametrize(("name", "search"), SEARCHES)
def test_tokens_equal_transformers(name, search, tmp_path):
    plan = GENERATION[name]
    golden, lm = load(name, tmp_path)
    assert json.loads(str(golden["arguments"])) == plan.searches, "make the goldens again"
    ids, mask = (golden[f"prompts/{key}"] for key in ("input_ids", "attention_mask"))
    prompts = [row[keep == 1].tolist() for row, keep in zip(ids, mask)]
    assert sorted(map(len, prompts)) == sorted(PROMPT_LENGTHS)
    settings = settings_for(plan.case.config, plan.generation_config, **plan.searches[search])
    ours = generate_texts(
        lm.model, lm.params, None, prompts, settings, return_tokens=True, batch_size=4 * len(prompts)
    )
    eos = plan.case.config["eos_token_id"]
    assert ours == [shortened(row, eos) for row in golden[f"tokens/{search}"].tolist()]
