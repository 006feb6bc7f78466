"""Training images from large JPEG photographs: ``train.py --data PHOTOS --prepare OUT``.

A network that trains on JPEG files learns to code JPEG's blocks. Scaled down by two or more, what
is left of them is small. Flat pictures (drawings, screenshots, scans) teach little, and pictures
of a series are counted several times; both are left out. Grey photographs count as flat for their
at most 256 colours. Every picture left out is named.
"""

from __future__ import annotations

import collections
import io
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cli.outputs import atomic_write
from errors import GlicError
from pictures import images
from training import photographs as training_data

FACTOR = 2  # of the reduction, at least
LONGEST_SIDE = 2048  # pixels: of the result; larger photographs are reduced further
LEAST_SIDE = 256  # pixels: of the result
# Share of pixels equal to their right neighbour: over 46 photographs scaled down like this the
# median was 0.10 and the largest 0.44, the fewest colours 11,000; drawings have 0.9 and more.
MOST_EQUAL_NEIGHBOURS = 0.7
LEAST_COLOURS = 1000
HASH_SIDE = 8  # the difference hash has 64 bits
MOST_DIFFERENT_BITS = 5  # of two hashes that count as the same picture
WRITTEN = "written"


def reduced(pixels):
    """uint8 (H, W, 3), scaled down by ``FACTOR`` or more with Lanczos."""
    height, width = pixels.shape[:2]
    factor = max(FACTOR, max(height, width) / LONGEST_SIDE)
    size = (max(1, int(width / factor)), max(1, int(height / factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def is_flat(pixels):
    """Whether uint8 (H, W, 3) has the equal neighbours or the few colours of a drawing."""
    equal = np.all(pixels[:, 1:] == pixels[:, :-1], axis=-1).mean()
    wide = pixels.astype(np.uint32)
    colours = np.unique(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])
    return bool(equal > MOST_EQUAL_NEIGHBOURS or len(colours) < LEAST_COLOURS)


def difference_hash(pixels):
    """64 bits as bool (64,): is each pixel of a 9x8 thumbnail darker than its right neighbour."""
    grey = Image.fromarray(pixels).convert("L")
    small = np.asarray(grey.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX))
    return (small[:, :-1] < small[:, 1:]).ravel()


class Prepared:
    """Decides on one photograph after the other, and writes those that are kept.

    Attributes:
      counts: collections.Counter of ``WRITTEN`` and the reasons for leaving out.
    """

    def __init__(self, out, report):
        self._out, self._report = Path(out), report
        self._hashes = np.zeros((0, HASH_SIDE**2), bool)
        self.counts = collections.Counter()

    def add(self, path, name):
        """Reads the photograph at ``path``; writes it under ``name`` or says why not."""
        try:
            pixels = reduced(training_data.read_rgb(path))
        except images.ImageError as error:
            self._leave_out(path, "unreadable", str(error))
            return
        size = f"{pixels.shape[1]}x{pixels.shape[0]}"
        if min(pixels.shape[:2]) < LEAST_SIDE:
            self._leave_out(path, "too small", f"{size} pixels after the reduction")
        elif is_flat(pixels):
            self._leave_out(path, "no photograph", "flat areas or few colours")
        elif self._is_known(pixels):
            self._leave_out(path, "near duplicate", "like one before it")
        else:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format="WEBP", lossless=True)
            atomic_write(self._out / name, buffer.getvalue())
            self.counts[WRITTEN] += 1

    def _is_known(self, pixels):
        bits = difference_hash(pixels)
        known = np.any(np.sum(self._hashes != bits, axis=1) <= MOST_DIFFERENT_BITS)
        if not known:
            self._hashes = np.vstack([self._hashes, bits])
        return bool(known)

    def _leave_out(self, path, reason, detail):
        self.counts[reason] += 1
        self._report(f"Left out, {reason}: {path} ({detail})")


def prepare(folder, out, report=print):
    """Makes the folder ``out`` of training images, numbered in the order of the paths.

    Args:
      folder: photographs, subfolders included.
      out: folder to make; it must be new or empty.
      report: called with each line for the screen.

    Returns:
      collections.Counter of what was written and of the reasons for leaving out.

    Raises:
      GlicError: no photographs, an ``out`` that holds something, or nothing left to write.
      OSError: ``out`` cannot be written.
    """
    paths, out = training_data.find_images(folder), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise GlicError(f"{out} exists and is not an empty folder; give --prepare a new one.")
    out.mkdir(parents=True, exist_ok=True)
    prepared = Prepared(out, report)
    for number, path in enumerate(tqdm(paths, disable=None, unit="image")):
        prepared.add(path, f"{number:06d}-{path.stem}.webp")
    counts = prepared.counts
    report(f"{len(paths)} images: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()) + ".")
    if not counts[WRITTEN]:
        raise GlicError(
            f"None of the {len(paths)} images is a photograph of {FACTOR * LEAST_SIDE} pixels or "
            "more on each side; give larger ones."
        )
    return counts
