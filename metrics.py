"""PSNR and MS-SSIM of 8-bit pictures, as the papers' tables and the published curves use them.

MS-SSIM is Wang, Simoncelli, Bovik: Multiscale structural similarity for image quality assessment
(Asilomar 2003), five scales, computed by TensorFlow for each colour channel and averaged over
them. TensorFlow is imported on the first MS-SSIM only, so that importing this module is cheap.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

PEAK = 255  # the largest value of an 8-bit sample

_FILTER_TAPS = 11
_SCALES = 5
# The 11-tap window must fit into the picture after four halvings, which round odd sides up:
# the shortest side of which 11 pixels are left is 10 * 16 + 1.
MS_SSIM_MIN_SIDE = (_FILTER_TAPS - 1) * 2 ** (_SCALES - 1) + 1


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(255^2 / MSE), the MSE over all samples.

    Args:
      a, b: uint8 arrays of one shape, (H, W, 3) or (H, W).

    Returns:
      dB in float64; infinity if a and b are equal.

    Raises:
      ValueError: other dtypes or shapes.
    """
    _check_pair(a, b)
    difference = a.astype(np.int16) - b
    mse = np.mean(np.square(difference, dtype=np.int32), dtype=np.float64)
    return float(10 * np.log10(PEAK**2 / mse)) if mse > 0 else math.inf


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float | None:
    """Multiscale structural similarity, linear: 1 for equal pictures.

    Args:
      a, b: uint8 arrays of one shape, (H, W, 3) or (H, W).

    Returns:
      The mean over the colour channels, or None where a side is under `MS_SSIM_MIN_SIDE` (161)
      pixels, for which five scales with an 11-tap window are not defined.

    Raises:
      ValueError: other dtypes or shapes.
    """
    _check_pair(a, b)
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        return None
    if a.ndim == 2:
        a, b = a[..., None], b[..., None]
    return float(_ms_ssim_of_batch()(a[None], b[None])[0])


def to_db(ms_ssim: float) -> float:
    """MS-SSIM on the scale of the papers' figures, -10 log10(1 - MS-SSIM); infinity for 1."""
    return -10 * math.log10(1 - ms_ssim) if ms_ssim < 1 else math.inf


@functools.cache
def _ms_ssim_of_batch() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of two uint8 arrays (B, H, W, C) that returns B MS-SSIM values in float32.

    It keeps one graph and one session for the life of the process, apart from the caller's.
    """
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        a, b = (tf.compat.v1.placeholder(tf.uint8, [None] * 4) for _ in range(2))
        result = tf.image.ssim_multiscale(
            tf.cast(a, tf.float32), tf.cast(b, tf.float32), PEAK, filter_size=_FILTER_TAPS
        )
    # On the CPU: a session that sees a GPU would claim its memory, and the last digits of a
    # metric should not depend on which machine has one.
    session = tf.compat.v1.Session(
        graph=graph, config=tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    )
    return session.make_callable(result, feed_list=[a, b])


def _check_pair(a: np.ndarray, b: np.ndarray) -> None:
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"Expected uint8 arrays, got {a.dtype} and {b.dtype}.")
    if a.shape != b.shape:
        raise ValueError(f"Expected arrays of one shape, got {a.shape} and {b.shape}.")
    if not (a.ndim == 2 or (a.ndim == 3 and a.shape[2] == 3)) or a.size == 0:
        raise ValueError(f"Expected shape (H, W, 3) or (H, W), got {a.shape}.")
