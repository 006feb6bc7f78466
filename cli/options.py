"""Options that scripts share, and what they mean."""

import argparse
import math
import os
from pathlib import Path

from architecture import FAMILIES, Architecture
from coding import backends
from coding.bitstream import MAX_PIXELS
from errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_MEMORY_MIB = 3072
DEFAULT_MODEL = "gmm"  # see models/aliases.json
LEAST_MEMORY_MIB = 256
LOCAL = "local"  # --scheduler: one on this machine, for this run


def parser_for(doc):
    """An argument parser whose description is a script's docstring."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def positive(text):
    """Argument type: a float above 0, neither infinite nor NaN."""
    return _number(text, float, lambda value: 0 < value < math.inf, "a number above 0")


def not_negative(text):
    """Argument type: a float from 0, neither infinite nor NaN."""
    return _number(text, float, lambda value: 0 <= value < math.inf, "a number from 0")


def quality(text):
    """Argument type: a float from 0 to 100."""
    return _number(text, float, lambda value: 0 <= value <= 100, "a number from 0 to 100")


def count(text):
    """Argument type: an int from 1."""
    return _number(text, int, lambda value: value >= 1, "a whole number from 1")


def whole(text):
    """Argument type: an int from 0."""
    return _number(text, int, lambda value: value >= 0, "a whole number from 0")


def _number(text, kind, fits, expected):
    try:
        value = kind(text)
        if fits(value):  # NaN fits nothing
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{expected} expected, got {text!r}.")


def add_model_options(parser):
    """Adds the options that name an authors' checkpoint."""
    group = parser.add_argument_group("a checkpoint as its authors published it")
    group.add_argument(
        "--checkpoint",
        metavar="PREFIX",
        help="path of a TF 1.x checkpoint without .index, such as path/model-1399000; needs "
        "--family and --num-filters",
    )
    group.add_argument("--family", choices=FAMILIES, help="which paper's networks")
    group.add_argument(
        "--num-filters", type=count, metavar="N", help="filters of its networks, such as 128 or 192"
    )
    group.add_argument(
        "--num-latents",
        type=count,
        metavar="M",
        help="channels of its latents y, where they are not N",
    )


def add_file_options(parser, default_input, default_output, extension):
    """Adds the inputs, the outputs and how one becomes the other.

    Args:
      parser: of the command line.
      default_input: path of the folder that is read where nothing is named.
      default_output: path of the folder that is written where nothing is named.
      extension: of the outputs.
    """
    parser.set_defaults(default_output=Path(default_output))
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FILE_OR_FOLDER",
        default=[default_input],
        help="what to read; of a folder, its own files only; - is standard input, for one file "
        f"(default: {default_input.name}/)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER_OR_FILE",
        help=f"folder to write to, made if missing; for one input also a file, *{extension}, or - "
        f"for standard output (default: {default_output}/; of standard input, standard output)",
    )
    parser.add_argument(
        "-r",
        "--recursive",
        action="store_true",
        help="also the files of subfolders, in the same subfolders of the output folder; links to "
        "folders are followed only where they are named",
    )
    parser.add_argument(
        "--keep-suffix",
        action="store_true",
        help=f"add {extension} to the input's whole name, not in place of its suffix: keeps "
        "the outputs of inputs apart whose names differ in the suffix only",
    )
    parser.add_argument(
        "--keep-times", action="store_true", help="give outputs the file times of their inputs"
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


def add_limits(parser):
    """Adds --max-pixels and --memory-mib."""
    parser.add_argument(
        "--max-pixels",
        type=count,
        default=MAX_PIXELS,
        metavar="N",
        help="refuse pictures of more pixels, before any memory is taken for them (default: "
        "%(default)s, the most that the encoder takes)",
    )
    add_memory_option(parser)


def add_memory_option(parser):
    """Adds --memory-mib."""
    parser.add_argument(
        "--memory-mib",
        type=count,
        default=DEFAULT_MEMORY_MIB,
        metavar="MIB",
        help="memory that the process should stay within, in MiB: larger images pass through the "
        "networks in overlapping tiles, which takes up to twice as long; 640 MiB, as TensorFlow "
        "takes, and 20 bytes per pixel plus one per 8 channels of y are the least (default: "
        "%(default)s)",
    )


def add_workers(parser):
    """Adds --jobs, --scheduler and --manifest."""
    group = parser.add_argument_group("many files", "See docs/scale.md.")
    group.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        help="processes, each with a model of its own, its share of the cores and --memory-mib; "
        "lines come as files are done (default: 1, with --scheduler local one a core)",
    )
    add_scheduler(group)
    group.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="add a line of JSON for each file: bytes, checksum and seconds, or the error; "
        "what it says was done with the same options is checked by the checksum and not done "
        "again: continues a run that was interrupted or killed",
    )


def add_scheduler(group):
    """Adds --scheduler."""
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="have the workers of a Dask scheduler do it, such as tcp://host:8786; local starts "
        "one here (needs requirements-scale.txt)",
    )


def check_workers(args):
    """Raises UsageError for --jobs with a scheduler whose workers are not ours to start."""
    if args.scheduler not in (None, LOCAL) and args.jobs:
        raise UsageError("--jobs is for this machine: a scheduler's workers are what it has.")


def absolute_model(name):
    """A model's name in models/ as it is, else its folder's path from the root, for workers."""
    from coding import models

    folder = models.folder_of(name)
    return name if folder.parent == models.MODELS_DIR else os.path.abspath(folder)


def add_backend(parser, unless=""):
    """Adds --backend; ``unless`` ends what its help says of the default."""
    parser.add_argument(
        "--backend",
        choices=backends.BACKENDS,
        help="what runs the networks between pixels and latents: onnx (ONNX Runtime) starts in a "
        "tenth of a second, tensorflow in two; files are the same format, pixels at most one level "
        f"apart (default: onnx where onnxruntime is installed{unless})",
    )


def backend(args):
    """The backend that --backend and --effort stand for.

    Raises:
      UsageError: where these two contradict each other.
      backends.BackendError: where the backend is not installed.
    """
    if not getattr(args, "effort", 0):
        return backends.choose(args.backend)
    if args.backend == backends.ONNX:
        raise UsageError("--effort searches in TensorFlow: leave --backend onnx out, or --effort.")
    backends.require(backends.TENSORFLOW, "--effort")
    return backends.TENSORFLOW


def memory_budget(args):
    """--memory-mib in bytes (UsageError where it is too small to mean anything)."""
    if args.memory_mib < LEAST_MEMORY_MIB:
        raise UsageError(
            f"--memory-mib of at least {LEAST_MEMORY_MIB} expected, got {args.memory_mib}."
        )
    return args.memory_mib << 20


def checkpoint_architecture(args):
    """The ``Architecture`` of --checkpoint, or None without that option.

    Raises:
      UsageError: where --checkpoint, --family and --num-filters do not come together.
      ArchitectureError: where no codec can be built of them.
    """
    given = [args.checkpoint, args.family, args.num_filters]
    if all(v is None for v in (*given, args.num_latents)):
        return None
    if any(v is None for v in given):
        raise UsageError(
            "--checkpoint, --family and --num-filters go together, --num-latents may join them: "
            "give all three, or none."
        )
    return Architecture(args.family, args.num_filters, args.num_latents)


def checkpoint_codec(args, **options):
    """The ``Codec`` of --checkpoint, or None without that option.

    Args:
      args: the parsed options of ``add_model_options``.
      options: further arguments of ``Codec.from_checkpoint``.

    Raises:
      UsageError, ArchitectureError: as ``checkpoint_architecture``.
    """
    architecture = checkpoint_architecture(args)
    if architecture is None:
        return None
    from codec import Codec

    return Codec.from_checkpoint(args.checkpoint, architecture, **options)
