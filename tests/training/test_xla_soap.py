"""SOAP in JAX against training/soap.py, and the bases that Cholesky makes."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from test_soap import BETA1, BETA2, MAX_DIM, RATE, SHAMPOO_BETA, VARIABLES, Training

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

from training.xla import soap  # noqa: E402

# As there, but every factor of the first gradient has full rank: the order of a null space's basis
# is nobody's, and later gradients tell.
SHAPES = {**VARIABLES, "a/kernel_rdft": ((9, 12), (9, 3, 4), 0)}


def steps_of(shapes, every, gradients):
    """Weights after the steps, of training/soap.py and of the port."""
    theirs = Training(shapes, refresh_every=every)
    start = dict(zip(shapes, theirs.session.run(theirs.variables)))
    ours = soap.Soap(
        {name: shape for name, (shape, *_) in shapes.items()},
        {name: seen for name, (_, seen, _) in shapes.items() if seen},
        betas=(BETA1, BETA2),
        shampoo_beta=SHAMPOO_BETA,
        refresh_every=every,
        max_dim=MAX_DIM,
    )
    state, update = ours.start(), jax.jit(ours.update)
    weights = {name: jnp.asarray(value) for name, value in start.items()}
    for found in gradients:
        theirs.step([found[name] for name in shapes])
        state, weights = update(state, weights, found, jnp.float32(RATE))
    return dict(zip(shapes, theirs.session.run(theirs.variables))), weights, start


def gradients_of(shapes, count):
    rng = np.random.default_rng(3)
    mean = {name: rng.normal(size=shape) for name, (shape, *_) in shapes.items()}
    return [
        {n: (m + rng.normal(size=m.shape)).astype(np.float32) for n, m in mean.items()}
        for _ in range(count)
    ]


@pytest.mark.parametrize("names, every", [(list(SHAPES), 1), (["a/kernel_rdft"], 4)])
def test_it_takes_the_steps_of_soap(names, every):
    # With more than one tensor only a refresh at every step is in the same steps for all.
    shapes = {name: SHAPES[name] for name in names}
    wanted, found, start = steps_of(shapes, every, gradients_of(shapes, 20))
    for name in names:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-4, err_msg=name)
        assert np.abs(wanted[name] - start[name]).max() > 0.5


def test_without_factors_it_is_adam():
    shapes = {"a": (3, 4), "b": (2,)}
    gradients = gradients_of({name: (shape,) for name, shape in shapes.items()}, 5)
    ours = soap.adam(shapes)
    state, weights = ours.start(), {name: jnp.zeros(shape) for name, shape in shapes.items()}
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [
            tf.get_variable(n, s, initializer=tf.zeros_initializer()) for n, s in shapes.items()
        ]
        inputs = [tf.placeholder(tf.float32, s) for s in shapes.values()]
        train = tf.train.AdamOptimizer(0.01).apply_gradients(zip(inputs, variables))
        session.run(tf.global_variables_initializer())
        for found in gradients:
            session.run(train, {i: found[name] for i, name in zip(inputs, shapes)})
            state, weights = ours.update(state, weights, found, jnp.float32(0.01))
        wanted = session.run(variables)
    for name, values in zip(shapes, wanted):
        np.testing.assert_allclose(weights[name], values, rtol=1e-5, atol=1e-6)


def test_bases_are_orthonormal_whatever_the_columns():
    rng = np.random.default_rng(2)
    even = np.linalg.qr(rng.normal(size=(12, 12)))[0] + 0.1 * rng.normal(size=(12, 12))
    parallel = rng.normal(size=(12, 1)) + 1e-6 * rng.normal(size=(12, 12))
    columns = np.stack([even, parallel, np.eye(12)]).astype(np.float32)
    found = np.asarray(jax.jit(soap.orthonormal)(columns))
    for k, q in enumerate(found):
        np.testing.assert_allclose(q.T @ q, np.eye(12), atol=2e-4, err_msg=str(k))
    # Each column spans, with those before it, what the given ones span.
    for k in range(1, 12):
        rest = even[:, :k] - found[0][:, :k] @ (found[0][:, :k].T @ even[:, :k])
        assert np.abs(rest).max() < 1e-3
