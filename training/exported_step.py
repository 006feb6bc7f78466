"""A training step, losses and gradients, as XLA HLO: what JAX runs where there is no TensorFlow.

It is ``losses.training_losses`` itself, traced with the weights as arguments. XLA is TensorFlow's
own compiler; the HLO is taken before any compiler saw a device, so that it runs on all.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf2
import tensorflow.compat.v1 as tf

from architecture import Architecture
from pictures.metrics import PEAK
from rates import Rate, is_range
from training.losses import training_losses
from variables import QUANTILES


class ExportedStep(NamedTuple):
    """A step as a function of flat arguments.

    Its arguments are the weights in the order of ``names``, x uint8 (batch, patch, patch, 3), the
    step's number int32, lambdas float32 (batch,), and those of ``inputs``: "delta", float32
    (batch,), and "quantiles", float32 (N, 1, 3). It returns the losses of ``losses``, float32
    scalars, and the gradients of the weights of ``reached``.

    Attributes:
      hlo: bytes, a serialised HloModuleProto.
      inputs, losses, reached: lists of names, see above.
    """

    hlo: bytes
    inputs: list
    losses: list
    reached: list

    def record(self):
        """All but the HLO, as a dict."""
        return {"inputs": self.inputs, "losses": self.losses, "reached": self.reached}


def _with_weights(given):
    """Variable getter that gives a tensor of the dict ``given`` instead; the rest is constant.

    The integer tables of the prior are variables, too, and no part of a step.
    """

    def getter(getter, name, shape=None, dtype=tf.float32, *args, **options):
        del getter, args, options
        return given[name] if name in given else tf.zeros(shape, dtype)

    return getter


def export_step(names, weights, settings):
    """Exports the step of a part of a training.

    Args:
      names: list of the trained weights' names.
      weights: dict of name to float32 array, the quantiles included.
      settings: of the part, see ``settings.resolve`` and ``schedule.stages``.

    Returns:
      ``ExportedStep``.
    """
    batch, patch = settings["batch"], settings["patch"]
    inputs = ["delta"] if is_range(settings["lmbda"]) else []
    inputs += ["quantiles"] if settings["quantisation"] != "noise" else []
    found = {}

    def step(values, x, number, lmbda, *rest):
        rest = dict(zip(inputs, rest))
        given = dict(zip(names, values))
        if "quantiles" in rest:
            given[QUANTILES] = rest["quantiles"]
        scope = tf.variable_scope(tf.get_variable_scope(), custom_getter=_with_weights(given))
        with scope:
            losses = training_losses(
                tf.cast(x, tf.float32) / PEAK,
                tf.cast(number, tf.int64),
                architecture=Architecture.of(settings),
                rate=Rate(lmbda, rest.get("delta"), settings["lmbda_power"]),
                **{key: settings[key] for key in ("metric", "precision", "seed", "quantisation")},
            )
        gradients = dict(zip(names, tf.gradients(losses.loss, list(values))))
        reached = {name: g for name, g in gradients.items() if g is not None}
        found.update(losses=list(losses.given()), reached=list(reached))
        return (*losses.given().values(), *reached.values())

    arguments = {"delta": tf2.ones((batch,)), "quantiles": tf2.constant(weights[QUANTILES])}
    function = tf2.function(step, jit_compile=True, autograph=False)
    hlo = function.experimental_get_compiler_ir(
        tuple(tf2.constant(weights[name]) for name in names),
        tf2.zeros((batch, patch, patch, 3), tf2.uint8),
        tf2.constant(0, tf2.int32),
        tf2.ones((batch,)),
        *[arguments[name] for name in inputs],
    )(stage="hlo_serialized")
    return ExportedStep(bytes(hlo), inputs, **found)
