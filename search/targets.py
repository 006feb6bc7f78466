"""Choosing a model for each image: encoder.py --target-bpp and --target-psnr.

Models trained with a larger lambda make larger files of better quality, on most images. A bisection
over the candidates' lambdas therefore finds with few of them tried what trying all would find.

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

from coding.latents import LatentError
from errors import GlicError
from pictures import metrics
from search.interruption import SearchInterrupted

# Memory that a loaded codec keeps, as a multiple of its checkpoint's bytes: 3.7 measured with 64
# latents, 3.1 with 192.
CODEC_COPIES = 4


class TargetError(GlicError):
    """A target that no candidate meets, or candidates between which nothing can be chosen."""


class Target(NamedTuple):
    """What a file must meet.

    kind: "bpp", a limit on the whole file's bits per pixel, or "psnr", the least dB of what the
    decoder restores. value: the number.
    """

    kind: str
    value: float

    def __str__(self):
        if self.kind == "bpp":
            return f"at most {self.value:g} bpp"
        return f"at least {self.value:g} dB PSNR"


class Candidate(NamedTuple):
    """A model folder to choose from: its path, lambda, bytes of its weights, what it is for."""

    folder: Path
    lmbda: float
    size: int
    metric: str = "mse"


class Attempt(NamedTuple):
    """One candidate's file of an image: its name, bpp, PSNR in dB (None where not asked for)."""

    name: str
    bpp: float
    psnr: float | None


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
        Candidate(f, _lmbda(c), _bytes_of(f), c.get("metric", "mse")) for f, c in configs.items()
    ]
    return sorted(found, key=lambda c: (c.lmbda, c.folder.name))


def _lmbda(config):
    """A configuration's lambda, or None where it has none that could be."""
    value = config.get("lmbda")
    usable = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if usable and 0 < value < math.inf else None


def _bytes_of(folder):
    from coding import models

    return sum(p.stat().st_size for p in folder.glob(f"{models.CHECKPOINT_PREFIX}.data-*"))


def memory_left(budget, chosen_from, candidate):
    """What a candidate's codec may take of a process's budget when all are loaded, in bytes."""
    others = sum(c.size for c in chosen_from) - candidate.size
    return budget - int(CODEC_COPIES * others)


def _restored(coded):
    """``Coded`` with the decoded pixels."""
    if coded.restored is not None:
        return coded
    return coded._replace(restored=coded.codec.synthesise(coded.latents))


class Chooser:
    """Codes each image with the candidate that suits a target.

    Args:
      target: ``Target``.
      chosen_from: list of ``Candidate``, from ``candidates``.
      load: maps a ``Candidate`` to a function of (path, pixels) that returns an encoder's
        ``Coded``; called when a candidate is first tried, and its result is kept.
    """

    def __init__(self, target, chosen_from, load):
        self.target = target
        self._load, self._coders = load, {}
        self._steps = []  # candidates of one lambda, by rising lambda
        for candidate in chosen_from:
            if not self._steps or self._steps[-1][0].lmbda != candidate.lmbda:
                self._steps.append([])
            self._steps[-1].append(candidate)

    def __str__(self):
        names = ", ".join(c.folder.name for step in self._steps for c in step)
        return f"{names}: {self.target}"

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
            if met == (self.target.kind == "bpp"):
                low = middle + 1
            else:
                high = middle
        while True:
            near = untried
            if search.best is not None:
                near = [step for step in untried if abs(step - search.best_step) == 1]
            if not near:
                break
            self._try(search, near[0], untried)
        if search.best is None:
            raise search.refusal()
        return search.best

    def _try(self, search, step, untried):
        """Tries all candidates of a step; returns whether one meets the target."""
        untried.remove(step)
        for candidate in self._steps[step]:
            if candidate not in self._coders:
                self._coders[candidate] = self._load(candidate)
        # A list: each candidate counts, not only the first that meets the target.
        return any([search.attempt(step, c, self._coders[c]) for c in self._steps[step]])


class _Search:
    """What was tried for one image. Only the best file so far is kept, for large images."""

    def __init__(self, target, path, pixels):
        self._target, self._path, self._pixels = target, path, pixels
        self._attempts, self._failure = [], None
        self._best_attempt = self._best_quality = None
        self.best = self.best_step = None

    def attempt(self, step, candidate, code):
        """Codes the image with one candidate; returns whether its file meets the target."""
        psnr = None
        try:
            coded = code(self._path, self._pixels)
            if self._target.kind == "psnr":
                coded = _restored(coded)
                psnr = metrics.psnr(self._pixels, coded.restored)
        except SearchInterrupted:  # its file is one of several: none is the best yet
            raise KeyboardInterrupt from None
        except LatentError as error:  # of this candidate: another may code the image
            self._failure = error
            return False
        bpp = 8 * len(coded.data) / (coded.latents.height * coded.latents.width)
        met = bpp <= self._target.value if psnr is None else psnr >= self._target.value
        attempt = Attempt(candidate.folder.name, bpp, psnr)
        self._attempts.append(attempt)
        if met:
            self._keep_if_better(step, candidate, coded, attempt)
        return met

    def _keep_if_better(self, step, candidate, coded, attempt):
        if self.best is not None:
            if self._target.kind == "psnr":
                if attempt.bpp >= self._best_attempt.bpp:
                    return
            else:  # only here is quality known to be needed: it costs a pass of the synthesis
                coded = _restored(coded)
                if self._best_quality is None:
                    self.best = _restored(self.best)
                    self._best_quality = self._quality(candidate, self.best)
                quality = self._quality(candidate, coded)
                if quality <= self._best_quality:
                    return
                self._best_quality = quality
        self.best, self.best_step, self._best_attempt = coded, step, attempt

    def _quality(self, candidate, coded):
        """By the metric that the candidates were trained for; the smaller file if that is equal."""
        value = None
        if candidate.metric == "ms-ssim":
            value = metrics.ms_ssim(self._pixels, coded.restored)
        if value is None:
            value = metrics.psnr(self._pixels, coded.restored)
        return value, -len(coded.data)

    def refusal(self):
        """The ``TargetError`` of an image for which every candidate failed."""
        # Rounded so that the figure as printed can be met.
        if not self._attempts:
            return self._failure
        if self._target.kind == "bpp":
            nearest = min(self._attempts, key=lambda a: a.bpp)
            value = f"the smallest has {math.ceil(nearest.bpp * 1e4) / 1e4:.4f} bpp"
        else:
            nearest = max(self._attempts, key=lambda a: a.psnr)
            value = f"the best has {math.floor(nearest.psnr * 1e3) / 1e3:.3f} dB"
        return TargetError(f"no model makes a file of {self._target}: {value} ({nearest.name})")
