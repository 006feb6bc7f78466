"""encoder.py and decoder.py as a user runs them: lines, exit codes, refusals, nothing half-done."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import NUM_FILTERS, REFERENCE, checkpoint_of
from PIL import Image

import decoder
import encoder
from cli import options
from cli.inputs import collect
from pictures import images

ROOT = Path(__file__).resolve().parents[2]
MODEL = ["--checkpoint", checkpoint_of("gmm"), "--family", "gmm", "--num-filters", NUM_FILTERS]


def run(script, *arguments, cwd):
    environment = dict(os.environ)
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # the scripts must see to it themselves
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """A folder of odd inputs, encoded and decoded once: (folder, encoder run, decoder run)."""
    folder = tmp_path_factory.mktemp("cli")
    inputs = folder / "my photos ü"
    inputs.mkdir()
    pixels = np.asarray(Image.open(REFERENCE / "image_120x179.png"))
    Image.fromarray(pixels).save(inputs / "colour.png")
    Image.fromarray(pixels[..., 1]).save(inputs / "grey.jpg")
    Image.fromarray(pixels[:1, :1]).save(inputs / "tiny.bmp")
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 128, np.uint8)])
    Image.fromarray(rgba).save(inputs / "alpha.png")
    (inputs / "broken.png").write_bytes((inputs / "colour.png").read_bytes()[:2000])
    encoded = run("encoder.py", inputs, *MODEL, "-o", "out", cwd=folder)
    decoded = run("decoder.py", "out", *MODEL, "-o", "back", cwd=folder)
    return folder, encoded, decoded


@pytest.fixture
def folder(coded, monkeypatch):
    """That folder, as the working folder; read what is in it, add to it, change nothing."""
    monkeypatch.chdir(coded[0])
    return coded[0]


def test_a_bad_file_is_named_and_the_rest_go_on(coded):
    folder, encoded, _ = coded
    assert encoded.returncode == 1
    assert "broken.png" in encoded.stderr and "1 of 5 files failed" in encoded.stderr
    assert "Traceback" not in encoded.stderr
    assert sorted(p.name for p in (folder / "out").iterdir()) == [
        "alpha.glic",
        "colour.glic",
        "grey.glic",
        "tiny.glic",
    ]


def test_lines_state_the_real_size(coded):
    folder, encoded, _ = coded
    lines = {line.split()[0]: line for line in encoded.stdout.splitlines()}
    bpp = 8 * (folder / "out" / "colour.glic").stat().st_size / (120 * 179)
    assert f"{bpp:.4f} bpp" in lines["colour.png"]
    assert "PSNR" in lines["colour.png"] and "a side under 161" in lines["colour.png"]
    assert "alpha" in lines["alpha.png"].split("[")[1]
    assert list(lines)[-1] == "mean" and "4 files" in lines["mean"]


def test_pictures_come_back_in_their_size_and_mode(coded):
    folder, _, decoded = coded
    assert decoded.returncode == 0, decoded.stderr
    shapes = {p.name: np.asarray(Image.open(p)).shape for p in (folder / "back").iterdir()}
    assert shapes == {
        "alpha.png": (120, 179, 3),
        "colour.png": (120, 179, 3),
        "grey.png": (120, 179),
        "tiny.png": (1, 1, 3),
    }
    assert decoded.stderr == ""


def test_decoded_picture_is_the_one_that_was_measured(folder, codecs):
    original = images.read_image(folder / "my photos ü" / "colour.png").pixels
    codec = codecs["gmm"]
    expected = codec.synthesise(codec.analyse(original))
    decoded = images.read_image(folder / "back" / "colour.png").pixels
    assert np.abs(decoded.astype(int) - expected).max() <= 1


def test_existing_outputs_are_left_alone(folder, run_here):
    before = (folder / "back" / "colour.png").stat().st_mtime_ns
    code, _, err = run_here(decoder, "out/colour.glic", *MODEL, "-o", "back")
    assert code == 1 and "--overwrite" in err
    assert (folder / "back" / "colour.png").stat().st_mtime_ns == before
    code, _, _ = run_here(decoder, "out/colour.glic", *MODEL, "-o", "back", "--overwrite")
    assert code == 0
    assert (folder / "back" / "colour.png").stat().st_mtime_ns != before


def test_damaged_files_give_one_line_each(folder, run_here):
    good = (folder / "out" / "grey.glic").read_bytes()
    damaged = folder / "damaged"
    damaged.mkdir()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 4
    contents = {
        "empty": b"",
        "text": b"hello, this is not a picture at all, only text",
        "short": good[:-7],
        "flip": bytes(flipped),
        "version": good[:4] + b"\x09" + good[5:],
    }
    for name, data in contents.items():
        (damaged / f"{name}.glic").write_bytes(data)
    code, _, err = run_here(decoder, "damaged", *MODEL, "-o", "nothing")
    assert code == 1
    lines = err.splitlines()
    assert len(lines) == len(contents) + 1 and "5 of 5" in lines[-1]
    for name, words in {
        "empty": "is empty",
        "text": "Not a GLIC file",
        "short": "cut off",
        "flip": "damaged",
        "version": "version 1 expected, got 9",
    }.items():
        assert any(f"{name}.glic" in line and words in line for line in lines)
    assert list((folder / "nothing").iterdir()) == []


def test_decoder_says_which_model_is_missing(folder, run_here):
    code, _, err = run_here(decoder, "out/grey.glic", "-o", "unknown")
    assert code == 1 and "is not in" in err and len(err.splitlines()) == 2


def test_a_bad_option_is_one_line_of_a_fresh_process(folder):
    result = run("encoder.py", *MODEL, "--lmbda", 0.01, "-o", "unused", cwd=folder)
    assert result.returncode == 2 and result.stdout == ""
    assert "belongs to --effort" in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["--checkpoint", "x"], "go together"),
        ([*MODEL, "--model", "gmm-mse-3"], "got both"),
        ([*MODEL, "--effort", 1], "add --lmbda"),
        (["--checkpoint", MODEL[1], "--family", "gmm", "--num-filters", 12], "multiple of 8"),
    ],
)
def test_bad_options_are_one_sentence(folder, run_here, arguments, words):
    code, out, err = run_here(encoder, *arguments, "-o", "unused")
    assert code == 2 and out == ""
    assert words in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["--model", "nothing-like-it"], "No model named"),
        (["--checkpoint", "nowhere", "--family", "gmm", "--num-filters", 32], "No checkpoint"),
        (["--checkpoint", MODEL[1], "--family", "gllmm", "--num-filters", 32], "does not fit"),
        ([*MODEL, "--num-latents", 48], "does not fit"),
    ],
)
def test_a_model_that_cannot_be_used_ends_the_run(folder, run_here, arguments, words):
    code, out, err = run_here(encoder, "my photos ü/tiny.bmp", *arguments, "-o", "unused")
    assert code == 2 and out == "1 file to unused/\n"
    assert words in err and len(err.splitlines()) == 1


def test_no_metrics_leaves_them_out(folder, run_here):
    code, out, _ = run_here(encoder, "my photos ü/tiny.bmp", *MODEL, "--no-metrics", "-o", "plain")
    assert code == 0 and "PSNR" not in out
    same = (folder / "out" / "tiny.glic").read_bytes()
    assert (folder / "plain" / "tiny.glic").read_bytes() == same


def test_effort_writes_an_ordinary_file_and_says_what_it_gained(folder, run_here):
    options = [*MODEL, "--effort", 2, "--lmbda", 0.001]
    code, out, err = run_here(encoder, "my photos ü/colour.png", *options, "-o", "refined")
    assert code == 0, err
    assert "effort 2: rate + lambda * distortion -" in out
    plain = (folder / "out" / "colour.glic").read_bytes()
    assert (folder / "refined" / "colour.glic").read_bytes() != plain
    code, _, _ = run_here(decoder, "refined", *MODEL, "-o", "refined-back")
    assert code == 0 and (folder / "refined-back" / "colour.png").is_file()


def test_valid_photos_cost_their_ideal_size():
    """The shipped default model on valid/: real files against the float model's code length."""
    from test_coding import OVERHEAD_BYTES, OVERHEAD_SHARE, ideal_bits

    from codec import Codec

    codec = Codec.load(options.DEFAULT_MODEL)
    for path in collect([ROOT / "valid"], images.IMAGE_SUFFIXES):
        pixels = images.read_image(path).pixels
        latents = codec.analyse(pixels)
        data = codec.encode(latents)
        ideal = ideal_bits(codec, latents) / 8
        assert len(data) <= ideal * (1 + OVERHEAD_SHARE) + OVERHEAD_BYTES, path.name
