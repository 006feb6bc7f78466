"""Elementwise functions in TensorFlow whose values and gradients stay finite, in float32.

tensorflow-compression and tensorflow-probability have them, too; they stop at TensorFlow 2.14.
"""

import math

import tensorflow.compat.v1 as tf

_FAR = 2.0  # from here on erfc is taken from the polynomial below
# log(erfcx(x)) - log(t) as a polynomial in t = 1 / (1 + x / 2), for x >= 2: a Chebyshev fit, off by
# 5e-9, and by 4e-8 of its derivative.
_LOG_ERFCX = (-1.26551213, 1.00000142, 0.374924739, 0.0848662145, -0.101437225, -0.0572415659)
_LOG_ERFCX += (-0.364932806, 0.486007322, -0.150618434)


@tf.RegisterGradient("GlicLowerBound")
def _lower_bound_gradient(op, gradient):
    """Of ``lower_bound``: passes above the bound, and below it where it leads back above."""
    value, bound = op.inputs
    passes = tf.logical_or(value >= bound, gradient < 0)
    return tf.where(passes, gradient, tf.zeros_like(gradient)), None


def lower_bound(value, bound):
    """max(value, bound), whose gradient lets values below the bound return.

    As ``tfc.lower_bound``, but with one gradient for all: that function registers another for each
    call, and with it keeps the caller's graph for as long as the process lives.
    """
    with tf.get_default_graph().gradient_override_map({"Maximum": "GlicLowerBound"}):
        return tf.maximum(value, tf.constant(bound, value.dtype))


def log_erfc(x):
    """log(erfc(x)), also where erfc(x) is no float32 any more."""
    # Each branch sees values of its own side only, so that the one not taken stays finite.
    near = tf.log(tf.math.erfc(tf.minimum(x, _FAR)))
    far = tf.maximum(x, _FAR)
    t = 1 / (1 + far / 2)
    polynomial = tf.zeros_like(t)
    for coefficient in reversed(_LOG_ERFCX):
        polynomial = polynomial * t + coefficient
    return tf.where(x < _FAR, near, tf.log(t) + polynomial - tf.square(far))


def log1mexp(x):
    """log(1 - exp(-x)) for x > 0."""
    middle = math.log(2)
    small, large = tf.minimum(x, middle), tf.maximum(x, middle)
    return tf.where(x < middle, tf.log(-tf.math.expm1(-small)), tf.math.log1p(-tf.exp(-large)))
