"""Refinement: never worse, usually better, an ordinary file, the same each time."""

import numpy as np
import pytest
from conftest import REFERENCE
from PIL import Image

import bitstream
import refine


def picture(height, width):
    pixels = np.asarray(Image.open(REFERENCE / "image_128x192.png"))
    return pixels[:height, :width]


def cost(codec, pixels, data, lmbda):
    restored = codec.decompress(data).astype(np.float64)
    return 8 * len(data) / pixels[..., 0].size + lmbda * np.mean((restored - pixels) ** 2)


@pytest.mark.parametrize("family", ["gmm", "gllmm"])
def test_files_get_better_and_stay_ordinary(codecs, family):
    codec, pixels = codecs[family], picture(64, 100)
    refiner = refine.Refiner(codec, 0.001)
    losses = []
    result = refiner.compress(pixels, 3, losses.append)
    assert len(losses) == refine.ITERATIONS[3]
    plain = codec.compress(pixels)
    before, after = (cost(codec, pixels, d, 0.001) for d in (plain, result.data))
    assert result.gain > 0.01 and after == pytest.approx(before * (1 - result.gain), rel=0.01)
    again = codec.decode(bitstream.unpack(result.data))
    np.testing.assert_array_equal(again.y_hat, result.latents.y_hat)
    assert refiner.compress(pixels, 3).data == result.data


def test_level_0_is_the_plain_encoder(codecs):
    pixels = picture(40, 33)
    result = refine.Refiner(codecs["gmm"], 0.01).compress(pixels, 0)
    assert (result.data, result.gain) == (codecs["gmm"].compress(pixels), 0)


def test_a_search_that_fails_falls_back_to_the_plain_file(codecs, monkeypatch):
    pixels = picture(64, 64)
    refiner = refine.Refiner(codecs["gmm"], 0.001)
    latents = codecs["gmm"].analyse(pixels)
    worse = latents._replace(y_hat=latents.y_hat * 5)  # far out: costs many more bits
    monkeypatch.setattr(refiner, "search", lambda *_: (worse, False))
    result = refiner.compress(pixels, 1)
    assert (result.data, result.gain) == (codecs["gmm"].compress(pixels), 0)


def test_interrupting_keeps_the_best_so_far(codecs):
    pixels = picture(64, 64)
    calls = []

    def progress(loss):
        calls.append(loss)
        if len(calls) == 15:
            raise KeyboardInterrupt

    result = refine.Refiner(codecs["gmm"], 0.001).compress(pixels, 4, progress)
    assert result.interrupted and len(calls) == 15 and result.gain > 0


def test_grey_and_ms_ssim(codecs):
    pixels = np.tile(picture(128, 192), (2, 2, 1))[:170, :165, 1]
    result = refine.Refiner(codecs["gmm"], 3.0, "ms-ssim").compress(pixels, 1)
    assert codecs["gmm"].decompress(result.data).shape == pixels.shape


def test_adam_is_tensorflows():
    import tensorflow.compat.v1 as tf

    start = np.array([1.0, -2.0, 0.5], np.float32)
    gradients = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        variable = tf.get_variable("v", initializer=start)
        gradient = tf.placeholder(tf.float32, (3,))
        first, second = refine.ADAM_BETAS
        optimizer = tf.train.AdamOptimizer(0.1, first, second, refine.ADAM_EPSILON)
        step = optimizer.apply_gradients([(gradient, variable)])
        session.run(tf.global_variables_initializer())
        for g in gradients:
            session.run(step, {gradient: g})
        expected = session.run(variable)
    found = start.copy()
    adam = refine.Adam([found])
    for g in gradients:
        adam.step([g], 0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "lmbda,metric,shape,words",
    [
        (None, "mse", (64, 64, 3), "positive lambda expected"),
        (0.01, "ssim", (64, 64, 3), "mse or ms-ssim expected"),
        (3.0, "ms-ssim", (160, 200, 3), "sides of 161"),
        (0.01, "mse", (2000, 2000, 3), "up to 2000000 pixels"),
    ],
)
def test_what_cannot_be_refined_is_refused(codecs, lmbda, metric, shape, words):
    with pytest.raises(refine.RefineError, match=words):
        refine.Refiner(codecs["gmm"], lmbda, metric).compress(np.zeros(shape, np.uint8), 1)
