"""encoder.py --target-bpp and --target-psnr."""

from cli import options
from errors import UsageError
from search import targets


def add_options(parser):
    """Adds --target-bpp and --target-psnr."""
    group = parser.add_argument_group(
        "a model for each image",
        "Chooses among the models in models/ that were trained for MSE, or among those\n"
        "that --model names, and states the choice in the image's line. Not all are tried\n"
        "on most images: those of the lambdas that a bisection visits, and of the\n"
        "neighbours of the best. Every file meets the target; an image for which none\n"
        "does is refused, after all were tried. With --effort the refined files are\n"
        "compared, which takes its time for each model tried.",
    )
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--target-bpp",
        type=options.positive,
        metavar="X",
        help="of the files tried that have at most X bits per pixel, by their whole size, the "
        "one of the best quality",
    )
    either.add_argument(
        "--target-psnr",
        type=options.positive,
        metavar="X",
        help="of the files tried whose decoded 8-bit pixels have a PSNR of at least X dB, the "
        "smallest",
    )


def of_options(args):
    """The ``targets.Target`` that an encoder's options name, or None.

    Raises:
      UsageError: for other options that contradict it.
    """
    kind = "psnr" if args.target_bpp is None else "bpp"
    value = args.target_psnr if args.target_bpp is None else args.target_bpp
    if value is None:
        return None
    name = f"--target-{kind}"
    checkpoint = (args.checkpoint, args.family, args.num_filters, args.num_latents)
    if any(v is not None for v in checkpoint):
        raise UsageError(
            f"{name} chooses among model folders: leave out --checkpoint, --family, "
            "--num-filters and --num-latents, or the target."
        )
    if args.lmbda is not None:
        raise UsageError(f"{name} takes each model's own lambda: leave out --lmbda, or the target.")
    if kind == "psnr" and args.no_metrics:
        raise UsageError(
            f"{name} measures the PSNR of every file: leave out --no-metrics, or the target."
        )
    return targets.Target(kind, value)
