"""AVIF, HEIC and JPEG XL: colours, depth, size and place of what Pillow does not tell; plugins."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from handmade import PRIMARIES, by_littlecms, power, pq_light, rgb_profile, srgb
from PIL import Image

from pictures import images
from pictures.containers import Colours, Headers, read_headers
from pictures.images import ImageError, read_image

ROOT = Path(__file__).parents[2]


# ---- colours of AVIF and HEIC ----


def _blocks():
    """(64, 64, 3) in blocks, of colours that stay in range whichever way YCbCr is read."""
    colours = np.random.default_rng(0).integers(80, 176, (4, 4, 3), dtype=np.uint8)
    return np.repeat(np.repeat(colours, 16, axis=0), 16, axis=1)


def _save(path, codes=(1, 13, 6), full=True, **options):
    """An AVIF or HEIC picture, almost lossless, with the code points in its nclx property."""
    if path.suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
        options.update(chroma=444, matrix_coefficients=6, full_range_flag=int(full))
    else:
        options.update(subsampling="4:4:4", range="full" if full else "limited")
    kind = "HEIF" if path.suffix == ".heic" else "AVIF"
    with io.BytesIO() as file:
        Image.fromarray(_blocks()).save(file, kind, quality=100, **options)
        data = file.getvalue()
    at = data.find(b"nclx") + 4
    path.write_bytes(data[:at] + struct.pack(">3H", *codes) + data[at + 6 :] if at > 3 else data)


def _stored(path):
    with Image.open(path) as image:
        return np.asarray(image)


KINDS = pytest.mark.parametrize("suffix", [".avif", ".heic"])


@KINDS
@pytest.mark.parametrize(
    "codes, name, curve",
    [
        ((12, 13, 6), "Display P3", srgb),
        ((9, 14, 6), "BT.2020", srgb),
        ((1, 8, 6), "sRGB", power(1)),
        ((9, 16, 6), "BT.2020", pq_light),
    ],
)
def test_nclx(tmp_path, suffix, codes, name, curve):
    path = tmp_path / f"a{suffix}"
    _save(path, codes)
    stored = _stored(path)
    if codes[1] == 16:
        stored = np.minimum(stored, 148)  # 203 cd/m2, which LittleCMS clips before its matrix
    expected = by_littlecms(stored, rgb_profile(PRIMARIES[name], curve))
    image = read_image(path)
    dark = (stored < 148).all(axis=2) if codes[1] == 16 else np.ones(stored.shape[:2], bool)
    assert dark.mean() > 0.2
    assert np.abs(image.pixels.astype(int) - expected)[dark].max() <= 1
    assert len(image.notes) == 1 and image.notes[0].startswith("converted from ")


@KINDS
def test_nclx_of_srgb(tmp_path, suffix):
    _save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    assert np.abs(image.pixels.astype(int) - _blocks()).max() <= 2
    assert image.notes == ()


@KINDS
def test_icc_profile_goes_before_nclx(tmp_path, suffix):
    profile = rgb_profile(PRIMARIES["Adobe RGB"], power(2.2))
    _save(tmp_path / f"a{suffix}", (9, 16, 6), icc_profile=profile)
    image = read_image(tmp_path / f"a{suffix}")
    expected = by_littlecms(_stored(tmp_path / f"a{suffix}"), profile)
    assert np.abs(image.pixels.astype(int) - expected).max() <= 1
    assert image.notes == ("converted from its ICC profile to sRGB",)


def _ycbcr(red_share, blue_share):
    luma = [red_share, 1 - red_share - blue_share, blue_share]
    blue = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue_share))
    red = (np.array([1, 0, 0]) - luma) / (2 * (1 - red_share))
    return np.array([luma, blue, red])


@KINDS
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(
    "matrix, shares", [(6, (0.299, 0.114)), (1, (0.2126, 0.0722)), (9, (0.2627, 0.0593))]
)
def test_readers_obey_the_matrix_and_the_range(tmp_path, suffix, full, matrix, shares):
    """What was coded with BT.601's matrix is read with the one that the header states."""
    path = tmp_path / f"a{suffix}"
    _save(path, (1, 13, matrix), full)
    change = np.linalg.inv(_ycbcr(*shares)) @ _ycbcr(0.299, 0.114)
    image = read_image(path)
    assert np.abs(image.pixels - _blocks() @ change.T).max() <= 4
    assert image.notes == ()


def _box(kind, *contents):
    data = b"".join(contents)
    return struct.pack(">I4s", 8 + len(data), kind) + data


def _heif(primary, properties, associations, wide=False, before=b""):
    """The boxes of an AVIF file; `associations` are the properties, from 1, of each item."""
    form = ">IB" if wide else ">HB"
    entries = b"".join(
        struct.pack(form, item, len(indices))
        + b"".join(struct.pack(">H", 0x8000 | i) if wide else bytes([0x80 | i]) for i in indices)
        for item, indices in associations.items()
    )
    version = b"\1\0\0\1" if wide else bytes(4)
    ipma = _box(b"ipma", version, struct.pack(">I", len(associations)), entries)
    pitm = _box(b"pitm", version[:1] + bytes(3), struct.pack(">I" if wide else ">H", primary))
    iprp = _box(b"iprp", _box(b"ipco", *properties), ipma)
    ftyp = _box(b"ftyp", b"mif1", bytes(4), b"mif1avif")
    return ftyp + before + _box(b"meta", bytes(4), pitm, iprp)


def _nclx(primaries, transfer):
    return _box(b"colr", b"nclx", struct.pack(">3HB", primaries, transfer, 9, 128))


@pytest.mark.parametrize("wide", [False, True])
def test_properties_are_those_of_the_primary_item(wide):
    properties = [
        _nclx(1, 13),
        _box(b"pixi", bytes(4), bytes([1, 8])),
        _nclx(9, 16),
        _box(b"pixi", bytes(4), bytes([3, 10, 10, 10])),
        _box(b"colr", b"prof", b"profile"),
    ]
    file = io.BytesIO(_heif(2, properties, {1: [1, 2], 2: [5, 3, 4], 3: [2]}, wide))
    assert read_headers(file) == Headers("AVIF", 10, Colours(9, 16, False))
    assert file.tell() == 0
    file = io.BytesIO(_heif(3, properties, {1: [1, 4], 3: [2]}, wide))
    assert read_headers(file) == Headers("AVIF", 8)


def test_properties_behind_the_samples():
    for size in (struct.pack(">I4s", 8 + 100000, b"mdat"),
                 struct.pack(">I4sQ", 1, b"mdat", 16 + 100000)):  # fmt: skip
        data = _heif(1, [_nclx(12, 13)], {1: [1]}, before=size + bytes(100000))
        assert read_headers(io.BytesIO(data)).colours == Colours(12, 13, False)


@pytest.mark.parametrize("flags, bits", [(0x0C, 0), (0x4C, 10), (0x6C, 12)])
def test_depth_of_av1(flags, bits):
    properties = [_box(b"av1C", bytes([0x81, 0, flags, 0]))]
    assert read_headers(io.BytesIO(_heif(1, properties, {1: [1]}))) == Headers("AVIF", bits)


def test_damaged_boxes_state_nothing_or_something():
    data = _heif(1, [_nclx(12, 13), _box(b"pixi", bytes(4), bytes([1, 8]))], {1: [1, 2]}, True)
    rng = np.random.default_rng(0)
    for length in range(len(data)):
        assert read_headers(io.BytesIO(data[:length])).colours in (None, Colours(12, 13, False))
    for _ in range(2000):
        damaged = bytearray(data)
        for position in rng.integers(0, len(data), 3):
            damaged[position] = rng.integers(0, 256)
        assert isinstance(read_headers(io.BytesIO(damaged)), Headers)


# ---- HEIC ----


def test_heic_of_10_bits(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    values = np.full((32, 32, 3), (40000, 20000, 60000), np.uint16)
    file = heif.from_bytes(mode="RGB;16", size=(32, 32), data=values.tobytes())
    file.save(tmp_path / "a.heic", quality=-1)
    image = read_image(tmp_path / "a.heic")
    np.testing.assert_allclose(image.pixels, values / 257, atol=2)
    assert image.notes == ("10-bit reduced to 8-bit",)


def test_heic_is_turned_once(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 64), "red").save(tmp_path / "a.heic", exif=exif.tobytes())
    image = read_image(tmp_path / "a.heic")
    assert image.pixels.shape == (32, 64, 3) and image.notes == ()


def test_the_main_image_of_a_heic_is_read(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    first, *others = (Image.new("RGB", (64, 64), c) for c in ("red", "lime", "blue"))
    options = {"save_all": True, "append_images": others, "primary_index": 1}
    first.save(tmp_path / "a.heic", **options)
    image = read_image(tmp_path / "a.heic")
    assert image.pixels[0, 0, 1] > 240
    assert image.notes == ("main one of 3 images",)


# ---- JPEG XL ----


def _jxl(size=(31, 24), mode="RGB", **options):
    pytest.importorskip("pillow_jxl")
    with io.BytesIO() as file:
        Image.new(mode, size, "red" if mode == "RGB" else 12345).save(file, "JXL", **options)
        return file.getvalue()


@pytest.mark.parametrize(
    "size", [(1, 1), (31, 24), (64, 64), (48, 40), (256, 192), (640, 360), (1000, 999), (9000, 3)]
)
@pytest.mark.parametrize("container", [False, True])
def test_size_in_the_header_of_jpeg_xl(size, container):
    data = _jxl(size, use_container=container)
    assert data.startswith(b"\0\0\0\x0cJXL" if container else b"\xff\x0a")
    assert read_headers(io.BytesIO(data)) == Headers("JPEG XL", 8, None, size)


def test_size_of_a_jpeg_xl_behind_a_large_box():
    """Read from zeros, it would pass every limit on sizes."""
    data = _jxl((640, 360), use_container=True)
    exif = b"\0" * 70_000
    box = (8 + len(exif)).to_bytes(4, "big") + b"Exif" + exif
    start = 12 + int.from_bytes(data[12:16], "big")  # behind the signature and ftyp
    data = data[:start] + box + data[start:]
    assert read_headers(io.BytesIO(data)) == Headers("JPEG XL", 8, None, (640, 360))


def test_jpeg_xl_is_read(tmp_path):
    (tmp_path / "a.jxl").write_bytes(_jxl(lossless=True))
    image = read_image(tmp_path / "a.jxl")
    np.testing.assert_array_equal(image.pixels, np.full((24, 31, 3), (255, 0, 0)))
    assert image.notes == ()


def test_jpeg_xl_of_16_bits(tmp_path):
    (tmp_path / "a.jxl").write_bytes(_jxl(mode="I;16", lossless=True))
    image = read_image(tmp_path / "a.jxl")
    # The plugin's writer calls deep grey linear.
    signal = 1.055 * (12345 / 65535) ** (1 / 2.4) - 0.055
    np.testing.assert_allclose(image.pixels, np.full((24, 31), signal * 255), atol=1)
    assert image.notes == ("16-bit reduced to 8-bit", "converted from its ICC profile to sRGB")


def test_exif_does_not_turn_a_jpeg_xl(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.jxl").write_bytes(_jxl(exif=exif.tobytes()))
    assert read_image(tmp_path / "a.jxl").pixels.shape == (24, 31, 3)


@pytest.mark.filterwarnings("ignore:Using JPEG reconstruction")
def test_a_jpeg_within_jpeg_xl_is_turned_by_exif(tmp_path):
    pytest.importorskip("pillow_jxl")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8), "red").save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.jxl")
    image = read_image(tmp_path / "a.jxl")
    assert image.pixels.shape == (16, 8, 3)
    assert image.notes == ("rotated by its EXIF orientation",)


def test_jpeg_xl_is_refused_for_its_size_before_it_is_decoded(tmp_path, monkeypatch):
    (tmp_path / "a.jxl").write_bytes(_jxl((100, 100)))
    monkeypatch.setattr(images.Image, "open", lambda file: pytest.fail("has been decoded"))
    with pytest.raises(ImageError, match="a.jxl has 100x100 pixels, more than the limit of 9999"):
        read_image(tmp_path / "a.jxl", max_pixels=9999)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4999)
    with pytest.raises(ImageError, match="a.jxl has 100x100 pixels, more than the limit of 9998"):
        read_image(tmp_path / "a.jxl")


# ---- plugins ----


@pytest.mark.parametrize(
    "head, message",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC image; install pillow-heif to read it"),
        (b"\xff\x0a" + bytes(30), "is a JPEG XL image; install pillow-jxl-plugin to read it"),
    ],
)
def test_missing_plugins_are_named(tmp_path, monkeypatch, head, message):
    def fail(module):
        raise ModuleNotFoundError(f"No module named {module}")

    monkeypatch.setattr(images, "_register", fail)
    (tmp_path / "a.jpg").write_bytes(head)  # whatever the suffix says
    with pytest.raises(ImageError, match=f"a.jpg {message}"):
        read_image(tmp_path / "a.jpg")


def test_plugins_are_imported_when_they_are_needed(tmp_path):
    (tmp_path / "a.jxl").write_bytes(_jxl())
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    pytest.importorskip("pillow_heif")
    program = (
        "import sys; from pictures.images import IMAGE_SUFFIXES, read_image\n"
        "loaded = lambda: [m for m in ('pillow_heif', 'pillow_jxl') if m in sys.modules]\n"
        "read_image(sys.argv[1]); print(loaded(), {'.heic', '.jxl'} <= set(IMAGE_SUFFIXES))\n"
        "read_image(sys.argv[2]); print(loaded())"
    )
    command = [sys.executable, "-c", program, tmp_path / "a.png", tmp_path / "a.jxl"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[] True", "['pillow_jxl']"]


def test_why_unreadable(monkeypatch):
    assert set(images.IMAGE_SUFFIXES) <= set(images.KNOWN_SUFFIXES)
    assert {".heic", ".jxl", ".cr2", ".nef", ".arw", ".dng", ".svg"} <= set(images.KNOWN_SUFFIXES)
    assert images.why_unreadable(".PNG") == ""
    assert images.why_unreadable(".NEF") == "camera raw, develop it to PNG or TIFF first"
    monkeypatch.setattr(images, "IMAGE_SUFFIXES", (".png",))
    assert images.why_unreadable(".heic") == "install pillow-heif"
    assert images.why_unreadable(".jxl") == "install pillow-jxl-plugin"
    assert images.why_unreadable(".avif") == "install pillow>=11.3"
    assert all(images.why_unreadable(s) for s in images.KNOWN_SUFFIXES if s != ".png")
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    assert not {".heic", ".heif", ".jxl"} & set(images._image_suffixes())
