"""Training: MS-SSIM, starting gllmm from gmm, quantisation, the best checkpoint; tiny models."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image
from test_train import command, photograph, quick_sessions, rows_of  # noqa: F401 (a fixture)

import models
import network
import train
import training_checkpoints
import training_graph
import training_init
import training_log
import training_metric

NUM_FILTERS = 8


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A folder of three images that are large enough for MS-SSIM, one in a subfolder."""
    path = tmp_path_factory.mktemp("large")
    (path / "more").mkdir()
    for i, name in enumerate(("0.png", "1.png", "more/2.png")):
        Image.fromarray(photograph(i, 200, 216)).save(path / name)
    return path


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Prefix of a checkpoint of an untrained gmm model."""
    prefix = str(tmp_path_factory.mktemp("start") / "model-0")
    with tf.Graph().as_default():
        tf.set_random_seed(4)
        models.build_inference_graph(NUM_FILTERS, "gmm")
        with tf.Session(config=training_graph.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            saver = tf.train.Saver()
            saver.save(session, prefix, write_meta_graph=False, write_state=False)
    return prefix


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


# --- Resuming runs of earlier versions -----------------------------------------------------------


def test_settings_younger_than_a_record_have_their_defaults():
    recorded = train.resolve_settings({"steps": 5}, None)
    younger = ("metric", "quantisation")
    older = {key: value for key, value in recorded.items() if key not in younger}
    assert train.resolve_settings({}, older) == recorded
    assert (recorded["metric"], recorded["quantisation"]) == ("mse", "noise")
    with pytest.raises(ValueError, match="metric mse, not ms-ssim"):
        train.resolve_settings({"metric": "ms-ssim"}, older)


# --- Quantisation and the best checkpoint --------------------------------------------------------


def test_straight_through_rounds_for_the_synthesis_only():
    x = photograph(3, 64, 64)[None].astype(np.float32) / 255
    options = {"family": "gmm", "num_filters": NUM_FILTERS, "lmbda": 0.0075, "metric": "mse"}
    options.update(precision="float32", seed=1)
    with tf.Graph().as_default():
        tf.set_random_seed(2)
        step = tf.placeholder(tf.int64, ())
        with tf.variable_scope("", reuse=tf.AUTO_REUSE):
            noisy, rounded = (
                training_graph.noisy_losses(tf.constant(x), step, quantisation=name, **options)
                for name in training_graph.QUANTISATIONS
            )
            y_hat = tf.round(network.analysis(tf.constant(x), NUM_FILTERS, "gmm"))
            x_hat = network.synthesis(y_hat, NUM_FILTERS, "gmm")
            first = next(v for v in tf.trainable_variables() if v.op.name.startswith("analysis"))
        slope = tf.gradients(rounded.mse, first)[0]
        with tf.Session(config=training_graph.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            values = [session.run([noisy, rounded, x_hat, slope], {step: i}) for i in (0, 1)]
    for noise, straight, image, gradient in values:
        assert straight.mse == pytest.approx(255**2 * np.mean((image - x) ** 2), rel=1e-4)
        assert straight.mse != noise.mse
        assert (straight.bpp_y, straight.bpp_z) == (noise.bpp_y, noise.bpp_z)
        assert np.abs(gradient).max() > 0
    assert values[0][1].mse == values[1][1].mse and values[0][0].mse != values[1][0].mse


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


# --- Starting weights ----------------------------------------------------------------------------


def started(family, path):
    """(taken, adapted, new, weights by name, validation losses, mixture parameters) of a start."""
    x = photograph(6, 128, 128)
    medians = np.zeros(NUM_FILTERS)
    with tf.Graph().as_default():
        tf.set_random_seed(8)
        options = {"family": family, "num_filters": NUM_FILTERS, "lmbda": 0.0075, "metric": "mse"}
        graph = training_graph.build_validation(**options)
        latents = [np.random.default_rng(9).normal(size=(1, 4, 4, k * NUM_FILTERS)) for k in (1, 2)]
        with tf.variable_scope("", reuse=True):
            inputs = [tf.constant(v, tf.float32) for v in latents]
            raw = network.entropy_parameter(*inputs, NUM_FILTERS, family)
        variables = tf.trainable_variables()
        with tf.Session(config=training_graph.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            names = training_init.transfer(session, variables, path)
            weights = session.run({v.op.name: v for v in variables})
            feed = {graph.x: x[None], graph.medians: medians}
            losses, raw = session.run([graph.losses, raw], feed)
    return (*names, weights, losses, raw)


def test_gllmm_starts_with_the_function_of_gmm(start):
    taken, _, new, weights, wanted, gaussians = started("gmm", start)
    assert not new and sorted(taken) == sorted(weights)
    taken, adapted, new, weights, losses, raw = started("gllmm", start)
    assert sorted(taken + adapted + new) == sorted(weights)
    assert losses.mse == pytest.approx(wanted.mse, rel=1e-3)
    assert losses.bpp_z == pytest.approx(wanted.bpp_z, rel=1e-3)
    laplace, logistic, families = np.split(raw[..., 9 * NUM_FILTERS :], [72, 144], axis=-1)
    np.testing.assert_allclose(raw[..., : 9 * NUM_FILTERS], gaussians, atol=1e-5)
    np.testing.assert_allclose(laplace[..., :16], gaussians[..., :16], atol=1e-5)
    np.testing.assert_allclose(laplace[..., 16:24], gaussians[..., 16:24] * 0.70711, atol=1e-5)
    np.testing.assert_allclose(logistic[..., 16:24], gaussians[..., 16:24] * 0.55133, atol=1e-5)
    assert not families.any()
    # Only the first layers of the second residual blocks have nothing to start from.
    assert all("_layer_2/" in name for name in new) and len(new) == 2 * (3 + 4)
    assert "entropy_parameter/layer_2/signal_conv2d_2/kernel" in adapted
    assert "analysis/Block_1_layer_3_1/signal_conv2d/gdn/reparam_beta" in taken


def test_families_do_not_mistake_each_others_layers(start):
    reader = tf.train.load_checkpoint(start)
    weights = started("gllmm", start)[3]
    strided = "signal_conv2d/kernel_rdft"
    found = weights[f"analysis/Block_3_layer_2_1/{strided}"]
    np.testing.assert_array_equal(
        2 * found, reader.get_tensor(f"analysis/Block_3_layer_2/{strided}")
    )
    assert training_init.source_name("analysis/Block_2_layer_3/x", True) is None
    assert training_init.source_name("analysis/Block_2_layer_3/x", False) == (
        "analysis/Block_2_layer_3_1/x"
    )
    for same in ("analysis/Block_0_layer_2/x", "synthesis/Block_1_layer_2/x"):
        assert training_init.source_name(same, True) == same
