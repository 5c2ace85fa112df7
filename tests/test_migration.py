"""docs/coming-from-flax.md has an answer for every script, and what it names is there."""

import re
from pathlib import Path

from jaxtune.models.heads import HEADS

ROOT = Path(__file__).parents[1]


def test_every_flax_script_has_an_answer():
    page = (ROOT / "docs" / "coming-from-flax.md").read_text(encoding="utf-8")
    scripts = ("run_flax_glue", "run_mlm_flax", "run_clm_flax", "run_t5_mlm_flax", "run_bart_dlm_flax")
    for name in ("FlaxBertModel", "flax_model.msgpack", *(f"{script}.py" for script in scripts)):
        assert name in page


def test_heads_in_the_table_exist():
    page = (ROOT / "docs" / "coming-from-flax.md").read_text(encoding="utf-8")
    named = set(re.findall(r'head="(\w+)"', page))
    assert named
    assert named <= set(HEADS)
