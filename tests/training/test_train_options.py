"""Training: MS-SSIM, quantisation, the best checkpoint; tiny models."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image
from test_train import (  # noqa: F401 (the last two are fixtures)
    command,
    photograph,
    quick_sessions,
    rows_of,
    stand_in,
)

import layers
import network
import train
from architecture import Architecture
from coding import models
from pictures import ms_ssim as training_metric
from training import checkpoints as training_checkpoints
from training import export as models_io
from training import graph as training_graph
from training import log as training_log
from training import loop as training_loop
from training import precision as training_precision
from training import settings as training_settings

NUM_FILTERS = 8
ARCHITECTURE = Architecture("gmm", NUM_FILTERS)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A folder of three images that are large enough for MS-SSIM, one in a subfolder."""
    path = tmp_path_factory.mktemp("large")
    (path / "more").mkdir()
    for i, name in enumerate(("0.png", "1.png", "more/2.png")):
        Image.fromarray(photograph(i, 200, 216)).save(path / name)
    return path


# --- MS-SSIM -------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [161, 200])
def test_ms_ssim_is_tensorflows_and_its_gradient_stays_finite(side):
    rng = np.random.default_rng(5)
    a = np.stack([photograph(i, side, 176) for i in range(2)]).astype(np.float32) / 255
    b = np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        x, x_hat = (tf.placeholder(tf.float32, (2, None, None, 3)) for _ in range(2))
        ours = training_metric.ms_ssim(x, x_hat)
        theirs = tf.image.ssim_multiscale(x, x_hat, 1.0)
        gradients = [tf.gradients(value, x_hat)[0] for value in (ours, theirs)]
        fetches = [ours, theirs, *gradients]
        value, wanted, slope, wanted_slope = session.run(fetches, {x: a, x_hat: b})
        _, _, slope_of_negative, not_finite = session.run(fetches, {x: a, x_hat: 1 - a})
    np.testing.assert_allclose(value, wanted, atol=1e-5)
    np.testing.assert_allclose(slope, wanted_slope, atol=1e-3 * np.abs(wanted_slope).max())
    assert np.all(np.isfinite(slope_of_negative))
    assert not np.all(np.isfinite(not_finite))  # why TensorFlow's own is not used


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
    settings = train.resolve_settings({"metric": "ms-ssim", "steps": 5, "init_from": "m"}, None)
    assert (settings["patch"], settings["lmbda"]) == (192, 12.0)


# --- Learning rate -------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["soap", "adam"])
def test_the_default_learning_rate_is_lower_for_trained_weights(optimizer):
    def rate(**given):
        settings = train.resolve_settings({"steps": 5, "optimizer": optimizer, **given}, None)
        return settings["learning_rate"]

    assert rate() == train.LEARNING_RATES[optimizer]
    assert rate(init_from="m") == train.INIT_FROM_RATES[optimizer] < rate()
    assert rate(init_from="m", learning_rate=1e-2) == rate(learning_rate=1e-2) == 1e-2


# --- Lambda --------------------------------------------------------------------------------------


def test_lambda_falls_from_its_start_and_then_stays():
    settings = train.resolve_settings({"steps": 100, "lmbda": 0.03, "lmbda_start": 0.48}, None)
    until = training_settings.LMBDA_FALLS_UNTIL
    lambdas = [training_settings.lmbda_at(settings, f * until) for f in (0, 0.5, 0.75, 1, 1.1)]
    np.testing.assert_allclose(lambdas, [0.48, 0.12, 0.06, 0.03, 0.03])
    settings = train.resolve_settings({"steps": 100, "lmbda": 0.03}, None)
    assert {training_settings.lmbda_at(settings, f) for f in (0, 0.1, 1)} == {0.03}


def test_a_falling_lambda_weighs_the_loss_and_is_logged(large, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "LOG_EVERY", 1)
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


# --- Resuming runs of earlier versions -----------------------------------------------------------


def test_settings_younger_than_a_record_have_their_defaults():
    recorded = train.resolve_settings({"steps": 5}, None)
    younger = ("metric", "quantisation")
    older = {key: value for key, value in recorded.items() if key not in younger}
    assert train.resolve_settings({}, older) == recorded
    assert (recorded["metric"], recorded["quantisation"]) == ("mse", "noise")
    with pytest.raises(ValueError, match="metric mse, not ms-ssim"):
        train.resolve_settings({"metric": "ms-ssim"}, older)


# --- Precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "gain", "chosen", "said"),
    [
        (None, 1.5, "bfloat16", "Precision: bfloat16"),
        (None, 1.1, "float32", "Precision: float32"),
        (None, 0.04, "float32", "0.04 times"),
        ("bfloat16", 0.04, "bfloat16", "Slow: "),
        ("bfloat16", 1.1, "bfloat16", ""),
        ("float32", 1.5, "float32", ""),
    ],
)
def test_bfloat16_is_the_default_only_where_it_is_fast(asked, gain, chosen, said, monkeypatch):
    monkeypatch.setattr(training_precision, "bfloat16_gain", lambda threads: gain)
    lines = []
    assert training_precision.choose(asked, report=lines.append) == chosen
    assert said in "".join(lines) and bool(said) == bool(lines)


def test_the_gain_is_measured_and_0_where_bfloat16_fails(monkeypatch):
    assert 0.001 < training_precision.bfloat16_gain() < 1000
    measure = training_precision.convolution_seconds

    def without_bfloat16(dtype, **options):
        if dtype == tf.bfloat16:
            raise tf.errors.UnimplementedError(None, None, "no kernel")
        return measure(dtype, **options)

    monkeypatch.setattr(training_precision, "convolution_seconds", without_bfloat16)
    assert training_precision.bfloat16_gain() == 0


def test_a_longer_convolution_takes_longer():
    short, long = (
        training_precision.convolution_seconds(tf.float32, side=side) for side in (8, 128)
    )
    assert 0 < short < long


@pytest.mark.usefixtures("stand_in")
def test_the_measured_precision_is_recorded_and_a_resume_may_change_it(
    large, tmp_path, monkeypatch
):
    monkeypatch.setattr(training_precision, "bfloat16_gain", lambda threads: 2.0)
    runs = tmp_path / "runs"
    options = f"--data {large} --valid {large} --runs {runs} --name tiny --patch 64 --batch 1"

    def recorded(*more):
        assert train.main([*options.split(), *more]) == 0
        return models_io.read_json(runs / "tiny" / "settings.json")["precision"]

    assert recorded("--steps", "1") == "bfloat16"
    monkeypatch.setattr(training_precision, "bfloat16_gain", lambda threads: 0.04)
    assert recorded("--steps", "2") == "bfloat16"
    assert recorded("--steps", "3", "--precision", "float32") == "float32"


# --- Quantisation and the best checkpoint --------------------------------------------------------


def test_straight_through_rounds_for_the_synthesis_only():
    x = photograph(3, 64, 64)[None].astype(np.float32) / 255
    options = {"architecture": ARCHITECTURE, "lmbda": 0.0075, "metric": "mse"}
    options.update(precision="float32", seed=1)
    with tf.Graph().as_default():
        tf.set_random_seed(2)
        step = tf.placeholder(tf.int64, ())
        with tf.variable_scope("", reuse=tf.AUTO_REUSE):
            noisy, rounded = (
                training_graph.training_losses(tf.constant(x), step, quantisation=name, **options)
                for name in ("noise", "straight-through")
            )
            y_hat = tf.round(network.analysis(tf.constant(x), ARCHITECTURE))
            x_hat = network.synthesis(y_hat, ARCHITECTURE)
            first = next(v for v in tf.trainable_variables() if v.op.name.startswith("analysis"))
        slope = tf.gradients(rounded.mse, first)[0]
        with tf.Session(config=layers.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            values = [session.run([noisy, rounded, x_hat, slope], {step: i}) for i in (0, 1)]
    for noise, straight, image, gradient in values:
        assert straight.mse == pytest.approx(255**2 * np.mean((image - x) ** 2), rel=1e-4)
        assert straight.mse != noise.mse
        assert (straight.bpp_y, straight.bpp_z) == (noise.bpp_y, noise.bpp_z)
        assert np.abs(gradient).max() > 0
    assert values[0][1].mse == values[1][1].mse and values[0][0].mse != values[1][0].mse


def test_rounded_latents_give_the_coded_loss_and_leave_the_analysis_alone():
    x = photograph(3, 64, 64)[None]
    options = {"architecture": ARCHITECTURE, "lmbda": 0.0075, "metric": "mse"}
    with tf.Graph().as_default():
        tf.set_random_seed(2)
        graph = training_graph.build_training(
            **options,
            precision="float32",
            optimizer="adam",
            seed=1,
            batch=1,
            patch=64,
            average=0.0,
            quantisation="rounded",
        )
        validation = training_graph.build_validation(**options)
        names = {v.op.name: v for v in tf.trainable_variables()}
        with tf.Session(config=layers.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            before = session.run(names)
            medians = before["entropy_bottleneck/quantiles"][:, 0, 1]
            feed = {graph.x: x, graph.step: 0, graph.learning_rate: 1e-3}
            feed[graph.clip_norm] = np.inf
            losses, _ = session.run([graph.losses, graph.train], feed)
            after = session.run(names)
            models_io.set_variables(session, list(names.values()), list(before.values()))
            feed = {validation.x: x, validation.medians: medians}
            coded = session.run(validation.losses, feed)
    np.testing.assert_allclose(losses[1:3], coded[1:3], rtol=1e-5)
    assert losses.mse == pytest.approx(coded.mse, rel=1e-2)  # but for its 8 bits
    changed = {n.split("/")[0] for n in names if not np.array_equal(before[n], after[n])}
    assert changed == {"synthesis", "hyper_synthesis", "entropy_parameter"}


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


def check_tensorboard(folder):
    """Validations of steps 1 to 4, the last one from a resumed run; scalars and images."""
    steps, pictures = [], []
    for path in sorted(folder.iterdir()):
        for event in tf.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == "validation/loss":
                    steps.append(event.step)
                    assert value.simple_value > 0
                if value.tag == "validation/0":
                    pictures.append((value.image.height, value.image.width))
    assert sorted(steps) == [1, 2, 3, 4] and pictures == [(192, 192)] * 4


def test_tensorboard_files_that_cannot_be_written_stop_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    summaries = training_log.Summaries(tmp_path / "file", 0)
    summaries.scalars("training", ["step", "loss"], [1, 2.0])
    summaries.close()
    assert "TensorBoard files end here" in capsys.readouterr().out


def test_a_plot_that_cannot_be_drawn_stops_nothing(tmp_path, capsys):
    training_log.plot_run(tmp_path, tmp_path / "missing" / "log.png")
    assert "log.png not drawn" in capsys.readouterr().out


def test_a_plot_leaves_out_means_of_few_steps(tmp_path):
    def drawn(*steps):
        rows = ["step,loss,bpp_y,bpp_z,psnr", *(f"{step},{step},1,1,30" for step in steps)]
        (tmp_path / "log.csv").write_text("\n".join(rows))
        training_log.plot_run(tmp_path, tmp_path / "log.png")
        with Image.open(tmp_path / "log.png") as image:
            return np.asarray(image)

    np.testing.assert_array_equal(drawn(50, 100, 150, 151), drawn(50, 100, 150))
    assert np.any(drawn(50, 100, 150, 180) != drawn(50, 100, 150))
    assert np.any(drawn(3) != drawn())


def test_the_best_weights_are_kept_and_exported(large, tmp_path, monkeypatch, capsys):
    runs, step_losses = tmp_path / "runs", {1: 5.0, 2: 3.0, 3: 4.0, 4: 6.0}
    keep = training_checkpoints.Checkpoints.keep_if_best

    def forced(self, session, progress, row):
        keep(self, session, progress, {**row, "loss": step_losses[row["step"]]})

    monkeypatch.setattr(training_checkpoints.Checkpoints, "keep_if_best", forced)
    options = ("--valid-every", "1", "--learning-rate", "1e-2")
    assert command(large, runs, *options, "--steps", "3") == 0
    assert command(large, runs, *options, "--steps", "4") == 0  # knows the best one of before
    folder = runs / "tiny"
    assert [p.name for p in sorted(folder.glob("best-*.index"))] == ["best-2.index"]
    export = ["--name", "tiny", "--runs", str(runs), "--export"]
    assert train.main([*export, "--best", "--to", str(tmp_path / "best")]) == 0
    best = models.load_folder(tmp_path / "best")
    newest = models.load_folder(tmp_path / "models" / "tiny")
    assert (best.config["steps"], newest.config["steps"]) == (2, 4)
    assert best.config["validation"]["loss"] == 3.0
    assert best.fingerprint != newest.fingerprint
    assert train.main([*export[:-1], "--best", "--data", str(large)]) == 2
    assert "--best chooses what to export" in capsys.readouterr().err
    check_tensorboard(folder / "tensorboard")
    (folder / "best.json").unlink()
    assert train.main([*export, "--best", "--to", str(tmp_path / "best")]) == 2
    assert "holds no best checkpoint" in capsys.readouterr().err
