"""Workers of a Dask scheduler: any number of items, bugs, a worker killed and one added."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from golden_models import NUM_FILTERS, REFERENCE, checkpoint_of
from PIL import Image

distributed = pytest.importorskip("distributed", reason="--scheduler: requirements-scale.txt")

import encoder  # noqa: E402
from cli import outputs, scheduler, workers  # noqa: E402
from coding import bitstream  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODEL = ["--checkpoint", checkpoint_of("gmm"), "--family", "gmm", "--num-filters", NUM_FILTERS]


@pytest.fixture
def address(monkeypatch):
    """Address of a scheduler whose one worker is a thread of this process."""
    monkeypatch.setattr(scheduler, "_limit_threads", lambda: None)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def double(item):
    return 2 * item


def stumble(item):
    raise KeyError("a bug of ours")


def test_items_are_taken_as_workers_are_free(address):
    taken = []

    def items():
        for number in range(9):
            taken.append(number)
            yield number

    with scheduler.Scheduler(address) as pool:
        seen = []
        for done in pool.map(double, items()):
            seen.append((done.index, done.result))
            assert len(taken) <= len(seen) + scheduler.AHEAD + 1
            assert done.worker.endswith(f":{os.getpid()}")
        assert sorted(seen) == [(n, 2 * n) for n in range(9)]
        assert [done.result for done in pool.map(double, [4])] == [8]


def test_a_bug_ends_the_run(address):
    with scheduler.Scheduler(address) as pool, pytest.raises(workers.WorkFailed, match="of ours"):
        list(pool.map(stumble, [1]))


def test_where_there_is_no_scheduler(monkeypatch):
    monkeypatch.setattr(scheduler, "CONNECT_SECONDS", 0.5)
    with pytest.raises(workers.WorkerError, match="expected at tcp://127.0.0.1:9, got none"):
        scheduler.Scheduler("tcp://127.0.0.1:9")


def test_what_a_scheduler_gives_up_is_lost():
    class LastWorker:
        address = "tcp://there:1"

    class Future:
        released = False

        def result(self):
            raise distributed.scheduler.KilledWorker("task", LastWorker, 1)

        def release(self):
            self.released = True

    future = Future()
    done = scheduler._done(future, 3)
    assert (done.index, done.worker, future.released) == (3, "tcp://there:1", True)
    assert "workers died over this file" in str(done.problem)


def test_paths_and_the_manifest_of_a_run(address, tmp_path, monkeypatch, run_here):
    """Workers may stand in other folders, so that all paths are from the root."""
    (tmp_path / "in").mkdir()
    with Image.open(REFERENCE / "image_120x179.png") as image:
        for name in "ab":
            image.crop((0, 0, 50, 40)).save(tmp_path / "in" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    code, out, err = run_here(encoder, "in", "-o", "out", "--scheduler", address, *MODEL)
    assert code == 0 and f"2 files to {tmp_path / 'out'}/" in out, err
    rows = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").open()]
    assert {row["input"] for row in rows} == {str(tmp_path / "in" / f"{n}.png") for n in "ab"}
    assert all(row["worker"].endswith(f":{os.getpid()}") for row in rows)
    code, out, _ = run_here(encoder, "in", "-o", "out", "--scheduler", address, *MODEL)
    assert code == 0 and "2 of 2 outputs were there already" in out


def test_measurements_name_the_machine_that_made_them(address, tmp_path):
    from evaluation import measurements
    from evaluation.measure import Task

    task = Task(str(REFERENCE / "image_128x192.png"), "classic", "jpeg", setting=50)
    with scheduler.Scheduler(address) as pool:
        (row,), problems, fresh = measurements.measure_all([task], tmp_path, pool)
        assert (problems, fresh) == ([], 1) and row["bytes"] > 100
        assert row["device"] == measurements.device() and row["versions"] and row["jobs"] is None
        again = measurements.measure_all([task], tmp_path, pool)
    assert again[0] == [row] and again[2] == 0


def start(*arguments, log, cwd=ROOT):
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=cwd, stdout=log, stderr=subprocess.STDOUT
    )


def wait_for(condition, seconds=1800):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@contextlib.contextmanager
def cluster(folder):
    """A scheduler and what starts a worker: (address, function that returns its process)."""
    processes = []
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(folder / "scheduler.txt", "w+", encoding="utf-8"))
        command = ["-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0"]
        processes.append(start(*command, "--no-dashboard", log=log))
        form = re.compile(r"Scheduler at: +(tcp://\S+)")
        wait_for(lambda: form.search((folder / "scheduler.txt").read_text()))
        address = form.search((folder / "scheduler.txt").read_text())[1]

        def add():
            log = open(folder / f"worker{len(processes)}.txt", "w")  # noqa: SIM115
            stack.callback(log.close)
            options = ["--nthreads", "1", "--no-dashboard", "--no-nanny"]
            space = ["--local-directory", folder / "dask"]
            process = start("-m", "dask", "worker", address, *options, *space, log=log)
            processes.append(process)
            return process

        try:
            yield address, add
        finally:
            for process in processes:
                process.kill()
                process.wait()


@pytest.mark.slow
def test_a_worker_is_killed_and_one_is_added(tmp_path, codecs):
    """300 pictures on three workers: all files are there, whole, and of one set of bytes."""
    count, out = 300, tmp_path / "out"
    (tmp_path / "in").mkdir()
    # Large enough that files are left when the added worker has started.
    pixels = np.tile(np.asarray(Image.open(REFERENCE / "image_128x192.png")), (3, 2, 1))
    for i in range(count):
        top, left = i % 128, i * 7 % 128
        Image.fromarray(pixels[top : top + 256, left : left + 256]).save(
            tmp_path / "in" / f"{i:03d}.png"
        )
    with cluster(tmp_path) as (address, add):
        first, *_ = [add() for _ in range(3)]
        with open(tmp_path / "run.txt", "w", encoding="utf-8") as log:
            command = [ROOT / "encoder.py", tmp_path / "in", "-o", out, "--no-metrics"]
            run = start(*command, "--scheduler", address, *MODEL, log=log)
            wait_for(lambda: len(list(out.glob("*.glic"))) > 60)
            first.send_signal(signal.SIGKILL)
            add()
            wait_for(lambda: run.poll() is not None)
    report = (tmp_path / "run.txt").read_text(encoding="utf-8")
    assert run.returncode == 0, report
    assert "is gone: what it had, another does." in report and " has come." in report
    assert re.search(r"^mean +300 files", report, re.M)
    rows = [json.loads(line) for line in (out / "manifest.jsonl").open(encoding="utf-8")]
    assert len(rows) == len({row["input"] for row in rows}) == count
    assert all(row["error"] is None for row in rows) and len({row["worker"] for row in rows}) == 4
    files = {path.name: path.read_bytes() for path in out.glob("*.glic")}
    assert len(files) == count
    # What the killed worker had begun goes with the next run, an hour later.
    assert len(list(out.glob(".*.tmp"))) <= 1
    for row in rows:
        data = files[Path(row["output"]).name]
        assert outputs.checksum(data) == row["sha256"]
        codecs["gmm"].decode(bitstream.unpack(data))
    # One process of this machine, of one thread as the workers are, makes the same bytes.
    environment = {**os.environ, **dict.fromkeys(workers.THREAD_VARIABLES, "1")}
    command = [sys.executable, ROOT / "encoder.py", tmp_path / "in", "-o", tmp_path / "alone"]
    command = [str(word) for word in [*command, "--no-metrics", *MODEL]]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert {p.name: p.read_bytes() for p in (tmp_path / "alone").iterdir()} == files


@pytest.mark.slow
def test_ctrl_c_leaves_whole_files_and_a_manifest(tmp_path):
    """With workers of this machine, who get the terminal's signal too."""
    (tmp_path / "in").mkdir()
    pixels = np.asarray(Image.open(REFERENCE / "image_128x192.png"))
    for i in range(120):
        Image.fromarray(pixels[i % 64 :, i:][:64, :64]).save(tmp_path / "in" / f"{i:03d}.png")
    command = [sys.executable, ROOT / "encoder.py", "in", "-o", "out", "--no-metrics", *MODEL]
    command = [*map(str, command), "--scheduler", "local", "--jobs", "2"]
    manifest = tmp_path / "out" / "manifest.jsonl"
    run = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: manifest.exists() and len(manifest.read_bytes().splitlines()) > 5)
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 130 and "files already written are whole" in err, err
    lines = manifest.read_text(encoding="utf-8").splitlines()
    done = {json.loads(line)["output"] for line in lines}
    assert 5 < len(done) < 120 and all(Path(output).is_file() for output in done)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"{len(done)} of 120 outputs were there already" in again.stdout
    assert len(list((tmp_path / "out").glob("*.glic"))) == 120
