"""Training: the folder of training images that --prepare makes."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

import train
from training import photographs as training_data
from training import prepare as training_prepare


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
    assert train.main(["--data", str(photos), "--prepare", str(out)]) == 0
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
    kept = training_data.find_images(out)
    assert [path.name[7:] for path in kept] == ["a.webp", "g.webp"]
    stored = training_data.read_rgb(kept[0])
    assert stored.shape == (320, 360, 3)
    np.testing.assert_array_equal(
        stored, training_prepare.reduced(training_data.read_rgb(photos / "a.jpg"))
    )


def test_prepare_refuses_what_it_would_spoil(photos, tmp_path, capsys):
    def refused(*options):
        assert train.main(list(options)) == 2
        return capsys.readouterr().err

    assert "not an empty folder" in refused("--data", str(photos), "--prepare", str(photos))
    assert "photographs with --data" in refused("--prepare", str(tmp_path / "out"))
    options = ("--data", str(photos), "--prepare", str(tmp_path / "out"))
    assert "--data and nothing else" in refused(*options, "--name", "x")
    assert "--data and nothing else" in refused(*options, "--steps", "3")
    assert not (tmp_path / "out").exists()
    assert "Give the run a name" in refused("--data", str(photos), "--steps", "3")
    only = tmp_path / "drawings"
    only.mkdir()
    (photos / "d.png").rename(only / "d.png")
    assert "None of the 1 images" in refused(
        "--data", str(only), "--prepare", str(tmp_path / "out")
    )


def test_large_photographs_are_reduced_further():
    assert training_prepare.reduced(np.zeros((1000, 8192, 3), np.uint8)).shape == (250, 2048, 3)
