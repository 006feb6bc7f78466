"""What a target costs and how near it is met: python -m benchmarks.targets --model NAME [IMAGES]

Of a model of many rates, on each image and for each target: evaluations of a step (search/steps.py)
and seconds, beside those of one plain encoding, and how far from the limit or the PSNR the file
ends. A target is what the model reaches on that image at one of three qualities, less or more by
some tenths of a percent or dB, so that no search begins at its end. --effort N adds a search for
better latents. --beyond prints instead what steps beyond the model's range cost: bits against
AVIF's at equal PSNR, at the ends of the range and at what a target may take.
"""

import statistics
import time
from pathlib import Path

import numpy as np

import preflight
from cli import errors as cli_errors
from cli import options
from cli.coder import Coder
from cli.inputs import collect
from codec import Codec
from errors import UsageError
from pictures import images, metrics
from rates import K_ONE
from search import refine, steps
from search.targets import Target

QUALITIES = (20, 50, 80)
RATE_SHIFT, PSNR_SHIFT = 0.993, 0.137  # of the targets from what a quality gives: odd ones
AVIF_SETTINGS = (0, 1, 2, 4, 8, 14, 22, 32, 45, 60, 75, 90)


def timed(work, *arguments):
    """The result and the seconds of a call."""
    start = time.perf_counter()
    result = work(*arguments)
    return result, time.perf_counter() - start


def measure(coder, name, pixels, quality):
    """Rows of both kinds of target from what an image has at a quality."""
    codec = coder.codec
    k = codec.k_of(quality)
    plain, plain_seconds = timed(Coder(codec, k), name, pixels)
    psnr = metrics.psnr(pixels, plain.with_restored().restored)
    goals = (
        Target("bytes", round(RATE_SHIFT * len(plain.data))),
        Target("psnr", psnr + PSNR_SHIFT),
    )
    rows = []
    for target in goals:
        (coded, values), seconds = timed(steps.fit_image, target, coder, name, pixels)
        if coded is None:
            continue
        if target.is_rate:
            off = 100 * (1 - len(coded.data) / target.value)
        else:
            off = metrics.psnr(pixels, coded.with_restored().restored) - target.value
        rows.append((target.kind, len(values), seconds, plain_seconds, off))
    return rows


def describe(rows, level):
    """Lines of a Markdown table."""
    effort = f", `--effort {level}`" if level else ""
    lines = [
        "| target | images | evaluations, mean (most) | seconds | times a plain encoding "
        "| below the limit, mean (most) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, unit in (("bytes", "%"), ("psnr", "dB")):
        own = [row for row in rows if row[0] == kind]
        if not own:
            continue
        counts, seconds, plain, off = ([row[i] for row in own] for i in range(1, 5))
        ratio = statistics.mean(a / b for a, b in zip(seconds, plain))
        lines.append(
            f"| `--target-{kind}`{effort} | {len(own)} | {statistics.mean(counts):.1f} "
            f"({max(counts)}) | {statistics.mean(seconds):.2f} | {ratio:.1f} "
            f"| {statistics.mean(off):.3f} {unit} ({max(off):.3f}) |"
        )
    return lines


def beyond(codec, paths):
    """Lines of a Markdown table: bits against AVIF's at equal PSNR, geometric means."""
    from evaluation import classics, curves

    rates = codec.rates
    ends = (rates.low / steps.BEYOND, rates.low, rates.high, rates.high * steps.BEYOND)
    found = {lmbda: [] for lmbda in ends}
    for path in paths:
        pixels = images.read_image(path).pixels
        area = pixels.shape[0] * pixels.shape[1]
        points = []
        for setting in AVIF_SETTINGS:
            data = classics.encode("avif", pixels, setting)
            restored = classics.decode("avif", data, pixels.ndim == 2)
            points.append((8 * len(data) / area, metrics.psnr(pixels, restored), None))
        avif = curves.make_curve("avif", "AVIF", "classic", sorted(set(points)))
        for lmbda in ends:
            coded = Coder(codec, rates.k_of(lmbda))(path, pixels)
            psnr = metrics.psnr(pixels, coded.with_restored().restored)
            point = (8 * len(coded.data) / area, psnr, None)
            own = curves.make_curve("own", "ours", "model", [point])
            try:
                more = curves.rate_at_equal_quality(avif, own, "psnr")
                found[lmbda].append((path, *point[:2], np.log1p(more / 100)))
            except curves.CurveError:  # below or above AVIF's
                continue
    shared = set.intersection(*({entry[0] for entry in own} for own in found.values()))
    lines = [
        f"Images whose PSNRs AVIF reaches at all four: {len(shared)}",
        "| lambda | D | bpp | PSNR | bits against AVIF at equal PSNR |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for lmbda, own in found.items():
        kept = np.array([entry[1:] for entry in own if entry[0] in shared])
        if len(kept):
            bpp, psnr, more = kept.mean(axis=0)
            step = rates.k_of(lmbda) / K_ONE
            lines.append(
                f"| {lmbda:g} | {step:.3f} | {bpp:.4f} | {psnr:.2f} | {np.expm1(more):+.1%} |"
            )
    return lines


def main():
    """Measures and prints the table."""
    parser = options.parser_for(__doc__)
    parser.add_argument("images", type=Path, nargs="*", default=[options.ROOT / "valid"])
    parser.add_argument("--model", required=True, help="of many rates")
    parser.add_argument("--effort", type=int, choices=range(10), default=0)
    parser.add_argument("--beyond", action="store_true")
    args = parser.parse_args()
    codec = Codec.load(args.model, backend="tensorflow" if args.effort else None)
    if codec.rates is None:
        raise UsageError(f"A model of many rates expected, but {args.model} has one.")
    paths = collect(args.images, images.IMAGE_SUFFIXES)
    if args.beyond:
        preflight.check_evaluation()
        print("\n".join(beyond(codec, paths)))
        return
    refiner = None
    if args.effort:
        refiner = refine.Refiner(codec, metric=codec.model.config.get("metric", "mse"))
    coder, rows = Coder(codec, refiner=refiner, level=args.effort), []
    for path in paths:
        pixels = images.read_image(path).pixels
        Coder(codec)(path, pixels).with_restored()  # TensorFlow's set-up for a size is no search
        for quality in QUALITIES:
            rows += measure(coder, path, pixels, quality)
    print("\n".join(describe(rows, args.effort)))


if __name__ == "__main__":
    cli_errors.run(main)
