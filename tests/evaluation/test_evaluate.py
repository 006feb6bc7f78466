"""evaluate.py as a user runs it: measuring, caching, tables, report, refusals."""

import argparse
import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden_models import NUM_FILTERS, REFERENCE, checkpoint_of
from PIL import Image

pytest.importorskip("bjontegaard", reason="evaluate.py needs requirements-eval.txt")
pytest.importorskip("matplotlib", reason="evaluate.py needs requirements-eval.txt")

import cli.options
import evaluate
from architecture import Architecture
from coding import backends, models
from errors import UsageError
from evaluation import options, session
from pictures import images, metrics

ROOT = Path(__file__).resolve().parents[2]
MODEL = ["--checkpoint", checkpoint_of("gmm"), "--family", "gmm", "--num-filters", NUM_FILTERS]
PICTURES = [REFERENCE / "image_120x179.png", REFERENCE / "image_128x192.png"]


def run_main(monkeypatch, *arguments):
    """``evaluate.main()`` in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
    return evaluate.main()


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A whole run as a subprocess, on two good images and a broken one: (folder, process)."""
    folder = tmp_path_factory.mktemp("evaluate")
    broken = folder / "broken.png"
    broken.write_bytes(PICTURES[0].read_bytes()[:500])
    options = ["--codecs", "jpeg", "webp", "--matched", "-o", "out", "--page", "page/a.html"]
    command = [sys.executable, ROOT / "evaluate.py", "report", "--images", *PICTURES, broken]
    command += ["--backend", "tensorflow"]
    process = subprocess.run(
        [str(part) for part in (*command, *MODEL, *options)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return folder, process


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_bad_image_is_named_once_and_the_rest_go_on(measured):
    _, process = measured
    assert process.returncode == 1
    (line,) = [line for line in process.stderr.splitlines() if "broken.png" in line]
    assert line.split(": ")[0].endswith("broken.png")  # all failed: no codec is named


def test_results_are_those_of_the_real_files(measured, codecs):
    folder, _ = measured
    rows = rows_of(folder / "out" / "results.csv")
    ours = [row for row in rows if row["kind"] == "model"]
    assert [row["image"] for row in ours] == [path.name for path in PICTURES]
    for row, path in zip(ours, PICTURES):
        pixels = images.read_image(path).pixels
        data = codecs["gmm"].compress(pixels)
        restored = codecs["gmm"].decompress(data)
        assert int(row["bytes"]) == len(data)
        assert float(row["bpp"]) == 8 * len(data) / (pixels.shape[0] * pixels.shape[1])
        # Another number of threads may move a pixel by a level.
        assert float(row["psnr"]) == pytest.approx(metrics.psnr(pixels, restored), abs=0.01)
        parts = [float(row[f"encode_{part}_seconds"]) for part in ("networks", "entropy")]
        assert min(parts) > 0 and sum(parts) == pytest.approx(float(row["encode_seconds"]))
        assert float(row["encode_peak_mib"]) > 50
        assert row["device"] and int(row["threads"]) >= 1 and "tensorflow 2" in row["versions"]
        assert row["backend"] == "tensorflow"


def test_matched_files_are_no_larger_than_ours(measured):
    folder, _ = measured
    rows = rows_of(folder / "out" / "results.csv")
    limit = {row["image"]: int(row["bytes"]) for row in rows if row["kind"] == "model"}
    matched = [row for row in rows if row["kind"] == "matched"]
    assert len(matched) == 4
    for row in matched:
        assert (int(row["bytes"]) <= limit[row["image"]]) == (row["fits"] == "True")


def test_means_and_json_agree_with_the_rows(measured):
    folder, _ = measured
    rows = rows_of(folder / "out" / "results.csv")
    facts = json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))
    assert len(facts["rows"]) == len(rows) and facts["device"] and "--matched" in facts["command"]
    assert facts["backend"] == "tensorflow"
    assert not any("path" in row or "file" in row for row in facts["rows"])
    (mean,) = [m for m in facts["means"] if m["kind"] == "model"]
    ours = [float(row["bpp"]) for row in rows if row["kind"] == "model"]
    assert mean["images"] == 2 and mean["bpp"] == pytest.approx(sum(ours) / 2)
    assert len(rows_of(folder / "out" / "means.csv")) == len(facts["means"])


def test_plots_are_written(measured):
    folder, process = measured
    for metric in ("psnr",):  # the images are too small for MS-SSIM, but the papers' curves have it
        assert (folder / "out" / f"rd_{metric}.png").stat().st_size > 10_000
        svg = (folder / "out" / f"rd_{metric}.svg").read_text(encoding="utf-8")
        assert "Cheng et al. 2020, published" in svg and "model-0 (ours)" in svg
    assert "BD-rate" in process.stdout


def test_a_second_run_measures_nothing_and_finds_the_same(measured, monkeypatch, capsys):
    folder, _ = measured
    monkeypatch.chdir(folder)
    before = (folder / "out" / "means.csv").read_bytes()
    options = ["--codecs", "jpeg", "webp", "--matched", "-o", "out", "--backend", "tensorflow"]
    assert run_main(monkeypatch, "run", "--images", *PICTURES, *MODEL, *options) == 0
    assert ", 0 of them new." in capsys.readouterr().out
    assert (folder / "out" / "means.csv").read_bytes() == before


def test_the_report_is_one_page_that_needs_no_network(measured):
    folder, _ = measured
    page = (folder / "page" / "a.html").read_text(encoding="utf-8")
    assert "@@" not in re.sub(r"base64,[^\"]*", "", page)
    assert "default-src 'none'" in page
    # The only address is the name of the SVG namespace.
    assert set(re.findall(r"https?://[^\"' ]*", page)) == {"http://www.w3.org/2000/svg"}
    blocks = re.findall(r'<script type="application/json" id="([^"]*)">(.*?)</script>', page)
    data = {name: json.loads(text) for name, text in blocks}
    assert set(data) == {"overview", "image-0", "image-1"}
    assert [image["name"] for image in data["overview"]["images"]] == [p.name for p in PICTURES]
    (model,) = data["image-1"]["models"]
    assert [classic["codec"] for classic in model["classics"]] == ["jpeg", "webp"]
    bits = sum(model["map"]["tenths"]) / 10
    assert bits == pytest.approx(8 * sum(model["payload"]), rel=0.01)


def test_pictures_in_the_report_are_without_loss(measured):
    import base64
    import io

    from PIL import Image

    folder, _ = measured
    page = (folder / "page" / "a.html").read_text(encoding="utf-8")
    entry = json.loads(re.search(r'id="image-0">(.*?)</script>', page).group(1))
    for source, expected in (
        (entry["original"], images.read_image(PICTURES[0]).pixels),
        (entry["models"][0]["source"], None),
    ):
        data = base64.b64decode(source.split(",", 1)[1])
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        if expected is None:
            original = images.read_image(PICTURES[0]).pixels
            psnr = metrics.psnr(original, pixels)
            assert psnr == pytest.approx(entry["models"][0]["psnr"], abs=0.01)
        else:
            assert np.array_equal(pixels, expected)


@pytest.fixture
def golden_codec(monkeypatch, codecs):
    """Spares a test from loading the golden checkpoint again."""
    monkeypatch.setattr(cli.options, "checkpoint_codec", lambda args, **_: codecs["gmm"])


def test_bits_of_an_image_and_of_its_file(monkeypatch, capsys, tmp_path, codecs, golden_codec):
    data = codecs["gmm"].compress(images.read_image(PICTURES[0]).pixels)
    file = tmp_path / "a.glic"
    file.write_bytes(data)
    drawn, text = tmp_path / "map.png", tmp_path / "bits.json"
    assert run_main(monkeypatch, "bits", file, *MODEL, "--map", drawn, "--json", text) == 0
    of_file = capsys.readouterr().out
    assert run_main(monkeypatch, "bits", PICTURES[0], *MODEL) == 0
    assert capsys.readouterr().out == of_file
    assert f"{len(data)}" in of_file and "coded channels" in of_file
    assert json.loads(text.read_text(encoding="utf-8"))["bytes"]["file"] == len(data)
    assert drawn.stat().st_size > 5000


def test_bits_of_a_file_whose_model_is_missing(monkeypatch, tmp_path, codecs):
    file = tmp_path / "a.glic"
    file.write_bytes(codecs["gmm"].compress(np.zeros((64, 64, 3), np.uint8)))
    with pytest.raises(ValueError, match="which is not in"):
        run_main(monkeypatch, "bits", file)


def test_complexity(monkeypatch, capsys, tmp_path):
    options = ["--families", "gmm", "--filters", 8, "--size", "128x64", "-o", tmp_path]
    assert run_main(monkeypatch, "complexity", *options) == 0
    assert "| gmm | 8 | 8 | synthesis |" in capsys.readouterr().out
    rows = rows_of(tmp_path / "complexity.csv")
    assert all(float(row["seconds"]) > 0 for row in rows if row["part"] != "entropy_bottleneck")
    assert rows[-1]["part"] == "total" and rows[-1]["device"]
    assert run_main(monkeypatch, "complexity", *options, "--latents", 24) == 0
    assert "| gmm | 8 | 24 | synthesis |" in capsys.readouterr().out
    more = rows_of(tmp_path / "complexity.csv")
    assert int(more[-1]["parameters"]) > int(rows[-1]["parameters"])


@pytest.mark.parametrize(
    "options, message",
    [
        (["--models", "x", *MODEL], "--models or --checkpoint"),
        (["--checkpoint", "a"], "go together"),
        (["--models", "no-such-model"], "No model named no-such-model"),
        (["--models", "--matched"], "--matched needs --codecs"),
        (["--models"], "Nothing to measure"),
        (["--models", "--codecs", "bpg"], "jpeg, webp"),
        (["--curves", "nothing"], "No curve named 'nothing'"),
        (["--images", "nowhere"], "nowhere does not exist"),
        (["complexity", "--filters", 7], "multiple of 8"),
        (["complexity", "--latents", 9], "latent channels that is a positive multiple of 8"),
        (["complexity", "--filters", 8, "--size", "100x64"], "multiples of 64"),
    ],
)
def test_refusals(monkeypatch, tmp_path, options, message):
    monkeypatch.chdir(tmp_path)
    start = [] if options[0] == "complexity" else ["run", "--images", PICTURES[0]]
    with pytest.raises(ValueError, match=re.escape(message)):
        run_main(monkeypatch, *start, *options)


def test_an_unknown_anchor_is_refused(measured, monkeypatch):
    folder, _ = measured
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match="An --anchor among model-0"):
        run_main(monkeypatch, "run", "--images", *PICTURES, *MODEL, "--anchor", "bpg", "-o", "out")


@pytest.mark.parametrize(
    "command, option, value",
    [("run", "--jobs", "0"), ("report", "--threads", "1.5"), ("complexity", "--filters", "-8")],
)
def test_numbers_are_checked_when_they_are_read(monkeypatch, capsys, command, option, value):
    with pytest.raises(SystemExit):
        run_main(monkeypatch, command, f"{option}={value}")
    assert f"a whole number from 1 expected, got '{value}'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["768", "axb", "1x2x3", "0x64"])
def test_a_size_that_is_none(monkeypatch, capsys, text):
    with pytest.raises(SystemExit):
        run_main(monkeypatch, "complexity", "--size", text)
    assert "WIDTHxHEIGHT" in capsys.readouterr().err


def test_an_image_that_is_restored_exactly_is_left_out_for_all(monkeypatch, tmp_path, capsys):
    """One infinite PSNR made the mean infinite, and took the codec out of the BD-rate."""
    monkeypatch.chdir(tmp_path)
    flat = tmp_path / "flat.png"
    Image.new("RGB", (64, 64), (128, 128, 128)).save(flat)
    options = ["--models", "--codecs", "jpeg", "webp", "--curves", "-o", "out"]
    assert run_main(monkeypatch, "run", "--images", PICTURES[0], flat, *options) == 0
    out = capsys.readouterr().out
    assert "Left out of all means: 1 image restored exactly\n  flat.png by JPEG (4:2:0)" in out
    assert "Mean over 1 image, without 1" in Path("out/rd_psnr.svg").read_text(encoding="utf-8")
    assert len(rows_of(Path("out/results.csv"))) == 2 * 2 * 8
    assert all(row["images"] == "1" for row in rows_of(Path("out/means.csv")))
    (row, _) = rows_of(Path("out/bd_rate.csv"))
    assert row["metric"] == "psnr" and row["percent"]


def test_a_checkpoint_with_more_latents_than_filters_is_measured():
    prefix = models.folder_of("gmm") / models.CHECKPOINT_PREFIX
    parser = argparse.ArgumentParser()
    options.add_run_options(parser)
    command = ["--checkpoint", str(prefix), "--family", "gmm", "--num-filters", "64"]
    args = parser.parse_args([*command, "--num-latents", "192"])
    (learned,) = session.learned_codecs(args)
    assert learned.load == (
        "checkpoint",
        backends.choose(),
        str(prefix),
        Architecture("gmm", 64, 192),
    )
