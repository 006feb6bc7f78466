"""encoder.py and decoder.py as a user runs them: lines, exit codes, refusals, nothing half-done."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden_models import NUM_FILTERS, REFERENCE, checkpoint_of
from PIL import Image

import decoder
import encoder
from architecture import Architecture
from cli import options
from cli.inputs import collect
from coding import models
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
        "version": "version 1 or 2 expected, got 9",
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
        ([*MODEL, "--model", "gmm"], "got both"),
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


@pytest.mark.parametrize("script", ["encoder.py", "decoder.py"])
@pytest.mark.parametrize("arguments", [["--help"], ["no-such-file"]])
def test_what_codes_nothing_imports_no_tensorflow(script, arguments):
    check = (
        "import os, runpy, sys; sys.argv, os._exit = sys.argv[1:], sys.exit\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print({'tensorflow', 'scipy'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", check, ROOT / script, *arguments]
    result = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "set()", result.stderr


def test_a_folder_of_phone_pictures_loses_none_in_silence(folder, run_here, monkeypatch):
    """Formats whose package is missing, raw files and subfolders are counted and named."""
    readable = tuple(s for s in images.IMAGE_SUFFIXES if s not in (".heic", ".jxl"))
    monkeypatch.setattr(images, "IMAGE_SUFFIXES", readable)
    phone = folder / "phone"
    (phone / "trip").mkdir(parents=True)
    for name in ("a.jpg", "trip/a.jpg"):
        Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(phone / name)
    for name in ("b.heic", "c.HEIC", "d.jxl", "e.dng"):
        (phone / name).write_bytes(b"a picture")
    code, out, err = run_here(encoder, "phone", *MODEL, "-o", "phone-out")
    assert code == 0 and "1 file to phone-out/" in out
    assert err.count("\n") == 1 and all(
        words in err
        for words in (
            "2 x .heic (install pillow-heif)",
            "1 x .jxl (install pillow-jxl-plugin)",
            "1 x .dng (camera raw",
            "1 x folder (add --recursive)",
        )
    )
    code, out, err = run_here(encoder, "phone", *MODEL, "-o", "phone-out2", "-r", "--keep-suffix")
    assert code == 0 and "folder" not in err
    outputs = [str(p.relative_to(folder / "phone-out2")) for p in folder.glob("phone-out2/**/*.*")]
    assert sorted(outputs) == ["a.jpg.glic", os.path.join("trip", "a.jpg.glic")]
    code, _, _ = run_here(decoder, "phone-out2", *MODEL, "-o", "phone-back", "--recursive")
    assert code == 0 and (folder / "phone-back" / "trip" / "a.jpg.png").is_file()


def test_a_missing_argument_fails_alone(folder, run_here):
    named = [
        "no-such.png",
        "my photos ü/tiny.bmp",
        "my photos ü/tiny.bmp",
        "./my photos ü/tiny.bmp",
    ]
    code, out, err = run_here(encoder, *named, *MODEL, "-o", "alone")
    assert code == 1 and [p.name for p in (folder / "alone").iterdir()] == ["tiny.glic"]
    assert "no-such.png does not exist" in err and "1 of 2 files failed" in err


def write_model(folder, **config):
    """The golden gmm model as a model folder."""
    folder.mkdir(parents=True)
    prefix = checkpoint_of("gmm")
    for path in prefix.parent.glob("model-0.*"):
        shutil.copy(path, folder / path.name.replace("model-0", models.CHECKPOINT_PREFIX))
    fingerprint = models.load_checkpoint(prefix, Architecture("gmm", NUM_FILTERS)).fingerprint.hex()
    config = {"family": "gmm", "num_filters": NUM_FILTERS, "fingerprint": fingerprint, **config}
    (folder / models.CONFIG_NAME).write_text(json.dumps(config), encoding="utf-8")


def test_a_model_by_its_path_says_how_decoders_find_it(folder, run_here):
    write_model(folder / "my model")
    image = "my photos ü/tiny.bmp"
    code, out, _ = run_here(encoder, image, "--model", "my model", "-o", "own")
    (advice,) = [line for line in out.splitlines() if "add --model" in line]
    option = shlex.split(advice.split("add ")[1].split(" there,")[0])
    assert code == 0 and option == ["--model", str(folder / "my model")]
    code, _, err = run_here(decoder, "own", "-o", "own-back")
    assert code == 1 and "is not in" in err and "name it with --model" in err
    code, out, err = run_here(decoder, "own", *option, "--model", "gmm", "-o", "own-back")
    assert code == 0, err
    assert "my model" in out and (folder / "own-back" / "tiny.png").is_file()
    code, out, err = run_here(decoder, "own", "--model", "no-model", "-o", "own-back2")
    assert code == 2 and "No model named no-model" in err


def test_a_checkpoint_says_how_decoders_find_it(folder, run_here):
    code, out, _ = run_here(encoder, "my photos ü/tiny.bmp", *MODEL, "-o", "checkpoint")
    (advice,) = [line for line in out.splitlines() if line.startswith("To decode")]
    assert code == 0 and shlex.split(advice.split("decoder.py: ")[1]) == list(map(str, MODEL))


def test_a_shipped_model_needs_no_advice(folder, run_here):
    code, out, err = run_here(encoder, "my photos ü/tiny.bmp", "--model", "gmm", "-o", "s")
    assert code == 0 and err == "" and "--model" not in out
    path = folder / "copy of a shipped one"
    shutil.copytree(models.folder_of("gmm"), path)
    code, out, err = run_here(encoder, "my photos ü/tiny.bmp", "--model", path, "-o", "s2")
    assert code == 0 and "--model" not in out
    code, out, _ = run_here(decoder, "s2", "-o", "s-back")
    lines = out.splitlines()
    assert code == 0 and lines[0] == "1 file to s-back/" and len(lines) == 3
    assert lines[1].startswith(f"{models.resolved('gmm')}: gmm, 64 filters")
    assert " started in " in lines[1]


@pytest.mark.parametrize(
    "module,option",
    [(m, o) for m in (encoder, decoder) for o in ("--max-pixels", "--memory-mib")]
    + [(encoder, "--lmbda"), (encoder, "--target-bpp"), (encoder, "--target-psnr")],
)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "x"])
def test_numbers_that_mean_nothing_are_refused(folder, run_here, module, option, value):
    code, out, err = run_here(module, f"{option}={value}", "-o", "unused")
    assert code == 2 and out == ""
    assert f"argument {option}: a " in err and f"expected, got '{value}'." in err.splitlines()[-1]


def test_valid_photos_cost_their_ideal_size():
    """The shipped default model on valid/: real files against the float model's code length."""
    from test_coding import OVERHEAD_BYTES, OVERHEAD_SHARE, ideal_bits

    from codec import Codec

    codec = Codec.load(options.DEFAULT_MODEL, backend="tensorflow")  # which has the float mixtures
    for path in collect([ROOT / "valid"], images.IMAGE_SUFFIXES):
        pixels = images.read_image(path).pixels
        latents = codec.analyse(pixels)
        data = codec.encode(latents)
        ideal = ideal_bits(codec, latents) / 8
        assert len(data) <= ideal * (1 + OVERHEAD_SHARE) + OVERHEAD_BYTES, path.name
