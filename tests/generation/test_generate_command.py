"""``jaxtune generate``: what it reads, what it prints, and what it refuses."""

import io
import json
import sys

import jax
import pytest
from transformers import AutoTokenizer

import jaxtune
from jaxtune.cli import main
from jaxtune.generation.prompt_files import read_prompts
from jaxtune.hub.pretrained import Pretrained
from tests.generation.tiny_models import CONFIG, TEMPLATE, byte_tokenizer, tiny_gpt2

RAW = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": CONFIG.vocab_size,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 64,
    "n_positions": 128,
    "initializer_range": 0.3,
    "eos_token_id": CONFIG.vocab_size - 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint that chats, and whose author would have it drawn from."""
    path = tmp_path_factory.mktemp("generate") / "model"
    model, params = tiny_gpt2()
    tokenizer = byte_tokenizer(chat_template=TEMPLATE)
    jaxtune.save_pretrained(path, Pretrained(model, params, raw_config=RAW, tokenizer=tokenizer))
    own = {"do_sample": True, "temperature": 2.0, "max_new_tokens": 5}
    (path / "generation_config.json").write_text(json.dumps(own))
    return path


@pytest.fixture(scope="module")
def lm(folder):
    return jaxtune.load_pretrained(folder, "auto")


@pytest.fixture
def say(folder, capsys):
    def call(*argv):
        status = main(["generate", str(folder), "--max-new-tokens", "12", *map(str, argv)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return call


def test_one_prompt_gives_plain_text(say, lm):
    status, out, _ = say("--prompt", "Once upon")
    assert (status, out) == (0, lm.generate(["Once upon"], max_new_tokens=12)[0] + "\n")


def test_many_prompts_give_json_lines(say, lm):
    status, out, _ = say("--prompt", "Once", "A", "--prompt", "B", "--temperature", "0.8", "--seed", "3")
    lines = [json.loads(line) for line in out.splitlines()]
    texts = lm.generate(["Once", "A", "B"], max_new_tokens=12, temperature=0.8, seed=3)
    assert status == 0
    assert [line["prompt"] for line in lines] == ["Once", "A", "B"]
    assert [line["text"] for line in lines] == texts
    assert {line["ended"] for line in lines} <= {"length", "eos"}
    _, out, _ = say("--prompt", "Once", "--num-beams", "3", "--num-return-sequences", "2")
    best = [json.loads(line) for line in out.splitlines()]
    assert [line["prompt"] for line in best] == ["Once", "Once"]
    assert best[0]["score"] >= best[1]["score"]


def test_a_terminal_sees_the_text_grow(folder, lm, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

        def flush(self):
            seen.append(self.getvalue())

    seen, terminal = [], Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["generate", str(folder), "--prompt", "Once upon", "--max-new-tokens", "12"]) == 0
    text = lm.generate(["Once upon"], max_new_tokens=12)[0]
    assert terminal.getvalue() == text + "\n"
    assert len({length for length in map(len, seen) if length < len(text)}) > 2


def test_chat_stop_and_the_authors_settings(folder, say, lm, capsys):
    turns = [{"role": "user", "content": "Hello"}]
    text = lm.generate([turns], max_new_tokens=12)[0]
    assert say("--chat", "--prompt", "Hello")[1] == text + "\n"
    assert say("--chat", "--prompt", "Hello", "--stop", text[4:6])[1] == text.split(text[4:6])[0] + "\n"
    assert main(["generate", str(folder), "--checkpoint-settings", "--prompt", "Once"]) == 0
    theirs = lm.generate(["Once"], checkpoint_settings=True)
    assert theirs == lm.generate(["Once"], temperature=2.0, max_new_tokens=5)
    assert capsys.readouterr().out == theirs[0] + "\n"


def test_files_of_prompts(say, lm, tmp_path):
    (tmp_path / "p.txt").write_text("Once\r\n\nA\n")
    assert read_prompts(str(tmp_path / "p.txt")) == ["Once", "A"]
    turns = [{"role": "user", "content": "Hello"}]
    lines = ["x", {"prompt": "y", "text": "z"}, {"text": "z"}, {"messages": turns}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_prompts(str(tmp_path / "p.jsonl")) == ["x", "y", "z", turns]
    out = tmp_path / "out.jsonl"
    status, printed, err = say("--input", tmp_path / "p.jsonl", "--output", out)
    assert (status, printed) == (0, "")
    assert f"4 texts written to {out}" in err
    written = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    assert written == lm.generate(["x", "y", "z", turns], max_new_tokens=12)
    assert say("--input", tmp_path / "p.jsonl", "--output", out)[0] == 2
    assert say("--input", tmp_path / "p.txt", "--output", out, "--overwrite")[0] == 0


def test_prompts_from_standard_input(say, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once\n\nA\n"))
    assert [json.loads(line)["prompt"] for line in say()[1].splitlines()] == ["Once", "A"]
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    status, _, err = say()
    assert status == 2
    assert "nothing to continue: standard input is empty; give --prompt, --input FILE, or lines" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt", "x", "--temperature", "-1"], "`temperature` is -1.0; expected 0 or more"),
        (["--prompt", "x", "--num-beams", "2", "--top-p", "0.9"], "a beam search draws none"),
        (["--prompt", "x" * 130], "prompts[0] has 130 tokens; the model reads 128 at most"),
        (["--prompt", "x", "--input", "y.txt"], "give either --prompt or --input, not both"),
        (["--input", "nowhere.txt"], "nowhere.txt: no such file; expected prompts, as .txt or .jsonl"),
    ],
)
def test_mistakes_are_named(say, words, said):
    status, out, err = say(*words)
    assert (status, out) == (2, "")
    assert said in err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.csv", b"x", "expected .txt with one prompt a line, or .jsonl"),
        ("p.txt", b"\n \n", "holds no prompt"),
        ("p.txt", b"a\xff", "not valid UTF-8 at byte 1"),
        ("p.jsonl", b'"a"\n{"a": 1\n', "p.jsonl:2: not valid JSON"),
        ("p.jsonl", b'\n{"question": 1}', "p.jsonl:2: expected a string, or an object with prompt, messages"),
        ("p.jsonl", b'{"prompt": 1}', "p.jsonl:1: expected a string"),
    ],
)
def test_files_without_prompts(say, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    status, _, err = say("--input", tmp_path / name)
    assert status == 2
    assert said in err


def test_a_classifier_writes_nothing(say, folder, tmp_path, capsys):
    raw = {**RAW, "architectures": ["GPT2ForSequenceClassification"], "pad_token_id": 0}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = jaxtune.load_pretrained(folder, "classification").model
    params = model.init(jax.random.key(0), *[jax.numpy.ones((1, 8), int)] * 2)["params"]
    jaxtune.save_pretrained(tmp_path / "c", Pretrained(model, params, raw_config=raw, tokenizer=tokenizer))
    assert main(["generate", str(tmp_path / "c"), "--prompt", "x"]) == 2
    assert "has the head 'classification'; load it with head='causal_lm'" in capsys.readouterr().err
