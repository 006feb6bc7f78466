"""SOAP (arXiv 2409.11321) and Adam in JAX: training/soap.py for accelerators.

The algorithm, its constants and its stacks of equal shapes are those of training/soap.py. Two
things differ, as many small factorisations are what an accelerator is slow at: all tensors refresh
their bases in the same step, all factors of one size at once, and a basis is made orthonormal by
Cholesky factorisations. Its columns may get other signs than by QR, which changes no step.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

_RIDGE = 1e-6  # as in training/soap.py
# Added to the diagonal before each of the three Cholesky factorisations that make a basis
# orthonormal: the first keeps nearly parallel columns apart, the last ones mend what it changed.
_SHIFTS = (1e-4, 1e-6, 1e-7)
_ORTHONORMAL = 1e-4  # largest error of Q^T Q that counts as orthonormal; a QR mends the rest


def _matmul(a, b):
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _rotate(stack, matrices, back=False):
    """Multiplies dimension i of each tensor of a stack by matrices[i]^T (``back``: matrices[i]).

    The stack is (count, size_0, ...), matrices[i] (count, size_i, size_i), or None to leave it.
    """
    for i, matrix in enumerate(matrices):
        if matrix is not None:
            moved = jnp.moveaxis(stack, i + 1, -1)
            rows = moved.reshape(moved.shape[0], -1, moved.shape[-1])
            turned = _matmul(rows, jnp.swapaxes(matrix, 1, 2) if back else matrix)
            stack = jnp.moveaxis(turned.reshape(moved.shape), -1, i + 1)
    return stack


def _gram(stack, i):
    """The products of the rows of unfolding i, (count, size_i, size_i)."""
    rows = jnp.moveaxis(stack, i + 1, 1).reshape(stack.shape[0], stack.shape[i + 1], -1)
    return _matmul(rows, jnp.swapaxes(rows, 1, 2))


def _normalised(factors):
    """The factors with trace 1 plus a ridge; the ridge alone for a factor that is zero."""
    trace = jnp.trace(factors, axis1=1, axis2=2)[:, None, None]
    scaled = jnp.where(trace == 0, 0, factors / jnp.where(trace == 0, 1, trace))
    return scaled + _RIDGE * jnp.eye(factors.shape[-1], dtype=factors.dtype)


def _finite_or(factors, fallback):
    """The factors, each replaced by its fallback if its trace is not finite."""
    finite = jnp.isfinite(jnp.trace(factors, axis1=1, axis2=2))
    return jnp.where(finite[:, None, None], factors, fallback)


def orthonormal(columns):
    """Orthonormal columns that span what the first columns span, each: float32 (count, n, n)."""
    eye = jnp.eye(columns.shape[-1], dtype=columns.dtype)
    q = columns / jnp.maximum(jnp.linalg.norm(columns, axis=1, keepdims=True), 1e-30)
    for shift in _SHIFTS:
        products = _matmul(jnp.swapaxes(q, 1, 2), q) + shift * eye
        lower = lax.linalg.cholesky(products, symmetrize_input=False)
        q = lax.linalg.triangular_solve(lower, q, lower=True, transpose_a=True)
    error = jnp.max(jnp.abs(_matmul(jnp.swapaxes(q, 1, 2), q) - eye), axis=(1, 2))
    good = error < _ORTHONORMAL  # not where it is NaN

    def mended():
        return jnp.where(good[:, None, None], q, jnp.linalg.qr(columns)[0])

    return lax.cond(jnp.all(good), lambda: q, mended)


class Soap:
    """SOAP for the weights that have a factor shape, Adam for the others; all float32.

    As in training/soap.py the first update changes no weight where there are factors: it makes the
    bases from the first gradients.

    Args:
      shapes: dict of name to the shape of each weight that has a gradient.
      factors: dict of name to the shape that it is factored in; without any this is Adam.
      betas: decay of first and second moments.
      shampoo_beta: decay of the factors.
      refresh_every: steps between refreshes of the bases.
      max_dim: larger dimensions are not rotated.
    """

    def __init__(
        self,
        shapes,
        factors,
        betas=(0.95, 0.95),
        shampoo_beta=0.95,
        epsilon=1e-8,
        refresh_every=10,
        max_dim=1024,
    ):
        self._shapes, self._betas, self._shampoo_beta = shapes, betas, shampoo_beta
        self._epsilon, self._refresh_every, self._max_dim = epsilon, refresh_every, max_dim
        groups = {}
        for name in sorted(shapes):
            shape = tuple(size for size in factors.get(name, ()) if size != 1)
            if any(size <= max_dim for size in shape):
                groups.setdefault(shape, []).append(name)
        self._groups = {"x".join(map(str, s)): (s, names) for s, names in groups.items()}
        grouped = {name for names in groups.values() for name in names}
        self._plain = [name for name in sorted(shapes) if name not in grouped]

    def start(self):
        """The state before the first update, a dict of arrays."""

        def zeros(*shape):  # each an array of its own, which a step may reuse
            return jnp.zeros(shape, jnp.float32)

        shapes = {name: self._shapes[name] for name in self._plain}
        state = {
            # Updates that changed weights, and the one to come.
            "count": jnp.asarray(0 if self._groups else 1, jnp.int32),
            "plain": {name: (zeros(*shape), zeros(*shape)) for name, shape in shapes.items()},
        }
        for key, (shape, names) in self._groups.items():
            tensors = {kind: zeros(len(names), *shape) for kind in "mv"}
            sides = {str(i): n for i, n in enumerate(shape) if n <= self._max_dim}
            squares = {
                kind: {i: zeros(len(names), n, n) for i, n in sides.items()}
                for kind in ("factors", "bases")
            }
            state[key] = {**tensors, **squares}
        return state

    def _stack(self, gradients, key):
        shape, names = self._groups[key]
        return jnp.stack([gradients[name].reshape(shape) for name in names])

    def update(self, state, weights, gradients, rate):
        """One step.

        Args:
          state: of ``start`` or the step before.
          weights: dict by name; those without a gradient stay as they are.
          gradients: dict by name of finite arrays.
          rate: float32 scalar.

        Returns:
          The new state and the new weights.
        """
        if not self._groups:
            return self._step(state, weights, gradients, rate)
        first = state["count"] == 0
        return lax.cond(first, self._first, self._step, state, weights, gradients, rate)

    def _first(self, state, weights, gradients, rate):
        """Factors and bases from the first gradients; no weight changes."""
        del rate
        new = {**state, "count": state["count"] + 1}
        for key in self._groups:
            stack = self._stack(gradients, key)
            factors, bases = {}, {}
            for i in state[key]["factors"]:
                gram = _gram(stack, int(i))
                factors[i] = (1 - self._shampoo_beta) * _finite_or(gram, jnp.zeros_like(gram))
                # eigh's ascend; the largest comes first
                bases[i] = jnp.linalg.eigh(_normalised(factors[i]))[1][:, :, ::-1]
            new[key] = {**state[key], "factors": factors, "bases": bases}
        return new, weights

    def _step(self, state, weights, gradients, rate):
        beta1, beta2 = self._betas
        count = state["count"].astype(jnp.float32)
        one_minus = [-jnp.expm1(count * jnp.log(jnp.float32(b))) for b in (beta1, beta2)]
        rate = rate * jnp.sqrt(one_minus[1]) / one_minus[0]
        new, changed = {"count": state["count"] + 1, "plain": {}}, dict(weights)

        def moments(m, v, gradient):
            m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
            return m, v, m / (jnp.sqrt(v) + self._epsilon)

        for name in self._plain:
            m, v, direction = moments(*state["plain"][name], gradients[name])
            new["plain"][name] = (m, v)
            changed[name] = weights[name] - rate * direction
        for key, (shape, names) in self._groups.items():
            old, stack = state[key], self._stack(gradients, key)
            bases = [old["bases"].get(str(i)) for i in range(len(shape))]
            m, v, direction = moments(old["m"], old["v"], _rotate(stack, bases))
            direction = _rotate(direction, bases, back=True)
            for k, name in enumerate(names):
                changed[name] = weights[name] - rate * direction[k].reshape(weights[name].shape)
            beta, factors = self._shampoo_beta, {}
            for i, factor in old["factors"].items():
                mean = beta * factor + (1 - beta) * _gram(stack, int(i))
                factors[i] = _finite_or(mean, factor)
            new[key] = {"m": m, "v": v, "factors": factors, "bases": old["bases"]}
        if self._groups:
            due = state["count"] % self._refresh_every == 0
            new = lax.cond(due, self._refreshed, lambda same: same, new)
        return new, changed

    def _refreshed(self, state):
        """The state on new bases: the orthonormal factor of L Q, one power iteration."""
        places = {}  # of the factors of each size
        for key, (shape, _) in self._groups.items():
            for i in state[key]["bases"]:
                places.setdefault(shape[int(i)], []).append((key, i))
        bases, changes, orders = {}, {}, {}
        for found in places.values():
            before = jnp.concatenate([state[key]["bases"][i] for key, i in found])
            factors = jnp.concatenate([state[key]["factors"][i] for key, i in found])
            images = _matmul(_normalised(factors), before)
            order = jnp.argsort(-jnp.sum(before * images, axis=1), axis=1)
            after = orthonormal(jnp.take_along_axis(images, order[:, None, :], axis=2))
            change = _matmul(jnp.swapaxes(before, 1, 2), after)
            start = 0
            for place in found:
                part = slice(start, start + len(self._groups[place[0]][1]))
                bases[place], changes[place], orders[place] = after[part], change[part], order[part]
                start = part.stop
        new = dict(state)
        for key, (shape, _) in self._groups.items():
            old = state[key]
            m, v = old["m"], old["v"]
            m = _rotate(m, [changes.get((key, str(i))) for i in range(len(shape))])
            for i in old["bases"]:
                order = orders[key, i]
                sides = [1] * len(shape)
                sides[int(i)] = -1
                index = order.reshape(order.shape[0], *sides)
                v = jnp.take_along_axis(v, index, axis=int(i) + 1)
            new[key] = {**old, "m": m, "v": v, "bases": {i: bases[key, i] for i in old["bases"]}}
        return new


def adam(shapes):
    """Adam as tf.train.AdamOptimizer has it, for the weights of ``Soap``'s ``shapes``."""
    return Soap(shapes, {}, betas=(0.9, 0.999))
