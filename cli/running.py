"""A run: jobs done one after the other, here or by workers; a line for each, failures named."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import tqdm

from cli import jobs as cli_jobs
from cli import outputs, workers
from cli.errors import EXPECTED_ERRORS, reason
from cli.outputs import OutputExists
from cli.report import Recorder
from cli.streams import STREAM, name_of
from errors import GlicError

LONG_LIST = 10  # files from which a progress bar helps
GATHERED = 20  # failures that are named again at the end of a run of workers


class Outcome(NamedTuple):
    """What became of a job.

    result: of the work, or None. problem: None, or the exception that says why it failed. seconds:
    of this file. kept: whether its output was there already. worker: which did it; empty for this
    process. lines: of the worker's report, see ``report.Recorder``. fatal: whether the problem is
    that of every job, such as a model that cannot be used.
    """

    result: dict[str, Any] | None = None
    problem: Exception | None = None
    seconds: float = 0.0
    kept: bool = False
    worker: str = ""
    lines: tuple = ()
    fatal: bool = False


class Work(NamedTuple):
    """What workers do with each job; it pickles.

    make: a module's function that makes the function of (input, output) of args and a report.
    args: the options of the command line. name: tells runs apart.
    """

    make: Callable
    args: Any
    name: str


def run(args, jobs, make, describe, report, manifest=None, keep=lambda result: None):
    """Does the jobs, in this process or, with --jobs and --scheduler, in several.

    Args:
      args: the options of ``options.add_file_options`` and ``options.add_workers``.
      jobs: list of ``jobs.Job``.
      make: a module's function that makes the work, a function of (input, output) that returns a
        dict, of args and a report. It is called once in each process.
      describe: maps (input, result, seconds) to a line.
      report: a ``Report``.
      manifest: a ``Manifest`` to write to, or None.
      keep: called with each result.

    Returns:
      The number of jobs that failed.

    Raises:
      GlicError: for a model that cannot be used, and for workers that all die.
    """
    most = sum(not job.problem for job in jobs)
    with contextlib.ExitStack() as stack:
        if manifest:
            stack.enter_context(manifest)
        pool = workers.of_options(args, most, report.warning, _clean)
        if pool:
            stack.enter_context(pool)
            outcomes = elsewhere(jobs, Work(make, args, uuid.uuid4().hex), pool, args.skip_existing)
        else:
            outcomes = here(jobs, lambda: make(args, report), report, args.skip_existing)
        return follow(jobs, outcomes, describe, report, manifest, keep, gather=bool(pool))


def follow(
    jobs, outcomes, describe, report, manifest=None, keep=lambda result: None, *, gather=False
):
    """Reports on jobs as they come to their end.

    Args:
      jobs: list of ``Job``.
      outcomes: iterable of (job, ``Outcome``), one for each in any order.
      describe, report, manifest, keep: see ``run``.
      gather: whether failures are named again at the end.

    Returns:
      The number of failures.

    Raises:
      GlicError: that of a fatal outcome.
    """
    failures, kept, gathered, said = 0, 0, [], set()
    bar = tqdm.tqdm(total=len(jobs), unit="file", disable=None if len(jobs) >= LONG_LIST else True)
    with bar:
        for job, outcome in outcomes:
            _repeat(outcome, report, said)
            if outcome.fatal:
                raise outcome.problem
            bar.update()
            if outcome.problem:
                failures += 1
                report.failure(job.path, outcome.problem)
                if len(gathered) < GATHERED:
                    gathered.append((job.path, outcome.problem))
            elif outcome.kept:
                kept += 1
                continue
            else:
                keep(outcome.result)
                report.line(describe(job.path, outcome.result, outcome.seconds))
            if manifest:
                manifest.add(job, outcome)
    if kept:
        report.line(f"{kept} of {len(jobs)} outputs were there already and are kept.")
    if failures:
        where = "see above." if not gather else "which are:"
        report.warning(f"{failures} of {len(jobs)} files failed, {where}")
        for path, problem in gathered if gather else ():
            report.failure(path, problem)
        if gather and failures > len(gathered):
            more = "see above" if manifest is None else f"see {manifest.path}"
            report.warning(f"... and {failures - len(gathered)} more, {more}.")
    return failures


def _repeat(outcome, report, said):
    """Says a worker's lines; those that are the same from all of them once."""
    for text, is_own in outcome.lines:
        if is_own:
            report.started(f"{outcome.worker}: {text}")
        elif text not in said:
            said.add(text)
            report.line(text)


def here(jobs, make, report, skip_existing=False):
    """Yields (job, ``Outcome``) of jobs done in this process, in their order.

    Args:
      jobs: list of ``Job``.
      make: makes the work, called when there is something to do.
      report, skip_existing: see ``attempt``.
    """
    folders, work = set(), None
    for job in jobs:
        problem = _obstacle(job, folders)
        if problem:
            yield job, Outcome(problem=problem)
        elif _is_kept(job, skip_existing):
            yield job, Outcome(kept=True)
        else:
            work = work or make()
            yield job, attempt(job, work, report, skip_existing)


def elsewhere(jobs, work, pool, skip_existing=False):
    """Yields (job, ``Outcome``) of jobs done by workers, as they come.

    Args:
      jobs: list of ``Job``.
      work: a ``Work``.
      pool: ``workers.Workers`` or ``scheduler.Scheduler``.
      skip_existing: see ``attempt``.
    """
    folders, stopped = set(), []
    # Outputs that may be one file are written one after the other.
    plain = [job for job in jobs if job.rival is None]
    for group in (plain, *([job] for job in jobs if job.rival is not None)):
        given = []

        def items(group=group, given=given):
            for job in group:
                problem = _obstacle(job, folders)
                if problem:
                    stopped.append((job, Outcome(problem=problem)))
                else:
                    given.append(job)
                    yield work, job, skip_existing

        for index, outcome, lost, worker in pool.map(do, items()):
            yield from _taken(stopped)
            outcome = Outcome(problem=lost) if lost else outcome
            yield given[index], outcome._replace(worker=worker)
        yield from _taken(stopped)


def _taken(waiting):
    while waiting:
        yield waiting.pop(0)


def _obstacle(job, folders):
    """Why a job cannot be done, found before its input is read; its folder is made on the way."""
    try:
        if job.problem:
            return job.problem
        cli_jobs.check_rival(job)
        folder = job.output.parent
        if folder not in folders and job.output != STREAM:
            outputs.make_folder(folder)
            folders.add(folder)
    except EXPECTED_ERRORS as error:
        return error
    return None


def _is_kept(job, skip_existing):
    """Whether a job's output is there: the one that a manifest knows, or with the option any."""
    if skip_existing and job.output != STREAM:
        try:
            return outputs.exists(job.output)
        except GlicError:  # a store that does not answer now: writing to it will tell
            return False
    return job.checksum is not None and outputs.checksum_of(job.output) == job.checksum


def attempt(job, work, report, skip_existing=False):
    """The ``Outcome`` of a job done in this process.

    Args:
      job: a ``Job``.
      work: a function of (input, output).
      report: a ``Report``, which knows how long models took to start meanwhile.
      skip_existing: whether an output that has appeared meanwhile is kept.
    """
    start, started = time.perf_counter(), report.starting_seconds
    try:
        result = work(job.path, job.output)
    except EXPECTED_ERRORS as error:
        if skip_existing and isinstance(error, OutputExists):
            return Outcome(kept=True)
        return Outcome(problem=error)
    seconds = time.perf_counter() - start - (report.starting_seconds - started)
    return Outcome(result, seconds=seconds)


def _clean(item, pid):
    """Removes what a worker that was killed left of the output of its ``item`` of ``do``."""
    _, job, _ = item
    outputs.remove_unfinished(job.output, pid)


_made = {}  # by the name of a ``Work``: (the function, its ``Recorder``); of the newest run only
_making = threading.Lock()


def do(item):
    """``attempt`` in a worker, which makes the work for its first job.

    Args:
      item: (``Work``, ``Job``, skip_existing).

    Returns:
      ``Outcome``, whose problem pickles.
    """
    work, job, skip_existing = item
    recorder = Recorder()
    try:
        if _is_kept(job, skip_existing):
            return Outcome(kept=True)
        with _making:
            if work.name not in _made:
                _made.clear()
                _made[work.name] = work.make(work.args, recorder), recorder
            function, recorder = _made[work.name]
        outcome = attempt(job, function, recorder, skip_existing)
    except EXPECTED_ERRORS as error:
        outcome = Outcome(problem=error, fatal=True)
    if outcome.problem:
        outcome = outcome._replace(problem=_plain(outcome.problem, job))
    return outcome._replace(lines=recorder.take())


def _plain(error, job):
    """A ``GlicError`` with the one line of any expected error."""
    text = reason(error)
    return GlicError(text.removeprefix(f"{name_of(job.path)}: "))
