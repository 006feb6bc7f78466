"""The rate-distortion losses: with noise or rounding in training, and as coded.

The loss is that of both papers (Cheng et al., equation 2; Fu et al., equation 4):

    loss = bpp(y) + bpp(z) + lmbda * 255^2 * MSE        (x in [0, 1], rates in bits per pixel)
    loss = bpp(y) + bpp(z) + lmbda * (1 - MS-SSIM)      (metric "ms-ssim")

In training y and z carry additive uniform noise in [-1/2, 1/2); or all but the rates see them
rounded, with a gradient of 1 (Minnen and Singh, ICIP 2020, and for the synthesis alone Theis et
al., ICLR 2017); or both are rounded and what makes them stays as it is (the second step of Guo et
al., ICML 2021). Validation rounds them as the coder does. A model for a range of lambdas sees a
lambda of its own for each image, and y in steps of its delta (rates.py): noise and rounding are
multiples of it, and the likelihood that of y / delta. With ``precision="bfloat16"`` the
convolutions of the four transforms run in bfloat16 on float32 master weights; latents, noise,
parameter network, likelihoods and loss stay in float32.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow.compat.v1 as tf

import factorized_prior
import gmm_entropy
import network
from pictures import ms_ssim
from pictures.metrics import PEAK  # lambda weighs the squared error on this scale


class Losses(NamedTuple):
    """A batch's losses: float32 scalars, as tensors or as values.

    Attributes:
      loss: what is minimised.
      bpp_y, bpp_z: rates in bits per pixel.
      mse: mean squared error on the 0 to 255 scale.
      ms_ssim: mean MS-SSIM (linear, 1 for equal images) where the metric is "ms-ssim", else None.
    """

    loss: Any
    bpp_y: Any
    bpp_z: Any
    mse: Any
    ms_ssim: Any = None

    def given(self):
        """Dict of those that are there: what ``tf.Session.run`` takes, and ``Losses(**...)``."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def _in_steps(latents, delta, quantise):
    """``quantise`` of the latents in units of their quantisation steps, as latents again."""
    return quantise(latents) if delta is None else delta * quantise(latents / delta)


def rate_distortion(x, x_hat, log_likelihood_y, likelihood_z, rate, metric):
    """The papers' loss, the mean over a batch.

    Args:
      x, x_hat: (B, H, W, 3) float32 in [0, 1].
      log_likelihood_y: (B, H/16, W/16, M) float32, natural logarithm.
      likelihood_z: (B, H/64, W/64, N) float32.
      rate: ``rates.Rate``.
      metric: "mse", or "ms-ssim", for which H and W are at least 161.

    Returns:
      ``Losses`` of float32 scalars.
    """
    shape = tf.shape(x)
    bits_per_pixel = -1 / (math.log(2) * tf.cast(shape[1] * shape[2], tf.float32))
    bpp_y = bits_per_pixel * tf.reduce_sum(log_likelihood_y, axis=(1, 2, 3))
    bpp_z = bits_per_pixel * tf.reduce_sum(tf.log(likelihood_z), axis=(1, 2, 3))
    mse = PEAK**2 * tf.reduce_mean(tf.math.squared_difference(x, x_hat), axis=(1, 2, 3))
    distortion, similarity = mse, None
    if metric == "ms-ssim":
        similarity = tf.reshape(ms_ssim.ms_ssim(x, x_hat), (-1,))
        distortion = 1 - similarity
    loss = bpp_y + bpp_z + rate.lmbda * distortion
    if rate.power:
        loss *= rate.delta ** (2 * rate.power)
    parts = (loss, bpp_y, bpp_z, mse, similarity)
    return Losses(*(None if part is None else tf.reduce_mean(part) for part in parts))


def _noise(latents, seed, step, stream, share):
    """Uniform noise for latents that depends on (seed, step) only, so that a resume repeats it.

    ``share`` is (k, n) for the latents of part k of n of the batch, which get that part's noise.
    """
    key = tf.stack([tf.constant(seed * 2 + stream, tf.int64), step])
    part, parts = share
    count, *rest = tf.unstack(tf.shape(latents))
    noise = tf.random.stateless_uniform([parts * count, *rest], key, -0.5, 0.5)
    return noise if parts == 1 else noise[part * count : (part + 1) * count]


def _straight_through(rounded, latents):
    """Rounded latents whose gradient is that of the latents."""
    return latents + tf.stop_gradient(rounded - latents)


def training_losses(
    x,
    step,
    *,
    architecture,
    rate,
    metric,
    precision,
    seed,
    quantisation="noise",
    share=(0, 1),
):
    """Losses of one batch in training; creates (or reuses) all variables.

    Args:
      x: (B, H, W, 3) float32 in [0, 1].
      step: int64 scalar, with ``seed`` the source of the noise.
      architecture: ``Architecture``.
      rate: ``rates.Rate``.
      quantisation: "noise": all parts see noisy y and z. "straight-through": all see them as they
        are coded, with a gradient of 1, but for the rates, which are those of noisy y and z.
        "rounded": the rates, too, are those of y and z as they are coded, where the gradient ends.
      share: (k, n) where ``x`` is part k of n of the step's batch.
    """
    as_coded, delta = quantisation == "rounded", rate.steps
    prior = factorized_prior.variables(architecture.num_filters)

    def noisy(y, z):
        noise_y, noise_z = (_noise(t, seed, step, i, share) for i, t in enumerate((y, z)))
        return _in_steps(y, delta, lambda t: t + noise_y), z + noise_z

    def quantise(y, z):
        if quantisation == "noise":
            return noisy(y, z)
        medians = factorized_prior.medians_of(prior["quantiles"])
        y_hat = _in_steps(y, delta, tf.round)
        z_hat = factorized_prior.round_to_medians(z, medians)
        if as_coded:
            return tf.stop_gradient(y_hat), tf.stop_gradient(z_hat)
        return _straight_through(y_hat, y), _straight_through(z_hat, z)

    # bfloat16 would round to other latents than the coder's.
    analysis_dtype = tf.float32 if as_coded else None
    dtype = tf.as_dtype(precision)
    c = network.chain(x, architecture, quantise, dtype=dtype, analysis_dtype=analysis_dtype)
    y_rated, z_rated = c.y_hat, c.z_hat
    if quantisation == "straight-through":
        y_rated, z_rated = noisy(c.y, c.z)
    likelihood_z = factorized_prior.likelihood(z_rated, prior)
    return rate_distortion(
        x,
        c.x_hat,
        gmm_entropy.log_likelihood(y_rated, c.raw, architecture.family, delta),
        tf.stop_gradient(likelihood_z) if as_coded else likelihood_z,
        rate,
        metric,
    )


def rounded_losses(x, medians, *, architecture, rate, metric):
    """Losses as coded: float32 networks, y rounded, z rounded to its medians, 8-bit x_hat."""
    prior = factorized_prior.variables(architecture.num_filters)

    def quantise(y, z):
        y_hat = _in_steps(y, rate.steps, tf.round)
        return y_hat, factorized_prior.round_to_medians(z, medians)

    c = network.chain(x, architecture, quantise)
    x_hat = tf.round(PEAK * tf.clip_by_value(c.x_hat, 0.0, 1.0)) / PEAK
    losses = rate_distortion(
        x,
        x_hat,
        gmm_entropy.log_likelihood(c.y_hat, c.raw, architecture.family, rate.steps),
        factorized_prior.likelihood(c.z_hat, prior),
        rate,
        metric,
    )
    return losses, prior, x_hat
