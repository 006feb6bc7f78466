"""What changes in the course of a training: learning rate, lambda, the size of the crops."""

from __future__ import annotations

import math

LMBDA_FALLS_UNTIL = 0.3  # share of the training in which lmbda falls from lmbda_start
LAST_FROM = 0.8  # share of the training after which crops grow and the learning rate falls
STEP_FACTOR = 0.1  # of the step schedule in the last fifth


def fraction_done(settings, step, seconds):
    """Share of the training that is done after so many steps and seconds."""
    if settings["steps"] is not None:
        return step / settings["steps"]
    return seconds / (3600 * settings["hours"])


def lmbda_at(settings, fraction):
    """The weight of the distortion after this share of the training.

    From ``lmbda_start``, where it is given, it falls exponentially to ``lmbda``. A channel of y
    costs bits before the synthesis knows what to do with it; while distortion is nearly all that
    counts it gets the time to become useful (models/EXPERIMENTS.md, Latents).
    """
    start, end = settings["lmbda_start"] or settings["lmbda"], settings["lmbda"]
    return end * (start / end) ** max(0.0, 1 - fraction / LMBDA_FALLS_UNTIL)


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
