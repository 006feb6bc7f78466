"""Reading and writing images for codecs that code 8-bit RGB or 8-bit grey.

Pictures come as 16-bit, transparent, palette, CMYK, rotated or in another colour space; the
networks know none of that. `read_image` brings anything that Pillow reads, and HEIC and JPEG XL
where their packages are installed, to a uint8 array (the conversions stand in samples.py and
colour.py) and says in `LoadedImage.notes` what it changed on the way, so that nothing happens
silently. Whatever is wrong with a file ends in an `ImageError` with one clear sentence.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Union

import numpy as np
from PIL import Image

from errors import GlicError
from pictures.containers import Headers, read_headers
from pictures.quiet import caught_warnings
from pictures.samples import UnsupportedSamples, to_8bit

PathLike = Union[str, "os.PathLike[str]"]

# Photographic raster formats. Vector, scientific and icon formats are still read when named,
# but a folder of images should not pick them up.
_RASTER_FORMATS = frozenset(
    ["AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "PSD"]
    + ["QOI", "SGI", "TGA", "TIFF", "WEBP"]
)
# Pillow reads MPO (several JPEGs in one file) through its JPEG reader and registers no other.
_READER = {"MPO": "JPEG"}


class _Plugin(NamedTuple):
    """A package that teaches Pillow another format; imported when the first such file turns up."""

    module: str
    package: str
    suffixes: tuple[str, ...]

    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


_PLUGINS = {
    "HEIC": _Plugin("pillow_heif", "pillow-heif", (".heic", ".heics", ".heif", ".heifs", ".hif")),
    "JPEG XL": _Plugin("pillow_jxl", "pillow-jxl-plugin", (".jxl",)),
}
_CAMERA_RAW = frozenset(
    [".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq"]
    + [".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"]
    + [".rwl", ".sr2", ".srf", ".srw", ".x3f"]
)
# In Pillow's own wheels, AVIF since 11.3; another build may lack them.
_IN_PILLOW = {
    **dict.fromkeys((".avif", ".avifs"), "install pillow>=11.3"),
    **dict.fromkeys((".webp", ".jp2", ".j2k", ".jpx"), "install a pillow that was built with it"),
}
_OTHER_SUFFIXES = frozenset(
    [".ai", ".bpg", ".cur", ".dds", ".emf", ".eps", ".exr", ".fits", ".flif", ".hdp", ".hdr"]
    + [".icns", ".ico", ".jbig", ".jls", ".jng", ".jxr", ".pam", ".pfm", ".svg", ".svgz", ".wdp"]
    + [".wmf", ".xbm", ".xcf", ".xpm"]
)


class ImageError(GlicError):
    """An image file or folder that cannot be used; the message is one sentence for the user."""


class LoadedImage(NamedTuple):
    """What `read_image` returns.

    pixels: uint8, (H, W, 3) for RGB or (H, W) for grey.
    notes: short phrases, one for each change made to the stored picture; empty if none.
    """

    pixels: np.ndarray
    notes: tuple[str, ...]


def _image_suffixes() -> tuple[str, ...]:
    Image.init()
    readable = {name for name in _RASTER_FORMATS if _READER.get(name, name) in Image.OPEN}
    by_suffix = Image.registered_extensions()
    # .pfm holds floating-point samples only, which `read_image` refuses.
    suffixes = {s for s, name in by_suffix.items() if name in readable and s != ".pfm"}
    suffixes.update(*(p.suffixes for p in _PLUGINS.values() if p.is_installed()))
    return tuple(sorted(suffixes))


# Lower-case suffixes, with the dot, of the raster formats that can be read here.
IMAGE_SUFFIXES = _image_suffixes()
# Those of all files that anybody would call an image, readable or not.
KNOWN_SUFFIXES = tuple(
    sorted(
        {*IMAGE_SUFFIXES, *_CAMERA_RAW, *_IN_PILLOW, *_OTHER_SUFFIXES}.union(
            *(plugin.suffixes for plugin in _PLUGINS.values())
        )
    )
)


def why_unreadable(suffix: str) -> str:
    """What to do about a suffix of `KNOWN_SUFFIXES` that is not among `IMAGE_SUFFIXES`.

    Args:
      suffix: with the dot, in any case.

    Returns:
      A short phrase ("install pillow-heif"); empty for the suffix of a readable image.
    """
    suffix = suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return ""
    for plugin in _PLUGINS.values():
        if suffix in plugin.suffixes:
            return f"install {plugin.package}"
    if suffix in _IN_PILLOW:
        return _IN_PILLOW[suffix]
    if suffix in _CAMERA_RAW:
        return "camera raw, develop it to PNG or TIFF first"
    return "convert it to PNG first"


def read_image(
    path_or_file: PathLike | BinaryIO, max_pixels: int | None = None, name: str | None = None
) -> LoadedImage:
    """Read an image file as 8-bit RGB or 8-bit grey.

    The EXIF orientation is applied, colours are converted to sRGB, transparency is blended onto
    white, deeper samples are reduced to 8 bits. Grey sources stay grey, and RGB whose three
    channels are equal becomes grey. Of several frames the first is taken.

    Args:
      path_or_file: a path, which may be that of a pipe, or a file opened in binary mode, which is
        read to its end and not closed.
      max_pixels: images of more are refused before they are decoded. Pillow's own limit against
        decompression bombs holds besides.
      name: what messages call the image; by default its path, or "standard input" for a file.

    Raises:
      ImageError: the file is missing, empty, damaged, too large, or of a kind that is not read: a
        camera's raw file, one for which a package is missing, or samples that have no 8-bit
        meaning (floating point, 32-bit, signed).
    """
    with _opened(path_or_file, max_pixels, name) as (image, headers, warned):
        pixels, notes = to_8bit(image, headers)
        if any(text.startswith("TiffImagePlugin") for text in warned):  # which reads all EXIF
            notes += ("damaged EXIF data",)
    return LoadedImage(pixels, notes)


def sides(path: PathLike) -> tuple[int, int]:
    """Pixels of the shorter and of the longer side of an image file; only JPEG XL is decoded.

    Raises:
      ImageError: as `read_image` does before it decodes.
    """
    with _opened(path) as (image, _, _):
        return min(image.size), max(image.size)


def png_bytes(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 pixels, (H, W, 3) RGB or (H, W) grey.

    Raises:
      ValueError: another dtype or shape, or no pixels.
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        raise ValueError(f"Expected a uint8 array, got {getattr(pixels, 'dtype', type(pixels))}.")
    is_grey, is_rgb = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2] == 3
    if not (is_grey or is_rgb) or pixels.size == 0:
        raise ValueError(f"Expected shape (H, W) or (H, W, 3), got {pixels.shape}.")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    return buffer.getvalue()


@contextlib.contextmanager
def _opened(
    path_or_file: PathLike | BinaryIO, max_pixels: int | None = None, name: str | None = None
) -> Iterator[tuple[Image.Image, Headers, list[str]]]:
    """The image, not loaded yet, its headers, and the list that its warnings go to.

    Whatever goes wrong, also while the caller decodes it, is raised as an `ImageError`.
    """
    name = name or ("standard input" if hasattr(path_or_file, "read") else str(path_or_file))
    try:
        with _seekable(path_or_file, name) as file:
            headers = read_headers(file)
            if not file.read(1):
                raise ImageError(f"{name} is empty; give an image file.")
            file.seek(0)
            _load_plugin(headers.kind, name)
            if headers.size:
                _check_size(headers.size, max_pixels, name)
                _check_size(headers.size, _bomb_limit(), name)
            with caught_warnings() as warned, Image.open(file) as image:
                _check_size(image.size, max_pixels, name)
                yield image, headers, warned
    except ImageError:
        raise
    except UnsupportedSamples as error:
        raise ImageError(f"{name} {error}") from None
    except Image.UnidentifiedImageError:
        suffix = Path(name).suffix.lower()
        advice = why_unreadable(suffix) if suffix in KNOWN_SUFFIXES else ""
        raise ImageError(
            f"{name} is not an image that Pillow can read{advice and f' ({advice})'}."
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name} exceeds Pillow's limit against decompression bombs ({_reason(error)})."
        ) from None
    except MemoryError:
        raise ImageError(f"{name} does not fit in memory; use a smaller image.") from None
    except Exception as error:
        # Pillow's readers raise almost any exception on damaged data (OSError, SyntaxError,
        # struct.error, IndexError, ...), and a damaged file must never end in a traceback. What
        # our own lines raise is a bug, which must.
        if _is_raised_here(error):
            raise
        raise ImageError(
            f"{name} cannot be decoded as an image ({_reason(error)}); "
            "the file is damaged, truncated or of an unsupported kind."
        ) from error


@contextlib.contextmanager
def _seekable(path_or_file: PathLike | BinaryIO, name: str) -> Iterator[BinaryIO]:
    """A file to seek in; what comes from a pipe or is open already is read into memory."""
    if hasattr(path_or_file, "read"):
        yield io.BytesIO(_read_all(path_or_file, name))
        return
    path = Path(path_or_file)
    if os.path.isdir(path):
        raise ImageError(f"{name} is a folder; give an image file.")
    if path.suffix.lower() in _CAMERA_RAW:  # Pillow would take the preview for the picture
        raise ImageError(f"{name} is not read ({why_unreadable(path.suffix)}).")
    try:
        file = open(path, "rb")  # noqa: SIM115 (the with statement below closes it)
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist; give an image file.") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{name} cannot be read ({_reason(error)}).") from error
    with file:
        yield file if file.seekable() else io.BytesIO(_read_all(file, name))


def _read_all(file: BinaryIO, name: str) -> bytes:
    try:
        return file.read()
    except OSError as error:
        raise ImageError(f"{name} cannot be read ({_reason(error)}).") from error


def _bomb_limit() -> int | None:
    """Pixels beyond which Pillow refuses an image, or None."""
    return Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS


@functools.cache
def _register(module: str) -> None:
    plugin = importlib.import_module(module)
    if module == "pillow_heif":  # the other one registers itself
        plugin.register_heif_opener()


def _load_plugin(kind: str, name: str) -> None:
    plugin = _PLUGINS.get(kind)
    if plugin is None:
        return
    try:
        _register(plugin.module)
    except ImportError:
        raise ImageError(
            f"{name} is a {kind} image; install {plugin.package} to read it."
        ) from None


def _is_raised_here(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return Path(trace.tb_frame.f_code.co_filename).parent == Path(__file__).parent


def _check_size(size: tuple[int, int], limit: int | None, name: str) -> None:
    width, height = size
    if limit is not None and width * height > limit:
        raise ImageError(
            f"{name} has {width}x{height} pixels, more than the limit of {limit}; "
            "use a smaller image or raise the limit."
        )


def _reason(error: BaseException) -> str:
    # A system error's text repeats the path, which the sentence around it has already said. Of
    # several sentences (of a plugin, on how to build it) the first one tells what went wrong.
    text = getattr(error, "strerror", None) or re.split(r"\.\s|\n", str(error))[0]
    return text.rstrip(".") or type(error).__name__
