"""Jobs: what each input becomes, done one after the other, failures named.

Two inputs never share an output, and no output replaces an input; what exists is for the file
system to say, which may hold A.glic and a.glic for one file, or follow links.
"""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from pathlib import Path
from typing import NamedTuple

import tqdm

from cli import inputs, outputs
from cli.errors import EXPECTED_ERRORS
from cli.outputs import OutputError, OutputExists
from cli.report import Report
from cli.streams import STREAM, to_path
from coding.bitstream import EXTENSION
from errors import UsageError
from pictures.images import KNOWN_SUFFIXES

LONG_LIST = 10  # files from which a progress bar helps


class Job(NamedTuple):
    """One input and its output.

    path: the input. output: the file to write; either may be ``STREAM``. problem: None, or the
    exception that says why it must not be done. rival: an earlier output whose name differs only
    in case, which on some file systems is the same file; None where there is none.
    """

    path: Path
    output: Path
    problem: Exception | None = None
    rival: Path | None = None


def plan(found, output_of, *, overwrite=False, skip_existing=False):
    """What to do with each input.

    Args:
      found: list of ``inputs.Input``.
      output_of: maps one to the path of its output.
      overwrite, skip_existing: the options of these names.

    Returns:
      List of ``Job``. Left out with ``skip_existing``: inputs whose output exists.
    """
    taken, first_of, jobs = {}, {}, []
    files = {_identity(entry.path) for entry in found if not entry.problem} - {None}
    for entry in found:
        output = output_of(entry)
        if entry.problem or output == STREAM:
            jobs.append(Job(entry.path, output, entry.problem))
            continue
        real = os.path.realpath(output)
        rival = first_of.setdefault(unicodedata.normalize("NFC", real).casefold(), output)
        job = Job(entry.path, output, rival=None if rival == output else rival)
        exists = os.path.lexists(output)  # unlike Path.exists, never raises
        if real in taken:
            other = taken[real]
            advice = "--keep-suffix" if other.name != entry.path.name else "another -o for one"
            problem = OutputError(
                f"its output {output} is already that of {other}: use {advice}, or rename one."
            )
        elif _identity(output) in files:
            problem = OutputError(f"its output {output} would replace an input: use another -o.")
        elif _is_same(output, job.rival):
            problem = _same_file(output, job.rival)
        elif exists and not (overwrite or skip_existing):
            problem = OutputExists(
                f"{output} exists: add --overwrite to replace it or --skip-existing to keep it."
            )
        else:
            problem = None
        taken.setdefault(real, entry.path)
        if problem or not (exists and skip_existing):
            jobs.append(job._replace(problem=problem))
    return jobs


def _identity(path):
    """What tells a file from all others, or None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _is_same(output, rival):
    return rival is not None and None is not _identity(output) == _identity(rival)


def _same_file(output, rival):
    return OutputError(f"its output {output} is on this file system the same file as {rival}.")


def process(jobs, work, describe, report=None, skip_existing=False):
    """Runs ``work(input, output)`` on every job; a failure is named and the rest go on.

    Args:
      jobs: list of ``Job``.
      work: returns a result for ``describe``.
      describe: maps (input, result, seconds) to a line.
      report: a ``Report``; None: a new one.
      skip_existing: whether an output that has appeared meanwhile is no failure.

    Returns:
      The results of the jobs that succeeded, and the number of those that failed.
    """
    report = report or Report()
    results, failures, folders = [], 0, set()
    bar = tqdm.tqdm(jobs, unit="file", disable=None if len(jobs) >= LONG_LIST else True)
    for job in bar:
        start, started = time.perf_counter(), report.starting_seconds
        try:
            if job.problem:
                raise job.problem
            if _is_same(job.output, job.rival):
                raise _same_file(job.output, job.rival)
            if skip_existing and os.path.lexists(job.output):
                continue
            folder = job.output.parent
            if folder not in folders and job.output != STREAM:
                outputs.make_folder(folder)
                folders.add(folder)
            result = work(job.path, job.output)
        except EXPECTED_ERRORS as error:
            if skip_existing and isinstance(error, OutputExists):
                continue
            failures += 1
            report.failure(job.path, error)
            continue
        results.append(result)
        seconds = time.perf_counter() - start - (report.starting_seconds - started)
        report.line(describe(job.path, result, seconds))
    if failures:
        report.warning(f"{failures} of {len(jobs)} files failed, see above.")
    return results, failures


def prepare(args, suffixes, extension, why, *, kind):
    """The jobs of a command line, and the report of their run with its first lines given.

    Args:
      args: the options of ``options.add_file_options``.
      suffixes, why, kind: of the inputs, see ``inputs.find``.
      extension: of the outputs.

    Returns:
      (list of ``Job``, ``Report``).

    Raises:
      UsageError: for outputs that do not fit the inputs.
      OSError: where the output folder cannot be made.
    """
    output, is_one = _output_of_options(args, extension)
    _check_streams(args, output, is_one, extension)
    if is_one:
        _check_one(args, output)
    report = Report(to_stderr=output == STREAM)
    apart = None if is_one else output
    found = inputs.find(
        args.inputs, suffixes, why, kind=kind, recursive=args.recursive, apart=apart
    )
    if found.left_out:
        report.warning(f"Left out: {found.left_out}.")

    def output_of(entry):
        if is_one:
            return output
        name = entry.path.name if args.keep_suffix else entry.path.stem
        return output / entry.below / (name + extension)

    jobs = plan(found.inputs, output_of, overwrite=args.overwrite, skip_existing=args.skip_existing)
    kept = len(found.inputs) - len(jobs)
    if kept:
        report.line(f"{kept} of {len(found.inputs)} outputs exist and are kept.")
    if not is_one and any(not job.problem for job in jobs):
        outputs.make_folder(output)
    if jobs:
        where = "standard output" if output == STREAM else f"{output}" + "/" * (not is_one)
        report.line(f"{len(jobs)} file{'s' * (len(jobs) != 1)} to {where}")
    return jobs, report


def _output_of_options(args, extension):
    """The path of -o, or what stands for it, and whether it is one output and no folder."""
    if args.output is None:
        is_one = list(map(str, args.inputs)) == ["-"]
        return (STREAM if is_one else args.default_output), is_one
    output = to_path(args.output)
    if output == STREAM:
        return output, True
    if os.path.isdir(output):
        return output, False
    suffix = "" if args.output.endswith(("/", os.sep)) else output.suffix.lower()
    if suffix == extension:
        return output, True
    if os.path.lexists(output) or suffix in (*KNOWN_SUFFIXES, EXTENSION):
        raise UsageError(
            f"-o {output} is no folder: name one, or for one input a file that ends in {extension}."
        )
    return output, False


def _check_streams(args, output, is_one, extension):
    """Raises UsageError where standard input or output and other options do not fit."""
    if "-" in args.inputs:
        if not is_one:
            raise UsageError(
                "Standard input is for one picture, which has no name: give it alone, with "
                f"-o NAME{extension} or without -o."
            )
        _refuse(args, "standard input", ["keep_times"])
    if output == STREAM:
        _refuse(args, "standard output", ["keep_times", "overwrite", "skip_existing"])
        if sys.stdout.isatty():
            raise UsageError(
                f"Standard output is a terminal: redirect it, or give -o NAME{extension}."
            )


def _check_one(args, output):
    """Raises UsageError where the options do not fit a single output."""
    named = [to_path(text) for text in args.inputs]
    what = "standard output" if output == STREAM else f"the file {output}"
    if len(named) != 1 or os.path.isdir(named[0]):
        got = f"{len(named)} inputs" if len(named) != 1 else f"the folder {named[0]}"
        raise UsageError(f"One input file expected for {what}, got {got}.")
    _refuse(args, what, ["keep_suffix", "recursive"])


def _refuse(args, what, names):
    """Raises UsageError for options that would do nothing."""
    for name in names:
        if getattr(args, name):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} means nothing for {what}: leave it out.")
