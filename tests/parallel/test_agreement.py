"""Processes that agree, as threads around a dictionary that stands for JAX's coordinator."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxtune.errors import ConfigError, DataError, JaxtuneError, ProcessError, RunError
from jaxtune.parallel.agreement import Processes, code_facts, flat_facts


class Coordinator:
    """Text by key, as JAX's client has it."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.changed = threading.Condition()

    def key_value_set(self, key: str, value: str) -> None:
        with self.changed:
            assert key not in self.held, "JAX refuses a key that is there"
            self.held[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.held, timeout_in_ms / 1000):
                raise RuntimeError(f"DEADLINE_EXCEEDED: {key}")
            return self.held[key]

    def key_value_delete(self, key: str) -> None:
        with self.changed:
            for name in [name for name in self.held if name == key or name.startswith(key + "/")]:
                del self.held[name]


def as_processes(
    work: Callable[[Processes], Any], count: int = 3, wait: float = 20.0, store: Coordinator | None = None
) -> list[Any]:
    """What the work of each of several processes returned, or the error it raised."""
    store = store or Coordinator()
    ended: list[Any] = [None] * count

    def run(index: int) -> None:
        try:
            ended[index] = work(Processes(index, count, store, wait=wait))
        except Exception as error:
            ended[index] = error

    threads = [threading.Thread(target=run, args=(p,)) for p in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return ended


def test_every_process_has_the_value_of_each():
    assert as_processes(lambda p: p.gather("squares", p.index**2)) == [[0, 1, 4]] * 3


def test_many_questions_leave_little_behind():
    store = Coordinator()
    answers = as_processes(lambda p: [p.gather("a", [p.index, i])[2] for i in range(50)], store=store)
    assert answers == [[[2, i] for i in range(50)]] * 3
    assert len(store.held) <= 3 * 3


def test_the_first_decides_and_only_it_works():
    worked: list[int] = []

    def work(p: Processes) -> Any:
        def look() -> str:
            worked.append(p.index)
            return "found"

        return p.decide("the results", look)

    assert as_processes(work) == ["found"] * 3
    assert worked == [0]


def test_what_the_first_cannot_do_is_the_error_of_all():
    def work(p: Processes) -> Any:
        def refuse() -> str:
            raise RunError("the folder is in use")

        return p.decide("the folder", refuse)

    first, *others = as_processes(work)
    assert str(first) == "the folder is in use"
    for error in others:
        assert isinstance(error, RunError)
        assert str(error) == "process 0 of 3 stopped: the folder is in use"


def test_an_error_in_one_process_stops_all_with_its_kind():
    def work(p: Processes) -> None:
        with p.together("reading"):
            if p.index == 2:
                raise DataError("reviews.csv:7: no label")
        raise AssertionError("nobody gets here")

    *others, failed = as_processes(work)
    assert str(failed) == "reviews.csv:7: no label"
    assert {(type(e), str(e)) for e in others} == {
        (DataError, "process 2 of 3 stopped: reviews.csv:7: no label")
    }


def test_an_error_of_ours_is_told_too_but_not_as_the_users():
    def work(p: Processes) -> None:
        with p.together("reading"):
            if p.index == 1:
                raise KeyError("tokens")

    first, failed, _ = as_processes(work)
    assert isinstance(failed, KeyError)
    assert isinstance(first, ProcessError)
    assert "process 1 of 3 stopped: 'tokens' (KeyError; its own log has the details)" in str(first)


def test_a_failure_reaches_those_who_ask_something_on_the_way():
    def work(p: Processes) -> Any:
        with p.together("the preparation"):
            with p.together("the data"):
                if p.index == 1:
                    raise DataError("no such file")
            p.decide("the precision", lambda: "float32")

    first, failed, last = as_processes(work)
    assert str(failed) == "no such file"
    assert str(first) == str(last) == "process 1 of 3 stopped: no such file"


def test_an_error_that_all_know_can_be_put_into_other_words_and_got_over():
    def work(p: Processes) -> Any:
        def refuse() -> str:
            raise RunError("damaged")

        with p.together("the best model"):
            try:
                with p.together("inside"):
                    try:
                        p.decide("the checkpoint", refuse)
                    except RunError as error:
                        raise DataError(f"lost: {error}") from error
            except DataError:
                pass
        return p.gather("after", p.index)

    assert as_processes(work) == [[0, 1, 2]] * 3


def test_processes_that_went_apart_say_so():
    for error in as_processes(lambda p: p.meet("a" if p.index else "b")):
        assert isinstance(error, ProcessError)
        assert "went apart, each is at another place: b, a, a" in str(error)


def test_a_process_that_does_not_come_is_named():
    def work(p: Processes) -> None:
        if p.index != 1:
            p.meet("the first step")

    first, _, last = as_processes(work, wait=0.3)
    assert isinstance(first, ProcessError)
    assert "process 0 of 3 waited for process 1 at 'the first step' in vain" in str(first)
    assert "waited for process 0" in str(last)


def test_the_same_facts_are_fine():
    assert as_processes(lambda p: p.compare("configuration", {"train.seed": "1", "name": "x"})) == [None] * 3


def test_what_differs_is_named_with_both_values_and_processes():
    def work(p: Processes) -> None:
        p.compare(
            "configuration",
            {"train.seed": "2" if p.index == 1 else "1", **({"x": "1"} if p.index == 2 else {})},
        )

    for error in as_processes(work):
        assert isinstance(error, ConfigError)
        assert "the 3 processes of this run do not have the same configuration" in str(error)
        assert "train.seed: 1 in process 0, 2 in process 1" in str(error)
        assert "x: (nothing) in process 0, 1 in process 2" in str(error)


def test_long_facts_are_compared_whole():
    for error in as_processes(lambda p: p.compare("data", {"text": "a" * 1000 + str(p.index == 2)})):
        assert isinstance(error, ConfigError)
    assert as_processes(lambda p: p.compare("data", {"text": "a" * 1000})) == [None] * 3


def test_a_folder_of_all_is_found_and_left_clean(tmp_path: Path):
    assert as_processes(lambda p: p.check_shared(str(tmp_path))) == [None] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_one_alone_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("jaxtune.parallel.agreement._SHARED_SECONDS", 0.3)
    for p in range(3):
        (tmp_path / str(min(p, 1))).mkdir(exist_ok=True)
    for error in as_processes(lambda p: p.check_shared(str(tmp_path / str(min(p.index, 1))))):
        assert isinstance(error, RunError)
        assert f"{tmp_path / '0'} of process 0" in str(error) or f"{tmp_path / '1'} of process 0" in str(
            error
        )
        assert "process 1 on" in str(error)
        assert "process 2 on" in str(error)
        assert "gs://" in str(error)


def test_a_single_process_asks_nobody(tmp_path: Path):
    alone = Processes()
    assert alone.first
    assert not alone.several
    assert alone.gather("x", 1) == [1]
    assert alone.decide("x", lambda: 2) == 2
    alone.compare("x", {"a": "b"})
    alone.check_shared(str(tmp_path / "nowhere"))
    with pytest.raises(DataError), alone.together("x"):
        raise DataError("its own")
    assert not Processes.here().several


def test_facts_about_the_code_and_of_nested_settings():
    facts = code_facts({"jax": "0.10.2", "tfds": None})
    assert facts["version of jax"] == "0.10.2"
    assert facts["version of tfds"] == "None"
    assert len(facts["code of jaxtune"]) == 16
    assert flat_facts("", {"name": "x", "train": {"steps": 3}}) == {"name": "'x'", "train.steps": "3"}
    assert issubclass(ProcessError, JaxtuneError)
