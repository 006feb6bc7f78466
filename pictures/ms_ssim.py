"""MS-SSIM as a loss: the value of ``tf.image.ssim_multiscale`` with a gradient that stays finite.

Wang, Simoncelli, Bovik: Multiscale structural similarity for image quality assessment (Asilomar
2003). TensorFlow's version clips each scale's similarity at 0 before it takes a fractional power,
whose slope there is infinite: one crop that is anticorrelated with its reconstruction, in one
colour and scale, makes every gradient NaN. Here a similarity is clipped a little above 0.
"""

from __future__ import annotations

import numpy as np
import tensorflow.compat.v1 as tf

from pictures.metrics import C1, C2, SIGMA, TAPS, WEIGHTS

LEAST = 1e-3  # similarity of a scale below which it is not followed any further


def _blur(t):
    """Gaussian window on each channel, without padding: (B, H, W, C) to (B, H - 10, W - 10, C)."""
    places = np.arange(TAPS) - TAPS // 2
    window = np.exp(-(places**2) / (2 * SIGMA**2))
    window = np.tile((window / window.sum())[:, None], (1, t.shape[-1])).astype(np.float32)
    t = tf.nn.depthwise_conv2d(t, window[:, None, :, None], (1, 1, 1, 1), "VALID")
    return tf.nn.depthwise_conv2d(t, window[None, :, :, None], (1, 1, 1, 1), "VALID")


def similarity_maps(a, b):
    """Similarity of one scale under each window's position.

    Args:
      a, b: (B, H, W, C) float32 in [0, 1], H and W at least 11.

    Returns:
      Structure and contrast, and the same times luminance: (B, H - 10, W - 10, C) float32 each.
    """
    mean_a, mean_b = _blur(a), _blur(b)
    product, squares = mean_a * mean_b, tf.square(mean_a) + tf.square(mean_b)
    luminance = (2 * product + C1) / (squares + C1)
    covariance, variances = _blur(a * b) - product, _blur(tf.square(a) + tf.square(b)) - squares
    structure = (2 * covariance + C2) / (variances + C2)
    return structure, luminance * structure


def _halve(t):
    """Means of 2x2 pixels; odd sides repeat their last row or column."""
    odd = tf.shape(t)[1:3] % 2
    t = tf.pad(t, [[0, 0], [0, odd[0]], [0, odd[1]], [0, 0]], "SYMMETRIC")
    return tf.nn.avg_pool2d(t, 2, 2, "VALID")


def ms_ssim(a, b):
    """Multiscale structural similarity of each image.

    Args:
      a, b: (B, H, W, 3) float32 in [0, 1], H and W at least 161.

    Returns:
      (B,) float32, 1 for equal images; the mean over the colour channels.
    """
    factors = []
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            a, b = _halve(a), _halve(b)
        structure, with_luminance = similarity_maps(a, b)
        similarity = with_luminance if scale == len(WEIGHTS) - 1 else structure
        similarity = tf.reduce_mean(similarity, (1, 2))
        factors.append(tf.maximum(similarity, LEAST) ** weight)
    return tf.reduce_mean(tf.reduce_prod(tf.stack(factors), 0), -1)
