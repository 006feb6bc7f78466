"""encoder.py and decoder.py with --jobs: what one process does, deaths of workers, Ctrl-C."""

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

import encoder
from cli import encoding, running, workers
from cli.jobs import Job

ROOT = Path(__file__).resolve().parents[2]
MODEL = ["--checkpoint", checkpoint_of("gmm"), "--family", "gmm", "--num-filters", NUM_FILTERS]


def command(script, *arguments):
    return [sys.executable, str(ROOT / script), *map(str, (*arguments, *MODEL))]


def run(script, *arguments, cwd):
    return subprocess.run(command(script, *arguments), cwd=cwd, capture_output=True, text=True)


def photographs(folder, count, side=70):
    """Writes PNG files 000.png, ... of different crops of a golden picture."""
    folder.mkdir()
    pixels = np.asarray(Image.open(REFERENCE / "image_128x192.png"))
    for i in range(count):
        top, left = i % (128 - side), i * 7 % (192 - side)
        Image.fromarray(pixels[top : top + side, left : left + side]).save(folder / f"{i:03d}.png")


def without_seconds(lines):
    """Sorted lines of files and of the mean."""
    return sorted(re.sub(r" +[0-9.]+ s$", "", line) for line in lines if " bpp" in line)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_processes_do_what_one_does(tmp_path):
    photographs(tmp_path / "in", 4)
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    one = run("encoder.py", "in", "-o", "one", cwd=tmp_path)
    two = run("encoder.py", "in", "-o", "two", "--jobs", 2, cwd=tmp_path)
    assert one.returncode == two.returncode == 1, two.stderr
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "two")) == 4
    lines = two.stdout.splitlines()
    assert without_seconds(one.stdout.splitlines()) == without_seconds(lines)
    assert lines[0] == "5 files to two/" and lines[-1].startswith("mean ")
    started = [line for line in lines if "started in" in line]
    assert len(started) == 2 and all(re.match("worker [12]: ", line) for line in started)
    assert sum(line.startswith("To decode, add") for line in lines) == 1  # of both the same
    (first, second) = [line for line in two.stderr.splitlines() if "broken.png" in line]
    assert first == second and "1 of 5 files failed, which are:" in two.stderr
    back = run("decoder.py", "two", "-o", "back", "--jobs", 2, cwd=tmp_path)
    assert back.returncode == 0 and len(os.listdir(tmp_path / "back")) == 4, back.stderr
    again = run("encoder.py", "in", "-o", "two", "--jobs", 2, "--skip-existing", cwd=tmp_path)
    assert "4 of 5 outputs exist" in again.stdout and again.returncode == 1
    assert "worker" not in again.stdout  # nothing to do: no process is started


def test_the_parent_of_workers_needs_no_tensorflow(tmp_path):
    photographs(tmp_path / "in", 2)
    check = (
        "import os, runpy, sys; sys.argv, os._exit = sys.argv[1:], sys.exit\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print({'tensorflow', 'scipy'} & set(sys.modules))"
    )
    _, *rest = command("encoder.py", tmp_path / "in", "-o", tmp_path / "out", "--jobs", 2)
    result = subprocess.run(
        [sys.executable, "-c", check, *rest], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout.splitlines()[-1] == "set()", result.stderr
    assert len(os.listdir(tmp_path / "out")) == 2


def test_a_model_that_cannot_be_used_ends_the_run(tmp_path):
    photographs(tmp_path / "in", 3)
    arguments = [sys.executable, str(ROOT / "encoder.py"), "in", "-o", "out", "--jobs", "2"]
    arguments += ["--checkpoint", "nowhere", "--family", "gmm", "--num-filters", "32"]
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == "3 files to out/\n"
    assert result.stderr.count("\n") == 1 and "No checkpoint" in result.stderr


def children(pid):
    """Process numbers of a process's workers, not of multiprocessing's resource tracker."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
    return [
        int(child)
        for child in found.split()
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def started(arguments, folder, files):
    """A command's process, when it has written some files."""
    process = subprocess.Popen(
        arguments,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and len(list(folder.glob("out/*.glic"))) < files:
        time.sleep(0.02)
    return process


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")
def test_the_file_of_a_killed_worker_is_tried_again(tmp_path):
    photographs(tmp_path / "in", 250)  # so that some are left when the kill comes
    arguments = command("encoder.py", "in", "-o", "out", "--jobs", 2, "--no-metrics")
    process = started(arguments, tmp_path, 3)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "died (killed by SIGKILL): its file is tried once more." in err
    assert len(contents(tmp_path / "out")) == 250 and "mean                      250 files" in out


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("whom", [os.killpg, os.kill])  # the terminal, and kill -INT
def test_ctrl_c_leaves_whole_files_and_no_process(tmp_path, whom):
    photographs(tmp_path / "in", 200)
    arguments = command("encoder.py", "in", "-o", "out", "--jobs", 2, "--no-metrics")
    process = started(arguments, tmp_path, 3)
    workers = children(process.pid)
    whom(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and len(workers) == 2
    assert err == "Interrupted: files already written are whole.\n"
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    names = os.listdir(tmp_path / "out")
    assert 3 <= len(names) < 200 and all(name.endswith(".glic") for name in names)
    back = run("decoder.py", "out", "-o", "back", cwd=tmp_path)
    assert back.returncode == 0, back.stderr


def do_and_weigh(item):
    """``running.do`` in a worker: (its problem, the worker's resident memory in MiB)."""
    outcome = running.do(item)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return outcome.problem, pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")
def test_a_worker_does_not_grow_over_a_thousand_images(tmp_path):
    """Of thirty sizes: what libraries keep for each is there after the first hundreds."""
    pixels = np.asarray(Image.open(REFERENCE / "image_128x192.png"))
    for i in range(30):
        Image.fromarray(pixels[: 33 + 3 * i, : 40 + 5 * i]).save(tmp_path / f"{i}.png")
    args = encoder.parse_arguments([str(tmp_path), *map(str, MODEL), "--no-metrics"])
    work = running.Work(encoding.make_work, args, "memory")
    todo = [Job(tmp_path / f"{i % 30}.png", tmp_path / f"{i}.glic") for i in range(1000)]
    with workers.Workers(1) as pool:
        done = list(pool.map(do_and_weigh, ((work, job, False) for job in todo)))
    assert not any(d.problem or d.result[0] for d in done)
    early, late = done[299].result[1], done[999].result[1]
    print(f"resident after 300 images {early:.0f} MiB, after 1,000 {late:.0f} MiB")
    assert late < early + 25
