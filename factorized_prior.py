"""Factorised prior of the hyper latents z (Balle et al., ICLR 2018, appendix 6.1).

The same density as ``tfc.EntropyBottleneck`` of tensorflow-compression 1.2, which both papers
use, under its variable names. The integer tables are made once, when a model is exported, and
live in its checkpoint; coding only reads them.

The authors train ``quantiles`` with an auxiliary loss whose minimum is where the cumulative
logits meet three targets. Here they are solved for by bisection at export, which is that minimum
to machine precision and needs no second optimiser.
"""

import numpy as np

from errors import GlicError
from variables import PRIOR_SCOPE, PRIOR_WIDTHS

INIT_SCALE = 10.0
TAIL_MASS = 2.0**-8  # outside of the quantiles; sets the tables' lengths
LIKELIHOOD_BOUND = 1e-9  # the authors' floor
PRECISION = 16
TOTAL = 1 << PRECISION


def variables(num_filters, table_length=3):
    """Creates (or reuses) the prior's variables under the authors' names.

    Args:
      num_filters: C, one density per channel.
      table_length: columns of ``quantized_cdf``; 3 until ``tables`` has been run.

    Returns:
      Dict of name within the scope to variable: ``matrix_i``, ``bias_i`` (i = 0..3),
      ``factor_i`` (i = 0..2), ``quantiles`` (C, 1, 3) and the int32 ``quantized_cdf`` and
      ``cdf_length``, which are not trainable.
    """
    import tensorflow.compat.v1 as tf  # here, as coding needs the integer tables alone

    c, layers = num_filters, len(PRIOR_WIDTHS) - 1
    scale = INIT_SCALE ** (1 / layers)
    made = {}
    with tf.variable_scope(PRIOR_SCOPE):
        for i in range(layers):
            rows, columns = PRIOR_WIDTHS[i + 1], PRIOR_WIDTHS[i]
            start = np.log(np.expm1(1 / scale / rows))
            shapes = {
                f"matrix_{i}": ((c, rows, columns), tf.initializers.constant(start)),
                f"bias_{i}": ((c, rows, 1), tf.initializers.random_uniform(-0.5, 0.5)),
            }
            if i < layers - 1:
                shapes[f"factor_{i}"] = ((c, rows, 1), tf.initializers.zeros())
            for name, (shape, init) in shapes.items():
                made[name] = tf.get_variable(name, shape, tf.float32, init)
        made["quantiles"] = tf.get_variable(
            "quantiles",
            (c, 1, 3),
            tf.float32,
            tf.initializers.constant(np.tile([[[-INIT_SCALE, 0.0, INIT_SCALE]]], (c, 1, 1))),
        )
        untrained = np.array([0, TOTAL // 2, TOTAL] + [0] * (table_length - 3))
        made["quantized_cdf"] = tf.get_variable(
            "quantized_cdf",
            (c, table_length),
            tf.int32,
            tf.initializers.constant(np.tile(untrained, (c, 1))),
            trainable=False,
        )
        made["cdf_length"] = tf.get_variable(
            "cdf_length", (c,), tf.int32, tf.initializers.constant(3), trainable=False
        )
    return made


def weights_of(weights):
    """The prior's own of a model's ``weights`` (dict by name), by name within the scope."""
    prefix = f"{PRIOR_SCOPE}/"
    return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}


def _cumulative_logits(values, parameters, softplus, tanh, matmul):
    """Logits of the cumulative at ``values`` (C, 1, K); the same formula in NumPy and in TF."""
    layers = len(PRIOR_WIDTHS) - 1
    for i in range(layers):
        values = matmul(softplus(parameters[f"matrix_{i}"]), values) + parameters[f"bias_{i}"]
        if i < layers - 1:
            values = values + tanh(parameters[f"factor_{i}"]) * tanh(values)
    return values


def likelihood(z, parameters):
    """Likelihood of z (noisy, or rounded to its medians), at least 1e-9.

    Args:
      z: (B, h, w, C) float32.
      parameters: what ``variables`` returned.

    Returns:
      float32 like ``z``: the mass of the density on [z - 1/2, z + 1/2].
    """
    import tensorflow.compat.v1 as tf

    from functions import lower_bound

    shape = tf.shape(z)
    flat = tf.transpose(tf.reshape(z, (-1, 1, z.shape[-1])), (2, 1, 0))  # (C, 1, B*h*w)
    logits = [
        _cumulative_logits(flat + half, parameters, tf.nn.softplus, tf.tanh, tf.matmul)
        for half in (-0.5, 0.5)
    ]
    # Flipped to the side where the sigmoids are small, so that the difference keeps its digits.
    sign = tf.stop_gradient(-tf.sign(logits[0] + logits[1]))
    mass = tf.abs(tf.sigmoid(sign * logits[1]) - tf.sigmoid(sign * logits[0]))
    mass = tf.reshape(tf.transpose(mass, (2, 1, 0)), shape)
    return lower_bound(mass, LIKELIHOOD_BOUND)


def round_to_medians(z, medians):
    """z rounded as it is coded: floor(z + (1/2 - median)) + median. TF tensors, (..., C)."""
    import tensorflow.compat.v1 as tf

    return tf.floor(z + (0.5 - medians)) + medians


def medians_of(quantiles):
    """Medians (C,) of a ``quantiles`` tensor or array (C, 1, 3)."""
    return quantiles[:, 0, 1]


def _numpy_logits(values, parameters):
    return _cumulative_logits(
        values, parameters, lambda v: np.logaddexp(0, v), np.tanh, lambda a, b: a @ b
    )


def solve_quantiles(parameters):
    """Where the cumulative's logits are -t, 0 and t, t = log(2 / TAIL_MASS - 1).

    Args:
      parameters: dict of NumPy arrays named as in ``variables``.

    Returns:
      float32 (C, 1, 3): the minimum of the authors' auxiliary loss.

    Raises:
      GlicError: where no bracket within +-2^20 holds the targets (a broken model).
    """
    parameters = {k: np.asarray(v, np.float64) for k, v in parameters.items()}
    channels = parameters["matrix_0"].shape[0]
    target = np.log(2 / TAIL_MASS - 1) * np.array([[[-1.0, 0.0, 1.0]]])
    high = np.full((channels, 1, 3), 2.0**20)
    low = -high
    if np.any(_numpy_logits(high, parameters) < target) or np.any(
        _numpy_logits(low, parameters) > target
    ):
        raise GlicError("The prior of z has no quantiles within +-2^20: its weights are broken.")
    for _ in range(80):  # 2^21 / 2^80 is far under float32's resolution
        middle = (low + high) / 2
        above = _numpy_logits(middle, parameters) > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return ((low + high) / 2).astype(np.float32)


def table_offsets(quantiles):
    """int32 (C,): the integer value (before the median is added) of each table's first entry."""
    quantiles = np.asarray(quantiles, np.float32)
    return -np.maximum(0, np.ceil(quantiles[:, 0, 1] - quantiles[:, 0, 0])).astype(np.int32)


def tables(parameters):
    """Integer cumulative frequencies of the rounded z, as the 1.2 layer makes them.

    Args:
      parameters: dict of NumPy arrays with the solved ``quantiles``.

    Returns:
      ``quantized_cdf`` int32 (C, L), rows padded with zeros, and ``cdf_length`` int32 (C,). Row c
      has n + 2 valid numbers from 0 to 65536 for n values and the escape, which comes last.
    """
    from scipy.special import expit

    parameters = {k: np.asarray(v, np.float64) for k, v in parameters.items()}
    quantiles = np.asarray(parameters["quantiles"], np.float32)
    below = -table_offsets(quantiles)
    above = np.maximum(0, np.ceil(quantiles[:, 0, 2] - quantiles[:, 0, 1])).astype(np.int32)
    counts = below + above + 1
    grid = (quantiles[:, 0, 1] - below)[:, None, None] + np.arange(counts.max())[None, None]
    low = _numpy_logits(grid - 0.5, parameters)[:, 0]
    high = _numpy_logits(grid + 0.5, parameters)[:, 0]
    sign = -np.sign(low + high)
    mass = np.abs(expit(sign * high) - expit(sign * low))
    tails = expit(low[:, 0]) + expit(-high[:, -1])
    cdf = np.zeros((len(counts), counts.max() + 2), np.int32)
    for c, n in enumerate(counts):
        frequencies = quantize_pmf(np.append(mass[c, :n], tails[c]).astype(np.float32))
        cdf[c, 1 : n + 2] = np.cumsum(frequencies)
    return cdf, (counts + 2).astype(np.int32)


def quantize_pmf(pmf):
    """Frequencies >= 1 that sum to 65536 and cost least against ``pmf`` (tfc 1.2's rule).

    Args:
      pmf: (n,) float32 masses.

    Returns:
      int64 (n,).
    """
    pmf = np.asarray(pmf, np.float64)
    frequencies = np.maximum(1, np.rint(pmf * TOTAL)).astype(np.int64)
    while frequencies.sum() > TOTAL:
        with np.errstate(divide="ignore", invalid="ignore"):  # frequency 1, masked below
            loss = pmf * (np.log2(frequencies) - np.log2(frequencies - 1))
        frequencies[np.argmin(np.where(frequencies > 1, loss, np.inf))] -= 1
    while frequencies.sum() < TOTAL:
        frequencies[np.argmax(pmf * (np.log2(frequencies + 1) - np.log2(frequencies)))] += 1
    return frequencies
