"""Options of evaluate.py's commands; light, so that --help and refusals come at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from architecture import FAMILIES
from cli import options

DEFAULT_OUTPUT = Path("runs") / "evaluation"
PAGE = "report.html"  # within the output folder
ALL_ANCHORS = "all"  # --anchor: every curve but ours


def size(text):
    """Argument type: (height, width) of a text like 768x512."""
    try:
        width, height = (options.count(part) for part in text.lower().split("x"))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"WIDTHxHEIGHT such as 768x512, got {text!r}") from None
    return height, width


def add_run_options(parser):
    """Options of ``evaluate.py run``."""
    what = parser.add_argument_group("what to measure")
    what.add_argument(
        "--images",
        nargs="+",
        default=[options.ROOT / "valid"],
        metavar="FILE_OR_FOLDER",
        help="images to code (default: valid/)",
    )
    what.add_argument(
        "--models",
        nargs="*",
        metavar="NAME",
        help="folders in models/, or paths of such; none measures classic codecs only "
        f"(default: {options.DEFAULT_MODEL}, or the --checkpoint)",
    )
    what.add_argument(
        "--lambdas",
        nargs="+",
        type=options.positive,
        metavar="X",
        help="at which models of many rates are measured, which makes their curves (default: those "
        "of the papers' models that lie in a model's range: 0.0016 0.0032 0.0075 0.015 0.03 0.045, "
        "or for MS-SSIM 3 12 40 120; where fewer than three do, six over its range)",
    )
    what.add_argument(
        "--codecs",
        nargs="+",
        default=[],
        metavar="NAME",
        help="classic codecs, each at eight settings: jpeg webp jpeg2000 avif jxl heic",
    )
    what.add_argument(
        "--matched",
        action="store_true",
        help="with --codecs: each of them also at its best file of at most our file's bytes, for "
        "every image and model",
    )
    options.add_model_options(parser)
    options.add_backend(parser)
    how = parser.add_argument_group("how")
    how.add_argument(
        "--jobs",
        type=options.count,
        metavar="N",
        help="worker processes; with more than one, seconds are those of a shared machine "
        "(default: 1, with --scheduler local one a core)",
    )
    options.add_scheduler(how)
    how.add_argument(
        "--threads",
        type=options.count,
        metavar="N",
        help="threads of each worker (default: the cores divided by --jobs; a scheduler's have 1)",
    )
    out = parser.add_argument_group("results")
    _add_output(out)
    out.add_argument(
        "--curves",
        nargs="*",
        metavar="NAME",
        help="curves of RDdata/ for plots and BD-rate, its files without .csv; they are for the 24 "
        "Kodak images (default: those of both papers, trained for MSE)",
    )
    out.add_argument(
        "--anchor",
        metavar="NAME",
        help=f"what BD-rate is against: one of --codecs or --curves, or a curve of models; "
        f"{ALL_ANCHORS}: our curves against each of --codecs and --curves (default: the first of "
        "--codecs, else the first of --curves)",
    )
    out.add_argument(
        "--rddata",
        type=Path,
        metavar="OUT.csv",
        help="also write the models' means as a curve in the form of RDdata/; takes the 24 Kodak "
        "images and one model of many rates, or models of one family and metric whose names differ "
        "in a last number",
    )


def add_report_options(parser):
    """Options of ``evaluate.py report``: those of ``run``, and the page."""
    add_run_options(parser)
    parser.add_argument(
        "--page",
        type=Path,
        metavar="OUT.html",
        help="the page: charts, tables and a viewer that compares each image with its original and "
        "with classic codecs at equal bytes (--codecs, or else jpeg, webp and avif); about 1 MB "
        "for each photograph of 768x512 and each model or lambda (default: "
        f"{PAGE} in the output folder)",
    )


def add_complexity_options(parser):
    """Options of ``evaluate.py complexity``."""
    parser.add_argument(
        "--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), help="(default: both)"
    )
    parser.add_argument(
        "--filters",
        nargs="+",
        type=options.count,
        default=[64, 128, 192],
        metavar="N",
        help="(default: 64 128 192)",
    )
    parser.add_argument(
        "--latents",
        type=options.count,
        metavar="M",
        help="channels of y, for all of them (default: N, as in the papers)",
    )
    parser.add_argument(
        "--size",
        type=size,
        metavar="WIDTHxHEIGHT",
        help="also measure seconds for an image of this size, multiples of 64, such as 768x512",
    )
    _add_output(parser)


def add_bits_options(parser):
    """Options of ``evaluate.py bits``."""
    parser.add_argument("file", type=Path, help="a .glic file, or an image that is coded first")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="folder in models/, or path of one (default: the one that a .glic file names; "
        f"{options.DEFAULT_MODEL} for images)",
    )
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--quality",
        type=options.quality,
        metavar="0..100",
        help="at which a model of many rates codes an image (default: the middle, 50)",
    )
    rate.add_argument(
        "--lmbda", type=options.positive, metavar="X", help="the same as a lambda of the model's"
    )
    options.add_model_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    parser.add_argument(
        "--map", type=Path, metavar="FILE.png", help="also draw the bits per latent position"
    )


def _add_output(parser):
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="FOLDER",
        help=f"where to write, made if missing (default: {DEFAULT_OUTPUT}/)",
    )
