"""Reading and writing images for codecs that code 8-bit RGB or 8-bit grey.

Pictures come as 16-bit, transparent, palette, CMYK, rotated or in another colour space; the
networks know none of that. `read_image` brings anything Pillow reads to a uint8 array (the
conversions stand in samples.py) and says in `LoadedImage.notes` what it changed on the way, so
that nothing happens silently. Whatever is wrong with a file ends in an `ImageError` with one
clear sentence.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple, Union

import numpy as np
from PIL import Image

from errors import GlicError
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

_HEAD_BYTES = 65536  # enough to reach the headers that state the bit depth


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
    return tuple(sorted(s for s, name in by_suffix.items() if name in readable and s != ".pfm"))


# Lower-case suffixes, with the dot, of the raster formats that this Pillow can open.
IMAGE_SUFFIXES = _image_suffixes()


def read_image(path: PathLike) -> LoadedImage:
    """Read an image file as 8-bit RGB or 8-bit grey.

    The EXIF orientation is applied, colours are converted to sRGB, transparency is blended onto
    white, deeper samples are reduced to 8 bits. Grey sources stay grey; a palette image is grey
    if all its colours are, and RGB otherwise. Of several frames the first is taken.

    Raises:
      ImageError: the file is missing, empty, damaged, too large for Pillow's decompression-bomb
        limit, or holds samples that have no 8-bit meaning (floating point, 32-bit, signed).
    """
    path = Path(path)
    if os.path.isdir(path):
        raise ImageError(f"{path} is a folder; give an image file.")
    try:
        file = open(path, "rb")  # noqa: SIM115 (the with statement below closes it)
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist; give an image file.") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read ({_reason(error)}).") from error
    with file:
        return _read(file, path)


def write_png(pixels: np.ndarray, path: PathLike) -> None:
    """Write uint8 pixels, (H, W, 3) RGB or (H, W) grey, as PNG; never leaves half a file.

    Raises:
      ValueError: another dtype or shape, or no pixels.
      OSError: the file cannot be written; an older file at `path` is then still whole.
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8:
        raise ValueError(f"Expected a uint8 array, got {getattr(pixels, 'dtype', type(pixels))}.")
    is_grey, is_rgb = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2] == 3
    if not (is_grey or is_rgb) or pixels.size == 0:
        raise ValueError(f"Expected shape (H, W) or (H, W, 3), got {pixels.shape}.")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG")
    atomic_write(path, buffer.getvalue())


def atomic_write(path: PathLike, data: bytes) -> None:
    """Write bytes so that `path` holds either all of them or what it held before.

    The data go to a hidden temporary file in the same folder, which then replaces `path`; it is
    removed on any failure, a keyboard interrupt included. A symbolic link is followed. What is
    no regular file (a pipe, /dev/null) cannot be replaced and is written directly.

    Raises:
      OSError: the file cannot be written; its `filename` is `path`.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            _replace(target, data)
    except OSError as error:
        # The temporary name would mean nothing to the user. The number picks the subclass.
        raise OSError(error.errno, error.strerror, str(path)) from error


def collect(paths: Iterable[PathLike], suffixes: Iterable[str]) -> list[Path]:
    """Expand files and folders to files, in the order given.

    A file is taken as it is, whatever its suffix. A folder stands for the files directly in it
    that are not hidden and whose suffix is among `suffixes` (in any case), sorted by name.

    Raises:
      ImageError: a path does not exist, or a folder cannot be read or has no such file.
    """
    wanted = {suffix.lower() for suffix in suffixes}
    found: list[Path] = []
    for path in map(Path, paths):
        if os.path.isdir(path):  # unlike Path.is_dir, never raises
            found += _files_in(path, wanted)
        elif os.path.exists(path):
            found.append(path)
        else:
            raise ImageError(f"{path} does not exist; give a file or a folder.")
    return found


def _files_in(folder: Path, suffixes: set[str]) -> list[Path]:
    try:
        files = sorted(
            entry
            for entry in folder.iterdir()
            if entry.suffix.lower() in suffixes
            and not entry.name.startswith(".")
            and entry.is_file()
        )
    except OSError as error:
        raise ImageError(f"{folder} cannot be read ({_reason(error)}).") from error
    if not files:
        raise ImageError(f"{folder} has no file that ends in {', '.join(sorted(suffixes))}.")
    return files


def _replace(target: Path, data: bytes) -> None:
    # Mode "x" creates the file exclusively and with the permissions that the umask asks for,
    # where tempfile.mkstemp would leave it readable by its owner only.
    temporary = target.parent / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # before the name: a power cut must not leave it on nothing
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _read(file: BinaryIO, path: Path) -> LoadedImage:
    try:
        head = file.read(_HEAD_BYTES)
        if not head:
            raise ImageError(f"{path} is empty; give an image file.")
        file.seek(0)
        with Image.open(file) as image:
            return LoadedImage(*to_8bit(image, head))
    except ImageError:
        raise
    except UnsupportedSamples as error:
        raise ImageError(f"{path} {error}") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{path} is not an image that Pillow can read.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{path} exceeds Pillow's limit against decompression bombs ({_reason(error)})."
        ) from None
    except MemoryError:
        raise ImageError(f"{path} does not fit in memory; use a smaller image.") from None
    except Exception as error:
        # Pillow's readers raise almost any exception on damaged data (OSError, SyntaxError,
        # struct.error, IndexError, ...), and a damaged file must never end in a traceback.
        raise ImageError(
            f"{path} cannot be decoded as an image ({_reason(error)}); "
            "the file is damaged, truncated or of an unsupported kind."
        ) from error


def _reason(error: BaseException) -> str:
    # A system error's text repeats the path, which the sentence around it has already said.
    return getattr(error, "strerror", None) or str(error).rstrip(".") or type(error).__name__
