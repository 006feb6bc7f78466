"""What encoder.py and decoder.py share: model options, the loop over files, the report lines."""

import preflight  # noqa: F401  # isort: skip  (first: it says what is missing)
import argparse
import contextlib
import os
import re
import secrets
import sys
import time
from pathlib import Path

import tqdm

from errors import GlicError
from pictures.images import ImageError, collect

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_MEMORY_MIB = 3072
DEFAULT_MODEL = "gmm-mse-3"
LONG_LIST = 10  # files from which a progress bar helps
STALE_SECONDS = 60  # age of a temporary file whose process no longer runs
LEAST_MEMORY_MIB = 256
# Bad input or a bad environment: one line. Whatever else is raised is a bug and shows a traceback.
EXPECTED_ERRORS = (GlicError, OSError, MemoryError)
# The names that publish and images.atomic_write give to what is not whole yet.
_TEMPORARY = re.compile(r"\.(\d+)-[0-9a-f]{16}\.tmp")


class UsageError(GlicError):
    """Options that contradict each other."""


class OutputExists(ImageError):
    """An output that is already there and must not be replaced."""


def add_model_options(parser):
    """Adds the options that name an authors' checkpoint."""
    group = parser.add_argument_group("a checkpoint as its authors published it")
    group.add_argument(
        "--checkpoint",
        metavar="PREFIX",
        help="path of a TF 1.x checkpoint without .index, such as path/model-1399000; needs "
        "--family and --num-filters",
    )
    group.add_argument("--family", choices=("gmm", "gllmm"), help="which paper's networks")
    group.add_argument(
        "--num-filters", type=int, metavar="N", help="filters of its networks, such as 128 or 192"
    )


def add_file_options(parser, default_input, default_output):
    """Adds the inputs, the output folder and --overwrite."""
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FILE_OR_FOLDER",
        default=[default_input],
        help=f"what to read; of a folder, its own files only (default: {default_input.name}/)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path(default_output),
        metavar="FOLDER",
        help=f"where to write, made if missing (default: {default_output}/)",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite",
        action="store_true",
        help="replace outputs that exist; without it such a file is named and left alone, and "
        "counts as failed",
    )
    existing.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out inputs whose output exists: continues a run that was interrupted or "
        "killed, as outputs get their names only when they are whole; says nothing about which "
        "model or options they were made with",
    )


def add_memory_option(parser):
    """Adds --memory-mib."""
    parser.add_argument(
        "--memory-mib",
        type=int,
        default=DEFAULT_MEMORY_MIB,
        metavar="MIB",
        help="memory that the process should stay within, in MiB: larger images pass through the "
        "networks in overlapping tiles, which takes up to twice as long; TensorFlow's 640 MiB and "
        "20 bytes per pixel plus one per 8 filters are the least (default: %(default)s)",
    )


def memory_budget(args):
    """--memory-mib in bytes (UsageError where it is too small to mean anything)."""
    if args.memory_mib < LEAST_MEMORY_MIB:
        raise UsageError(
            f"--memory-mib of at least {LEAST_MEMORY_MIB} expected, got {args.memory_mib}."
        )
    return args.memory_mib << 20


def checkpoint_codec(args, **options):
    """The ``Codec`` of --checkpoint, or None without that option.

    Args:
      args: the parsed options of ``add_model_options``.
      options: further arguments of ``Codec.from_checkpoint``.

    Raises:
      UsageError: where --checkpoint, --family and --num-filters do not come together.
    """
    given = [args.checkpoint, args.family, args.num_filters]
    if all(v is None for v in given):
        return None
    if any(v is None for v in given):
        raise UsageError(
            "--checkpoint, --family and --num-filters go together: give all three, or none."
        )
    from codec import Codec

    return Codec.from_checkpoint(args.checkpoint, args.family, args.num_filters, **options)


def reason(error):
    """One line that says what went wrong."""
    if isinstance(error, MemoryError):
        return "not enough memory for an image of this size"
    return printable((str(error) or type(error).__name__).strip())


def printable(text):
    """The text with control and undecodable characters, which names may have, escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


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


def publish(write, output, overwrite):
    """Lets ``write(path)`` make a file and gives it its name when it is whole.

    Without ``overwrite`` the name is taken atomically: where two processes write the same output,
    the second fails, and neither replaces what the other wrote.

    Args:
      write: writes a file at the path it is given.
      output: the file's name in the end.
      overwrite: whether to replace what has that name.

    Raises:
      OutputExists: where the name is taken; OSError: where the file cannot be written.
    """
    temporary = output.parent / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        write(temporary)
        if overwrite:
            os.replace(temporary, os.path.realpath(output))
        else:
            _link(temporary, output)
    except OSError as error:
        # The temporary name would mean nothing to the user.
        raise OSError(error.errno, error.strerror, str(output)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _link(temporary, output):
    """Gives a file its name unless it is taken."""
    taken = OutputExists(f"{output} exists: another process has written it meanwhile")
    try:
        os.link(temporary, output)
    except FileExistsError:
        raise taken from None
    except OSError:  # a file system without hard links
        if os.path.lexists(output):
            raise taken from None
        os.replace(temporary, output)


def remove_stale(folder):
    """Removes the temporary files that killed processes left in an output folder."""
    for entry in folder.iterdir():
        match = _TEMPORARY.fullmatch(entry.name)
        # OSError: gone meanwhile, or not ours to remove.
        with contextlib.suppress(OSError):
            if match and _is_stale(entry, int(match[1])):
                entry.unlink()


def _is_stale(entry, pid):
    """Whether a temporary file's process is gone; the age is for those of other machines."""
    if time.time() - entry.stat().st_mtime < STALE_SECONDS:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


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


def run(main):
    """Calls ``main()`` and turns expected errors into one line and an exit code."""
    with contextlib.suppress(AttributeError):  # a stream of another kind
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    try:
        code = main()
    except KeyboardInterrupt:
        print("Interrupted: files already written are whole.", file=sys.stderr)
        code = 130
    except EXPECTED_ERRORS as error:
        print(f"{Path(sys.argv[0]).name}: {reason(error)}", file=sys.stderr)
        code = 2
    sys.exit(code)


def parser_for(doc):
    """An argument parser whose description is a script's docstring."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
