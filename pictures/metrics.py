"""PSNR and MS-SSIM of 8-bit pictures, as the papers' tables and the published curves use them.

MS-SSIM is Wang, Simoncelli, Bovik: Multiscale structural similarity for image quality assessment
(Asilomar 2003), five scales, for each colour channel and averaged over them. It has the value of
``tf.image.ssim_multiscale`` on small pictures; that function's float32 sums are wrong from some 16
million samples on (by 0.009 on a photograph repeated to 14 megapixels), and it takes 110 bytes a
pixel. Here pictures pass in strips of rows, whose sums are added in float64. TensorFlow is imported
on the first MS-SSIM only, so that importing this module is cheap.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

PEAK = 255  # the largest value of an 8-bit sample

_FILTER_TAPS = 11
_SCALES = 5
_STRIP = 256  # rows that are compared at a time
# The 11-tap window must fit into the picture after four halvings, which round odd sides up:
# the shortest side of which 11 pixels are left is 10 * 16 + 1.
MS_SSIM_MIN_SIDE = (_FILTER_TAPS - 1) * 2 ** (_SCALES - 1) + 1


def mse(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared difference over all samples, on the 0 to 255 scale.

    Args:
      a, b: uint8 arrays of one shape, (H, W, 3) or (H, W).

    Raises:
      ValueError: other dtypes or shapes.
    """
    _check_pair(a, b)
    total = 0
    for top in range(0, a.shape[0], _STRIP):
        rows = slice(top, top + _STRIP)
        total += int(np.square(np.subtract(a[rows], b[rows], dtype=np.int32)).sum(dtype=np.int64))
    return total / a.size


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(255^2 / MSE), the MSE over all samples.

    Args:
      a, b: as for ``mse``.

    Returns:
      dB; infinity if a and b are equal.

    Raises:
      ValueError: as ``mse``.
    """
    error = mse(a, b)
    return 10 * math.log10(PEAK**2 / error) if error else math.inf


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
    from pictures.ms_ssim import WEIGHTS

    value = np.ones(a.shape[2])
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            a, b = _halve(a), _halve(b)
        similarity = _mean_similarity(a, b, with_luminance=scale == _SCALES - 1)
        value *= np.maximum(similarity, 0) ** weight
    return float(value.mean())


def to_db(ms_ssim: float) -> float:
    """MS-SSIM on the scale of the papers' figures, -10 log10(1 - MS-SSIM); infinity for 1."""
    return -10 * math.log10(1 - ms_ssim) if ms_ssim < 1 else math.inf


def _halve(picture: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels in float32, (H, W, C); odd sides repeat their last row or column."""
    height, width = picture.shape[:2]
    if height % 2 or width % 2:
        picture = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    half = picture[::2, ::2].astype(np.float32)
    for part in (picture[1::2, ::2], picture[::2, 1::2], picture[1::2, 1::2]):
        half += part
    half *= 0.25
    return half


def _mean_similarity(a: np.ndarray, b: np.ndarray, with_luminance: bool) -> np.ndarray:
    """Mean similarity of each channel over the window's positions, (C,) in float64."""
    similarity = _similarity_of_strips()[with_luminance]
    rows = a.shape[0] - _FILTER_TAPS + 1
    sums = np.zeros(a.shape[2])
    for top in range(0, rows, _STRIP):
        strip = slice(top, min(top + _STRIP, rows) + _FILTER_TAPS - 1)
        means = similarity(*(np.float32(np.moveaxis(t[strip], 2, 0)) / PEAK for t in (a, b)))
        sums += means.sum(axis=1, dtype=np.float64)
    return sums / rows


@functools.cache
def _similarity_of_strips() -> tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...]:
    """Two functions of float32 arrays (C, H, W) in [0, 1]: without and with luminance.

    They return the means of each row, (C, H - 10). One graph and one session are kept for the life
    of the process, apart from the caller's.
    """
    import tensorflow as tf

    from pictures import ms_ssim as training_metric

    with tf.Graph().as_default() as graph:
        a, b = (tf.compat.v1.placeholder(tf.float32, [None] * 3) for _ in range(2))
        maps = training_metric.similarity_maps(a[..., None], b[..., None])
        means = [tf.reduce_mean(t, axis=(2, 3)) for t in maps]
    # On the CPU: a session that sees a GPU would claim its memory, and the last digits of a
    # metric should not depend on which machine has one.
    session = tf.compat.v1.Session(
        graph=graph, config=tf.compat.v1.ConfigProto(device_count={"GPU": 0})
    )
    return tuple(session.make_callable(mean, feed_list=[a, b]) for mean in means)


def _check_pair(a: np.ndarray, b: np.ndarray) -> None:
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"Expected uint8 arrays, got {a.dtype} and {b.dtype}.")
    if a.shape != b.shape:
        raise ValueError(f"Expected arrays of one shape, got {a.shape} and {b.shape}.")
    if not (a.ndim == 2 or (a.ndim == 3 and a.shape[2] == 3)) or a.size == 0:
        raise ValueError(f"Expected shape (H, W, 3) or (H, W), got {a.shape}.")
