"""A model of many rates in evaluate.py: its points, curve, tables, report and kept results."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest
from golden_models import NUM_FILTERS, checkpoint_of
from many_rates import write_folder
from PIL import Image
from rd_points import check_own

pytest.importorskip("bjontegaard", reason="evaluate.py needs requirements-eval.txt")
pytest.importorskip("matplotlib", reason="evaluate.py needs requirements-eval.txt")

import evaluate
from errors import UsageError
from evaluation import curves, measurements, points, session, tables
from evaluation.measure import Task
from evaluation.session import LearnedCodec

ROOT = Path(__file__).resolve().parents[2]
MANY = {"family": "gmm", "metric": "mse", "num_filters": 64}


def many(low, high, metric="mse"):
    return {**MANY, "metric": metric, "lmbda": [low, high], "lmbda_reference": low}


def test_the_papers_lambdas_that_lie_in_the_range_are_the_points():
    papers = (0.0016, 0.0032, 0.0075, 0.015, 0.03, 0.045)
    assert points.lambdas_of("m", many(0.0016, 0.045)) == papers
    assert points.lambdas_of("m", many(0.002, 0.03)) == papers[1:5]
    assert points.lambdas_of("m", many(2.0, 200.0, "ms-ssim")) == (3, 12, 40, 120)
    assert points.lambdas_of("m", {**MANY, "lmbda": 0.01}) == (None,)


def test_a_range_of_its_own_has_six_points_from_end_to_end():
    found = points.lambdas_of("m", many(0.5, 16.0))
    assert found == pytest.approx([0.5, 1, 2, 4, 8, 16]) and (found[0], found[-1]) == (0.5, 16.0)


def test_lambdas_that_are_named():
    assert points.lambdas_of("m", many(0.001, 1), [0.5, 0.002, 0.5]) == (0.002, 0.5)
    with pytest.raises(UsageError, match="from 0.001 to 1 expected, which model m serves, got 2"):
        points.lambdas_of("m", many(0.001, 1), [0.5, 2])
    assert points.label("m", None) == "m" and points.label("m", 0.0075) == "m, lambda 0.0075"


def test_a_model_of_many_rates_is_a_curve_of_its_own():
    fixed = {**MANY, "lmbda": 0.01}
    learned = [
        LearnedCodec("gmm-1", (), "0", fixed),
        LearnedCodec("gmm-2", (), "1", fixed),
        LearnedCodec("gmm-3", (), "2", many(0.001, 1), (0.001, 0.1, 1)),
    ]
    names = {name: curve for name, (curve, _) in session.series_of(learned).items()}
    assert names == {"gmm-1": "gmm", "gmm-2": "gmm", "gmm-3": "gmm-3"}


def test_kept_results_are_told_apart_by_lambda():
    task = Task(str(ROOT / "valid" / "chelsea.png"), "model", "a", fingerprint="00", setting=0.01)
    keys = {measurements.cache_key(task._replace(setting=s), 2, 1) for s in (None, 0.01, 0.02)}
    assert len(keys) == 3


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A report at three lambdas, and the model's folder."""
    folder = tmp_path_factory.mktemp("points")
    model = write_folder(folder / "models" / "many")
    with Image.open(ROOT / "valid" / "chelsea.png") as image:
        image.crop((100, 60, 276, 236)).save(folder / "a.png")  # large enough for MS-SSIM
    arguments = ["report", "--images", folder / "a.png", "--models", model, "--codecs", "jpeg"]
    arguments += ["--matched", "--lambdas", 0.03, 0.0032, 0.01, "-o", folder / "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
        assert evaluate.main() == 0
    return folder, arguments


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_point_states_its_lambda(measured):
    folder, _ = measured
    rows = [r for r in rows_of(folder / "out" / "results.csv") if r["kind"] == "model"]
    assert [float(row["lmbda"]) for row in rows] == [0.0032, 0.01, 0.03]
    assert {row["codec"] for row in rows} == {"many"}
    assert [float(row["setting"]) for row in rows] == [0.0032, 0.01, 0.03]
    for column in ("bpp", "psnr"):
        values = [float(row[column]) for row in rows]
        assert values == sorted(set(values))
    means = [r for r in rows_of(folder / "out" / "means.csv") if r["kind"] == "model"]
    assert [float(row["lmbda"]) for row in means] == [0.0032, 0.01, 0.03]
    facts = json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))
    assert [row["lmbda"] for row in facts["rows"][:3]] == [0.0032, 0.01, 0.03]


def test_its_points_make_a_curve_that_is_compared(measured):
    folder, _ = measured
    row, _ = rows_of(folder / "out" / "bd_rate.csv")
    assert (row["curve"], row["anchor"], row["kind"]) == ("many", "jpeg", "BD-rate")
    assert float(row["percent"]) < 0
    assert "many (ours)" in (folder / "out" / "rd_psnr.svg").read_text(encoding="utf-8")


def test_matched_files_belong_to_a_point(measured):
    folder, _ = measured
    rows = rows_of(folder / "out" / "results.csv")
    limit = {f"many, lambda {float(r['lmbda']):g}": r["bytes"] for r in rows if r["lmbda"]}
    matched = {r["matched_to"]: r["bytes"] for r in rows if r["kind"] == "matched"}
    assert matched.keys() == limit.keys()
    assert all(int(matched[name]) <= int(limit[name]) for name in limit)


def test_the_report_shows_each_point(measured):
    folder, _ = measured
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    blocks = dict(re.findall(r'<script type="application/json" id="([^"]*)">(.*?)</script>', page))
    overview, image = (json.loads(blocks[name]) for name in ("overview", "image-0"))
    names = [f"many, lambda {lmbda}" for lmbda in (0.0032, 0.01, 0.03)]
    assert overview["points"] == names == [model["label"] for model in image["models"]]
    (facts,) = overview["models"]
    assert facts["lmbda"] == "0.0016 to 0.045"
    for model in image["models"]:
        (jpeg,) = model["classics"]
        assert jpeg["bytes"] <= model["bytes"]


def test_another_run_measures_the_new_lambdas_only(measured, monkeypatch, capsys):
    folder, arguments = measured
    arguments = ["run", *arguments[1:5], "--lambdas", 0.03, 0.02, "-o", folder / "out"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
    assert evaluate.main() == 0
    out = capsys.readouterr().out
    assert "Results: 2, 1 of them new." in out and "many, lambda 0.02 " in out


def test_points_as_a_file_of_rddata(tmp_path):
    lambdas = (0.0032, 0.01, 0.03)
    codec = LearnedCodec("many", (), "00" * 8, many(0.001, 0.1), lambdas)
    rows = [
        {
            "kind": "model",
            "codec": "many",
            "setting": lmbda,
            "lmbda": lmbda,
            "matched_to": "",
            "bpp": 0.2 + i / 10,
            "psnr": 30.0 + i,
            "ms_ssim": 0.95 + i / 100,
            "encode_seconds": 1.0,
            "decode_seconds": 1.0,
        }
        for i, lmbda in enumerate(lambdas)
        for _ in curves.KODAK
    ]
    from evaluation import rddata

    path = tmp_path / "many.csv"
    rddata.write(path, tables.means(rows), [codec])
    written = check_own(path)
    assert [(row["setting"], float(row["lmbda"])) for row in written] == [
        ("many", lmbda) for lmbda in lambdas
    ]
    with pytest.raises(rddata.RDdataError, match="not all images"):
        rddata.write(path, tables.means(rows[:48]), [codec])


def test_lambdas_are_for_models_of_many_rates(monkeypatch, tmp_path):
    model = ["--checkpoint", checkpoint_of("gmm"), "--family", "gmm", "--num-filters", NUM_FILTERS]
    arguments = ["evaluate.py", "run", *model, "--lambdas", 0.01, "-o", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
    with pytest.raises(UsageError, match="--lambdas needs a model of many rates"):
        evaluate.main()


def test_bits_at_a_quality(measured, monkeypatch, capsys):
    folder, arguments = measured
    command = ["evaluate.py", "bits", folder / "a.png", "--model", arguments[4]]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--quality", "0"])
    assert evaluate.main() == 0
    assert re.search(r"^lmbda +0.0016$", capsys.readouterr().out, re.M)
    (folder / "a.glic").write_bytes(b"GLIC")
    command[2] = folder / "a.glic"
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--lmbda", "0.01"])
    with pytest.raises(UsageError, match="are for images"):
        evaluate.main()
