"""Images of every kind come in as 8-bit grey or RGB, upright, opaque, and each change is noted."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from pictures import samples
from pictures.images import ImageError, read_image


def _rgb(height=24, width=31, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _write_raw_png(path, samples_, colour_type, depth=16, extra=b""):
    """A PNG written by hand: `samples_` is (H, W * channels); Pillow writes no 16-bit RGB."""
    height, columns = samples_.shape
    width = columns // {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    kind = ">u2" if depth == 16 else "u1"
    rows = b"".join(b"\0" + row.astype(kind).tobytes() for row in samples_)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + _png_chunk(b"IHDR", header)
        + extra
        + _png_chunk(b"IDAT", zlib.compress(rows))
        + _png_chunk(b"IEND", b"")
    )


def _write_tiff(path, values, sample_format=1, photometric=1, planes=None):
    """A little-endian uncompressed TIFF of one strip a plane, (H, W) or (planes, H, W)."""
    values = np.atleast_3d(values) if planes is None else values
    height, width = values.shape[-2:] if planes else values.shape[:2]
    count = planes or 1
    bits, size = values.dtype.itemsize * 8, height * width * values.dtype.itemsize
    start = 8 + 2 + 11 * 12 + 4
    data = start + 8 * count + 2 * count

    def entry(tag, kind, number, value):
        return struct.pack("<HHII", tag, kind, number, value)

    one = count == 1
    directory = [
        entry(256, 3, 1, width),
        entry(257, 3, 1, height),
        entry(258, 3, count, bits if one else start + 8 * count),
        entry(259, 3, 1, 1),
        entry(262, 3, 1, photometric),
        entry(273, 4, count, data if one else start),
        entry(277, 3, 1, count),
        entry(278, 3, 1, height),
        entry(279, 4, count, size if one else start + 4 * count),
        entry(284, 3, 1, 1 if one else 2),
        entry(339, 3, 1, sample_format),
    ]
    offsets = [data + size * i for i in range(count)]
    path.write_bytes(
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(directory))
        + b"".join(directory)
        + b"\0\0\0\0"
        + struct.pack(f"<{count}I", *offsets)
        + struct.pack(f"<{count}I", *[size] * count)
        + struct.pack(f"<{count}H", *[bits] * count)
        + values.tobytes()
    )


# ---- depth ----


def test_16_bit_grey_png_is_rounded(tmp_path):
    values = np.random.default_rng(1).integers(0, 65536, (16, 16))
    values[0, :4] = 0, 128, 129, 65535  # 128 / 257 < 0.5 < 129 / 257
    _write_raw_png(tmp_path / "a.png", values, colour_type=0)
    image = read_image(tmp_path / "a.png")
    assert image.pixels.dtype == np.uint8
    np.testing.assert_array_equal(image.pixels, np.rint(values / 257))
    assert image.notes == ("16-bit reduced to 8-bit",)


@pytest.mark.parametrize("colour_type", [2, 6])
def test_16_bit_colour_png_is_noted(tmp_path, colour_type):
    channels = {2: 3, 6: 4}[colour_type]
    values = np.random.default_rng(1).integers(0, 65536, (8, 9, channels))
    values[..., 3:] = 65535
    _write_raw_png(tmp_path / "a.png", values.reshape(8, -1), colour_type)
    image = read_image(tmp_path / "a.png")
    assert image.pixels.shape == (8, 9, 3)
    assert np.abs(image.pixels - values[..., :3] / 257).max() <= 1
    assert image.notes[0] == "16-bit reduced to 8-bit"
    assert image.notes[1:] == (("opaque alpha channel dropped",) if channels == 4 else ())


def test_16_bit_grey_with_alpha_stays_grey(tmp_path):
    values = np.zeros((4, 5, 2), np.int64)
    values[..., 0], values[..., 1] = 40000, 65535
    _write_raw_png(tmp_path / "a.png", values.reshape(4, -1), colour_type=4)
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


@pytest.mark.parametrize("header, bits", [(b"P6 2 1 65535\n", 16), (b"P6 2 1 1000\n", 10)])
def test_deep_ppm(tmp_path, header, bits):
    maximum = int(header.split()[-1])
    values = np.array([0, maximum // 3, maximum] * 2, ">u2")
    (tmp_path / "a.ppm").write_bytes(header + values.tobytes())
    image = read_image(tmp_path / "a.ppm")
    np.testing.assert_array_equal(image.pixels[0, 0], np.rint(values[:3] / maximum * 255))
    assert image.notes == (f"{bits}-bit reduced to 8-bit",)


def test_a_wide_8_bit_ppm_is_not_taken_for_a_deep_one(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 5000 1 31\n" + bytes(15000))
    assert read_image(tmp_path / "a.ppm").notes == ()


def test_16_bit_sgi_is_noted(tmp_path):
    Image.fromarray(_rgb()).save(tmp_path / "a.sgi", bpc=2)
    image = read_image(tmp_path / "a.sgi")
    np.testing.assert_array_equal(image.pixels, _rgb())
    assert image.notes == ("16-bit reduced to 8-bit",)


def test_depth_that_only_headers_tell(tmp_path):
    with io.BytesIO() as file:
        Image.fromarray(_rgb()).save(file, format="JPEG2000")
        head = bytearray(file.getvalue())
    with Image.open(io.BytesIO(head)) as image:
        assert samples.bits_per_sample(image, bytes(head)) == 8
        head[head.index(b"\xff\x4f\xff\x51") + 42] = 11  # Ssiz: 12 bits, unsigned
        assert samples.bits_per_sample(image, bytes(head)) == 12
        image.format = "AVIF"
        box = b"....av1C\x81\x00%c\x00"
        depths = [samples.bits_per_sample(image, box % flags) for flags in (0x0C, 0x4C, 0x6C)]
    assert depths == [8, 10, 12]


@pytest.mark.parametrize("dtype", [np.float32, np.uint32, np.int32, np.int16])
def test_samples_without_8_bit_meaning_are_refused(tmp_path, dtype):
    sample_format = {"u": 1, "i": 2, "f": 3}[np.dtype(dtype).kind]
    _write_tiff(tmp_path / "a.tif", np.arange(12, dtype=dtype).reshape(3, 4), sample_format)
    with pytest.raises(ImageError, match="a.tif has (floating|32-bit|signed).*8 or 16 bits"):
        read_image(tmp_path / "a.tif")


def test_tiff_layouts_that_pillow_misreads_are_refused(tmp_path):
    values = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    _write_tiff(tmp_path / "planes.tif", values, photometric=2, planes=3)
    with pytest.raises(ImageError, match="16-bit TIFF in which each colour has its own plane"):
        read_image(tmp_path / "planes.tif")
    _write_tiff(tmp_path / "inverted.tif", values[0], photometric=0)
    with pytest.raises(ImageError, match="16-bit TIFF in which zero means white"):
        read_image(tmp_path / "inverted.tif")


def test_tiff_layouts_near_those_are_read(tmp_path):
    values = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    _write_tiff(tmp_path / "planes.tif", values, photometric=2, planes=3)
    np.testing.assert_array_equal(
        read_image(tmp_path / "planes.tif").pixels, np.moveaxis(values, 0, 2)
    )
    _write_tiff(tmp_path / "inverted.tif", values[0], photometric=0)
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


def test_rgb_stays_rgb_even_if_it_looks_grey(tmp_path):
    Image.new("RGB", (5, 4), (7, 7, 7)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, np.full((4, 5, 3), 7))
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
    key = _png_chunk(b"tRNS", struct.pack(">3H", 10, 20, 30))
    _write_raw_png(tmp_path / "a.png", values, colour_type=2, depth=8, extra=key)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, [[[255, 255, 255], [40, 50, 60]]])
    assert image.notes == ("alpha blended onto white",)


def test_transparent_grey_of_16_bits(tmp_path):
    key = _png_chunk(b"tRNS", struct.pack(">H", 5140))
    # 5141 has the same upper byte as the key: only the whole sample may match.
    _write_raw_png(tmp_path / "a.png", np.array([[5140, 5141]]), colour_type=0, extra=key)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, [[255, 20]])
    assert image.notes == ("16-bit reduced to 8-bit", "alpha blended onto white")


def test_transparent_colour_of_16_bits_is_noted(tmp_path):
    key = _png_chunk(b"tRNS", struct.pack(">3H", 2570, 2570, 2570))
    _write_raw_png(tmp_path / "a.png", np.full((1, 3), 2570), colour_type=2, extra=key)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, [[[10, 10, 10]]])
    assert image.notes == ("16-bit reduced to 8-bit", "16-bit transparent colour ignored")


def test_transparent_grey_of_2_bits(tmp_path):
    key = _png_chunk(b"tRNS", struct.pack(">H", 1))
    row = np.array([[0b00011011, 0, 0, 0]])  # 0, 1, 2, 3 in the first byte; the others are spare
    _write_raw_png(tmp_path / "a.png", row, colour_type=0, depth=2, extra=key)
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, [[0, 255, 170, 255]])  # the second is the key
    assert image.notes == ("alpha blended onto white",)


# ---- orientation, frames ----


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_unreadable_exif_is_ignored_with_a_note(tmp_path, suffix):
    Image.new("RGB", (8, 8), "white").save(tmp_path / f"a{suffix}", exif=b"Exif\0\0no EXIF data")
    image = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image.pixels, np.full((8, 8, 3), 255))
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
    source[0, 0, 3] = 255  # black and opaque, at the top left as stored
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
