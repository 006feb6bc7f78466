"""Our models' curve: --rddata and --anchor all, on points made up."""

import csv
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rd_points import check_own

pytest.importorskip("bjontegaard", reason="evaluate.py needs requirements-eval.txt")
pytest.importorskip("matplotlib", reason="evaluate.py needs requirements-eval.txt")

import evaluate
from evaluation import curves, measurements, rddata, session
from evaluation.session import LearnedCodec

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
PAPER = curves.published("cheng2020_mse_published")
MODELS = [f"gmm-mse-{i}" for i in range(1, 6)]


def learned(name, number=0, **config):
    config = {"family": "gmm", "metric": "mse", "num_filters": 64, "lmbda": 0.001, **config}
    return LearnedCodec(name, (), f"{number:016x}", config)


def rows_of(codecs, stems, rate):
    """Measurements at the paper's quality for ``rate`` times its bits, other on each image."""
    rows = []
    for i, codec in enumerate(codecs):
        for k, stem in enumerate(stems):
            off = (2 * k + 1) / len(stems) - 1  # symmetric about 0
            ms_ssim = 1 - 10 ** (-PAPER.ms_ssim_db[i] / 10)
            rows.append(
                {
                    "image": f"{stem}.png",
                    "sha256": stem,
                    "kind": "model",
                    "codec": codec.name,
                    "matched_to": "",
                    "bpp": rate * PAPER.bpp[i] * (1 + 0.3 * off),
                    "psnr": PAPER.psnr[i] + off,
                    "ms_ssim": ms_ssim + 0.01 * off,
                    "ms_ssim_db": PAPER.ms_ssim_db[i],
                    "encode_seconds": 1.0,
                    "decode_seconds": 1.0,
                }
            )
    return rows


@pytest.fixture
def kodak(tmp_path, monkeypatch):
    """A working folder with kodak/, of which the names count."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kodak").mkdir()
    for stem in curves.KODAK:
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "kodak" / f"{stem}.png")
    return tmp_path


@pytest.fixture
def run(kodak, monkeypatch, capsys):
    """Runs evaluate.py with models that need 25 % more bits than the paper; returns stdout."""
    monkeypatch.setattr(measurements, "device", lambda backend=None: "none")
    stems = sorted(curves.KODAK)

    def run(*options, names=MODELS, failures=0):
        codecs = [learned(name, number) for number, name in enumerate(names)]
        rows = rows_of(codecs, stems, 1.25)[failures:]
        monkeypatch.setattr(session, "learned_codecs", lambda args: codecs)
        monkeypatch.setattr(session, "_measure", lambda *_: (rows, failures))
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "run", *map(str, options)])
        assert evaluate.main() == (failures > 0)
        return capsys.readouterr().out

    return run


def documented_options():
    """The options of the command in docs/evaluation.md."""
    text = MANUAL.read_text(encoding="utf-8")
    block = re.search(r"python evaluate.py run ([^`]*--anchor all[^`]*)```", text)[1]
    return shlex.split(block.replace("\\\n", " "))


def test_the_documented_command_compares_our_curve_with_all(run, kodak):
    out = run(*documented_options())
    with open("runs/evaluation/bd_rate.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["curve"] for row in rows} == {"gmm-mse"} and len(rows) == 9 * 2
    psnr = {row["anchor"]: row for row in rows if row["metric"] == "psnr"}
    assert all(row["kind"] == "BD-rate" and row["percent"] for row in psnr.values())
    # Not exactly: the paper has more points to interpolate.
    assert float(psnr["cheng2020_mse_published"]["percent"]) == pytest.approx(25, abs=0.5)
    assert float(psnr["classic_jpeg_444_measured"]["percent"]) < -50
    assert "gmm-mse (ours) against HEVC intra 4:4:4 (x265, slow)" in out
    assert "gmm-mse (ours) against BPG 4:4:4, published" in out
    svg = Path("runs/evaluation/rd_psnr.svg").read_text(encoding="utf-8")
    assert "gmm-mse (ours)" in svg and "WebP" in svg


def test_the_file_is_that_of_rddata_and_reads_back(run, kodak, monkeypatch):
    out = run("--images", "kodak", "--rddata", "new/gmm_mse_measured.csv")
    path = Path("new/gmm_mse_measured.csv")
    assert f"The points are in {path}." in out
    rows = check_own(path)
    assert [row["setting"] for row in rows] == MODELS
    assert [row["fingerprint"] for row in rows] == [f"{i:016x}" for i in range(5)]
    for i, row in enumerate(rows):
        assert float(row["bpp"]) == pytest.approx(1.25 * PAPER.bpp[i], abs=6e-6)
        assert float(row["psnr_db"]) == pytest.approx(PAPER.psnr[i], abs=6e-5)
        assert float(row["ms_ssim_db"]) == pytest.approx(PAPER.ms_ssim_db[i], abs=6e-5)
        assert row["lmbda"] == "0.001" and row["filters"] == "64"
    monkeypatch.setattr(curves, "RDDATA", Path("new"))
    curve = curves.published("gmm_mse_measured")
    assert curve.label == "gmm mse (ours, RDdata)" and len(curve.points("psnr")[0]) == 5
    before = path.read_bytes()
    run("--images", "kodak", "--curves", "--rddata", path)  # may be written again
    assert path.read_bytes() == before


def test_a_single_model_has_one_row(run, kodak):
    run("--images", "kodak", "--rddata", "a.csv", names=["mine"])
    assert [row["setting"] for row in check_own(Path("a.csv"))] == ["mine"]


def test_a_failed_image_leaves_no_file(run, kodak):
    with pytest.raises(rddata.RDdataError, match="not all images were measured"):
        run("--images", "kodak", "--rddata", "a.csv", failures=1)
    assert not Path("a.csv").exists()


def test_other_images_are_refused(run, kodak):
    (kodak / "kodak" / "kodim24.png").unlink()
    with pytest.raises(rddata.RDdataError, match="24 Kodak images.*got 23 images"):
        run("--images", "kodak", "--rddata", "a.csv")


def test_two_curves_are_refused(run, kodak):
    with pytest.raises(rddata.RDdataError, match="of one curve.*got gmm-mse, other"):
        run("--images", "kodak", "--rddata", "a.csv", names=[*MODELS[:3], "other"])


def test_no_model_is_refused(run, kodak):
    with pytest.raises(rddata.RDdataError, match="got none"):
        run("--images", "kodak", "--codecs", "jpeg", "--rddata", "a.csv", names=[])


def test_another_file_is_not_replaced(run, kodak):
    Path("a.csv").write_text("bpp,psnr_db,ms_ssim,ms_ssim_db\n", encoding="utf-8")
    with pytest.raises(rddata.RDdataError, match="holds something else"):
        run("--images", "kodak", "--rddata", "a.csv")


def test_all_anchors_need_something_to_compare_with(run, kodak):
    with pytest.raises(ValueError, match="--anchor all needs models and"):
        run("--images", "kodak", "--curves", "--anchor", "all")


def test_models_of_another_family_or_metric_make_no_curve():
    names = session.series_of(
        [
            learned("a-1"),
            learned("a-2"),
            learned("b-1"),
            learned("b-2", family="gllmm"),
            learned("c-1"),
            learned("c-2", metric="ms-ssim"),
            learned("d-1"),
        ]
    )
    assert [name for name, _ in names.values()] == ["a", "a", "b-1", "b-2", "c-1", "c-2", "d-1"]
    assert names["a-1"][1] == "a (ours)" and names["d-1"][1] == "d-1 (ours)"
