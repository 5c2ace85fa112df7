"""What a decoder learns: the bytes its labels stand for, replies beside their questions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jaxtune.config import DataConfig, Experiment
from jaxtune.data.examples import Examples
from jaxtune.errors import ConfigError
from jaxtune.tasks.base import Piece
from jaxtune.tasks.causal_lm import CausalLM, bytes_of_tokens
from tests.generation.tiny_models import TEMPLATE, byte_tokenizer

BYTES = byte_tokenizer(chat_template=TEMPLATE)
"""One token per byte: some characters have several."""


def splitting():
    """Words and signs, without the white space between them."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")


WORDS = splitting()
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@pytest.mark.parametrize("tokenizer", [BYTES, WORDS], ids=["bytes", "words"])
@given(text=texts)
def test_the_bytes_of_all_tokens_are_those_of_the_text(tokenizer, text):
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    if offsets:
        sizes = bytes_of_tokens(text, offsets)
        assert sizes.sum() == len(text.encode())
        assert (sizes >= 0).all()


def test_a_character_of_several_tokens_counts_once():
    text = "aé 🙂."
    offsets = BYTES(text, return_offsets_mapping=True)["offset_mapping"]
    assert len(offsets) == 9
    assert bytes_of_tokens(text, offsets).tolist() == [1, 2, 0, 1, 4, 0, 0, 0, 1]
    # White space that no token has goes with the word behind it, and at the end with the last word.
    assert bytes_of_tokens(
        " a  é \n", WORDS(" a  é \n", return_offsets_mapping=True)["offset_mapping"]
    ).tolist() == [2, 6]
    assert bytes_of_tokens("ab", [(0, 0), (0, 1), (1, 2), (0, 0)]).tolist() == [0, 1, 1, 0]


@given(texts.filter(lambda t: not t.isspace()), st.integers(2, 9))
def test_a_text_is_told_without_its_first_token(text, max_length):
    (pieces,) = CausalLM("text", max_length).tokenize([{"text": text}], BYTES, str)
    sizes = bytes_of_tokens(text, BYTES(text, return_offsets_mapping=True)["offset_mapping"])
    assert sum(piece["target"] for piece in pieces) == len(text.encode()) - sizes[0]


class Split:
    def __init__(self, made):
        self.examples = Examples.from_list(made)


def test_bits_per_byte_of_a_split_and_of_its_rows():
    task = CausalLM("text", 8)
    made = [
        piece
        for pieces in task.tokenize([{"text": "né so."}, {"text": "ab"}], BYTES, str)
        for piece in pieces
    ]
    count = np.array([(piece["labels"] >= 0).sum() for piece in made], np.float32)
    outputs = {"loss_sum": count * np.float32(math.log(4)), "right": count * 0, "count": count}
    found = task.score(outputs, Split(made))
    tokens, told = int(count.sum()), 6 + 1
    assert (found["tokens"], found["bytes"]) == (tokens, told) == (9, 7)
    assert found["bits_per_byte"] == pytest.approx(2 * tokens / told)
    rows = [
        task.scores({}, [Piece(piece, {name: values[i] for name, values in outputs.items()})])[
            "bits_per_byte"
        ]
        for i, piece in enumerate(made)
    ]
    assert sum(a for a, _ in rows) / sum(b for _, b in rows) == pytest.approx(found["bits_per_byte"])


def test_of_a_reply_the_bytes_are_its_own():
    record = {"asked": "Say é", "more": "twice", "said": "éé"}
    task = CausalLM("asked", 100, text_pair="more", reply="said")
    ((piece,),) = task.tokenize([record], BYTES, str)
    told = BYTES.decode(piece["labels"][piece["labels"] >= 0].tolist())
    assert told == "éé\n"
    assert piece["target"] == len("éé\n".encode())
    assert BYTES.decode(piece["tokens"].tolist()).startswith("user: Say é\n\ntwice\nassistant: é")
    ((without,),) = task.tokenize([{**record, "more": ""}], BYTES, str)
    assert BYTES.decode(without["tokens"].tolist()).startswith("user: Say é\nassistant: é")


def test_columns_of_a_reply():
    def task(**data):
        return CausalLM.from_experiment(Experiment(task="causal_lm", data=DataConfig(**data)))

    assert task(text="q", text_pair="more", reply="a").columns_read == {
        "data.text": "q", "data.text_pair": "more", "data.reply": "a",
    }  # fmt: skip
    assert task().columns_read == {"data.text": "text"}
    with pytest.raises(
        ConfigError, match=r"text_pair` is 'more'; expected none for causal_lm without data\.reply"
    ):
        task(text_pair="more")
