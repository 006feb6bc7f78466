"""evaluate.py as a user runs it: measuring, caching, tables, report, refusals."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import NUM_FILTERS, REFERENCE, checkpoint_of

pytest.importorskip("bjontegaard", reason="evaluate.py needs requirements-eval.txt")
pytest.importorskip("matplotlib", reason="evaluate.py needs requirements-eval.txt")

import cli.options
import evaluate
from errors import UsageError
from evaluation import tables as evaluation_tables
from evaluation import workers as evaluation_run
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
    options = ["--codecs", "jpeg", "webp", "--matched", "-o", "out", "--report", "page/report.html"]
    command = [sys.executable, ROOT / "evaluate.py", "--images", *PICTURES, broken]
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


def test_a_bad_image_is_named_and_the_rest_go_on(measured):
    _, process = measured
    assert process.returncode == 1
    assert "broken.png (model-0)" in process.stderr and "Traceback" not in process.stderr


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
    options = ["--codecs", "jpeg", "webp", "--matched", "-o", "out"]
    assert run_main(monkeypatch, "--images", *PICTURES, *MODEL, *options) == 0
    assert ", 0 of them new." in capsys.readouterr().out
    assert (folder / "out" / "means.csv").read_bytes() == before


def test_a_damaged_result_is_not_used(tmp_path):
    (tmp_path / "key.json").write_text('{"suffix": ".glic", "bytes": 3}', encoding="utf-8")
    assert evaluation_run._cached(tmp_path, "key") is None  # its file is missing
    (tmp_path / "key.glic").write_bytes(b"ab")
    assert evaluation_run._cached(tmp_path, "key") is None  # or cut off
    (tmp_path / "key.glic").write_bytes(b"abc")
    assert evaluation_run._cached(tmp_path, "key")["bytes"] == 3
    (tmp_path / "key.json").write_text('{"suffix":', encoding="utf-8")
    assert evaluation_run._cached(tmp_path, "key") is None


def test_the_key_depends_on_everything_that_counts():
    from evaluation.measure import Task

    task = Task(str(PICTURES[0]), "model", "a", fingerprint="00")
    key = evaluation_run.cache_key(task, 2, 1)
    assert key == evaluation_run.cache_key(task._replace(codec="another name"), 2, 1)
    others = [
        (task._replace(path=str(PICTURES[1])), 2, 1),
        (task._replace(fingerprint="01"), 2, 1),
        (task, 1, 1),
        (task, 2, 2),
        (Task(task.path, "classic", "jpeg", setting=10), 2, 1),
        (Task(task.path, "classic", "jpeg", setting=11), 2, 1),
        (Task(task.path, "matched", "jpeg", limit=10), 2, 1),
    ]
    assert len({key, *(evaluation_run.cache_key(*other) for other in others)}) == len(others) + 1


def test_the_report_is_one_page_that_needs_no_network(measured):
    folder, _ = measured
    page = (folder / "page" / "report.html").read_text(encoding="utf-8")
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
    page = (folder / "page" / "report.html").read_text(encoding="utf-8")
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
    monkeypatch.setattr(cli.options, "checkpoint_codec", lambda args: codecs["gmm"])


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
    assert run_main(monkeypatch, "--complexity", *options) == 0
    assert "| gmm | 8 | 8 | synthesis |" in capsys.readouterr().out
    rows = rows_of(tmp_path / "complexity.csv")
    assert all(float(row["seconds"]) > 0 for row in rows if row["part"] != "entropy_bottleneck")
    assert rows[-1]["part"] == "total" and rows[-1]["device"]
    assert run_main(monkeypatch, "--complexity", *options, "--latents", 24) == 0
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
        (["--complexity", "--filters", 7], "multiple of 8"),
        (["--complexity", "--latents", 9], "latent channels that is a positive multiple of 8"),
        (["--complexity", "--filters", 8, "--size", "100x64"], "multiples of 64"),
    ],
)
def test_refusals(monkeypatch, tmp_path, options, message):
    monkeypatch.chdir(tmp_path)
    start = [] if "--images" in options else ["--images", PICTURES[0]]
    with pytest.raises(ValueError, match=re.escape(message)):
        run_main(monkeypatch, *start, *options)


def test_an_unknown_anchor_is_refused(measured, monkeypatch):
    folder, _ = measured
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match="An --anchor among model-0"):
        run_main(monkeypatch, "--images", *PICTURES, *MODEL, "--anchor", "bpg", "-o", "out")


@pytest.mark.parametrize("text", ["768", "axb", "1x2x3"])
def test_a_size_that_is_none(monkeypatch, capsys, text):
    with pytest.raises(SystemExit):
        run_main(monkeypatch, "--complexity", "--size", text)
    assert "WIDTHxHEIGHT" in capsys.readouterr().err


def test_infinity_is_null_in_json(tmp_path):
    path = tmp_path / "a.json"
    evaluation_tables.write_json({"rows": [{"psnr": float("inf"), "bpp": 1.5}]}, path)
    assert json.loads(path.read_text()) == {"rows": [{"psnr": None, "bpp": 1.5}]}


def test_means_skip_what_is_unknown():
    row = dict.fromkeys(evaluation_tables._AVERAGED, 1.0)
    row.update(kind="model", codec="a", matched_to="", encode_peak_mib=1, decode_peak_mib=2)
    rows = [{**row, "ms_ssim": 0.9}, {**row, "ms_ssim": None, "psnr": 3.0, "decode_peak_mib": 5}]
    (mean,) = evaluation_tables.means(rows)
    assert mean["ms_ssim"] == 0.9 and mean["ms_ssim_db"] == pytest.approx(10)
    assert mean["psnr"] == 2 and mean["decode_peak_mib"] == 5
