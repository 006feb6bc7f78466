"""PSNR by hand and MS-SSIM against an implementation of its paper in NumPy and SciPy."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import correlate1d

from pictures import metrics

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # the paper's exponents, finest scale first


def _window_mean(x):
    """Mean under an 11-tap Gaussian window (sigma 1.5), only where it fits."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    for axis in (0, 1):
        x = correlate1d(x, taps, axis=axis)
    return x[5:-5, 5:-5]


def _halve(x):
    x = np.pad(x, [(0, x.shape[0] % 2), (0, x.shape[1] % 2)], mode="edge")
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def _ms_ssim_of_channel(a, b):
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    value = 1.0
    for scale, weight in enumerate(_WEIGHTS):
        mean_a, mean_b = _window_mean(a), _window_mean(b)
        var_a = _window_mean(a * a) - mean_a**2
        var_b = _window_mean(b * b) - mean_b**2
        cov = _window_mean(a * b) - mean_a * mean_b
        term = (2 * cov + c2) / (var_a + var_b + c2)
        if scale == len(_WEIGHTS) - 1:
            term = term * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        value *= max(term.mean(), 0.0) ** weight
        a, b = _halve(a), _halve(b)
    return value


def _ms_ssim_by_hand(a, b):
    a, b = (np.atleast_3d(x).astype(np.float64) for x in (a, b))
    return np.mean([_ms_ssim_of_channel(a[..., c], b[..., c]) for c in range(a.shape[2])])


def _picture(shape, seed=0):
    """Smooth waves and noise: structure at every scale."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = 128 + 50 * np.sin(rows / 9) + 40 * np.cos(columns / 23 + rows / 31)
    waves = waves.reshape(waves.shape + (1,) * (len(shape) - 2))
    return np.clip(waves + rng.normal(0, 12, shape), 0, 255).astype(np.uint8)


def _noisy(image, sigma, seed=1):
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


def test_psnr_by_hand():
    a = np.zeros((2, 2, 3), np.uint8)
    b = a.copy()
    b[0, 0, 0] = 6  # MSE 36 / 12 = 3
    assert metrics.psnr(a, b) == pytest.approx(10 * math.log10(255**2 / 3), abs=1e-12)


def test_mse_in_strips_is_exact():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 256, (2, 601, 40, 3), np.uint8)
    assert metrics.mse(a, b) == np.mean((a.astype(np.int64) - b) ** 2)


def test_psnr_does_not_wrap_around():
    a, b = np.full((4, 5), 255, np.uint8), np.zeros((4, 5), np.uint8)
    assert metrics.psnr(a, b) == metrics.psnr(b, a) == 0.0


def test_psnr_of_equal_images_is_infinite():
    a = _picture((7, 9, 3))
    assert metrics.psnr(a, a.copy()) == math.inf


@pytest.mark.parametrize("shape", [(192, 208, 3), (161, 161, 3), (171, 243, 3), (200, 175)])
@pytest.mark.parametrize("sigma", [3, 40])
def test_ms_ssim_against_numpy(shape, sigma):
    a = _picture(shape)
    b = _noisy(a, sigma)
    value = metrics.ms_ssim(a, b)
    assert value == pytest.approx(_ms_ssim_by_hand(a, b), abs=1e-6)
    assert value < 0.9999  # far enough from 1 for the comparison to mean something


def test_ms_ssim_in_strips(monkeypatch):
    a = _picture((207, 190, 3))
    b = _noisy(a, np.array([2, 5, 12]))
    monkeypatch.setattr(metrics, "_STRIP", 13)
    assert metrics.ms_ssim(a, b) == pytest.approx(_ms_ssim_by_hand(a, b), abs=1e-6)


def test_ms_ssim_of_a_large_picture():
    """TensorFlow's own is 0.0005 too high here: float32 sums of 18 million values."""
    a, b = np.zeros((2400, 2500, 3), np.uint8), np.full((2400, 2500, 3), 9, np.uint8)
    a[:, ::2], b[:, ::2] = 200, 180
    assert metrics.ms_ssim(a, b) == pytest.approx(_ms_ssim_by_hand(a[:200], b[:200]), abs=1e-5)


def test_ms_ssim_of_unlike_images_is_not_nan():
    a = _picture((176, 176, 3))
    assert metrics.ms_ssim(a, 255 - a) == pytest.approx(_ms_ssim_by_hand(a, 255 - a), abs=1e-4)


def test_ms_ssim_of_equal_images_is_one():
    a = _picture((170, 180, 3))
    assert metrics.ms_ssim(a, a) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("shape", [(160, 400, 3), (400, 160), (1, 1, 3)])
def test_ms_ssim_needs_161_pixels(shape):
    a = np.zeros(shape, np.uint8)
    assert metrics.MS_SSIM_MIN_SIDE == 161
    assert metrics.ms_ssim(a, a) is None


@pytest.mark.parametrize("metric", [metrics.mse, metrics.psnr, metrics.ms_ssim])
def test_wrong_arrays_are_refused(metric):
    a = np.zeros((200, 200, 3), np.uint8)
    with pytest.raises(ValueError, match="uint8"):
        metric(a, a.astype(np.float32))
    with pytest.raises(ValueError, match="one shape"):
        metric(a, a[:190])
    with pytest.raises(ValueError, match="shape"):
        metric(a[..., :2], a[..., :2])


def test_to_db():
    assert metrics.to_db(0.99) == pytest.approx(20)
    assert metrics.to_db(0.0) == 0
    assert metrics.to_db(1.0) == metrics.to_db(1.0000001) == math.inf


def test_no_metric_needs_tensorflow():
    code = (
        "import sys, numpy as np\nfrom pictures import metrics\n"
        "a = np.zeros((161, 161), np.uint8)\n"
        "assert metrics.psnr(a, a) == float('inf') and metrics.ms_ssim(a, a) == 1\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    root = Path(metrics.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)
