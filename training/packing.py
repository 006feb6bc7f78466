"""Photographs for a bundle: the files as they are, or as JPEG 2000 within a limit.

Where a bundle trains, Pillow may be 10.3 and alone: files that it cannot read become lossless WebP.
JPEG 2000 keeps colour at full resolution and has no blocks, which a network would learn to code.
"""

from __future__ import annotations

import concurrent.futures
import os
import shutil

from PIL import Image

from errors import GlicError
from pictures.containers import read_headers
from training.photographs import read_rgb

MEBIBYTE = 1 << 20
BEST_DB, LEAST_DB = 54, 38  # PSNR of JPEG 2000: beyond nothing is seen; below training suffers
NEWER = ("AVIF", "HEIC", "JPEG XL")  # kinds of files that Pillow 10.3 does not read by itself
WEBP_SIDE = 16383  # pixels, the most that WebP holds
SAMPLE = 16  # photographs that the quality is chosen by


def _name(number, path, suffix):
    return f"{number:06d}{suffix or path.suffix.lower()}"


def _copy(path, folder, number):
    """Copies a photograph, or stores its pixels; returns (bytes, whether its pixels are stored)."""
    with open(path, "rb") as file:
        converted = read_headers(file).kind in NEWER
    if converted:
        image = Image.fromarray(read_rgb(path))
        kind = "WEBP" if max(image.size) <= WEBP_SIDE else "PNG"
        target = folder / _name(number, path, f".{kind.lower()}")
        image.save(target, format=kind, **({"lossless": True} if kind == "WEBP" else {}))
    else:
        target = folder / _name(number, path, None)
        shutil.copyfile(path, target)
    return target.stat().st_size, converted


def _copy_all(paths, folder):
    """Copies all photographs; returns (bytes, what they are in words)."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(lambda pair: _copy(pair[1], folder, pair[0]), enumerate(paths)))
    converted = sum(is_converted for _, is_converted in made)
    more = f", {converted} of them as lossless WebP or PNG" if converted else ""
    return sum(size for size, _ in made), f"files as they are{more}"


def _encode(path, target, decibels):
    """Writes a photograph as JPEG 2000; returns its bytes."""
    Image.fromarray(read_rgb(path)).save(
        target,
        format="JPEG2000",
        quality_mode="dB",
        quality_layers=[decibels],
        irreversible=True,
    )
    return target.stat().st_size


def _encode_all(paths, folder, decibels):
    """Writes all photographs; returns their bytes."""
    targets = [folder / _name(k, path, ".jp2") for k, path in enumerate(paths)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(lambda pair: _encode(*pair, decibels), zip(paths, targets)))


def pack(paths, folder, limit=None, report=print):
    """Makes the folder of a bundle's photographs, numbered in the order of the paths.

    Args:
      paths: of the photographs.
      folder: to make.
      limit: MiB that they may take; None for the files as they are, but for those of ``NEWER``.
      report: called with a line about the quality.

    Returns:
      What they are in words.

    Raises:
      GlicError: the limit is too low for them.
    """
    folder.mkdir()
    size, budget = sum(path.stat().st_size for path in paths), (limit or 0) * MEBIBYTE
    if limit is None or size <= budget:
        size, text = _copy_all(paths, folder)
        if limit is None or size <= budget:
            return text
        for path in folder.iterdir():  # what is lossless now has become too large
            path.unlink()
    sample = paths[:: -(-len(paths) // SAMPLE)]
    # Bytes grow with the quality: the best one whose sample fits, then the first that does in all.
    low, high = LEAST_DB - 1, BEST_DB
    while low < high:
        middle = (low + high + 1) // 2
        fits = _encode_all(sample, folder, middle) * len(paths) <= budget * len(sample)
        low, high = (middle, high) if fits else (low, middle - 1)
    size = budget + 1
    for decibels in range(max(low, LEAST_DB), LEAST_DB - 1, -1):
        size = _encode_all(paths, folder, decibels)
        if size <= budget:
            text = f"JPEG 2000 at {decibels} dB"
            report(f"{len(paths)} photographs: {text}, {size / MEBIBYTE:.1f} MiB.")
            return text
    raise GlicError(
        f"{len(paths)} photographs take {size / MEBIBYTE:.1f} MiB as JPEG 2000 at {LEAST_DB} dB, "
        f"more than --photos-mib {limit}: give a larger limit, or fewer or smaller photographs."
    )
