"""What encoder.py does: images to .glic files, with a line for each."""

from __future__ import annotations

import functools
import os
import shlex

import numpy as np

from cli import jobs, options, outputs, running, streams, target_options
from cli.coder import Coder
from coding.bitstream import EXTENSION, MAX_PIXELS
from errors import UsageError
from pictures import images
from rates import DEFAULT_QUALITY, Rates, chosen_k
from search import chooser
from search.interruption import SearchInterrupted

WARM_UP = (64, 64, 3)  # an image that has the networks built


def check(args):
    """Checks the options of encoder.py.

    Returns:
      The ``targets.Target`` of the options, or None.

    Raises:
      UsageError: for options that contradict each other.
      backends.BackendError: for a backend that is not installed.
    """
    options.memory_budget(args)
    options.backend(args)
    target = target_options.of_options(args)
    if target:
        return target
    checkpoint = options.checkpoint_architecture(args)
    if checkpoint and args.model:
        raise UsageError("--model or --checkpoint expected, got both.")
    if args.model and len(args.model) > 1:
        raise UsageError(
            f"One --model expected where there is no {target_options.NAMES} to choose by, got "
            f"{', '.join(args.model)}."
        )
    if args.quality is not None or args.lmbda is not None:
        _check_rate(args, checkpoint)
    if checkpoint and args.effort and args.lmbda is None:
        raise UsageError(
            "--effort needs the lambda that the checkpoint was trained with: add --lmbda."
        )
    return None


def _check_rate(args, checkpoint):
    """Raises GlicError for a --quality or --lmbda that the model has no use for."""
    name, rates = "The checkpoint", None
    if not checkpoint:
        from coding import models

        folder = models.folder_of(model_name(args))
        name, rates = f"Model {folder.name}", Rates.of(models.read_config(folder))
    if rates is not None:
        chosen_k(rates, folder.name, args.quality, args.lmbda)
    elif args.quality is not None:
        raise UsageError(f"{name} has one rate: leave --quality out, or take one of many.")
    elif not args.effort:
        raise UsageError(
            f"{name} has one rate, with which --lmbda belongs to --effort: give both, or neither."
        )


def model_name(args):
    """The one --model, or the default."""
    return args.model[0] if args.model else options.DEFAULT_MODEL


def run(args):
    """Encodes what the options of encoder.py name.

    Returns:
      The exit code: 0, or 1 where an image failed.

    Raises:
      GlicError: for options or models that cannot be used.
    """
    target = check(args)

    def why(suffix):
        known = suffix in images.KNOWN_SUFFIXES
        return images.why_unreadable(suffix) if known else "no images"

    todo, report, manifest = jobs.prepare(
        args, images.IMAGE_SUFFIXES, EXTENSION, why, kind="image", decided_by=decided_by(args)
    )
    means = Means()
    describe = functools.partial(format_line, with_model=target is not None)
    failures = running.run(args, todo, make_work, describe, report, manifest, means.add)
    if means.number:
        report.line(means.line())
    return 1 if failures else 0


# What decides over a file's bytes, besides the image and the machine.
_DECISIVE = ("quality", "lmbda", *(f"target_{kind}" for kind in target_options.KINDS), "effort")
_CHECKPOINT = ("checkpoint", "family", "num_filters", "num_latents")


def decided_by(args):
    """The options that decide over the files, as one text; models with their fingerprints."""
    texts = []
    if (args.manifest or args.scheduler) and not args.checkpoint:
        from coding import models

        if target_options.of_options(args):
            folders = [candidate.folder for candidate in chooser.candidates(args.model)]
        else:
            folders = [models.folder_of(model_name(args))]
        for folder in folders:
            fingerprint = str(models.read_config(folder).get("fingerprint", ""))
            texts.append(f"--model {folder.name} ({fingerprint[:8]})")
    for name in (*_CHECKPOINT, *_DECISIVE):
        if getattr(args, name) not in (None, 0):
            texts.append(f"--{name.replace('_', '-')} {getattr(args, name)}")
    return " ".join([*texts, f"--backend {options.backend(args)}"])


def make_work(args, report):
    """The function of (path, output) that encodes a file as the options say; starts the model."""
    target = target_options.of_options(args)
    return functools.partial(
        encode_file,
        make_chooser(target, args, report) if target else make_coder(args, report),
        with_metrics=not args.no_metrics,
        verify=args.verify,
        overwrite=args.overwrite,
        max_pixels=args.max_pixels,
        keep_times=args.keep_times,
    )


def make_coder(args, report):
    """What codes images with one model: a function of (path, pixels) that returns ``Coded``."""
    how = {"memory_budget": options.memory_budget(args), "backend": options.backend(args)}

    def load():
        from codec import Codec  # here, as importing it is part of starting

        codec = options.checkpoint_codec(args, **how)
        return codec or Codec.load(model_name(args), **how)

    coder = _start(load, args, report)
    if coder.k is not None:
        report.line(describe_rate(coder.codec.rates, args))
    return coder


def describe_rate(rates, args):
    """The line that states the quality and the lambda of a run with a model of many rates."""
    quality = DEFAULT_QUALITY if args.quality is None else args.quality
    lmbda = rates.lmbda_at(quality) if args.lmbda is None else args.lmbda
    return (
        f"quality {rates.quality_of(lmbda):.4g} of 100: lambda {lmbda:.4g} of {rates.low:g} to "
        f"{rates.high:g}"
    )


def make_chooser(target, args, report):
    """The ``chooser.Chooser`` that codes images."""
    from codec import Codec

    budget, backend = options.memory_budget(args), options.backend(args)
    chosen_from = chooser.candidates(args.model)

    def load(candidate):
        left = chooser.memory_left(budget, chosen_from, candidate)
        return _start(
            lambda: Codec.load(candidate.folder, memory_budget=left, backend=backend), args, report
        )

    made = chooser.Chooser(target, chosen_from, load)
    report.line(str(made))
    return made


def _start(load, args, report):
    """The ``Coder`` of the ``Codec`` that ``load()`` returns; its start is reported."""

    def warm_up(codec):
        latents = codec.analyse(np.zeros(WARM_UP, np.uint8))
        if not args.no_metrics:
            codec.synthesise(latents)

    codec = report.start(load, warm_up)
    note = how_to_find(codec, args)
    if note:
        report.line(note)
    k = None if codec.rates is None else codec.k_of(args.quality, args.lmbda)
    return Coder(codec, k, make_refiner(codec, args), args.effort, report.shows_bars)


def how_to_find(codec, args):
    """Where decoder.py finds a model that is not in models/; None where it is there."""
    from coding import models

    if args.checkpoint:
        latents = f" --num-latents {args.num_latents}" if args.num_latents else ""
        return (
            f"To decode, add to decoder.py: --checkpoint {shlex.quote(args.checkpoint)} --family "
            f"{args.family} --num-filters {args.num_filters}{latents}"
        )
    if models.search(codec.fingerprint):
        return None
    path = shlex.quote(os.path.abspath(codec.model.path))
    return (
        "decoder.py looks for models in models/ beside it, where this one is not: add --model "
        f"{path} there, or copy the folder"
    )


def make_refiner(codec, args):
    """The ``Refiner`` for --effort, or None without it."""
    if not args.effort:
        return None
    from search import refine

    config = codec.model.config
    lmbda = config.get("lmbda") if args.lmbda is None else args.lmbda
    if codec.rates is not None:
        lmbda = None  # each quantisation step has its own
    elif lmbda is None:
        raise UsageError(
            f"--effort needs the lambda that {codec.model.name} was trained with: add --lmbda."
        )
    return refine.Refiner(codec, lmbda, config.get("metric", "mse"))


def encode_file(
    code,
    path,
    output,
    with_metrics=True,
    *,
    verify=False,
    overwrite=True,
    max_pixels=MAX_PIXELS,
    keep_times=False,
):
    """Compresses one image.

    Where Ctrl-C ended a refinement, the best file so far is written before KeyboardInterrupt is
    raised.

    Args:
      code: a function of (path, pixels) that returns ``Coded``.
      path, output: of the image and the ``.glic`` file; ``streams.STREAM`` is standard input and
        output.
      with_metrics: whether to measure the quality.
      verify: whether the file is decoded to its latents first, and read back from the disk.
      overwrite: whether an ``output`` that exists is replaced.
      max_pixels: images of more are refused.
      keep_times: whether the file gets the image's times.

    Returns:
      Dict of ``height``, ``width``, ``bytes`` and ``sha256`` (hexadecimal) of the file, ``bpp``,
      ``model`` (its name, and of one of many rates the quality), ``notes`` (what was changed in
      reading, what --effort gained), and with metrics ``psnr`` (dB) and ``ms_ssim`` (None for
      images with a side under 161 pixels).

    Raises:
      GlicError, OSError, MemoryError: where one of these cannot be done; ``output`` is then what
        it was.
    """
    from pictures import metrics

    times = outputs.times_of(path) if keep_times else None
    pixels, notes = images.read_image(streams.opened(path), max_pixels, streams.name_of(path))
    height, width = pixels.shape[:2]
    stopped = None
    try:
        coded = code(path, pixels)
    except SearchInterrupted as stop:
        stopped, coded = stop, stop.result
    result = {
        "height": height,
        "width": width,
        "bytes": len(coded.data),
        "sha256": outputs.checksum(coded.data),
        "bpp": 8 * len(coded.data) / (height * width),
        "model": describe_model(coded),
        "notes": (*notes, *coded.notes),
    }
    if with_metrics and not stopped:  # before the file has its name: it may fail
        restored = coded.with_restored().restored
        result["psnr"] = metrics.psnr(pixels, restored)
        result["ms_ssim"] = metrics.ms_ssim(pixels, restored)
    if verify:
        from cli.verify import check_decodes

        check_decodes(coded.codec, coded.data, coded.latents)
    outputs.write(output, coded.data, overwrite=overwrite, times=times, read_back=verify)
    if stopped:
        raise stopped
    return result


def describe_model(coded):
    """The model that made a file, and where it serves many rates, the quality of this one."""
    name, k = coded.codec.model.name, coded.latents.k
    if k is None:
        return name
    rates = coded.codec.rates
    lmbda = rates.lmbda_of(k)
    if rates.k_of(rates.high) <= k <= rates.k_of(rates.low):
        return f"{name} at quality {rates.quality_of(lmbda):.1f}"
    return f"{name} at lambda {lmbda:.3g}, {'below' if lmbda < rates.low else 'above'} its range"


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


class Means:
    """Plain means over images (MS-SSIM over those that have it).

    Attributes:
      number: of images.
    """

    def __init__(self):
        self.number = 0
        self._sums = {}  # of each figure: (sum, how many)

    def add(self, result):
        """Counts what ``encode_file`` returned in."""
        self.number += 1
        for name in ("bpp", "psnr", "ms_ssim"):
            value = result.get(name)
            if value is not None:
                total, count = self._sums.get(name, (0, 0))
                self._sums[name] = total + value, count + 1

    def _mean(self, name):
        total, count = self._sums.get(name, (0, 0))
        return total / count if count else None

    def line(self):
        """The report's last line."""
        number = f"{self.number} file{'s' * (self.number != 1)}"
        line = f"{'mean':24s} {number:>10s}  {self._mean('bpp'):7.4f} bpp"
        if "psnr" in self._sums:
            line += format_quality(self._mean("psnr"), self._mean("ms_ssim"))
        return line
