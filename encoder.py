"""Compresses images: python encoder.py [FILES OR FOLDERS] [--model NAME] [-o images/]
                   python encoder.py [FILES OR FOLDERS] --target-bpp 0.3

Writes one .glic file per image and prints a line for each: size in bits per pixel from the real
file, PSNR and MS-SSIM of what the decoder will restore, and seconds. The last line is the mean.
"""

from errors import UsageError

from cli import jobs, options, outputs  # isort: skip  (first: it says what is missing)

import collections
import functools

import tqdm

from cli import errors as cli_errors
from search import targets

# A coded image: the ``Codec``, its ``Latents``, the file's bytes, notes for the report line, and
# the decoded pixels where they are known.
Coded = collections.namedtuple("Coded", "codec latents data notes restored")


def parse_arguments():
    """The command line's options."""
    parser = options.parser_for(__doc__)
    options.add_file_options(parser, options.ROOT / "valid", "images")
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="folder in models/, or path of one; models differ in rate and quality; with a target "
        f"to choose by, it may be given several times (default: {options.DEFAULT_MODEL}, with "
        "a target all that were trained for MSE)",
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
        help="search for better latents of each image by gradient descent: smaller files of better "
        "quality, decoded as fast as ever, for much more encoding time; 3 takes 20 iterations, "
        "9 takes 240 (default: 0, none)",
    )
    parser.add_argument(
        "--lmbda",
        type=float,
        metavar="X",
        help="weight of the distortion in that search (default: the model's own; needed with "
        "--checkpoint)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="before a file gets its name, decode it to its latents, compare, and read it back "
        "from the disk; takes as long as decoding without the synthesis network",
    )
    options.add_memory_option(parser)
    targets.add_options(parser)
    options.add_model_options(parser)
    return parser.parse_args()


def load_codec(args):
    """The codec that the options name."""
    from codec import Codec

    budget = options.memory_budget(args)
    codec = options.checkpoint_codec(args, memory_budget=budget)
    if codec and args.model:
        raise UsageError("--model or --checkpoint expected, got both.")
    if args.model and len(args.model) > 1:
        raise UsageError(
            "One --model expected where there is no --target-bpp or --target-psnr to choose by, "
            f"got {', '.join(args.model)}."
        )
    name = args.model[0] if args.model else options.DEFAULT_MODEL
    return codec or Codec.load(name, memory_budget=budget)


def make_chooser(target, args):
    """The ``targets.Chooser`` that codes images."""
    from codec import Codec

    budget = options.memory_budget(args)
    chosen_from = targets.candidates(args.model)

    def load(candidate):
        left = targets.memory_left(budget, chosen_from, candidate)
        codec = Codec.load(candidate.folder, memory_budget=left)
        return functools.partial(code_image, codec, make_refiner(codec, args), args.effort)

    return targets.Chooser(target, chosen_from, load)


def make_coder(args):
    """What codes images, a function of (path, pixels) that returns ``Coded``, and its title."""
    target = targets.of_options(args)
    if target:
        chooser = make_chooser(target, args)
        return chooser, str(chooser)
    codec = load_codec(args)
    coder = functools.partial(code_image, codec, make_refiner(codec, args), args.effort)
    return coder, f"{codec.model.name}: {codec.architecture}"


def make_refiner(codec, args):
    """The ``Refiner`` for --effort, or None without it."""
    if not args.effort:
        if args.lmbda is not None:
            raise UsageError("--lmbda belongs to --effort: give both, or neither.")
        return None
    from search import refine

    config = codec.model.config
    lmbda = config.get("lmbda") if args.lmbda is None else args.lmbda
    if lmbda is None:
        raise UsageError(
            "--effort needs the lambda that the checkpoint was trained with: add --lmbda."
        )
    return refine.Refiner(codec, lmbda, config.get("metric", "mse"))


def refine_latents(refiner, level, path, pixels):
    """``refine.Refined`` of an image, with a progress bar on a terminal."""
    from search import refine

    with tqdm.tqdm(
        total=refine.ITERATIONS[level], desc=path.name, leave=False, disable=None
    ) as bar:

        def progress(loss):
            bar.set_postfix_str(f"loss {loss:.4f}")
            bar.update()

        return refiner.compress(pixels, level, progress)


def code_image(codec, refiner, level, path, pixels):
    """Compresses pixels with one model.

    Args:
      codec: ``codec.Codec``.
      refiner: ``refine.Refiner`` of it, or None.
      level: of the refinement, 1 to 9.
      path: of the image, for a progress bar.
      pixels: uint8 (H, W, 3), or grey (H, W).

    Returns:
      ``Coded``.

    Raises:
      refine.SearchInterrupted: on Ctrl-C, with the best so far as ``Coded``.
    """
    if not refiner:
        latents = codec.analyse(pixels)
        return Coded(codec, latents, codec.encode(latents), (), None)
    from search.refine import SearchInterrupted

    def coded(refined):
        note = f"effort {level}: rate + lambda * distortion {-refined.gain:+.1%}"
        return Coded(codec, refined.latents, refined.data, (note,), None)

    try:
        return coded(refine_latents(refiner, level, path, pixels))
    except SearchInterrupted as stop:
        raise SearchInterrupted(coded(stop.result)) from None


def encode_file(code, path, output, with_metrics, *, verify=False, overwrite=True):
    """Compresses one image.

    Where Ctrl-C ended a refinement, the best file so far is written before KeyboardInterrupt is
    raised. With ``verify`` the file is decoded first, see verify.py. Without ``overwrite`` an
    ``output`` that exists is kept and outputs.OutputExists raised.

    Args:
      code: from ``make_coder``.
      path, output: of the image and the ``.glic`` file.
      with_metrics: whether to measure the quality.
      verify, overwrite: see above.

    Returns:
      Dict of ``height``, ``width``, ``bpp``, ``model`` (its name), ``notes`` (what was
      changed in reading, what --effort gained), and with metrics ``psnr`` (dB) and ``ms_ssim``
      (None for images with a side under 161 pixels).
    """
    from pictures import images, metrics
    from search.refine import SearchInterrupted

    pixels, notes = images.read_image(path)
    height, width = pixels.shape[:2]
    stopped = None
    try:
        codec, latents, data, more_notes, restored = code(path, pixels)
    except SearchInterrupted as stop:
        stopped = stop
        codec, latents, data, more_notes, restored = stop.result
    if verify:
        from cli.verify import write

        write(codec, data, latents, output, overwrite)
    else:
        outputs.publish(lambda p: images.atomic_write(p, data), output, overwrite)
    if stopped:
        raise stopped
    result = {
        "height": height,
        "width": width,
        "bpp": 8 * len(data) / (height * width),
        "model": codec.model.name,
        "notes": (*notes, *more_notes),
    }
    if with_metrics:
        if restored is None:
            restored = codec.synthesise(latents)
        result["psnr"] = metrics.psnr(pixels, restored)
        result["ms_ssim"] = metrics.ms_ssim(pixels, restored)
    return result


def format_quality(psnr, ms_ssim):
    """The columns for PSNR and MS-SSIM."""
    from pictures.metrics import to_db

    if ms_ssim is None:
        return f"  PSNR {psnr:6.3f} dB  MS-SSIM - (a side under 161)"
    return f"  PSNR {psnr:6.3f} dB  MS-SSIM {ms_ssim:.5f} ({to_db(ms_ssim):6.3f} dB)"


def format_line(path, result, seconds, with_model=False):
    """The report line of one image; ``with_model`` where models were chosen from."""
    size = f"{result['width']}x{result['height']}"
    line = f"{path.name:24s} {size:>10s}  {result['bpp']:7.4f} bpp"
    if "psnr" in result:
        line += format_quality(result["psnr"], result["ms_ssim"])
    line += f"  {seconds:6.2f} s"
    if with_model:
        line += f"  {result['model']}"
    return line + "".join(f"  [{note}]" for note in result["notes"])


def format_mean(results):
    """The last line: plain means over the images (MS-SSIM over those that have it)."""

    def mean(values):
        return sum(values) / len(values)

    line = f"{'mean':24s} {len(results):>4d} files  {mean([r['bpp'] for r in results]):7.4f} bpp"
    if "psnr" in results[0]:
        ms_ssims = [r["ms_ssim"] for r in results if r["ms_ssim"] is not None]
        line += format_quality(
            mean([r["psnr"] for r in results]), mean(ms_ssims) if ms_ssims else None
        )
    return line


def main():
    """Returns the exit code: 0, or 1 where an image failed."""
    args = parse_arguments()
    from coding import bitstream
    from pictures.images import IMAGE_SUFFIXES

    todo = jobs.prepare(args, IMAGE_SUFFIXES, bitstream.EXTENSION)
    if not todo:
        return 0
    coder, title = make_coder(args)
    print(f"{title}, to {args.output}/")
    with_model = args.target_bpp is not None or args.target_psnr is not None
    results, failures = jobs.process(
        todo,
        lambda path, output: encode_file(
            coder,
            path,
            output,
            not args.no_metrics,
            verify=args.verify,
            overwrite=args.overwrite,
        ),
        functools.partial(format_line, with_model=with_model),
        args.skip_existing,
    )
    if results:
        print(format_mean(results))
    return 1 if failures else 0


if __name__ == "__main__":
    cli_errors.run(main)
