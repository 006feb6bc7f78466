"""Training on several devices and machines: options, placement, equality, and lost processes."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image
from tiny_training import photograph, rows_of, run_train, weights_of

import layers
import train
from architecture import Architecture
from coding import models
from rates import Rate
from training import cluster
from training.placement import SINGLE, Placement, among_gpus
from training.step import build_training

ROOT = Path(train.__file__).parent
HOSTS = ["--ps-hosts", "a:2222", "--worker-hosts", "b:2222,c:2222"]
TASK = ["--job-name", "worker", "--task-index", "1"]
TIMEOUT = 240  # seconds until a process that should have left counts as hung


def cluster_of(*options):
    return cluster.cluster_from(train.parser().parse_args([*options]))


def test_one_machine_needs_no_options():
    assert cluster_of("--name", "x") is None


def test_the_chief_is_worker_0():
    assert not cluster_of(*HOSTS, *TASK).is_chief
    assert not cluster_of(*HOSTS, "--job-name", "ps", "--task-index", "0").is_chief
    assert cluster_of(*HOSTS, "--job-name", "worker", "--task-index", "0").is_chief


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (HOSTS, "go together: give all four, or none"),
        ([*HOSTS, *TASK[:3], "2"], "--task-index: 0 to 1 expected for worker, got 2"),
        ([*HOSTS, *TASK[:3], "-1"], "a whole number from 0 expected"),
        (["--ps-hosts", "a:1,b:2", *HOSTS[2:], *TASK], "one parameter server expected"),
        (["--ps-hosts", "a", *HOSTS[2:], *TASK], "HOST:PORT expected, such as pc1:2222, got 'a'"),
        (["--ps-hosts", "a:70000", *HOSTS[2:], *TASK], "HOST:PORT expected"),
        ([*HOSTS[:3], "b:1,a:2222", *TASK], "An address of its own expected for each task"),
    ],
)
def test_contradictions_are_refused(options, message, capsys):
    assert run_train(*options) == 2
    assert message in capsys.readouterr().err


def test_gpus_share_a_step_as_far_as_it_is_even():
    said = []
    assert among_gpus(8, 0, said.append) == SINGLE
    assert among_gpus(8, 1, said.append) == SINGLE
    four = among_gpus(8, 4, said.append)
    assert four.replicas == tuple(f"/device:GPU:{i}" for i in range(4)) and not said
    assert len(among_gpus(8, 3, said.append).replicas) == 2
    assert len(said) == 1 and said[0].startswith("2 of 3 GPUs are used")


def test_a_cluster_uses_its_gpus_and_the_cpus_of_those_without():
    def device(job, task, kind, number):
        return f"/job:{job}/replica:0/task:{task}/device:{kind}:{number}"

    names = [device("ps", 0, "CPU", 0), device("ps", 0, "GPU", 0), device("worker", 1, "CPU", 0)]
    names += [device("worker", 0, *d) for d in (("CPU", 0), ("GPU", 1), ("GPU", 0))]
    made = cluster.cluster_placement(names, 6)
    wanted = [("worker", 0, "GPU", 0), ("worker", 0, "GPU", 1), ("worker", 1, "CPU", 0)]
    assert made.replicas == tuple(device(*d) for d in wanted)
    assert made.home == device("ps", 0, "CPU", 0) and made.host == device("worker", 0, "CPU", 0)
    with pytest.raises(ValueError, match="multiple of 3 expected"):
        cluster.cluster_placement(names, 8)


def trained(placement, config, metric):
    """Losses, gradient norms (one row a step) of the first steps of a tiny model."""
    side = 192 if metric == "ms-ssim" else 64
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        tf.set_random_seed(1)
        graph = build_training(
            architecture=Architecture("gmm", 8),
            rate=Rate(0.0075),
            metric=metric,
            precision="float32",
            optimizer="adam",
            seed=1,
            batch=4,
            patch=side,
            average=0.9,
            placement=placement,
        )
        session.run(tf.global_variables_initializer())
        session.run(graph.start_averages)
        x = np.stack([photograph(i, 192, 192)[:side, :side] for i in range(4)])
        feed = {graph.x: x, graph.learning_rate: 1e-3, graph.clip_norm: 1.0}
        fetches = [*graph.losses.given().values(), graph.gradient_norm, graph.train]
        return [session.run(fetches, {**feed, graph.step: step})[:-1] for step in range(3)]


@pytest.mark.parametrize("metric", ["mse", pytest.param("ms-ssim", marks=pytest.mark.slow)])
def test_two_devices_learn_what_one_does(metric):
    config = layers.session_config(1)
    config.device_count["CPU"] = 2
    two = Placement(("/cpu:0", "/cpu:1"), "/cpu:0", "")
    wanted = trained(SINGLE, config, metric)
    np.testing.assert_allclose(trained(two, config, metric), wanted, rtol=1e-4)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


class Machines:
    """A parameter server and two workers in processes of this machine."""

    def __init__(self, folder, *settings):
        self._folder, self._processes, self._logs = folder, {}, []
        ports = free_ports(3)
        hosts = [f"127.0.0.1:{port}" for port in ports]
        self._hosts = ["--ps-hosts", hosts[0], "--worker-hosts", ",".join(hosts[1:])]
        data = ["--data", folder / "photographs", "--valid", folder / "photographs"]
        data += ["--runs", folder / "runs", "--to", folder / "model", "--name", "tiny"]
        self._chief = [*data, *settings]

    def start(self, job, index):
        task = ["--job-name", job, "--task-index", index, "--threads", 1]
        options = self._chief if (job, index) == ("worker", 0) else []
        command = [sys.executable, ROOT / "train.py", *options, *self._hosts, *task]
        path = self._folder / f"{job}{index}-{len(self._logs)}.log"
        self._logs.append(path)
        with open(path, "w") as log:
            process = subprocess.Popen([*map(str, command)], stdout=log, stderr=subprocess.STDOUT)
        self._processes[job, index] = process
        return path

    def signal(self, job, index, number):
        process = self._processes.pop((job, index))
        process.send_signal(number)
        return process.wait(TIMEOUT)

    def wait(self):
        """Exit codes of all processes, which end by themselves."""
        return {task: process.wait(TIMEOUT) for task, process in self._processes.items()}

    def end(self):
        for process in self._processes.values():
            process.kill()
            process.wait()

    def said(self):
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in self._logs)


def wait_for(path, pattern):
    """Waits until a log says what is expected; returns the text after it."""
    until = time.monotonic() + TIMEOUT
    while time.monotonic() < until:
        match = re.search(pattern, path.read_text())
        if match:
            return match
        time.sleep(0.1)
    raise AssertionError(f"{pattern!r} not found in {path.name}:\n{path.read_text()}")


def start_and_lose_a_worker(started):
    """Starts all and kills worker 1 after 50 steps; the chief's log and the step that was lost."""
    started.start("ps", 0)
    started.start("worker", 1)
    chief = started.start("worker", 0)
    wait_for(chief, r"step 50:")
    started.signal("worker", 1, signal.SIGKILL)
    wait_for(chief, r"Waiting for worker 1")
    return chief, int(wait_for(chief, r"Step (\d+) was lost")[1])


@pytest.fixture
def machines(tmp_path):
    made = []

    def make(*settings):
        (tmp_path / "photographs").mkdir()
        for i in range(6):
            Image.fromarray(photograph(i)).save(tmp_path / "photographs" / f"{i}.png")
        tiny = "--num-filters 8 --patch 64 --batch 2 --precision float32 --learning-rate 2e-3"
        made.append(Machines(tmp_path, *tiny.split(), *settings))
        return made[0]

    yield make
    for each in made:
        each.end()


@pytest.mark.slow
def test_lost_machines_are_waited_for_and_nothing_is_lost(machines, tmp_path):
    """A parameter server and two workers on loopback; a worker, then the server are killed."""
    started = machines("--steps", "300", "--valid-every", "100", "--save-minutes", "0.05")
    chief, lost = start_and_lose_a_worker(started)
    started.start("worker", 1)
    assert int(wait_for(chief, r"training goes on at step (\d+)")[1]) == lost  # nothing was lost
    wait_for(chief, r"training goes on[\s\S]*step \d+: loss")
    started.signal("ps", 0, signal.SIGKILL)
    wait_for(chief, r"Waiting for ps 0")
    started.start("ps", 0)
    wait_for(chief, r"Resumed at step [1-9]")  # the weights were there: back to the checkpoint
    codes = started.wait()
    assert set(codes.values()) == {0}, started.said()
    rows = rows_of(tmp_path / "runs" / "tiny" / "log.csv")
    assert [int(row["step"]) for row in rows][-1] == 300
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    steps = [int(row["step"]) for row in rows]
    assert steps == sorted(set(steps))
    assert models.load_folder(tmp_path / "model").config["steps"] == 300


@pytest.mark.slow
def test_a_chief_that_is_asked_to_leave_saves_without_the_lost_worker_and_can_return(
    machines, tmp_path
):
    started = machines("--steps", "100000", "--optimizer", "adam")
    chief, lost = start_and_lose_a_worker(started)
    assert started.signal("worker", 0, signal.SIGTERM) == 0, started.said()
    assert f"Saved at step {lost} after SIGTERM" in chief.read_text()
    assert weights_of(tmp_path / "runs" / "tiny")["progress/step"] == lost
    # The parameter server was there all the time, with the weights of the step that was lost.
    started.start("worker", 1)
    chief = started.start("worker", 0)
    wait_for(chief, rf"Resumed at step {lost} [\s\S]*step {lost + 50}: loss")
    assert started.signal("worker", 0, signal.SIGTERM) == 0, started.said()
    assert weights_of(tmp_path / "runs" / "tiny")["progress/step"] >= lost + 50
    assert started.signal("ps", 0, signal.SIGINT) == 130
