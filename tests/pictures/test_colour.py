"""Colours that files state outside ICC profiles, against LittleCMS with a profile of the same."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from handmade import (
    PRIMARIES,
    by_littlecms,
    colorants,
    lattice,
    png_chunk,
    power,
    pq_light,
    pq_signal,
    rgb_profile,
    srgb,
    srgb_signal,
    write_raw_png,
)
from PIL import Image, ImageCms

from pictures.images import read_image


def _read_png(tmp_path, pixels, *chunks):
    values = pixels if pixels.ndim == 2 else pixels.reshape(len(pixels), -1)
    extra = b"".join(png_chunk(name, data) for name, data in chunks)
    colour_type = 0 if pixels.ndim == 2 else 2
    write_raw_png(tmp_path / "a.png", values, colour_type, depth=8, extra=extra)
    return read_image(tmp_path / "a.png")


def _cicp(primaries, transfer, full=1):
    return b"cICP", bytes([primaries, transfer, 0, full])


def _gama(gamma):
    return b"gAMA", struct.pack(">I", round(gamma * 100000))


def _chrm(primaries):
    return b"cHRM", struct.pack(">8I", *(round(v * 100000) for v in primaries))


def _iccp(profile):
    with io.BytesIO() as file:
        Image.new("L", (1, 1)).save(file, format="PNG", icc_profile=profile)
        data = file.getvalue()
    at = data.index(b"iCCP")
    return b"iCCP", data[at + 4 : at + 4 + int.from_bytes(data[at - 4 : at], "big")]


# ---- the reference itself ----


@pytest.mark.parametrize(
    "name, published",
    [  # as the profiles of their makers have them
        ("Adobe RGB", [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322]]),
        ("Display P3", [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657]]),
        ("BT.2020", [[0.67348, 0.16566, 0.12505], [0.27904, 0.67533, 0.04561]]),
    ],
)
def test_handmade_profiles_have_the_published_colorants(name, published):
    np.testing.assert_allclose(colorants(PRIMARIES[name])[:2], published, atol=3e-4)


# ---- PNG ----


@pytest.mark.parametrize(
    "codes, name, curve",
    [
        ((12, 13), "Display P3", srgb),
        ((9, 1), "BT.2020", srgb),
        ((9, 14), "BT.2020", srgb),
        ((1, 8), "sRGB", power(1)),
        ((1, 4), "sRGB", power(2.2)),
        ((4, 4), "BT.470 M", power(2.2)),
        ((5, 5), "BT.470 BG", power(2.8)),
        ((6, 8), "SMPTE 170M", power(1)),
        ((7, 4), "SMPTE 170M", power(2.2)),
        ((8, 13), "film", srgb),
        ((10, 13), "XYZ", srgb),
        ((11, 13), "DCI-P3", srgb),
        ((22, 4), "EBU 3213", power(2.2)),
        ((2, 8), "sRGB", power(1)),
        ((12, 2), "Display P3", srgb),
    ],
)
def test_png_cicp(tmp_path, codes, name, curve):
    image = _read_png(tmp_path, lattice(), _cicp(*codes))
    expected = by_littlecms(lattice(), rgb_profile(PRIMARIES[name], curve))
    assert np.abs(image.pixels.astype(int) - expected).max() <= 1
    (note,) = image.notes
    assert note.startswith("converted from ") and note.endswith(" to sRGB")


def test_names_in_notes(tmp_path):
    def note(*chunks):
        return _read_png(tmp_path, lattice(51), *chunks).notes

    assert note(_cicp(12, 13)) == ("converted from Display P3 to sRGB",)
    assert note(_cicp(1, 8)) == ("converted from BT.709 with linear samples to sRGB",)
    assert note(_gama(1)) == ("converted from its gAMA of 1 to sRGB",)
    assert note(_chrm(PRIMARIES["Adobe RGB"])) == ("converted from its gAMA and cHRM to sRGB",)
    hdr = "(white at 203 cd/m2, brighter clipped)"
    assert note(_cicp(9, 16)) == (f"converted from BT.2020 PQ {hdr} to sRGB",)
    assert note(_cicp(9, 18)) == (f"converted from BT.2020 HLG {hdr} to sRGB",)


@pytest.mark.parametrize("codes", [(1, 13), (1, 1), (1, 6), (1, 15), (2, 2)])
def test_png_cicp_that_means_srgb(tmp_path, codes):
    image = _read_png(tmp_path, lattice(), _cicp(*codes))
    np.testing.assert_array_equal(image.pixels, lattice())
    assert image.notes == ()


def test_unknown_cicp_is_ignored_with_a_note(tmp_path):
    image = _read_png(tmp_path, lattice(), _cicp(9, 9), _gama(1))
    expected = by_littlecms(lattice(), rgb_profile(PRIMARIES["sRGB"], power(1)))
    assert np.abs(image.pixels.astype(int) - expected).max() <= 1
    assert image.notes == (
        "unknown colour code 9/9 ignored",
        "converted from its gAMA of 1 to sRGB",
    )


def test_narrow_range_of_a_png(tmp_path):
    values = np.array([[0, 16, 126, 235, 255]], np.uint8)
    image = _read_png(tmp_path, values, _cicp(1, 13, full=0))
    np.testing.assert_array_equal(image.pixels, [[0, 0, 128, 255, 255]])
    assert image.notes == ("converted from BT.709 to sRGB",)


@pytest.mark.parametrize("gamma", [1, 1 / 1.8, 1 / 2.6])
@pytest.mark.parametrize("name", ["sRGB", "Adobe RGB", "DCI-P3"])
def test_png_gama_and_chrm(tmp_path, gamma, name):
    image = _read_png(tmp_path, lattice(), _gama(gamma), _chrm(PRIMARIES[name]))
    profile = rgb_profile(PRIMARIES[name], power(1 / round(gamma, 5)))
    expected = by_littlecms(lattice(), profile)
    assert np.abs(image.pixels.astype(int) - expected).max() <= 1
    assert image.notes == ("converted from its gAMA and cHRM to sRGB",)


def test_png_chrm_alone_comes_with_the_curve_of_srgb(tmp_path):
    image = _read_png(tmp_path, lattice(), _chrm(PRIMARIES["Display P3"]))
    expected = by_littlecms(lattice(), rgb_profile(PRIMARIES["Display P3"], srgb))
    assert np.abs(image.pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("gamma", [1, 1 / 1.8])
def test_png_gama_of_grey(tmp_path, gamma):
    values = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = _read_png(tmp_path, values, _gama(gamma), _chrm(PRIMARIES["DCI-P3"]))
    expected = srgb_signal((values / 255) ** (1 / round(gamma, 5))) * 255
    np.testing.assert_allclose(image.pixels, expected, atol=0.53)
    assert image.pixels.shape == (8, 32)


@pytest.mark.parametrize("gamma, is_srgb", [(0.45, True), (0.45455, True), (0.46, True)])
@pytest.mark.parametrize("chrm", [True, False])
def test_png_gama_of_srgb(tmp_path, gamma, is_srgb, chrm):
    chunks = [_gama(gamma)] + chrm * [_chrm(PRIMARIES["sRGB"])]
    image = _read_png(tmp_path, lattice(), *chunks)
    np.testing.assert_array_equal(image.pixels, lattice())
    assert image.notes == ()


@pytest.mark.parametrize("gamma", [0.44, 0.47])
def test_png_gama_that_is_not_srgb_any_more(tmp_path, gamma):
    assert _read_png(tmp_path, lattice(), _gama(gamma)).notes


@pytest.mark.parametrize(
    "chunk",
    [_gama(0), _chrm([0.3127, 0] * 4), _chrm([0.3127, 0.329] * 4), _chrm([0] * 8)],
)
def test_unusable_gama_and_chrm_are_ignored_with_a_note(tmp_path, chunk):
    image = _read_png(tmp_path, lattice(), chunk)
    np.testing.assert_array_equal(image.pixels, lattice())
    assert image.notes == ("unusable gAMA or cHRM ignored",)


def test_png_precedence(tmp_path):
    """What is stated four times counts by the order cICP, iCCP, sRGB, gAMA; EXIF is last."""
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 2}
    profile = rgb_profile(PRIMARIES["sRGB"], power(1.5))
    stated = [
        (_cicp(12, 13), "converted from Display P3 to sRGB"),
        (_iccp(profile), "converted from its ICC profile to sRGB"),
        ((b"sRGB", b"\0"), None),
        (_gama(1), "converted from its gAMA of 1 to sRGB"),
        ((b"eXIf", exif.tobytes()[6:]), "converted from Adobe RGB to sRGB"),
    ]
    for first, (_, note) in enumerate(stated):
        chunks = [chunk for chunk, _ in stated[first:]]
        for order in (chunks, chunks[::-1]):  # of which nothing depends on the place in the file
            notes = _read_png(tmp_path, lattice(), *order).notes
            dropped = ("ICC profile dropped, cICP counts",) if first == 0 else ()
            assert notes == (*dropped, *filter(None, [note]), "EXIF dropped")


def test_colours_behind_a_long_text(tmp_path):
    image = _read_png(tmp_path, lattice(), (b"tEXt", b"a\0" + b"b" * 200000), _cicp(12, 13))
    assert image.notes == ("converted from Display P3 to sRGB",)


def test_pictures_of_all_modes_are_converted(tmp_path):
    """Alpha, palette and 16 bits a sample do not keep colours from being converted."""
    colour = np.array([[[200, 100, 50]]], np.uint8)
    expected = by_littlecms(colour, rgb_profile(PRIMARIES["Display P3"], srgb))
    extra = png_chunk(*_cicp(12, 13))
    write_raw_png(tmp_path / "a.png", np.array([[200, 100, 50, 255]]), 6, 8, extra)
    write_raw_png(tmp_path / "b.png", np.array([[200, 100, 50]]) * 257, 2, 16, extra)
    for name in ("a.png", "b.png"):
        pixels = read_image(tmp_path / name).pixels
        assert np.abs(pixels.astype(int) - expected).max() <= 1
    Image.fromarray(colour).quantize(2).save(tmp_path / "c.png")
    data = (tmp_path / "c.png").read_bytes()
    (tmp_path / "c.png").write_bytes(data[:33] + extra + data[33:])
    pixels = read_image(tmp_path / "c.png").pixels
    assert np.abs(pixels.astype(int) - expected).max() <= 1


# ---- PQ and HLG ----


def test_pq_against_littlecms(tmp_path):
    pixels = (lattice() * np.float32(0.58)).astype(np.uint8)  # up to 203 cd/m2
    image = _read_png(tmp_path, pixels, _cicp(9, 16))
    expected = by_littlecms(pixels, rgb_profile(PRIMARIES["BT.2020"], pq_light))
    assert np.abs(image.pixels.astype(int) - expected).max() <= 1


def test_what_is_wrapped_in_pq_comes_out_as_it_was(tmp_path):
    levels = np.arange(256, dtype=np.uint8)
    wrapped = np.rint(pq_signal(203 * srgb(levels / 255)) * 255).astype(np.uint8)
    wrapped = np.stack([wrapped, 0 * wrapped, 0 * wrapped], axis=-1)[None]
    image = _read_png(tmp_path, wrapped, _cicp(1, 16))
    assert np.abs(image.pixels[0, :, 0].astype(int) - levels).max() <= 4  # 8 bits of PQ are few
    assert image.pixels[..., 1:].max() == 0


@pytest.mark.parametrize("transfer, white", [(16, pq_signal(203)), (18, 0.75)])
def test_reference_white(tmp_path, transfer, white):
    """BT.2408: 203 cd/m2 is 58 % of PQ and 75 % of HLG; all that is brighter is white too."""
    white = round(float(white) * 255)
    values = np.array([[0, white - 10, white, white + 60, 255]], np.uint8)
    image = _read_png(tmp_path, values, _cicp(9, transfer))
    assert image.pixels[0, 0] == 0 and 200 < image.pixels[0, 1] < 250
    assert image.pixels[0, 2] >= 253 and (image.pixels[0, 3:] == 255).all()


def test_hlg_colours(tmp_path):
    """A colour by hand: BT.2100's inverse OETF, OOTF of gamma 1.2, then the matrix of BT.2087."""
    signal = np.array([140, 90, 60])
    scene = (signal / 255) ** 2 / 3  # below half: 140 is not
    scene[0] = (np.exp((140 / 255 - 0.55991073) / 0.17883277) + 0.28466892) / 12
    light = scene * (scene @ [0.2627, 0.6780, 0.0593]) ** 0.2 * 1000 / 203
    matrix = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
    expected = srgb_signal(matrix @ light) * 255
    image = _read_png(tmp_path, signal.astype(np.uint8)[None, None], _cicp(9, 18))
    np.testing.assert_allclose(image.pixels[0, 0], expected, atol=0.7)
    grey = _read_png(tmp_path, np.array([[100]], np.uint8), _cicp(9, 18)).pixels
    light = ((100 / 255) ** 2 / 3) ** 1.2 * 1000 / 203
    np.testing.assert_allclose(grey, srgb_signal(light) * 255, atol=0.6)


# ---- EXIF ----


def _save_with_exif(path, tags, interop=None, **options):
    exif = Image.Exif()
    if interop:
        tags = {**tags, 0xA005: {1: interop}}
    exif[0x8769] = tags
    Image.fromarray(lattice()).save(path, exif=exif.tobytes(), **options)


@pytest.mark.parametrize(
    "suffix, tags, interop",
    [
        (".jpg", {0xA001: 0xFFFF}, "R03"),
        (".jpg", {}, "R03"),
        (".jpg", {0xA001: 2}, None),
        (".png", {0xA001: 0xFFFF}, "R03"),
        (".webp", {0xA001: 0xFFFF}, "R03"),
        (".tif", {0xA001: 2}, None),  # Pillow loses the index as it writes
    ],
)
def test_adobe_rgb_by_exif(tmp_path, suffix, tags, interop):
    path = tmp_path / f"a{suffix}"
    _save_with_exif(path, tags, interop, **({"lossless": True} if suffix == ".webp" else {}))
    with Image.open(path) as stored:
        profile = rgb_profile(PRIMARIES["Adobe RGB"], power(563 / 256))
        expected = by_littlecms(np.asarray(stored), profile)
    image = read_image(path)
    assert np.abs(image.pixels.astype(int) - expected).max() <= 1
    assert image.notes == ("converted from Adobe RGB to sRGB", "EXIF dropped")


@pytest.mark.parametrize("tags, interop", [({0xA001: 1}, "R98"), ({0xA001: 0xFFFF}, None)])
def test_other_colours_by_exif_are_taken_for_srgb(tmp_path, tags, interop):
    _save_with_exif(tmp_path / "a.png", tags, interop)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, lattice())
    assert image.notes == ("EXIF dropped",)


def test_icc_profile_goes_before_exif(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    _save_with_exif(tmp_path / "a.png", {}, "R03", icc_profile=profile)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, lattice())
    assert image.notes == ("sRGB profile dropped", "EXIF dropped")
