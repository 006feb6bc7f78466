"""What a command line makes of an exception: one line for what a user caused, else a traceback."""

import sys

import pytest

from cli import errors as cli_errors
from cli import jobs
from errors import GlicError


def run(error, monkeypatch):
    """Exit code of a command that raises ``error``."""

    def main():
        raise error

    monkeypatch.setattr(sys, "argv", ["encoder.py"])
    with pytest.raises(SystemExit) as caught:
        cli_errors.run(main)
    return caught.value.code


@pytest.mark.parametrize("error", [GlicError("a sentence"), OSError(28, "No space left", "x.png")])
def test_what_a_user_caused_is_one_line(error, monkeypatch, capsys):
    assert run(error, monkeypatch) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("encoder.py: ") and shown.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("shapes (3,) (4,)"), TypeError(), KeyError("x")])
def test_a_bug_shows_itself(error, monkeypatch):
    """NumPy raises ValueError for a shape that does not fit: that is ours, not the user's."""
    with pytest.raises(type(error)):
        run(error, monkeypatch)


def test_a_bug_ends_a_batch(tmp_path, capsys):
    def work(path, output):
        raise ValueError("operands could not be broadcast together")

    with pytest.raises(ValueError, match="broadcast"):
        jobs.process([jobs.Job(tmp_path / "a.png", tmp_path / "a.glic")], work, print)
