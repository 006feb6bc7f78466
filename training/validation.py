"""Validation: the averaged weights on crops that are not trained on, coded as in reality."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

import factorized_prior
from pictures.metrics import PEAK, to_db
from rates import Rate
from training.log import psnr
from training.losses import Losses, rounded_losses
from training.step import AVERAGE_SCOPE


class ValidationGraph(NamedTuple):
    """What codes a crop and measures it.

    Attributes:
      x: uint8 (1, H, W, 3), to be fed; sides are multiples of 64.
      rates: a feed for each of the lambdas at which a crop is coded.
      medians: float32 (N,), to be fed: from ``factorized_prior.solve_quantiles`` of ``prior``.
      losses: ``Losses``.
      prior: dict of the variables of the prior of z.
      x_hat: the reconstruction, uint8 like ``x``.
    """

    x: Any
    rates: list
    medians: Any
    losses: Losses
    prior: dict
    x_hat: Any


def _averaged(getter, name, *args, **kwargs):
    """Variable getter that gives a weight's moving average where there is one."""
    variable = getter(name, *args, **kwargs)
    average = f"{AVERAGE_SCOPE}/{name}:0"
    return next((v for v in tf.global_variables() if v.name == average), variable)


def build_validation(*, architecture, metric, points, power=0.0):
    """Builds validation as coded, on the current graph's averaged weights if it has them.

    Args:
      architecture: ``Architecture``. metric: "mse" or "ms-ssim".
      points: (lambda, delta) pairs, see ``schedule.validation_points``.
      power: see ``losses.Rate``.
    """
    lmbda = tf.placeholder(tf.float32, (1,), "valid_lmbda")
    delta = tf.placeholder(tf.float32, (1,), "valid_delta")
    fixed = points[0][1] is None
    rate = Rate(lmbda, None if fixed else delta, power)
    rates = [{lmbda: [a]} if fixed else {lmbda: [a], delta: [b]} for a, b in points]
    x = tf.placeholder(tf.uint8, (1, None, None, 3), "valid_x")
    medians = tf.placeholder(tf.float32, (architecture.num_filters,), "medians")
    with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE, custom_getter=_averaged):
        losses, prior, x_hat = rounded_losses(
            tf.cast(x, tf.float32) / PEAK,
            medians,
            architecture=architecture,
            rate=rate,
            metric=metric,
        )
    shown = tf.cast(PEAK * x_hat + 0.5, tf.uint8)
    return ValidationGraph(x, rates, medians, losses, prior, shown)


def validate(session, graph, crops):
    """Codes the validation crops.

    Args:
      session: where the weights are.
      graph: ``ValidationGraph``.
      crops: uint8 (h, w, 3) each, at least one.

    Returns:
      Means over crops and lambdas as a dict of loss, bpp, bpp_y, bpp_z, psnr (dB) and, for the
      metric "ms-ssim", ms_ssim_db; the crops' reconstructions at the middle lambda, uint8.
    """
    prior = session.run(graph.prior)
    medians = factorized_prior.medians_of(factorized_prior.solve_quantiles(prior))
    fetches = [graph.losses.given(), graph.x_hat]
    coded = [
        session.run(fetches, {graph.x: c[None], graph.medians: medians, **rate})
        for rate in graph.rates
        for c in crops
    ]
    losses = [Losses(**values) for values, _ in coded]
    middle = len(graph.rates) // 2 * len(crops)
    loss, bpp_y, bpp_z = np.mean([row[:3] for row in losses], axis=0).tolist()
    means = {"loss": loss, "bpp": bpp_y + bpp_z, "bpp_y": bpp_y, "bpp_z": bpp_z}
    means["psnr"] = float(np.mean([psnr(row.mse) for row in losses]))
    if graph.losses.ms_ssim is not None:
        means["ms_ssim_db"] = float(np.mean([to_db(row.ms_ssim) for row in losses]))
    return means, [x_hat[0] for _, x_hat in coded[middle : middle + len(crops)]]
