"""The training graph: rate-distortion loss, a guarded optimiser step, and true validation.

The loss is that of both papers (Cheng et al., equation 2; Fu et al., equation 4):

    loss = bpp(y) + bpp(z) + lmbda * 255^2 * MSE        (x in [0, 1], rates in bits per pixel)
    loss = bpp(y) + bpp(z) + lmbda * (1 - MS-SSIM)      (metric "ms-ssim")

In training y and z carry additive uniform noise in [-1/2, 1/2), or the synthesis sees y rounded,
with a gradient of 1 (Theis et al., ICLR 2017), or both are rounded and what makes them stays as it
is (the second step of Guo et al., ICML 2021); validation rounds them as the coder does. With
``precision="bfloat16"`` the convolutions of the four transforms run in bfloat16 on float32 master
weights; latents, noise, parameter network, likelihoods and loss stay in float32.

A step may be shared out among replicas on several devices: each takes its part of the batch, and
the update waits for the mean of all gradients. Crops and noise are those of a single device, so
that the path of a run does not depend on the number of replicas, but for rounding.
"""

from __future__ import annotations

import collections
import math

import tensorflow.compat.v1 as tf

import factorized_prior
import gmm_entropy
import network
from pictures import ms_ssim as training_metric
from pictures.metrics import PEAK  # lambda weighs the squared error on this scale
from training.cluster import SINGLE
from training.settings import LAST_FROM
from variables import rdft_kernel_shape

METRICS = ("mse", "ms-ssim")
PRECISIONS = ("bfloat16", "float32")
OPTIMIZERS = ("soap", "adam")
QUANTISATIONS = ("noise", "straight-through", "rounded")
SCHEDULES = ("cosine", "constant", "step", "cooldown")
AVERAGE_SCOPE = "average"  # of the weights' moving averages: average/NAME
STEP_FACTOR = 0.1  # of the step schedule in the last fifth

Losses = collections.namedtuple("Losses", "loss bpp_y bpp_z mse")
MsSsimLosses = collections.namedtuple("MsSsimLosses", "loss bpp_y bpp_z mse ms_ssim")
TrainingGraph = collections.namedtuple(
    "TrainingGraph",
    "x step learning_rate clip_norm train losses gradient_norm finite suspects start_averages",
)
ValidationGraph = collections.namedtuple("ValidationGraph", "x medians losses prior x_hat")


def rate_distortion(x, x_hat, log_likelihood_y, likelihood_z, lmbda, metric):
    """The papers' loss.

    Args:
      x, x_hat: (B, H, W, 3) float32 in [0, 1].
      log_likelihood_y: (B, H/16, W/16, M) float32, natural logarithm.
      likelihood_z: (B, H/64, W/64, N) float32.
      lmbda: weight of the squared error on the 0 to 255 scale, or of 1 - MS-SSIM.
      metric: "mse", or "ms-ssim", for which H and W are at least 161.

    Returns:
      ``Losses`` of float32 scalars; rates in bits per pixel, ``mse`` on the 0 to 255 scale. For
      "ms-ssim" ``MsSsimLosses``, with the batch's mean MS-SSIM (linear, 1 for equal images).
    """
    shape = tf.shape(x)
    bits_per_pixel = -1 / (math.log(2) * tf.cast(shape[0] * shape[1] * shape[2], tf.float32))
    bpp_y = bits_per_pixel * tf.reduce_sum(log_likelihood_y)
    bpp_z = bits_per_pixel * tf.reduce_sum(tf.log(likelihood_z))
    mse = PEAK**2 * tf.reduce_mean(tf.math.squared_difference(x, x_hat))
    if metric == "mse":
        return Losses(bpp_y + bpp_z + lmbda * mse, bpp_y, bpp_z, mse)
    ms_ssim = tf.reduce_mean(training_metric.ms_ssim(x, x_hat))
    return MsSsimLosses(bpp_y + bpp_z + lmbda * (1 - ms_ssim), bpp_y, bpp_z, mse, ms_ssim)


def _noisy(latents, seed, step, stream, share):
    """Latents with uniform noise that depends on (seed, step) only, so that a resume repeats it.

    ``share`` is (k, n) for the latents of part k of n of the batch, which get that part's noise.
    """
    key = tf.stack([tf.constant(seed * 2 + stream, tf.int64), step])
    part, parts = share
    count, *rest = tf.unstack(tf.shape(latents))
    noise = tf.random.stateless_uniform([parts * count, *rest], key, -0.5, 0.5)
    return latents + (noise if parts == 1 else noise[part * count : (part + 1) * count])


def _rounded_straight_through(latents):
    """Rounded latents whose gradient is that of the latents."""
    return latents + tf.stop_gradient(tf.round(latents) - latents)


def training_losses(
    x,
    step,
    *,
    architecture,
    lmbda,
    metric,
    precision,
    seed,
    quantisation="noise",
    share=(0, 1),
):
    """Losses of one batch in training; creates (or reuses) all variables.

    Args:
      x: (B, H, W, 3) float32 in [0, 1].
      step: int64 scalar, with ``seed`` the source of the noise.
      architecture: ``Architecture``.
      quantisation: what the synthesis sees: y with "noise", or rounded ("straight-through").
        With "rounded" all parts see y and z as they are coded, and the gradient ends there.
      share: (k, n) where ``x`` is part k of n of the step's batch.
    """
    as_coded = quantisation == "rounded"
    prior = factorized_prior.variables(architecture.num_filters)

    def quantise(y, z):
        if as_coded:
            medians = factorized_prior.medians_of(prior["quantiles"])
            y_hat = tf.stop_gradient(tf.round(y))
            z_hat = tf.stop_gradient(factorized_prior.round_to_medians(z, medians))
            return y_hat, z_hat, y_hat
        y_tilde, z_tilde = _noisy(y, seed, step, 0, share), _noisy(z, seed, step, 1, share)
        straight_through = quantisation == "straight-through"
        return y_tilde, z_tilde, _rounded_straight_through(y) if straight_through else y_tilde

    # bfloat16 would round to other latents than the coder's.
    analysis_dtype = tf.float32 if as_coded else None
    dtype = tf.as_dtype(precision)
    c = network.chain(x, architecture, quantise, dtype=dtype, analysis_dtype=analysis_dtype)
    likelihood_z = factorized_prior.likelihood(c.z_hat, prior)
    return rate_distortion(
        x,
        c.x_hat,
        gmm_entropy.log_likelihood(c.y_hat, c.raw, architecture.family),
        tf.stop_gradient(likelihood_z) if as_coded else likelihood_z,
        lmbda,
        metric,
    )


def rounded_losses(x, medians, *, architecture, lmbda, metric):
    """Losses as coded: float32 networks, y rounded, z rounded to its medians, 8-bit x_hat."""
    prior = factorized_prior.variables(architecture.num_filters)

    def quantise(y, z):
        y_hat = tf.round(y)
        return y_hat, factorized_prior.round_to_medians(z, medians), y_hat

    c = network.chain(x, architecture, quantise)
    x_hat = tf.round(PEAK * tf.clip_by_value(c.x_hat, 0.0, 1.0)) / PEAK
    losses = rate_distortion(
        x,
        x_hat,
        gmm_entropy.log_likelihood(c.y_hat, c.raw, architecture.family),
        factorized_prior.likelihood(c.z_hat, prior),
        lmbda,
        metric,
    )
    return losses, prior, x_hat


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
    """The optimiser of that name; see the README for how they compare.

    Raises:
      ValueError: for an unknown name.
    """
    if name == "adam":
        return tf.train.AdamOptimizer(learning_rate)
    if name == "soap":
        from training.soap import SOAP

        shapes = factor_shapes(variables)
        return SOAP(learning_rate, lambda v: shapes.get(v.op.name))
    raise ValueError(f"Optimiser {' or '.join(OPTIMIZERS)} expected, got {name!r}.")


def schedule(name, fraction, step, warmup):
    """Factor on the peak learning rate.

    Args:
      name: "constant", "cosine" (falls to 0), "step" (a tenth in the last fifth, as in the papers)
        or "cooldown" (falls to 0 in the last fifth by 1 - sqrt: Haegele et al., NeurIPS 2024,
        arXiv 2405.18392, section 3).
      fraction: share of the training that is done, 0 to 1.
      step: steps done.
      warmup: steps of the linear rise.
    """
    rise = min(1.0, (step + 1) / max(warmup, 1))
    if name == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
    if name == "constant" or fraction < LAST_FROM:
        return rise
    if name == "step":
        return rise * STEP_FACTOR
    return rise * (1 - math.sqrt(min(1.0, (fraction - LAST_FROM) / (1 - LAST_FROM))))


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
    return [v for v in tf.trainable_variables() if not v.op.name.endswith("/quantiles")]


def _means(rows):
    """Element by element mean of lists of tensors; a single list as it is."""
    return [c[0] if len(c) == 1 else tf.add_n(c) / len(c) for c in map(list, zip(*rows))]


def _replicated_losses(x, step, placement, **settings):
    """Losses and gradients of a batch, the means over the replicas that share it.

    Returns:
      ``Losses`` or ``MsSsimLosses``, the trained variables, their gradients.
    """
    count, losses, gradients = len(placement.replicas), [], []
    part = x.shape[0] // count
    for k, device in enumerate(placement.replicas):
        with tf.device(placement.setter(device)), _shared_variables():
            mine = x if count == 1 else x[k * part : (k + 1) * part]
            pixels = tf.cast(mine, tf.float32) / PEAK
            losses.append(training_losses(pixels, step, share=(k, count), **settings))
            gradients.append(tf.gradients(losses[k].loss, _trained_variables()))
    # None: behind rounded latents, for all replicas alike
    reached = [k for k, gradient in enumerate(gradients[0]) if gradient is not None]
    variables, gradients = _trained_variables(), [[row[k] for k in reached] for row in gradients]
    with tf.device(placement.home):
        means = type(losses[0])(*_means(losses))
        return means, [variables[k] for k in reached], _means(gradients)


def build_training(
    *,
    architecture,
    lmbda,
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

    A step whose gradients have a norm that is not finite changes nothing. ``lmbda`` is a number, or
    a float32 scalar where it changes from step to step. ``average`` is the decay of the weights'
    moving averages, 0 for none: at a high learning rate the averages are as good as weights from a
    much lower one. ``placement`` says which devices share a step; ``batch`` is a multiple of their
    number.

    Returns:
      ``TrainingGraph``: placeholders ``x`` (uint8, (batch, patch, patch, 3)), ``step`` (int64),
      ``learning_rate`` and ``clip_norm`` (gradients of a larger global norm are scaled down to
      it); the op ``train``; scalars ``losses``, ``gradient_norm`` (before clipping) and
      ``finite``; ``suspects``, an ordered dict of name to a bool tensor that is False where the
      loss part or gradient is not finite; the op ``start_averages``, to run once after the
      weights are set.
    """
    x = tf.placeholder(tf.uint8, (batch, patch, patch, 3), "x")
    step = tf.placeholder(tf.int64, (), "step")
    learning_rate = tf.placeholder(tf.float32, (), "learning_rate")
    clip_norm = tf.placeholder(tf.float32, (), "clip_norm")
    losses, variables, gradients = _replicated_losses(
        x,
        step,
        placement,
        architecture=architecture,
        lmbda=lmbda,
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
        suspects = collections.OrderedDict(
            (name, tf.is_finite(value))
            for name, value in losses._asdict().items()
            if name != "loss"
        )
        for variable, gradient in zip(variables, gradients):
            suspects[f"gradient of {variable.op.name}"] = tf.reduce_all(tf.is_finite(gradient))
        start_averages = tf.group([a.assign(v) for a, v in zip(averages, variables)])
    return TrainingGraph(
        x,
        step,
        learning_rate,
        clip_norm,
        train,
        losses,
        norm,
        finite,
        suspects,
        start_averages,
    )


def _averaged(getter, name, *args, **kwargs):
    """Variable getter that gives a weight's moving average where there is one."""
    variable = getter(name, *args, **kwargs)
    average = f"{AVERAGE_SCOPE}/{name}:0"
    return next((v for v in tf.global_variables() if v.name == average), variable)


def build_validation(*, architecture, lmbda, metric):
    """Builds validation as coded, on the current graph's averaged weights if it has them.

    Returns:
      ``ValidationGraph``: placeholders ``x`` (uint8, (1, H, W, 3), sides multiples of 64) and
      ``medians`` ((N,), from ``factorized_prior.solve_quantiles`` of ``prior``); ``losses``; the
      reconstruction ``x_hat``, uint8 like ``x``.
    """
    x = tf.placeholder(tf.uint8, (1, None, None, 3), "valid_x")
    medians = tf.placeholder(tf.float32, (architecture.num_filters,), "medians")
    with tf.variable_scope(tf.get_variable_scope(), reuse=tf.AUTO_REUSE, custom_getter=_averaged):
        losses, prior, x_hat = rounded_losses(
            tf.cast(x, tf.float32) / PEAK,
            medians,
            architecture=architecture,
            lmbda=lmbda,
            metric=metric,
        )
    return ValidationGraph(x, medians, losses, prior, tf.cast(PEAK * x_hat + 0.5, tf.uint8))
