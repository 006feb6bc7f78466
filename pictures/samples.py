"""What Pillow has opened, as 8-bit RGB or 8-bit grey: depth, alpha, orientation.

Pillow reduces some deep samples, drops some alpha channels and misreads a few kinds of TIFF
without a word. Here each such change is noted, and what would come out wrong is refused.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from errors import GlicError
from pictures import colour
from pictures.containers import Headers

_TRANSPOSE = Image.Transpose
_ORIENTATIONS = {  # value of the EXIF tag: what undoes it, and how to call that
    2: (_TRANSPOSE.FLIP_LEFT_RIGHT, "mirrored"),
    3: (_TRANSPOSE.ROTATE_180, "rotated"),
    4: (_TRANSPOSE.FLIP_TOP_BOTTOM, "mirrored"),
    5: (_TRANSPOSE.TRANSPOSE, "rotated and mirrored"),
    6: (_TRANSPOSE.ROTATE_270, "rotated"),
    7: (_TRANSPOSE.TRANSVERSE, "rotated and mirrored"),
    8: (_TRANSPOSE.ROTATE_90, "rotated"),
}
# Adobe RGB by EXIF: the index "R03" (DCF 2.0), or a colour space of 2, which EXIF does not know.
_INTEROP_INDEX, _COLOUR_SPACE, _ADOBE_RGB = 1, 0xA001, 2
# These kinds turn the picture by their own headers, which their readers obey (AVIF's in the guise
# of EXIF): what XMP says is of no concern, nor, in JPEG XL, what EXIF says.
_SELF_TURNING = ("AVIF", "HEIC", "JPEG XL")

# TIFF tags and the values of theirs that matter here.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR_CONFIGURATION, _SAMPLE_FORMAT = 258, 262, 284, 339
_WHITE_IS_ZERO, _SEPARATE_PLANES, _SIGNED = 0, 2, 2

# Raw modes with 16 bits a sample end in their byte order ("BGR;16" means 16 bits a pixel).
_RAW_16_BIT = re.compile(r";16[BLN]$")
# Raw modes of grey with fewer than 8 bits: what Pillow multiplies the samples by.
_SHALLOW_GREY = {"L;2": 85, "L;4": 17}

_STRIP_ROWS = 64  # compared at a time when looking for grey


class UnsupportedSamples(GlicError):
    """Samples that have no 8-bit meaning; the message is a sentence that lacks its subject."""


class _Exif(NamedTuple):
    orientation: int | None = None
    adobe_rgb: bool = False
    has_more: bool = False  # tags besides the orientation


def to_8bit(image: Image.Image, headers: Headers) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode an image to 8-bit RGB or 8-bit grey, upright, opaque, in sRGB.

    Args:
      image: opened by Pillow and not loaded yet (loading forgets how the samples were stored).
      headers: what the file's headers state besides.

    Returns:
      pixels: uint8, (H, W, 3) for RGB or (H, W) for grey, also if grey was stored as RGB.
      notes: short phrases, one for each change made to the stored picture.

    Raises:
      UnsupportedSamples: floating-point, signed or 32-bit samples, or a TIFF layout that Pillow
        misreads.
      Exception: whatever Pillow raises on damaged data.
    """
    if 0 in image.size:
        raise UnsupportedSamples(f"has no pixels ({image.width}x{image.height}).")
    notes = _frame_notes(image)
    raw_mode, bits = _raw_mode(image), bits_per_sample(image, headers)
    has_xmp = any(image.info.get(key) for key in ("xmp", "XML:com.adobe.xmp"))
    if headers.kind in _SELF_TURNING:
        image.info.pop("xmp", None)
    # TIFF's reader applies the orientation while it loads and then drops the tag. PNG may keep
    # the tag behind the pixels, so there it is known only afterwards.
    exif = None
    if image.format == "TIFF":
        _check_tiff(image, bits)
        exif = _read_exif(image, notes)
    image.load()
    pending = _read_exif(image, notes if exif is None else [])
    exif = exif or pending

    colours, alpha = _split_alpha(image, bits, raw_mode, notes)
    if colours.mode not in ("L", "RGB"):
        notes.append(f"{colours.mode} converted to RGB")
    if colours.mode not in ("L", "RGB", "CMYK"):
        colours = colours.convert("RGB")
    was_grey = _is_grey(colours)
    colours = colour.to_srgb(colours, image.info, headers, exif.adobe_rgb, notes)
    if colours.mode == "CMYK":
        colours = colours.convert("RGB")
    # A conversion may leave grey a level or two beside grey.
    if _is_grey(colours, colour.SAME_COLOUR_LEVELS if was_grey else 0):
        colours = colours.getchannel("G")
        if image.mode not in ("P", "PA"):
            notes.append(f"grey stored as {'CMYK' if image.mode == 'CMYK' else 'RGB'}")
    if pending.orientation in _ORIENTATIONS:
        method = _ORIENTATIONS[pending.orientation][0]
        colours = colours.transpose(method)
        alpha = alpha.transpose(method) if alpha is not None else None
    if exif.orientation in _ORIENTATIONS:
        notes.append(f"{_ORIENTATIONS[exif.orientation][1]} by its EXIF orientation")
    pixels = _blend_onto_white(colours, alpha, notes)
    dropped = [name for name, there in (("EXIF", exif.has_more), ("XMP", has_xmp)) if there]
    if dropped:
        notes.append(f"{' and '.join(dropped)} dropped")
    return pixels, tuple(notes)


def bits_per_sample(image: Image.Image, headers: Headers) -> int:
    """Bits of a stored sample, of which Pillow drops those over 8 without a word; 8 if fewer.

    Args: as for `to_8bit`.
    """
    codec, _, _, arguments = image.tile[0] if image.tile else ("", None, 0, "")
    bits = 8
    if image.format == "TIFF":
        bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    elif image.format == "PPM" and codec.startswith("ppm"):
        # The largest value that a sample can have; the bits of a plain bitmap state none.
        bits = 1 if isinstance(arguments, str) else arguments[-1].bit_length()
    elif headers.bits or headers.kind == "HEIC":
        bits = image.info.get("bit_depth", headers.bits)
    elif image.mode.startswith("I;16") or codec == "SGI16" or _RAW_16_BIT.search(_raw_mode(image)):
        bits = 16
    elif codec == "sgi_rle":
        bits = 8 * arguments[2]
    elif image.mode == "I":
        bits = 32
    return max(8, bits)


def _raw_mode(image: Image.Image) -> str:
    """How the file's samples are packed, in Pillow's words ("RGB;16B"); known before loading."""
    arguments = image.tile[0][3] if image.tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _check_tiff(image: Image.Image, bits: int) -> None:
    tags = image.tag_v2
    if image.mode != "F" and _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        raise UnsupportedSamples(
            "has signed samples, expected unsigned ones of 8 or 16 bits; scale it to 8 bits first."
        )
    inverted = image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    in_planes = (
        bits > 8
        and len(image.getbands()) > 1
        and tags.get(_PLANAR_CONFIGURATION) == _SEPARATE_PLANES
        and image.tile[0][0] == "raw"  # Pillow decodes the compressed kinds rightly
    )
    if inverted or in_planes:
        layout = "zero means white" if inverted else "each colour has its own plane"
        raise UnsupportedSamples(
            f"is a {bits}-bit TIFF in which {layout}, which Pillow misreads; "
            "save it as a PNG with another program first."
        )


def _frame_notes(image: Image.Image) -> list[str]:
    frames = getattr(image, "n_frames", 1)
    sizes = image.info.get("sizes", ())  # of an icon, whose largest picture Pillow takes
    if image.format == "PSD" and frames > 1:
        return [f"flattened picture of {frames} layers"]
    if frames > 1:
        return [
            f"first of {frames} frames" if image.tell() == 0 else f"main one of {frames} images"
        ]
    return [f"largest of {len(sizes)} sizes"] if len(sizes) > 1 else []


def _read_exif(image: Image.Image, notes: list[str]) -> _Exif:
    try:
        exif = image.getexif()
        tags = set(exif) - {ExifTags.Base.Orientation}
        if image.format == "TIFF":  # whose own tags are listed too
            tags &= {ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo}
        details = exif.get_ifd(ExifTags.IFD.Exif)
        has_interop = ExifTags.IFD.Interop in details
        interop = exif.get_ifd(ExifTags.IFD.Interop) if has_interop else {}
        adobe_rgb = (
            str(interop.get(_INTEROP_INDEX, "")).startswith("R03")
            or details.get(_COLOUR_SPACE) == _ADOBE_RGB
        )
        orientation = exif.get(ExifTags.Base.Orientation)
        if image.format == "JXL" and not image.jpeg:  # unless it holds a JPEG
            orientation = None
    except Exception:  # damaged EXIF raises as variously as damaged pixels, and matters less
        notes.append("unreadable EXIF data ignored")
        return _Exif()
    return _Exif(orientation if isinstance(orientation, int) else None, adobe_rgb, bool(tags))


def _split_alpha(
    image: Image.Image, bits: int, raw_mode: str, notes: list[str]
) -> tuple[Image.Image, Image.Image | None]:
    """The picture without alpha (L, RGB or another colour mode), and its alpha channel or None."""
    mode, key = image.mode, image.info.get("transparency")
    if mode == "F" or mode.startswith("I"):
        return _reduce_grey(image, bits, notes)
    if bits > 8:
        notes.append(f"{bits}-bit reduced to 8-bit")
        if key is not None:
            # Pillow keeps the key's 16 bits while it reduces the samples: no match is left.
            notes.append("16-bit transparent colour ignored")
            image.info.pop("transparency")
            key = None
    if mode in ("P", "PA"):
        palette_mode = getattr(image.palette, "mode", "RGB")
        plain = mode == "P" and key is None and not palette_mode.endswith("A")
        image = image.convert("RGB" if plain else "RGBA")
    elif mode in ("1", "L"):
        if key is not None and raw_mode in _SHALLOW_GREY:
            # Pillow scales such samples to 8 bits, but not the key.
            image.info["transparency"] = key * _SHALLOW_GREY[raw_mode]
        image = image.convert("L" if key is None else "LA")
    elif mode == "RGB" and key is not None:
        image = image.convert("RGBA")
    elif mode in ("La", "RGBa"):  # colours multiplied by alpha
        image = image.convert(mode.upper())
    elif mode == "RGBX":  # the fourth channel is padding
        image = image.convert("RGB")
    elif raw_mode.startswith("LA;16"):  # Pillow has no 16-bit grey with alpha and takes RGBA
        image = image.convert("LA")
    if image.mode in ("LA", "RGBA"):
        return image.convert(image.mode[:-1]), image.getchannel("A")
    return image, None


def _reduce_grey(
    image: Image.Image, bits: int, notes: list[str]
) -> tuple[Image.Image, Image.Image | None]:
    """Deep grey samples, rounded (not truncated) to 8 bits, and alpha where a key asks for it."""
    samples = np.asarray(image)
    if image.mode == "F" or bits > 16:
        kind = "floating-point" if image.mode == "F" else "32-bit integer"
        raise UnsupportedSamples(
            f"has {kind} samples, expected unsigned ones of 8 or 16 bits; scale it to 8 bits first."
        )
    if bits == 8:  # an icon, whose depth shows only when it is loaded
        bits = 16
    # Pillow leaves 12-bit TIFF samples as they are and spreads all others over 16 bits.
    maximum = 4095 if bits == 12 and image.format == "TIFF" else 65535
    grey = (samples.astype(np.uint32) * 510 + maximum) // (2 * maximum)
    notes.append(f"{bits}-bit reduced to 8-bit")
    key = image.info.get("transparency")
    alpha = None if key is None else Image.fromarray(np.uint8(255) * (samples != key))
    return Image.fromarray(grey.astype(np.uint8)), alpha


def _is_grey(image: Image.Image, tolerance: int = 0) -> bool:
    """Whether an RGB image is grey, give or take `tolerance` levels; False in other modes.

    Stops at the first strip that is not, which in a photograph in colour is the first.
    """
    if image.mode != "RGB":
        return False
    for top in range(0, image.height, _STRIP_ROWS):
        box = (0, top, image.width, min(top + _STRIP_ROWS, image.height))
        strip = np.asarray(image.crop(box)).astype(np.int16)
        if np.abs(strip[..., ::2] - strip[..., 1:2]).max() > tolerance:
            return False
    return True


def _blend_onto_white(
    colours: Image.Image, alpha: Image.Image | None, notes: list[str]
) -> np.ndarray:
    pixels = np.array(colours)
    if alpha is None:
        return pixels
    opacity = np.asarray(alpha).astype(np.uint16)
    if opacity.min() == 255:
        notes.append("opaque alpha channel dropped")
        return pixels
    notes.append("alpha blended onto white")
    if pixels.ndim == 3:
        opacity = opacity[..., None]
    # At most 255 * 255 + 127, so uint16 holds it; + 127 rounds to nearest.
    return ((pixels * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
