"""PSNR and MS-SSIM of 8-bit pictures, as the papers' tables and the published curves use them.

MS-SSIM is Wang, Simoncelli, Bovik: Multiscale structural similarity for image quality assessment
(Asilomar 2003), five scales, for each colour channel and averaged over them. It has the value of
``tf.image.ssim_multiscale`` on small pictures; that function's float32 sums are wrong from some 16
million samples on (by 0.009 on a photograph repeated to 14 megapixels), and it takes 110 bytes a
pixel. Here pictures pass in strips of rows, whose sums are added in float64.
"""

from __future__ import annotations

import math

import numpy as np

PEAK = 255  # the largest value of an 8-bit sample

TAPS, SIGMA = 11, 1.5  # of MS-SSIM's Gaussian window
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first
C1, C2 = 0.01**2, 0.03**2  # for samples in [0, 1]

_STRIP = 64  # rows that are compared at a time: its arrays stay in the processor's cache
# The 11-tap window must fit into the picture after four halvings, which round odd sides up:
# the shortest side of which 11 pixels are left is 10 * 16 + 1.
MS_SSIM_MIN_SIDE = (TAPS - 1) * 2 ** (len(WEIGHTS) - 1) + 1


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
    value = np.ones(a.shape[2])
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            a, b = _halve(a), _halve(b)
        similarity = _mean_similarity(a, b, with_luminance=scale == len(WEIGHTS) - 1)
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
    rows, columns = (side - TAPS + 1 for side in a.shape[:2])
    sums = np.zeros(a.shape[2])
    for top in range(0, rows, _STRIP):
        strip = slice(top, min(top + _STRIP, rows) + TAPS - 1)
        for channel in range(a.shape[2]):
            pair = (t[strip, :, channel].astype(np.float32) / np.float32(PEAK) for t in (a, b))
            sums[channel] += _similarity_map(*pair, with_luminance).sum(dtype=np.float64)
    return sums / (rows * columns)


def _similarity_map(a: np.ndarray, b: np.ndarray, with_luminance: bool) -> np.ndarray:
    """Structure and contrast, and where wanted luminance, under each window's position.

    float32 (H, W) in [0, 1] to (H - 10, W - 10).
    """
    mean_a, mean_b = _blur(a), _blur(b)
    product, squares = mean_a * mean_b, mean_a * mean_a + mean_b * mean_b
    covariance, variances = _blur(a * b) - product, _blur(a * a + b * b) - squares
    similarity = (2 * covariance + C2) / (variances + C2)
    if with_luminance:
        similarity *= (2 * product + C1) / (squares + C1)
    return similarity


def _blur(t: np.ndarray) -> np.ndarray:
    """Gaussian window, only where it fits: (H, W) to (H - 10, W - 10).

    Sums of shifted arrays, which took half the time of ``scipy.ndimage.correlate1d`` in float32.
    """
    window = np.exp(-((np.arange(TAPS) - TAPS // 2) ** 2) / (2 * SIGMA**2))
    window = (window / window.sum()).astype(np.float32)
    for _ in range(2):  # along the rows, then, turned, along the columns
        length = t.shape[0] - TAPS + 1
        blurred = window[TAPS // 2] * t[TAPS // 2 : TAPS // 2 + length]
        for i in range(TAPS // 2):
            blurred += window[i] * (t[i : i + length] + t[TAPS - 1 - i : TAPS - 1 - i + length])
        t = blurred.T
    return t


def _check_pair(a: np.ndarray, b: np.ndarray) -> None:
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"Expected uint8 arrays, got {a.dtype} and {b.dtype}.")
    if a.shape != b.shape:
        raise ValueError(f"Expected arrays of one shape, got {a.shape} and {b.shape}.")
    if not (a.ndim == 2 or (a.ndim == 3 and a.shape[2] == 3)) or a.size == 0:
        raise ValueError(f"Expected shape (H, W, 3) or (H, W), got {a.shape}.")
