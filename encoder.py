"""Compresses images: python encoder.py [FILES OR FOLDERS] [--model NAME] [-o images/]
                   python encoder.py [FILES OR FOLDERS] --target-bpp 0.3

Writes one .glic file per image and prints a line for each: size in bits per pixel from the real
file, PSNR and MS-SSIM of what the decoder will restore, and seconds. The last line is the mean.
"""

from cli import errors as cli_errors  # isort: skip  (first: it says what is missing)
from cli import encoding, options, target_options  # isort: skip
from rates import DEFAULT_QUALITY


def parse_arguments(words=None):
    """The options of a command line's words, by default this process's."""
    parser = options.parser_for(__doc__)
    options.add_file_options(parser, options.ROOT / "valid", "images", ".glic")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="folder in models/, or path of one; with a target to choose by, it may be given "
        f"several times (default: {options.DEFAULT_MODEL}, with a target all that were trained for "
        "MSE)",
    )
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--quality",
        type=options.quality,
        metavar="0..100",
        help="of a model of many rates: 0 makes the smallest files, 100 the best, log-linear over "
        f"the lambdas that it serves (default: {DEFAULT_QUALITY})",
    )
    rate.add_argument(
        "--lmbda",
        type=options.positive,
        metavar="X",
        help="the same as the weight of the distortion in training; with a model of one rate or a "
        "checkpoint, that in the search of --effort (default there: the model's own; needed with "
        "--checkpoint)",
    )
    parser.add_argument(
        "--no-metrics",
        action="store_true",
        help="do not measure PSNR and MS-SSIM, which costs a pass of the synthesis network",
    )
    parser.add_argument(
        "--effort",
        type=int,
        choices=range(10),
        default=0,
        metavar="0..9",
        help="search for better latents of each image by gradient descent: smaller or better "
        "files, decoded as fast as ever, for much more encoding time; 3 takes 20 iterations, "
        "9 takes 240 (default: 0, none)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="before a file gets its name, decode it to its latents, compare, and read it back "
        "from the disk; takes as long as decoding without the synthesis network",
    )
    options.add_limits(parser)
    options.add_workers(parser)
    options.add_backend(parser, unless=", tensorflow with --effort")
    target_options.add_options(parser)
    options.add_model_options(parser)
    return parser.parse_args(words)


def main():
    """Returns the exit code: 0, or 1 where an image failed."""
    return encoding.run(parse_arguments())


if __name__ == "__main__":
    cli_errors.run_script(main)
