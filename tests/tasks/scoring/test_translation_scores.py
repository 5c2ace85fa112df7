from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
import sacrebleu

from jaxtune.errors import DataError
from jaxtune.tasks.scoring.translation import TRANSLATION_METRICS, translation_metrics, translation_scores

WORDS = [
    "the",
    "cat",
    "The",
    "sat,",
    "on",
    "a",
    "mat.",
    "Haus",
    "über",
    "(well)",
    "3.5",
    "dog",
    "die",
    "runs",
]


def close(value):
    return pytest.approx(value, rel=1e-12, abs=1e-12)


def sentence(rng, least=0, most=12):
    return " ".join(str(word) for word in rng.choice(WORDS, int(rng.integers(least, most + 1))))


def near(rng, text):
    """The text with a few words exchanged, so that longer n-grams match too."""
    return " ".join(word if rng.random() < 0.8 else str(rng.choice(WORDS)) for word in text.split())


def random_case(seed):
    rng = np.random.default_rng(seed)
    references = [sentence(rng, 1) for _ in range(int(rng.integers(1, 6)))]
    return [near(rng, text) if rng.random() < 0.8 else sentence(rng) for text in references], references


def literal_bleu(translations, references):
    """Papineni et al. 2002 over words, orders 1 to 4; orders without a match smoothed as mteval-v13a does."""
    found, there, lengths = [0] * 4, [0] * 4, [0, 0]
    for said, true in zip((t.split() for t in translations), (t.split() for t in references)):
        lengths = [lengths[0] + len(said), lengths[1] + len(true)]
        for n in range(4):
            ours, theirs = (
                Counter(tuple(words[i : i + n + 1]) for i in range(len(words) - n)) for words in (said, true)
            )
            found[n] += (ours & theirs).total()
            there[n] += ours.total()
    if not all(there) or not any(found):
        return 0.0
    smooth, logs = 1.0, 0.0
    for right, total in zip(found, there):
        if right == 0:
            smooth *= 2
        logs += math.log((right or 1 / smooth) / total)
    return 100 * min(1.0, math.exp(1 - lengths[1] / lengths[0])) * math.exp(logs / 4)


def test_the_corpus_is_scored_as_by_sacrebleu():
    for seed in range(200):
        translations, references = random_case(seed)
        result = translation_metrics(translations, references)
        json.dumps(result, allow_nan=False)
        assert result["bleu"] == close(sacrebleu.corpus_bleu(translations, [references]).score)
        assert result["chrf"] == close(sacrebleu.corpus_chrf(translations, [references]).score)
        assert result["ter"] == close(sacrebleu.corpus_ter(translations, [references]).score)


def test_sentences_are_scored_as_by_sacrebleu():
    for seed in range(50):
        translations, references = random_case(seed)
        scores = translation_scores(translations, references)
        assert set(scores) == set(TRANSLATION_METRICS)
        for name, values in scores.items():
            score = getattr(sacrebleu, f"sentence_{name}")
            assert values == close([score(t, [r]).score for t, r in zip(translations, references)])


def test_bleu_is_that_of_the_paper():
    for seed in range(200):
        translations, references = random_case(seed)
        found = translation_metrics(translations, references, metrics=["bleu"], tokenizer="none")
        assert found["bleu"] == close(literal_bleu(translations, references))


def test_by_hand():
    # 5 of 6 words, 3 of 5 pairs, 2 of 4 triples, 1 of 3 quadruples; one edit on six words.
    result = translation_metrics(["the cat sat on a mat"], ["the cat sat on the mat"])
    assert result["bleu"] == close(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert result["ter"] == close(100 / 6)
    assert result["bleu_brevity_penalty"] == 1
    short = translation_metrics(["the cat sat on"], ["the cat sat on the mat"], metrics=["bleu"])
    assert short["bleu"] == close(100 * math.exp(1 - 6 / 4))


def test_signatures_say_how_it_was_scored():
    result = translation_metrics(["A cat"], [["a cat", "the cat"]], lowercase=True, chrf_words=2)
    version = sacrebleu.__version__
    assert result["bleu_signature"] == f"nrefs:2|case:lc|eff:no|tok:13a|smooth:exp|version:{version}"
    assert result["chrf_signature"] == f"nrefs:2|case:lc|eff:yes|nc:6|nw:2|space:no|version:{version}"
    assert (
        result["ter_signature"] == f"nrefs:2|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:{version}"
    )


def test_several_references_of_different_number():
    translations, references = ["a cat", "two dogs"], [["the cat", "a cat"], "dogs"]
    result = translation_metrics(translations, references)
    expected = sacrebleu.corpus_chrf(translations, [["the cat", "dogs"], ["a cat", None]]).score
    assert result["chrf"] == close(expected)
    assert "nrefs:var" in result["bleu_signature"]
    assert translation_scores(translations, references)["ter"] == close([0, 100])


def test_an_empty_translation():
    result = translation_metrics(["", ""], ["the cat", "a dog"])
    assert (result["bleu"], result["chrf"], result["ter"]) == (0, 0, 100)
    assert translation_scores([""], ["the cat"]) == {"bleu": [0], "chrf": [0], "ter": [100]}
    perfect = translation_metrics(["the cat sat on it"], ["the cat sat on it"])
    assert (perfect["bleu"], perfect["chrf"], perfect["ter"]) == close((100, 100, 0))


@pytest.mark.parametrize("function", [translation_metrics, translation_scores])
def test_what_cannot_be_scored(function):
    with pytest.raises(DataError, match="no example"):
        function([], [])
    with pytest.raises(DataError, match="1 predictions for 2 targets"):
        function(["a"], ["a", "b"])
    with pytest.raises(DataError, match="example 1 has no reference"):
        function(["a", "b"], [["a"], []])
    with pytest.raises(DataError, match="no metric 'meteor'"):
        function(["a"], ["a"], metrics=["meteor"])
