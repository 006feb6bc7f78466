"""The training step on tiny models: falling losses, refused steps, SOAP's factors."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny_training import REAL_CONFIG, photograph

import layers
import network
from architecture import Architecture
from rates import Rate
from training.losses import Losses
from training.step import build_training, factor_shapes


def training(family, optimizer, precision, metric="mse", batch=2, patch=64):
    """(graph, feed) of a tiny training step on a fixed batch; the feed lacks the step."""
    tf.set_random_seed(1)
    graph = build_training(
        architecture=Architecture(family, 8),
        rate=Rate(0.0075 if metric == "mse" else 12.0),
        metric=metric,
        precision=precision,
        optimizer=optimizer,
        seed=1,
        average=0.9,
        batch=batch,
        patch=patch,
    )
    x = np.stack([photograph(i, patch, patch) for i in range(batch)])
    return graph, {graph.x: x, graph.learning_rate: 3e-3, graph.clip_norm: np.inf}


def losses_of(session, graph, feed):
    """Losses of 25 steps from untrained weights."""
    session.run(tf.global_variables_initializer())
    fetches = [graph.losses.loss, graph.train]
    return [session.run(fetches, {**feed, graph.step: step})[0] for step in range(25)]


def test_loss_falls_on_a_fixed_batch_in_bfloat16_with_grappler():
    with tf.Graph().as_default(), tf.Session(config=REAL_CONFIG(1)) as session:
        losses = losses_of(session, *training("gmm", "adam", "bfloat16"))
    assert 5 < losses[0] < 120  # a sane start: x_hat near 0.5
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("family", ["gmm", pytest.param("gllmm", marks=pytest.mark.slow)])
def test_loss_falls_and_similarity_rises_with_ms_ssim(family):
    with tf.Graph().as_default(), tf.Session(config=layers.session_config(1)) as session:
        graph, feed = training(family, "adam", "float32", "ms-ssim", batch=1, patch=192)
        session.run(tf.global_variables_initializer())
        before = Losses(**session.run(graph.losses.given(), {**feed, graph.step: 0}))
        for step in range(30):
            session.run(graph.train, {**feed, graph.step: step})
        after = Losses(**session.run(graph.losses.given(), {**feed, graph.step: 0}))
    assert after.loss < 0.8 * before.loss
    assert after.ms_ssim > before.ms_ssim + 0.1
    rate = after.bpp_y + after.bpp_z
    assert after.loss == pytest.approx(rate + 12 * (1 - after.ms_ssim), rel=1e-5)


def test_loss_falls_with_soap_and_a_refused_step_changes_nothing():
    config = layers.session_config(1)
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        graph, feed = training("gllmm", "soap", "float32")
        losses = losses_of(session, graph, feed)
        before = session.run(tf.global_variables())
        feed.update({graph.step: 25, graph.losses.mse: np.nan, graph.losses.loss: np.nan})
        fetches = [graph.finite, graph.suspects, graph.train]
        finite, suspects, _ = session.run(fetches, feed)
        after = session.run(tf.global_variables())
    assert 5 < losses[0] < 120
    assert losses[-1] < 0.8 * losses[0]
    assert not finite
    assert all(np.array_equal(value, same) for value, same in zip(after, before))
    assert [name for name, fine in suspects.items() if not fine] == ["mse"]
    assert "gradient of synthesis/Block_3_layer_2/signal_conv2d/bias" in suspects


@pytest.mark.parametrize("family", ["gmm", "gllmm"])
def test_factor_shapes_cover_the_kernels(family):
    with tf.Graph().as_default():
        network.inference_graph(Architecture(family, 16))
        variables = tf.trainable_variables()
    shapes = factor_shapes(variables)
    for variable in variables:
        kind = variable.op.name.split("/")[-1]
        assert (variable.op.name in shapes) == (kind in ("kernel", "kernel_rdft", "weights"))
        if variable.op.name in shapes:
            assert np.prod(shapes[variable.op.name]) == variable.shape.num_elements()
    first = "analysis/Block_0_layer_2/signal_conv2d/kernel_rdft"
    assert shapes[first] == (9, 3, 16)
    suffix = "_1" if family == "gllmm" else ""
    no_bias = f"analysis/Block_3_layer_2{suffix}/signal_conv2d/kernel_rdft"
    assert shapes[no_bias] == (9, 16, 16)
    assert shapes["entropy_parameter/masked/weights"] == (25, 16, 32)
    assert shapes["synthesis/Block_3_layer_2/signal_conv2d/kernel_rdft"] == (9, 16, 12)
