"""Every benchmark and every script of docs/ runs, on inputs that are small enough for a test."""

import csv
import importlib
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from many_rates import write_folder
from PIL import Image

pytest.importorskip("bjontegaard", reason="benchmarks need requirements-eval.txt")
pytest.importorskip("matplotlib", reason="benchmarks need requirements-eval.txt")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a benchmark's ``main()`` in this process; returns what it printed."""

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        assert module.main() in (None, 0)
        return capsys.readouterr().out

    return lambda name, *arguments: run(importlib.import_module(f"benchmarks.{name}"), *arguments)


@pytest.fixture
def photograph(tmp_path):
    """Path of a 64x64 crop of a photograph."""
    with Image.open(ROOT / "valid" / "chelsea.png") as image:
        image.crop((100, 100, 164, 164)).save(tmp_path / "crop.png")
    return tmp_path / "crop.png"


def test_every_benchmark_is_tested():
    names = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__"}
    tested = set(re.findall(r'\brun\(\s*"(\w+)"', Path(__file__).read_text(encoding="utf-8")))
    assert names == tested
    manual = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert names == set(re.findall(r"^\| `(\w+)` \|", manual.partition("## Benchmarks")[2], re.M))


@pytest.mark.slow
def test_backends_are_compared_in_turns(run, monkeypatch):
    pytest.importorskip("onnxruntime", reason="TensorFlow does without")
    from benchmarks import backends

    monkeypatch.setattr(backends, "SIZES", {(40, 50): 2.5})
    monkeypatch.setattr(backends, "SERIES", 2)
    arguments = ["--model", "gmm-msssim-2", "--repeats", 1, "--series-size", 48, 40]
    lines = run("backends", *arguments).splitlines()[2:]
    kinds = ["encode 50x40", "decode 50x40", "from Python 50x40"]
    assert [line[:24].strip() for line in lines] == [
        *kinds,
        *("compress 2 pictures", "restore 2 pictures"),
    ]
    for text in lines:
        wall, other_wall, ratio, spent, other_spent, _ = map(float, text[24:].split()[:6])
        assert min(wall, other_wall, spent, other_spent) >= 0 and ratio > 0
    encode = list(map(float, lines[0][24:].split()[:6]))
    assert encode[5] < 0.6  # of the processor time: TensorFlow's import alone is more


def test_effort_measures_what_is_missing_and_names_what_is_restored_exactly(
    run, photograph, tmp_path, monkeypatch
):
    from benchmarks import effort

    output = tmp_path / "effort.csv"
    arguments = ["--models", "gllmm-mse-3", "--levels", 0, 1, "--output", output]
    out = run("effort", photograph, *arguments)
    first, second = (line.split() for line in out.splitlines()[-2:])
    assert first[:3] == ["gllmm-mse-3", "0", "0"] and second[:3] == ["gllmm-mse-3", "1", "4"]
    assert float(first[4]) > 0 and float(first[5]) > 20
    monkeypatch.setattr(effort, "measure", lambda *_: pytest.fail("measured again"))
    assert run("effort", photograph, *arguments) == out
    rows = list(csv.DictReader(output.open(encoding="utf-8")))
    exact = {**rows[0], "psnr": "inf"}
    assert effort.restored_exactly(rows) == set()
    assert effort.restored_exactly([*rows, exact]) == {"crop.png"}


def test_effort_at_the_lambdas_that_are_named(run, photograph, tmp_path):
    arguments = ["--levels", 0, "--lambdas", 0.03, 0.0032, "--output", tmp_path / "effort.csv"]
    lines = run("effort", photograph, *arguments).splitlines()[-2:]
    low, high = (line.split("lambda ")[1].split() for line in lines)
    assert (low[0], high[0]) == ("0.0032", "0.03") and float(low[4]) < float(high[4])


def test_entropy_coding(run):
    out = run("entropy_coding", "--model", "random-8", "--size", "128x64", "--repeats", 1)
    assert out.startswith("random-8: gmm, 8 filters; 128x64, ")
    seconds = dict(re.findall(r"^(\w+) +([0-9.]+) s", out, re.M))
    assert set(seconds) == {"analysis", "synthesis", "encode", "decode"}
    assert importlib.import_module("benchmarks.scaling").random_model("random-gllmm-8")


def test_jobs(run):
    arguments = ["--model", "gmm-msssim-2", "--count", 3, "--size", "64x48", "--jobs", 1, 2]
    out = run("jobs", ROOT / "valid" / "chelsea.png", *arguments)
    form = r"^--jobs ([12]): ([0-9]+) images an hour, ([0-9.]+) processor seconds an image$"
    rates = re.findall(form, out, re.M)
    assert [jobs for jobs, *_ in rates] == ["1", "2"]
    assert all(int(rate) > 0 and 0 < float(seconds) < 2 for _, rate, seconds in rates)
    assert "--jobs 1 / --jobs 1: 1.00\n--jobs 2 / --jobs 1: " in out


def test_crops_are_of_one_size_and_differ():
    from benchmarks import jobs
    from errors import UsageError

    valid = [ROOT / "valid" / "chelsea.png", ROOT / "valid" / "astronaut.png"]
    made = list(jobs.crops(valid, 5, 48, 64))
    assert [pixels.shape for pixels in made] == [(48, 64, 3)] * 5
    assert len({pixels.tobytes() for pixels in made}) == 5
    with pytest.raises(UsageError, match="8000x8000"):
        list(jobs.crops(valid, 1, 8000, 8000))


def test_scaling(run, tmp_path):
    arguments = ["--model", "random-8", "--sizes", "64x128", "-o", tmp_path]
    out = run("scaling", *arguments)
    assert "| `random-8` | 64x128 | 0.01 |" in out
    rows = list(csv.DictReader((tmp_path / "scaling.csv").open(encoding="utf-8")))
    assert [row["direction"] for row in rows] == ["encode", "decode"]
    assert all(float(row["peak_mib"]) > 100 and int(row["bytes"]) > 0 for row in rows)
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    assert out.endswith(run("scaling", *arguments, "--table"))


def test_startup(run):
    out = run("startup", "--repeats", 1, "--model", "gmm-msssim-2")
    for script in ("encoder", "decoder"):
        _, _, part = out.partition(f"{script}.py, 256x256")
        values = [float(value) for value in re.findall(r"^  [a-z ]+ +(-?[0-9.]+)", part, re.M)]
        seconds, (whole, ours) = values[:9], values[9:11]
        assert min(seconds) > -0.01 and sum(seconds) == pytest.approx(whole, abs=0.05)
        assert ours == pytest.approx(whole - seconds[1] - seconds[5], abs=0.05)
        assert min(seconds[i] for i in (1, 3, 4, 5)) > 0  # TensorFlow, model, graphs, passes


def test_synthetic(run):
    out = run("synthetic", "--models", "gmm-msssim-2", "--pictures", "flat red", "text")
    lines = [line.split() for line in out.splitlines() if line.startswith(("flat red", "text"))]
    assert len(lines) == 2
    for *_, bpp, psnr, _, _, png in lines:
        assert 0 < float(bpp) < 8 and float(psnr) > 15 and float(png) > 0


def test_synthetic_pictures_are_what_they_are_called():
    from benchmarks import synthetic

    pictures = synthetic.pictures()
    assert all(p.shape == (256, 256, 3) and p.dtype == np.uint8 for p in pictures.values())
    assert np.array_equal(pictures["flat blue"][3, 5], [0, 0, 255])
    assert np.array_equal(pictures["gradient red"][7, [0, -1]], [[0, 0, 0], [255, 0, 0]])
    assert synthetic.cheapest([(0.5, 30.0), (12.0, 40.0)], 35) == " 12.0000"
    assert synthetic.cheapest([(0.5, 30.0)], 35).strip() == "-"


def test_targets(run, photograph, tmp_path, monkeypatch):
    from benchmarks import targets
    from search import refine

    model = write_folder(tmp_path / "many")
    monkeypatch.setattr(targets, "QUALITIES", (60,))
    monkeypatch.setattr(refine, "ITERATIONS", (0, 2))
    out = run("targets", photograph, "--model", model)
    rows = re.findall(r"^\| `--target-(\w+)` \| 1 \| ([\d.]+) \((\d+)\) \|.*\|$", out, re.M)
    assert [row[0] for row in rows] == ["bytes", "psnr"] and all(int(row[2]) <= 10 for row in rows)
    assert "`--target-bytes`, `--effort 1` | 1 |" in run(
        "targets", photograph, "--model", model, "--effort", 1
    )
    out = run("targets", photograph, "--model", model, "--beyond")
    assert re.search(r"AVIF reaches at all four: [01]$", out, re.M)


def test_tiling(run):
    out = run("tiling", "--model", "random-8", "--size", "512x256", "--budgets", 0)
    whole, tiled = out.splitlines()
    assert "untiled      1 tiles" in whole and "2 tiles" in tiled and "dB)" in tiled


def test_training(run):
    options = ["--filters", 8, "--precisions", "float32", "--optimizers", "adam", "--repeats", 1]
    out = run("training", *options, "--profile")
    assert re.search(r"N = 8, float32, adam: [0-9,]+ pixels/s, convolutions at [0-9]+% of", out)
    assert "| all others |" in out


def script(name):
    """The module of a script of docs/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_comparison_picture(tmp_path, monkeypatch):
    from evaluation import classics

    if "avif" not in classics.available():
        pytest.skip("this Pillow has no AVIF")
    monkeypatch.setattr(sys, "argv", ["make_comparison.py", "-o", str(tmp_path / "a.png")])
    script("make_comparison").main()
    with Image.open(tmp_path / "a.png") as made, Image.open(ROOT / "docs/comparison.png") as kept:
        assert made.size == kept.size
        difference = np.asarray(made.convert("RGB")).astype(int) - np.asarray(kept.convert("RGB"))
    assert np.abs(difference).mean() < 3  # another library may give a little other pictures


def test_tables_and_plots_are_mended(tmp_path, monkeypatch, capsys):
    documents = ["README.md", "docs/results.md", "models/README.md"]
    configs = [path.relative_to(ROOT) for path in ROOT.glob("models/*/config.json")]
    for path in [*documents, *configs]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    for path in documents:
        text = (tmp_path / path).read_text(encoding="utf-8")
        (tmp_path / path).write_text(re.sub(r"^\| .*%.*\n", "", text, flags=re.M), encoding="utf-8")
    module = script("make_results")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "MODELS", tmp_path / "models")
    monkeypatch.setattr(sys, "argv", ["make_results.py", "--check"])
    assert module.main() == 1
    assert "Out of date: README.md, docs/results.md; run" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["make_results.py"])
    assert module.main() == 0
    # Tables only: lines with percent elsewhere are none of the script's.
    made = (tmp_path / "README.md").read_text(encoding="utf-8")
    kept = (ROOT / "README.md").read_text(encoding="utf-8")
    summary = re.compile(r"<!-- summary -->.*<!-- end summary -->", re.S)
    assert summary.search(made)[0] == summary.search(kept)[0]
    assert len(list((tmp_path / "docs").glob("rd_kodak*.png"))) == 2
