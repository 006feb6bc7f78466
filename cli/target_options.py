"""encoder.py --target-bpp, --target-bytes and --target-psnr."""

from cli import options
from errors import UsageError
from search import targets

KINDS = ("bpp", "bytes", "psnr")
NAMES = "--target-bpp, --target-bytes or --target-psnr"


def add_options(parser):
    """Adds the options of a target."""
    group = parser.add_argument_group(
        "a target for each image",
        "A model of many rates codes each image at the rate that meets the target: within\n"
        "1 %% of the limit, or 0.02 dB above the least PSNR, in at most 10 evaluations.\n"
        "With several models the best file of all is taken: by default of those in models/\n"
        "that were trained for MSE, else of those that --model names; each image's line\n"
        "states the choice. Of models of one rate not all are tried on most images: those\n"
        "of the lambdas that a bisection visits, and of the neighbours of the best. Every\n"
        "file meets the target; an image for which none does is refused with the nearest\n"
        "value there is. With --effort the refined files are what is compared, which takes\n"
        "its time for each model, up to three times for one of many rates.",
    )
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--target-bpp",
        type=options.positive,
        metavar="X",
        help="the file of the best quality that has at most X bits per pixel, by its whole size",
    )
    either.add_argument(
        "--target-bytes",
        type=options.count,
        metavar="N",
        help="the file of the best quality that has at most N bytes",
    )
    either.add_argument(
        "--target-psnr",
        type=options.positive,
        metavar="X",
        help="the smallest file whose decoded 8-bit pixels have a PSNR of at least X dB",
    )


def of_options(args):
    """The ``targets.Target`` that an encoder's options name, or None.

    Raises:
      UsageError: for other options that contradict it.
    """
    given = {kind: getattr(args, f"target_{kind}") for kind in KINDS}
    kind = next((kind for kind, value in given.items() if value is not None), None)
    if kind is None:
        return None
    name = f"--target-{kind}"
    checkpoint = (args.checkpoint, args.family, args.num_filters, args.num_latents)
    if any(v is not None for v in checkpoint):
        raise UsageError(
            f"{name} chooses among model folders: leave out --checkpoint, --family, "
            "--num-filters and --num-latents, or the target."
        )
    for rate in ("quality", "lmbda"):
        if getattr(args, rate) is not None:
            raise UsageError(f"{name} finds the rate itself: leave out --{rate}, or the target.")
    if kind == "psnr" and args.no_metrics:
        raise UsageError(
            f"{name} measures the PSNR of every file: leave out --no-metrics, or the target."
        )
    return targets.Target(kind, given[kind])
