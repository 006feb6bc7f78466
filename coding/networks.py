"""Passes of the float32 networks of one model: those between pixels and latents, in TensorFlow.

The graphs hold no initialisers or gradients, and each is built when it is first needed: a decoder
has no analysis transform.
"""

from __future__ import annotations

import contextlib
import threading

import tensorflow.compat.v1 as tf

import network
from coding import forks
from coding.backends import FloatNetworks


@contextlib.contextmanager
def memory_errors():
    """Raises MemoryError where TensorFlow has too little memory."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise MemoryError(str(error).splitlines()[0]) from error


class Weights:
    """A model's weights in a graph that only runs: a variable each, and nothing that trains it.

    Args:
      weights: dict of NumPy arrays by the variables' names.
    """

    def __init__(self, weights):
        self._weights, self._feeds, self._assignments, self._made = weights, {}, [], {}

    def getter(self, getter, name, *args, **options):
        """For ``tf.variable_scope(custom_getter=...)``, within which the networks are built.

        Not ``getter``'s variables: their initialisers are most of what building a graph takes.
        Not constants: TensorFlow would keep four copies of them.
        """
        del getter, args, options
        if name in self._made:
            return self._made[name]
        value = self._weights[name]
        dtype = tf.as_dtype(value.dtype)
        variable = tf.raw_ops.VariableV2(shape=value.shape, dtype=dtype)
        start = tf.placeholder(dtype, value.shape)
        self._feeds[start] = value
        self._assignments.append(tf.raw_ops.Assign(ref=variable, value=start).op)
        self._made[name] = tf.identity(variable)
        return self._made[name]

    def load(self, session):
        """Sets the variables of the graph that was built."""
        session.run(self._assignments, self._feeds)


class Networks(FloatNetworks):
    """In TensorFlow, which has the entropy model in float, too."""

    def __init__(self, architecture, weights):
        super().__init__(architecture, weights)
        self._sessions, self._calls, self._lock = [], {}, threading.Lock()

    def close(self):
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions, self._calls = [], {}

    def mixtures(self, y_hat, z_hat):
        """(phi, raw) of the float model: what training sees, not what the coder uses.

        Args:
          y_hat: float32 (B, h, w, M). z_hat: float32 (B, h/4, w/4, N), medians added.
        """
        return self._run("mixtures", y_hat, z_hat)

    def _build_latents(self):
        x = tf.placeholder(tf.float32, (None, None, None, 3))
        y, z = network.latents(x, self.architecture)
        return {"analysis": (y, [x]), "hyper_analysis": (z, [y])}

    def _build_reconstruction(self):
        y_hat = self._placeholder(self.architecture.num_latents)
        return {"synthesis": (network.reconstruction(y_hat, self.architecture), [y_hat])}

    def _build_mixtures(self):
        y_hat = self._placeholder(self.architecture.num_latents)
        z_hat = self._placeholder(self.architecture.num_filters)
        return {"mixtures": (network.mixtures(y_hat, z_hat, self.architecture), [y_hat, z_hat])}

    @staticmethod
    def _placeholder(channels):
        return tf.placeholder(tf.float32, (None, None, None, channels))

    _BUILD = {
        "analysis": _build_latents,
        "hyper_analysis": _build_latents,
        "synthesis": _build_reconstruction,
        "mixtures": _build_mixtures,
    }

    def _run(self, name, *values):
        forks.check("TensorFlow")
        with self._lock:
            if name not in self._calls:
                self._start(self._BUILD[name])
        with memory_errors():
            return self._calls[name](*values)

    def _start(self, build):
        with tf.Graph().as_default() as graph:
            weights = Weights(self._weights)
            with tf.variable_scope("", custom_getter=weights.getter):
                passes = build(self)
            session = tf.Session(graph=graph)
            graph.finalize()
            weights.load(session)
        self._sessions.append(session)
        for name, (fetches, feeds) in passes.items():
            self._calls[name] = session.make_callable(fetches, feeds)
