"""Bad files end in one clear sentence; writing is atomic; folders expand to their images."""

from __future__ import annotations

import os
import stat
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pictures import images
from pictures.images import ImageError, atomic_write, collect, read_image, write_png

VALID = Path(__file__).parents[2] / "valid"


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


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".jp2", ".webp", ".bmp", ".gif"])
def test_damaged_files_raise_nothing_but_image_errors(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if suffix in (".png", ".jpg", ".tif", ".webp") else {}
    Image.fromarray(_rgb()).save(path, **options)
    data, rng, refused = path.read_bytes(), np.random.default_rng(7), 0
    for _ in range(60):
        damaged = bytearray(data)
        for position in rng.integers(0, min(len(data), 1000), 4):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                pixels = read_image(path).pixels
                assert pixels.dtype == np.uint8 and pixels.ndim in (2, 3)
            except ImageError:
                refused += 1
    assert refused > 0


@pytest.mark.parametrize("error", [SyntaxError, struct.error, IndexError, OverflowError])
def test_whatever_pillow_raises_becomes_an_image_error(tmp_path, monkeypatch, error):
    write_png(_rgb(), tmp_path / "a.png")

    def fail(image, head):
        raise error("odd data")

    monkeypatch.setattr(images, "to_8bit", fail)
    with pytest.raises(ImageError, match=r"a.png cannot be decoded as an image \(odd data\)"):
        read_image(tmp_path / "a.png")


def test_too_little_memory(tmp_path, monkeypatch):
    write_png(_rgb(), tmp_path / "a.png")

    def fail(image, head):
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


# ---- writing ----


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1)])
def test_smallest_images(tmp_path, size):
    pixels = _rgb(*size)
    for array in (pixels, pixels[..., 0]):
        write_png(array, tmp_path / "a.png")
        image = read_image(tmp_path / "a.png")
        np.testing.assert_array_equal(image.pixels, array)
        assert image.notes == ()


def test_write_png_round_trip_and_replacement(tmp_path):
    path = tmp_path / "a.png"
    write_png(_rgb()[..., 0], path)
    write_png(_rgb()[:, ::-1], path)  # neither contiguous nor the same size
    np.testing.assert_array_equal(read_image(path).pixels, _rgb()[:, ::-1])
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4), np.uint8),
        [[1, 2], [3, 4]],
    ],
)
def test_write_png_refuses_other_arrays(tmp_path, pixels):
    with pytest.raises(ValueError, match="Expected"):
        write_png(pixels, tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, failure):
    path = tmp_path / "a.bin"
    atomic_write(path, b"old")
    seen = []

    def fail(source, target):
        seen.append((Path(source), Path(target)))
        assert Path(source).read_bytes() == b"new"
        raise failure

    monkeypatch.setattr(images.os, "replace", fail)
    expected = failure if isinstance(failure, type) else type(failure)
    with pytest.raises(expected):
        atomic_write(path, b"new")
    ((temporary, target),) = seen
    assert target == path and temporary.parent == tmp_path
    assert temporary.name.startswith(".") and temporary.suffix not in images.IMAGE_SUFFIXES
    assert os.listdir(tmp_path) == ["a.bin"] and path.read_bytes() == b"old"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_written_files_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        atomic_write(tmp_path / "a.bin", b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o666 & ~umask


def test_write_errors_name_the_file_asked_for(tmp_path):
    path = tmp_path / "missing" / "a.bin"
    with pytest.raises(FileNotFoundError) as error:
        atomic_write(path, b"data")
    assert error.value.filename == str(path)
    with pytest.raises(IsADirectoryError):
        atomic_write(tmp_path, b"data")


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links and named pipes")
def test_links_are_followed_and_devices_kept(tmp_path):
    atomic_write(tmp_path / "a.bin", b"old")
    (tmp_path / "link").symlink_to("a.bin")
    atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a.bin").read_bytes() == b"new"
    atomic_write(os.devnull, b"data")
    assert not Path(os.devnull).is_file() and Path(os.devnull).exists()


# ---- collecting ----


def test_collect(tmp_path):
    for name in ("b.png", "a.PNG", "c.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "sub.png" / "d.png").touch()
    assert collect([tmp_path], [".Png"]) == [tmp_path / "a.PNG", tmp_path / "b.png"]
    given = [str(tmp_path / "notes.txt"), tmp_path / "sub.png"]
    assert collect(given, [".png"]) == [tmp_path / "notes.txt", tmp_path / "sub.png" / "d.png"]


def test_collect_refuses(tmp_path):
    with pytest.raises(ImageError, match="gone does not exist"):
        collect([tmp_path / "gone"], [".png"])
    with pytest.raises(ImageError, match=r"has no file that ends in \.jpg, \.png"):
        collect([tmp_path], [".png", ".jpg"])


def test_suffixes_are_those_of_images():
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".ppm"} <= set(
        images.IMAGE_SUFFIXES
    )
    assert not {".pdf", ".eps", ".h5", ".mpg", ".pfm"} & set(images.IMAGE_SUFFIXES)


def test_validation_pictures_need_no_change():
    loaded = {path.stem: read_image(path) for path in collect([VALID], images.IMAGE_SUFFIXES)}
    assert len(loaded) >= 5
    assert all(image.notes == () for image in loaded.values())
    assert any(image.pixels.ndim == 2 for image in loaded.values())
    assert any(side % 2 for image in loaded.values() for side in image.pixels.shape[:2])
    readme = (VALID / "README.md").read_text(encoding="utf-8")
    for name, image in loaded.items():
        height, width = image.pixels.shape[:2]
        assert f"| `{name}.png` | {width} x {height}, " in readme
