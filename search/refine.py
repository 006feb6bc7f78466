"""Refining the latents of one image: a better file from the same weights (encoder.py --effort).

The analysis transform is trained for the average image. Given one image, gradient descent on its
own rate-distortion loss finds better latents; the decoder does not notice. Yang, Bamler, Mandt:
Improving Inference for Neural Image Compression (NeurIPS 2020, arXiv 2006.04240), section 3.2:
stochastic Gumbel annealing. A latent between two integers is drawn to one of them, the nearer one
more likely, by a relaxed sample whose temperature falls until it is as good as rounded.

What differs from the paper: the loss of a relaxed sample is that to be expected of rounding it at
random, in its rate and for MSE in its distortion (latent_loss.py); the likelihood and the picture
of what lies between integers promise savings that end with rounding. That leaves the samples' noise
less to do, and there are far fewer iterations, with larger steps, and no time to average it, so it
is scaled down. Adam's second moment is partly the mean over all latents: the step of one that
hardly matters stays small, where Adam alone would move it as fast as the others. The loss counts
the image's own pixels only, so that the padding becomes cheap, and the best rounded latents on the
way are kept. Large images pass in tiles.
"""

import math
from typing import NamedTuple

import numpy as np

from coding.latents import Latents
from errors import GlicError
from pictures import metrics
from rates import Rate, delta_of
from search.interruption import SearchInterrupted
from search.latent_loss import LatentLoss

# Iterations of each level; 0 is the plain encoder. Time grows with them and with the pixels.
ITERATIONS = (0, 4, 10, 20, 30, 45, 70, 100, 150, 240)
# The samples' noise is this times the root of the iterations; 1 would be the paper's. For MS-SSIM
# the loss does not know what the variance of rounding costs, and noise does its part.
NOISE_FACTOR = {"mse": 0.022, "ms-ssim": 0.056}
# The learning rate, in quantisation steps, falls by FALL to the end. Searches of more than
# RATE_ITERATIONS begin lower.
RATE, RATE_ITERATIONS, RATE_POWER = 0.1, 30, 0.35
FALL = 7
OWN_SHARE = 0.5  # of a latent's own gradient in its second moment
SEED = 1  # of the samples: the same image gives the same file
TEMPERATURE_START, TEMPERATURE_END = 0.5, 0.15
BETAS, EPSILON = (0.9, 0.99), 1e-12
CHECK_EVERY = 20  # iterations between measurements of the rounded latents
EDGE = 1e-5  # keeps atanh and its slope finite


class Refined(NamedTuple):
    """A refined file.

    latents: ``Latents``. data: bytes of its file. gain: by which share its rate + lambda *
    distortion lies under the plain file's, 0 where that one was better.
    """

    latents: Latents
    data: bytes
    gain: float


class RefineError(GlicError):
    """An image or a model for which refinement is not possible."""


def soft_rounding(values, temperature, noise=0.0):
    """A relaxed sample between floor and ceiling, and its slope; arrays like values.

    ``noise`` is the difference of two Gumbel variables, which is logistic, or a part of it.
    """
    floor = np.floor(values)
    offset = np.clip(values - floor, EDGE, 1 - EDGE)
    scale = np.float32(1 / temperature**2)  # of the preference, and of the relaxed sample
    preference = (np.arctanh(offset) - np.arctanh(1 - offset)) * scale
    preference += noise / np.float32(temperature)
    share = 1 / (1 + np.exp(-np.clip(preference, -30, 30)))
    slope = (1 / (1 - offset**2) + 1 / (1 - (1 - offset) ** 2)) * scale
    return floor + share, share * (1 - share) * slope


class Descent:
    """Adam (Kingma and Ba, ICLR 2015) with a second moment that leans on the mean of its array.

    Args:
      arrays: list of NumPy arrays, which change in place.
      own_share: part of an element's own gradient in its second moment; the rest is the mean's.
    """

    def __init__(self, arrays, own_share):
        self._arrays, self._own_share = arrays, np.float32(own_share)
        self._means = [np.zeros_like(a) for a in arrays]
        self._squares = [np.zeros_like(a) for a in arrays]
        self._step = 0

    def step(self, gradients, rate):
        """One update with the learning rate ``rate``."""
        self._step += 1
        first, second = BETAS
        state = zip(self._arrays, gradients, self._means, self._squares)
        for array, gradient, mean, square in state:
            mean += (1 - first) * (gradient - mean)
            own = np.square(gradient)
            typical = np.float32(np.mean(own, dtype=np.float64))
            square += (1 - second) * (typical + self._own_share * (own - typical) - square)
            root = np.sqrt(square / np.float32(1 - second**self._step)) + np.float32(EPSILON)
            array -= np.float32(rate / (1 - first**self._step)) * mean / root


class Refiner:
    """Refines latents with one codec; builds its graph once.

    Args:
      codec: ``codec.Codec``.
      lmbda: weight of the distortion, as in training, with a model of one rate; one of many rates
        has a lambda for each quantisation step.
      metric: "mse" (on the 0 to 255 scale) or "ms-ssim" (1 - MS-SSIM).

    Raises:
      RefineError: for a lambda or metric that is not known.
    """

    def __init__(self, codec, lmbda=None, metric="mse"):
        if metric not in ("mse", "ms-ssim"):
            raise RefineError(f"Metric mse or ms-ssim expected, got {metric}.")
        if codec.rates is None and not (lmbda and lmbda > 0):
            raise RefineError(
                f"A positive lambda expected, got {lmbda}: refinement needs the weight of the "
                "distortion that the model was trained with."
            )
        self._codec, self._lmbda, self._metric = codec, lmbda, metric
        self._loss = LatentLoss(codec, metric)

    def _rate(self, k):
        """``rates.Rate`` of a quantisation step."""
        if k is None:
            return Rate(self._lmbda)
        return Rate(self._codec.rates.lmbda_of(k), delta_of(k))

    def search(self, pixels, iterations, progress=None, k=None):
        """Gradient descent from the analysis transform's latents.

        Args:
          pixels: uint8 (H, W, 3), or grey (H, W).
          iterations: number of steps.
          progress: called with the relaxed loss after each of them, or None.
          k: the quantisation step of y, see ``Codec.k_of``.

        Returns:
          ``Latents`` (the best rounded ones by the float model's loss) and whether Ctrl-C ended
          the search early; the latents so far are then measured too.
        """
        y, z = self._codec.transform(pixels)
        picture = (*pixels.shape[:2], pixels.ndim == 2)
        best_loss, best = math.inf, self._codec.quantise(y, z, *picture, k)
        rate = self._rate(best.k)
        if rate.delta is not None:
            y /= np.float32(rate.delta)  # from here on in steps
        z -= self._codec.entropy_coder.medians
        interrupted, noise = False, NOISE_FACTOR[self._metric] * math.sqrt(iterations)
        start = RATE * min(1, RATE_ITERATIONS / iterations) ** RATE_POWER
        descent = Descent([y, z], OWN_SHARE)
        random = np.random.default_rng(SEED)
        try:
            curvatures = self._loss.curvatures(pixels, np.rint(y), np.rint(z), rate)
            for i in range(iterations):
                if i and i % CHECK_EVERY == 0:
                    best_loss, best = self._better(pixels, y, z, rate, best_loss, best)
                done = i / max(1, iterations - 1)
                temperature = _falling(TEMPERATURE_START, TEMPERATURE_END, done)
                (y_soft, y_slope), (z_soft, z_slope) = (
                    soft_rounding(v, temperature, noise * _logistic(random, v.shape))
                    for v in (y, z)
                )
                loss, (y_gradient, z_gradient) = self._loss.gradients(
                    pixels, y_soft, z_soft, rate, curvatures
                )
                learning_rate = _falling(start, start / FALL, done)
                descent.step([y_gradient * y_slope, z_gradient * z_slope], learning_rate)
                if progress:
                    progress(loss)
        except KeyboardInterrupt:
            interrupted = True
        _, best = self._better(pixels, y, z, rate, best_loss, best)
        return best, interrupted

    def _better(self, pixels, y, z, rate, best_loss, best):
        """The loss and ``Latents`` of y and z rounded, or those that are given if less."""
        y_symbols, z_symbols = np.rint(y), np.rint(z)
        loss = self._loss.loss(pixels, y_symbols, z_symbols, rate)
        if loss >= best_loss:
            return best_loss, best
        rounded = y_symbols.astype(np.int32), z_symbols.astype(np.int32)
        return loss, Latents(*rounded, *best[2:])

    def compress(self, pixels, level, progress=None, k=None):
        """The better of the plain and the refined file, by real bytes and decoded pixels.

        Args:
          pixels: uint8 (H, W, 3), or grey (H, W).
          level: 0 to 9, see ``ITERATIONS``.
          progress, k: see ``search``.

        Returns:
          ``Refined``.

        Raises:
          RefineError: for an image that is too small for MS-SSIM.
          SearchInterrupted: on Ctrl-C, with the ``Refined`` of what was found until then.
        """
        height, width = pixels.shape[:2]
        if self._metric == "ms-ssim" and min(height, width) < metrics.MS_SSIM_MIN_SIDE:
            raise RefineError(
                f"Refinement for MS-SSIM needs sides of {metrics.MS_SSIM_MIN_SIDE} pixels, got "
                f"{width}x{height}: leave --effort out for this one."
            )
        plain = self._codec.analyse(pixels, k)
        best = Refined(plain, self._codec.encode(plain), 0.0)
        if not ITERATIONS[level]:
            return best
        latents, interrupted = self.search(pixels, ITERATIONS[level], progress, k)
        data = self._codec.encode(latents)
        before, after = self._cost(pixels, *best[:2]), self._cost(pixels, latents, data)
        if after < before:
            best = Refined(latents, data, 1 - after / before)
        if interrupted:
            raise SearchInterrupted(best)
        return best

    def _cost(self, pixels, latents, data):
        """bpp + lambda * distortion of a file as it will be restored."""
        restored = self._codec.synthesise(latents)
        if self._metric == "mse":
            distortion = metrics.mse(pixels, restored)
        else:
            distortion = 1 - metrics.ms_ssim(pixels, restored)
        lmbda = self._rate(latents.k).lmbda
        return 8 * len(data) / (latents.height * latents.width) + lmbda * distortion


def _logistic(random, shape):
    """Logistic noise, float32, from a ``numpy.random.Generator``."""
    uniform = np.clip(random.random(shape, np.float32), EDGE, 1 - EDGE)
    return np.log(uniform) - np.log1p(-uniform)


def _falling(start, end, done):
    """From ``start`` to ``end`` by a constant factor as ``done`` goes from 0 to 1."""
    return start * (end / start) ** done
