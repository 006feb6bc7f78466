"""The quantisation step of y with which one image meets a target, for a model of many rates.

A coarser step makes a smaller file of lower PSNR, on most images, and the logarithm of the size and
the PSNR are nearly straight lines over the logarithm of the step. So the next step to try is where
the line through two that were tried meets the target, and only where that does not lead there a
bisection goes on. What a step costs is quantising and the entropy coding, or for a PSNR the
synthesis: the analysis runs once.

On some images, flat ones above all, sizes and PSNR jump or do not fall. A step that is chosen still
meets the target, and an image is refused only after the end of the range was tried, and steps all
over it where the values found do not fall.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pictures import metrics
from rates import DEFAULT_QUALITY
from search.coded import Coded

EVALUATIONS = 10  # steps tried for an image, at most
REFINEMENTS = 3  # of these with --effort, at most, after the plain search
INTERPOLATIONS = 6  # evaluations until which lines are followed; then the search bisects
EXTRAPOLATIONS = 4  # evaluations without one on the other side until the end of the range is tried
# A target may take lambdas of this factor beyond the model's range. gmm-v2 takes up
# to a sixth more bits there than at the ends, at equal PSNR, with AVIF's as the measure.
BEYOND = 2.0
# Of the offset (``Target.offset``) over log k: its slope in the middle of a model's range, before
# two steps were tried, and its curvature. Measured on photographs.
RATE_SLOPE, PSNR_SLOPE = -0.85, -3.3
RATE_CURVATURE, PSNR_CURVATURE = -0.35, -2.3
SLOPE_LIMIT = 4  # a slope found is taken for at most this times or a part of these
SLOPE_BASE = 0.05  # of log k, between two steps whose slope is more than chance


def k_range(rates):
    """The finest and the coarsest k that a target may take, of ``rates.Rates``."""
    return rates.k_of(BEYOND * rates.high), rates.k_of(rates.low / BEYOND)


class Fit(NamedTuple):
    """What a search over k found.

    k: the best step that meets the target, None where none does. tried: dict of each k that was
    tried to its rate or PSNR.
    """

    k: int | None
    tried: dict


class _Steps:
    """Steps that were tried, and which is next."""

    def __init__(self, target, ends, slope):
        self._target, self._ends = target, ends
        self._typical = RATE_SLOPE if target.is_rate else PSNR_SLOPE
        self._curvature = RATE_CURVATURE if target.is_rate else PSNR_CURVATURE
        self._slope = slope or self._typical
        self.tried = {}

    @property
    def best(self):
        """The finest step that meets a rate, or the coarsest that meets a PSNR; or None."""
        met = [k for k, value in self.tried.items() if self._target.met(value)]
        return (min if self._target.is_rate else max)(met, default=None)

    def next(self):
        """The k to try next; None where the search is over."""
        is_rate, best = self._target.is_rate, self.best
        if best is None:
            # Towards smaller files for a rate, or towards better quality.
            nearest, end = (max if is_rate else min)(self.tried), self._ends[is_rate]
            if nearest != end:
                return self._outwards(nearest, end)
            return None if self._falls() else self._gap()
        if self._target.near(self.tried[best]):
            return None
        better = [k for k in self.tried if (k < best if is_rate else k > best)]
        if better:
            return self._between(best, (max if is_rate else min)(better))
        end = self._ends[not is_rate]
        return None if best == end else self._outwards(best, end)

    def _falls(self):
        values = [value for _, value in sorted(self.tried.items())]
        return all(a >= b for a, b in zip(values, values[1:]))

    def _gap(self):
        """The end that was not tried, or the middle of the widest gap between two steps."""
        known = sorted(self.tried)
        for end in self._ends:
            if end not in known:
                return end
        low, high = max(zip(known, known[1:]), key=lambda pair: pair[1] / pair[0])
        return _middle(low, high) if high - low > 1 else None

    def slope_at(self, k):
        """Of the offset over log k, through two steps tried that are near k, and well apart."""
        near = sorted(self.tried, key=lambda other: abs(math.log(other / k)))
        apart = [other for other in near if abs(math.log(other / near[0])) > SLOPE_BASE]
        if not apart:
            return self._slope
        a, b = (self._target.offset(self.tried[other]) for other in (near[0], apart[0]))
        distance = math.log(near[0] / apart[0])
        slope = (a - b) / distance + self._curvature * distance / 2
        if not math.isfinite(slope):
            return self._slope
        return min(max(slope, SLOPE_LIMIT * self._typical), self._typical / SLOPE_LIMIT)

    def _outwards(self, k, end):
        """From k, the last in this direction, towards an end of the range, along a parabola."""
        offset, slope = self._target.offset(self.tried[k]), self.slope_at(k)
        squared = slope**2 - 2 * self._curvature * offset
        if len(self.tried) >= EXTRAPOLATIONS or not 0 <= squared < math.inf:
            return end
        change = -2 * offset / (slope - math.sqrt(squared))
        guess = round(k * math.exp(min(max(change, -9), 9)))
        return min(max(guess, k + 1), end) if end > k else max(min(guess, k - 1), end)

    def _between(self, a, b):
        """Between two steps of which one meets the target; None where there is none."""
        low, high = sorted((a, b))
        if high - low == 1:
            return None
        above, below = (self._target.offset(self.tried[k]) for k in (low, high))
        if len(self.tried) >= INTERPOLATIONS or not -math.inf < below < above < math.inf:
            return _middle(low, high)
        share = above / (above - below)
        width = math.log(high / low)
        # Of the parabola above the chord, at ``share``: by how much it moves the root.
        bend = self._curvature_of(low, high) * share * (1 - share) * width**2 / 2
        share += bend / (below - above)
        return min(max(round(low * math.exp(share * width)), low + 1), high - 1)

    def _curvature_of(self, low, high):
        """Through two steps and the nearest other that was tried."""
        others = sorted(set(self.tried) - {low, high}, key=lambda k: abs(math.log(k / low)))
        if not others:
            return self._curvature
        x, y, z = (math.log(k) for k in (low, high, others[0]))
        a, b, c = (self._target.offset(self.tried[k]) for k in (low, high, others[0]))
        bend = 2 * ((c - b) / (z - y) - (b - a) / (y - x)) / (z - x)
        return min(max(bend, SLOPE_LIMIT * self._curvature), 0) if math.isfinite(bend) else 0


def _middle(low, high):
    """The geometric mean of two steps that are no neighbours, between them."""
    return min(max(round(math.sqrt(low * high)), low + 1), high - 1)


def fit(target, value_at, ends, first, slope=None, evaluations=EVALUATIONS):
    """The step whose file just meets a target.

    Args:
      target: ``targets.Target``.
      value_at: a function of k that returns the rate of the file, see ``Target.rate_of``, or its
        PSNR in dB.
      ends: the finest and the coarsest k.
      first: the k to begin with.
      slope: of ``Target.offset`` over log k, where it is known.
      evaluations: calls of ``value_at``, at most.

    Returns:
      ``Fit``.
    """
    steps, k = _Steps(target, ends, slope), first
    while k is not None and len(steps.tried) < evaluations:
        steps.tried[k] = value_at(k)
        k = steps.next()
    return Fit(steps.best, steps.tried)


def fit_image(target, coder, path, pixels):
    """An image coded by a model of many rates at the step that meets a target.

    With a search for better latents, the plain files find a step first, and at most
    ``REFINEMENTS`` refined ones mend it; where none of them meets the target, the plain file does.

    Args:
      target: ``targets.Target``.
      coder: has a ``codec`` and a ``level`` of refinement, 0 for none, and codes: a function of
        (path, pixels, k) that returns ``Coded``.
      path: of the image, for a progress bar.
      pixels: uint8 (H, W, 3), or grey (H, W).

    Returns:
      ``Coded``, or None where no step meets the target, and the rates or PSNRs that were found.

    Raises:
      LatentError: where the model cannot code the image.
      SearchInterrupted: where Ctrl-C ended the search for better latents.
    """
    rates = coder.codec.rates
    ends, middle = k_range(rates), rates.k_of(rates.lmbda_at(DEFAULT_QUALITY))
    plain = _Plain(target, coder.codec, pixels)
    found = fit(target, plain.value_at, ends, middle)
    values = list(found.tried.values())
    if not coder.level:
        return (None if found.k is None else plain.coded(found.k)), values
    steps = _Steps(target, ends, None)
    steps.tried = found.tried
    first = found.k or (max if target.is_rate else min)(found.tried)
    refined = _Refined(target, coder, path, pixels)
    better = fit(target, refined.value_at, ends, first, steps.slope_at(first), REFINEMENTS)
    if better.k is not None:
        return refined.coded(better.k), values
    plain_one = None if found.k is None else plain.coded(found.k)
    return plain_one, values + list(better.tried.values())


class _Plain:
    """Files of one image at any step; the last that met the target is kept."""

    def __init__(self, target, codec, pixels):
        self._target, self._codec, self._pixels = target, codec, pixels
        self._y, self._z = codec.transform(pixels)
        self._kept = None, None

    def _latents(self, k):
        height, width = self._pixels.shape[:2]
        return self._codec.quantise(self._y, self._z, height, width, self._pixels.ndim == 2, k)

    def value_at(self, k):
        """The rate or PSNR of the step k."""
        latents = self._latents(k)
        if self._target.is_rate:
            made = self._codec.encode(latents)
            value = self._target.rate_of(len(made), latents.height, latents.width)
        else:
            made = self._codec.synthesise(latents)
            value = metrics.psnr(self._pixels, made)
        if self._target.met(value):
            self._kept = k, made
        return value

    def coded(self, k):
        """``Coded`` at the step k."""
        latents = self._latents(k)
        data = restored = None
        if self._kept[0] == k:
            made = self._kept[1]
            data, restored = (None, made) if isinstance(made, np.ndarray) else (made, None)
        data = self._codec.encode(latents) if data is None else data
        return Coded(self._codec, latents, data, restored=restored)


class _Refined:
    """Refined files of one image at any step; those that met the target are kept."""

    def __init__(self, target, coder, path, pixels):
        self._target, self._coder, self._path, self._pixels = target, coder, path, pixels
        self._kept = {}

    def value_at(self, k):
        """The rate or PSNR of the step k."""
        coded = self._coder(self._path, self._pixels, k)
        if self._target.is_rate:
            value = self._target.rate_of(len(coded.data), *self._pixels.shape[:2])
        else:
            coded = coded.with_restored()
            value = metrics.psnr(self._pixels, coded.restored)
        if self._target.met(value):
            self._kept[k] = coded
        return value

    def coded(self, k):
        """``Coded`` at a step k that met the target."""
        return self._kept[k]
