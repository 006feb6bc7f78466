"""Embedded ICC profiles: sRGB is left alone, others are converted, useless ones are noted."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from pictures.images import read_image

_D50 = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)  # white of every profile


def _rgb(height=24, width=31, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _srgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _wide_profile():
    """An RGB profile that is far from sRGB: sRGB's own with its red and green primaries swapped."""
    profile = bytearray(_srgb_profile())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def _profile(spaces, tags):
    """A profile built by hand after ICC.1:2001-04; `spaces` are its device and connection space."""
    tags = {**tags, b"wtpt": _D50}
    directory, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + len(tags) * 12
    for name, data in tags.items():
        directory += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = bytearray(128)
    header[0:4] = struct.pack(">I", offset + len(body))
    header[8:24] = b"\x02\x40\0\0prtr" + spaces
    header[36:40] = b"acsp"
    header[68:80] = _D50[8:]
    return bytes(header) + directory + body


def _grey_profile(gamma):
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return _profile(b"GRAYXYZ ", {b"kTRC": curve})


def _cmyk_profile():
    """An 8-bit table with two points an ink, in Lab: paper is white, any ink is black."""
    white, black = (255, 128, 128), (0, 128, 128)
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    colours = b"".join(bytes(white if i == 0 else black) for i in range(16))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + colours + ramp * 3
    return _profile(b"CMYKLab ", {b"A2B0": table})


def test_srgb_profile_changes_nothing(tmp_path):
    profile = _srgb_profile()
    Image.fromarray(_rgb()).save(tmp_path / "a.png", icc_profile=profile)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, _rgb())
    assert image.notes == ()


def test_other_profile_is_converted(tmp_path):
    Image.new("RGB", (5, 4), (250, 20, 10)).save(tmp_path / "a.png", icc_profile=_wide_profile())
    image = read_image(tmp_path / "a.png")
    # The profile's red is sRGB's green, but for the white that then no longer adds up.
    assert image.pixels[0, 0, 1] > 200 > 100 > image.pixels[0, 0, 0]
    assert image.notes == ("converted from its ICC profile to sRGB",)


def test_profile_conversion_leaves_alpha_alone(tmp_path):
    source = Image.new("RGBA", (2, 1), (250, 20, 10, 255))
    source.putpixel((1, 0), (250, 20, 10, 0))
    source.save(tmp_path / "a.png", icc_profile=_wide_profile())
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels[0, 1], [255, 255, 255])
    assert image.pixels[0, 0, 1] > 200
    assert image.notes == ("converted from its ICC profile to sRGB", "alpha blended onto white")


def test_grey_with_an_rgb_profile_stays_grey(tmp_path):
    profile = _srgb_profile()
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=profile)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, values)
    assert image.notes == ()


def test_cmyk_profile(tmp_path):
    source = Image.new("CMYK", (2, 1), (0, 0, 0, 0))
    source.putpixel((1, 0), (255, 0, 0, 0))
    source.save(tmp_path / "a.tif", icc_profile=_cmyk_profile())
    image = read_image(tmp_path / "a.tif")
    # Without the profile the second pixel would be cyan.
    np.testing.assert_allclose(image.pixels, [[[255] * 3, [0] * 3]], atol=3)
    assert image.notes == ("CMYK converted to RGB", "converted from its ICC profile to sRGB")


@pytest.mark.parametrize("gamma", [1.8, 2.6])
def test_grey_profile(tmp_path, gamma):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=_grey_profile(gamma))
    image = read_image(tmp_path / "a.png")
    light = (values / 255) ** gamma
    expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert image.pixels.shape == (16, 16)
    np.testing.assert_allclose(image.pixels, expected * 255, atol=1.5)
    assert image.notes == ("converted from its ICC profile to sRGB",)


def test_useless_profiles_are_ignored_with_a_note(tmp_path):
    Image.fromarray(_rgb()).save(tmp_path / "a.png", icc_profile=b"no profile at all")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, _rgb())
    assert image.notes == ("unreadable ICC profile ignored",)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(_rgb()).save(tmp_path / "a.png", icc_profile=lab)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, _rgb())
    assert image.notes == ("ICC profile ignored, it is for another kind of image",)
