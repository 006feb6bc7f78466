"""Worker processes: any number of items, threads, deaths, bugs, and no worker without a parent."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli import workers
from coding import cores

ROOT = Path(__file__).resolve().parents[2]


def double(item):
    return 2 * item


def variables(item):
    return [os.environ.get(name) for name in workers.THREAD_VARIABLES]


def die(item):
    """Kills its process where the item is a path of no file, which it makes; or always."""
    if isinstance(item, Path) and not item.exists():
        item.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "always":
        os._exit(7)
    return str(item)


def stumble(item):
    raise KeyError("a bug of ours")


def results(pool, work, items):
    return {d.index: d.result if d.problem is None else d.problem for d in pool.map(work, items)}


def test_items_are_taken_as_workers_are_free():
    taken = []

    def items():
        for number in range(8):
            taken.append(number)
            yield number

    with workers.Workers(2) as pool:
        seen = []
        for done in pool.map(double, items()):
            seen.append((done.index, done.result))
            assert len(taken) <= len(seen) + 3  # two at work, one being handed out
        assert sorted(seen) == [(n, 2 * n) for n in range(8)]
        assert results(pool, double, [5]) == {0: 10}  # the processes are kept
    assert pool.threads == max(1, cores.count() // 2)


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with workers.Workers(1, threads=3) as pool:
        assert results(pool, variables, [0]) == {0: ["3"] * 4}
    assert os.environ["OMP_NUM_THREADS"] == "5" and "TF_NUM_INTRAOP_THREADS" not in os.environ


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_what_a_dead_worker_had_is_tried_once_more(tmp_path):
    notices, cleaned = [], []
    with workers.Workers(
        2, notice=notices.append, clean=lambda item, pid: cleaned.append(item)
    ) as pool:
        items = ["a", tmp_path / "first", "always", "b", "c"]
        found = results(pool, die, items)
        problem = found.pop(2)
        assert found == {i: str(item) for i, item in enumerate(items) if i != 2}
        assert isinstance(problem, workers.WorkerError) and "exit code 7" in str(problem)
    assert len(notices) == 2  # one for each item: the second death of "always" is its end
    assert any("killed by SIGKILL" in notice for notice in notices)
    assert sorted(cleaned, key=str) == sorted([items[1], "always", "always"], key=str)


def test_workers_that_cannot_work_at_all_end_the_run():
    with (
        pytest.raises(workers.WorkerError, match="one after the other"),
        workers.Workers(1) as pool,
    ):
        results(pool, die, ["always"] * 9)


def test_a_bug_shows_its_traceback():
    with workers.Workers(1) as pool, pytest.raises(workers.WorkFailed, match="stumble") as bug:
        results(pool, stumble, [1])
    assert "KeyError: 'a bug of ours'" in str(bug.value)


def alive(pid):
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_workers_end_with_their_parent(tmp_path):
    (tmp_path / "parent.py").write_text(
        "import os, time\n"
        "from cli import workers\n"
        "def pid(item): return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    pool = workers.Workers(1)\n"
        "    print(next(iter(pool.map(pid, [0]))).result, flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "parent.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        worker = int(parent.stdout.readline())
        assert alive(worker)
        parent.kill()
    end = time.monotonic() + 20
    while alive(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(worker)
