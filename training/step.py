"""One training step: losses and gradients on one device or several, and a guarded update.

A step may be shared out among replicas on several devices: each takes its part of the batch, and
the update waits for the mean of all gradients. Crops and noise are those of a single device, so
that the path of a run does not depend on the number of replicas, but for rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow.compat.v1 as tf

from pictures.metrics import PEAK
from training.losses import Losses, training_losses
from training.placement import SINGLE
from training.soap import SOAP
from variables import QUANTILES, rdft_kernel_shape

AVERAGE_SCOPE = "average"  # of the weights' moving averages: average/NAME


class TrainingGraph(NamedTuple):
    """A step's placeholders, its update and what it gives.

    Attributes:
      x: uint8 (batch, patch, patch, 3), to be fed.
      step: int64, to be fed; with the seed the source of the noise.
      learning_rate: float32, to be fed.
      clip_norm: float32, to be fed; gradients of a larger global norm are scaled down to it.
      train: the op that updates the weights.
      losses: ``Losses``.
      gradient_norm: before clipping.
      finite: whether the update is made: the loss and the gradients' norm are finite.
      suspects: dict of name to a bool tensor, False where that loss or gradient is not finite.
      start_averages: op to run once after the weights are set.
    """

    x: Any
    step: Any
    learning_rate: Any
    clip_norm: Any
    train: Any
    losses: Losses
    gradient_norm: Any
    finite: Any
    suspects: dict
    start_averages: Any


def _shared_variables():
    return tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE)


def factor_shapes(variables):
    """Tensor shapes in which SOAP sees the kernels.

    Args:
      variables: the model's trainable variables.

    Returns:
      Dict of variable name to (9, cin, cout), (25, cin, cout) or (cin, cout); other variables
      (biases, GDN, the factorised prior) are absent.
    """
    stored = {v.op.name: tuple(v.shape.as_list()) for v in variables}
    shapes = {}
    for name, shape in stored.items():
        kind = name.rpartition("/")[2]
        if kind == "kernel_rdft":
            shapes[name] = rdft_kernel_shape(name, stored)
        elif kind == "kernel":
            shapes[name] = shape[2:]
        elif kind == "weights":
            shapes[name] = (shape[0] * shape[1], *shape[2:])
    return shapes


def make_optimizer(name, learning_rate, variables):
    """The optimiser called "adam" or "soap"; see models/EXPERIMENTS.md for how they compare."""
    if name == "adam":
        return tf.train.AdamOptimizer(learning_rate)
    shapes = factor_shapes(variables)
    return SOAP(learning_rate, lambda v: shapes.get(v.op.name))


def _averages_of(variables):
    """Creates (or finds) the moving average of each variable, in the same order."""
    with tf.variable_scope(AVERAGE_SCOPE, reuse=tf.AUTO_REUSE):
        return [
            tf.get_variable(
                v.op.name, v.shape, v.dtype.base_dtype, tf.initializers.zeros(), trainable=False
            )
            for v in variables
        ]


def _update_averages(averages, variables, decay, step):
    """Ops that move each average towards its variable; early on faster, as tf.train's EMA does."""
    step = tf.cast(step, tf.float32)
    rate = 1 - tf.minimum(decay, (1 + step) / (10 + step))
    return [a.assign_sub(rate * (a - v)) for a, v in zip(averages, variables)]


def _trained_variables():
    """The variables that gradients change; the quantiles are solved for at export."""
    return [v for v in tf.trainable_variables() if v.op.name != QUANTILES]


def _mean(tensors):
    """The mean of a list of tensors; a single one as it is."""
    return tensors[0] if len(tensors) == 1 else tf.add_n(tensors) / len(tensors)


def _replicated_losses(x, step, rate, placement, **settings):
    """Losses and gradients of a batch, the means over the replicas that share it.

    Returns:
      ``Losses``, the trained variables, their gradients.
    """
    count, losses, gradients = len(placement.replicas), [], []
    part = x.shape[0] // count
    for k, device in enumerate(placement.replicas):
        with tf.device(placement.setter(device)), _shared_variables():
            mine = x if count == 1 else x[k * part : (k + 1) * part]
            pixels = tf.cast(mine, tf.float32) / PEAK
            own = rate.part(k * part, (k + 1) * part)
            losses.append(training_losses(pixels, step, rate=own, share=(k, count), **settings))
            gradients.append(tf.gradients(losses[k].loss, _trained_variables()))
    # None: behind rounded latents, for all replicas alike
    reached = [k for k, gradient in enumerate(gradients[0]) if gradient is not None]
    variables, gradients = _trained_variables(), [[row[k] for k in reached] for row in gradients]
    with tf.device(placement.home):
        means = {key: _mean([part.given()[key] for part in losses]) for key in losses[0].given()}
        gradients = [_mean(list(column)) for column in zip(*gradients)]
        return Losses(**means), [variables[k] for k in reached], gradients


def build_training(
    *,
    architecture,
    rate,
    metric,
    precision,
    optimizer,
    seed,
    batch,
    patch,
    average,
    quantisation="noise",
    placement=SINGLE,
):
    """Builds one training step in the current graph.

    A step whose gradients have a norm that is not finite changes nothing. ``rate`` is
    ``losses.Rate`` of the whole batch. ``average`` is the decay of the weights'
    moving averages, 0 for none: at a high learning rate the averages are as good as weights from a
    much lower one. ``placement`` says which devices share a step; ``batch`` is a multiple of their
    number.

    Returns:
      ``TrainingGraph``.
    """
    x = tf.placeholder(tf.uint8, (batch, patch, patch, 3), "x")
    step = tf.placeholder(tf.int64, (), "step")
    learning_rate = tf.placeholder(tf.float32, (), "learning_rate")
    clip_norm = tf.placeholder(tf.float32, (), "clip_norm")
    losses, variables, gradients = _replicated_losses(
        x,
        step,
        rate,
        placement,
        architecture=architecture,
        metric=metric,
        precision=precision,
        seed=seed,
        quantisation=quantisation,
    )
    with tf.device(placement.home):
        norm = tf.global_norm(gradients)
        shrink = tf.minimum(1.0, clip_norm / norm)
        clipped = [shrink * gradient for gradient in gradients]
        maker = make_optimizer(optimizer, learning_rate, variables)
        finite = tf.is_finite(norm) & tf.is_finite(losses.loss)
        averages = _averages_of(variables) if average else []

        def update():
            applied = maker.apply_gradients(zip(clipped, variables))
            with tf.control_dependencies([applied]):
                return tf.group(_update_averages(averages, variables, average, step), applied)

        train = tf.cond(finite, update, tf.no_op)
        parts = losses.given()
        suspects = {name: tf.is_finite(parts[name]) for name in parts if name != "loss"}
        for variable, gradient in zip(variables, gradients):
            suspects[f"gradient of {variable.op.name}"] = tf.reduce_all(tf.is_finite(gradient))
        start_averages = tf.group([a.assign(v) for a, v in zip(averages, variables)])
    inputs = (x, step, learning_rate, clip_norm)
    return TrainingGraph(*inputs, train, losses, norm, finite, suspects, start_averages)
