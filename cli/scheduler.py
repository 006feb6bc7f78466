"""Workers of other machines: those of a Dask scheduler, which may come and go while a run goes on.

Each worker is a process that was started in a checkout of this repository. A task whose worker dies
is given to another by the scheduler, up to its ``allowed-failures`` times.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import queue
import socket
import time
import uuid

import preflight
from cli import workers
from cli.options import LOCAL
from cli.workers import Done, WorkerError, WorkFailed
from coding import cores

WATCH_SECONDS = 1.0  # between looks at who is there
CONNECT_SECONDS = 30
AHEAD = 2  # tasks for each thread of a worker: the next one is there when one is done


class Scheduler:
    """The workers of a Dask scheduler, with the ``map`` of ``workers.Workers``.

    Args:
      address: of the scheduler, such as tcp://host:8786, or ``options.LOCAL``: a scheduler and
        workers of this machine, for this run.
      jobs: number of workers of a local one; None is one a core.
      notice: a function of one line, called where workers come and go.

    Raises:
      WorkerError: where there is no scheduler.
    """

    threads = 1  # of each worker: Dask takes a worker for each core
    jobs = None  # their number may change

    def __init__(self, address, jobs=None, notice=lambda line: None):
        preflight.check(packages=("distributed",), requirements="requirements-scale.txt")
        import distributed

        self._notice, self._cluster = notice, None
        self._known, self._looked, self._room = None, 0.0, 0
        try:
            if address == LOCAL:
                self._cluster = distributed.LocalCluster(
                    n_workers=jobs or cores.count(),
                    threads_per_worker=1,
                    memory_limit=None,
                    dashboard_address=None,
                )
            self._client = distributed.Client(self._cluster or address, timeout=CONNECT_SECONDS)
        except (OSError, TimeoutError, ValueError) as error:
            raise WorkerError(
                f"A Dask scheduler expected at {address}, got none ({error}): start one with "
                "'python -m dask scheduler', or give --scheduler local."
            ) from None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._client.close()
        if self._cluster:
            self._cluster.close()

    def map(self, work, items):
        """As ``workers.Workers.map``; who is there now decides how many items are taken ahead."""
        waiting, more, busy, arrived = enumerate(items), True, {}, queue.SimpleQueue()
        run = uuid.uuid4().hex
        while True:
            self._watch()
            while more and len(busy) < self._room:
                index, item = next(waiting, (None, None))
                if index is None:
                    more = False
                    break
                # The key tells tasks apart: equal items of two runs are not one.
                future = self._client.submit(_do, work, item, key=f"{run}-{index}", pure=False)
                busy[future.key] = future, index
                future.add_done_callback(lambda future: arrived.put(future.key))
            if not (busy or more):
                return
            with contextlib.suppress(queue.Empty):
                future, index = busy.pop(arrived.get(timeout=WATCH_SECONDS))
                yield _done(future, index)

    def _watch(self):
        """Looks, now and then, at who is there; says who came and went."""
        if self._known is not None and time.monotonic() - self._looked < WATCH_SECONDS:
            return
        found = self._client.scheduler_info(n_workers=-1)["workers"]
        self._looked = time.monotonic()
        self._room = AHEAD * sum(worker["nthreads"] for worker in found.values())
        for address in sorted(self._known or ()):
            if address not in found:
                self._notice(f"worker {address} is gone: what it had, another does.")
        if self._known is not None:
            for address in found:
                if address not in self._known:
                    self._notice(f"worker {address} has come.")
        elif not found:
            self._notice("The scheduler has no workers yet: waiting for the first.")
        self._known = set(found)


def _done(future, index):
    """The ``Done`` of a future that has come to its end.

    Raises:
      WorkFailed: where the work raised.
      WorkerError: where the scheduler was lost.
    """
    from distributed.scheduler import KilledWorker

    try:
        worker, result = future.result()
    except KilledWorker as error:
        text = (
            f"workers died over this file, the last of them {error.last_worker.address}, which is "
            "mostly for want of memory."
        )
        return Done(index, None, WorkerError(text), error.last_worker.address)
    except (OSError, concurrent.futures.CancelledError) as error:  # the work returns its own
        raise WorkerError(f"The scheduler was lost ({error}).") from None
    except Exception as error:
        raise WorkFailed(f"A worker met {type(error).__name__}: {error}") from error
    finally:
        future.release()
    return Done(index, result, None, worker)


def _do(work, item):
    """What a worker of Dask does: (its name, ``work(item)``)."""
    _limit_threads()
    return f"{socket.gethostname()}:{os.getpid()}", work(item)


@functools.cache
def _limit_threads():
    """Makes this process use one thread; TensorFlow reads that when it starts."""
    import threadpoolctl

    os.environ.update(dict.fromkeys(workers.THREAD_VARIABLES, str(Scheduler.threads)))
    threadpoolctl.threadpool_limits(Scheduler.threads)
