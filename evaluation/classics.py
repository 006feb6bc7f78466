"""Classic codecs through Pillow, in memory: the yardsticks of evaluate.py.

Every codec has one integer setting, its quality (for JPEG 2000 the rate in hundredths of a bit
per pixel), and otherwise the options at which it is usually compared. All of them are as good as
their libraries make them at these options, which ``Classic.options`` holds.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import io
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from errors import GlicError


class CodecError(GlicError):
    """A classic codec that is unknown, or that this Pillow does not have."""


class Classic(NamedTuple):
    """One classic codec.

    label: for tables and plots.
    format: Pillow's name of the format.
    suffix: of its files.
    media_type: with which a browser shows the file, or None where browsers cannot.
    library: Pillow's feature that names the library's version, or the plugin's module.
    options: of ``Image.save``, for reproducing; the setting comes on top.
    lowest, highest: settings, from the smallest file to the largest.
    ladder: settings of a rate-distortion curve from about 0.1 to 2 bits per pixel.
    """

    label: str
    format: str
    suffix: str
    media_type: str | None
    library: str
    options: dict
    lowest: int
    highest: int
    ladder: tuple


CLASSICS = {
    "jpeg": Classic(
        "JPEG (4:2:0)",
        "JPEG",
        ".jpg",
        "image/jpeg",
        "libjpeg_turbo",
        {"optimize": True, "subsampling": "4:2:0"},
        1,
        95,
        (4, 8, 15, 25, 40, 60, 75, 88),
    ),
    "webp": Classic(
        "WebP",
        "WEBP",
        ".webp",
        "image/webp",
        "webp",
        {"method": 6},
        0,
        100,
        (0, 5, 15, 30, 50, 70, 85, 93),
    ),
    "jpeg2000": Classic(
        "JPEG 2000",
        "JPEG2000",
        ".jp2",
        None,
        "jpg_2000",
        {"irreversible": True, "mct": 1},
        2,
        800,
        (10, 15, 25, 40, 60, 90, 130, 180),
    ),
    "avif": Classic(
        "AVIF (4:4:4)",
        "AVIF",
        ".avif",
        "image/avif",
        "avif",
        {"speed": 6, "subsampling": "4:4:4", "advanced": {"tune": "psnr"}},
        0,
        100,
        (12, 20, 30, 40, 50, 60, 70, 80),
    ),
    "jxl": Classic(
        "JPEG XL",
        "JXL",
        ".jxl",
        None,
        "pillow_jxl",
        {"effort": 7, "lossless": False},
        1,
        99,
        (5, 12, 20, 30, 45, 60, 75, 87),
    ),
    "heic": Classic(
        "HEIC (4:4:4)",
        "HEIF",
        ".heic",
        None,
        "pillow_heif",
        {"chroma": 444},
        0,
        100,
        (8, 15, 22, 30, 38, 46, 55, 65),
    ),
}
REPORT_CODECS = ("jpeg", "webp", "avif")  # browsers show these files as they are
# Formats that Pillow learns from a plugin: module, and the function that registers it (none where
# the import does).
_PLUGINS = {"jxl": ("pillow_jxl", None), "heic": ("pillow_heif", "register_heif_opener")}
_PACKAGES = {"jxl": "pillow-jxl-plugin", "heic": "pillow-heif"}


@functools.cache
def _register(name):
    """Makes Pillow know a plugin's format (ImportError where it is not installed)."""
    module_name, register = _PLUGINS[name]
    module = importlib.import_module(module_name)
    if register:
        getattr(module, register)()


def find(name):
    """The ``Classic`` called ``name``, ready to use.

    Raises:
      CodecError: for an unknown name, or a codec that this Pillow lacks.
    """
    if name not in CLASSICS:
        raise CodecError(f"A codec among {', '.join(CLASSICS)} expected, got {name!r}.")
    codec = CLASSICS[name]
    try:
        if name in _PLUGINS:
            _register(name)
    except ImportError:
        raise CodecError(
            f"{codec.label} needs the package {_PACKAGES[name]}: install requirements-eval.txt."
        ) from None
    Image.init()
    if codec.format not in Image.SAVE:
        raise CodecError(
            f"This Pillow lacks {codec.label}: install the one that requirements-eval.txt names."
        )
    return codec


def library_version(name):
    """Name and version of the library behind a codec, for the records."""
    codec = find(name)
    if name in _PLUGINS:
        return f"{_PACKAGES[name]} {importlib.metadata.version(_PACKAGES[name])}"
    check = features.version_feature if codec.library == "libjpeg_turbo" else features.version
    return f"{codec.library} {check(codec.library)}"


def available():
    """Names of the codecs that work here."""
    names = []
    for name in CLASSICS:
        try:
            find(name)
        except CodecError:
            continue
        names.append(name)
    return names


def encode(name, pixels, setting):
    """The bytes of a classic codec's file.

    Args:
      name: key of ``CLASSICS``.
      pixels: uint8 (H, W, 3) or (H, W).
      setting: int, see ``Classic``.
    """
    codec = find(name)
    options = dict(codec.options)
    if name == "jpeg2000":
        samples = 1 if pixels.ndim == 2 else 3
        # Pillow's "rates" are factors by which the 8-bit samples shrink.
        options.update(quality_mode="rates", quality_layers=[8 * samples * 100 / setting])
        options["mct"] = options["mct"] if samples == 3 else 0
    else:
        options["quality"] = setting
    if pixels.ndim == 2:
        options.pop("subsampling", None)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, codec.format, **options)
    return buffer.getvalue()


def decode(name, data, grey):
    """uint8 (H, W, 3), or (H, W) where grey, from a file's bytes."""
    find(name)
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L" if grey else "RGB"))


def encode_within(name, pixels, size):
    """The best file of at most ``size`` bytes.

    Sizes rise with the setting but for small steps back; the search halves the interval and then
    tries the neighbours above.

    Returns:
      ``data``, ``setting``, ``fits``: ``fits`` is False where the smallest file is larger.
    """
    codec = find(name)
    low, high = codec.lowest, codec.highest
    best = encode(name, pixels, low)
    if len(best) > size:
        return best, low, False
    while high - low > 1:
        middle = (low + high) // 2
        data = encode(name, pixels, middle)
        if len(data) <= size:
            low, best = middle, data
        else:
            high = middle
    for setting in range(high, min(high + 2, codec.highest) + 1):
        data = encode(name, pixels, setting)
        if len(best) < len(data) <= size:
            low, best = setting, data
    return best, low, True
