"""The loop of a training on several machines: it outlives the loss of any of them but its own."""

from __future__ import annotations

import contextlib
import threading
import time

import tensorflow.compat.v1 as tf

from layers import session_config
from training.checkpoints import Checkpoints, reason
from training.cluster import cluster_placement
from training.loop import Loop, TrainingStopped

LOSSES_IN_A_ROW = 3  # of the same step, before the run stops


class Machines:
    """Trains on a cluster, of which this is the chief; see ``run.ThisMachine``.

    Args:
      cluster: ``cluster.Cluster``, not yet started.
      threads: of TensorFlow.
    """

    def __init__(self, cluster, threads):
        self._cluster, self._threads = cluster, threads

    def placement(self, batch):
        """``Placement`` of a step of so many crops; starts this task and waits for the others."""
        if self._cluster.target is None:
            self._cluster.start(session_config(self._threads))
            self._cluster.wait()
        return cluster_placement(self._cluster.devices(), batch)

    def loop(self, *arguments, **options):
        """The ``Loop`` of a part of the run."""
        return ClusterLoop(self._cluster, *arguments, **options)


def _close_lost(session):
    with contextlib.suppress(tf.errors.OpError):
        session.close()


class ClusterLoop(Loop):
    """A ``Loop`` that waits for machines that are lost and goes on with their successors.

    The weights live on the parameter server: where that was lost they are restored. What was lost
    in the middle of an update may be updated twice, which is one more step for it.
    """

    def __init__(self, cluster, *arguments, **options):
        """Takes a started ``cluster.Cluster``, and the arguments of ``Loop``."""
        self._cluster, self._lost_in_a_row = cluster, 0
        super().__init__(*arguments, **options)

    def _build(self):
        super()._build()
        initialised = [tf.is_variable_initialized(v) for v in tf.global_variables()]
        self._all_set = tf.reduce_all(tf.stack(initialised))

    def _open_session(self, alone=False):
        config = self._cluster.session_config(self._config, alone)
        self._session = tf.Session(self._cluster.target, graph=self._graph, config=config)

    def _one_step(self, pixels):
        values = super()._one_step(pixels)
        self._lost_in_a_row = 0
        return values

    def _turn(self):
        try:
            super()._turn()
        except tf.errors.OpError as error:
            self._reconnect(error)
            self._bar.update(self.step - self._bar.n)
            self._restart_clock(time.monotonic())

    def _validate(self):
        try:
            super()._validate()
        except tf.errors.OpError as error:
            print(f"No validation: {reason(error)}", flush=True)

    def _reconnect(self, error):
        """Goes on with a lost machine's successor: from this step, or the last checkpoint."""
        while True:
            self._lost_in_a_row += 1
            said = reason(error)
            if self._lost_in_a_row > LOSSES_IN_A_ROW:
                raise TrainingStopped(
                    f"Step {self.step} failed {self._lost_in_a_row} times in a row ({said}); "
                    "the last checkpoint is kept."
                ) from error
            print(f"Step {self.step} was lost: {said}", flush=True)
            try:
                return self._reopen()
            except tf.errors.OpError as again:
                error = again

    def _reopen(self):
        # Its closing waits, for minutes, for what the lost machine was asked for.
        threading.Thread(target=_close_lost, args=(self._session,), daemon=True).start()
        if not self._cluster.wait(lambda: self._signals.stop is not None):
            self._reach_the_weights()
            return
        self._open_session()
        if not self._session.run(self._all_set):
            self._start()
        self._batches.close()
        self._batches = self._new_batches()
        print(f"All machines answer; training goes on at step {self.step}.", flush=True)

    def _reach_the_weights(self):
        """Prepares saving without lost workers: for a graph of the same variables and no more."""
        variables = self._graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)
        self._graph = tf.Graph()
        with self._graph.as_default(), tf.device(self._placement.home):
            for v in variables:
                if not Checkpoints.owns(v):
                    tf.get_variable(v.op.name, v.shape, v.dtype.base_dtype, trainable=v.trainable)
            with tf.device(self._placement.host):
                self._checkpoints = Checkpoints(self._folder, self._placement.home)
        self._open_session(alone=True)
