"""Single files and pipes: -, -o FILE, and options that have no meaning there."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden_models import NUM_FILTERS, REFERENCE, checkpoint_of
from PIL import Image

import decoder
import encoder
from pictures import images

ROOT = Path(__file__).resolve().parents[2]
MODEL = ["--checkpoint", checkpoint_of("gmm"), "--family", "gmm", "--num-filters", NUM_FILTERS]


@pytest.fixture
def run(run_here):
    """``run_here`` with the golden checkpoint's options."""
    return lambda module, *arguments: run_here(module, *arguments, *MODEL)


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """a.png of 50x40 in the working folder."""
    monkeypatch.chdir(tmp_path)
    pixels = np.asarray(Image.open(REFERENCE / "image_120x179.png"))[:40, :50]
    Image.fromarray(pixels).save("a.png")
    return Path("a.png")


def command(script, *arguments):
    return [sys.executable, str(ROOT / script), *map(str, (*arguments, *MODEL))]


def test_a_picture_passes_through_both_as_pipes(run, photo):
    encoded = subprocess.run(
        command("encoder.py", "-"), input=photo.read_bytes(), capture_output=True
    )
    assert encoded.returncode == 0, encoded.stderr
    assert b"1 file to standard output" in encoded.stderr and b"bpp" in encoded.stderr
    with open("back.png", "wb") as file:
        decoded = subprocess.run(
            command("decoder.py", "-"), input=encoded.stdout, stdout=file, stderr=subprocess.PIPE
        )
    assert decoded.returncode == 0, decoded.stderr
    assert run(encoder, "a.png", "-o", "x.glic")[0] == 0
    assert Path("x.glic").read_bytes() == encoded.stdout
    assert run(decoder, "x.glic", "-o", "y.png")[0] == 0
    assert Path("y.png").read_bytes() == Path("back.png").read_bytes()
    assert sorted(os.listdir()) == ["a.png", "back.png", "x.glic", "y.png"]


def test_an_input_that_cannot_be_rewound_is_read(run, photo, monkeypatch):
    assert run(encoder, "a.png", "-o", "a.glic")[0] == 0
    for name, module, output in (("a.png", encoder, "b.glic"), ("a.glic", decoder, "b.png")):
        reader, writer = os.pipe()
        os.write(writer, Path(name).read_bytes()[:60000])
        os.close(writer)
        assert run(module, f"/dev/fd/{reader}", "-o", output)[0] == 0
        os.close(reader)
    assert Path("b.glic").read_bytes() == Path("a.glic").read_bytes()
    assert images.read_image("b.png").pixels.shape == (40, 50, 3)


def test_standard_input_that_is_no_picture_is_named(run, photo, monkeypatch):
    for module, data, words in (
        (encoder, b"", "standard input is empty"),
        (decoder, b"nothing", "standard input: Not a GLIC file"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code, out, err = run(module, "-")
        assert code == 1 and out == "" and words in err and "1 of 1 files failed" in err


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["a.png", "-", "-o", "out"], "Standard input is for one picture"),
        (["a.png", "-"], "Standard input is for one picture"),
        (["-", "-o", "out"], "Standard input is for one picture"),
        (["-", "-o", "x.glic", "--keep-times"], "--keep-times means nothing for standard input"),
        (["a.png", "b.png", "-o", "-"], "One input file expected for standard output, got 2"),
        ([".", "-o", "x.glic"], "One input file expected for the file x.glic, got the folder ."),
        (["a.png", "-o", "-", "--overwrite"], "--overwrite means nothing for standard output"),
        (["a.png", "-o", "-", "--skip-existing"], "--skip-existing means nothing"),
        (["a.png", "-o", "x.glic", "--recursive"], "--recursive means nothing for the file x.glic"),
        (["a.png", "-o", "x.glic", "--keep-suffix"], "--keep-suffix means nothing for the file"),
        (["a.png", "-o", "a.png"], "-o a.png is no folder"),
        (["a.png", "-o", "a.png/"], "-o a.png is no folder"),
        (["a.png", "-o", "new.jpg"], "-o new.jpg is no folder"),
        (["a.png", "-o", "notes"], "-o notes is no folder"),
    ],
)
def test_outputs_that_do_not_fit_are_one_sentence(run, photo, arguments, words):
    Path("notes").touch()
    code, out, err = run(encoder, *arguments)
    assert code == 2 and out == "" and words in err and len(err.splitlines()) == 1
    assert sorted(os.listdir()) == ["a.png", "notes"]


def test_a_terminal_gets_no_bytes(run, photo, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, out, err = run(encoder, "a.png", "-o", "-")
    assert code == 2 and out == "" and "Standard output is a terminal" in err


def test_an_output_file_follows_the_rules_of_all_outputs(run, photo):
    assert run(encoder, "a.png", "-o", "new/x.GLIC")[0] == 0 and Path("new/x.GLIC").exists()
    code, _, err = run(encoder, "a.png", "-o", "new/x.GLIC")
    assert code == 1 and "new/x.GLIC exists: add --overwrite" in err
    assert run(encoder, "a.png", "-o", "new/x.GLIC", "--overwrite")[0] == 0
    assert run(encoder, "a.png", "-o", "new/x.GLIC", "--skip-existing")[0] == 0
    Path("folder.glic").mkdir()
    assert run(encoder, "a.png", "-o", "folder.glic")[0] == 0
    assert os.listdir("folder.glic") == ["a.glic"]
    assert run(encoder, "a.png", "-o", "other.glic/")[0] == 0
    assert os.listdir("other.glic") == ["a.glic"]


def test_a_reader_that_leaves_ends_the_run_without_noise(photo):
    for arguments in (["a.png", "-o", "-"], ["a.png", "a.png", "-o", "out"]):
        process = subprocess.Popen(
            command("encoder.py", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        process.stdout.close()
        _, err = process.communicate()
        assert process.returncode in (1, 2) and b"Broken pipe" in err
        assert b"Traceback" not in err and b"Exception ignored" not in err


def test_file_times_are_kept_on_request(run, photo):
    os.utime(photo, ns=(10**18, 11 * 10**17))
    assert run(encoder, "a.png", "-o", "kept", "--keep-times")[0] == 0
    assert run(decoder, "kept", "-o", "kept", "--keep-times")[0] == 0
    assert run(encoder, "a.png", "-o", "new")[0] == 0
    assert os.stat("kept/a.png").st_mtime_ns == os.stat("kept/a.glic").st_mtime_ns == 11 * 10**17
    assert os.stat("new/a.glic").st_mtime_ns > 15 * 10**17


def test_the_encoder_refuses_pictures_that_are_too_large(run, photo):
    code, _, err = run(encoder, "a.png", "-o", "out", "--max-pixels", 1999)
    assert code == 1 and "50x40 pixels" in err and "1999" in err and os.listdir("out") == []
    assert run(encoder, "a.png", "-o", "out", "--max-pixels", 2000)[0] == 0
