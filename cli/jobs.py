"""Jobs: which output each input becomes.

Two inputs never share an output, and no output replaces an input; what exists is for the file
system to say, which may hold A.glic and a.glic for one file, or follow links.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path
from typing import NamedTuple

from cli import inputs, options, outputs, urls
from cli.manifest import Manifest
from cli.outputs import OutputError, OutputExists
from cli.report import Report
from cli.streams import STREAM, to_path
from cli.urls import Url
from coding.bitstream import EXTENSION
from errors import UsageError
from pictures.images import KNOWN_SUFFIXES

MANIFEST = "manifest.jsonl"  # in the output folder, of runs with --scheduler


class Job(NamedTuple):
    """One input and its output.

    path: the input. output: the file to write; either may be a ``Url`` or ``STREAM``. problem:
    None, or the exception that says why it must not be done. rival: an earlier output whose name
    differs only in case, which on some file systems is the same file; None where there is none.
    checksum: SHA-256 of the output that an earlier run made, hexadecimal; None where none did.
    """

    path: Path
    output: Path
    problem: Exception | None = None
    rival: Path | None = None
    checksum: str | None = None


def plan(found, output_of, *, overwrite=False, skip_existing=False, manifest=None, there=()):
    """What to do with each input.

    Args:
      found: list of ``inputs.Input``.
      output_of: maps one to the path of its output.
      overwrite, skip_existing: the options of these names.
      manifest: a ``Manifest``, or None. With one, an output that exists is none's problem here:
        whether it is what an earlier run made, or has the bytes that this one makes, is for those
        who read it.
      there: texts of the addresses that exist, of outputs that are no files here.

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
        is_url = isinstance(output, Url)
        real = str(output) if is_url else os.path.realpath(output)
        folded = real if is_url else unicodedata.normalize("NFC", real).casefold()
        rival = first_of.setdefault(folded, output)
        checksum = manifest and manifest.checksum(entry.path, output)
        job = Job(entry.path, output, None, None if rival == output else rival, checksum)
        exists = real in there if is_url else os.path.lexists(output)  # which never raises
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
        elif exists and not (overwrite or skip_existing or manifest):
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
    if isinstance(path, Url):
        return path
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def check_rival(job):
    """Raises OutputError where a job's output has become the same file as an earlier one's."""
    if _is_same(job.output, job.rival):
        raise _same_file(job.output, job.rival)


def _is_same(output, rival):
    return rival is not None and None is not _identity(output) == _identity(rival)


def _same_file(output, rival):
    return OutputError(f"its output {output} is on this file system the same file as {rival}.")


def prepare(args, suffixes, extension, why, *, kind, decided_by=""):
    """The jobs of a command line, and the report of their run with its first lines given.

    Args:
      args: the options of ``options.add_file_options`` and ``options.add_workers``.
      suffixes, why, kind: of the inputs, see ``inputs.find``.
      extension: of the outputs.
      decided_by: the options that decide over the outputs, as one text for a manifest.

    Returns:
      (list of ``Job``, ``Report``, ``Manifest`` or None).

    Raises:
      UsageError: for outputs that do not fit the inputs.
      manifest.ManifestError: for a manifest that is none.
      OSError: where the output folder cannot be made.
    """
    options.check_workers(args)
    if args.scheduler:
        _make_absolute(args)
    output, is_one = _output_of_options(args, extension)
    _check_streams(args, output, is_one, extension)
    if is_one:
        _check_one(args, output)
    _check_urls(args, output)
    if args.scheduler and STREAM in (output, *map(to_path, args.inputs)):
        raise UsageError("Standard input and output are this process's: leave out --scheduler.")
    manifest = _manifest_of_options(args, output, is_one, decided_by)
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

    jobs = plan(
        found.inputs,
        output_of,
        overwrite=args.overwrite,
        skip_existing=args.skip_existing,
        manifest=manifest,
        there=_there(output, is_one),
    )
    kept = len(found.inputs) - len(jobs)
    if kept:
        report.line(f"{kept} of {len(found.inputs)} outputs exist and are kept.")
    if not is_one and any(not job.problem for job in jobs):
        outputs.make_folder(output)
    if jobs:
        where = "standard output" if output == STREAM else f"{output}" + "/" * (not is_one)
        report.line(f"{len(jobs)} file{'s' * (len(jobs) != 1)} to {where}")
    return jobs, report, manifest


def _make_absolute(args):
    """Makes the options mean the same to workers elsewhere: paths from the root, the backend."""
    args.inputs = [_absolute(text) for text in args.inputs]
    args.output = args.output and _absolute(args.output)
    args.default_output = args.default_output.absolute()
    args.checkpoint = args.checkpoint and os.path.abspath(args.checkpoint)
    args.backend = options.backend(args)  # that of this machine everywhere
    args.model = args.model and [options.absolute_model(name) for name in args.model]


def _absolute(text):
    path = to_path(text)
    if path == STREAM or isinstance(path, Url):
        return str(text)
    ending = "/" * str(text).endswith(("/", os.sep))
    return os.path.abspath(path) + ending


def _there(output, is_one):
    """Texts of the addresses that exist, where outputs go to an object store: one listing."""
    if not isinstance(output, Url):
        return ()
    if is_one:
        return (str(output),) if urls.exists(output) else ()
    return {str(url) for url in urls.folder(output, recursive=True)[0]}


def _manifest_of_options(args, output, is_one, decided_by):
    """The ``Manifest`` of a run, or None where it has none.

    Raises:
      UsageError: where other options contradict it.
    """
    path = args.manifest
    if path is None and args.scheduler:
        if isinstance(output, Url):
            raise UsageError(
                "A run of many workers has a manifest, a file of this machine: add --manifest FILE."
            )
        path = (output.parent if is_one else output) / MANIFEST
    if path is None:
        return None
    if args.skip_existing:
        raise UsageError("A manifest says itself what is done: leave out --skip-existing.")
    if STREAM in (output, *map(to_path, args.inputs)):
        raise UsageError("A manifest is for files: leave out --manifest, or - as input and output.")
    return Manifest(path, decided_by)


def _output_of_options(args, extension):
    """The path of -o, or what stands for it, and whether it is one output and no folder."""
    if args.output is None:
        is_one = list(map(str, args.inputs)) == ["-"]
        return (STREAM if is_one else args.default_output), is_one
    output = to_path(args.output)
    if output == STREAM:
        return output, True
    if not isinstance(output, Url) and os.path.isdir(output):
        return output, False
    suffix = "" if args.output.endswith(("/", os.sep)) else output.suffix.lower()
    if suffix == extension:
        return output, True
    exists = not isinstance(output, Url) and os.path.lexists(output)
    if exists or suffix in (*KNOWN_SUFFIXES, EXTENSION):
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


def _check_urls(args, output):
    """Raises UsageError for options that mean nothing in object stores."""
    if any(isinstance(path, Url) for path in (output, *map(to_path, args.inputs))):
        _refuse(args, "addresses such as s3://...", ["keep_times"])


def _check_one(args, output):
    """Raises UsageError where the options do not fit a single output."""
    named = [to_path(text) for text in args.inputs]
    what = "standard output" if output == STREAM else f"the file {output}"
    if len(named) != 1 or (not isinstance(named[0], Url) and os.path.isdir(named[0])):
        got = f"{len(named)} inputs" if len(named) != 1 else f"the folder {named[0]}"
        raise UsageError(f"One input file expected for {what}, got {got}.")
    _refuse(args, what, ["keep_suffix", "recursive"])


def _refuse(args, what, names):
    """Raises UsageError for options that would do nothing."""
    for name in names:
        if getattr(args, name):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} means nothing for {what}: leave it out.")
