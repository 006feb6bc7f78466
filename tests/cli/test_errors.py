"""What a command line makes of an exception: one line for what a user caused, else a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from cli import errors as cli_errors
from cli import jobs, running
from cli.report import Report
from errors import GlicError

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize("options,shown", [([], False), (["-W", "default"], True)])
def test_warnings_reach_who_asks_for_them(options, shown):
    """They come with lines of source: a process that runs without pytest, which catches them."""
    program = "import warnings; from cli import errors; errors.run(lambda: warnings.warn('odd'))"
    command = [sys.executable, *options, "-c", program]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and ("UserWarning: odd" in result.stderr) == shown
    assert shown or result.stderr == ""


def test_a_bug_ends_a_batch(tmp_path, capsys):
    def work(path, output):
        raise ValueError("operands could not be broadcast together")

    with pytest.raises(ValueError, match="broadcast"):
        todo = [jobs.Job(tmp_path / "a.png", tmp_path / "a")]
        list(running.here(todo, lambda: work, Report()))
