"""Numbers and pictures about the codecs: python evaluate.py [--images ...] [--models ...]

Codes images with models and classic codecs to real files and back, prints a table, and writes
results.csv, results.json, means.csv, bd_rate.csv and rate-distortion plots to the output folder.
What was measured is kept there: a second run only does what is new.

  python evaluate.py --images photos/ --models gmm-mse-3 --codecs jpeg avif --matched
  python evaluate.py --images photos/ --report report.html
  python evaluate.py --complexity --filters 64 128 192 --size 768x512
  python evaluate.py bits photo.png        what is in a file; takes .glic files and images
"""

import argparse
import sys
from pathlib import Path

import preflight
from cli import errors as cli_errors
from cli import options
from errors import UsageError

DEFAULT_OUTPUT = Path("runs") / "evaluation"


def _size(text):
    """(height, width) of a text like 768x512."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"WIDTHxHEIGHT such as 768x512, got {text!r}") from None
    return height, width


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"a number from 1, got {value}")
    return value


def _parser():
    """Options of the measurements."""
    parser = options.parser_for(__doc__)
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
    how = parser.add_argument_group("how")
    how.add_argument(
        "--jobs",
        type=_positive,
        default=1,
        metavar="N",
        help="worker processes; with more than one, seconds are those of a shared machine "
        "(default: 1)",
    )
    how.add_argument(
        "--threads",
        type=_positive,
        metavar="N",
        help="threads of each worker (default: the cores divided by --jobs)",
    )
    out = parser.add_argument_group("results")
    out.add_argument(
        "-o",
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="FOLDER",
        help=f"where to write, made if missing (default: {DEFAULT_OUTPUT}/)",
    )
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
        help="what BD-rate is against: one of --codecs or --curves, or a curve of models; all: our "
        "curves against each of --codecs and --curves (default: the first of --codecs, else the "
        "first of --curves)",
    )
    out.add_argument(
        "--rddata",
        type=Path,
        metavar="OUT.csv",
        help="also write the models' means as a curve in the form of RDdata/; takes the 24 Kodak "
        "images and models of one family and metric whose names differ in a last number",
    )
    out.add_argument(
        "--report",
        type=Path,
        metavar="OUT.html",
        help="also write one page with charts, tables and a viewer that compares each image with "
        "its original and with classic codecs at equal bytes (--codecs, or else jpeg, webp and "
        "avif); about 1 MB for each photograph of 768x512",
    )
    networks = parser.add_argument_group("instead: the networks' size and speed")
    networks.add_argument(
        "--complexity",
        action="store_true",
        help="parameters and multiply-accumulates per pixel of each part; measures no image",
    )
    networks.add_argument(
        "--families",
        nargs="+",
        choices=("gmm", "gllmm"),
        default=["gmm", "gllmm"],
        help="(default: both)",
    )
    networks.add_argument(
        "--filters",
        nargs="+",
        type=_positive,
        default=[64, 128, 192],
        metavar="N",
        help="(default: 64 128 192)",
    )
    networks.add_argument(
        "--latents",
        type=_positive,
        metavar="M",
        help="channels of y, for all of them (default: N, as in the papers)",
    )
    networks.add_argument(
        "--size",
        type=_size,
        metavar="WIDTHxHEIGHT",
        help="also measure seconds for an image of this size, multiples of 64, such as 768x512",
    )
    return parser


def _bits_parser():
    """Options of ``evaluate.py bits``."""
    parser = options.parser_for(
        "What is in a file: header, bytes by part, bits by channel, estimated and real bits."
    )
    parser.prog += " bits"
    parser.add_argument("file", type=Path, help="a .glic file, or an image that is coded first")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="folder in models/, or path of one (default: the one that a .glic file names; "
        f"{options.DEFAULT_MODEL} for images)",
    )
    options.add_model_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything as JSON")
    parser.add_argument(
        "--map", type=Path, metavar="FILE.png", help="also draw the bits per latent position"
    )
    return parser


def bits_command(arguments):
    """``evaluate.py bits``; returns the exit code."""
    args = _bits_parser().parse_args(arguments)
    if args.map:
        preflight.check_evaluation(["matplotlib"])
    from codec import Codec
    from coding import bitstream, models
    from evaluation import bits as evaluation_bits
    from evaluation import tables as evaluation_tables
    from pictures import images

    codec = options.checkpoint_codec(args)
    if codec and args.model:
        raise UsageError("--model or --checkpoint expected, got both.")
    if args.file.suffix.lower() == bitstream.EXTENSION:
        data = args.file.read_bytes()
        fingerprint = bitstream.unpack(data).fingerprint
        codec = codec or Codec.load(args.model or models.find(fingerprint))
    else:
        pixels, _ = images.read_image(args.file)
        codec = codec or Codec.load(args.model or options.DEFAULT_MODEL)
        data = codec.compress(pixels)
    facts = evaluation_bits.account(codec, data)
    print("\n".join(evaluation_bits.describe(facts)))
    if args.json:
        evaluation_tables.write_json(facts, args.json)
    if args.map:
        evaluation_bits.draw_map(facts, args.map)
    return 0


def complexity_command(args):
    """``evaluate.py --complexity``; returns the exit code."""
    from evaluation import complexity as evaluation_complexity
    from evaluation import tables as evaluation_tables
    from evaluation import workers as evaluation_run

    rows = evaluation_complexity.table(args.families, args.filters, args.size, args.latents)
    print("\n".join(evaluation_complexity.describe(rows, args.size)))
    if args.size:
        print(f"\nMeasured on {evaluation_run.device()}, float32, best of three runs.")
    args.output.mkdir(parents=True, exist_ok=True)
    for row in rows:
        row["device"] = evaluation_run.device() if args.size else None
    evaluation_tables.write_csv(rows, list(rows[0]), args.output / "complexity.csv")
    evaluation_tables.write_json({"rows": rows, "size": args.size}, args.output / "complexity.json")
    return 0


def main():
    """Returns the exit code: 0, or 1 where an image failed."""
    if sys.argv[1:2] == ["bits"]:
        return bits_command(sys.argv[2:])
    args = _parser().parse_args()
    if args.complexity:
        return complexity_command(args)
    preflight.check_evaluation()
    from evaluation import session as evaluation_session

    return evaluation_session.run(args)


if __name__ == "__main__":
    cli_errors.run(main)
