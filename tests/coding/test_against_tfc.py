"""Layers and the prior against tensorflow-compression, where it exists: up to Python 3.11."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import factorized_prior
import layers

tfc = pytest.importorskip("tensorflow_compression", reason="it stops at Python 3.11")


def run(session, tensor):
    session.run(tf.global_variables_initializer())
    return session.run(tensor)


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn(inverse):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 5, 6, 8)).astype(np.float32)
    beta, gamma = rng.uniform(0.5, 2, 8), rng.uniform(0, 0.2, (8, 8))
    with tf.Graph().as_default(), tf.Session() as session:
        ours = layers.gdn(tf.constant(x), inverse=inverse)
        roots = [np.sqrt(v + layers.GDN_PEDESTAL).astype(np.float32) for v in (beta, gamma)]
        theirs = tfc.GDN(
            inverse=inverse,
            alpha_parameter=2,  # the 1.x layer's
            epsilon_parameter=0.5,
            beta_parameter=tf.constant(beta.astype(np.float32)),
            gamma_parameter=tf.constant(gamma.astype(np.float32)),
        )(tf.constant(x))
        session.run(tf.global_variables_initializer())
        for variable, root in zip(tf.global_variables(), roots):
            variable.load(root, session)
        found, expected = session.run([ours, theirs])
    np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize(
    "support, corr, down, up",
    [(1, True, 1, 1), (1, True, 2, 1), (1, False, 1, 1)]
    + [(3, True, 1, 1), (3, True, 2, 1), (3, False, 1, 1), (3, False, 1, 2)],
)
def test_convolutions(support, corr, down, up):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, 8, 6, 3)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        ours = layers.signal_conv2d(
            tf.constant(x), 4, support, "layer", corr=corr, down=down, up=up, bias_init=0.3
        )
        kernel = tf.global_variables()[0]
        if support == 3:
            kernel = tf.matmul(tf.constant(layers.rdft_matrix(3), tf.float32), kernel)
        theirs = tfc.SignalConv2D(
            4,
            support,
            corr=corr,
            strides_down=down,
            strides_up=up,
            padding="same_zeros",
            extra_pad_end=True,
            kernel_parameter=tf.reshape(kernel, (support, support, 3, 4)),
            bias_parameter=tf.fill((4,), 0.3),
            use_bias=True,
        )(tf.constant(x))
        found, expected = run(session, [ours, theirs])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_likelihood_of_z():
    rng = np.random.default_rng(3)
    z = rng.normal(0, 4, size=(1, 3, 5, 8)).astype(np.float32)
    with tf.Graph().as_default(), tf.Session() as session:
        prior = factorized_prior.variables(8)
        theirs = tfc.NoisyDeepFactorized(batch_shape=(8,), num_filters=(3, 3, 3))
        base = theirs.base
        ours = factorized_prior.likelihood(tf.constant(z), prior)
        names = {"matrix": base._matrices, "bias": base._biases, "factor": base._factors}
        session.run(tf.global_variables_initializer())
        for kind, made in names.items():
            for i, variable in enumerate(made):
                value = rng.normal(0, 0.3, prior[f"{kind}_{i}"].shape).astype(np.float32)
                prior[f"{kind}_{i}"].load(value, session)
                session.run(variable.assign(value) if hasattr(variable, "assign") else variable)
        found, expected = session.run([ours, theirs.prob(tf.constant(z))])
    np.testing.assert_allclose(found, np.maximum(expected, 1e-9), rtol=2e-4, atol=1e-7)


def test_tables_of_z():
    """The rule by which frequencies of a probability mass function are made whole."""
    rng = np.random.default_rng(4)
    with tf.Graph().as_default(), tf.Session() as session:
        for size in (2, 5, 40, 300):
            pmf = rng.dirichlet(np.full(size, 0.3)).astype(np.float32)
            cdf = session.run(tfc.pmf_to_quantized_cdf(pmf, precision=16))
            np.testing.assert_array_equal(factorized_prior.quantize_pmf(pmf), np.diff(cdf))
