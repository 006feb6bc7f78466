"""Images of every kind come in as 8-bit grey or RGB, upright, opaque, and each change is noted."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
from handmade import png_chunk, write_raw_png, write_tiff
from PIL import Image

from pictures import samples
from pictures.containers import read_headers
from pictures.images import ImageError, read_image


def _rgb(height=24, width=31, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---- depth ----


def test_16_bit_grey_png_is_rounded(tmp_path):
    values = np.random.default_rng(1).integers(0, 65536, (16, 16))
    values[0, :4] = 0, 128, 129, 65535  # 128 / 257 < 0.5 < 129 / 257
    write_raw_png(tmp_path / "a.png", values, colour_type=0)
    image = read_image(tmp_path / "a.png")
    assert image.pixels.dtype == np.uint8
    np.testing.assert_array_equal(image.pixels, np.rint(values / 257))
    assert image.notes == ("16-bit reduced to 8-bit",)


@pytest.mark.parametrize("colour_type", [2, 6])
def test_16_bit_colour_png_is_noted(tmp_path, colour_type):
    channels = {2: 3, 6: 4}[colour_type]
    values = np.random.default_rng(1).integers(0, 65536, (8, 9, channels))
    values[..., 3:] = 65535
    write_raw_png(tmp_path / "a.png", values.reshape(8, -1), colour_type)
    image = read_image(tmp_path / "a.png")
    assert image.pixels.shape == (8, 9, 3)
    assert np.abs(image.pixels - values[..., :3] / 257).max() <= 1
    assert image.notes[0] == "16-bit reduced to 8-bit"
    assert image.notes[1:] == (("opaque alpha channel dropped",) if channels == 4 else ())


def test_16_bit_grey_with_alpha_stays_grey(tmp_path):
    values = np.zeros((4, 5, 2), np.int64)
    values[..., 0], values[..., 1] = 40000, 65535
    write_raw_png(tmp_path / "a.png", values.reshape(4, -1), colour_type=4)
    image = read_image(tmp_path / "a.png")
    assert image.pixels.shape == (4, 5)
    assert np.abs(image.pixels - 40000 / 257).max() <= 1
    assert image.notes == ("16-bit reduced to 8-bit", "opaque alpha channel dropped")


@pytest.mark.parametrize("suffix", [".tif", ".jp2"])
def test_16_bit_grey_of_other_formats(tmp_path, suffix):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    options = {"irreversible": False} if suffix == ".jp2" else {"compression": "tiff_lzw"}
    Image.fromarray(values).save(tmp_path / f"a{suffix}", **options)
    image = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image.pixels, np.rint(values / 257))
    assert image.notes == ("16-bit reduced to 8-bit",)


PNM = {
    # Kind: what is stored of the samples 0 and 1 of `maximum`, or 1 and 0 of ink.
    "P1": (1, b"1 0"),
    "P2": (100, b"0 100"),
    "P2 deep": (1000, b"0 1000"),
    "P3": (100, b"0 0 0 100 0 100"),
    "P3 deep": (1000, b"0 0 0 1000 0 1000"),
    "P4": (1, bytes([0b10000000])),
    "P5": (100, bytes([0, 100])),
    "P5 deep": (1000, struct.pack(">2H", 0, 1000)),
    "P5 full": (65535, struct.pack(">2H", 0, 65535)),
    "P6": (100, bytes([0, 0, 0, 100, 0, 100])),
    "P6 deep": (1000, struct.pack(">6H", 0, 0, 0, 1000, 0, 1000)),
}


@pytest.mark.parametrize("kind", PNM)
def test_all_kinds_of_pnm(tmp_path, kind):
    maximum, body = PNM[kind]
    header = b"%s\n2 1\n" % kind[:2].encode()
    if kind not in ("P1", "P4"):
        header += b"%d\n" % maximum
    (tmp_path / "a.pnm").write_bytes(header + body)
    image = read_image(tmp_path / "a.pnm")
    in_colour = kind[:2] in ("P3", "P6")
    np.testing.assert_array_equal(
        image.pixels, [[[0] * 3, [255, 0, 255]] if in_colour else [0, 255]]
    )
    deep = f"{maximum.bit_length()}-bit reduced to 8-bit"
    assert image.notes == ((deep,) if maximum > 255 else ())


@pytest.mark.parametrize("header, bits", [(b"P6 2 1 65535\n", 16), (b"P6 2 1 1000\n", 10)])
def test_deep_ppm(tmp_path, header, bits):
    maximum = int(header.split()[-1])
    values = np.array([0, maximum // 3, maximum] * 2, ">u2")
    (tmp_path / "a.ppm").write_bytes(header + values.tobytes())
    image = read_image(tmp_path / "a.ppm")
    np.testing.assert_array_equal(image.pixels[0, 0], np.rint(values[:3] / maximum * 255))
    assert image.notes == (f"{bits}-bit reduced to 8-bit",)


def test_a_wide_8_bit_ppm_is_not_taken_for_a_deep_one(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 5000 1 31\n" + bytes([31, 0, 0]) * 5000)
    assert read_image(tmp_path / "a.ppm").notes == ()


def test_16_bit_sgi_is_noted(tmp_path):
    Image.fromarray(_rgb()).save(tmp_path / "a.sgi", bpc=2)
    image = read_image(tmp_path / "a.sgi")
    np.testing.assert_array_equal(image.pixels, _rgb())
    assert image.notes == ("16-bit reduced to 8-bit",)


@pytest.mark.parametrize("container", [True, False])
def test_depth_that_only_the_header_of_jpeg_2000_tells(tmp_path, container):
    path = tmp_path / ("a.jp2" if container else "a.j2k")
    Image.fromarray(_rgb()).save(path)
    data = bytearray(path.read_bytes())
    with Image.open(path) as image:
        assert samples.bits_per_sample(image, read_headers(io.BytesIO(data))) == 8
        data[data.index(b"\xff\x4f\xff\x51") + 42] = 11  # Ssiz: 12 bits, unsigned
        assert samples.bits_per_sample(image, read_headers(io.BytesIO(data))) == 12


def test_samples_that_look_like_a_header_of_jpeg_2000(tmp_path):
    values = np.full((8, 8, 3), 30, np.uint8)
    values[0, :2] = [[0xFF, 0x4F, 0xFF], [0x51, 30, 30]]
    Image.fromarray(values).save(tmp_path / "a.ppm")
    assert read_image(tmp_path / "a.ppm").notes == ()


@pytest.mark.parametrize("dtype", [np.float32, np.uint32, np.int32, np.int16])
def test_samples_without_8_bit_meaning_are_refused(tmp_path, dtype):
    sample_format = {"u": 1, "i": 2, "f": 3}[np.dtype(dtype).kind]
    write_tiff(tmp_path / "a.tif", np.arange(12, dtype=dtype).reshape(3, 4), sample_format)
    with pytest.raises(ImageError, match="a.tif has (floating|32-bit|signed).*8 or 16 bits"):
        read_image(tmp_path / "a.tif")


def test_tiff_layouts_that_pillow_misreads_are_refused(tmp_path):
    values = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    write_tiff(tmp_path / "planes.tif", values, photometric=2, planes=3)
    with pytest.raises(ImageError, match="16-bit TIFF in which each colour has its own plane"):
        read_image(tmp_path / "planes.tif")
    write_tiff(tmp_path / "inverted.tif", values[0], photometric=0)
    with pytest.raises(ImageError, match="16-bit TIFF in which zero means white"):
        read_image(tmp_path / "inverted.tif")


def test_tiff_layouts_near_those_are_read(tmp_path):
    values = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    write_tiff(tmp_path / "planes.tif", values, photometric=2, planes=3)
    np.testing.assert_array_equal(
        read_image(tmp_path / "planes.tif").pixels, np.moveaxis(values, 0, 2)
    )
    write_tiff(tmp_path / "inverted.tif", values[0], photometric=0)
    np.testing.assert_array_equal(read_image(tmp_path / "inverted.tif").pixels, 255 - values[0])


# ---- grey, palette, colour ----


@pytest.mark.parametrize("mode", ["L", "1"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".gif"])
def test_grey_stays_grey(tmp_path, mode, suffix):
    source = Image.fromarray(_rgb()[..., 0]).convert(mode)
    source.save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image.pixels, np.asarray(source.convert("L")))
    assert image.notes == ()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_grey_stored_as_rgb_becomes_grey(tmp_path, mode):
    values = np.random.default_rng(5).integers(0, 256, (200, 7), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, values)
    opaque = ("opaque alpha channel dropped",) if mode == "RGBA" else ()
    assert image.notes == ("grey stored as RGB", *opaque)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_one_level_in_the_last_pixel_makes_rgb(tmp_path, channel):
    values = np.full((200, 7, 3), 100, np.uint8)
    values[-1, -1, channel] = 101
    Image.fromarray(values).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, values)
    assert image.notes == ()


def _palette_image(colours):
    source = Image.new("P", (4, 2))
    source.putpalette(sum(colours, []))
    source.putdata([0, 1, 2, 1, 2, 0, 1, 0])
    return source


def test_palette(tmp_path):
    colours = [[200, 10, 10], [0, 250, 30], [9, 9, 9]]
    _palette_image(colours).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels[0, :3], colours)
    assert image.pixels.shape == (2, 4, 3) and image.notes == ()


def test_grey_palette(tmp_path):
    _palette_image([[200] * 3, [0] * 3, [9] * 3]).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels[0], [200, 0, 9, 0])
    assert image.pixels.shape == (2, 4) and image.notes == ()


def test_palette_with_transparency(tmp_path):
    colours = [[200, 10, 10], [0, 250, 30], [9, 9, 9]]
    _palette_image(colours).save(tmp_path / "a.png", transparency=bytes([255, 0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tmp_path / "a.png")
    blended = round((9 * 128 + 255 * 127) / 255)
    np.testing.assert_array_equal(image.pixels[0, :3], [colours[0], [255] * 3, [blended] * 3])
    assert image.notes == ("alpha blended onto white",)


def test_cmyk(tmp_path):
    Image.new("CMYK", (6, 5), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels, np.full((5, 6, 3), (255, 0, 0)))
    assert image.notes == ("CMYK converted to RGB",)


# ---- alpha ----


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_blended_onto_white_with_rounding(tmp_path, mode):
    source = np.random.default_rng(3).integers(0, 256, (64, 64, len(mode)), dtype=np.uint8)
    Image.fromarray(source).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    colours, alpha = source[..., :-1].astype(np.float64), source[..., -1:] / 255
    expected = np.rint(colours * alpha + 255 * (1 - alpha))
    np.testing.assert_array_equal(image.pixels, expected if mode == "RGBA" else expected[..., 0])
    assert image.notes == ("alpha blended onto white",)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_dropped(tmp_path, mode):
    source = Image.fromarray(_rgb()).convert(mode[:-1])
    opaque = source.copy()
    opaque.putalpha(255)
    opaque.save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, np.asarray(source))
    assert image.notes == ("opaque alpha channel dropped",)


def test_transparent_colour(tmp_path):
    values = np.array([[10, 20, 30, 40, 50, 60]])
    key = png_chunk(b"tRNS", struct.pack(">3H", 10, 20, 30))
    write_raw_png(tmp_path / "a.png", values, colour_type=2, depth=8, extra=key)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, [[[255, 255, 255], [40, 50, 60]]])
    assert image.notes == ("alpha blended onto white",)


def test_transparent_grey_of_16_bits(tmp_path):
    key = png_chunk(b"tRNS", struct.pack(">H", 5140))
    # 5141 has the same upper byte as the key: only the whole sample may match.
    write_raw_png(tmp_path / "a.png", np.array([[5140, 5141]]), colour_type=0, extra=key)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, [[255, 20]])
    assert image.notes == ("16-bit reduced to 8-bit", "alpha blended onto white")


def test_transparent_colour_of_16_bits_is_noted(tmp_path):
    key = png_chunk(b"tRNS", struct.pack(">3H", 2570, 2570, 2570))
    write_raw_png(tmp_path / "a.png", np.array([[2570, 2570, 5140]]), colour_type=2, extra=key)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, [[[10, 10, 20]]])
    assert image.notes == ("16-bit reduced to 8-bit", "16-bit transparent colour ignored")


def test_transparent_grey_of_2_bits(tmp_path):
    key = png_chunk(b"tRNS", struct.pack(">H", 1))
    row = np.array([[0b00011011, 0, 0, 0]])  # 0, 1, 2, 3 in the first byte; the others are spare
    write_raw_png(tmp_path / "a.png", row, colour_type=0, depth=2, extra=key)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, [[0, 255, 170, 255]])  # the second is the key
    assert image.notes == ("alpha blended onto white",)


# ---- orientation, frames ----


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_unreadable_exif_is_ignored_with_a_note(tmp_path, suffix):
    Image.new("RGB", (8, 8), "red").save(tmp_path / f"a{suffix}", exif=b"Exif\0\0no EXIF data")
    image = read_image(tmp_path / f"a{suffix}")
    assert image.pixels.shape == (8, 8, 3)
    assert image.notes == ("unreadable EXIF data ignored",)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, suffix, orientation):
    upright = np.full((16, 32), 255, np.uint8)
    upright[:8, :8], upright[:8, 8:16] = 0, 128  # tells all eight orientations apart
    stored = {  # rows and columns of the stored array, as the EXIF standard words them
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / f"a{suffix}", exif=exif)
    image = read_image(tmp_path / f"a{suffix}")
    assert image.pixels.shape == upright.shape
    assert np.abs(image.pixels.astype(int) - upright).max() <= (3 if suffix == ".jpg" else 0)
    words = {1: None, 2: "mirrored", 4: "mirrored", 5: "rotated and mirrored"}
    words.update({3: "rotated", 6: "rotated", 8: "rotated", 7: "rotated and mirrored"})
    word = words[orientation]
    assert image.notes == ((f"{word} by its EXIF orientation",) if word else ())


def test_orientation_turns_the_alpha_channel_too(tmp_path):
    source = np.zeros((2, 3, 4), np.uint8)
    source[..., 1] = 255
    source[0, 0, 3] = 255  # green and opaque, at the top left as stored
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(source).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    expected = np.full((3, 2), 255)
    expected[0, 1] = 0  # a quarter turn clockwise brings it to the top right
    np.testing.assert_array_equal(image.pixels[..., 0], expected)
    assert image.notes == ("rotated by its EXIF orientation", "alpha blended onto white")


@pytest.mark.parametrize("suffix", [".gif", ".tif", ".png", ".webp"])
def test_first_of_several_frames(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, np.full((8, 8, 3), (255, 0, 0)))
    assert image.notes == ("first of 3 frames",)


# ---- metadata ----


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif"])
def test_dropped_metadata_are_noted(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x8769] = {0x9003: "2020:01:01 00:00:00"}
    options = {"quality": 100} if suffix in (".webp", ".avif") else {}
    Image.new("RGB", (8, 8), "red").save(tmp_path / f"a{suffix}", exif=exif.tobytes(), **options)
    assert read_image(tmp_path / f"a{suffix}").notes == ("EXIF dropped",)


def test_dropped_xmp_is_noted(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    for options, note in (({}, "XMP dropped"), ({"exif": exif}, "EXIF and XMP dropped")):
        Image.new("RGB", (8, 8), "red").save(tmp_path / "a.jpg", xmp=b"<x:xmpmeta/>", **options)
        assert read_image(tmp_path / "a.jpg").notes == (note,)


def test_xmp_does_not_turn_an_avif(tmp_path):
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    Image.new("RGB", (8, 16), "red").save(tmp_path / "a.avif", xmp=xmp)
    image = read_image(tmp_path / "a.avif")
    assert image.pixels.shape == (16, 8, 3)
    assert image.notes == ("XMP dropped",)
