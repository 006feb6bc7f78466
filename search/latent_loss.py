"""The rate-distortion loss of one image's latents and its gradient, in tiles of bounded memory.

The loss is a sum: bits over the positions of y and z, squared errors over the pixels. Each term
depends only on latents within the reach of the networks. So each tile computes the terms of its
own positions and pixels from its latents and a border, and what its gradient says about the border
is added to the neighbours': the sum over the tiles is the gradient of the whole image. There are
no seams, as no latent is ever held fixed.
"""

import math

import numpy as np
import tensorflow.compat.v1 as tf

import factorized_prior
import gmm_entropy
import network
from architecture import LATENT_STRIDE, PER_Z, STRIDE
from coding import tiling
from coding.networks import Weights, memory_errors
from layers import session_config
from pictures import ms_ssim
from pictures.metrics import PEAK

# Positions of z. The networks reach 2.6 (gmm) or 3.5 (gllmm), but hardly: on a photograph the
# gradient of y differs by 0.8 % from the untiled one with a border of 2, by 4 % with 1.
BORDER = 2
SMALLEST_TILE = 384  # pixels, without its border; a budget that is too small for it is passed
# MS-SSIM sees this much of the border, in positions of z: its windows reach 80 pixels at the
# coarsest scale, and what lies near a seam shall count as much as the rest.
MS_SSIM_MARGIN = 1
# Bytes that a gradient takes per pixel and filter, and that the search's arrays of y take per pixel
# and channel of y: the latents, samples, their slopes, gradients and the optimiser's moments.
GRADIENT_BYTES = 40
SEARCH_BYTES = 3 / 16


class LatentLoss:
    """bpp + lambda * distortion as a function of an image's latents. Builds its graph once.

    y is in quantisation steps throughout: y_hat = delta * y. Of latents between two integers the
    loss approximates that to be expected where each is rounded to either at random, the likelier
    the nearer: the mean of their bits, given the relaxed neighbours, and the distortion of the mean
    picture, to which ``curvatures`` adds for MSE what the variance costs.

    Gradients pass the synthesis transform in bfloat16, which takes half the time and memory; their
    error was 5 % of their norm on a photograph at 64 filters. ``loss`` is in float32.

    Args:
      codec: ``codec.Codec``.
      metric: "mse" (on the 0 to 255 scale) or "ms-ssim" (1 - MS-SSIM; in a tiled image the mean
        of the tiles', weighted by their pixels).
    """

    def __init__(self, codec, metric):
        self._codec, self._metric = codec, metric
        with tf.Graph().as_default() as graph:
            weights = Weights(codec.model.weights)
            with tf.variable_scope("", custom_getter=weights.getter):
                self._build()
            self._session = tf.Session(graph=graph, config=session_config())
            graph.finalize()
            weights.load(self._session)

    def _build(self):
        """Placeholders of a tile, its loss in float32, its gradients, and what curvatures take."""
        n, m = self._codec.architecture.num_filters, self._codec.architecture.num_latents
        self._x = tf.placeholder(tf.float32, (None, None, 3))  # of the image itself, 0 to 255
        self._y = tf.placeholder(tf.float32, (None, None, m))  # with the border
        self._z = tf.placeholder(tf.float32, (None, None, n))  # the same, without the medians
        self._first = tf.placeholder(tf.int32, (2,))  # own positions of z: where they begin
        self._own = tf.placeholder(tf.int32, (2,))  # and how many they are
        self._own_pixels = tf.placeholder(tf.float32, (2,))  # of the image, without its padding
        self._tile_pixels = tf.placeholder(tf.int32, (2,))  # the same with the border
        self._corner = tf.placeholder(tf.int32, (2,))  # where x begins in the tile, in pixels
        self._image_pixels = tf.placeholder(tf.float32, ())
        self._lmbda = tf.placeholder(tf.float32, ())
        self._delta = tf.placeholder(tf.float32, ())  # the quantisation step of y
        self._curvatures = tf.placeholder_with_default(np.zeros(m, np.float32), (m,))
        self._seed = tf.placeholder(tf.int32, ())  # of the signs for curvatures
        exact, fast = (
            network.reconstruction(self._delta * self._y[None], self._codec.architecture, dtype)
            for dtype in (tf.float32, tf.bfloat16)
        )
        self._loss, self._relaxed = self._tile_loss(exact), self._tile_loss(fast)
        self._gradients = tf.gradients(self._relaxed, [self._y, self._z])
        self._slopes = self._squared_slopes(fast)

    def _inner(self, t, scale):
        """The tile's own part of (1, h, w, N) with ``scale`` positions per position of z."""
        top, left = tf.unstack(self._first * scale)
        height, width = tf.unstack(self._own * scale)
        return t[:, top : top + height, left : left + width]

    def _tile_loss(self, x_hat):
        """The tile's share of the image's loss, with the picture ``x_hat``."""
        architecture, medians = self._codec.architecture, self._codec.entropy_coder.medians
        prior = factorized_prior.variables(architecture.num_filters)
        y_hat, z_hat = self._delta * self._y[None], self._z[None] + medians
        _, raw = network.mixtures(y_hat, z_hat, architecture)
        own_raw = self._inner(raw, PER_Z)

        def y_log_likelihood(y):
            family, delta = architecture.family, self._delta
            return gmm_entropy.log_likelihood(delta * y, own_raw, family, delta)

        def z_log_likelihood(z):
            return tf.log(factorized_prior.likelihood(z + medians, prior))

        own_y, own_z = self._inner(self._y[None], PER_Z), self._inner(self._z[None], 1)
        variance = _ceiling_share(own_y) * (1 - _ceiling_share(own_y)) * self._image_share()
        nats = -tf.reduce_sum(_expected(y_log_likelihood, own_y))
        nats -= tf.reduce_sum(_expected(z_log_likelihood, own_z))
        weight = tf.reduce_prod(self._own_pixels) / self._image_pixels
        distortion = weight * self._distortion(x_hat[0])
        distortion += tf.reduce_sum(self._curvatures * variance)
        return nats / (math.log(2) * self._image_pixels) + self._lmbda * distortion

    def _image_share(self):
        """float32 (h, w, 1): which part of the pixels of the own positions of y is no padding."""
        lengths = self._own_pixels / LATENT_STRIDE
        counts = tf.cast(PER_Z * self._own, tf.float32)
        rows, columns = (
            tf.clip_by_value(lengths[axis] - tf.range(counts[axis]), 0.0, 1.0) for axis in (0, 1)
        )
        return rows[:, None, None] * columns[:, None]

    def _squared_slopes(self, x_hat):
        """The squared derivatives of the image's samples by y, summed for each channel of y.

        The square of the derivative of the samples' sum with random signs is, in the mean, the sum
        of their squares (Hutchinson's estimator).
        """
        shape = tf.shape(x_hat)
        signs = tf.sign(tf.random.stateless_uniform(shape, (self._seed, 0), -1, 1))
        rows, columns = (
            tf.sequence_mask(self._tile_pixels[axis], shape[1 + axis], tf.float32)
            for axis in (0, 1)
        )
        signs *= rows[:, None, None] * columns[:, None]
        (slopes,) = tf.gradients(x_hat, self._y, grad_ys=signs)
        return tf.reduce_sum(tf.square(self._inner(slopes[None], PER_Z)), axis=(0, 1, 2))

    def _distortion(self, x_hat):
        """Of the tile's pixels, their mean."""
        height, width = tf.unstack(tf.shape(self._x)[:2])
        top, left = tf.unstack(self._corner)
        x_hat = PEAK * tf.clip_by_value(x_hat[top : top + height, left : left + width], 0.0, 1.0)
        if self._metric == "mse":
            return tf.reduce_mean(tf.math.squared_difference(self._x, x_hat))
        similarity = ms_ssim.ms_ssim(self._x[None] / PEAK, x_hat[None] / PEAK)
        return 1 - tf.reduce_mean(similarity)

    def _tiles(self, y):
        """(row, column) pairs of ``tiling.Span`` in positions of z."""
        h, w = y.shape[:2]
        pixels, codec = h * w * LATENT_STRIDE**2, self._codec
        rest = tiling.network_area(codec.memory_budget, pixels, codec.architecture)
        rest *= tiling.NETWORK_BYTES
        n, m = codec.architecture.num_filters, codec.architecture.num_latents
        area = int((rest - SEARCH_BYTES * pixels * m / n) / GRADIENT_BYTES)
        side = max(h, w) * LATENT_STRIDE
        if pixels > area:
            side = tiling.side_for(area, BORDER * STRIDE, SMALLEST_TILE)
        rows, columns = (_spans(length // PER_Z, side // STRIDE) for length in (h, w))
        return [(row, column) for row in rows for column in columns]

    def _feeds(self, pixels, y, z, rate, tile):
        """Feeds of one tile."""
        image_pixels = pixels.shape[0] * pixels.shape[1]
        starts = [span.start for span in tile]
        stops = [span.stop for span in tile]
        if self._metric == "ms-ssim":
            starts = [max(span.low, span.start - MS_SSIM_MARGIN) for span in tile]
            stops = [min(span.high, span.stop + MS_SSIM_MARGIN) for span in tile]
        x = pixels[tuple(slice(STRIDE * a, STRIDE * b) for a, b in zip(starts, stops))]
        if x.ndim == 2:
            x = np.repeat(x[..., None], 3, axis=-1)
        ends = [min(STRIDE * span.stop, side) for span, side in zip(tile, pixels.shape)]
        border_ends = [min(STRIDE * span.high, side) for span, side in zip(tile, pixels.shape)]
        return {
            self._x: x.astype(np.float32),
            self._y: y[_with_border(tile, PER_Z)],
            self._z: z[_with_border(tile, 1)],
            self._first: [span.start - span.low for span in tile],
            self._own: [span.stop - span.start for span in tile],
            self._own_pixels: [end - STRIDE * span.start for end, span in zip(ends, tile)],
            self._tile_pixels: [end - STRIDE * span.low for end, span in zip(border_ends, tile)],
            self._corner: [STRIDE * (a - span.low) for a, span in zip(starts, tile)],
            self._image_pixels: image_pixels,
            self._lmbda: rate.lmbda,
            self._delta: 1.0 if rate.delta is None else rate.delta,
        }

    def _run(self, fetches, feeds):
        with memory_errors():
            return self._session.run(fetches, feeds)

    def loss(self, pixels, y_symbols, z_symbols, rate):
        """The image's loss by the float model.

        Args:
          pixels: uint8 (H, W, 3), or grey (H, W).
          y_symbols, z_symbols: float32 (h, w, M), in quantisation steps, and (h/4, w/4, N), without
            the medians; rounded, or relaxed as the search has them.
          rate: ``rates.Rate``.
        """
        tiles = self._tiles(y_symbols)
        feeds = (self._feeds(pixels, y_symbols, z_symbols, rate, tile) for tile in tiles)
        return sum(float(self._run(self._loss, f)) for f in feeds)

    def curvatures(self, pixels, y_symbols, z_symbols, rate, seed=0):
        """By how much the variance of a latent, in square steps, adds to the image's distortion.

        Returns:
          float32 (M,): for each channel the mean over its positions of half the second derivative
          of the mean squared error by a latent, as it is where the picture is linear in it. An
          estimate, from random signs of ``seed``. 0 for MS-SSIM.
        """
        squares = np.zeros(y_symbols.shape[-1], np.float32)
        if self._metric == "ms-ssim":
            return squares
        image_pixels = pixels.shape[0] * pixels.shape[1]
        positions = image_pixels / LATENT_STRIDE**2
        for tile in self._tiles(y_symbols):
            feeds = self._feeds(pixels, y_symbols, z_symbols, rate, tile)
            squares += self._run(self._slopes, {**feeds, self._seed: seed})
        return squares * np.float32(PEAK**2 / (3 * image_pixels * positions))

    def gradients(self, pixels, y_symbols, z_symbols, rate, curvatures=None):
        """The loss of ``loss``, and its gradients with respect to y_symbols and z_symbols.

        ``curvatures``: of latents nearby; with them the loss includes what the variance costs.
        """
        total, sums = 0.0, (np.zeros_like(y_symbols), np.zeros_like(z_symbols))
        for tile in self._tiles(y_symbols):
            feeds = self._feeds(pixels, y_symbols, z_symbols, rate, tile)
            if curvatures is not None:
                feeds[self._curvatures] = curvatures
            loss, parts = self._run([self._relaxed, self._gradients], feeds)
            total += float(loss)
            for whole, part, scale in zip(sums, parts, (PER_Z, 1)):
                whole[_with_border(tile, scale)] += part
        return total, sums


def _expected(log_likelihood, values):
    """The mean of ``log_likelihood``, a function of (B, h, w, C), over random roundings of values.

    The nearer ``values`` (1, h, w, C) are to their ceiling, the likelier it is: the mean is linear
    between floor and ceiling. The likelihood of a value between them is that of noisy latents,
    which no file pays: halfway from a latent that is almost certain to its neighbour it is a half,
    one bit, where that neighbour costs seven.
    """
    floor = tf.floor(values)
    at_floor, at_ceiling = tf.split(log_likelihood(tf.concat([floor, floor + 1], axis=0)), 2)
    return at_floor + _ceiling_share(values) * (at_ceiling - at_floor)


def _ceiling_share(values):
    """How far ``values`` have come from their floor to the next integer, 0 to 1."""
    return values - tf.floor(values)  # floor has no gradient


def _spans(length, side):
    """Cuts an axis into parts of equal size or one less, at most ``side``, with borders."""
    count = -(-length // side)
    edges = [i * length // count for i in range(count + 1)]
    return [
        tiling.Span(start, stop, max(0, start - BORDER), min(length, stop + BORDER))
        for start, stop in zip(edges, edges[1:])
    ]


def _with_border(tile, scale):
    """Slices of a tile with its border, with ``scale`` positions per position of z."""
    return tuple(slice(scale * span.low, scale * span.high) for span in tile)
