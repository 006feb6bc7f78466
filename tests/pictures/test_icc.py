"""Embedded ICC profiles: sRGB is left alone, others are converted, useless ones are noted."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from handmade import PRIMARIES, icc_profile, rgb_profile
from PIL import Image, ImageCms

from pictures.images import read_image


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


def _grey_profile(gamma):
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return icc_profile(b"GRAYXYZ ", {b"kTRC": curve})


def _cmyk_profile():
    """An 8-bit table with two points an ink, in Lab: paper is white, any ink is black."""
    white, black = (255, 128, 128), (0, 128, 128)
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    colours = b"".join(bytes(white if i == 0 else black) for i in range(16))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + colours + ramp * 3
    return icc_profile(b"CMYKLab ", {b"A2B0": table})


def test_srgb_profile_changes_nothing(tmp_path):
    profile = _srgb_profile()
    Image.fromarray(_rgb()).save(tmp_path / "a.png", icc_profile=profile)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, _rgb())
    assert image.notes == ("sRGB profile dropped",)


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
    assert image.notes == ("sRGB profile dropped",)


def test_grey_stored_as_rgb_stays_grey_where_the_conversion_leaves_it_grey(tmp_path):
    values = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    profile = rgb_profile(PRIMARIES["Adobe RGB"], lambda x: x**2.2)
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=profile)
    image = read_image(tmp_path / "a.png")
    assert image.pixels.shape == (16, 16)
    assert image.notes == ("converted from its ICC profile to sRGB", "grey stored as RGB")
    # With another curve for red, what is stored as grey is shown in colour.
    profile = rgb_profile(PRIMARIES["sRGB"], lambda x: x, lambda x: x**2.2, lambda x: x**2.2)
    Image.fromarray(values).save(tmp_path / "a.png", icc_profile=profile)
    assert read_image(tmp_path / "a.png").pixels.shape == (16, 16, 3)


def test_cmyk_profile(tmp_path):
    source = Image.new("CMYK", (2, 1), (0, 0, 0, 0))
    source.putpixel((1, 0), (255, 0, 0, 0))
    source.save(tmp_path / "a.tif", icc_profile=_cmyk_profile())
    image = read_image(tmp_path / "a.tif")
    # Without the profile the second pixel would be cyan.
    np.testing.assert_allclose(image.pixels, [[255, 0]], atol=3)
    assert image.notes == (
        "CMYK converted to RGB",
        "converted from its ICC profile to sRGB",
        "grey stored as CMYK",
    )


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
