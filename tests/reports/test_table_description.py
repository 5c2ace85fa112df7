from __future__ import annotations

import pytest

from jaxtune.errors import ConfigError
from jaxtune.reports.table_description import find_description, read_description, slug

GOOD = """
title: A table
presets: presets.py
seeds: [0, 3]
baseline: Words
set: {train: {epochs: 1}, data.limit: 5}
tasks:
  - {name: films, preset: films, metrics: [accuracy, f1]}
  - {name: books, set: {data.train: "csv:a.csv"}, metrics: [f1]}
rows:
  - {name: Net}
  - {name: Words, program: words.py}
  - {name: Net (2014), published: {films: {f1: 0.5, accuracy: 1}}, source: A paper}
"""


def read(tmp_path, text):
    path = tmp_path / "films.yaml"
    path.write_text(text)
    return read_description(str(path))


def test_a_description(tmp_path):
    d = read(tmp_path, GOOD)
    assert d.name == "films"
    assert d.set == {"train.epochs": 1, "data.limit": 5}
    assert d.tasks[1].set == {"data.train": "csv:a.csv"}
    assert [d.seeds_of(row) for row in d.rows[:2]] == [(0, 3), (0,)]
    assert d.run_name(d.rows[0], d.tasks[0], 3) == "films-net-films-s3"
    assert d.run_name(d.rows[1], d.tasks[0], 0) == "films-words-films"
    assert d.rows[2].published == {"films": {"f1": 0.5, "accuracy": 1}}
    assert d.beside("words.py") == str(tmp_path / "words.py")
    assert d.beside("/a/words.py") == "/a/words.py"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title: A table", "titel: A table", r"films.yaml: unknown field `titel`; did you mean `title`\?"),
        ("metrics: [f1]", "metric: [f1]", r"`tasks\[1\].metrics` is missing; expected a list"),
        ("metrics: [f1]", "metrics: []", r"`tasks\[1\].metrics` is \[\]; expected at least one"),
        ("seeds: [0, 3]", "seeds: [0, 0]", "all different"),
        ("seeds: [0, 3]", "seeds: [x]", "`seeds` expects a whole number each; got 'x'"),
        ("seeds: [0, 3]", "seeds: 3", "`seeds` expects a list; got 3"),
        ("title: A table", "title: A\ntitle: B", r"films.yaml:3: `title` is given twice"),
        ("title: A table", "title: [", "not valid YAML"),
        ("baseline: Words", "baseline: Net (2014)", "expected one of the rows with runs"),
        ("name: Words,", "name: net,", "the names of `rows` are"),
        ("  - {name: Net}\n", "  - {name: Net, set: {data.train: x}}\n", "both set data.train"),
        ("  - {name: Net}\n", "  - {name: Net, preset: films}\n", "both name a preset"),
        ("presets: presets.py\n", "", "`presets` is missing; which file holds 'films'"),
        ("source: A paper", "seeds: [1]", "has published figures, so it has no runs"),
        ("{f1: 0.5,", "{bleu: 0.5,", "the table has no column `films`, `bleu`"),
        ("{f1: 0.5,", "{f1: x,", r"`rows\[2\].published.films.f1` expects a number; got 'x'"),
        ("{films: {f1: 0.5, accuracy: 1}}", "{films: 1}", r"`rows\[2\].published.films` is to be a mapping"),
        ("- {name: Net}", "- Net", r"`rows\[0\]` is to be a mapping of fields; got str"),
        ("title: A table", "significance: 2", "`significance` between 0 and 1"),
        ("title: A table", "digits: true", "`digits` expects a whole number; got True"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, said):
    assert old in GOOD
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, GOOD.replace(old, new))


def test_files_that_are_no_description(tmp_path):
    with pytest.raises(ConfigError, match="the file is to be a mapping of fields; got NoneType"):
        read(tmp_path, "")
    (tmp_path / "a.yaml").write_bytes(b"title: \xff")
    with pytest.raises(ConfigError, match="not valid UTF-8 at byte 7"):
        read_description(str(tmp_path / "a.yaml"))


def test_two_cells_with_one_name(tmp_path):
    text = "tasks: [{name: b c, metrics: [f1]}, {name: c, metrics: [f1]}]\nrows: [{name: a}, {name: a b}]"
    with pytest.raises(ConfigError, match="a run of the same name, films-a-b-c-s0"):
        read(tmp_path, text)


def test_a_table_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no table 'films' in experiments/tables; give a \.yaml file"):
        find_description("films")
    (tmp_path / "experiments" / "tables").mkdir(parents=True)
    (tmp_path / "experiments" / "tables" / "films.yaml").write_text("")
    assert find_description("films") == "experiments/tables/films.yaml"
    with pytest.raises(ConfigError, match="there are: films"):
        find_description("books")
    with pytest.raises(ConfigError, match="there is no such file"):
        find_description("books.yaml")


def test_slugs():
    assert [slug(text) for text in ("VADER (3.3)", "Größe", "--", "a_b")] == ["vader-3-3", "groe", "", "a-b"]
