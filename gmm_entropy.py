"""The mixtures of both papers: likelihoods for training, integer CDF tables for range-coder.

Cheng et al., CVPR 2020, equations 6 to 9: three Gaussians. Fu et al., TIP 2023, equations 5 to
10: three Gaussians, three Laplacians and three logistics, a weight per component within its
family and a weight per family.

Training works on logarithms in float32 (TensorFlow), coding on tables and correctly rounded
float32 operations (NumPy), see ``CodingMixture``. Both floor the scales at ``SCALE_FLOOR``.
"""

import collections
import functools
import math

import numpy as np

from rates import K_ONE

COMPONENTS = 3  # per family of distributions
FRACTION_BITS = 12  # of the fixed-point mixture parameters in coding
SCALE_FLOOR = 2.0**-6  # of every scale, in training and coding: narrower gains nothing
LIKELIHOOD_BOUND = 1e-6  # the authors' floor, here the point where the floor sets in softly

# Shapes of one mixture's distributions, in the order of the parameter groups.
DISTRIBUTIONS = {"gmm": ("gauss",), "gllmm": ("gauss", "laplace", "logistic")}

Mixture = collections.namedtuple("Mixture", "logits means scales family_logits")


def split_parameters(raw, family):
    """Splits the parameter network's output into its groups of M channels.

    Works on TF tensors and NumPy arrays alike, as it only slices.

    Args:
      raw: (..., 9M) for gmm, (..., 30M) for gllmm: K times (logit, mean, scale), then for gllmm
        the three families' logits.
      family: "gmm" or "gllmm".

    Returns:
      ``Mixture`` of lists of (..., M): ``logits``, ``means``, ``scales`` (K each; the scales
      still have a sign) and ``family_logits`` (3 for gllmm, none for gmm).
    """
    components = COMPONENTS * len(DISTRIBUTIONS[family])
    groups = 3 * components + (COMPONENTS if family == "gllmm" else 0)
    n = int(raw.shape[-1]) // groups
    split = [raw[..., g * n : (g + 1) * n] for g in range(groups)]
    per_component = split[: 3 * components]
    return Mixture(
        per_component[0::3], per_component[1::3], per_component[2::3], split[3 * components :]
    )


# --- Training: TensorFlow, float32, everything in the log domain ---------------------------------


def _log_mass_gauss(distance, scale):
    """log(F((0.5 - d) / s) - F((-0.5 - d) / s)) of a normal distribution, d >= 0."""
    from functions import log_erfc

    to_erfc = -math.sqrt(0.5) / scale
    upper = log_erfc((0.5 - distance) * to_erfc) - math.log(2)
    lower = log_erfc((-0.5 - distance) * to_erfc) - math.log(2)
    return upper + _log1mexp(upper - lower)


def _log_mass_laplace(distance, scale):
    """The same of a Laplace distribution with density exp(-|t| / s) / (2 s)."""
    import tensorflow.compat.v1 as tf

    # Beyond the centre bin the interval lies on one side; within, on both. Each branch sees
    # distances of its own side only, so that the one not taken cannot overflow in the gradient.
    far = tf.maximum(distance, 0.5)
    near = tf.minimum(distance, 0.5)
    one_side = (0.5 - far) / scale - math.log(2) + _log1mexp(1 / scale)
    both_sides = tf.log(
        -0.5 * (tf.math.expm1((near - 0.5) / scale) + tf.math.expm1(-(near + 0.5) / scale))
    )
    return tf.where(distance >= 0.5, one_side, both_sides)


def _log_mass_logistic(distance, scale):
    """The same of a logistic distribution: S(a) - S(b) = S(a) S(-b) (1 - exp(b - a))."""
    import tensorflow.compat.v1 as tf

    upper, lower = (0.5 - distance) / scale, (-0.5 - distance) / scale
    return tf.log_sigmoid(upper) + tf.log_sigmoid(-lower) + _log1mexp(1 / scale)


_LOG_MASS = {
    "gauss": _log_mass_gauss,
    "laplace": _log_mass_laplace,
    "logistic": _log_mass_logistic,
}


def _log1mexp(x):
    """log(1 - exp(-x)) for x > 0, kept off x = 0, where it and its gradient are infinite."""
    import tensorflow.compat.v1 as tf

    from functions import log1mexp

    return log1mexp(tf.maximum(x, 1e-7))


def log_likelihood(y, raw, family, delta=None):
    """Natural log of the mass that the mixture puts on [y - delta / 2, y + delta / 2].

    Below log(1e-6), the authors' floor b, the value L becomes b (1 + ln(L / b)): it goes on
    falling slowly, as the cost of the coder's escape codes does, and its gradient never vanishes.
    (The authors clip there, and outliers stop learning.)

    Args:
      y: (..., M) float32, noisy or rounded latents.
      raw: float32 output of ``network.entropy_parameter``.
      family: "gmm" or "gllmm".
      delta: float32, the quantisation step of y, to be broadcast; None for 1. The floor of the
        scales is in units of it.

    Returns:
      float32 (..., M), <= 0.
    """
    import tensorflow.compat.v1 as tf

    mixture = split_parameters(raw, family)
    means, scales = mixture.means, mixture.scales
    if delta is not None:
        y, means, scales = y / delta, [m / delta for m in means], [s / delta for s in scales]
    log_family = [0.0]
    if family == "gllmm":
        log_family = tf.unstack(tf.nn.log_softmax(tf.stack(mixture.family_logits), axis=0))
    terms = []
    for f, distribution in enumerate(DISTRIBUTIONS[family]):
        own = slice(COMPONENTS * f, COMPONENTS * (f + 1))
        log_weights = tf.nn.log_softmax(tf.stack(mixture.logits[own]), axis=0)
        distance = tf.abs(y - tf.stack(means[own]))
        scale = _floored_scale(tf.stack(scales[own]))
        log_mass = _LOG_MASS[distribution](distance, scale)
        terms.append(log_family[f] + log_weights + log_mass)
    log_mass = tf.reduce_logsumexp(tf.concat(terms, axis=0), axis=0)
    bound = math.log(LIKELIHOOD_BOUND)
    # The minimum keeps the branch that is not taken finite.
    below = bound * (1 + tf.log(tf.minimum(log_mass, bound) / bound))
    return tf.where(log_mass < bound, below, tf.minimum(log_mass, 0.0))


def _floored_scale(raw):
    """max(|raw|, SCALE_FLOOR); the gradient passes the floor if it leads back above it."""
    import tensorflow.compat.v1 as tf

    from functions import lower_bound

    # tf.abs has no gradient at 0, where a scale could be stuck.
    magnitude = tf.where(raw >= 0, raw, -raw)
    return lower_bound(magnitude, SCALE_FLOOR)


# --- Coding: NumPy, correctly rounded operations only --------------------------------------------
#
# Nothing between the fixed-point parameters and the integer tables may depend on a libm, a BLAS or
# the order of a sum: every operation below is one IEEE 754 float32 or integer operation on whole
# arrays, which each machine rounds alike. F and exp come from tables made of Python integers.

TOTAL = 1 << 16  # sum of every symbol's frequencies
RADII = (1, 3, 7, 15, 31, 63, 127, 255)  # of the windows of values that have a table entry
NEGLIGIBLE_WEIGHT = np.float32(2.0**-9)  # components under it do not widen the window
# How many scales from its mean a component reaches; what lies beyond costs an escape code.
REACH = {"gauss": np.float32(4), "laplace": np.float32(7), "logistic": np.float32(7)}

GRID = 1 << 10  # steps per unit of the tables' arguments
_RANGE = {"gauss": 6, "laplace": 16, "logistic": 16}  # the tables' arguments lie within +- this
_EXP_RANGE = 16
_TABLE_BITS = 24  # table values are multiples of 2^-24: exact in float32
_WORK_BITS = 128  # of the Python integers that the tables are computed with


def _fixed_exp_of_minus(numerator, denominator):
    """exp(-numerator / denominator), 0 < argument <= 1, scaled by 2^128, by its Taylor series."""
    term = total = 1 << _WORK_BITS
    k = 0
    while term:
        k += 1
        term = term * numerator // (denominator * k)
        total += term if k % 2 == 0 else -term
    return total


def _exp_ladder(steps):
    """exp(-i / GRID) for i = 0..steps, scaled by 2^128."""
    ratio = _fixed_exp_of_minus(1, GRID)
    values = [1 << _WORK_BITS]
    for _ in range(steps):
        values.append(values[-1] * ratio >> _WORK_BITS)
    return values


def _half_normal_ladder(steps):
    """Integral of exp(-t^2 / 2) from 0 to i / GRID for i = 0..steps, up to a common factor.

    Simpson's rule per step on samples at half steps, whose error (about 1e-16) is far under the
    table's resolution. The samples follow from g((j + 1) h) = g(j h) q^(2 j + 1), q = g(h).
    """
    q = _fixed_exp_of_minus(1, 8 * GRID * GRID)  # exp(-h^2 / 2) at h = 1 / (2 GRID)
    ratio, q_squared = q, q * q >> _WORK_BITS
    samples = [1 << _WORK_BITS]
    for _ in range(2 * steps):
        samples.append(samples[-1] * ratio >> _WORK_BITS)
        ratio = ratio * q_squared >> _WORK_BITS
    integral = [0]
    for i in range(steps):
        area = samples[2 * i] + 4 * samples[2 * i + 1] + samples[2 * i + 2]
        integral.append(integral[-1] + area)
    return integral


def _round_ratio(numerator, denominator):
    return (2 * numerator + denominator) // (2 * denominator)


@functools.cache
def exp_table():
    """float32 (16 * 1024 + 1,): exp(-i / 1024) rounded to multiples of 2^-24; the last is 0."""
    ladder = _exp_ladder(_EXP_RANGE * GRID)
    shift = _WORK_BITS - _TABLE_BITS
    values = [_round_ratio(v, 1 << shift) for v in ladder]
    values[-1] = 0
    return (np.array(values, np.float64) * 2.0**-_TABLE_BITS).astype(np.float32)


@functools.cache
def cdf_table(distribution):
    """Cumulative distribution at multiples of 1 / 1024, rounded to multiples of 2^-24.

    Args:
      distribution: "gauss", "laplace" (density exp(-|t|) / 2) or "logistic".

    Returns:
      float32 (2 * R * 1024 + 1,), F(-R) to F(R), R = 6 for gauss and 16 for the others; the
      first entry is 0 and the last 1.
    """
    steps = _RANGE[distribution] * GRID
    one = 1 << _WORK_BITS
    if distribution == "gauss":
        integral = _half_normal_ladder(steps)
        # The mass beyond 6 is 1e-9, a sixtieth of the table's resolution: scaling by the last
        # value instead of sqrt(pi / 2) does not change what is rounded by more than that.
        lower = [(integral[-1] - v, 2 * integral[-1]) for v in integral]
    else:
        ladder = _exp_ladder(steps)
        if distribution == "laplace":
            lower = [(v, 2 * one) for v in ladder]
        else:
            lower = [(v, one + v) for v in ladder]
    scale = 1 << _TABLE_BITS
    tail = [_round_ratio(a * scale, b) for a, b in lower]  # F(-i / GRID)
    tail[-1] = 0
    values = tail[::-1] + [scale - v for v in tail[1:]]
    return (np.array(values, np.float64) * 2.0**-_TABLE_BITS).astype(np.float32)


class CodingMixture:
    """Integer CDF tables of a batch of symbols, from fixed-point mixture parameters.

    Each symbol has a window of 2 R + 1 integers around the mixture's mean, R from ``RADII``. Its
    alphabet is: 0 an escape for what lies below, 1 to 2 R + 1 the window's values, 2 R + 2 an
    escape for what lies above. The cumulative frequency below entry i is
    ``floor(F(edge_i) * (65536 - n)) + i`` for an alphabet of n: every frequency is at least 1.
    Encoder and decoder evaluate the same ``_cumulative``; the encoder at two edges per symbol.

    Args:
      raw: (G, S) array of integers (any dtype that holds them exactly), the parameter network's
        outputs in units of 2^-12; G = 9 or 30 groups in the authors' order, S symbols.
      family: "gmm" or "gllmm".
      k: the quantisation step of y in units of 1/1024, by which means and scales are divided; None
        for a step of 1.
    """

    def __init__(self, raw, family, k=None):
        mixture = split_parameters(np.asarray(raw, np.float32).T[None], family)
        unit = np.float32(2.0**-FRACTION_BITS)
        if k is not None:  # a power of two by an integer below 2^24: rounded once
            unit = np.float32(2.0**-FRACTION_BITS * K_ONE) / np.float32(k)
        self._parts = []  # (weight, mean, GRID / scale, distribution), each array (S,) float32
        family_weights = [np.float32(1)]
        if family == "gllmm":
            family_weights = _softmax([_row(v) for v in mixture.family_logits])
        center, reaches = np.float32(0), []
        for f, distribution in enumerate(DISTRIBUTIONS[family]):
            own = slice(COMPONENTS * f, COMPONENTS * (f + 1))
            weights = _softmax([_row(v) for v in mixture.logits[own]])
            means, scales = mixture.means[own], mixture.scales[own]
            for weight, mean, scale in zip(weights, means, scales):
                weight = weight * family_weights[f]
                mean = _row(mean) * unit
                scale = np.maximum(np.abs(_row(scale)) * unit, np.float32(SCALE_FLOOR))
                self._parts.append((weight, mean, np.float32(GRID) / scale, distribution))
                center = center + weight * mean
                reaches.append(scale * REACH[distribution])
        self._center = np.rint(center)
        self._window = self._window_class(reaches)

    def _window_class(self, reaches):
        """Index into RADII (S,): the smallest window that holds every component's reach."""
        need = np.zeros_like(self._center)
        for (weight, mean, _, _), reach in zip(self._parts, reaches):
            distance = np.abs(mean - self._center) + reach
            need = np.maximum(need, np.where(weight >= NEGLIGIBLE_WEIGHT, distance, 0))
        limits = np.array(RADII[:-1], np.float32) + np.float32(0.5)
        return np.searchsorted(limits, need)

    def _cumulative(self, edges, rows=None):
        """F at ``edges`` (S or len(rows), any), as float32 in [0, 1], for the symbols ``rows``."""
        total = None
        for part in self._parts:
            weight, mean, inverse = (v if rows is None else v[rows] for v in part[:3])
            table = cdf_table(part[3])
            middle = len(table) // 2
            index = edges - mean[:, None]
            index *= inverse[:, None]
            index += np.float32(middle + 0.5)
            np.clip(index, 0, len(table) - 1, out=index)
            value = table.take(index.astype(np.int32))
            value *= weight[:, None]
            total = value if total is None else np.add(total, value, out=total)
        return np.minimum(total, np.float32(1), out=total)

    def intervals(self, values):
        """What the encoder writes for each symbol.

        Args:
          values: (S,) integers.

        Returns:
          ``low``, ``high``: int64 (S,), the symbols' intervals in [0, 65536]; ``excess``: int64
          (S,), how far an escaped value lies beyond its window (0 = next to it), -1 for the
          others; ``order``: int64 (S,), the escape code's order.
        """
        values = np.asarray(values, np.int64)
        radius = np.array(RADII, np.int64)[self._window]
        alphabet = 2 * radius + 3
        first = self._center.astype(np.int64) - radius
        index = np.clip(values - first + 1, 0, alphabet - 1)
        edge = (first + index - 1).astype(np.float32) - np.float32(0.5)
        edges = np.stack([edge, edge + np.float32(1)], axis=1)
        scaled = self._cumulative(edges) * (TOTAL - alphabet).astype(np.float32)[:, None]
        cumulative = np.floor(scaled).astype(np.int64)
        low = np.where(index == 0, 0, cumulative[:, 0] + index)
        high = np.where(index == alphabet - 1, TOTAL, cumulative[:, 1] + index + 1)
        below, above = first - 1 - values, values - (first + 2 * radius + 1)
        return low, high, np.maximum(below, above).clip(-1), self._window

    def tables(self):
        """What the decoder needs for each symbol.

        Returns:
          ``tables``: list of S lists, each strictly rising from 0 to 65536; ``first``: int64 (S,),
          the value of entry 1; ``order``: int64 (S,), the escape code's order.
        """
        tables = [None] * len(self._center)
        first = self._center.astype(np.int64)
        for window, radius in enumerate(RADII):
            rows = np.flatnonzero(self._window == window)
            if not len(rows):
                continue
            first[rows] -= radius
            alphabet = 2 * radius + 3
            offsets = np.arange(alphabet - 1, dtype=np.float32) - np.float32(radius + 0.5)
            scaled = self._cumulative(self._center[rows, None] + offsets, rows)
            scaled *= np.float32(TOTAL - alphabet)
            cumulative = np.full((len(rows), alphabet + 1), TOTAL, np.int32)
            cumulative[:, 0] = 0
            cumulative[:, 1:-1] = scaled  # truncates, which floors what is not negative
            cumulative[:, 1:-1] += np.arange(1, alphabet, dtype=np.int32)
            for row, table in zip(rows.tolist(), cumulative.tolist()):
                tables[row] = table
        return tables, first, self._window


def _row(values):
    """The (S,) row of a (1, S, 1)-shaped group."""
    return values[0, :, 0]


def _softmax(logits):
    """Weights of (S,) fixed-point logits that sum to about 1, from the exp table."""
    table = exp_table()
    largest = functools.reduce(np.maximum, logits)
    # Logits have 12 fractional bits, the table's grid 10.
    to_grid = np.float32(GRID * 2.0**-FRACTION_BITS)
    last = np.float32(len(table) - 1)
    powers = [
        table.take(np.minimum((largest - v) * to_grid, last).astype(np.int32)) for v in logits
    ]
    total = functools.reduce(np.add, powers)
    return [power / total for power in powers]
