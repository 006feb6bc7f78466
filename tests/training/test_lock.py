"""One trainer for a run, also where the last one was killed."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import command

import train
from errors import GlicError
from training import lock

HOLDER = """
import pathlib, sys, time
from training import lock
with lock.locked(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the run runs/tiny."""
    run = tmp_path / "runs" / "tiny"
    run.mkdir(parents=True)
    root = Path(train.__file__).resolve().parent
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.usefixtures("stand_in")
def test_a_second_trainer_is_refused_and_a_killed_one_leaves_no_lock(
    holder, folder, tmp_path, capsys
):
    runs = tmp_path / "runs"
    assert command(folder, runs, "--steps", "1") == 2
    assert "Another training is at work on" in capsys.readouterr().err
    assert [path.name for path in (runs / "tiny").iterdir()] == [lock.NAME]
    holder.kill()
    holder.wait()
    assert command(folder, runs, "--steps", "1") == 0


def test_a_lock_is_free_after_its_context(tmp_path):
    for _ in range(2):
        with lock.locked(tmp_path):
            second = lock.locked(tmp_path)
            with pytest.raises(GlicError, match="choose another --name"):
                second.__enter__()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, capsys):
    def none(file):
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_take", none)
    with lock.locked(tmp_path):
        assert "start no second training on it" in capsys.readouterr().out
