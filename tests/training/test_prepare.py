"""Training: the folder of training images that --prepare makes."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from tiny_training import run_train

from training.photographs import find_images, read_rgb
from training.prepare import Prepared, reduced


def scene(seed, height=640, width=720):
    """A photograph-like picture: smooth shapes in colour with noise, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 9, 3)).astype(np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth) + rng.normal(0, 8, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.fixture
def photos(tmp_path):
    """Two photographs, a near duplicate, a small one, a drawing and a damaged file."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(scene(1)).save(folder / "a.jpg", quality=90)
    again = Image.fromarray(scene(1)).filter(ImageFilter.GaussianBlur(1))
    again.resize((900, 800)).save(folder / "b.jpg", quality=60)
    Image.fromarray(scene(2, 500, 800)).save(folder / "c.jpg")
    drawing = np.full((600, 600, 3), 255, np.uint8)
    drawing[100:300, 50:500] = (200, 10, 10)
    Image.fromarray(drawing).save(folder / "d.png")
    (folder / "e.jpg").write_bytes(b"no image")
    Image.fromarray(scene(3, 4200, 520)).save(folder / "f.jpg")
    Image.fromarray(scene(4)).save(folder / "deep" / "g.jpg")
    return folder


def test_prepare_keeps_photographs_and_names_the_rest(photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert run_train("--data", photos, "--prepare", out) == 0
    said = capsys.readouterr().out
    for kind, name in (
        ("near duplicate", "b.jpg"),
        ("too small", "c.jpg"),
        ("no photograph", "d.png"),
        ("unreadable", "e.jpg"),
        ("too small", "f.jpg"),
    ):
        assert any(f"Left out, {kind}: " in line and name in line for line in said.splitlines())
    assert "7 images: " in said and "2 written" in said and "2 too small" in said
    kept = find_images(out)
    assert [path.name[7:] for path in kept] == ["a.webp", "g.webp"]
    stored = read_rgb(kept[0])
    assert stored.shape == (320, 360, 3)
    np.testing.assert_array_equal(stored, reduced(read_rgb(photos / "a.jpg")))


def test_prepare_refuses_what_it_would_spoil(photos, tmp_path, capsys):
    def refused(*options):
        assert run_train(*options) == 2
        return capsys.readouterr().err

    assert "not an empty folder" in refused("--data", str(photos), "--prepare", str(photos))
    assert "photographs with --data" in refused("--prepare", str(tmp_path / "out"))
    options = ("--data", str(photos), "--prepare", str(tmp_path / "out"))
    assert "does not train: leave --name out" in refused(*options, "--name", "x")
    more = ("--best", "--threads", "3", "--lmbda", "0.01")
    assert "leave --lmbda, --threads, --best out" in refused(*options, *more)
    assert "leave --steps out" in refused(*options, "--steps", "3")
    assert not (tmp_path / "out").exists()
    assert "Give the run a name" in refused("--data", str(photos), "--steps", "3")
    only = tmp_path / "drawings"
    only.mkdir()
    (photos / "d.png").rename(only / "d.png")
    assert "None of the 1 images" in refused(
        "--data", str(only), "--prepare", str(tmp_path / "out")
    )


def test_large_photographs_are_reduced_further():
    assert reduced(np.zeros((1000, 8192, 3), np.uint8)).shape == (250, 2048, 3)


def test_an_aborted_prepare_is_made_again(photos, tmp_path, monkeypatch):
    """Also one that met a name which, with its number, no file system takes."""
    (photos / "c.jpg").unlink()
    long = photos / ("ü" * 120 + ".jpg")  # 244 bytes
    Image.fromarray(scene(5)).save(long)
    out, add = tmp_path / "out", Prepared.add

    def killed(self, path, name):
        if path == long:
            raise KeyboardInterrupt
        add(self, path, name)

    with monkeypatch.context() as patch:
        patch.setattr(Prepared, "add", killed)
        assert run_train("--data", photos, "--prepare", out) == 130
    assert [path.name for path in find_images(out)] == ["000000-a.webp", "000003-g.webp"]
    (photos / "a.jpg").unlink()
    assert run_train("--data", photos, "--prepare", out) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == ["000000-b.webp", "000002-g.webp", "000005-" + "ü" * 100 + ".webp"]
    assert run_train("--data", photos, "--prepare", out) == 2  # it is complete now
