"""The losses on tiny models: MS-SSIM, and latents that are rounded in training."""

import re

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny_training import photograph

import factorized_prior
import gmm_entropy
import layers
import network
from architecture import Architecture
from pictures import ms_ssim
from rates import Rate
from training.checkpoints import set_variables
from training.losses import Losses, _noise, training_losses
from training.step import build_training
from training.validation import build_validation

ARCHITECTURE = Architecture("gmm", 8)


@pytest.mark.parametrize("side", [161, 200])
def test_ms_ssim_is_tensorflows_and_its_gradient_stays_finite(side):
    rng = np.random.default_rng(5)
    a = np.stack([photograph(i, side, 176) for i in range(2)]).astype(np.float32) / 255
    b = np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        x, x_hat = (tf.placeholder(tf.float32, (2, None, None, 3)) for _ in range(2))
        ours = ms_ssim.ms_ssim(x, x_hat)
        theirs = tf.image.ssim_multiscale(x, x_hat, 1.0)
        gradients = [tf.gradients(value, x_hat)[0] for value in (ours, theirs)]
        fetches = [ours, theirs, *gradients]
        value, wanted, slope, wanted_slope = session.run(fetches, {x: a, x_hat: b})
        _, _, slope_of_negative, not_finite = session.run(fetches, {x: a, x_hat: 1 - a})
    np.testing.assert_allclose(value, wanted, atol=1e-5)
    np.testing.assert_allclose(slope, wanted_slope, atol=1e-3 * np.abs(wanted_slope).max())
    assert np.all(np.isfinite(slope_of_negative))
    assert not np.all(np.isfinite(not_finite))  # why TensorFlow's own is not used


def test_straight_through_rounds_for_all_but_the_rates():
    x = photograph(3, 64, 64)[None].astype(np.float32) / 255
    options = {"architecture": ARCHITECTURE, "metric": "mse"}
    with tf.Graph().as_default():
        tf.set_random_seed(2)
        step = tf.placeholder(tf.int64, ())
        with tf.variable_scope("", reuse=tf.AUTO_REUSE):
            noisy, straight, rounded = (
                training_losses(
                    tf.constant(x),
                    step,
                    rate=Rate(0.0075),
                    precision="float32",
                    seed=1,
                    quantisation=name,
                    **options,
                )
                for name in ("noise", "straight-through", "rounded")
            )
            y, z = network.latents(tf.constant(x), ARCHITECTURE)
            z_hat = factorized_prior.round_to_medians(z, tf.zeros(8))  # the medians at the start
            _, raw = network.mixtures(tf.round(y), z_hat, ARCHITECTURE)
            y_tilde = y + _noise(y, 1, step, 0, (0, 1))
            nats = -tf.reduce_sum(gmm_entropy.log_likelihood(y_tilde, raw, "gmm"))
        variables = {v.op.name: v for v in tf.trainable_variables()}
        parts = ("analysis/", "hyper_analysis/", "entropy_parameter/masked", "entropy_bottleneck/m")
        some = [next(v for n, v in variables.items() if n.startswith(part)) for part in parts]
        slopes = tf.gradients(straight.loss, some)
        slope_of_mse = tf.gradients(straight.mse, some[0])[0]
        with tf.Session(config=layers.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            # Latents of several steps, which untrained networks do not give.
            last = [v for n, v in variables.items() if re.match(r"(hyper_)?analysis/.*kernel", n)]
            last = [next(v for v in reversed(last) if v.op.name.startswith(p)) for p in parts[:2]]
            set_variables(session, last, [8 * session.run(v) for v in last])
            fetches = [noisy.given(), straight.given(), rounded.given(), nats, slopes, slope_of_mse]
            values = [session.run(fetches, {step: i}) for i in (0, 1)]
    for noise, seen, coded, wanted, gradients, gradient_of_mse in values:
        assert seen["mse"] == pytest.approx(coded["mse"], rel=1e-4) != noise["mse"]
        # The rates are those of the same noise as with "noise", given what is coded.
        assert seen["bpp_z"] == pytest.approx(noise["bpp_z"], rel=1e-6) != coded["bpp_z"]
        assert seen["bpp_y"] == pytest.approx(wanted / np.log(2) / 64**2, rel=1e-5)
        assert seen["bpp_y"] not in (noise["bpp_y"], coded["bpp_y"])
        assert all(np.abs(gradient).max() > 0 for gradient in (*gradients, gradient_of_mse))
    (_, first, *_), (_, second, *_) = values
    assert first["mse"] == pytest.approx(second["mse"], rel=1e-6)
    assert first["bpp_y"] != second["bpp_y"] and first["bpp_z"] != second["bpp_z"]


def test_rounded_latents_give_the_coded_loss_and_leave_the_analysis_alone():
    x = photograph(3, 64, 64)[None]
    options = {"architecture": ARCHITECTURE, "metric": "mse"}
    with tf.Graph().as_default():
        tf.set_random_seed(2)
        graph = build_training(
            **options,
            rate=Rate(0.0075),
            precision="float32",
            optimizer="adam",
            seed=1,
            batch=1,
            patch=64,
            average=0.0,
            quantisation="rounded",
        )
        validation = build_validation(**options, points=[(0.0075, None)])
        names = {v.op.name: v for v in tf.trainable_variables()}
        with tf.Session(config=layers.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            before = session.run(names)
            medians = before["entropy_bottleneck/quantiles"][:, 0, 1]
            feed = {graph.x: x, graph.step: 0, graph.learning_rate: 1e-3}
            feed[graph.clip_norm] = np.inf
            losses, _ = session.run([graph.losses.given(), graph.train], feed)
            losses = Losses(**losses)
            after = session.run(names)
            set_variables(session, list(names.values()), list(before.values()))
            feed = {validation.x: x, validation.medians: medians, **validation.rates[0]}
            coded = Losses(**session.run(validation.losses.given(), feed))
    np.testing.assert_allclose(losses[1:3], coded[1:3], rtol=1e-5)
    assert losses.mse == pytest.approx(coded.mse, rel=1e-2)  # but for its 8 bits
    changed = {n.split("/")[0] for n in names if not np.array_equal(before[n], after[n])}
    assert changed == {"synthesis", "hyper_synthesis", "entropy_parameter"}
