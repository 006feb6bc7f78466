"""Measuring one codec on one image: size, quality, seconds and memory.

Learned and classic codecs go the same way: pixels to the bytes of a whole file, these bytes back to
pixels, and both sets of pixels to the metrics.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from typing import NamedTuple

from evaluation import classics
from pictures import images

WARM_UP_SIDE = 64


class Task(NamedTuple):
    """One measurement.

    path: of the image. kind: "model", "classic" or "matched". codec: the model's name, or the
    classic codec's. load: what ``loaded_codec`` takes. fingerprint: of the model, hexadecimal.
    setting: of a classic codec, or the lambda of a model of many rates. limit: in bytes, of a
    matched one. matched_to: the model, or its point (``points.label``), whose files set the limit.
    """

    path: str
    kind: str
    codec: str
    load: tuple = ()
    fingerprint: str = ""
    setting: float | None = None
    limit: int | None = None
    matched_to: str = ""

    @property
    def backend(self):
        """Of a model's networks; None for other codecs."""
        return self.load[1] if self.load else None


def reset_peak_memory():
    """Starts a new measurement of the peak; returns what the figure will stand for.

    Linux forgets a process's peak on request. Elsewhere the figure is the process's so far.
    """
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
        return "operation"
    except OSError:
        return "process"


def peak_memory():
    """Largest resident memory in MiB since the reset: interpreter, libraries and weights too.

    None where the system does not tell.
    """
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows has neither
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


@functools.lru_cache(maxsize=1)
def loaded_codec(load):
    """The codec of a model, with everything that is set up on first use set up.

    Args:
      load: ("name", backend, name or path), or ("checkpoint", backend, prefix, ``Architecture``).
    """
    import numpy as np

    from codec import Codec

    kind, backend, *arguments = load
    make = Codec.load if kind == "name" else Codec.from_checkpoint
    codec = make(*arguments, backend=backend)
    codec.decompress(codec.compress(np.zeros((WARM_UP_SIDE, WARM_UP_SIDE, 3), np.uint8)))
    return codec


@functools.lru_cache(maxsize=16)
def _warmed_up(load, shape):
    """Runs the networks on a new image size once: their set-up is not the codec's time."""
    import numpy as np

    codec = loaded_codec(load)
    codec.synthesise(codec.analyse(np.zeros(shape, np.uint8)))


def _measure_model(task, pixels):
    from coding import bitstream

    _warmed_up(task.load, pixels.shape)
    codec = loaded_codec(task.load)
    k = codec.k_of(lmbda=task.setting)
    clock = time.perf_counter
    scope = reset_peak_memory()
    start = clock()
    latents = codec.analyse(pixels, k)
    analysed = clock()
    data = codec.encode(latents)
    encoded = clock()
    encode_peak = peak_memory()
    reset_peak_memory()
    begin = clock()
    container = bitstream.unpack(data)
    latents = codec.decode(container)
    decoded = clock()
    restored = codec.synthesise(latents)
    end = clock()
    return (
        data,
        restored,
        {
            "encode_seconds": encoded - start,
            "encode_networks_seconds": analysed - start,
            "encode_entropy_seconds": encoded - analysed,
            "decode_seconds": end - begin,
            "decode_entropy_seconds": decoded - begin,
            "decode_networks_seconds": end - decoded,
            "encode_peak_mib": encode_peak,
            "decode_peak_mib": peak_memory(),
            "peak_scope": scope,
            "setting": task.setting,
            "lmbda": codec.model.config.get("lmbda") if k is None else task.setting,
            "family": codec.architecture.family,
            "filters": codec.architecture.num_filters,
            "latents": codec.architecture.num_latents,
            "backend": codec.backend,
            "suffix": bitstream.EXTENSION,
        },
    )


def _measure_classic(task, pixels):
    fits = True
    setting = task.setting
    if task.kind == "matched":
        _, setting, fits = classics.encode_within(task.codec, pixels, task.limit)
    start = time.perf_counter()
    data = classics.encode(task.codec, pixels, setting)
    encoded = time.perf_counter()
    restored = classics.decode(task.codec, data, pixels.ndim == 2)
    end = time.perf_counter()
    return (
        data,
        restored,
        {
            "encode_seconds": encoded - start,
            "decode_seconds": end - encoded,
            "setting": setting,
            "fits": fits,
            "library": classics.library_version(task.codec),
            "suffix": classics.find(task.codec).suffix,
        },
    )


def measure(task):
    """One measurement.

    Returns:
      ``row``: dict of everything that was measured; ``data``: the file's bytes.
    """
    from pictures import metrics

    pixels, notes = images.read_image(task.path)
    run = _measure_model if task.kind == "model" else _measure_classic
    data, restored, row = run(task, pixels)
    height, width = pixels.shape[:2]
    ms_ssim = metrics.ms_ssim(pixels, restored)
    row.update(
        width=width,
        height=height,
        mode="grey" if pixels.ndim == 2 else "RGB",
        notes="; ".join(notes),
        bytes=len(data),
        bpp=8 * len(data) / (height * width),
        psnr=metrics.psnr(pixels, restored),
        ms_ssim=ms_ssim,
        ms_ssim_db=None if ms_ssim is None else metrics.to_db(ms_ssim),
    )
    return row, data
