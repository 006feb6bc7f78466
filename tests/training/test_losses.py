"""The losses on tiny models: MS-SSIM, and latents that are rounded in training."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny_training import photograph

import layers
import network
from architecture import Architecture
from pictures import ms_ssim
from training.checkpoints import set_variables
from training.losses import Losses, Rate, training_losses
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


def test_straight_through_rounds_for_the_synthesis_only():
    x = photograph(3, 64, 64)[None].astype(np.float32) / 255
    options = {"architecture": ARCHITECTURE, "rate": Rate(0.0075), "metric": "mse"}
    options.update(precision="float32", seed=1)
    with tf.Graph().as_default():
        tf.set_random_seed(2)
        step = tf.placeholder(tf.int64, ())
        with tf.variable_scope("", reuse=tf.AUTO_REUSE):
            noisy, rounded = (
                training_losses(tf.constant(x), step, quantisation=name, **options)
                for name in ("noise", "straight-through")
            )
            y_hat = tf.round(network.analysis(tf.constant(x), ARCHITECTURE))
            x_hat = network.synthesis(y_hat, ARCHITECTURE)
            first = next(v for v in tf.trainable_variables() if v.op.name.startswith("analysis"))
        slope = tf.gradients(rounded.mse, first)[0]
        with tf.Session(config=layers.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            fetches = [noisy.given(), rounded.given(), x_hat, slope]
            values = [session.run(fetches, {step: i}) for i in (0, 1)]
    values = [(Losses(**a), Losses(**b), *rest) for a, b, *rest in values]
    for noise, straight, image, gradient in values:
        assert straight.mse == pytest.approx(255**2 * np.mean((image - x) ** 2), rel=1e-4)
        assert straight.mse != noise.mse
        assert (straight.bpp_y, straight.bpp_z) == (noise.bpp_y, noise.bpp_z)
        assert np.abs(gradient).max() > 0
    assert values[0][1].mse == values[1][1].mse and values[0][0].mse != values[1][0].mse


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
