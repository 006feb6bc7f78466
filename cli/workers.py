"""Workers: processes of this machine that do one piece of work after the other.

Each has its own memory and its own share of the cores. They are spawned, as TensorFlow does not
survive a fork. One that dies costs no more than the piece that it had, which another tries once
more.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
from typing import Any, NamedTuple

from coding import cores
from errors import GlicError

# What the libraries read when they start.
THREAD_VARIABLES = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
)
TRIES = 2  # of a piece of work whose worker dies
DEATHS = 3  # of workers, for each there are, without a piece done between: they cannot work at all


class WorkerError(GlicError):
    """Workers that died; the message is one sentence for the user."""


class WorkFailed(RuntimeError):
    """A bug: an exception that a worker met. The message is its traceback."""


class Done(NamedTuple):
    """A piece of work that is done or lost.

    index: of the item. result: of the work, None where it is lost. problem: None, or the
    ``WorkerError`` that says how it was lost. worker: what to call the process.
    """

    index: int
    result: Any
    problem: WorkerError | None
    worker: str


def of_options(args, most, notice, clean):
    """``Workers`` or a ``Scheduler`` as the options say; None where this process does the work.

    Args:
      args: the options of ``options.add_workers``.
      most: how many processes have something to do.
      notice, clean: see ``Workers``; a scheduler does not know what its workers left.

    Raises:
      WorkerError: where there is no scheduler.
    """
    if args.scheduler:
        from cli.scheduler import Scheduler

        return Scheduler(args.scheduler, args.jobs, notice) if most else None
    number = min(args.jobs or 1, most)
    return Workers(number, notice=notice, clean=clean) if number > 1 else None


class Workers:
    """Worker processes that are started when there is something to do, and then kept.

    Args:
      jobs: number of processes.
      threads: that each may use; None shares the cores out.
      notice: a function of one line, called where a worker dies and its work is tried once more.
      clean: a function of (item, number of the process), called where a worker died over an item,
        to remove what it left half done.
    """

    def __init__(
        self, jobs=1, threads=None, notice=lambda line: None, clean=lambda item, pid: None
    ):
        self.jobs = jobs
        self.threads = threads or max(1, cores.count() // jobs)
        self._notice, self._clean = notice, clean
        self._numbers = collections.deque(range(1, jobs + 1))  # of the processes not yet started
        self._idle = []
        self._busy = {}  # connection to (process, index, item, try)
        self._deaths = 0  # since something was done

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._stop(interrupted=kind is not None and issubclass(kind, KeyboardInterrupt))

    def map(self, work, items):
        """Yields a ``Done`` for each item as they come.

        Items are taken one by one as workers are free, so that there may be any number of them.

        Args:
          work: a module's function; items: an iterable of its arguments, which must pickle. It
            may run twice for an item, where the first worker dies before it has answered.

        Raises:
          WorkerError: where workers die one after the other and do nothing.
          WorkFailed: where the work raises: what it expects, it returns.
        """
        waiting, again, more = enumerate(items), collections.deque(), True
        while True:
            while (again or more) and len(self._busy) < self.jobs:
                if again:
                    index, item, tries = again.popleft()
                else:
                    index, item = next(waiting, (None, None))
                    if index is None:
                        more = False
                        break
                    tries = 1
                self._give(work, index, item, tries)
            if not self._busy:
                return
            for connection in multiprocessing.connection.wait(list(self._busy)):
                process, index, item, tries = self._busy.pop(connection)
                try:
                    failed, result = connection.recv()
                except (EOFError, OSError):
                    problem = self._died(process, item, tries)
                    if problem is None:
                        again.append((index, item, tries + 1))
                    else:
                        yield Done(index, None, problem, process.name)
                    continue
                self._idle.append((process, connection))
                self._deaths = 0
                if failed:
                    raise WorkFailed(f"{process.name}:\n{result}")
                yield Done(index, result, None, process.name)

    def _give(self, work, index, item, tries):
        """Hands an item to a worker that is free, which is started where there is none."""
        if self._idle:
            process, connection = self._idle.pop()
        else:
            process, connection = self._started()
        self._busy[connection] = process, index, item, tries
        with contextlib.suppress(OSError):  # it died while it was idle: map() will see that
            connection.send((work, item))

    def _started(self):
        number = self._numbers.popleft()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs,), name=f"worker {number}", daemon=True
        )
        with _environment(self.threads):
            process.start()
        theirs.close()  # so that only the worker's own end keeps it open
        return process, ours

    def _died(self, process, item, tries):
        """Takes a dead worker out; returns the ``WorkerError`` where its item is lost, or None."""
        process.join()
        self._clean(item, process.pid)
        self._numbers.appendleft(int(process.name.split()[-1]))
        self._deaths += 1
        end = _end_of(process.exitcode)
        if self._deaths >= DEATHS * self.jobs:
            raise WorkerError(
                f"Workers die one after the other ({end}), which is mostly for want of memory: try "
                "fewer --jobs."
            )
        if tries < TRIES:
            self._notice(f"{process.name} died ({end}): its file is tried once more.")
            return None
        return WorkerError(
            f"two workers died over this file ({end}), which is mostly for want of memory: try "
            "fewer --jobs or smaller images."
        )

    def _stop(self, interrupted):
        """Ends the processes: after what they have begun, or where that is interrupted."""
        processes = [(p, c) for c, (p, *_) in self._busy.items()] + self._idle
        try:
            for process, connection in processes:
                connection.close()  # the end of what an idle one waits for
                if interrupted and os.name != "nt":  # where the terminal did not do so
                    with contextlib.suppress(OSError):
                        os.kill(process.pid, signal.SIGINT)
            for process, _ in processes:
                process.join()
        finally:  # another Ctrl-C: at once
            for process, _ in processes:
                if process.is_alive():
                    process.kill()
            self._busy, self._idle = {}, []


def _end_of(exitcode):
    """How a process ended, in words."""
    if exitcode is not None and exitcode < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit code {exitcode}"


@contextlib.contextmanager
def _environment(threads):
    """Sets the thread limits that new processes inherit."""
    old = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _interrupt(number, frame):
    """The first Ctrl-C: both the terminal and the parent may send one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _serve(connection):
    """What a worker does: takes (work, item) and answers (failed, result), to the end.

    Its parent's end, however that comes, is the end of the connection and so its own.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # while it waits, Ctrl-C is the parent's matter
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            work, item = connection.recv()
            try:
                signal.signal(signal.SIGINT, _interrupt)
                answer = False, work(item)
            except Exception:
                answer = True, traceback.format_exc()
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            connection.send(answer)
    connection.close()
    os._exit(0)  # TensorFlow takes a second to take itself apart
