"""What a mistake ends with: a message, an exit code, and one voice of several processes."""

from __future__ import annotations

import pickle

from urbansound_hf import errors
from urbansound_hf.errors import UserError, UserErrors, exit_code


def fail() -> int:
    raise UserErrors([UserError("one", "here", "so"), UserError("two")])


def test_all_problems_are_told_and_the_code_is_2(capsys):
    assert exit_code(fail) == 2
    assert capsys.readouterr().err == "error: one\n  where: here\n  fix:   so\nerror: two\n"
    assert (exit_code(lambda: None), exit_code(lambda: 1)) == (0, 1)


def test_of_several_processes_the_first_speaks_and_the_others_wait_for_it(capsys, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(errors.time, "sleep", slept.append)
    monkeypatch.setenv("RANK", "1")
    assert exit_code(fail) == 2 and capsys.readouterr().err == "" and slept == [5]
    monkeypatch.setenv("RANK", "0")
    assert exit_code(fail) == 2 and "error: one" in capsys.readouterr().err and slept == [5]


def test_errors_survive_the_way_between_processes():
    error = pickle.loads(pickle.dumps(UserErrors([UserError("one", "here", "so")])))
    assert str(error) == "one\n  where: here\n  fix:   so" and isinstance(error, UserErrors)
