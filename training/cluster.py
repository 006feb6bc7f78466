"""Training on several machines: their tasks, and the options that start them.

The machines use TensorFlow's distributed runtime, with a process for each task: one parameter
server, which holds the weights and the optimiser's state, and workers. Worker 0, the chief, runs
the loop: it reads the images, feeds each step, logs, and writes checkpoints. All others only serve,
and leave when the chief says that the training is complete. A worker that is lost is waited for.
"""

from __future__ import annotations

import re
import socket
import threading
import time

import tensorflow.compat.v1 as tf

from cli.options import whole
from errors import GlicError
from training.placement import Placement

JOBS = ("ps", "worker")
OPTIONS = ("ps_hosts", "worker_hosts", "job_name", "task_index")
PROBE_SECONDS = 1.0  # between two looks for what is missing, and for a signal
# A machine that loses its power closes no connection; a step that takes longer counts as lost.
STEP_TIMEOUT = 600  # seconds
_ADDRESS = re.compile(r"(?P<host>[^\s:,]+):(?P<port>\d{1,5})")


def cluster_placement(devices, batch):
    """Shares a step out among the workers' GPUs; of a worker without one, its CPU.

    Args:
      devices: full names of all devices of the cluster.
      batch: crops in a step.

    Raises:
      GlicError: the batch cannot be cut into that many equal parts.
    """
    workers = {}
    for name in devices:
        match = re.fullmatch(r"/job:worker/replica:0/task:(\d+)/device:(CPU|GPU):(\d+)", name)
        if match:
            task, kind, number = int(match[1]), match[2], int(match[3])
            workers.setdefault(task, {}).setdefault(kind, []).append((number, name))
    replicas = []
    for _, kinds in sorted(workers.items()):
        replicas += [n for _, n in sorted(kinds.get("GPU") or kinds["CPU"][:1])]
    if batch % len(replicas):
        raise GlicError(
            f"A --batch that is a multiple of {len(replicas)} expected, the number of workers' "
            f"devices that share a step, got {batch}."
        )
    home, host = (f"/job:{job}/replica:0/task:0/device:CPU:0" for job in JOBS)
    return Placement(tuple(replicas), home, host)


def add_options(parser):
    """Adds the options that start one process of a training on several machines."""
    group = parser.add_argument_group(
        "several machines",
        "Start one process for each task, all with the same hosts. Data, name and settings are "
        "those of worker 0, the chief; the other processes need none of them.",
    )
    group.add_argument("--ps-hosts", metavar="HOST:PORT", help="address of the parameter server")
    group.add_argument(
        "--worker-hosts",
        metavar="HOST:PORT,...",
        help="addresses of the workers, the chief's first; a step's crops are shared out among "
        "their GPUs, or CPUs",
    )
    group.add_argument("--job-name", choices=JOBS, help="what this process is")
    group.add_argument("--task-index", type=whole, metavar="I", help="which of them, from 0")


def _addresses(option, text):
    addresses = text.split(",")
    for address in addresses:
        match = _ADDRESS.fullmatch(address)
        if not match or not 0 < int(match["port"]) < 1 << 16:
            raise GlicError(f"{option}: HOST:PORT expected, such as pc1:2222, got {address!r}.")
    return addresses


def cluster_from(args):
    """The ``Cluster`` that the command line describes, None without its options.

    Raises:
      GlicError: options that are missing or contradict each other.
    """
    given = {name: getattr(args, name) for name in OPTIONS}
    if all(value is None for value in given.values()):
        return None
    names = ["--" + name.replace("_", "-") for name in OPTIONS]
    if None in given.values():
        raise GlicError(f"{', '.join(names)} go together: give all four, or none.")
    ps, workers = (_addresses(names[i], given[OPTIONS[i]]) for i in range(2))
    if len(ps) != 1:
        raise GlicError(
            f"--ps-hosts: one parameter server expected, which is enough for a model of this size, "
            f"got {len(ps)}."
        )
    if len({*ps, *workers}) < 1 + len(workers):
        raise GlicError("An address of its own expected for each task, got one twice.")
    count = len(ps if args.job_name == "ps" else workers)
    if args.task_index >= count:
        raise GlicError(
            f"--task-index: 0 to {count - 1} expected for {args.job_name}, got {args.task_index}."
        )
    return Cluster(ps, workers, args.job_name, args.task_index)


class Cluster:
    """One task of a cluster, and what it knows of the others.

    Attributes:
      is_chief: whether this task is worker 0.
      target: for ``tf.Session``, after ``start``.
    """

    def __init__(self, ps, workers, job, index):
        self._hosts = {"ps": ps, "worker": workers}
        self._job, self._index = job, index
        self.is_chief = (job, index) == ("worker", 0)
        self.target = None

    def start(self, config):
        """Opens this task's port.

        Args:
          config: ``tf.ConfigProto`` of the devices.

        Raises:
          GlicError: the port cannot be opened.
        """
        spec = tf.train.ClusterSpec(self._hosts)
        try:
            server = tf.train.Server(
                spec, job_name=self._job, task_index=self._index, config=config
            )
        except tf.errors.OpError as error:
            address = self._hosts[self._job][self._index]
            raise GlicError(
                f"The port of {address} cannot be opened; is it in use? "
                f"({str(error).splitlines()[0]})"
            ) from None
        self.target, self._server = server.target, server

    def _tasks(self):
        return [(job, i) for job in JOBS for i in range(len(self._hosts[job]))]

    def serve(self):
        """Works for the chief until that says that the training is complete."""
        print(
            f"{self._job} {self._index} serves at {self._hosts[self._job][self._index]} until the "
            "training is complete; Ctrl-C ends it before.",
            flush=True,
        )
        told = threading.Event()
        thread = threading.Thread(target=self._await_leave, args=(told,), daemon=True)
        thread.start()
        while not told.wait(PROBE_SECONDS):  # in parts, so that signals are handled
            pass
        thread.join()  # a thread that is still in TensorFlow at the end aborts the process
        print("The training is complete.", flush=True)

    def _await_leave(self, told):
        config = tf.ConfigProto(device_filters=[f"/job:{self._job}/task:{self._index}"])
        with tf.Graph().as_default():
            leave = self._leave_queue(self._job, self._index).dequeue()
            with tf.Session(self.target, config=config) as session:
                session.run(leave)
        told.set()

    @staticmethod
    def _leave_queue(job, index):
        with tf.device(f"/job:{job}/task:{index}/device:CPU:0"):
            return tf.FIFOQueue(1, tf.bool, (), shared_name=f"leave_{job}_{index}")

    def finish(self):
        """Lets all other tasks leave; those that are gone already are left alone."""
        for job, index in self._tasks():
            if (job, index) in [("worker", 0), *self.missing()]:
                continue
            config = tf.ConfigProto(
                device_filters=["/job:worker/task:0", f"/job:{job}/task:{index}"],
                operation_timeout_in_ms=10_000,
            )
            with tf.Graph().as_default():
                leave = self._leave_queue(job, index).enqueue(True)
                try:
                    with tf.Session(self.target, config=config) as session:
                        session.run(leave)
                except tf.errors.OpError:
                    print(f"{job} {index} could not be told to leave.")

    def missing(self):
        """The tasks, as (job, index), whose port does not answer."""
        return [task for task in self._tasks() if not self._answers(*task)]

    def _answers(self, job, index):
        host, port = self._hosts[job][index].rsplit(":", 1)
        try:
            with socket.create_connection((host, int(port)), timeout=PROBE_SECONDS):
                return True
        except OSError:
            return False

    def wait(self, asked_to_stop=lambda: False):
        """Waits until all tasks answer.

        Returns:
          Whether they do; False where ``asked_to_stop`` ended the waiting.
        """
        said = None
        while True:
            missing = self.missing()
            if not missing:
                return True
            if asked_to_stop():
                return False
            if missing != said:
                places = [f"{job} {i} ({self._hosts[job][i]})" for job, i in missing]
                print(f"Waiting for {', '.join(places)}.", flush=True)
                said = missing
            time.sleep(PROBE_SECONDS)

    def devices(self):
        """Full names of the devices of all tasks, which must answer."""
        with tf.Graph().as_default(), tf.Session(self.target) as session:
            return [device.name for device in session.list_devices()]

    def session_config(self, config, alone=False):
        """Session settings for the chief: a step that hangs fails.

        Args:
          config: ``tf.ConfigProto`` to start from.
          alone: reach the parameter server and the chief only, other workers may be lost.
        """
        config = tf.ConfigProto.FromString(config.SerializeToString())
        config.operation_timeout_in_ms = 1000 * STEP_TIMEOUT
        if alone:
            config.device_filters.extend(["/job:ps", "/job:worker/task:0"])
        return config
