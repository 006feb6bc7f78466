"""The points of a curve: at which lambdas a model of many rates is measured."""

from __future__ import annotations

from errors import UsageError
from evaluation.curves import MIN_POINTS
from rates import Rates

# Of both papers' models, by metric.
PAPER_LAMBDAS = {
    "mse": (0.0016, 0.0032, 0.0075, 0.015, 0.03, 0.045),
    "ms-ssim": (3.0, 12.0, 40.0, 120.0),
}
COUNT = 6  # of points where a model serves too few of these


def lambdas_of(name, config, given=None):
    """The lambdas at which a model is measured, rising.

    Args:
      name: of the model.
      config: of its folder.
      given: list of lambdas, or None for the papers' that the model serves; where these are fewer
        than a curve takes, six are spread evenly over the logarithm of its range.

    Returns:
      Tuple of floats; for a model of one rate (None,).

    Raises:
      UsageError: for a lambda that the model does not serve.
    """
    rates = Rates.of(config)
    if rates is None:
        return (None,)
    if given:
        beyond = [lmbda for lmbda in given if not rates.low <= lmbda <= rates.high]
        if beyond:
            raise UsageError(
                f"--lambdas from {rates.low:g} to {rates.high:g} expected, which model {name} "
                f"serves, got {', '.join(f'{lmbda:g}' for lmbda in beyond)}."
            )
        return tuple(sorted(set(given)))
    known = PAPER_LAMBDAS.get(config.get("metric", "mse"), ())
    served = tuple(lmbda for lmbda in known if rates.low <= lmbda <= rates.high)
    if len(served) >= MIN_POINTS:
        return served
    spread = [rates.lmbda_at(100 * i / (COUNT - 1)) for i in range(COUNT)]
    return (rates.low, *spread[1:-1], rates.high)  # exactly


def label(name, lmbda):
    """A point's name for people; ``lmbda`` is None for a model of one rate."""
    return name if lmbda is None else f"{name}, lambda {lmbda:.4g}"
