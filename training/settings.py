"""The settings of a training run: defaults, checks, and what a resumed run may change."""

from __future__ import annotations

from architecture import STRIDE, Architecture
from errors import GlicError
from pictures import metrics

# Peaks by optimiser: from random weights and from a trained model's (models/EXPERIMENTS.md).
LEARNING_RATES = {"soap": 3e-3, "adam": 1.5e-3}
INIT_FROM_RATES = {"soap": 6e-4, "adam": 5e-4}
DEFAULTS = {
    "family": "gmm",
    "num_filters": 64,
    "num_latents": None,  # num_filters, as in the papers
    "lmbda": 0.0075,
    "lmbda_start": None,  # lmbda throughout
    "metric": "mse",
    "batch": 8,
    "patch": 128,
    "final_patch": None,
    "precision": None,  # the faster one here: training_precision.py
    "optimizer": "soap",
    "learning_rate": None,  # LEARNING_RATES, INIT_FROM_RATES
    "schedule": "cooldown",
    "warmup": 300,
    "clip": 5.0,
    "average": 0.999,
    "quantisation": "noise",
    "seed": 1,
    "init_from": None,
    "steps": None,
    "hours": None,
}
# Defaults that differ; five scales of MS-SSIM do not fit into the next smaller patch.
BY_METRIC = {"mse": {}, "ms-ssim": {"lmbda": 12.0, "patch": 192}}
DATA_KEYS = ("data", "images", "valid")  # what a record says about the data
EXTENDABLE = ("steps", "hours")  # the length; a resumed run may change it
CHANGEABLE = (*EXTENDABLE, "final_patch", "precision")
LMBDA_FALLS_UNTIL = 0.3  # share of the training in which lmbda falls from lmbda_start
LAST_FROM = 0.8  # share of the training after which crops grow and the learning rate falls


def fail_if(condition, message):
    """Raises GlicError with the message if the condition holds."""
    if condition:
        raise GlicError(message)


def complete(recorded):
    """A run's record with the default of each setting that is younger than the record."""
    return {**DEFAULTS, **dict.fromkeys(DATA_KEYS), **recorded}


def resolve_settings(given, recorded):
    """Merges defaults, a run's record and what the user gave.

    Args:
      given: dict of settings; None where not given.
      recorded: dict from the run's settings.json, or None for a new run.

    Returns:
      Complete dict with the keys of ``DEFAULTS`` and ``DATA_KEYS``.

    Raises:
      GlicError: a setting that is unknown, out of range or differs from the record.
    """
    given = {key: value for key, value in given.items() if value is not None}
    known = complete(BY_METRIC.get(given.get("metric"), {}))
    unknown = sorted(set(recorded or {}) - set(known))
    fail_if(unknown, f"The run's settings.json has unknown settings: {', '.join(unknown)}.")
    settings = complete(recorded) if recorded else known
    for key, value in given.items():
        if recorded and key not in CHANGEABLE and settings[key] != value:
            raise GlicError(
                f"This run was started with {key} {settings[key]}, not {value}; leave the option "
                "out, or choose another --name."
            )
    if any(key in given for key in EXTENDABLE):
        settings.update(dict.fromkeys(EXTENDABLE))
    settings.update(given)
    if settings["learning_rate"] is None:
        rates = LEARNING_RATES if settings["init_from"] is None else INIT_FROM_RATES
        settings["learning_rate"] = rates[settings["optimizer"]]
    check_settings(settings)
    return settings


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


def check_settings(settings):
    """Raises GlicError with a sentence for a setting out of its range."""
    Architecture.of(settings)  # raises
    lengths = [settings[key] for key in EXTENDABLE if settings[key] is not None]
    fail_if(len(lengths) != 1, "Give the length of the training, either --steps or --hours.")
    fail_if(lengths[0] <= 0, f"A positive --steps or --hours expected, got {lengths[0]}.")
    for key in ("lmbda", "batch", "learning_rate", "clip"):
        fail_if(not settings[key] > 0, f"A positive {key} expected, got {settings[key]}.")
    start, lmbda = settings["lmbda_start"], settings["lmbda"]
    fail_if(
        start is not None and not start > lmbda,
        f"A --lmbda-start above --lmbda {lmbda} expected, from which it falls, got {start}.",
    )
    average = settings["average"]
    fail_if(not 0 <= average < 1, f"An --average from 0 to below 1 expected, got {average}.")
    for key in ("warmup", "seed"):
        fail_if(settings[key] < 0, f"A {key} of 0 or more expected, got {settings[key]}.")
    patch, final = settings["patch"], settings["final_patch"]
    fail_if(
        patch <= 0 or patch % STRIDE,
        f"A --patch that is a positive multiple of {STRIDE} expected, got {patch}.",
    )
    fail_if(
        final is not None and (final < patch or final % STRIDE),
        f"A --final-patch that is a multiple of {STRIDE} from --patch {patch} up expected, "
        f"got {final}.",
    )
    fail_if(
        settings["quantisation"] == "rounded" and settings["init_from"] is None,
        "Rounded latents do not train the analysis: give a trained model with --init-from.",
    )
    if settings["metric"] == "ms-ssim":
        check_ms_ssim(settings)


def check_ms_ssim(settings):
    """Raises GlicError for a run that MS-SSIM cannot train."""
    least, patch = metrics.MS_SSIM_MIN_SIDE, settings["patch"]
    fail_if(
        patch < least,
        f"MS-SSIM has five scales and needs a --patch of {least} pixels or more, got {patch}: "
        f"give --patch {BY_METRIC['ms-ssim']['patch']} or leave the option out.",
    )
    fail_if(
        settings["init_from"] is None,
        "MS-SSIM runs start from an MSE model: give one with --init-from.",
    )
