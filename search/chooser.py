"""Choosing a model and its rate for each image: encoder.py --target-bpp and its like.

A model of many rates is tried once, at the step that meets the target (steps.py). Among models of
one rate, those trained with a larger lambda make larger files of better quality, on most images. A
bisection over their lambdas therefore finds with few of them tried what trying all would find.

On some images, flat ones above all, sizes and PSNR do not rise with lambda. So the neighbours of
what was found are tried, too, and from a better one of these the next, until none is better. A file
that is chosen always meets the target, by its real bytes or its decoded 8-bit pixels, and an image
is refused only after every candidate was tried. Candidates of one lambda are always tried together,
since nothing is known of their order.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from architecture import Architecture
from coding.latents import LatentError
from pictures import metrics
from rates import Rates
from search import steps
from search.interruption import SearchInterrupted
from search.targets import TargetError
from variables import inference_variables

# Memory that a loaded codec keeps, as a multiple of its weights in float32: 3.7 measured with 64
# latents, 3.1 with 192.
CODEC_COPIES = 4


class Candidate(NamedTuple):
    """A model folder to choose from.

    folder: its path. lmbda: the one that it was trained with, or the reference of one of many
    rates. size: bytes of its weights in float32, as they are loaded. metric: that it was trained
    for. many: whether it serves many rates.
    """

    folder: Path
    lmbda: float
    size: int
    metric: str = "mse"
    many: bool = False


class Attempt(NamedTuple):
    """What a candidate made of an image: its name, and the rate or PSNR of the file."""

    name: str
    value: float


def candidates(names=None, models_dir=None):
    """The models to choose from, by rising lambda.

    Args:
      names: folders in ``models_dir`` or paths of such, trained for one metric; None takes all
        folders of ``models_dir`` that were trained for MSE.
      models_dir: where models lie; None stands for ``models.MODELS_DIR``.

    Returns:
      List of ``Candidate``.

    Raises:
      models.ModelError: for a model that is missing or damaged.
      TargetError: for models that cannot be ordered, and where there is none.
    """
    from coding import models

    models_dir = models_dir or models.MODELS_DIR
    folders = [models.folder_of(n, models_dir) for n in names or models.available(models_dir)]
    if len({folder.name for folder in folders}) < len(folders):
        raise TargetError(
            f"Models of different names expected, got {', '.join(map(str, folders))}."
        )
    configs = {folder: models.read_config(folder) for folder in folders}
    if names is None:
        configs = {f: c for f, c in configs.items() if c.get("metric") == "mse" and _lmbda(c)}
        if not configs:
            raise TargetError(
                f"No model in {models_dir} was trained for MSE: name some by --model."
            )
    for folder, config in configs.items():
        if not _lmbda(config):
            raise TargetError(
                f"Model {folder.name} cannot be chosen by a target: its {models.CONFIG_NAME} does "
                "not state the lambda it was trained with."
            )
    trained_for = sorted({str(config.get("metric", "mse")) for config in configs.values()})
    if len(trained_for) > 1:
        raise TargetError(
            "Models trained for one metric expected, as their lambdas order them, got "
            f"{' and '.join(trained_for)}."
        )
    found = [
        Candidate(f, _lmbda(c), _bytes_of(c), c.get("metric", "mse"), Rates.of(c) is not None)
        for f, c in configs.items()
    ]
    return sorted(found, key=lambda c: (c.lmbda, c.folder.name))


def _lmbda(config):
    """A configuration's lambda, or that of reference; None where it has none that could be."""
    rates = Rates.of(config)
    value = rates.reference if rates else config.get("lmbda")
    usable = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if usable and 0 < value < math.inf else None


def _bytes_of(config):
    shapes = (shape for shape, _ in inference_variables(Architecture.of(config)).values())
    return 4 * sum(math.prod(shape) for shape in shapes if None not in shape)


def memory_left(budget, chosen_from, candidate):
    """What a candidate's codec may take of a process's budget when all are loaded, in bytes."""
    others = sum(c.size for c in chosen_from) - candidate.size
    return budget - int(CODEC_COPIES * others)


class Chooser:
    """Codes each image with the candidate that suits a target.

    Args:
      target: ``targets.Target``.
      chosen_from: list of ``Candidate``, from ``candidates``.
      load: maps a ``Candidate`` to what codes images with it: a function of (path, pixels) that
        returns ``coded.Coded``, or for one of many rates what ``steps.fit_image`` takes. Called
        when a candidate is first tried, and its result is kept.
    """

    def __init__(self, target, chosen_from, load):
        self.target = target
        self._load, self._coders = load, {}
        self._names = [c.folder.name for c in chosen_from]
        self._many = [c for c in chosen_from if c.many]
        self._steps = []  # candidates of one rate and lambda, by rising lambda
        for candidate in chosen_from:
            if candidate.many:
                continue
            if not self._steps or self._steps[-1][0].lmbda != candidate.lmbda:
                self._steps.append([])
            self._steps[-1].append(candidate)

    def __str__(self):
        return f"{', '.join(self._names)}: {self.target}"

    def __call__(self, path, pixels):
        """The chosen candidate's ``Coded`` of an image.

        Of the files tried that meet the target it is, for a rate, that of the best quality, for a
        PSNR the smallest.

        Args:
          path: of the image, for a progress bar.
          pixels: uint8 (H, W, 3), or grey (H, W).

        Raises:
          TargetError: where no candidate meets the target; it states the nearest value.
          KeyboardInterrupt: where Ctrl-C ended the search for better latents of one.
        """
        search = _Search(self.target, path, pixels)
        low, high = 0, len(self._steps)
        untried = list(range(high))
        while low < high:
            middle = (low + high) // 2
            met = self._try(search, middle, untried)
            # The best rate is the last that is within the limit, the best quality the first.
            if met == self.target.is_rate:
                low = middle + 1
            else:
                high = middle
        self._try_beside(search, untried)
        for candidate in self._many:
            search.fit(candidate, self._coder(candidate))
        while untried and search.best is None:
            self._try(search, untried[0], untried)
            self._try_beside(search, untried)
        if search.best is None:
            raise search.refusal()
        return search.best

    def _try_beside(self, search, untried):
        """Tries the neighbours of the best step, and of a better one of these, until none is."""
        while near := [step for step in untried if search.is_beside(step)]:
            self._try(search, near[0], untried)

    def _coder(self, candidate):
        if candidate not in self._coders:
            self._coders[candidate] = self._load(candidate)
        return self._coders[candidate]

    def _try(self, search, step, untried):
        """Tries all candidates of a step; returns whether one meets the target."""
        untried.remove(step)
        coders = [(c, self._coder(c)) for c in self._steps[step]]
        # A list: each candidate counts, not only the first that meets the target.
        return any([search.attempt(step, *coder) for coder in coders])


class _Search:
    """What was tried for one image. Only the best file so far is kept, for large images."""

    def __init__(self, target, path, pixels):
        self._target, self._path, self._pixels = target, path, pixels
        self._attempts, self._failure = [], None
        self._best_quality = self._best_step = None
        self.best = None

    def is_beside(self, step):
        """Whether a step is a neighbour of the best one of candidates of one rate."""
        return self._best_step is not None and abs(step - self._best_step) == 1

    def attempt(self, step, candidate, code):
        """Codes the image with one candidate of one rate; returns whether it meets the target."""

        def made():
            coded = code(self._path, self._pixels)
            if self._target.is_rate:
                value = self._target.rate_of(len(coded.data), *self._pixels.shape[:2])
            else:
                coded = coded.with_restored()
                value = metrics.psnr(self._pixels, coded.restored)
            return (coded if self._target.met(value) else None), [value]

        return self._keep(step, candidate, made)

    def fit(self, candidate, coder):
        """Codes the image with one candidate of many rates, at the one that meets the target."""
        self._keep(
            None,
            candidate,
            lambda: steps.fit_image(self._target, coder, self._path, self._pixels),
        )

    def _keep(self, step, candidate, make):
        """Keeps what ``make()`` gives if it is better; returns whether it meets the target.

        That is ``Coded``, or None where no file meets the target, and the rates or PSNRs of all.
        """
        try:
            coded, values = make()
        except SearchInterrupted:  # its file is one of several: none is the best yet
            raise KeyboardInterrupt from None
        except LatentError as error:  # of this candidate: another may code the image
            self._failure = error
            return False
        self._attempts += [Attempt(candidate.folder.name, value) for value in values]
        if coded is not None:
            self._keep_if_better(step, candidate, coded)
        return coded is not None

    def _keep_if_better(self, step, candidate, coded):
        if self.best is not None:
            if not self._target.is_rate:
                if len(coded.data) >= len(self.best.data):
                    return
            else:  # only here is quality known to be needed: it costs a pass of the synthesis
                coded = coded.with_restored()
                if self._best_quality is None:
                    self.best = self.best.with_restored()
                    self._best_quality = self._quality(candidate, self.best)
                quality = self._quality(candidate, coded)
                if quality <= self._best_quality:
                    return
                self._best_quality = quality
        self.best = coded
        if step is not None:
            self._best_step = step

    def _quality(self, candidate, coded):
        """By the metric that the candidates were trained for; the smaller file if that is equal."""
        value = None
        if candidate.metric == "ms-ssim":
            value = metrics.ms_ssim(self._pixels, coded.restored)
        if value is None:
            value = metrics.psnr(self._pixels, coded.restored)
        return value, -len(coded.data)

    def refusal(self):
        """The exception of an image for which every candidate failed."""
        if not self._attempts:
            return self._failure
        order = min if self._target.is_rate else max
        nearest = order(self._attempts, key=lambda a: a.value)
        phrase = self._target.nearest(nearest.value)
        return TargetError(f"no model makes a file of {self._target}: {phrase} ({nearest.name})")
