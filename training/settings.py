"""The settings of a training run: one table of them, checks, and what a resumed run may change.

The table makes the options of train.py, their help and checks, and the table of docs/training.md:
``python -m training.settings`` prints that.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from architecture import FAMILIES, STRIDE, Architecture
from cli.options import count, not_negative, positive, whole
from errors import GlicError
from pictures import metrics
from rates import Rates, is_range
from training.schedule import LMBDA_FALLS_UNTIL, highest

PRECISIONS = ("bfloat16", "float32")
OPTIMIZERS = ("soap", "adam")
# Peaks by optimiser: from random weights and from a trained model's (models/EXPERIMENTS.md).
LEARNING_RATES = {"soap": 3e-3, "adam": 1.5e-3}
INIT_FROM_RATES = {"soap": 6e-4, "adam": 5e-4}
# Defaults that differ; five scales of MS-SSIM do not fit into the next smaller patch.
BY_METRIC = {"mse": {}, "ms-ssim": {"lmbda": 12.0, "patch": 192}}
WORTH = 1.2  # times float32's speed that makes up for bfloat16's rounding (models/EXPERIMENTS.md)


def _expect(fits, expected, text):
    if not fits:
        raise argparse.ArgumentTypeError(f"{expected} expected, got {text!r}.")


def share(text):
    """Argument type: a float from 0 to below 1."""
    value = not_negative(text)
    _expect(value < 1, "a number from 0 to below 1", text)
    return value


def lambdas(text):
    """Argument type: a float above 0, or a range "LOW:HIGH" of such as a list."""
    if ":" not in text:
        return positive(text)
    ends = [positive(end) for end in text.split(":")]
    _expect(len(ends) == 2 and ends[0] < ends[1], "LOW:HIGH with LOW below HIGH", text)
    return ends


def seed(text):
    """Argument type: an int from 0 that fits 31 bits, as TensorFlow's seeds."""
    value = whole(text)
    _expect(value < 1 << 31, "a whole number from 0 to below 2147483648", text)
    return value


def side(text):
    """Argument type: a positive multiple of 64, the side of a crop."""
    value = count(text)
    _expect(value % STRIDE == 0, f"a positive multiple of {STRIDE}", text)
    return value


def threads(text):
    """Argument type: an int from 0 to 1024; TensorFlow starts as many threads."""
    value = whole(text)
    _expect(value <= 1024, "a whole number from 0 to 1024", text)
    return value


# What a table says of each type.
_WORDS = {
    **{lambdas: "number above 0, or LOW:HIGH"},
    **{positive: "number above 0", not_negative: "number from 0", share: "0 to below 1"},
    **{count: "whole, from 1", whole: "whole, from 0", seed: "whole, from 0", threads: "0 to 1024"},
    **{side: f"multiple of {STRIDE}", str: "text"},
}


class Setting(NamedTuple):
    """A setting, once for all.

    Attributes:
      name: in records and Python; the option is the same with hyphens.
      kind: argument type: from text to a value in range.
      default: None where there is none or it depends on others.
      text: what it is, for --help and the documentation.
      choices: the only values, where there are few.
      otherwise: the default in words, where it depends on others.
    """

    name: str
    kind: Callable
    default: Any
    text: str
    choices: tuple = ()
    otherwise: str = ""

    @property
    def option(self):
        """Of the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def shown_default(self):
        """The default in words; empty where there is none."""
        shown = self.otherwise or ("" if self.default is None else str(self.default))
        others = [f"; {d[self.name]:g} for {m}" for m, d in BY_METRIC.items() if self.name in d]
        return shown + "".join(others)

    def add_to(self, parser, default=None):
        """Adds the option to an ``argparse.ArgumentParser``."""
        note = self.shown_default and f" (default: {self.shown_default})"
        kind = {"choices": self.choices} if self.choices else {"type": self.kind}
        text = (self.text + note).replace("%", "%%")
        parser.add_argument(self.option, default=default, help=text, **kind)

    def check(self, value):
        """Raises GlicError for a value that the command line would not take."""
        try:
            _expect(value is not None or self.default is None, "a value", value)
            if value is not None:
                ends = value if is_range(value) else [value]
                self.kind(":".join(map(str, ends)))
                _expect(not self.choices or value in self.choices, " or ".join(self.choices), value)
        except argparse.ArgumentTypeError as error:
            raise GlicError(f"{self.option}: {error}") from None


def _rates():
    pairs = ((v, k, INIT_FROM_RATES[k]) for k, v in LEARNING_RATES.items())
    return ", ".join(f"{v:g} for {k}, {start:g} with --init-from" for v, k, start in pairs)


SETTINGS = (
    Setting("family", str, "gmm", "network and mixture", FAMILIES),
    Setting("num_filters", count, 64, "channels N, a multiple of 8; time grows with its square"),
    Setting(
        "num_latents",
        count,
        None,
        "channels M of y, a multiple of 8",
        otherwise="N, as in the papers",
    ),
    Setting(
        "lmbda",
        lambdas,
        0.0075,
        "weight of the distortion against bits per pixel; larger means better and bigger; the "
        "papers use 0.0016 to 0.045 for mse (0 to 255 scale), 3 to 120 for ms-ssim; LOW:HIGH "
        "trains one model for all rates between, each crop for a lambda of its own",
    ),
    Setting(
        "lmbda_reference",
        positive,
        None,
        "with a range: the lambda at which the latents are rounded to whole numbers",
        otherwise="that of --init-from where it is a model or run, else the range's middle",
    ),
    Setting(
        "lmbda_power",
        share,
        0.0,
        "with a range: the power of its lambda that each crop's loss is divided by; 0 leaves most "
        "of the gradient to the high rates",
    ),
    Setting(
        "lmbda_start",
        positive,
        None,
        "lambda (of a range its upper end, the others in proportion) at first, from which it falls "
        f"to --lmbda in the first {LMBDA_FALLS_UNTIL:.0%} of "
        "the training; twenty times --lmbda wakes channels of y that stay silent without",
        otherwise="--lmbda",
    ),
    Setting(
        "metric",
        str,
        "mse",
        "distortion that the loss weighs: mean squared error, or 1 - MS-SSIM, which needs "
        "--init-from a model trained for mse",
        ("mse", "ms-ssim"),
    ),
    Setting(
        "steps",
        count,
        None,
        "length in steps; give this or --hours; a resume may extend it",
    ),
    Setting(
        "hours",
        positive,
        None,
        "length in hours of training, all resumed parts together; the schedule follows the clock",
    ),
    Setting("batch", count, 8, "crops in a step"),
    Setting(
        "patch",
        side,
        128,
        "side of the square crops in pixels; the papers use 256; ms-ssim needs the "
        f"{BY_METRIC['ms-ssim']['patch']} that are its default, or more",
    ),
    Setting(
        "final_patch",
        side,
        None,
        "side of the crops in the last fifth of the training, so many fewer in a step that its "
        "pixels stay the same; a resume may change it",
        otherwise="--patch",
    ),
    Setting(
        "synthetic",
        share,
        0.03,
        "share of the crops that are drawn instead of photographed: flat and saturated colours, "
        "gradients, text and line art, which photographs lack; 0 for none",
    ),
    Setting(
        "precision",
        str,
        None,
        "of the convolutions; a resume may change it; a float32 run repeats bit by bit after a "
        "resume",
        PRECISIONS,
        otherwise="bfloat16 where a measurement at the start finds it at least "
        f"{WORTH:g} times as fast as float32",
    ),
    Setting(
        "optimizer",
        str,
        "soap",
        "soap takes fewer steps and more time for each than adam",
        OPTIMIZERS,
    ),
    Setting("learning_rate", positive, None, "peak learning rate", otherwise=_rates()),
    Setting(
        "schedule",
        str,
        "cooldown",
        "learning rate after the warm-up: constant, cosine to 0 at the end, step: a tenth in the "
        "last fifth, or cooldown: falling to 0 in the last fifth",
        ("cosine", "constant", "step", "cooldown"),
    ),
    Setting("warmup", whole, 300, "steps over which the learning rate rises linearly"),
    Setting(
        "clip",
        positive,
        5.0,
        "gradients longer than this many times their running mean are scaled down to it",
    ),
    Setting(
        "average",
        share,
        0.999,
        "decay of the weights' moving averages, which are validated and exported; 0 for none",
    ),
    Setting(
        "quantisation",
        str,
        "noise",
        "noise: all parts see y and z with uniform noise, as in the papers; straight-through: all "
        "see them rounded, with the gradient passed straight through, but for the rates, which "
        "stay those of noisy ones; rounded: the rates, too, are those of y and z as they are "
        "coded, and the analysis transforms stay as they are: the last stage of a training, with "
        "--init-from and large patches",
        ("noise", "straight-through", "rounded"),
    ),
    Setting("seed", seed, 1, "of weights, crops and noise"),
    Setting(
        "init_from",
        str,
        None,
        "start from the weights of a model, by its name or folder, of a run's folder, or of a "
        "checkpoint prefix, where names and shapes agree; a gllmm model that starts from a gmm "
        "one, or a model that starts from one with fewer channels, first makes the same pictures",
    ),
)
# How a run is carried out: not recorded, and each resume may have others.
OPTIONS = (
    Setting("valid_every", count, 2000, "steps between validations; one takes seconds"),
    Setting(
        "save_minutes",
        not_negative,
        10.0,
        "minutes between checkpoints: what a power cut can cost",
    ),
    Setting(
        "cache_mib",
        whole,
        4096,
        "memory for decoded images in MiB; what does not fit is decoded again for every crop",
    ),
    Setting("threads", threads, 0, "threads of TensorFlow; 0 for one for each core"),
)
DEFAULTS = {setting.name: setting.default for setting in SETTINGS}
# Of settings that are younger than some records: what those runs did.
BEFORE = {"synthetic": 0.0}
# What a record says beside the settings: the folders' names, the number of images, a digest of all
# files' names, the seconds that the choice of the precision was made by, and of a run that was
# trained from a bundle (bundle.py) what trained it.
DATA_KEYS = ("data", "images", "valid", "files")
NOTES = (*DATA_KEYS, "precision_seconds", "machine")
LENGTHS = ("steps", "hours")  # a resumed run may have another
CHANGEABLE = (*LENGTHS, "final_patch", "precision")


def refuse_if(condition, message):
    """Raises GlicError with the message if the condition holds."""
    if condition:
        raise GlicError(message)


def complete(recorded):
    """A run's record with a value for each setting that is younger than the record."""
    return {**DEFAULTS, **BEFORE, **dict.fromkeys(NOTES), **recorded}


def resolve(given, recorded):
    """Merges defaults, a run's record and what the user gave.

    Args:
      given: dict of settings; None where not given.
      recorded: dict from the run's settings.json, or None for a new run.

    Returns:
      Complete dict with the keys of ``DEFAULTS`` and ``NOTES``.

    Raises:
      GlicError: a setting that is unknown, out of range or differs from the record.
    """
    given = {key: value for key, value in given.items() if value is not None}
    defaults = {**DEFAULTS, **dict.fromkeys(NOTES), **BY_METRIC.get(given.get("metric"), {})}
    unknown = sorted(set(recorded or {}) - set(defaults))
    refuse_if(unknown, f"The run's settings.json has unknown settings: {', '.join(unknown)}.")
    settings = complete(recorded) if recorded else defaults
    for key, value in given.items():
        refuse_if(
            recorded and key not in CHANGEABLE and settings[key] != value,
            f"This run was started with {key} {settings[key]}, not {value}; leave the option out, "
            "or choose another --name.",
        )
    if any(key in given for key in LENGTHS):
        settings.update(dict.fromkeys(LENGTHS))
    settings.update(given)
    for setting in SETTINGS:
        setting.check(settings[setting.name])
    if is_range(settings["lmbda"]) and settings["lmbda_reference"] is None:
        low, high = settings["lmbda"]
        settings["lmbda_reference"] = (low * high) ** 0.5
    if settings["learning_rate"] is None:
        rates = LEARNING_RATES if settings["init_from"] is None else INIT_FROM_RATES
        settings["learning_rate"] = rates[settings["optimizer"]]
    _check_together(settings)
    return settings


def _check_together(settings):
    """Raises GlicError for settings that do not go together."""
    Architecture.of(settings)  # raises
    refuse_if(
        sum(settings[key] is not None for key in LENGTHS) != 1,
        "Give the length of the training, either --steps or --hours.",
    )
    start, lmbda = settings["lmbda_start"], highest(settings["lmbda"])
    if Rates.of(settings) is None:  # raises
        for key in ("lmbda_reference", "lmbda_power"):
            option = "--" + key.replace("_", "-")
            refuse_if(settings[key], f"{option} belongs to a range of lambdas: --lmbda LOW:HIGH.")
    refuse_if(
        start is not None and start <= lmbda,
        f"A --lmbda-start above --lmbda {lmbda} expected, from which it falls, got {start}.",
    )
    patch, final = settings["patch"], settings["final_patch"]
    refuse_if(
        final is not None and final < patch,
        f"A --final-patch from --patch {patch} up expected, got {final}.",
    )
    refuse_if(
        settings["quantisation"] == "rounded" and settings["init_from"] is None,
        "Rounded latents do not train the analysis: give a trained model with --init-from.",
    )
    if settings["metric"] == "ms-ssim":
        refuse_if(
            patch < metrics.MS_SSIM_MIN_SIDE,
            f"MS-SSIM has five scales and needs a --patch of {metrics.MS_SSIM_MIN_SIDE} pixels or "
            f"more, got {patch}: give --patch {BY_METRIC['ms-ssim']['patch']} or leave the option "
            "out.",
        )
        refuse_if(
            settings["init_from"] is None,
            "MS-SSIM runs start from an MSE model: give one with --init-from.",
        )


def changed_data(recorded, data):
    """A line that says that a resumed run goes on with other images, None where it does not.

    Args:
      recorded: the run's record, None for a new run.
      data: dict of ``DATA_KEYS``.
    """
    before = {key: (recorded or {}).get(key) for key in DATA_KEYS}  # None: not recorded
    changed = [key for key in DATA_KEYS if before[key] not in (None, data[key])]
    if not changed:
        return None
    were = ", ".join(f"{key} {before[key]}" for key in changed)
    now = ", ".join(str(data[key]) for key in changed)
    return (
        f"Other photographs than at the last start ({were}; now {now}): the run goes on, but not "
        "bit by bit as it would have, and its validation losses may not compare with those before."
    )


def markdown_table():
    """The settings and options as the table of docs/training.md."""
    lines = ["| option | values | default | meaning |", "| --- | --- | --- | --- |"]
    for setting in (*SETTINGS, *OPTIONS):
        values = ", ".join(f"`{c}`" for c in setting.choices) or _WORDS[setting.kind]
        cells = (f"`{setting.option}`", values, setting.shown_default or "none", setting.text)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown_table())
