"""Spans: windows over long contexts, the tokens of an answer, the loss, the way back, and what is wrong with rows."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtune.config import DataConfig, Experiment, TrainConfig
from jaxtune.data.batches import build_batch
from jaxtune.data.examples import Examples
from jaxtune.data.planning import StepPlan
from jaxtune.data.sources import open_source
from jaxtune.errors import ConfigError, DataError, NonFiniteError
from jaxtune.hub.tokenizer_building import Recipe, build_tokenizer
from jaxtune.tasks.base import Piece
from jaxtune.tasks.question_answering import QuestionAnswering
from jaxtune.tasks.reading.encoding import TextColumns
from jaxtune.tasks.scoring.squad import squad_v1, squad_v2
from jaxtune.tasks.spans import best_spans, cut_windows, point_at, span_losses

FIXTURE = Path(__file__).parents[1] / "questions.json"
COLUMNS = TextColumns("question", "context", 40)
TASK = QuestionAnswering(COLUMNS, "answers", doc_stride=8, max_question_length=12, null_threshold=None)
PARAGRAPHS = [p for article in json.loads(FIXTURE.read_text())["data"] for p in article["paragraphs"]]
LETTERS = [*"abcé \t\n.,’🚀ﬁÅ", "the ", "pier ", "\x00", "\u200b", "東京", "boats"]


def made(kind):
    texts = [text for p in PARAGRAPHS for text in (p["context"], *(q["question"] for q in p["qas"]))]
    return build_tokenizer(Recipe(kind, 330), texts * 3)


TOKENIZERS = {kind: made(kind) for kind in ("wordpiece", "bpe", "unigram")}
"""Three ways to count characters: words, bytes (an emoji is several tokens), blanks that belong to a word."""

kinds = st.sampled_from(sorted(TOKENIZERS))
contexts = st.lists(st.sampled_from(LETTERS), min_size=1, max_size=80).map("".join)


@pytest.fixture
def tokenizer():
    return TOKENIZERS["wordpiece"]


def offsets_of(context, tokenizer):
    return tokenizer([context], add_special_tokens=False).encodings[0].offsets


def pairs_of(window):
    """(start, end) in the context of a window's tokens."""
    there = window["char_starts"] >= 0
    return list(zip(window["char_starts"][there].tolist(), window["char_ends"][there].tolist()))


def characters(pairs):
    return {place for start, end in pairs for place in range(start, end)}


@given(kind=kinds, context=contexts, stride=st.integers(0, 9))
@settings(max_examples=150)
def test_windows_hold_every_token_and_overlap(kind, context, stride):
    tokenizer = TOKENIZERS[kind]
    (windows,) = cut_windows(
        [("the pier?", context)], tokenizer, max_length=26, stride=stride, max_question=12
    )
    if windows == 1:
        assert not offsets_of(context, tokenizer)
        return
    question = tokenizer(["the pier?"], add_special_tokens=False)["input_ids"][0]
    ids = tokenizer([context], add_special_tokens=False)["input_ids"][0]
    seen = 0
    for i, window in enumerate(windows):
        assert len(window["tokens"]) <= 26
        assert window["tokens"][1 : 1 + len(question)].tolist() == question
        own = window["char_starts"] >= 0
        # Each window goes on where the one before ended, but for the overlap.
        seen -= stride if i else 0
        assert window["tokens"][own].tolist() == ids[seen : seen + own.sum()]
        assert pairs_of(window) == offsets_of(context, tokenizer)[seen : seen + own.sum()]
        seen += int(own.sum())
        assert not window["truncated"]
    assert seen == len(ids)


@given(kind=kinds, context=contexts, data=st.data())
@settings(max_examples=250)
def test_an_answer_is_pointed_to_where_it_is_whole_and_read_back(kind, context, data):
    tokenizer = TOKENIZERS[kind]
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, min(len(context), start + 12)))
    (windows,) = cut_windows([("the pier?", context)], tokenizer, max_length=30, stride=6, max_question=12)
    if windows == 1:
        assert not offsets_of(context, tokenizer)
        return
    covering = {pair for pair in offsets_of(context, tokenizer) if pair[1] > start and pair[0] < end}
    if not covering:
        with pytest.raises(ValueError, match="no token"):
            point_at(windows, start, end)
        return
    low, high = min(a for a, _ in covering), max(b for _, b in covering)
    spans = point_at(windows, start, end)
    pieces = []
    for window, span in zip(windows, spans):
        # By characters: the tokens of one may be in two windows, where it is several (bytes).
        assert (span is not None) == (characters(covering) <= characters(pairs_of(window)))
        logits = np.zeros((len(window["tokens"]), 2))
        if span is not None:
            assert (window["char_starts"][span[0]], window["char_ends"][span[1]]) == (low, high)
        logits[span[0] if span else 0, 0] = logits[span[1] if span else 0, 1] = 10.0
        pieces.append(Piece(window, {"logits": logits}))
    text = context[low:high].strip()
    if any(spans) and text:
        best = best_spans(pieces, context, most_tokens=30)[0]
        assert context[best.start : best.end] == text
        assert best.score == 20.0


def test_the_answers_of_the_fixture_are_found_in_their_windows(tokenizer):
    records = open_source(f"squad:{FIXTURE}")
    rows = [records[i] for i in range(len(records))]
    several = 0
    for row, windows in zip(rows, TASK.tokenize(rows, tokenizer, records.where), strict=True):
        several += len(windows) > 1
        pointed = [window for window in windows if window["target"] != [0, 0]]
        assert bool(pointed) == bool(row["answers"])
        for window in pointed:
            start, end = window["target"]
            covered = row["context"][window["char_starts"][start] : window["char_ends"][end]]
            assert covered == row["answers"][0]["text"]
        assert all((window["tokens"][0], window["char_starts"][0]) == (2, -1) for window in windows)
    assert several >= 7


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_a_long_question_loses_its_end(kind):
    tokenizer = TOKENIZERS[kind]
    long = "Who paid for the oldest pier of the harbour? " * 20
    (windows,) = cut_windows(
        [(long, "Ingrid Solberg paid.")], tokenizer, max_length=40, stride=4, max_question=12
    )
    kept = int((windows[0]["char_starts"] < 0).sum()) - tokenizer.num_special_tokens_to_add(pair=True)
    assert 11 <= kept <= 12
    assert all(window["truncated"] for window in windows)


def test_rows_of_both_shapes_and_bytes_are_the_same(tokenizer):
    text, start = "Orléans", 38
    row = next(p for p in PARAGRAPHS if "café" in p["context"])
    base = {"question": "Où ?", "context": row["context"]}
    rows = [
        {**base, "answers": [{"text": text, "start": start}]},
        {**base, "answers": [{"text": text, "answer_start": start}], "is_impossible": False},
        {**base, "answers": {"text": [text, "x"][:1], "answer_start": [start]}},
        {
            "question": "Où ?".encode(),
            "context": row["context"].encode(),
            "answers": {
                "text": np.array([text.encode()], object),
                "answer_start": np.array([start], np.int32),
            },
        },
    ]
    first, *others = TASK.tokenize(rows, tokenizer, str)
    assert any(window["target"] != [0, 0] for window in first)
    for other in others:
        assert [w["target"] for w in other] == [w["target"] for w in first]
        assert [w["tokens"].tolist() for w in other] == [w["tokens"].tolist() for w in first]
    assert all(TASK.truth(row, None) == [text] for row in rows)
    none = [
        {**base, "answers": {"text": [], "answer_start": []}},
        {**base, "answers": [], "impossible": True},
    ]
    for windows in TASK.tokenize(none, tokenizer, str):
        assert [w["target"] for w in windows] == [[0, 0]] * len(windows)


GOOD = {
    "question": "Who?",
    "context": "Ada Lovelace\x00 wrote it.",
    "answers": [{"text": "Ada", "answer_start": 0}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"answers": [{"text": "wrote", "start": 13}]},
            "'wrote' does not match the context, which has ' wrot' at 13 (it stands at 14",
        ),
        ({"answers": {"text": ["Bob"], "answer_start": [0]}}, "it stands nowhere in the context"),
        (
            {"answers": {"text": ["Ada", "wrote"], "answer_start": [0, -9]}},
            "'wrote' does not match the context",
        ),
        ({"answers": {"text": ["Ada"], "answer_start": []}}, "expected a list of"),
        ({"answers": {"text": ["Ada"]}}, "expected a list of"),
        ({"answers": ["Ada"]}, "holds ['Ada']"),
        ({"answers": "Ada"}, "holds 'Ada'"),
        ({"answers": None}, "holds None"),
        ({"answers": [{"text": 3, "start": 0}]}, "expected a list of"),
        ({"answers": [{"text": "Ada", "start": "0"}]}, "expected a list of"),
        ({"answers": [{"text": b"\xff", "start": 0}]}, "expected a list of"),
        ({"answers": [{"text": "", "start": 0}]}, "the empty answer ''"),
        ({"answers": [{"text": " ", "start": 3}]}, "the empty answer ' '"),
        ({"answers": [{"text": "\x00", "start": 12}]}, "the tokenizer drops every character"),
        ({"impossible": True}, "has answers, and the question is impossible"),
        ({"answers": [], "is_impossible": False}, "has no answer, and the question is not impossible"),
        ({"context": " "}, "column 'context' holds white space only"),
        ({"context": "\x00\x01", "answers": []}, "holds only characters that the tokenizer drops"),
        ({"question": ""}, "column 'question' is empty"),
        ({"question": "\x00"}, "column 'question' holds only characters that the tokenizer drops"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_and_spoils_no_other(tokenizer, change, message):
    # BERT's own normalizer drops control characters.
    from tokenizers import normalizers

    tokenizer = made("wordpiece")
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer()
    before, bad, after = TASK.tokenize(
        [GOOD, {**GOOD, **change}, GOOD], tokenizer, lambda i: f"q.jsonl:{i + 1}"
    )
    assert isinstance(bad, DataError)
    assert str(bad).startswith("q.jsonl:2: column '")
    assert message in str(bad)
    assert "--data.on-error skip" in str(bad)
    assert before[0]["target"] == after[0]["target"] != [0, 0]


def test_a_missing_column_is_named_and_prediction_needs_no_answers(tokenizer):
    row = {"question": "Who?", "context": "Ada did."}
    (error,) = TASK.tokenize([row], tokenizer, str)
    assert "no column 'answers'" in str(error)
    (windows,) = TASK.tokenize([row], tokenizer, str, labelled=False)
    assert windows[0]["target"] == [0, 0]


# Losses of transformers' BertForQuestionAnswering (5.23, torch 2.13) for the logits of pattern(n).
GOLDENS = {(12, 4, 7): 2.222355842590332, (5, 0, 0): 2.9442646503448486, (9, 8, 8): 3.1382999420166016}

LOSS = jax.jit(TASK.loss)


def pattern(n):
    return np.array([[((i * 7 + 3 * k) % 11 - 5) / 4 for k in range(2)] for i in range(n)], np.float32)


def batch_of(rows, length, slots):
    """Logits [B, S, 2] and batch of rows of (n, start, end); what is no token has absurd logits."""
    flat = [example for row in rows for example in row]
    examples = Examples.from_list({"tokens": np.arange(n), "target": [s, e]} for n, s, e in flat)
    ids, plan = iter(range(len(flat))), []
    for row in rows:
        plan.append(tuple(next(ids) for _ in row))
    logits = np.full((len(rows), length, 2), np.nan, np.float32)
    for i, row in enumerate(rows):
        at = 0
        for n, _, _ in row:
            logits[i, at : at + n] = pattern(n)
            at += n
    return jnp.asarray(logits), build_batch(examples, StepPlan(tuple(plan), length, slots))


def test_the_loss_is_torchs_packed_or_alone():
    cases = list(GOLDENS)
    for case, expected in GOLDENS.items():
        logits, batch = batch_of([[case]], case[0], 1)
        total, weight = LOSS(logits, batch)["loss"]
        assert (float(total), float(weight)) == (pytest.approx(expected, abs=1e-5), 1.0)
    logits, batch = batch_of([[cases[0], cases[1]], [cases[2]], []], 20, 3)
    losses = np.asarray(jax.jit(span_losses)(logits, batch)[0])
    assert losses.shape == (3, 3)
    assert losses[0, :2].tolist() == pytest.approx([GOLDENS[cases[0]], GOLDENS[cases[1]]], abs=1e-5)
    assert losses[1, 0] == pytest.approx(GOLDENS[cases[2]], abs=1e-5)
    assert losses[0, 2] == losses[1, 1] == losses[2].max() == 0
    sums = LOSS(logits, batch)
    assert float(sums["loss"][0]) == pytest.approx(sum(GOLDENS.values()), abs=1e-5)
    assert float(sums["loss"][1]) == 3


def test_no_gradient_crosses_examples_or_reaches_padding():
    cases = list(GOLDENS)
    logits, batch = batch_of([[cases[0], cases[1]], [cases[2]]], 20, 3)
    gradient = jax.jit(jax.grad(lambda z, batch: TASK.loss(z, batch)["loss"][0]))
    packed = np.asarray(gradient(logits, batch))
    assert np.isfinite(packed).all()
    assert not packed[batch["segment_ids"] == 0].any()
    alone = np.asarray(gradient(*batch_of([[case] for case in cases], 12, 1)))
    places = [(0, 0), (0, cases[0][0]), (1, 0)]
    for (n, _, _), own, (row, start) in zip(cases, alone, places):
        np.testing.assert_allclose(packed[row, start : start + n], own[:n], atol=1e-6)
        assert np.abs(own[:n]).max() > 0.1


def test_the_running_accuracy_wants_both_ends():
    logits, batch = batch_of([[(12, 4, 7), (5, 0, 0)]], 17, 2)
    best = np.array([pattern(n).argmax(axis=0) for n in (12, 5)])
    batch["targets"] = best[None].copy()
    assert [float(x) for x in LOSS(logits, batch)["accuracy"]] == [2, 2]
    batch["targets"][0, 0, 1] -= 1
    assert [float(x) for x in LOSS(logits, batch)["accuracy"]] == [1, 2]


CONTEXT = "one two three four"


def piece(starts, ends, *, first=(-9.0, 0.0), words=CONTEXT):
    """A window of [CLS] question [SEP] context [SEP] with these logits for the words of the context."""
    places = [(CONTEXT.index(word), CONTEXT.index(word) + len(word)) for word in words.split()]
    places = [(-1, -1)] * 3 + places + [(-1, -1)]
    logits = np.full((len(places), 2), 50.0, np.float32)  # the question's and [SEP]'s: they must not count
    logits[0] = first
    logits[3:-1] = np.stack([starts, ends], axis=1)
    columns = np.array(places, np.int32)
    return Piece({"char_starts": columns[:, 0], "char_ends": columns[:, 1]}, {"logits": logits})


ROW = {"question": "?", "context": CONTEXT}


def test_the_best_span_ends_behind_its_start_and_is_not_too_long():
    given = piece([0, 0, 5, 0], [9, 2, 0, 4])
    spans = best_spans([given], CONTEXT, most_tokens=4)
    assert [(CONTEXT[s.start : s.end], s.score) for s in spans[:3]] == [
        ("one", 9.0),
        ("three four", 9.0),
        ("three", 5.0),
    ]
    assert len(spans) == 10
    assert CONTEXT not in [CONTEXT[s.start : s.end] for s in best_spans([given], CONTEXT, most_tokens=3)]
    assert {s.end - s.start for s in best_spans([given], CONTEXT, most_tokens=1)} == {3, 4, 5}


def test_windows_are_compared_and_a_span_in_two_counts_once():
    pieces = [
        piece([1, 0, 0], [1, 0, 0], words="one two three"),
        piece([3, 0, 0], [0, 0, 3], words="two three four", first=(-1, 0)),
    ]
    answer = TASK.answer(ROW, pieces)
    assert (answer["answer"], answer["start"], answer["end"], answer["score"]) == (
        "two three four",
        4,
        18,
        6.0,
    )
    assert answer["null_score_difference"] == -9.0 - 6.0
    found = [(s["start"], s["end"]) for s in answer["n_best"]]
    assert len(found) == len(set(found)) == 5
    assert all(a["score"] >= b["score"] for a, b in zip(answer["n_best"], answer["n_best"][1:]))
    scores = np.array([s.score for s in best_spans(pieces, CONTEXT, most_tokens=30)])
    assert answer["n_best"][0]["probability"] == pytest.approx(float(np.exp(6) / np.exp(scores).sum()))
    json.dumps(answer)


def test_twenty_ends_before_twenty_starts_still_give_an_answer():
    n = 60
    starts = np.arange(n)
    logits = np.zeros((n, 2))
    logits[40:, 0] = logits[:20, 1] = 5.0
    logits[30] = (4.0, 4.5)
    window = {"char_starts": starts, "char_ends": starts + 1}
    (span,) = best_spans([Piece(window, {"logits": logits})], "x" * n, most_tokens=30)
    assert (span.start, span.end, span.score) == (30, 31, 8.5)


@pytest.mark.parametrize(
    ("threshold", "said"), [(None, "two"), (0.0, ""), (4.9, ""), (5.0, "two"), (-8.0, "")]
)
def test_the_threshold_says_when_there_is_no_answer(threshold, said):
    task = QuestionAnswering(COLUMNS, "answers", null_threshold=threshold)
    # "No answer" has 7 and 12 in the two windows, the best span 2: 5 less than the lower of them.
    pieces = [
        piece([0, 1, 0, 0], [0, 1, 0, 0], first=(7, 0)),
        piece([0, 0, 0, 0], [0, 0, 0, 0], first=(6, 6)),
    ]
    answer = task.answer(ROW, pieces)
    assert answer["null_score_difference"] == 5.0
    assert answer["answer"] == said
    assert (answer["start"], answer["end"]) == ((4, 7) if said else (None, None))
    assert ("" in [s["answer"] for s in answer["n_best"]]) == (threshold is not None)
    gold = {**ROW, "answers": [{"text": "two", "start": 4}]}
    exact = 100.0 if said else 0.0
    assert task.scores(gold, pieces) == {"exact_match": exact, "f1": exact}
    assert task.scores({**ROW, "answers": []}, pieces)["f1"] == 100.0 - exact


class Windows(list):
    """Examples without their batches' columns, one per row, in place of a split's."""

    def __init__(self, pieces):
        super().__init__(piece.example for piece in pieces)
        self.targets = np.zeros((len(pieces), 2), np.int32)


def scored(task, cases):
    """Scores, outputs and split of (answers, starts, ends, first) each, one question a case."""
    answers = [[{"text": text, "start": CONTEXT.index(text)} for text in case[0]] for case in cases]
    pieces = [piece(*case[1:3], first=(case[3], 0.0)) for case in cases]
    split = SimpleNamespace(
        examples=Windows(pieces),
        records=[{**ROW, "answers": given} for given in answers],
        rows=np.arange(len(cases)),
    )
    outputs = {"logits": [p.outputs["logits"] for p in pieces], "loss": np.full(len(cases), 0.5, np.float32)}
    return task.score(outputs, split), outputs, split


UP = [0, 3, 0, 0]
CASES = [
    (["two", "two three"], UP, UP, -4.0),
    (["three four"], UP, [0, 0, 3, 0], 1.0),
    ([], UP, UP, 9.0),
    ([], UP, UP, 4.0),
    (["one"], [4, 0, 0, 0], [4, 0, 0, 0], 7.0),
]


def test_the_metrics_are_those_of_the_official_scripts():
    found, _, _ = scored(TASK, [case for case in CASES if case[0]])
    said = {"0": "two", "1": "two three", "2": "one"}
    gold = {"0": ["two", "two three"], "1": ["three four"], "2": ["one"]}
    assert found == {"loss": 0.5, **squad_v1(said, gold)}
    task = QuestionAnswering(COLUMNS, "answers", null_threshold=0.0)
    found, _, _ = scored(task, CASES)
    said = {"0": "two", "1": "two three", "2": "", "3": "two", "4": "one"}
    # Differences are -10, -5, 3, -2 and -1. From two right (nothing answered): 1 more at -10, then 0 or 1/2, then
    # the third and fourth: "two" is wrong where there is no answer, and "one" is right.
    gold = {"0": ["two", "two three"], "1": ["three four"], "2": [], "3": [], "4": ["one"]}
    official = squad_v2(said, gold)
    assert {name: found[name] for name in official} == official
    assert official["f1"] == pytest.approx(100 * (1 + 0.5 + 1 + 0 + 1) / 5)
    assert (found["best_f1"], found["best_f1_threshold"]) == (pytest.approx(70.0), -5.0)
    assert (found["best_exact_match"], found["best_exact_match_threshold"]) == (60.0, -10.0)
    at_best, _, _ = scored(QuestionAnswering(COLUMNS, "answers", null_threshold=-5.0), CASES)
    assert at_best["f1"] == found["best_f1"]
    assert set(task.metric_names) <= found.keys()
    assert set(TASK.metric_names) <= found.keys()
    json.dumps(found)


def test_where_nothing_should_be_answered_the_threshold_says_so():
    cases = [([], UP, UP, -4.0), ([], UP, UP, 4.0)]
    found, _, _ = scored(QuestionAnswering(COLUMNS, "answers", null_threshold=0.0), cases)
    assert found["best_f1"] == 100.0
    again, _, _ = scored(
        QuestionAnswering(COLUMNS, "answers", null_threshold=found["best_f1_threshold"]), cases
    )
    assert again["f1"] == 100.0


def test_losses_that_are_not_finite_are_an_error():
    _, outputs, split = scored(TASK, CASES[:1])
    with pytest.raises(NonFiniteError, match="diverged"):
        TASK.score({**outputs, "loss": np.array([np.nan])}, split)


def test_the_threshold_is_settled_on_the_training_rows():
    task, experiment = QuestionAnswering(COLUMNS, "answers"), Experiment(task="question_answering")
    with_empty = [[{"text": "a", "start": 0}], {"text": [], "answer_start": []}]
    settled = task.resolve_labels(with_empty)
    assert settled.settle(experiment).data.null_threshold == 0.0
    assert "best_f1" in settled.metric_names
    always = task.resolve_labels([[{"text": "a", "start": 0}], None, "bad"])
    assert always.settle(experiment).data.null_threshold is None
    asked = QuestionAnswering(COLUMNS, "answers", null_threshold=-2.5)
    assert asked.resolve_labels(with_empty) is asked
    # A copy of the tokenised examples serves all thresholds and lengths of answers.
    assert repr(settled) == repr(always) == repr(task)


def test_options_that_do_not_fit_are_refused(tokenizer):
    data = DataConfig(text="question", text_pair="context", label="answers", max_length=384)
    task = QuestionAnswering.from_experiment(Experiment(task="question_answering", data=data))
    assert task.for_model(SimpleNamespace(tokenizer=tokenizer)) is task
    short = DataConfig(text="question", text_pair="context", label="answers")
    with pytest.raises(ConfigError, match=r"max_length` is 128.* leaves 61 for the context.*overlap by 128"):
        QuestionAnswering.from_experiment(Experiment(data=short)).for_model(
            SimpleNamespace(tokenizer=tokenizer)
        )
    with pytest.raises(ConfigError, match=r"--data\.text-pair context"):
        QuestionAnswering.from_experiment(Experiment(data=DataConfig()))
    with pytest.raises(ConfigError, match=r"label_smoothing is 0\.1"):
        QuestionAnswering.from_experiment(Experiment(data=data, train=TrainConfig(label_smoothing=0.1)))
