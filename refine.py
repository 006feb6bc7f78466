"""Refining the latents of one image: a better file from the same weights (encoder.py --effort).

The analysis transform is trained for the average image. Given one image, gradient descent on its
own rate-distortion loss finds better latents; the decoder does not notice. Yang, Bamler, Mandt:
Improving Inference for Neural Image Compression (NeurIPS 2020, arXiv 2006.04240), section 3.2:
stochastic Gumbel annealing. A latent between two integers is drawn to one of them, the nearer one
more likely, by a relaxed sample whose temperature falls until it is as good as rounded.

What differs from the paper: far fewer iterations, with a larger step and a schedule to match; the
loss counts the image's own pixels only, so that the padding becomes cheap; and the best rounded
latents on the way are kept, so that the result is never worse than the start.
"""

import collections
import math

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import rewriter_config_pb2

import factorized_prior
import gmm_entropy
import metrics
import network
import training_metric
from codec import Latents, pad

# Iterations of each level; 0 is the plain encoder. Time grows with them and with the pixels.
ITERATIONS = (0, 4, 10, 20, 30, 45, 70, 100, 150, 240)
RATE_START, RATE_END = 0.05, 0.01  # of Adam, in quantisation steps
TEMPERATURE_START, TEMPERATURE_END = 0.5, 0.1
ADAM_BETAS, ADAM_EPSILON = (0.9, 0.99), 1e-12
CHECK_EVERY = 10  # iterations between measurements of the rounded latents
EDGE = 1e-5  # keeps atanh and the logarithms finite
PEAK = 255
# The gradient's activations take about 2.5 KB a pixel at 64 filters: 5 GB at this size.
MAX_PIXELS = 2_000_000
SEED = 1  # of the samples: the same image gives the same file

Refined = collections.namedtuple("Refined", "latents data gain interrupted")


class RefineError(ValueError):
    """An image or a model for which refinement is not possible."""


def _relaxed_rounding(values, temperature, seed):
    """A differentiable sample between floor and ceiling (Gumbel-softmax over the two)."""
    floor = tf.floor(values)
    offset = tf.clip_by_value(values - floor, EDGE, 1 - EDGE)
    uniform = tf.random.stateless_uniform(tf.shape(values), seed, EDGE, 1 - EDGE)
    # The difference of the two Gumbel variables is logistic.
    noise = tf.log(uniform) - tf.math.log1p(-uniform)
    preference = (tf.atanh(offset) - tf.atanh(1 - offset)) / temperature
    return floor + tf.sigmoid((preference + noise) / temperature)


class Adam:
    """Adam (Kingma and Ba, ICLR 2015) on a list of NumPy arrays, which change in place."""

    def __init__(self, arrays):
        self._arrays = arrays
        self._means = [np.zeros_like(a) for a in arrays]
        self._squares = [np.zeros_like(a) for a in arrays]
        self._step = 0

    def step(self, gradients, rate):
        """One update with the learning rate ``rate``."""
        self._step += 1
        first, second = ADAM_BETAS
        state = zip(self._arrays, gradients, self._means, self._squares)
        for array, gradient, mean, square in state:
            mean += (1 - first) * (gradient - mean)
            square += (1 - second) * (gradient**2 - square)
            root = np.sqrt(square / (1 - second**self._step))
            array -= rate * mean / (1 - first**self._step) / (root + ADAM_EPSILON)


class Refiner:
    """Refines latents with one codec; builds its graph once.

    Args:
      codec: ``codec.Codec``.
      lmbda: weight of the distortion, as in training.
      metric: "mse" (on the 0 to 255 scale) or "ms-ssim" (1 - MS-SSIM).

    Raises:
      RefineError: for a lambda or metric that is not known.
    """

    def __init__(self, codec, lmbda, metric="mse"):
        if metric not in ("mse", "ms-ssim"):
            raise RefineError(f"Metric mse or ms-ssim expected, got {metric}.")
        if not lmbda or not lmbda > 0:
            raise RefineError(
                f"A positive lambda expected, got {lmbda}: refinement needs the weight of the "
                "distortion that the model was trained with."
            )
        self._codec, self._lmbda, self._metric = codec, lmbda, metric
        config = tf.ConfigProto()
        # Grappler's remapper fails on the leaky ReLU's gradient.
        off = rewriter_config_pb2.RewriterConfig.OFF
        config.graph_options.rewrite_options.remapping = off
        with tf.Graph().as_default() as graph:
            self._build()
            self._session = tf.Session(graph=graph, config=config)
            variables = tf.global_variables()
            weights = codec.model.weights
            self._session.run(
                [v.initializer for v in variables],
                {v.initializer.inputs[1]: weights[v.op.name] for v in variables},
            )

    def _build(self):
        """Placeholders for image and latents, the relaxed loss with gradients, the rounded one."""
        n = self._codec.num_filters
        self._x = tf.placeholder(tf.float32, (None, None, 3))  # the image itself, 0 to 255
        self._y = tf.placeholder(tf.float32, (None, None, n))
        self._z = tf.placeholder(tf.float32, (None, None, n))  # without the medians
        self._temperature = tf.placeholder(tf.float32, ())
        self._iteration = tf.placeholder(tf.int32, ())
        with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE):
            samples = [
                _relaxed_rounding(v, self._temperature, tf.stack([SEED + k, self._iteration]))
                for k, v in enumerate([self._y, self._z])
            ]
            self._relaxed = self._loss(*samples)
            self._gradients = tf.gradients(self._relaxed, [self._y, self._z])
            self._rounded = self._loss(tf.round(self._y), tf.round(self._z))

    def _loss(self, y_hat, z_symbols):
        """bpp + lambda * distortion of one image."""
        n, family = self._codec.num_filters, self._codec.family
        table_length = self._codec.model.weights["entropy_bottleneck/quantized_cdf"].shape[1]
        prior = factorized_prior.variables(n, table_length)
        y_hat, z_hat = y_hat[None], (z_symbols + self._codec.medians)[None]
        raw = network.entropy_parameter(y_hat, network.hyper_synthesis(z_hat, n), n, family)
        nats = -tf.reduce_sum(gmm_entropy.log_likelihood(y_hat, raw, family))
        nats -= tf.reduce_sum(tf.log(factorized_prior.likelihood(z_hat, prior)))
        shape = tf.shape(self._x)
        bpp = nats / (math.log(2) * tf.cast(shape[0] * shape[1], tf.float32))
        x_hat = network.synthesis(y_hat, n, family)[0, : shape[0], : shape[1]]
        x_hat = PEAK * tf.clip_by_value(x_hat, 0.0, 1.0)
        if self._metric == "mse":
            distortion = tf.reduce_mean(tf.math.squared_difference(self._x, x_hat))
        else:
            similarity = training_metric.ms_ssim(self._x[None] / PEAK, x_hat[None] / PEAK)
            distortion = 1 - tf.reduce_mean(similarity)
        return bpp + self._lmbda * distortion

    def search(self, pixels, iterations, progress=None):
        """Gradient descent from the analysis transform's latents.

        Args:
          pixels: uint8 (H, W, 3).
          iterations: number of steps.
          progress: called with the relaxed loss after each of them, or None.

        Returns:
          ``Latents`` (the best rounded ones by the float model's loss) and whether Ctrl-C ended
          the search early.
        """
        y, z = self._codec.run(["y", "z"], {"x": pad(pixels)[None].astype(np.float32) / PEAK})
        y, z = y[0].copy(), z[0] - self._codec.medians
        feeds = {self._x: pixels.astype(np.float32), self._y: y, self._z: z}
        adam = Adam([y, z])
        best_loss, best, interrupted = math.inf, None, False
        try:
            for i in range(iterations + 1):
                if i % CHECK_EVERY == 0 or i == iterations:
                    loss = self._session.run(self._rounded, feeds)
                    if loss < best_loss:
                        best_loss, best = loss, (np.rint(y), np.rint(z))
                if i < iterations:
                    done = i / iterations
                    feeds[self._iteration] = i
                    feeds[self._temperature] = _falling(TEMPERATURE_START, TEMPERATURE_END, done)
                    loss, gradients = self._session.run([self._relaxed, self._gradients], feeds)
                    adam.step(gradients, _falling(RATE_START, RATE_END, done))
                    if progress:
                        progress(float(loss))
        except KeyboardInterrupt:
            interrupted = True
            if best is None:
                raise
        return Latents(*(v.astype(np.int32) for v in best)), interrupted

    def compress(self, pixels, level, progress=None):
        """The better of the plain and the refined file, by real bytes and decoded pixels.

        Args:
          pixels: uint8 (H, W, 3), or grey (H, W).
          level: 0 to 9, see ``ITERATIONS``.
          progress: see ``search``.

        Returns:
          ``Refined``: ``latents`` and ``data`` (bytes of the file) of the better one; ``gain``, by
          which share its rate + lambda * distortion lies under the plain one's (0 where the plain
          one is better); ``interrupted``.

        Raises:
          RefineError: for an image that is too large, or too small for MS-SSIM.
        """
        height, width = pixels.shape[:2]
        if height * width > MAX_PIXELS:
            raise RefineError(
                f"Refinement takes images of up to {MAX_PIXELS} pixels, got {width}x{height}: "
                "leave --effort out for this one."
            )
        if self._metric == "ms-ssim" and min(height, width) < metrics.MS_SSIM_MIN_SIDE:
            raise RefineError(
                f"Refinement for MS-SSIM needs sides of {metrics.MS_SSIM_MIN_SIDE} pixels, got "
                f"{width}x{height}: leave --effort out for this one."
            )
        plain = self._codec.analyse(pixels)
        data = self._codec.encode(plain, height, width, pixels.ndim == 2)
        if not ITERATIONS[level]:
            return Refined(plain, data, 0.0, False)
        rgb = np.repeat(pixels[..., None], 3, axis=-1) if pixels.ndim == 2 else pixels
        refined, interrupted = self.search(rgb, ITERATIONS[level], progress)
        refined_data = self._codec.encode(refined, height, width, pixels.ndim == 2)
        before, after = self._cost(pixels, plain, data), self._cost(pixels, refined, refined_data)
        if after >= before:
            return Refined(plain, data, 0.0, interrupted)
        return Refined(refined, refined_data, 1 - after / before, interrupted)

    def _cost(self, pixels, latents, data):
        """bpp + lambda * distortion of a file as it will be restored."""
        height, width = pixels.shape[:2]
        restored = self._codec.synthesise(latents, height, width, pixels.ndim == 2)
        if self._metric == "mse":
            difference = pixels.astype(np.float64) - restored
            distortion = np.mean(difference**2)
        else:
            distortion = 1 - metrics.ms_ssim(pixels, restored)
        return 8 * len(data) / (height * width) + self._lmbda * distortion


def _falling(start, end, done):
    """From ``start`` to ``end`` by a constant factor as ``done`` goes from 0 to 1."""
    return start * (end / start) ** done
