"""The loop over files: what each input becomes, done one after the other, failures named."""

import os
import sys
import time

import tqdm

from cli.errors import EXPECTED_ERRORS, printable, reason
from cli.outputs import OutputExists, remove_stale
from pictures.images import ImageError, collect

LONG_LIST = 10  # files from which a progress bar helps


def outputs_of(paths, folder, extension, overwrite, skip_existing=False):
    """Where each input's output goes.

    Returns:
      List of (input, output, problem): ``problem`` is None or the exception that says why it must
      not be written. Left out with ``skip_existing``: inputs whose output exists.
    """
    taken, jobs = {}, []
    inputs = {os.path.realpath(path) for path in paths}
    for path in paths:
        output = folder / (path.stem + extension)
        problem = None
        exists = os.path.lexists(output)  # unlike Path.exists, never raises
        if output in taken:
            problem = ImageError(
                f"its output {output} is already that of {taken[output]}: rename one"
            )
        elif os.path.realpath(output) in inputs:
            problem = ImageError(f"its output {output} would replace an input: choose another -o")
        elif exists and not (overwrite or skip_existing):
            problem = OutputExists(
                f"{output} exists: add --overwrite to replace it or --skip-existing to keep it"
            )
        taken.setdefault(output, path)
        if problem or not (exists and skip_existing):
            jobs.append((path, output, problem))
    return jobs


def process(jobs, work, report, skip_existing=False):
    """Runs ``work(input, output)`` on every job; a failure is named and the rest go on.

    Args:
      jobs: from ``outputs_of``.
      work: returns a result for ``report``.
      report: maps (input, result, seconds) to a line.
      skip_existing: whether an output that has appeared meanwhile is no failure.

    Returns:
      The results of the jobs that succeeded, and the number of those that failed.
    """
    results, failures = [], 0
    bar = tqdm.tqdm(jobs, unit="file", disable=None if len(jobs) >= LONG_LIST else True)
    for path, output, problem in bar:
        if skip_existing and os.path.lexists(output) and not problem:
            continue
        start = time.perf_counter()
        try:
            if problem:
                raise problem
            result = work(path, output)
        except EXPECTED_ERRORS as error:
            if skip_existing and isinstance(error, OutputExists):
                continue
            failures += 1
            tqdm.tqdm.write(f"{printable(str(path))}: {reason(error)}", file=sys.stderr)
            continue
        results.append(result)
        tqdm.tqdm.write(printable(report(path, result, time.perf_counter() - start)))
    if failures:
        print(f"{failures} of {len(jobs)} files failed, see above.", file=sys.stderr)
    return results, failures


def prepare(args, suffixes, extension):
    """Jobs for the command line's inputs, with the output folder made.

    Raises:
      ImageError: for inputs that do not exist; OSError where the folder cannot be made.
    """
    paths = collect(args.inputs, suffixes)
    args.output.mkdir(parents=True, exist_ok=True)
    remove_stale(args.output)
    jobs = outputs_of(paths, args.output, extension, args.overwrite, args.skip_existing)
    if len(jobs) < len(paths):
        print(f"{len(paths) - len(jobs)} of {len(paths)} outputs exist and are kept.")
    return jobs
