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


class Networks:
    """A model's networks, ready to run.

    Args:
      architecture: ``Architecture``.
      weights: dict of the inference variables by name.
    """

    def __init__(self, architecture, weights):
        self.architecture, self._weights = architecture, weights
        self._sessions, self._calls, self._lock = [], {}, threading.Lock()

    def close(self):
        """Frees the sessions."""
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions, self._calls = [], {}

    def analysis(self, x):
        """y, float32 (B, h, w, M), of x, float32 (B, H, W, 3) in [0, 1]."""
        return self._run("analysis", self._build_latents, x)

    def hyper_analysis(self, y):
        """z, float32 (B, h/4, w/4, N), of y, float32 (B, h, w, M)."""
        return self._run("hyper_analysis", self._build_latents, y)

    def synthesis(self, y_hat):
        """x_hat, float32 (B, H, W, 3), not clipped, of y_hat, float32 (B, h, w, M)."""
        return self._run("synthesis", self._build_reconstruction, y_hat)

    def mixtures(self, y_hat, z_hat):
        """(phi, raw) of the float model: what training sees, not what the coder uses.

        Args:
          y_hat: float32 (B, h, w, M). z_hat: float32 (B, h/4, w/4, N), medians added.
        """
        return self._run("mixtures", self._build_mixtures, y_hat, z_hat)

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

    def _run(self, name, build, *values):
        forks.check("TensorFlow")
        with self._lock:
            if name not in self._calls:
                self._start(build)
        with memory_errors():
            return self._calls[name](*values)

    def _start(self, build):
        with tf.Graph().as_default() as graph:
            weights = Weights(self._weights)
            with tf.variable_scope("", custom_getter=weights.getter):
                passes = build()
            session = tf.Session(graph=graph)
            graph.finalize()
            weights.load(session)
        self._sessions.append(session)
        for name, (fetches, feeds) in passes.items():
            self._calls[name] = session.make_callable(fetches, feeds)
