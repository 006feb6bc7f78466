"""Models of many rates: their losses, and that a trained one is coded as it was validated."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny_training import command, photograph, rows_of

import gmm_entropy
import layers
from architecture import Architecture
from codec import Codec
from coding import models
from coding.costs import costs_of
from rates import Rate, Rates
from training.checkpoints import set_variables
from training.losses import training_losses
from training.start import transfer
from training.validation import build_validation

ARCHITECTURE = Architecture("gmm", 8)


@pytest.mark.parametrize("family", ["gmm", "gllmm"])
def test_the_likelihood_is_that_of_the_latents_in_steps(family):
    rng = np.random.default_rng(1)
    groups = Architecture(family, 8).parameter_widths.groups
    raw = rng.normal(size=(2, 3, 3, groups, 8)).astype(np.float32)
    y = rng.normal(0, 3, (2, 3, 3, 8)).astype(np.float32)
    delta = np.array([0.5, 3], np.float32)[:, None, None, None]
    components = 3 * len(gmm_entropy.DISTRIBUTIONS[family])
    scaled = raw.copy()
    for group in range(3 * components):
        if group % 3:  # means and scales, not the logits
            scaled[..., group, :] /= delta
    raw, scaled = (v.reshape(2, 3, 3, -1) for v in (raw, scaled))
    with tf.Graph().as_default(), tf.Session() as session:
        ours = gmm_entropy.log_likelihood(tf.constant(y), tf.constant(raw), family, delta)
        wanted = gmm_entropy.log_likelihood(tf.constant(y / delta), tf.constant(scaled), family)
        np.testing.assert_allclose(*session.run([ours, wanted]), rtol=1e-5)


@pytest.mark.parametrize("quantisation", ["noise", "straight-through", "rounded"])
def test_a_batch_is_the_mean_of_its_images_at_their_own_rates(quantisation):
    x = np.stack([photograph(i, 64, 64) for i in range(2)]).astype(np.float32) / 255
    lambdas, deltas, power = np.float32([0.002, 0.05]), np.float32([2.5, 0.5]), 0.5
    with tf.Graph().as_default():
        tf.set_random_seed(3)

        def losses(images, lmbda, delta, share):
            return training_losses(
                tf.constant(images),
                tf.constant(0, tf.int64),
                architecture=ARCHITECTURE,
                rate=Rate(tf.constant(lmbda), tf.constant(delta), power),
                metric="mse",
                precision="float32",
                seed=1,
                quantisation=quantisation,
                share=share,
            ).given()

        with tf.variable_scope("", reuse=tf.AUTO_REUSE):
            whole = losses(x, lambdas, deltas, (0, 1))
            one, two = (
                losses(*(v[i : i + 1] for v in (x, lambdas, deltas)), (i, 2)) for i in (0, 1)
            )
        with tf.Session(config=layers.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            # Latents of several steps, which untrained networks do not give.
            last = [v for v in tf.trainable_variables() if "Block_3_layer_2" in v.op.name]
            last = [v for v in last if v.op.name.startswith("analysis")]
            set_variables(session, last, [8 * session.run(v) for v in last])
            whole, one, two = session.run([whole, one, two])
    for part, lmbda, delta in ((one, lambdas[0], deltas[0]), (two, lambdas[1], deltas[1])):
        bpp = part["bpp_y"] + part["bpp_z"]
        wanted = delta ** (2 * power) * (bpp + lmbda * part["mse"])
        assert part["loss"] == pytest.approx(wanted, rel=1e-5)
    for name, value in whole.items():
        assert value == pytest.approx((one[name] + two[name]) / 2, rel=1e-4)
    assert one["bpp_y"] < two["bpp_y"]  # coarser steps take fewer bits


def test_a_scalar_lambda_is_that_of_each_part():
    with tf.Graph().as_default():
        scalar, vector = tf.placeholder(tf.float32, ()), tf.placeholder(tf.float32, (4,))
        assert Rate(scalar).part(0, 2).lmbda is scalar and Rate(0.1).part(0, 2).lmbda == 0.1
        part = Rate(vector, vector).part(1, 3)
        assert part.lmbda.shape == part.delta.shape == (2,)


def test_a_model_of_many_rates_is_coded_as_it_was_validated(large, tmp_path):
    runs, options = tmp_path / "runs", ["--lmbda", "0.002:0.05", "--lmbda-power", "0.25"]
    assert command(large, runs, *options, "--steps", "6") == 0
    assert command(large, runs, "--steps", "8") == 0  # a resume needs none of it again
    folder = tmp_path / "models" / "tiny"
    config = models.load_folder(folder).config
    assert config["lmbda"] == [0.002, 0.05] and config["lmbda_power"] == 0.25
    assert Rates.of(config).reference == pytest.approx(0.01)
    assert len(rows_of(runs / "tiny" / "valid.csv")) == 2

    # Started from it, the next model keeps its reference, as the latents are in its steps.
    more = ["--lmbda", "0.01:0.04", "--init-from", str(folder), "--quantisation", "rounded"]
    assert command(large, runs, *more, "--steps", "2", name="next") == 0
    path = tmp_path / "models" / "next"
    codec = Codec.load(path)
    assert codec.rates == Rates(Rates.of(config).reference, 0.01, 0.04)

    pixels = photograph(4, 192, 192)
    lambdas = [codec.rates.lmbda_of(codec.k_of(quality=q)) for q in (0, 100)]
    points = [(lmbda, codec.rates.delta(lmbda)) for lmbda in lambdas]
    with tf.Graph().as_default():
        graph = build_validation(architecture=ARCHITECTURE, metric="mse", points=points)
        with tf.Session(config=layers.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            transfer(session, tf.trainable_variables(), str(path))
            feed = {graph.x: pixels[None], graph.medians: codec.entropy_coder.medians}
            fetches = [graph.losses.given(), graph.x_hat]
            validated = [session.run(fetches, {**feed, **rate}) for rate in graph.rates]
    for lmbda, (losses, x_hat) in zip(lambdas, validated):
        restored = codec.decompress(codec.compress(pixels, lmbda=lmbda))
        difference = np.abs(restored.astype(int) - x_hat[0])
        assert difference.max() <= 1 and difference.mean() < 0.01
        # Untrained, some latents are so unlikely that the tables' floor is another (test_bits.py).
        latents = codec.analyse(pixels, codec.k_of(lmbda=lmbda))
        bits = costs_of(codec.entropy_coder, latents)
        assert latents.active.all()
        assert bits.y.sum() / 192**2 == pytest.approx(losses["bpp_y"], rel=0.1)
        assert bits.z.sum() / 192**2 == pytest.approx(losses["bpp_z"], rel=0.02)
