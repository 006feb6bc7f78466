"""Refinement: never worse, usually better, an ordinary file, the same each time."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from golden_models import REFERENCE
from PIL import Image

from codec import Codec
from coding import bitstream
from pictures import images
from rates import Rate
from search import latent_loss, refine

ROOT = Path(__file__).resolve().parents[2]


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
    np.testing.assert_array_equal(again.y_symbols, result.latents.y_symbols)
    assert refiner.compress(pixels, 3).data == result.data


def test_level_0_is_the_plain_encoder(codecs):
    pixels = picture(40, 33)
    result = refine.Refiner(codecs["gmm"], 0.01).compress(pixels, 0)
    assert (result.data, result.gain) == (codecs["gmm"].compress(pixels), 0)


def test_a_search_that_fails_falls_back_to_the_plain_file(codecs, monkeypatch):
    pixels = picture(64, 64)
    refiner = refine.Refiner(codecs["gmm"], 0.001)
    latents = codecs["gmm"].analyse(pixels)
    worse = latents._replace(y_symbols=latents.y_symbols * 5)  # far out: costs many more bits
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

    with pytest.raises(refine.SearchInterrupted) as stop:
        refine.Refiner(codecs["gmm"], 0.001).compress(pixels, 4, progress)
    assert len(calls) == 15 and stop.value.result.gain > 0


def test_grey_and_ms_ssim(codecs):
    pixels = np.tile(picture(128, 192), (2, 2, 1))[:170, :165, 1]
    refiner = refine.Refiner(codecs["gmm"], 3.0, "ms-ssim")
    result = refiner.compress(pixels, 1)
    assert codecs["gmm"].decompress(result.data).shape == pixels.shape
    y, z = codecs["gmm"].transform(pixels)
    assert not refiner._loss.curvatures(pixels, y, z, Rate(3.0)).any()


@pytest.mark.parametrize("family", ["gmm", "gllmm"])
def test_tiles_sum_to_the_whole_gradient(codecs, family, monkeypatch):
    codec, pixels = codecs[family], np.tile(picture(128, 192), (3, 2, 1))
    y, z = codec.transform(pixels)
    z = z - codec.entropy_coder.medians
    graph, rate = latent_loss.LatentLoss(codec, "mse"), Rate(0.001)
    loss, whole = graph.gradients(pixels, y, z, rate)
    curvatures = graph.curvatures(pixels, y, z, rate)
    assert len(graph._tiles(y)) == 1
    monkeypatch.setattr(codec, "memory_budget", 1)
    monkeypatch.setattr(latent_loss, "SMALLEST_TILE", 192)
    monkeypatch.setattr(latent_loss, "BORDER", 4)  # all that the networks reach
    assert len(graph._tiles(y)) == 4
    tiled_loss, tiled = graph.gradients(pixels, y, z, rate)
    assert tiled_loss == pytest.approx(loss, rel=1e-3)
    assert graph.loss(pixels, y, z, rate) == pytest.approx(loss, rel=0.01)
    for a, b in zip(tiled, whole):
        assert np.linalg.norm(a - b) < 0.02 * np.linalg.norm(b)
    tiled = graph.curvatures(pixels, y, z, rate)
    np.testing.assert_allclose(tiled, curvatures, atol=0.1 * curvatures.max())


@pytest.mark.parametrize("metric,lmbda", [("mse", 0.001), ("ms-ssim", 3.0)])
def test_tiled_search_gains_as_much(codecs, metric, lmbda, monkeypatch):
    codec, pixels = codecs["gmm"], np.tile(picture(128, 192), (3, 2, 1))[:370, :333]
    refiner = refine.Refiner(codec, lmbda, metric)
    whole = refiner.compress(pixels, 2)
    monkeypatch.setattr(codec, "memory_budget", 1)
    monkeypatch.setattr(latent_loss, "SMALLEST_TILE", 192)
    assert len(refiner._loss._tiles(codec.transform(pixels)[0])) == 4
    tiled = refiner.compress(pixels, 2)
    assert tiled.gain > 0.8 * whole.gain > 0


def test_searches_repeat_and_are_noisy(codecs, monkeypatch):
    pixels = picture(64, 100)
    refiner = refine.Refiner(codecs["gmm"], 0.001)
    first, second = (refiner.compress(pixels, 2) for _ in range(2))
    assert first.gain > 0 and first.data == second.data
    monkeypatch.setattr(refine, "SEED", 2)
    assert refiner.compress(pixels, 2).data != first.data


def test_the_rate_of_a_relaxed_latent_is_that_to_be_expected_of_rounding_it():
    costs = np.array([0.04, 6.6, 9.0])  # of 0, 1 and 2: of one that is 0 almost certainly

    def log_likelihood(values):  # defined at the integers alone
        return -tf.gather(tf.constant(costs, tf.float32), tf.cast(values, tf.int32))

    with tf.Graph().as_default(), tf.Session() as session:
        values = tf.constant([0.0, 0.25, 0.5, 1.0, 1.75], tf.float32, (1, 1, 1, 5))
        expected = latent_loss._expected(log_likelihood, values)
        (slope,) = tf.gradients(expected, values)
        expected, slope = session.run([expected, slope])
    np.testing.assert_allclose(-expected.ravel(), [0.04, 1.68, 3.32, 6.6, 8.4], rtol=1e-6)
    np.testing.assert_allclose(-slope.ravel(), [6.56, 6.56, 6.56, 2.4, 2.4], rtol=1e-6)


def test_the_variance_of_rounding_counts_but_not_in_the_padding(codecs):
    """For 70x40 pixels: of 8 rows of y 4.375 lie in the image, of 4 columns 2.5."""
    codec, pixels, rate = codecs["gmm"], picture(70, 40), Rate(0.01, 2.0)
    y, z = (np.float32(0.1) + v for v in codec.transform(pixels))
    graph, curvatures = latent_loss.LatentLoss(codec, "mse"), np.arange(y.shape[-1]) / 32
    share = np.outer([1, 1, 1, 1, 0.375, 0, 0, 0], [1, 1, 0.5, 0])[..., None]
    up = y - np.floor(y)
    loss, gradients = graph.gradients(pixels, y, z, rate)
    more, more_gradients = graph.gradients(pixels, y, z, rate, curvatures)
    expected = rate.lmbda * np.sum(curvatures * up * (1 - up) * share)
    assert more - loss == pytest.approx(expected, rel=1e-3)
    change = more_gradients[0] - gradients[0]
    expected = rate.lmbda * curvatures * (1 - 2 * up) * share
    np.testing.assert_allclose(change, expected, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_array_equal(more_gradients[1], gradients[1])


def painted(weights):
    """In place of the synthesis: each latent adds its channel's weights to samples of its own."""

    def reconstruction(y_hat, *_):
        samples = tf.tensordot(y_hat, tf.constant(weights, tf.float32), [[-1], [0]])
        rest = 16 * 16 * 3 - weights.shape[1]
        return tf.depth_to_space(tf.pad(samples, [[0, 0], [0, 0], [0, 0], [0, rest]]), 16)

    return reconstruction


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("delta", [None, 0.5])
def test_curvatures_are_half_the_second_derivative_of_the_error(codecs, monkeypatch, tiled, delta):
    """Of a picture whose samples are one latent each: no sign matters. Padding does not count."""
    codec, pixels = codecs["gmm"], np.tile(picture(128, 192), (3, 2, 1))[:340, :333]
    if tiled:
        monkeypatch.setattr(codec, "memory_budget", 1)
        monkeypatch.setattr(latent_loss, "SMALLEST_TILE", 192)
    y, z = codec.transform(pixels)
    weights = np.linspace(0.1, 1, y.shape[-1])[:, None]
    monkeypatch.setattr(latent_loss.network, "reconstruction", painted(weights))
    graph = latent_loss.LatentLoss(codec, "mse")
    assert len(graph._tiles(y)) == (4 if tiled else 1)
    curvatures = graph.curvatures(pixels, y, z, Rate(1.0, delta))
    samples = -(-340 // 16) * -(-333 // 16)  # the first of each position that the image covers
    of_all = (255 * (delta or 1) * weights[:, 0]) ** 2 * samples / pixels.size
    np.testing.assert_allclose(curvatures, of_all / (340 * 333 / 16**2), rtol=1e-4)


def test_the_signs_for_curvatures_are_random(codecs, monkeypatch):
    """Two samples of a latent count twice in the mean; with equal signs they would four times."""
    codec, pixels = codecs["gmm"], picture(128, 192)
    y, z = codec.transform(pixels)
    monkeypatch.setattr(latent_loss.network, "reconstruction", painted(np.ones((y.shape[-1], 2))))
    graph = latent_loss.LatentLoss(codec, "mse")
    found = [graph.curvatures(pixels, y, z, Rate(1.0), seed) for seed in range(8)]
    assert np.ptp(np.mean(found, axis=1)) > 0
    assert np.mean(found) == pytest.approx(2 * 255**2 / pixels.size, rel=0.15)


def test_few_iterations_gain_at_low_rates_too():
    """Where nearly all latents are 0, and likelihoods between integers mislead most."""
    codec = Codec.load("gmm", backend="tensorflow")
    pixels = images.read_image(ROOT / "valid" / "coffee.png").pixels[:192, :256]
    result = refine.Refiner(codec).compress(pixels, 1, k=codec.k_of(10))
    assert result.gain > 0.02


def test_soft_rounding_hardens_and_has_the_slope_it_says():
    values = np.array([-1.7, -0.4, 0.2, 0.45, 3.6], np.float64)
    soft, slope = refine.soft_rounding(values, 0.5)
    step = 1e-5
    change = (
        refine.soft_rounding(values + step, 0.5)[0] - refine.soft_rounding(values - step, 0.5)[0]
    )
    np.testing.assert_allclose(change / (2 * step), slope, rtol=1e-4)
    hard = refine.soft_rounding(values, refine.TEMPERATURE_END)[0]
    assert np.abs(hard - np.rint(values)).max() < 0.01 < np.abs(soft - np.rint(values)).max()


@pytest.mark.parametrize(
    "lmbda,metric,shape,words",
    [
        (None, "mse", (64, 64, 3), "positive lambda expected"),
        (0.01, "ssim", (64, 64, 3), "mse or ms-ssim expected"),
        (3.0, "ms-ssim", (160, 200, 3), "sides of 161"),
    ],
)
def test_what_cannot_be_refined_is_refused(codecs, lmbda, metric, shape, words):
    with pytest.raises(refine.RefineError, match=words):
        refine.Refiner(codecs["gmm"], lmbda, metric).compress(np.zeros(shape, np.uint8), 1)
