"""SOAP: Adam run in the slowly updated eigenbasis of Shampoo's Kronecker factors.

Source: Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", arXiv 2409.11321,
Algorithm 3, and the authors' reference implementation, for tensors of any number of dimensions.

A weight tensor with gradient G keeps for each dimension i

* a factor L_i = EMA of G_(i) G_(i)^T, where G_(i) is the unfolding of G with dimension i as rows;
* a basis Q_i, orthonormal columns that approximate the eigenvectors of L_i, largest first.

A step rotates G by all Q_i^T, runs Adam there, rotates the direction back and then updates the
factors. A refresh replaces Q_i by the orthonormal factor of qr(L_i Q_i), one power iteration.

As in the reference implementation the first call only initialises factors and bases, so that no
gradient is rotated by a basis made from itself; a refresh carries the first moment, kept rotated,
over to the new basis and reorders the second moment together with the columns of the basis. Unlike
there, each tensor has its own turn for the refresh within every `refresh_every` steps, so that all
steps cost about the same. Tensors of equal shape are stacked, which keeps the graph small.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow.compat.v1 as tf

# A factor divided by its trace gets this on its diagonal: above float32 rounding, so that the basis
# of its null space stays where it is, and below all eigenvalues that matter.
_RIDGE = 1e-6


class _Group(NamedTuple):
    """Variables of equal tensor shape, stacked along a new first axis by name."""

    shape: tuple
    variables: list
    gradients: tf.Tensor  # (len(variables), *shape)
    rotated: list  # the dimensions that have a factor and a basis
    first_turn: int  # place of the group's first variable in the order of refreshes
    state: dict  # name to state variable


def gradients_are_finite(gradients):
    """Scalar bool tensor: the squared norm of all gradients together is finite.

    Stricter than "no NaN, no Inf": the sums of products of gradient entries that second moments and
    factors accumulate cannot overflow either. None entries are skipped.
    """
    halves = [tf.nn.l2_loss(g) for g in gradients if g is not None]
    return tf.math.is_finite(2.0 * tf.add_n(halves))


def _rotate(stack, matrices, back=False):
    """Multiply dimension i of each tensor by matrices[i]^T (`back`: matrices[i]), None: leave it.

    The stack is (count, size_0, size_1, ...), matrices[i] is (count, size_i, size_i). Returns the
    result and the unfoldings (count, size_i, rest) multiplied on the way. Dimensions come round in
    turn, so that nothing is transposed; in unfolding i those before i are rotated already, which
    leaves its Gram matrix as it is.
    """
    shape = stack.shape.as_list()[1:]
    unfoldings = []
    for size, matrix in zip(shape, matrices):
        unfolding = tf.reshape(stack, (-1, size, math.prod(shape) // size))
        unfoldings.append(unfolding)
        if matrix is None:
            stack = tf.linalg.matrix_transpose(unfolding)
        else:
            stack = tf.matmul(unfolding, matrix, transpose_a=True, transpose_b=back)
    return tf.reshape(stack, [-1, *shape]), unfoldings


def _finite_or(factors, fallback):
    """The factors (count, size, size), each replaced by its fallback if its trace is not finite."""
    finite = tf.math.is_finite(tf.linalg.trace(factors))
    return tf.where_v2(finite[:, None, None], factors, fallback)


def _normalised(factors):
    """The factors with trace 1 plus a ridge; the ridge alone for a factor that is zero."""
    trace = tf.linalg.trace(factors)[:, None, None]
    return tf.math.divide_no_nan(factors, trace) + _RIDGE * tf.eye(factors.shape.as_list()[-1])


def _power_iteration(factors, bases):
    """One QR power iteration: new bases, and the order (count, size) of their columns before."""
    images = tf.matmul(_normalised(factors), bases)
    eigenvalues = tf.reduce_sum(bases * images, axis=1)
    order = tf.argsort(eigenvalues, direction="DESCENDING", stable=True)
    return tf.linalg.qr(tf.gather(images, order, axis=2, batch_dims=1))[0], order


class SOAP(tf.train.Optimizer):
    """SOAP for the variables that `factor_shape` names, Adam for all others; float32.

    The first call of the update op changes no variable (see the module docstring). All state
    consists of global variables, so `tf.train.Saver` resumes exactly, given the same variables.

    Gradients must have a finite squared norm. To refuse a step as a whole, state included:

        finite = gradients_are_finite([g for g, _ in grads_and_vars])
        train = tf.cond(finite, lambda: optimizer.apply_gradients(grads_and_vars), tf.no_op)

    Args:
        learning_rate: number or scalar tensor.
        factor_shape: callable from a variable to the tensor shape it is seen as, a tuple of ints
            with the variable's number of elements, or None for plain Adam. A convolution kernel
            stored as (kh*kw, cin*cout), for example, is seen as (kh*kw, cin, cout).
        beta1, beta2, shampoo_beta: decay of first moments, second moments and factors, in [0, 1).
        epsilon: added to the root of the uncorrected second moment, as in AdamOptimizer.
        refresh_every: number of steps from one refresh of a variable's bases to the next.
        max_dim: larger dimensions are not rotated (identity basis); cost grows with the cube.
        name: name of the optimizer and prefix of its state.

    Raises:
        ValueError: a setting out of its range, or, from apply_gradients, no gradient at all, a
            variable that is not a float32 resource variable, or a factor shape that does not fit.
    """

    def __init__(
        self,
        learning_rate,
        factor_shape,
        beta1=0.95,
        beta2=0.95,
        shampoo_beta=0.95,
        epsilon=1e-8,
        refresh_every=10,
        max_dim=1024,
        name="SOAP",
    ):
        super().__init__(use_locking=False, name=name)
        for label, beta in (("beta1", beta1), ("beta2", beta2), ("shampoo_beta", shampoo_beta)):
            if not 0 <= beta < 1:
                raise ValueError(f"SOAP: {label} must lie in [0, 1), but is {beta}.")
        if not epsilon > 0:
            raise ValueError(f"SOAP: epsilon must be positive, but is {epsilon}.")
        for label, count in (("refresh_every", refresh_every), ("max_dim", max_dim)):
            if not (isinstance(count, int) and count >= 1):
                raise ValueError(f"SOAP: {label} must be a whole number from 1 up, but is {count}.")
        self._learning_rate, self._factor_shape = learning_rate, factor_shape
        self._beta1, self._beta2, self._shampoo_beta = beta1, beta2, shampoo_beta
        self._epsilon, self._refresh_every, self._max_dim = epsilon, refresh_every, max_dim

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """Op that makes one step; it may be built inside a branch of tf.cond.

        Pairs without a gradient are skipped; global_step, if given, is incremented after the step
        (inside tf.cond of control flow v2 it must be a resource variable, too);
        `name` is the name scope of the op. Raises ValueError (see the class).
        """
        pairs = [(tf.convert_to_tensor(g), v) for g, v in grads_and_vars if g is not None]
        if not pairs:
            raise ValueError(
                "SOAP: no gradient to apply; check that the loss depends on variables."
            )
        shapes = [self._tensor_shape(var) for _, var in pairs]
        plain = [pair for pair, shape in zip(pairs, shapes) if not shape]
        with tf.name_scope(name or self._name):
            groups = self._group(pairs, shapes)
            self._create_slots([var for _, var in plain])
            counter = self._state("step", (), pairs[0][1], tf.int64)
            step = counter.read_value()
            done = tf.cond(
                tf.equal(step, 0),
                lambda: tf.group(*[self._initialise(group) for group in groups]),
                lambda: self._update(groups, plain, step),
            )
            with tf.control_dependencies([done]):
                counters = [counter] if global_step is None else [counter, global_step]
                return tf.group(*[tf.assign_add(variable, 1) for variable in counters])

    def _tensor_shape(self, var):
        """Shape that a variable is factored in, without dimensions of size 1; () for plain Adam."""
        if not (hasattr(var, "handle") and var.dtype.base_dtype == tf.float32):
            raise ValueError(
                f"SOAP: {var.op.name} must be a float32 resource variable (use_resource=True)."
            )
        shape = tuple(self._factor_shape(var) or ())
        if shape and math.prod(shape) != var.shape.num_elements():
            raise ValueError(
                f"SOAP: the factor shape {shape} of {var.op.name} must have as many elements as "
                f"the variable, whose shape is {tuple(var.shape.as_list())}."
            )
        rotated = any(1 < size <= self._max_dim for size in shape)
        return tuple(size for size in shape if size != 1) if rotated else ()

    def _group(self, pairs, shapes):
        """The groups of the factored variables, with their state.

        Costliest first: dealing out turns in this order spreads the cost of refreshes over steps.
        """
        kernels = [(s, var.name, grad, var) for (grad, var), s in zip(pairs, shapes) if s]
        cost = {s: sum(n**3 for n in s if n <= self._max_dim) for s, *_ in kernels}
        groups, turn = [], 0
        for shape in sorted(cost, key=lambda s: (-cost[s], s)):
            members = sorted((k for k in kernels if k[0] == shape), key=lambda k: k[1])
            gradients = tf.stack([tf.reshape(grad, shape) for *_, grad, _ in members])
            variables = [var for *_, var in members]
            rotated = [i for i, size in enumerate(shape) if size <= self._max_dim]
            sizes = {"exp_avg": shape, "exp_avg_sq": shape}
            for i in rotated:
                sizes[f"factor_{i}"] = sizes[f"basis_{i}"] = (shape[i], shape[i])
            state = {}
            for key, size in sizes.items():
                key_path = "x".join(map(str, shape)) + "/" + key
                state[key] = self._state(key_path, (len(members), *size), variables[0])
            groups.append(_Group(shape, variables, gradients, rotated, turn, state))
            turn += len(members)
        return groups

    def _state(self, key, shape, anchor, dtype=tf.float32):
        with tf.init_scope(), tf.name_scope(None):  # outside of any tf.cond of the caller
            path = f"{self._name}/{key}"
            state = self._create_non_slot_variable(tf.zeros(shape, dtype), path, anchor)
        if tuple(state.shape.as_list()) != shape:
            raise ValueError("SOAP: an optimizer must always be given the same variables.")
        return state

    def _create_slots(self, var_list):
        with tf.init_scope():
            for var in var_list:
                for key in ("exp_avg", "exp_avg_sq"):
                    self._zeros_slot(var, key, f"{self._name}_{key}")

    def _initialise(self, group):
        """First call: factors and bases from the first gradients."""
        _, unfoldings = _rotate(group.gradients, [None] * len(group.shape))
        updates = []
        for i in group.rotated:
            gram = tf.matmul(unfoldings[i], unfoldings[i], transpose_b=True)
            factors = (1 - self._shampoo_beta) * _finite_or(gram, tf.zeros_like(gram))
            bases = tf.reverse(tf.linalg.eigh(_normalised(factors))[1], axis=[2])  # largest first
            updates.append(group.state[f"factor_{i}"].assign(factors, read_value=False))
            updates.append(group.state[f"basis_{i}"].assign(bases, read_value=False))
        return tf.group(*updates)

    def _update(self, groups, plain, step):
        """Every later call; `step` counts the updates from 1."""
        count = tf.cast(step, tf.float64)
        correction = tf.sqrt(1 - self._beta2**count) / (1 - self._beta1**count)
        rate = tf.cast(tf.cast(self._learning_rate, tf.float64) * correction, tf.float32)
        adam = [self._update_plain(grad, var, rate) for grad, var in plain]
        return tf.group(*adam, *[self._update_group(group, rate, step) for group in groups])

    def _update_plain(self, grad, var, rate):
        return tf.raw_ops.ResourceApplyAdam(
            var=var.handle,
            m=self.get_slot(var, "exp_avg").handle,
            v=self.get_slot(var, "exp_avg_sq").handle,
            beta1_power=0.0,  # the rate is corrected for bias already
            beta2_power=0.0,
            lr=rate,
            beta1=self._beta1,
            beta2=self._beta2,
            epsilon=self._epsilon,
            grad=grad,
        )

    def _update_group(self, group, rate, step):
        old = {key: state.read_value() for key, state in group.state.items()}
        new, beta = {}, self._shampoo_beta
        bases = [old.get(f"basis_{i}") for i in range(len(group.shape))]
        rotated, unfoldings = _rotate(group.gradients, bases)
        new["exp_avg"] = self._beta1 * old["exp_avg"] + (1 - self._beta1) * rotated
        new["exp_avg_sq"] = self._beta2 * old["exp_avg_sq"] + (1 - self._beta2) * rotated**2
        scaled = new["exp_avg"] / (tf.sqrt(new["exp_avg_sq"]) + self._epsilon)
        directions, _ = _rotate(scaled, bases, back=True)
        for i in group.rotated:
            key = f"factor_{i}"
            gram = tf.matmul(unfoldings[i], unfoldings[i], transpose_b=True)
            new[key] = _finite_or(beta * old[key] + (1 - beta) * gram, old[key])
            new[f"basis_{i}"] = bases[i]
        self._refresh(group, new, step)
        updates = [group.state[key].assign(new[key], read_value=False) for key in new]
        for var, direction in zip(group.variables, tf.unstack(directions, len(group.variables))):
            delta = rate * tf.reshape(direction, var.shape)
            updates.append(var.assign_sub(delta, read_value=False))
        return tf.group(*updates)

    def _refresh(self, group, new, step):
        """Refresh, in the dict `new`, the variables of the group whose turn this step is."""
        first = (step - group.first_turn) % self._refresh_every
        rows = tf.range(len(group.variables))[first :: self._refresh_every]  # may be empty
        where = rows[:, None]
        exp_avg, exp_avg_sq = tf.gather(new["exp_avg"], rows), tf.gather(new["exp_avg_sq"], rows)
        changes = [None] * len(group.shape)
        for i in group.rotated:
            key = f"basis_{i}"
            before = tf.gather(new[key], rows)
            after, order = _power_iteration(tf.gather(new[f"factor_{i}"], rows), before)
            changes[i] = tf.matmul(before, after, transpose_a=True)
            exp_avg_sq = tf.gather(exp_avg_sq, order, axis=i + 1, batch_dims=1)
            new[key] = tf.tensor_scatter_nd_update(new[key], where, after)
        exp_avg, _ = _rotate(exp_avg, changes)
        new["exp_avg"] = tf.tensor_scatter_nd_update(new["exp_avg"], where, exp_avg)
        new["exp_avg_sq"] = tf.tensor_scatter_nd_update(new["exp_avg_sq"], where, exp_avg_sq)
