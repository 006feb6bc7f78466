"""What changes in the course of a training: learning rate, lambdas, the size of the crops."""

from __future__ import annotations

import math

import numpy as np

from rates import Rates, is_range

LMBDA_FALLS_UNTIL = 0.3  # share of the training in which lmbda falls from lmbda_start
LAST_FROM = 0.8  # share of the training after which crops grow and the learning rate falls
STEP_FACTOR = 0.1  # of the step schedule in the last fifth


def fraction_done(settings, step, seconds):
    """Share of the training that is done after so many steps and seconds."""
    if settings["steps"] is not None:
        return step / settings["steps"]
    return seconds / (3600 * settings["hours"])


def highest(lmbda):
    """The setting ``lmbda``, or the upper end where it is a range."""
    return lmbda[1] if is_range(lmbda) else lmbda


def lmbda_factor(settings, fraction):
    """What lambda is multiplied with after this share of the training.

    From ``lmbda_start``, where it is given, lambda (the upper end of a range) falls exponentially
    to its value. A channel of y costs bits before the synthesis knows what to do with it; while
    distortion is nearly all that counts it gets the time to become useful (models/EXPERIMENTS.md,
    Latents).
    """
    end = highest(settings["lmbda"])
    start = settings["lmbda_start"] or end
    return (start / end) ** max(0.0, 1 - fraction / LMBDA_FALLS_UNTIL)


def lambdas_of(settings, step):
    """The lambdas of a step's crops, float64 (batch,), and their quantisation steps (1 for one).

    In a range they are log-uniform, one in each of as many equal parts of it, in random order that
    depends on the seed and the step alone.
    """
    batch, rates = settings["batch"], Rates.of(settings)
    if rates is None:
        return np.full(batch, settings["lmbda"]), np.ones(batch)
    random = np.random.default_rng((settings["seed"], 3, step))
    quality = 100 * (random.permutation(batch) + random.random(batch)) / batch
    lambdas = rates.lmbda_at(quality)
    return lambdas, rates.delta(lambdas)


def validation_points(settings):
    """(lambda, delta) pairs that validation codes at: the ends of a range and its middle."""
    rates = Rates.of(settings)
    if rates is None:
        return [(settings["lmbda"], None)]
    lambdas = [rates.lmbda_at(quality) for quality in (0, 50, 100)]
    return [(lmbda, rates.delta(lmbda)) for lmbda in lambdas]


def stages(settings):
    """The parts of a training with crops of one size.

    Returns:
      List of (share of the training at which the part ends, settings of the part). In the last
      fifth crops may be larger, and so many fewer in a step that its pixels stay about the same.
    """
    patch, final, batch = (settings[key] for key in ("patch", "final_patch", "batch"))
    if final in (None, patch):
        return [(1.0, settings)]
    fewer = max(1, round(batch * patch**2 / final**2))
    return [(LAST_FROM, settings), (1.0, {**settings, "patch": final, "batch": fewer})]


def learning_rate_factor(name, fraction, step, warmup):
    """Factor on the peak learning rate.

    Args:
      name: "constant", "cosine" (falls to 0), "step" (a tenth in the last fifth, as in the papers)
        or "cooldown" (falls to 0 in the last fifth by 1 - sqrt: Haegele et al., NeurIPS 2024,
        arXiv 2405.18392, section 3).
      fraction: share of the training that is done, 0 to 1.
      step: steps done.
      warmup: steps of the linear rise.
    """
    rise = min(1.0, (step + 1) / max(warmup, 1))
    if name == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
    if name == "constant" or fraction < LAST_FROM:
        return rise
    if name == "step":
        return rise * STEP_FACTOR
    return rise * (1 - math.sqrt(min(1.0, (fraction - LAST_FROM) / (1 - LAST_FROM))))
