"""The rates of a model that serves many: its lambdas, and the quantisation step of y for each.

One scalar turns the model of one lambda into that of a range (QVRF: Tong et al., ICIP 2023, arXiv
2303.05744): y is quantised with a step D of its own, ``y_hat = D round(y / D)``, all networks see
y_hat, and the mixtures' means and scales are divided by D where the likelihood is taken. At the
reference lambda D is 1, and everything is as in the papers. The rate-distortion loss of a latent
with a squared error of D^2 / 12 asks for ``D = sqrt(reference / lambda)``.

A file holds D as an integer k: ``D = k / 1024``. There is no TensorFlow in this module.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from errors import GlicError

K_ONE = 1 << 10  # k of a step of 1
MAX_K = (1 << 16) - 1
DEFAULT_QUALITY = 50


def delta_of(k):
    """The quantisation step D that an integer k stands for."""
    return k / K_ONE


class Rate(NamedTuple):
    """What decides between bits and distortion in the loss of an image, or of a batch of B.

    Numbers or tensors: scalars, or (B,) with one for each image.

    lmbda: weight of the squared error on the 0 to 255 scale, or of 1 - MS-SSIM. delta: the
    quantisation steps of y, of a batch (B,); None for 1. power: in training each image's loss
    counts ``delta ** (2 * power)`` times: it is divided by that power of its lambda, but for a
    constant.
    """

    lmbda: Any
    delta: Any = None
    power: float = 0.0

    @property
    def steps(self):
        """``delta`` as (B, 1, 1, 1), or None."""
        return None if self.delta is None else self.delta[:, None, None, None]

    def part(self, start, stop):
        """That of the images from ``start`` to ``stop``."""
        delta, lmbda = self.delta, self.lmbda
        if len(getattr(lmbda, "shape", ())):
            lmbda = lmbda[start:stop]
        return self._replace(lmbda=lmbda, delta=None if delta is None else delta[start:stop])


def is_range(lmbda):
    """Whether the lambda of a configuration or setting is a range [low, high]."""
    return isinstance(lmbda, (list, tuple))


class Rates(NamedTuple):
    """The lambdas that a model was trained for.

    reference: the lambda whose quantisation step is 1. low, high: the ends of the range.
    """

    reference: float
    low: float
    high: float

    @classmethod
    def of(cls, config):
        """``Rates`` of a model's configuration; None where it was trained for one lambda.

        Raises:
          GlicError: for a range or reference that cannot be.
        """
        lmbda = config.get("lmbda")
        if not is_range(lmbda):
            return None
        reference = config.get("lmbda_reference")
        numbers = [*lmbda, reference]
        usable = len(numbers) == 3 and all(_is_positive(v) for v in numbers)
        if not usable or lmbda[0] >= lmbda[1]:
            raise GlicError(
                "A range of lambdas [low, high] with 0 < low < high and a positive "
                f"lmbda_reference expected, got {lmbda!r} and {reference!r}."
            )
        rates = cls(float(reference), float(lmbda[0]), float(lmbda[1]))
        for end in rates[1:]:
            k = K_ONE * rates.delta(end)
            if not 1 <= round(k) <= MAX_K:
                raise GlicError(
                    f"Lambdas with steps from 1/{K_ONE} to {MAX_K}/{K_ONE} expected, which a file "
                    f"can hold, got {end:g} at a reference of {rates.reference:g}."
                )
        return rates

    def lmbda_at(self, quality):
        """The lambda of a quality from 0 to 100, log-linear over the range."""
        return self.low * (self.high / self.low) ** (quality / 100)

    def quality_of(self, lmbda):
        """The quality of a lambda: 0 to 100 within the range, less or more beyond it."""
        return 100 * math.log(lmbda / self.low) / math.log(self.high / self.low)

    def delta(self, lmbda):
        """The quantisation step D of a lambda, or of an array of them, not rounded to a k."""
        return (self.reference / lmbda) ** 0.5

    def k_of(self, lmbda):
        """The integer k of a lambda's quantisation step."""
        return min(max(round(K_ONE * self.delta(lmbda)), 1), MAX_K)

    def lmbda_of(self, k):
        """The lambda whose quantisation step an integer k is."""
        return self.reference / delta_of(k) ** 2


def chosen_k(rates, name, quality=None, lmbda=None):
    """The quantisation step of y for a rate that a user chose, as an integer in units of 1/1024.

    Args:
      rates: ``Rates`` of a model; None for one of one rate.
      name: of the model, for the refusals.
      quality: 0 to 100, log-linear over the model's lambdas, or
      lmbda: weight of the distortion, in the model's range; neither is a quality of 50.

    Returns:
      An int; None for a model of one rate.

    Raises:
      GlicError: for a quality or lambda that the model does not serve, and for both.
    """
    if quality is not None and lmbda is not None:
        raise GlicError("A quality or a lambda expected, got both.")
    if rates is None:
        if quality is None and lmbda is None:
            return None
        raise GlicError(
            f"Model {name} has one rate: leave quality and lambda out, or take a model of many."
        )
    if lmbda is None:
        quality = DEFAULT_QUALITY if quality is None else quality
        if not 0 <= quality <= 100:
            raise GlicError(f"A quality from 0 to 100 expected, got {quality}.")
        lmbda = rates.lmbda_at(quality)
    elif not rates.low <= lmbda <= rates.high:
        raise GlicError(
            f"A lambda from {rates.low:g} to {rates.high:g} expected, which model {name} serves, "
            f"got {lmbda:g}."
        )
    return rates.k_of(lmbda)


def _is_positive(value):
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value < math.inf
