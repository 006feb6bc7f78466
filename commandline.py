"""What encoder.py and decoder.py share: model options, the loop over files, the report lines."""

import preflight  # noqa: F401  # isort: skip  (first: it says what is missing)
import argparse
import sys
import time
from pathlib import Path

import tqdm

from images import ImageError, collect

ROOT = Path(__file__).resolve().parent
DEFAULT_MODEL = "gmm-mse-3"
LONG_LIST = 10  # files from which a progress bar helps


class UsageError(ValueError):
    """Options that contradict each other."""


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
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace outputs that exist; without it such a file is named and left alone",
    )


def checkpoint_codec(args):
    """The ``Codec`` of --checkpoint, or None without that option.

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

    return Codec.from_checkpoint(args.checkpoint, args.family, args.num_filters)


def expected_errors():
    """Exceptions that mean bad input or a bad environment, not a bug: one line, no traceback."""
    import tensorflow as tf

    return (ValueError, OSError, MemoryError, tf.errors.OpError)


def reason(error):
    """One line that says what went wrong."""
    if isinstance(error, MemoryError):
        return "not enough memory for an image of this size"
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def outputs_of(paths, folder, extension, overwrite):
    """Where each input's output goes.

    Returns:
      List of (input, output, problem): ``problem`` is None or says why it must not be written.
    """
    taken, jobs = {}, []
    for path in paths:
        output = folder / (path.stem + extension)
        problem = None
        if output in taken:
            problem = f"its output {output} is already that of {taken[output]}: rename one"
        elif output.exists() and not overwrite:
            problem = f"{output} exists: add --overwrite to replace it"
        taken.setdefault(output, path)
        jobs.append((path, output, problem))
    return jobs


def process(jobs, work, report):
    """Runs ``work(input, output)`` on every job; a failure is named and the rest go on.

    Args:
      jobs: from ``outputs_of``.
      work: returns a result for ``report``.
      report: maps (input, result, seconds) to a line.

    Returns:
      The results of the jobs that succeeded, and the number of those that failed.
    """
    results, failures = [], 0
    bar = tqdm.tqdm(jobs, unit="file", disable=None if len(jobs) >= LONG_LIST else True)
    for path, output, problem in bar:
        start = time.perf_counter()
        try:
            if problem:
                raise ImageError(problem)
            result = work(path, output)
        except expected_errors() as error:
            failures += 1
            tqdm.tqdm.write(f"{path}: {reason(error)}", file=sys.stderr)
            continue
        results.append(result)
        tqdm.tqdm.write(report(path, result, time.perf_counter() - start))
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
    return outputs_of(paths, args.output, extension, args.overwrite)


def run(main):
    """Calls ``main()`` and turns expected errors into one line and an exit code."""
    try:
        code = main()
    except KeyboardInterrupt:
        print("Interrupted: files already written are whole.", file=sys.stderr)
        code = 130
    except expected_errors() as error:
        print(f"{Path(sys.argv[0]).name}: {reason(error)}", file=sys.stderr)
        code = 2
    sys.exit(code)


def parser_for(doc):
    """An argument parser whose description is a script's docstring."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
