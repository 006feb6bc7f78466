"""Pictures in other colour spaces, brought to sRGB, and how files say which space they are in.

What counts, first to last: a PNG's cICP chunk, an ICC profile, the nclx property of AVIF and HEIC,
a PNG's sRGB chunk, its gAMA and cHRM chunks (PNG, third edition, 4.3, table 1), and Adobe RGB by
EXIF, which editors leave stale more often than the others. A picture that states none of these is
taken for sRGB, AVIF and HEIC by their standard (ISO/IEC 23000-22), all others by custom.

PQ and HLG pictures (ITU-R BT.2100) are shown by one rule: reference white, 203 cd/m2 (ITU-R
BT.2408), is sRGB's white, and all brighter light clips there. So what was made for a standard
display and wrapped in PQ or HLG comes out as it was. HLG is taken for a display of 1000 cd/m2.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from pictures.containers import Colours, Headers

# Two spaces that agree within this many 8-bit levels show the same picture.
SAME_COLOUR_LEVELS = 2
# A PNG's gAMA of 0.45 to 0.46 stands for sRGB's curve, as the PNG specification asks writers of
# sRGB to state 0.45455.
_SRGB_GAMMA, _SRGB_GAMMA_TOLERANCE = 0.45455, 0.0055

_REFERENCE_WHITE = 203  # cd/m2
_PQ_PEAK, _HLG_PEAK = 10000, 1000  # cd/m2
_HLG_SYSTEM_GAMMA = 1.2  # on a display of 1000 cd/m2

_STRIP_PIXELS = 1 << 18  # how many are converted at a time
_UNSPECIFIED = 2

_D65, _C, _EQUAL = (0.3127, 0.3290), (0.310, 0.316), (1 / 3, 1 / 3)
_BT_709 = (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


class _Space(NamedTuple):
    """A colour space.

    name: for the note.
    primaries: x and y of white, red, green, blue, in the order of a PNG's cHRM.
    decode: signal in [0, 1] to light, of which 1 is sRGB's white.
    is_hlg: light is that of the scene, to which the display's system gamma is to be applied.
    narrow: black is at 16 and white at 235.
    """

    name: str
    primaries: tuple[float, ...]
    decode: Callable[[np.ndarray], np.ndarray]
    is_hlg: bool = False
    narrow: bool = False


def _from_srgb(signal: np.ndarray) -> np.ndarray:
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def _from_pq(signal: np.ndarray) -> np.ndarray:
    """Rec. ITU-R BT.2100, table 4."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    root = signal ** (1 / m2)
    light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    return light * _PQ_PEAK / _REFERENCE_WHITE


def _from_hlg(signal: np.ndarray) -> np.ndarray:
    """Rec. ITU-R BT.2100, table 5: light of the scene, in [0, 1]."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def _power(exponent: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda signal: signal**exponent


_ADOBE_RGB = _Space("Adobe RGB", (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06), _power(563 / 256))

# ITU-T H.273, table 2.
_SMPTE_170M = ("SMPTE 170M", (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070))
_PRIMARIES = {
    1: ("BT.709", _BT_709),
    4: ("BT.470 M", (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08)),
    5: ("BT.470 BG", (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06)),
    6: _SMPTE_170M,
    7: _SMPTE_170M,
    8: ("film", (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049)),
    9: ("BT.2020", (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    10: ("XYZ", (*_EQUAL, 1, 0, 0, 1, 0, 0)),
    11: ("DCI-P3", (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    12: ("Display P3", (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    22: ("EBU 3213", (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077)),
}
# ITU-T H.273, table 3. The curves of BT.601, BT.709, BT.2020 and SMPTE 240M describe cameras, not
# displays: their pictures are shown with sRGB's curve.
_TRANSFERS = {
    **dict.fromkeys((1, 6, 7, 13, 14, 15), ("", _from_srgb)),
    4: (" with gamma 2.2", _power(2.2)),
    5: (" with gamma 2.8", _power(2.8)),
    8: (" with linear samples", _power(1)),
    16: (" PQ", _from_pq),
    17: (" with gamma 2.6", lambda signal: 52.37 / 48 * signal**2.6),
    18: (" HLG", _from_hlg),
}


def to_srgb(
    image: Image.Image, info: dict, headers: Headers, adobe_rgb: bool, notes: list[str]
) -> Image.Image:
    """The image in sRGB, by whatever states its colours.

    Args:
      image: mode L, RGB or CMYK.
      info: what Pillow tells of the file.
      headers: what the file's headers state besides.
      adobe_rgb: whether EXIF says Adobe RGB.
      notes: gets a phrase on what was done, if anything was.

    Returns:
      Mode L if the image was, CMYK if it is and has no profile, else RGB.
    """
    is_png, profile = headers.kind == "PNG", info.get("icc_profile")
    space = _coded_space(headers.colours, notes) if is_png or not profile else None
    if space is None and profile:
        # JPEG XL's reader makes a profile where the file has none: that is not dropped.
        return _by_profile(image, profile, notes, made_by_reader=headers.kind == "JPEG XL")
    if profile:
        notes.append("ICC profile dropped, cICP counts")
    if space is None and is_png and "srgb" not in info:
        space = _png_space(info.get("gamma"), info.get("chromaticity"), notes)
    if space is None and adobe_rgb and "srgb" not in info:
        space = _ADOBE_RGB
    if space is None or image.mode == "CMYK":
        return image
    if _is_identity(lambda probe: _convert(probe, space), image.mode):
        return image
    notes.append(f"converted from {space.name} to sRGB")
    return Image.fromarray(_convert(np.asarray(image), space))


def _coded_space(colours: Colours | None, notes: list[str]) -> _Space | None:
    if colours is None or colours[:2] == (_UNSPECIFIED, _UNSPECIFIED):
        return None
    # What one of the two leaves open is as in sRGB.
    primaries = _PRIMARIES.get(1 if colours.primaries == _UNSPECIFIED else colours.primaries)
    transfer = _TRANSFERS.get(13 if colours.transfer == _UNSPECIFIED else colours.transfer)
    if primaries is None or transfer is None:
        notes.append(f"unknown colour code {colours.primaries}/{colours.transfer} ignored")
        return None
    is_hdr = transfer[1] in (_from_pq, _from_hlg)
    name = primaries[0] + transfer[0]
    return _Space(
        f"{name} (white at {_REFERENCE_WHITE} cd/m2, brighter clipped)" if is_hdr else name,
        primaries[1],
        transfer[1],
        transfer[1] is _from_hlg,
        colours.narrow,
    )


def _png_space(
    gamma: float | None, chromaticity: tuple[float, ...] | None, notes: list[str]
) -> _Space | None:
    """By gAMA and cHRM; one that is missing is as in sRGB."""
    if gamma is None and chromaticity is None:
        return None
    primaries = chromaticity or _BT_709
    with np.errstate(all="ignore"):
        try:
            usable = gamma != 0 and np.isfinite(_matrix_to_srgb(primaries)).all()
        except np.linalg.LinAlgError:
            usable = False
    if not usable:
        notes.append("unusable gAMA or cHRM ignored")
        return None
    is_srgb_curve = gamma is None or (
        abs(gamma - _SRGB_GAMMA) <= _SRGB_GAMMA_TOLERANCE
        and np.abs(np.subtract(primaries, _BT_709)).max() < 0.001
    )
    decode = _from_srgb if is_srgb_curve else _power(1 / gamma)
    return _Space(
        "its gAMA and cHRM" if chromaticity else f"its gAMA of {gamma:g}", primaries, decode
    )


def _convert(pixels: np.ndarray, space: _Space) -> np.ndarray:
    """Pixels (H, W, 3) or (H, W), uint8, of a space in sRGB."""
    signal = np.arange(256) / 255
    if space.narrow:
        signal = np.clip((signal * 255 - 16) / 219, 0, 1)
    light = space.decode(signal).astype(np.float32)
    if pixels.ndim == 2:
        return _encode(_display_light(light, light) if space.is_hlg else light)[pixels]
    to_srgb, luminance = _matrix_to_srgb(space.primaries), _rgb_to_xyz(space.primaries)[1]
    to_srgb, luminance = to_srgb.T.astype(np.float32), luminance.astype(np.float32)
    result = np.empty_like(pixels)
    rows = max(1, _STRIP_PIXELS // pixels.shape[1])
    for top in range(0, pixels.shape[0], rows):
        strip = light[pixels[top : top + rows]]
        if space.is_hlg:
            strip = _display_light(strip, (strip @ luminance)[..., None])
        result[top : top + rows] = _encode(strip @ to_srgb)
    return result


def _display_light(scene: np.ndarray, luminance: np.ndarray) -> np.ndarray:
    """HLG's OOTF, in units of reference white."""
    return scene * luminance ** (_HLG_SYSTEM_GAMMA - 1) * np.float32(_HLG_PEAK / _REFERENCE_WHITE)


def _encode(light: np.ndarray) -> np.ndarray:
    return _srgb_levels()[(np.clip(light, 0, 1) * 65535 + 0.5).astype(np.uint16)]


@functools.cache
def _srgb_levels() -> np.ndarray:
    """The 8-bit level of each light in [0, 1] in steps of 1 / 65535, 0.05 levels at most."""
    light = np.arange(65536) / 65535
    signal = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(signal * 255).astype(np.uint8)


def _rgb_to_xyz(primaries: tuple[float, ...]) -> np.ndarray:
    x, y = np.reshape(np.asarray(primaries, np.float64), (4, 2)).T
    xyz = np.stack([x, y, 1 - x - y])
    return xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], xyz[:, 0] / y[0])


def _matrix_to_srgb(primaries: tuple[float, ...]) -> np.ndarray:
    """Linear light to linear sRGB, (3, 3); whites meet by Bradford's adaptation."""
    from_rgb, to_rgb = _rgb_to_xyz(primaries), np.linalg.inv(_rgb_to_xyz(_BT_709))
    source, target = (_BRADFORD @ _rgb_to_xyz(p).sum(axis=1) for p in (primaries, _BT_709))
    adaptation = np.linalg.inv(_BRADFORD) @ np.diag(target / source) @ _BRADFORD
    return to_rgb @ adaptation @ from_rgb


def _by_profile(
    image: Image.Image, profile_bytes: bytes, notes: list[str], made_by_reader: bool
) -> Image.Image:
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
        if mode == "CMYK" or not _is_identity(_transformed_by(transform), mode):
            image = ImageCms.applyTransform(image, transform)
            notes.append("converted from its ICC profile to sRGB")
        elif not made_by_reader:
            notes.append("sRGB profile dropped")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
        notes.append("unreadable ICC profile ignored")
    return image.convert("L") if grey else image


def _transformed_by(
    transform: ImageCms.ImageCmsTransform,
) -> Callable[[np.ndarray], np.ndarray]:
    return lambda probe: np.asarray(ImageCms.applyTransform(Image.fromarray(probe), transform))


def _is_identity(convert: Callable[[np.ndarray], np.ndarray], mode: str) -> bool:
    """Whether a conversion to sRGB leaves colours alone; a profile's name does not tell."""
    if mode == "L":
        probe = np.arange(256, dtype=np.uint8)[None, :]
    else:
        steps = np.arange(0, 256, 15, dtype=np.uint8)
        lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
        probe = np.ascontiguousarray(lattice.reshape(1, -1, 3))
    result = convert(probe)
    # A grey profile's result is RGB.
    expected = probe if result.ndim == probe.ndim else probe[..., None]
    return int(np.abs(result.astype(np.int16) - expected).max()) <= SAME_COLOUR_LEVELS
