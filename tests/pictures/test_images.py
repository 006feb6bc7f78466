"""Bad files end in one clear sentence; pixels come back from PNG as they were."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pictures import images
from pictures.images import ImageError, read_image, sides
from pictures.quiet import caught_warnings

ROOT = Path(__file__).parents[2]
VALID = ROOT / "valid"


def _rgb(height=24, width=31, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---- bad files ----


def _one_sentence(error):
    text = str(error.value)
    return "\n" not in text and text.endswith(".")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("missing.png", None, "does not exist"),
        ("empty.png", b"", "is empty"),
        ("text.png", b"This is not a picture.\n" * 20, "is not an image"),
        ("signature.png", b"\x89PNG\r\n\x1a\n", "is not an image"),
        ("size.ppm", b"P6 0 2 255\n", "is not an image|has no pixels"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=f"{name} ({message})") as error:
        read_image(tmp_path / name)
    assert _one_sentence(error)


def test_folder_and_impossible_name(tmp_path):
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path / ("a" * 5000))
    with pytest.raises(ImageError, match="cannot be read"):
        read_image("nul\0.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".jp2", ".webp", ".bmp", ".gif"])
def test_truncated_files(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(_rgb(64, 70)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(ImageError, match="truncated") as error:
        read_image(path)
    assert _one_sentence(error)


DAMAGED_KINDS = [".png", ".jpg", ".tif", ".jp2", ".webp", ".bmp", ".gif", ".avif", ".heic", ".jxl"]


@pytest.mark.parametrize("suffix", DAMAGED_KINDS)
def test_damaged_files_raise_nothing_but_image_errors(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if suffix in (".png", ".jpg", ".tif", ".webp") else {}
    if suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif suffix == ".jxl":
        pytest.importorskip("pillow_jxl")
    Image.fromarray(_rgb()).save(path, **options)
    data, rng, refused = path.read_bytes(), np.random.default_rng(7), 0
    for _ in range(60):
        damaged = bytearray(data)
        for position in rng.integers(0, min(len(data), 1000), 4):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            pixels = read_image(path).pixels
            assert pixels.dtype == np.uint8 and pixels.ndim in (2, 3)
        except ImageError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("error", [SyntaxError, struct.error, IndexError, OverflowError])
def test_whatever_pillow_raises_becomes_an_image_error(tmp_path, monkeypatch, error):
    (tmp_path / "a.png").write_bytes(images.png_bytes(_rgb()))

    def fail(image, headers):
        raise error("odd data")

    monkeypatch.setattr(images, "to_8bit", fail)
    with pytest.raises(ImageError, match=r"a.png cannot be decoded as an image \(odd data\)"):
        read_image(tmp_path / "a.png")


def test_too_little_memory(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(images.png_bytes(_rgb()))

    def fail(image, headers):
        raise MemoryError

    monkeypatch.setattr(images, "to_8bit", fail)
    with pytest.raises(ImageError, match="a.png does not fit in memory"):
        read_image(tmp_path / "a.png")


def test_decompression_bomb(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="decompression bombs") as error:
        read_image(tmp_path / "a.png")
    assert _one_sentence(error)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_too_many_pixels(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(_rgb(20, 30)).save(path)
    assert read_image(path, max_pixels=600).pixels.shape == (20, 30, 3)
    monkeypatch.setattr(images, "to_8bit", lambda *_: pytest.fail("has been decoded"))
    message = f"a{suffix} has 30x20 pixels, more than the limit of 599; "
    with pytest.raises(ImageError, match=message) as error:
        read_image(path, max_pixels=599)
    assert _one_sentence(error)


@pytest.mark.parametrize("suffix", [".nef", ".CR2", ".dng"])
def test_camera_raw_is_refused_though_pillow_reads_its_preview(tmp_path, suffix):
    Image.fromarray(_rgb()).save(tmp_path / "a.tif")
    (tmp_path / "a.tif").rename(tmp_path / f"a{suffix}")
    with pytest.raises(ImageError, match="camera raw, develop it to PNG or TIFF first"):
        read_image(tmp_path / f"a{suffix}")


# ---- open files and pipes ----


class _Pipe(io.BytesIO):
    def seekable(self):
        return False

    def seek(self, *_):
        raise OSError(29, "Illegal seek")


@pytest.mark.parametrize("kind", [_Pipe, io.BytesIO])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_open_files(tmp_path, kind, suffix):
    Image.fromarray(_rgb()).save(tmp_path / f"a{suffix}")
    file = kind((tmp_path / f"a{suffix}").read_bytes())
    image = read_image(file)
    np.testing.assert_array_equal(image.pixels, read_image(tmp_path / f"a{suffix}").pixels)
    assert not file.closed


def test_open_files_are_read_from_where_they_stand():
    file = io.BytesIO(b"before" + images.png_bytes(_rgb()))
    file.read(6)
    np.testing.assert_array_equal(read_image(file).pixels, _rgb())


def test_messages_about_open_files():
    with pytest.raises(ImageError, match="^standard input is empty"):
        read_image(io.BytesIO())
    with pytest.raises(ImageError, match="^the upload is not an image"):
        read_image(io.BytesIO(b"text"), name="the upload")
    broken = io.BytesIO()
    broken.read = lambda: (_ for _ in ()).throw(OSError(5, "Input/output error"))
    with pytest.raises(ImageError, match=r"^standard input cannot be read \(Input/output error\)"):
        read_image(broken)


@pytest.mark.skipif(os.name == "nt", reason="needs named pipes")
def test_named_pipe(tmp_path):
    path = tmp_path / "pipe.png"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[images.png_bytes(_rgb())])
    writer.start()
    np.testing.assert_array_equal(read_image(path).pixels, _rgb())
    writer.join()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_sides(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_rgb(30, 20)).save(tmp_path / f"a{suffix}", exif=exif)
    assert sides(tmp_path / f"a{suffix}") == (20, 30)
    with pytest.raises(ImageError, match="gone does not exist"):
        sides(tmp_path / "gone")


# ---- warnings ----


def test_nothing_but_the_caller_speaks(tmp_path):
    """What Pillow warns of and logs does not get to the screen; what matters is a note."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "M" * 100, 3
    damaged = bytearray(exif.tobytes())
    entry = damaged.index(struct.pack(">HHI", 0x010F, 2, 101))
    damaged[entry + 8 : entry + 12] = b"\0\0\xff\0"  # where its text is said to be
    palette = Image.fromarray(_rgb()).quantize(8)
    palette.save(tmp_path / "palette.png", transparency=bytes(range(8)))
    Image.new("1", (400, 400)).save(tmp_path / "big.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "exif.jpg", exif=bytes(damaged))
    Image.new("RGB", (8, 8)).save(tmp_path / "samples.tif")
    data = bytearray((tmp_path / "samples.tif").read_bytes())
    at = data.index(struct.pack("<HHI", 277, 3, 1)) + 8  # samples per pixel, which Pillow logs
    data[at : at + 2] = b"\xff\0"
    (tmp_path / "samples.tif").write_bytes(data)
    program = (
        "import sys; from PIL import Image; from pictures.images import ImageError, read_image\n"
        "Image.MAX_IMAGE_PIXELS = 100000\n"
        "for path in sys.argv[1:]:\n"
        "    try: print(*read_image(path).notes, sep=', ')\n"
        "    except ImageError as error: print(error)\n"
    )
    names = ("palette.png", "big.png", "exif.jpg", "samples.tif")
    command = [sys.executable, "-W", "always", "-c", program, *names]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stderr == ""
    palette, big, exif, samples = result.stdout.splitlines()
    assert (palette, big) == ("alpha blended onto white", "")
    assert "damaged EXIF data" in exif
    assert samples.startswith("samples.tif ")


def test_warnings_of_overlapping_threads():
    """Each collects its own, other threads' are shown, and the filters are restored after."""
    shown, collected = [], {}
    inside, leave = threading.Barrier(3, timeout=10), threading.Event()

    def work(name):
        with caught_warnings() as texts:
            inside.wait()
            warnings.warn(f"of {name}", stacklevel=1)
            if name == "last":
                leave.wait(10)
        collected[name] = texts

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: shown.append(str(message))
        before = warnings.filters[:], warnings.showwarning
        first, last = (threading.Thread(target=work, args=[name]) for name in ("first", "last"))
        first.start()
        last.start()
        inside.wait()
        first.join()  # has left, the last one is inside
        warnings.warn("of the main thread", stacklevel=1)
        leave.set()
        last.join()
        assert (warnings.filters[:], warnings.showwarning) == before
    assert collected == {n: [f"test_images: of {n}"] for n in ("first", "last")}
    assert shown == ["of the main thread"]


# ---- writing ----


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1)])
def test_smallest_images(tmp_path, size):
    pixels = _rgb(*size)
    for array in (pixels, pixels[..., 0]):
        (tmp_path / "a.png").write_bytes(images.png_bytes(array))
        image = read_image(tmp_path / "a.png")
        np.testing.assert_array_equal(image.pixels, array)
        assert image.notes == ()


def test_png_bytes_round_trip():
    for pixels in (_rgb()[..., 0], _rgb()[:, ::-1]):  # not contiguous
        file = io.BytesIO(images.png_bytes(pixels))
        np.testing.assert_array_equal(read_image(file).pixels, pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4), np.uint8),
        [[1, 2], [3, 4]],
    ],
)
def test_png_bytes_refuse_other_arrays(pixels):
    with pytest.raises(ValueError, match="Expected"):
        images.png_bytes(pixels)


# ---- suffixes ----


def test_suffixes_are_those_of_images():
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".ppm"} <= set(
        images.IMAGE_SUFFIXES
    )
    assert not {".pdf", ".eps", ".h5", ".mpg", ".pfm"} & set(images.IMAGE_SUFFIXES)


def test_validation_pictures_need_no_change():
    loaded = {path.stem: read_image(path) for path in sorted(VALID.glob("*.png"))}
    assert len(loaded) >= 5
    assert all(image.notes == () for image in loaded.values())
    assert any(image.pixels.ndim == 2 for image in loaded.values())
    assert any(side % 2 for image in loaded.values() for side in image.pixels.shape[:2])
    readme = (VALID / "README.md").read_text(encoding="utf-8")
    for name, image in loaded.items():
        height, width = image.pixels.shape[:2]
        assert f"| `{name}.png` | {width} x {height}, " in readme


def test_a_bug_of_ours_is_not_called_a_damaged_file(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def broken(*args):
        return np.zeros((2, 3)) + np.zeros((4, 5))  # a ValueError of NumPy

    monkeypatch.setattr(images.to_8bit.__globals__["colour"], "_coded_space", broken)
    with pytest.raises(ValueError, match="broadcast"):
        images.read_image(tmp_path / "a.png")
