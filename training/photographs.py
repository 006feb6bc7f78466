"""Training photographs: found, decoded, and cropped in the background so that nobody waits.

Images are drawn without replacement, epoch after epoch; every choice (order, place of the crop,
flips, which crops are synthetic) depends on the seed and the step alone, so that a resumed run sees
what it would have seen.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import queue
import threading
import time
from pathlib import Path

import numpy as np

from architecture import STRIDE
from errors import GlicError
from pictures import images
from training import synthetic

HELD_OUT = 16  # images kept for validation where no folder is given for it
VALID_CROP = 256  # pixels: side of the centre crops for validation
QUEUED_BATCHES = 8


def find_images(folder):
    """All files below ``folder`` with a suffix that Pillow reads, sorted by path.

    Links to folders and files are followed; what several paths lead to counts once.

    Raises:
      GlicError: the folder is missing or holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GlicError(f"{folder} is not a folder; give one with training images.")
    paths, seen, waiting = [], set(), [folder]
    while waiting:  # linked folders come last: a file keeps the path that needs no link
        for parent, folders, names in os.walk(waiting.pop(0)):
            known = os.path.realpath(parent) in seen
            seen.add(os.path.realpath(parent))
            inner = [] if known else sorted(Path(parent, n) for n in folders if n[0] != ".")
            waiting += [path for path in inner if path.is_symlink()]
            folders[:] = [path.name for path in inner if not path.is_symlink()]
            for path in (Path(parent, name) for name in names if not known and name[0] != "."):
                # A link to nothing is named when it is read; a pipe would be waited for.
                special = os.path.exists(path) and not os.path.isfile(path)
                if path.suffix.lower() in images.IMAGE_SUFFIXES and not special:
                    paths.append(path)
    unique = {}
    for path in sorted(paths, key=Path.is_symlink):
        unique.setdefault(os.path.realpath(path), path)
    if not unique:
        raise GlicError(f"{folder} and its subfolders hold no image; give a folder with images.")
    return sorted(unique.values())


def digest(*groups):
    """16 hexadecimal digits that stand for the names of the files in groups of paths."""
    names = json.dumps([[path.name for path in paths] for paths in groups])
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def hold_out(paths, count=HELD_OUT):
    """Splits off a validation set: the images whose names' hashes come first, at most one in eight.

    The choice depends on the file names only, not on the folder, the order or the seed.

    Returns:
      (training paths, validation paths).
    """
    count = min(count, len(paths) // 8)
    ranked = sorted(paths, key=lambda p: (hashlib.sha256(os.fsencode(p.name)).digest(), str(p)))
    held = set(ranked[:count])
    return [p for p in paths if p not in held], ranked[:count]


def read_rgb(path):
    """uint8 (H, W, 3); grey is repeated. Raises images.ImageError for what cannot be read."""
    pixels = images.read_image(path).pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def validation_crops(paths, least=1, report=print):
    """Centre crops of the images, uint8 (h, w, 3), sides multiples of 64, at most 256.

    Unreadable images are named and left out, as are crops with a side under ``least`` pixels.
    """
    crops = []
    for path in paths:
        try:
            pixels = read_rgb(path)
        except images.ImageError as error:
            report(f"Left out of validation: {error}")
            continue
        height, width = (min(s, VALID_CROP) // STRIDE * STRIDE for s in pixels.shape[:2])
        if min(height, width) >= least:
            top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
            crops.append(pixels[top : top + height, left : left + width])
    return crops


class Photographs:
    """Decoded training images: in memory while they fit, else decoded when they are needed.

    Attributes:
      paths: the usable images.
      too_small: number of images with a side under ``least``.
      unreadable: messages about images that could not be read.
      cached_bytes: size of what is held in memory.
    """

    def __init__(self, paths, least, cache_bytes, workers, report=print, drawn=0.0):
        """Decodes images until ``cache_bytes`` are full and only checks the sizes of the rest.

        Args:
          paths: of the images.
          least: their least side, the side of the largest crop.
          cache_bytes: how much to hold in memory.
          workers: decoding threads.
          report: called with a line about each image that cannot be read.
          drawn: share of the crops that are synthetic, in place of the photographs' turn.

        Raises:
          GlicError: no image is usable.
        """
        self._least, self._report, self._drawn = least, report, drawn
        self.too_small, self.unreadable, self.cached_bytes = 0, [], 0
        self.paths, self._pixels = [], []
        self._executor = concurrent.futures.ThreadPoolExecutor(workers)
        self._lock = threading.Lock()
        # In slices, so that no more than a few decoded images exceed the budget.
        for first in range(0, len(paths), 4 * workers):
            part = paths[first : first + 4 * workers]
            look = self._read_or_none if self.cached_bytes < cache_bytes else self._size_or_none
            for path, found in zip(part, self._executor.map(look, part)):
                self._admit(path, found, cache_bytes)
        if not self.paths:
            self.close()
            advice = "Give larger images or lower --patch."
            if not self.too_small and self.unreadable:
                advice = f"One of them: {self.unreadable[0]}"
            raise GlicError(
                f"No image of {least}x{least} pixels or more: {self.too_small} of {len(paths)} are "
                f"smaller, {len(self.unreadable)} unreadable. {advice}"
            )

    def __len__(self):
        return len(self.paths)

    @property
    def in_memory(self):
        """Number of images held in memory."""
        return sum(pixels is not None for pixels in self._pixels)

    def _read_or_none(self, path):
        try:
            return read_rgb(path)
        except images.ImageError as error:
            self._complain(str(error))
            return None

    def _size_or_none(self, path):
        try:
            return images.sides(path)
        except images.ImageError as error:
            self._complain(str(error))
            return None

    def _complain(self, message):
        with self._lock:
            known = message in self.unreadable
            if not known:
                self.unreadable.append(message)
        if not known:
            self._report(f"Skipped: {message}")

    def _admit(self, path, found, cache_bytes):
        if found is None:
            return
        is_array = isinstance(found, np.ndarray)
        if min(found.shape[:2] if is_array else found) < self._least:
            self.too_small += 1
            return
        keep = is_array and self.cached_bytes + found.nbytes <= cache_bytes
        self.cached_bytes += found.nbytes if keep else 0
        self.paths.append(path)
        self._pixels.append(found if keep else None)

    def _decoded(self, index):
        """Pixels of an image, or of the next one that can (still) be read."""
        for k in range(len(self.paths)):
            index_k = (index + k) % len(self.paths)
            if self._pixels[index_k] is not None:
                return self._pixels[index_k]
            pixels = self._read_or_none(self.paths[index_k])
            if pixels is not None and min(pixels.shape[:2]) >= self._least:
                return pixels
        raise GlicError("None of the training images can be read any more.")

    def _crop(self, index, patch, rng):
        pixels = self._decoded(index)
        place = rng.random(2)
        top, left = (int(p * (side - patch + 1)) for p, side in zip(place, pixels.shape[:2]))
        crop = pixels[top : top + patch, left : left + patch]
        flip_vertically, flip_horizontally = rng.integers(0, 2, 2)
        return crop[:: -1 if flip_vertically else 1, :: -1 if flip_horizontally else 1]

    def batch(self, size, patch, seed, step):
        """The batch of a step: uint8 (size, patch, patch, 3), the same for the same arguments."""

        def one(k):
            rng = np.random.default_rng((seed, 2, step, k))
            if rng.random() < self._drawn:
                return synthetic.crop(rng, patch)
            epoch, place = divmod(step * size + k, len(self))
            order = np.random.default_rng((seed, 0, epoch)).permutation(len(self))
            return self._crop(order[place], patch, np.random.default_rng((seed, 1, step, k)))

        if self.in_memory == len(self):
            return np.stack([one(k) for k in range(size)])
        return np.stack(list(self._executor.map(one, range(size))))

    def close(self):
        """Ends the decoding threads."""
        self._executor.shutdown(wait=False)


class Batches:
    """Batches from ``first_step`` on, made ahead of time by a background thread.

    Attributes:
      waited: seconds that ``next`` has spent waiting so far.
    """

    def __init__(self, photographs, size, patch, seed, first_step):
        self._queue = queue.Queue(QUEUED_BATCHES)
        self._stop = threading.Event()
        self.waited = 0.0
        arguments = (photographs, size, patch, seed, first_step)
        self._thread = threading.Thread(target=self._produce, args=arguments, daemon=True)
        self._thread.start()

    def _produce(self, photographs, size, patch, seed, step):
        while not self._stop.is_set():
            try:
                item = photographs.batch(size, patch, seed, step)
            except Exception as error:  # handed to the consumer, which raises it
                item = error
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, Exception):
                return
            step += 1

    def next(self):
        """The next step's batch; raises what went wrong in the background."""
        start = time.monotonic()
        item = self._queue.get()
        self.waited += time.monotonic() - start
        if isinstance(item, Exception):
            raise item
        return item

    def close(self):
        """Ends the background thread."""
        self._stop.set()
        self._thread.join()
