"""encoder.py with a model of many rates: --quality, --lmbda, targets, and what goes with them."""

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from golden_models import NUM_FILTERS, checkpoint_of
from many_rates import write_folder
from PIL import Image

import decoder
import encoder
from codec import Codec
from coding import bitstream
from pictures import images, metrics
from search import refine

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ["--checkpoint", checkpoint_of("gmm"), "--family", "gmm"]
CHECKPOINT += ["--num-filters", NUM_FILTERS]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Path of a folder of many rates."""
    return write_folder(tmp_path_factory.mktemp("models") / "many")


@pytest.fixture(scope="module")
def codec(model):
    return Codec.load(model)


@pytest.fixture
def encode(run_here, codec, model, monkeypatch, tmp_path):
    """Runs the encoder with that model on photo.png or what is named."""
    monkeypatch.chdir(tmp_path)
    with Image.open(ROOT / "valid" / "chelsea.png") as image:
        crop = image.convert("RGB").crop((100, 60, 290, 220))
    crop.save("photo.png")
    crop.convert("L").save("grey.png")
    load = Codec.load
    monkeypatch.setattr(
        Codec, "load", lambda name, **k: codec if Path(name) == model else load(name, **k)
    )

    def encode(*options, names=("photo.png",)):
        return run_here(encoder, *names, "--model", model, "-o", "out", "--overwrite", *options)

    return encode


def file_of(name="photo"):
    return Path(f"out/{name}.glic").read_bytes()


def k_of(data):
    return bitstream.unpack(data).k


def test_quality_is_log_linear_over_the_lambdas(encode, codec):
    pixels, found = images.read_image("photo.png").pixels, []
    for quality in (0, 37.5, 100):
        code, out, err = encode("--quality", quality)
        assert (code, err) == (0, "")
        lmbda = 0.0016 * (0.045 / 0.0016) ** (quality / 100)
        assert f"quality {quality:g} of 100: lambda {lmbda:.4g} of 0.0016 to 0.045" in out
        assert file_of() == codec.compress(pixels, quality=quality)
        psnr = float(re.search(r"PSNR +([\d.]+) dB", out)[1])
        found.append((k_of(file_of()), len(file_of()), psnr))
    steps, sizes, psnrs = zip(*found)
    assert steps[0] == 3135 and steps[2] == 591
    assert list(sizes) == sorted(sizes) and list(psnrs) == sorted(psnrs)


def test_the_middle_is_the_default_and_lambda_says_the_same(encode, codec):
    code, out, _ = encode()
    middle = file_of()
    assert code == 0 and "quality 50 of 100: lambda 0.008485 of" in out
    assert encode("--quality", 50)[0] == 0 and file_of() == middle
    code, out, _ = encode("--lmbda", 0.03)
    assert code == 0 and "quality 87.85 of 100: lambda 0.03 of" in out
    assert k_of(file_of()) == codec.rates.k_of(0.03)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--quality", "101"], "--quality: a number from 0 to 100 expected, got '101'"),
        (["--quality", "nan"], "--quality: a number from 0 to 100 expected, got 'nan'"),
        (["--lmbda", "0.05"], "A lambda from 0.0016 to 0.045 expected, which model many serves"),
        (["--quality", "5", "--lmbda", "0.01"], "not allowed with argument"),
        (["--quality", "5", "--target-bpp", "1"], "finds the rate itself: leave out --quality"),
        (["--lmbda", "0.01", "--target-bytes", "9"], "finds the rate itself: leave out --lmbda"),
        (["--target-bytes", "0.5"], "a whole number from 1 expected, got '0.5'"),
        (["--target-bytes", "9", "--target-bpp", "1"], "not allowed with argument"),
    ],
)
def test_options_that_are_refused(encode, options, words):
    code, out, err = encode(*options)
    assert code == 2 and out == "" and words in err.splitlines()[-1] and not Path("out").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--model", "gmm-msssim-2", "--quality", 5], "gmm-msssim-2 has one rate: leave --quality"),
        (["--model", "gmm-msssim-2", "--lmbda", 5], "--lmbda belongs to --effort: give both"),
        ([*CHECKPOINT, "--quality", 5], "The checkpoint has one rate: leave --quality out"),
    ],
)
def test_a_model_of_one_rate_refuses_what_it_cannot_do(run_here, tmp_path, options, words):
    code, out, err = run_here(encoder, ROOT / "valid", "-o", tmp_path / "out", *options)
    assert code == 2 and out == "" and words in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_target_is_met_within_its_tolerance_and_the_line_says_how(encode, codec):
    encode("--quality", 63)
    size = len(file_of()) - 1
    pixels = images.read_image("photo.png").pixels
    psnr = metrics.psnr(pixels, codec.decompress(file_of())) + 0.03
    for options in (["--target-bytes", size], ["--target-bpp", 8 * size / (190 * 160)]):
        code, out, err = encode(*options)
        assert (code, err) == (0, "") and 0.99 * size <= len(file_of()) <= size
        quality = codec.rates.quality_of(codec.rates.lmbda_of(k_of(file_of())))
        assert f" s  many at quality {quality:.1f}\n" in out and "quality 50 of" not in out
    assert encode("--target-psnr", psnr)[0] == 0
    assert psnr <= metrics.psnr(pixels, codec.decompress(file_of())) <= psnr + 0.02


def test_beyond_the_range_the_line_says_so_and_further_is_refused(encode, codec):
    encode("--quality", 0)
    size = len(file_of())
    code, out, _ = encode("--target-bytes", int(0.9 * size))
    assert code == 0 and len(file_of()) <= 0.9 * size and "below its range" in out
    before = file_of()
    code, _, err = encode("--target-bytes", 100)
    nearest = int(re.search(r"the smallest has (\d+) bytes \(many\)", err)[1])
    assert code == 1 and file_of() == before  # nothing lost
    assert encode("--target-bytes", nearest)[0] == 0 and len(file_of()) == nearest


@pytest.mark.parametrize("options", [["--quality", 20], ["--target-bpp", 0.7]])
def test_effort_verify_grey_and_tiles(encode, codec, options, monkeypatch, run_here, model):
    monkeypatch.setattr(refine, "ITERATIONS", (0, 3))
    monkeypatch.setattr(codec, "memory_budget", 1)  # the networks pass in tiles
    names = ("photo.png", "grey.png")
    code, out, err = encode("--effort", 1, "--verify", *options, names=names)
    assert code == 0, err
    assert out.count("[effort 1: ") == 2
    for name in ("photo", "grey"):
        pixels = images.read_image(f"{name}.png").pixels
        restored = codec.decompress(file_of(name))
        assert restored.shape == pixels.shape and metrics.psnr(pixels, restored) > 24
        assert k_of(file_of(name)) is not None
        if options[0] == "--target-bpp":
            assert 8 * len(file_of(name)) <= 0.7 * 190 * 160
    code, _, err = run_here(decoder, "out", "--model", model, "-o", "back")
    assert code == 0, err


def test_a_level_of_effort_uses_the_lambda_of_the_step(encode, codec, monkeypatch):
    seen = []
    work = refine.Refiner._rate

    def rate(self, k):
        seen.append(work(self, k))
        return seen[-1]

    monkeypatch.setattr(refine, "ITERATIONS", (0, 2))
    monkeypatch.setattr(refine.Refiner, "_rate", rate)
    assert encode("--effort", 1, "--lmbda", 0.02)[0] == 0
    (rate,) = set(seen)
    assert rate.lmbda == pytest.approx(0.02, rel=2e-3)


def test_pipes_and_skip_existing(encode, run_here, model, monkeypatch, codec):
    pixels = images.read_image("photo.png").pixels
    data = Path("photo.png").read_bytes()
    stream = type("", (), {"buffer": io.BytesIO(data), "isatty": lambda self: False})()
    monkeypatch.setattr(sys, "stdin", stream)
    code, _, err = run_here(
        encoder, "-", "--model", model, "--quality", 10, "-o", "piped.glic", "--no-metrics"
    )
    assert code == 0, err
    assert Path("piped.glic").read_bytes() == codec.compress(pixels, quality=10)
    assert encode("--quality", 10)[0] == 0
    before = file_of()
    names = ["photo.png", "grey.png", "--model", model, "-o", "out", "--skip-existing"]
    code, out, _ = run_here(encoder, *names, "--target-psnr", 28)
    assert code == 0 and "1 of 2 outputs exist" in out and file_of() == before
    grey = images.read_image("grey.png").pixels
    assert metrics.psnr(grey, codec.decompress(file_of("grey"))) >= 28


def test_a_large_picture_in_tiles_meets_its_target(encode, codec, monkeypatch):
    monkeypatch.setattr(codec, "memory_budget", 1)
    with Image.open(ROOT / "valid" / "coffee.png") as image:
        image.crop((0, 0, 400, 320)).save("large.png")
    code, out, err = encode("--target-psnr", 26.5, names=["large.png"])
    assert code == 0, err
    pixels = images.read_image("large.png").pixels
    assert 26.5 <= metrics.psnr(pixels, codec.decompress(file_of("large"))) <= 26.52


def test_numpy_pixels_and_both_ways_to_say_a_rate(codec):
    pixels = np.zeros((64, 64), np.uint8)
    assert k_of(codec.compress(pixels)) == k_of(codec.compress(pixels, quality=50))
    with pytest.raises(ValueError, match="got both"):
        codec.compress(pixels, quality=1, lmbda=0.01)
