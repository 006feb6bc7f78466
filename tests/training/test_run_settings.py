"""What settings make of a run on tiny models: crops, lambdas, metrics, precision, rounding."""

import numpy as np
import pytest
from PIL import Image
from tiny_training import command, photograph, rows_of, run_train, weights_of

from coding import models
from training import loop, precision
from training.checkpoints import read_json
from training.photographs import Photographs
from training.settings import resolve


@pytest.mark.usefixtures("stand_in")
def test_the_last_fifth_has_larger_crops(tmp_path, monkeypatch, capsys):
    large, runs = tmp_path / "large", tmp_path / "runs"
    (large / "more").mkdir(parents=True)
    for name in ("0.png", "1.png", "more/2.png"):
        Image.fromarray(photograph(0, 130, 140)).save(large / name)
    Image.fromarray(photograph(0)).save(large / "small.png")  # fits the first crops only
    seen, batch = [], Photographs.batch

    def noted(self, size, patch, seed, step):
        seen.append((step, size, patch))
        return batch(self, size, patch, seed, step)

    monkeypatch.setattr(Photographs, "batch", noted)
    options = ("--batch", "8", "--final-patch", "128")
    assert command(large, runs, *options, "--steps", "5") == 0
    parts = {patch: min(s for s in seen if s[2] == patch) for *_, patch in seen}
    assert parts == {64: (0, 8, 64), 128: (4, 2, 128)}
    said = capsys.readouterr().out
    assert "Resumed at step 4" in said and "skipped 1 smaller than 128x128" in said
    assert weights_of(runs / "tiny")["progress/step"] == 5
    seen.clear()
    assert command(large, runs, *options, "--steps", "6") == 0  # starts in the second part
    assert {patch for *_, patch in seen} == {128}


@pytest.mark.parametrize(
    ("final", "message"),
    [
        ("0", "a whole number from 1 expected"),
        ("100", "a positive multiple of 64 expected"),
        ("64", "A --final-patch from --patch 128 up expected"),
    ],
)
def test_final_patches_out_of_range_are_refused(final, message, folder, tmp_path, capsys):
    options = ("--steps", "5", "--patch", "128", "--final-patch", final)
    assert command(folder, tmp_path / "runs", *options) == 2
    assert message in capsys.readouterr().err


def test_init_from_refuses_what_is_no_model(folder, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert command(folder, runs, "--steps", "1", "--init-from", str(folder)) == 2
    assert "neither a checkpoint" in capsys.readouterr().err
    assert not runs.exists()


def test_ms_ssim_run(large, start, tmp_path):
    runs = tmp_path / "runs"
    options = ["--metric", "ms-ssim", "--init-from", start, "--patch", "192"]
    assert command(large, runs, *options, "--steps", "2") == 0
    (row,) = rows_of(runs / "tiny" / "log.csv")
    (valid,) = rows_of(runs / "tiny" / "valid.csv")
    for found, bpp in ((row, float(row["bpp_y"]) + float(row["bpp_z"])), (valid, None)):
        bpp = float(valid["bpp"]) if bpp is None else bpp
        ms_ssim = 1 - 10 ** (-float(found["ms_ssim_db"]) / 10)
        assert 0 < ms_ssim < 1 and float(found["psnr"]) > 5
        assert float(found["loss"]) == pytest.approx(bpp + 12 * (1 - ms_ssim), rel=1e-4)
    for plot in (runs / "tiny" / "log.png", tmp_path / "models" / "tiny" / "log.png"):
        with Image.open(plot) as image:
            assert image.size == (1600, 350)  # four panels
    config = models.load_folder(tmp_path / "models" / "tiny").config
    assert config["metric"] == "ms-ssim" and config["lmbda"] == 12
    assert config["validation"]["ms_ssim_db"] == float(valid["ms_ssim_db"])


def test_ms_ssim_is_refused_without_a_start_or_on_small_patches(large, start, tmp_path, capsys):
    options = ["--metric", "ms-ssim", "--steps", "2"]
    assert command(large, tmp_path / "runs", *options, "--init-from", start) == 2
    assert "needs a --patch of 161 pixels or more, got 64" in capsys.readouterr().err
    assert command(large, tmp_path / "runs", *options, "--patch", "192") == 2
    assert "MS-SSIM runs start from an MSE model" in capsys.readouterr().err
    resolved = resolve({"metric": "ms-ssim", "steps": 5, "init_from": "m"}, None)
    assert (resolved["patch"], resolved["lmbda"]) == (192, 12.0)


def test_a_falling_lambda_weighs_the_loss_and_is_logged(large, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    runs = tmp_path / "runs"
    options = ["--lmbda", "0.01", "--lmbda-start", "0.16", "--average", "0"]
    assert command(large, runs, *options, "--steps", "8") == 0
    rows = rows_of(runs / "tiny" / "log.csv")
    (valid,) = rows_of(runs / "tiny" / "valid.csv")
    for row, lmbda in [*((row, float(row["lmbda"])) for row in rows), (valid, 0.01)]:
        bpp = float(row["bpp_y"]) + float(row["bpp_z"])
        mse = 255**2 / 10 ** (float(row["psnr"]) / 10)
        assert float(row["loss"]) == pytest.approx(bpp + lmbda * mse, rel=1e-4)
    lambdas = [float(row["lmbda"]) for row in rows]
    assert lambdas[0] == 0.16 and lambdas[:3] == sorted(lambdas[:3], reverse=True)
    assert lambdas[1] == pytest.approx(0.16 * 16 ** -(1 / 8 / 0.3), rel=1e-4)
    assert lambdas[3:] == [0.01] * 5
    config = models.load_folder(tmp_path / "models" / "tiny").config
    assert (config["lmbda"], config["lmbda_start"]) == (0.01, 0.16)


@pytest.mark.usefixtures("stand_in")
def test_the_measured_precision_is_recorded_and_a_resume_may_change_it(
    large, tmp_path, monkeypatch
):
    runs, fast = tmp_path / "runs", {"bfloat16": 1.0, "float32": 2.0}
    options = f"--data {large} --valid {large} --runs {runs} --name tiny --patch 64 --batch 1"

    def recorded(seconds, *more):
        monkeypatch.setattr(precision, "convolution_seconds", lambda *_, **__: seconds)
        assert run_train(*options.split(), "--to", tmp_path / "model", *more) == 0
        record = read_json(runs / "tiny" / "settings.json")
        return record["precision"], record["precision_seconds"]

    assert recorded(fast, "--steps", "1") == ("bfloat16", fast)
    slow = {"bfloat16": 20.0, "float32": 1.0}
    assert recorded(slow, "--steps", "2") == ("bfloat16", fast)
    assert recorded(slow, "--steps", "3", "--precision", "float32") == ("float32", fast)


def test_a_rounded_run_goes_on_from_a_model_and_resumes(large, tmp_path):
    runs = tmp_path / "runs"
    assert command(large, runs, "--steps", "3") == 0
    start = runs / "tiny"  # a training's checkpoint, whose quantiles are not solved yet
    options = ["--quantisation", "rounded", "--init-from", str(start)]
    for steps in ("2", "4"):
        assert command(large, runs, *options, "--steps", steps, name="hard") == 0
    old, new = (models.load_folder(tmp_path / "models" / name) for name in ("tiny", "hard"))
    assert new.config["quantisation"] == "rounded" and new.config["steps"] == 4
    kept = ("analysis", "hyper_analysis", "entropy_bottleneck")
    for name, weights in new.weights.items():
        if name.startswith(kept):
            np.testing.assert_array_equal(weights, old.weights[name])
    bias = "synthesis/Block_0_layer_0/signal_conv2d/bias"
    assert not np.array_equal(old.weights[bias], new.weights[bias])
