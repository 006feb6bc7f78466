"""SOAP against a float64 NumPy implementation of the same algorithm, and its use in a graph."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from training.soap import SOAP, gradients_are_finite

# Variable shape, tensor shape that it is seen as, its turn in the order of refreshes. With
# max_dim = 10 the dimensions 12 and 25 are not rotated.
VARIABLES = {
    "a/kernel_rdft": ((9, 6), (9, 2, 3), 0),
    "b/kernel": ((1, 1, 4, 3), (4, 3), 1),
    "c/kernel": ((1, 1, 4, 3), (1, 4, 1, 3), 2),
    "d/kernel": ((12, 3), (12, 3), 3),
    "e/weights": ((5, 5, 2, 2), (25, 2, 2), 4),
    "f/bias": ((5,), None, None),
}
RATE, BETA1, BETA2, SHAMPOO_BETA, EPSILON, MAX_DIM = 0.1, 0.9, 0.95, 0.8, 1e-8, 10


@pytest.fixture(params=["control flow v1", "control flow v2"])
def control_flow(request):
    before = tf.control_flow_v2_enabled()
    (tf.enable_control_flow_v2 if request.param.endswith("v2") else tf.disable_control_flow_v2)()
    yield
    (tf.enable_control_flow_v2 if before else tf.disable_control_flow_v2)()


class Oracle:
    """One variable of the algorithm, in float64, with tensordot and explicit moment rotations."""

    def __init__(self, weights, shape, turn):
        self.weights = weights.astype(np.float64)
        self.shape = tuple(n for n in (shape or weights.shape) if n != 1)
        self.rotated = [i for i, n in enumerate(self.shape) if shape and n <= MAX_DIM]
        self.turn = turn
        self.m, self.v = np.zeros(self.shape), np.zeros(self.shape)  # m in the original space
        self.factors = {i: np.zeros((self.shape[i],) * 2) for i in self.rotated}
        self.bases = None
        self.steps = 0

    def _apply(self, tensor, matrices):
        for i, matrix in matrices.items():
            tensor = np.moveaxis(np.tensordot(matrix, tensor, (1, i)), 0, i)
        return tensor

    def accumulate(self, grad):
        for i, factor in self.factors.items():
            rows = np.moveaxis(grad, i, 0).reshape(self.shape[i], -1)
            self.factors[i] = SHAMPOO_BETA * factor + (1 - SHAMPOO_BETA) * rows @ rows.T

    def step(self, grad, refresh_every):
        grad = grad.astype(np.float64).reshape(self.shape)
        self.steps += 1
        forth = {i: basis.T for i, basis in self.bases.items()}
        self.m = BETA1 * self.m + (1 - BETA1) * grad
        self.v = BETA2 * self.v + (1 - BETA2) * self._apply(grad, forth) ** 2
        first = self._apply(self.m, forth) / (1 - BETA1**self.steps)
        correction = np.sqrt(1 - BETA2**self.steps)
        direction = first / ((np.sqrt(self.v) + EPSILON) / correction)
        update = RATE * self._apply(direction, self.bases)
        self.weights -= update.reshape(self.weights.shape)
        self.accumulate(grad)
        if self.rotated and self.steps % refresh_every == self.turn % refresh_every:
            self.refresh()

    def refresh(self):
        for i in self.rotated:
            ridge = 1e-6 * np.trace(self.factors[i]) * np.eye(self.shape[i])
            image = (self.factors[i] + ridge) @ self.bases[i]
            order = np.argsort(-np.diag(self.bases[i].T @ image))
            self.v = np.take(self.v, order, axis=i)
            self.bases[i] = np.linalg.qr(image[:, order])[0]


class Training:
    """A graph whose gradients are placeholders, with its session."""

    def __init__(self, shapes, guard=False, threads=0, **settings):
        settings = {"beta1": BETA1, "shampoo_beta": SHAMPOO_BETA, "max_dim": MAX_DIM, **settings}
        self.graph = tf.Graph()
        with self.graph.as_default():
            rng = np.random.RandomState(1)
            self.variables, self.gradients = [], []
            for name, (shape, *_) in shapes.items():
                value = rng.normal(size=shape).astype(np.float32)
                variable = tf.get_variable(name, initializer=value, use_resource=True)
                self.variables.append(variable)
                self.gradients.append(tf.placeholder(tf.float32, shape))
            self.optimizer = SOAP(RATE, lambda v: shapes[v.op.name][1], **settings)
            pairs = list(zip(self.gradients, self.variables))
            zero = tf.zeros((), tf.int64)
            self.global_step = tf.get_variable("steps", initializer=zero, use_resource=True)
            with tf.name_scope("outer"):
                if guard:
                    self.train = tf.cond(
                        gradients_are_finite(self.gradients),
                        lambda: self.optimizer.apply_gradients(pairs, self.global_step),
                        tf.no_op,
                    )
                else:
                    self.train = self.optimizer.apply_gradients(pairs, self.global_step)
            self.saver = tf.train.Saver()
            config = tf.ConfigProto(intra_op_parallelism_threads=threads)
            self.session = tf.Session(graph=self.graph, config=config)
            self.session.run(tf.global_variables_initializer())

    def step(self, gradients):
        self.session.run(self.train, dict(zip(self.gradients, gradients)))

    def save(self, path):
        with self.graph.as_default():
            return self.saver.save(self.session, str(path))

    def restore(self, path):
        with self.graph.as_default():
            self.saver.restore(self.session, path)

    def weights(self):
        return self.session.run(self.variables)

    def state(self):
        """Name to value of all variables of the graph."""
        with self.graph.as_default():
            return self.session.run({v.op.name: v for v in tf.global_variables()})

    def bases(self):
        """Tensor shape to {dimension: bases} of the optimizer."""
        bases = {}
        for name, value in self.state().items():
            if "/basis_" in name:
                shape, key = name.split("/")[-2:]
                shape = tuple(int(n) for n in shape.split("x"))
                bases.setdefault(shape, {})[int(key[6:])] = value
        return bases


def gradient_steps(count, shapes, seed=0):
    """Random gradients whose factors have well separated eigenvalues in a generic basis."""
    rng = np.random.RandomState(seed)
    mixing = []
    for _, shape, _ in shapes.values():
        matrices = [
            np.linalg.qr(rng.normal(size=(n, n)))[0] * 0.6 ** np.arange(n) for n in shape or ()
        ]
        mixing.append(matrices)
    for _ in range(count):
        gradients = []
        for (stored, shape, _), matrices in zip(shapes.values(), mixing):
            gradient = rng.normal(size=shape or stored)
            for i, matrix in enumerate(matrices):
                gradient = np.moveaxis(np.tensordot(matrix, gradient, (1, i)), 0, i)
            gradients.append(gradient.reshape(stored).astype(np.float32))
        yield gradients


def assert_same_state(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)


def assert_orthonormal(bases):
    assert bases
    for by_dim in bases.values():
        for basis in by_dim.values():
            identity = np.broadcast_to(np.eye(basis.shape[-1]), basis.shape)
            np.testing.assert_allclose(np.swapaxes(basis, 1, 2) @ basis, identity, atol=1e-5)


@pytest.mark.parametrize("refresh_every", [1, 4, 10])
def test_agrees_with_the_float64_oracle(refresh_every):
    training = Training(VARIABLES, refresh_every=refresh_every)
    start = training.weights()
    oracles = [Oracle(w, s, t) for w, (_, s, t) in zip(start, VARIABLES.values())]
    first, *others = gradient_steps(26, VARIABLES)

    training.step(first)
    for weights, before in zip(training.weights(), start):
        np.testing.assert_array_equal(weights, before)
    rows = {(4, 3): iter((0, 1))}
    for oracle, gradient in zip(oracles, first):
        oracle.accumulate(gradient.astype(np.float64).reshape(oracle.shape))
        # Eigenvectors of a null space are arbitrary, so the oracle goes on from those found here,
        # once it has checked that they are eigenvectors of its own factors in falling order.
        row = next(rows.get(oracle.shape, iter((0,))))
        found = training.bases().get(oracle.shape, {})
        oracle.bases = {i: basis[row].astype(np.float64) for i, basis in found.items()}
        assert sorted(oracle.bases) == oracle.rotated
        for i, factor in oracle.factors.items():
            eigenvalues = np.linalg.eigvalsh(factor)[::-1]
            atol = 1e-5 * eigenvalues[0]
            rotated = oracle.bases[i].T @ factor @ oracle.bases[i]
            np.testing.assert_allclose(rotated, np.diag(eigenvalues), atol=atol)
    assert_orthonormal(training.bases())

    for gradients in others:
        training.step(gradients)
        for oracle, gradient in zip(oracles, gradients):
            oracle.step(gradient, refresh_every)
        for weights, oracle, name in zip(training.weights(), oracles, VARIABLES):
            np.testing.assert_allclose(
                weights, oracle.weights, rtol=0, atol=2e-3 * RATE, err_msg=name
            )
    moved = [np.abs(o.weights - w).max() for o, w in zip(oracles, start)]
    assert min(moved) > RATE
    assert training.session.run(training.global_step) == 26


def test_each_variable_is_refreshed_once_in_its_turn():
    training = Training(VARIABLES, refresh_every=5)
    turns = {(9, 2, 3): [0], (4, 3): [1, 2], (12, 3): [3], (25, 2, 2): [4]}
    for update, gradients in enumerate(gradient_steps(12, VARIABLES)):
        before = training.bases()
        training.step(gradients)
        if update == 0:
            continue
        for shape, by_dim in training.bases().items():
            for dim, bases in by_dim.items():
                for row, turn in enumerate(turns[shape]):
                    changed = not np.array_equal(bases[row], before[shape][dim][row])
                    assert changed == (update % 5 == turn), (update, shape, dim, row)


def test_variables_without_a_factor_shape_follow_adam():
    shapes = {"w": ((4, 3), None, None), "scalar": ((), None, None)}
    training = Training(shapes, beta1=0.9, beta2=0.99, epsilon=1e-4)
    with training.graph.as_default():
        copies = [tf.Variable(weights, use_resource=True) for weights in training.weights()]
        pairs = list(zip(training.gradients, copies))
        adam = tf.train.AdamOptimizer(RATE, 0.9, 0.99, 1e-4).apply_gradients(pairs)
        training.session.run(tf.global_variables_initializer())
    first, *others = gradient_steps(8, shapes)
    training.step(first)
    for gradients in others:
        training.step(gradients)
        training.session.run(adam, dict(zip(training.gradients, gradients)))
    for weights, expected in zip(training.weights(), training.session.run(copies)):
        np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)


def test_resumes_exactly_from_a_checkpoint(tmp_path):
    gradients = list(gradient_steps(20, VARIABLES))
    training = Training(VARIABLES, refresh_every=4)
    for step in range(20):
        if step == 7:
            path = training.save(tmp_path / "model")
        training.step(gradients[step])
    resumed = Training(VARIABLES, refresh_every=4)
    resumed.restore(path)
    for step in range(7, 20):
        resumed.step(gradients[step])
    assert_same_state(resumed.state(), training.state())


def test_state_names_do_not_depend_on_where_the_op_is_built(control_flow):
    names = set(Training(VARIABLES, guard=True).state())
    assert names == set(Training(VARIABLES).state())
    assert {"SOAP/step", "SOAP/9x2x3/basis_2", "SOAP/12x3/factor_1"} <= names
    assert {"SOAP/4x3/exp_avg", "f/bias/SOAP_exp_avg_sq"} <= names
    assert "SOAP/12x3/factor_0" not in names


def test_repeats_bit_for_bit():
    shapes = {f"{i}/kernel": ((9, 1024), (9, 32, 32), None) for i in range(4)}
    states = []
    for _ in range(2):
        training = Training(shapes, threads=2, max_dim=64, refresh_every=2)
        for gradients in gradient_steps(6, shapes):
            training.step(gradients)
        states.append(training.state())
    assert_same_state(*states)


def test_refused_step_changes_nothing(control_flow):
    training, untouched = Training(VARIABLES, guard=True), Training(VARIABLES)
    # The square of the last value overflows, the value itself does not.
    bad_values = {0: np.nan, 1: -np.inf, 4: 1e25}
    for step, gradients in enumerate(gradient_steps(6, VARIABLES)):
        if step in bad_values:
            bad = [g.copy() for g in gradients]
            bad[step].flat[1] = bad_values[step]
            before = training.state()
            training.step(bad)
            assert_same_state(training.state(), before)
        training.step(gradients)
        untouched.step(gradients)
    assert_same_state(training.state(), untouched.state())
    assert training.state()["SOAP/step"] == 6


def test_factors_survive_gradients_whose_squares_overflow():
    shapes = {name: value for name, value in VARIABLES.items() if value[1]}
    training = Training(shapes, refresh_every=2)
    for step, gradients in enumerate(gradient_steps(12, shapes)):
        scale = np.float32(1e25 if step in (0, 5) else 1)
        training.step([g * scale for g in gradients])
    assert all(np.isfinite(w).all() for w in training.weights())
    assert all(np.isfinite(v).all() for k, v in training.state().items() if "/factor_" in k)
    assert_orthonormal(training.bases())


def test_zero_gradients_are_harmless():
    training = Training(VARIABLES, refresh_every=2)
    start = training.weights()
    for gradients in gradient_steps(6, VARIABLES):
        training.step([0 * g for g in gradients])
    assert_orthonormal(training.bases())
    for weights, before in zip(training.weights(), start):
        np.testing.assert_array_equal(weights, before)
    for gradients in gradient_steps(6, VARIABLES):
        training.step(gradients)
    assert_orthonormal(training.bases())
    for weights, before in zip(training.weights(), start):
        assert np.isfinite(weights).all()
        assert np.abs(weights - before).max() > RATE / 2


def test_masked_weights_stay_where_they_are():
    shapes = {"masked/weights": ((5, 5, 2, 3), (25, 2, 3), None)}
    training = Training(shapes, refresh_every=3, max_dim=64)
    (start,) = training.weights()
    live = (np.arange(25) < 12).reshape(5, 5, 1, 1)
    for (gradient,) in gradient_steps(20, shapes):
        training.step([gradient * live])
    (weights,) = training.weights()
    moved = np.abs(weights - start).max(axis=(2, 3))
    assert moved[live[:, :, 0, 0]].min() > RATE
    assert moved[~live[:, :, 0, 0]].max() < 1e-6


def quadratic_loss(optimizer, steps):
    """Loss after so many steps on |A (W - T) B|^2 / 2, A and B of condition 100, start at 1."""
    rng = np.random.RandomState(3)

    def matrix(n):
        left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
        return (left * np.logspace(0, -2, n)) @ right

    left, target, right = matrix(16), rng.normal(size=(16, 12)), matrix(12)
    with tf.Graph().as_default(), tf.Session() as session:
        w = tf.get_variable("w", initializer=tf.zeros((16, 12)), use_resource=True)
        residual = tf.matmul(tf.matmul(left.astype("f"), w - target.astype("f")), right.astype("f"))
        loss = tf.nn.l2_loss(residual)
        train = optimizer.minimize(loss)
        session.run(tf.global_variables_initializer())
        first = session.run(loss)
        for _ in range(steps):
            session.run(train)
        return session.run(loss) / first


def test_converges_faster_than_adam_on_an_ill_conditioned_quadratic():
    adam, soap = [], []
    for rate in (0.03, 0.1):
        adam.append(quadratic_loss(tf.train.AdamOptimizer(rate, 0.95, 0.95), 400))
        soap.append(quadratic_loss(SOAP(rate, lambda v: v.shape.as_list()), 400))
    assert min(soap) < 0.1 * min(adam)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta1": 1.0}, "beta1 must lie in"),
        ({"shampoo_beta": -0.1}, "shampoo_beta must lie in"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"refresh_every": 0}, "refresh_every must be a whole number"),
        ({"max_dim": 2.5}, "max_dim must be a whole number"),
    ],
)
def test_refuses_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SOAP(1e-3, lambda v: None, **settings)


def test_refuses_bad_variables():
    with tf.Graph().as_default():
        optimizer = SOAP(1e-3, lambda v: (3, 3))
        w = tf.get_variable("w", (3, 4), use_resource=True)
        with pytest.raises(ValueError, match=r"\(3, 3\) of w .* shape is \(3, 4\)"):
            optimizer.apply_gradients([(tf.ones((3, 4)), w)])
        ref = tf.get_variable("ref", (3, 3), use_resource=False)
        double = tf.get_variable("double", (3, 3), tf.float64, use_resource=True)
        for variable in (ref, double):
            gradient = tf.ones((3, 3), variable.dtype.base_dtype)
            with pytest.raises(ValueError, match="must be a float32 resource variable"):
                optimizer.apply_gradients([(gradient, variable)])
        with pytest.raises(ValueError, match="no gradient to apply"):
            optimizer.apply_gradients([(None, w)])
        square = [tf.get_variable(f"square_{i}", (3, 3), use_resource=True) for i in range(2)]
        pairs = [(tf.ones((3, 3)), v) for v in square]
        optimizer.apply_gradients(pairs[:1])
        with pytest.raises(ValueError, match="the same variables"):
            optimizer.apply_gradients(pairs)
