"""Many training steps as one compiled function: loss, clipping, optimiser, moving averages.

They are those of training/step.py and training/loop.py. A step that is not finite changes nothing.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from training.xla import soap, step

NORM_DECAY = 0.99  # of the running mean of the gradients' norm, as in training/loop.py


def make_optimiser(settings, shapes, factors, refresh_every):
    """The optimiser of a setting ``optimizer`` for the weights of ``shapes``."""
    if settings["optimizer"] == "adam":
        return soap.adam(shapes)
    return soap.Soap(shapes, factors, refresh_every=refresh_every)


def start_state(optimiser, weights, average):
    """The state of a training that starts from weights, a dict of arrays by name."""
    weights = {name: jnp.array(value) for name, value in weights.items()}
    return {
        "weights": weights,
        "average": {name: jnp.array(v) for name, v in weights.items()} if average else {},
        "norm": jnp.zeros((), jnp.float32),
        "optimiser": optimiser.start(),
    }


def _chosen(condition, new, old):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), new, old)


class Steps:
    """The steps of a part of a training, compiled.

    Attributes:
      compile_seconds: what compiling them took.
      flops: floating point operations of a step as XLA counts them, optimiser aside; None where
        it does not say.
    """

    def __init__(self, hlo, described, names, settings, optimiser, state, shapes, chunk):
        """Compiles.

        Args:
          hlo: of the exported step. described: its record, see training/exported_step.py.
          names: of all trained weights, in the step's order.
          settings: of the part.
          optimiser: of ``make_optimiser``.
          state: shapes and dtypes of a state.
          shapes: dict of name to shape of a step's inputs beside the weights.
          chunk: steps in a call.
        """
        self._names, self._described, self._clip = names, described, settings["clip"]
        self._optimiser, begun = optimiser, time.monotonic()
        self._call = step.load(hlo)
        inputs = {"x": jnp.uint8, "number": jnp.int32, "active": jnp.bool_}
        columns = {
            name: jax.ShapeDtypeStruct((chunk, *shape), inputs.get(name, jnp.float32))
            for name, shape in shapes.items()
            if name != "quantiles"
        }
        quantiles = jax.ShapeDtypeStruct(shapes["quantiles"], jnp.float32)
        jitted = jax.jit(self._many, donate_argnums=(0,))
        self._compiled = jitted.lower(state, columns, quantiles).compile()
        self.compile_seconds = time.monotonic() - begun
        self.flops = self._count(state["weights"], columns, quantiles)

    def _arguments(self, weights, row, quantiles):
        more = {"delta": row["delta"], "quantiles": quantiles}
        fixed = (row["x"], row["number"], row["lmbda"])
        rest = [more[name] for name in self._described["inputs"]]
        return [*(weights[name] for name in self._names), *fixed, *rest]

    def _count(self, weights, columns, quantiles):
        row = {n: jax.ShapeDtypeStruct(c.shape[1:], c.dtype) for n, c in columns.items()}
        lowered = jax.jit(self._call).lower(*self._arguments(weights, row, quantiles))
        cost = lowered.cost_analysis()
        return float(cost["flops"]) if cost and cost.get("flops", 0) > 0 else None

    def _one(self, state, row, quantiles):
        found = self._call(*self._arguments(state["weights"], row, quantiles))
        count = len(self._described["losses"])
        losses, gradients = found[:count], dict(zip(self._described["reached"], found[count:]))
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in gradients.values()))
        limit = jnp.where(state["norm"] > 0, self._clip * state["norm"], jnp.inf)
        shrink = jnp.minimum(1, limit / norm)
        fine = jnp.isfinite(norm) & jnp.isfinite(losses[0])
        clipped = {name: jnp.where(fine, shrink * g, 0) for name, g in gradients.items()}
        optimiser, weights = self._optimiser.update(
            state["optimiser"], state["weights"], clipped, row["rate"]
        )
        average = {n: a + row["pace"] * (weights[n] - a) for n, a in state["average"].items()}
        bounded = jnp.minimum(norm, limit)
        before = jnp.where(state["norm"] > 0, state["norm"], bounded)
        mean = NORM_DECAY * before + (1 - NORM_DECAY) * bounded
        new = {"weights": weights, "average": average, "norm": mean, "optimiser": optimiser}
        return _chosen(fine & row["active"], new, state), (jnp.stack(losses), norm, fine)

    def _many(self, state, columns, quantiles):
        return lax.scan(lambda s, row: self._one(s, row, quantiles), state, columns)

    def run(self, state, columns, quantiles):
        """Makes the steps.

        Args:
          state: is used up.
          columns: dict of arrays with the steps as first dimension: x uint8 (steps, batch, patch,
            patch, 3), number int32, active bool, and float32: lmbda and delta (steps, batch), rate,
            pace.
          quantiles: float32 (N, 1, 3).

        Returns:
          The new state; a dict of the losses' names to float32 (steps,), "gradient_norm" too; bool
          (steps,), whether each was finite.
        """
        state, (losses, norm, fine) = self._compiled(state, columns, quantiles)
        losses, norm, fine = (np.asarray(v) for v in (losses, norm, fine))
        named = dict(zip(self._described["losses"], losses.T))
        return state, {**named, "gradient_norm": norm}, fine
