"""A long measurement keeps its finished parts, and a stopped one goes on from there."""

from functools import partial

import pytest

from langchain_vlmguard.errors import EvaluationError
from vlmguard_lab.bench.parts import Finished, Part, forget, measure, run_parts


def noted(path, value):
    path.write_text(f"{path.read_text() if path.is_file() else ''}{value}")
    return value


def test_finished_parts_are_not_run_again(tmp_path):
    log, work = tmp_path / "log", tmp_path / "work"

    def parts(last):
        return [Part("a/1", partial(noted, log, 1)), Part("a/2", partial(noted, log, 2)), Part("b", last)]

    with pytest.raises(ZeroDivisionError):
        measure(work, parts(lambda: 1 / 0), settings={"seeds": (1, 2)})
    assert measure(work, parts(lambda: {"three": 3}), settings={"seeds": (1, 2)}) == [1, 2, {"three": 3}]
    assert log.read_text() == "12"
    assert Finished(work).seconds("a/1") >= 0
    forget(work)
    assert not work.exists()


def test_parts_of_another_measurement_are_not_mixed_in(tmp_path):
    measure(tmp_path, [Part("a", lambda: 1)], settings={"n": 1})
    with pytest.raises(EvaluationError, match="another measurement"):
        measure(tmp_path, [Part("a", lambda: 1)], settings={"n": 2})


def test_parts_run_in_processes_of_their_own_too(tmp_path):
    parts = [Part(str(n), partial(pow, n, 2)) for n in range(3)]
    assert measure(tmp_path, parts, settings={}, jobs=2) == [0, 1, 4]


def test_a_phase_waits_for_the_one_before_it_and_progress_is_said(tmp_path, capsys):
    log = tmp_path / "log"
    first, second = ([Part(name, partial(noted, log, name))] for name in ("one ", "two "))
    run_parts(Finished(tmp_path / "work"), first, second)
    assert log.read_text() == "one two "
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "2 of 2 parts to run, 1 at a time"
    assert said[2].startswith("two : 0 s; 0 min so far, about 0 to go, 0 parts left")
    run_parts(Finished(tmp_path / "work"), first, second)
    assert capsys.readouterr().out.splitlines() == ["0 of 2 parts to run, 1 at a time"]
