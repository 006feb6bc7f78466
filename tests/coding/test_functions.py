"""Functions of the likelihoods against SciPy, and against the libraries they come from."""

import numpy as np
import pytest
import scipy.special
import tensorflow.compat.v1 as tf

import functions

ARGUMENTS = np.concatenate(
    [np.linspace(-12, 60, 20_001), [1.9999999, 2.0, 2.0000002, 0.0, -0.0, 1e-30]]
).astype(np.float32)
POSITIVE = np.geomspace(1e-7, 80, 20_000).astype(np.float32)


def values_and_slopes(function, arguments, *more):
    with tf.Graph().as_default(), tf.Session() as session:
        x = tf.constant(arguments)
        y = function(x, *more)
        return session.run([y, tf.gradients(y, x)[0]])


def test_log_erfc_is_scipys():
    found, slopes = values_and_slopes(functions.log_erfc, ARGUMENTS)
    x = ARGUMENTS.astype(np.float64)
    expected = scipy.special.log_ndtr(-x * np.sqrt(2)) + np.log(2)
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=6e-7)
    steep = -2 / np.sqrt(np.pi) / np.where(x < 0, 1, scipy.special.erfcx(np.maximum(x, 0)))
    gentle = -2 / np.sqrt(np.pi) * np.exp(-np.square(x)) / scipy.special.erfc(np.minimum(x, 5))
    np.testing.assert_allclose(slopes, np.where(x < 2, gentle, steep), rtol=5e-6, atol=1e-30)


def test_log1mexp_is_numpys():
    found, slopes = values_and_slopes(functions.log1mexp, POSITIVE)
    x = POSITIVE.astype(np.float64)
    expected = np.where(x < 1, np.log(-np.expm1(-x)), np.log1p(-np.exp(-x)))
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    np.testing.assert_allclose(slopes, 1 / np.expm1(x), rtol=2e-6, atol=1e-37)


def test_lower_bound_lets_values_return():
    x = np.array([-1.0, 0.5, 2.0], np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        value = tf.constant(x)
        bounded = functions.lower_bound(value, 1.0)
        up = tf.gradients(-bounded, value)[0]
        down = tf.gradients(bounded, value)[0]
        found = session.run([bounded, up, down])
    np.testing.assert_array_equal(found, [[1, 1, 2], [-1, -1, -1], [0, 0, 1]])


def test_they_are_the_libraries():
    tfc = pytest.importorskip("tensorflow_compression", reason="it stops at Python 3.11")
    tfp = pytest.importorskip("tensorflow_probability")
    for ours, theirs, x in (
        (functions.log_erfc, tfp.math.logerfc, ARGUMENTS),
        (functions.log1mexp, tfp.math.log1mexp, POSITIVE),
        (lambda t: functions.lower_bound(t, 1.0), lambda t: tfc.lower_bound(t, 1.0), ARGUMENTS),
    ):
        for a, b in zip(values_and_slopes(ours, x), values_and_slopes(theirs, x)):
            np.testing.assert_allclose(a, b, rtol=3e-6, atol=2e-6)
