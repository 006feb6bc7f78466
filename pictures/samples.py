"""What Pillow has opened, as 8-bit RGB or 8-bit grey: depth, alpha, colour space, orientation.

Pillow reduces some deep samples, drops some alpha channels and misreads a few kinds of TIFF
without a word. Here each such change is noted, and what would come out wrong is refused.
"""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image, ImageCms

from errors import GlicError

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
_ORIENTATION_TAG = 0x0112

# TIFF tags and the values of theirs that matter here.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR_CONFIGURATION, _SAMPLE_FORMAT = 258, 262, 284, 339
_WHITE_IS_ZERO, _SEPARATE_PLANES, _SIGNED = 0, 2, 2

# Raw modes with 16 bits a sample end in their byte order ("BGR;16" means 16 bits a pixel).
_RAW_16_BIT = re.compile(r";16[BLN]$")
# Raw modes of grey with fewer than 8 bits: what Pillow multiplies the samples by.
_SHALLOW_GREY = {"L;2": 85, "L;4": 17}

# Two profiles that agree within this many 8-bit levels show the same picture.
_SAME_COLOUR_LEVELS = 2


class UnsupportedSamples(GlicError):
    """Samples that have no 8-bit meaning; the message is a sentence that lacks its subject."""


def to_8bit(image: Image.Image, head: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode an image to 8-bit RGB or 8-bit grey, upright, opaque, in sRGB.

    Args:
      image: opened by Pillow and not loaded yet (loading forgets how the samples were stored).
      head: the file's first bytes, in which JPEG 2000 and AVIF state their bit depth.

    Returns:
      pixels: uint8, (H, W, 3) for RGB or (H, W) for grey.
      notes: short phrases, one for each change made to the stored picture.

    Raises:
      UnsupportedSamples: floating-point, signed or 32-bit samples, or a TIFF layout that Pillow
        misreads.
      Exception: whatever Pillow raises on damaged data.
    """
    if 0 in image.size:
        raise UnsupportedSamples(f"has no pixels ({image.width}x{image.height}).")
    notes = _frame_notes(image)
    raw_mode, bits = _raw_mode(image), bits_per_sample(image, head)
    if image.format == "TIFF":
        _check_tiff(image, bits)
    # TIFF's reader applies the orientation while it loads and then drops the tag. PNG may keep
    # the tag behind the pixels, so there it is known only afterwards.
    applied = _orientation(image, []) if image.format == "TIFF" else None
    image.load()
    pending = _orientation(image, notes)

    colours, alpha = _split_alpha(image, bits, raw_mode, notes)
    if colours.mode not in ("L", "RGB"):
        notes.append(f"{colours.mode} converted to RGB")
    if colours.mode not in ("L", "RGB", "CMYK"):
        colours = colours.convert("RGB")
    if image.info.get("icc_profile"):
        colours = _to_srgb(colours, image.info["icc_profile"], notes)
    if colours.mode == "CMYK":
        colours = colours.convert("RGB")
    if pending in _ORIENTATIONS:
        method = _ORIENTATIONS[pending][0]
        colours = colours.transpose(method)
        alpha = alpha.transpose(method) if alpha is not None else None
    if (pending or applied) in _ORIENTATIONS:
        notes.append(f"{_ORIENTATIONS[pending or applied][1]} by its EXIF orientation")
    return _blend_onto_white(colours, alpha, notes), tuple(notes)


def bits_per_sample(image: Image.Image, head: bytes) -> int:
    """Bits of a stored sample, of which Pillow drops those over 8 without a word; 8 if fewer.

    Args: as for `to_8bit`.
    """
    codec, _, _, arguments = image.tile[0] if image.tile else ("", None, 0, "")
    bits = 8
    if image.format == "TIFF":
        bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    elif image.format == "PPM" and codec.startswith("ppm"):
        bits = arguments[-1].bit_length()  # the largest value that a sample can have
    elif image.format in ("JPEG2000", "AVIF"):
        bits = _bits_in_head(head)
    elif image.mode.startswith("I;16") or codec == "SGI16" or _RAW_16_BIT.search(_raw_mode(image)):
        bits = 16
    elif codec == "sgi_rle":
        bits = 8 * arguments[2]
    elif image.mode == "I":
        bits = 32
    return max(8, bits)


def _bits_in_head(head: bytes) -> int:
    """Bits per sample that a JPEG 2000 SIZ marker or an AVIF av1C box states, else 0."""
    codestream = head.find(b"\xff\x4f\xff\x51")
    if codestream >= 0:
        # SOC, SIZ, Lsiz, Rsiz, eight 32-bit sizes, Csiz; then Ssiz = bits - 1 and a sign bit.
        ssiz = head[codestream + 42 : codestream + 43]
        return (ssiz[0] & 0x7F) + 1 if ssiz else 0
    box = head.find(b"av1C")
    flags = head[box + 6 : box + 7] if box >= 0 else b""
    if flags and flags[0] & 0x40:  # high_bitdepth, then twelve_bit
        return 12 if flags[0] & 0x20 else 10
    return 0


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
        return [f"first of {frames} frames"]
    return [f"largest of {len(sizes)} sizes"] if len(sizes) > 1 else []


def _orientation(image: Image.Image, notes: list[str]) -> int | None:
    try:
        value = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged EXIF raises as variously as damaged pixels, and matters less
        notes.append("unreadable EXIF data ignored")
        return None
    return value if isinstance(value, int) else None


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
        return _from_palette(image.convert("RGB" if plain else "RGBA"))
    if mode in ("1", "L"):
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


def _from_palette(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    red, green, blue = (np.asarray(image.getchannel(c)) for c in "RGB")
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return image.getchannel("R"), alpha
    return image.convert("RGB"), alpha


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


def _to_srgb(image: Image.Image, profile_bytes: bytes, notes: list[str]) -> Image.Image:
    """The image (L, RGB or CMYK) in sRGB by its ICC profile; a useless profile is noted."""
    grey = image.mode == "L"
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes))
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(profile.profile.xcolor_space.strip())
        if grey and mode == "RGB":  # a grey JPEG of a camera keeps the camera's RGB profile
            image = image.convert("RGB")
        if image.mode != mode:
            notes.append("ICC profile ignored, it is for another kind of image")
            return image
        transform = ImageCms.buildTransform(
            profile, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
        if mode == "CMYK" or not _is_identity(transform, mode):
            image = ImageCms.applyTransform(image, transform)
            notes.append("converted from its ICC profile to sRGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
        notes.append("unreadable ICC profile ignored")
    return image.convert("L") if grey else image


def _is_identity(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform to sRGB leaves colours alone; a profile's name does not tell."""
    if mode == "L":
        probe = np.arange(256, dtype=np.uint8)[None, :]
        expected = np.repeat(probe[..., None], 3, axis=2)
    else:
        steps = np.arange(0, 256, 15, dtype=np.uint8)
        lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
        probe = expected = np.ascontiguousarray(lattice.reshape(1, -1, 3))
    result = ImageCms.applyTransform(Image.fromarray(probe), transform)
    difference = np.abs(np.asarray(result).astype(np.int16) - expected)
    return int(difference.max()) <= _SAME_COLOUR_LEVELS


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
