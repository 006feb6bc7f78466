"""The checkpoints of a run: the newest ones to go on from, and the best weights to export."""

from __future__ import annotations

import contextlib

import tensorflow.compat.v1 as tf

from errors import GlicError
from training import export as models_io
from training.graph import AVERAGE_SCOPE

KEPT = 2  # newest checkpoints
_SCOPE = "progress"
_PROGRESS = {"step": tf.int64, "seconds": tf.float64, "refused": tf.int64, "norm": tf.float64}


class Checkpoints:
    """Saves and restores the variables of the current graph, which is complete but for this.

    Args:
      folder: pathlib.Path of the run.
      home: device of the variables.
    """

    def __init__(self, folder, home):
        self._folder, self._graph = folder, tf.get_default_graph()
        with tf.variable_scope(_SCOPE), tf.device(home):
            self._progress = {
                name: tf.get_variable(name, (), kind, tf.initializers.zeros(), trainable=False)
                for name, kind in _PROGRESS.items()
            }
        self._saver = tf.train.Saver(max_to_keep=KEPT, save_relative_paths=True)
        # The optimiser's state is left out: best weights are exported, not trained on.
        kept = [v for v in tf.global_variables() if v.op.name.startswith(f"{AVERAGE_SCOPE}/")]
        kept += tf.trainable_variables() + list(self._progress.values())
        self._best_saver = tf.train.Saver(kept, max_to_keep=None)

    @staticmethod
    def owns(variable):
        """Whether a variable is one that this class makes."""
        return variable.op.name.startswith(f"{_SCOPE}/")

    def restore(self, session, checkpoint):
        """Restores a checkpoint.

        Returns:
          Dict of what ``save`` was given.

        Raises:
          GlicError: the checkpoint does not hold these variables.
        """
        try:
            self._saver.restore(session, checkpoint)
        except (tf.errors.OpError, ValueError) as error:
            raise GlicError(
                f"The checkpoint {checkpoint} is damaged or from another version of train.py; "
                f"start a new run with --init-from {self._folder}."
            ) from error
        kept = tf.train.get_checkpoint_state(str(self._folder)).all_model_checkpoint_paths
        self._saver.recover_last_checkpoints(kept)
        return session.run(self._progress)

    def save(self, session, progress):
        """Writes a checkpoint; the previous one stays if this fails.

        Args:
          session: where the variables are.
          progress: dict of step, seconds, refused and norm.

        Returns:
          None, or what went wrong in words.
        """
        return self._save(session, progress, self._saver, "step")

    def _save(self, session, progress, saver, kind, **options):
        prefix, step = str(self._folder / kind), progress["step"]
        try:
            variables = [self._progress[name] for name in progress]
            models_io.set_variables(session, variables, progress.values())
            with self._graph.as_default():
                saver.save(session, prefix, step, write_meta_graph=False, **options)
        except (tf.errors.OpError, OSError, ValueError) as error:
            self._remove(f"{kind}-{step}.*")
            return str(error).strip().splitlines()[0]
        return None

    def _remove(self, pattern, keep=None):
        for part in self._folder.glob(pattern):
            if part.stem != keep:
                with contextlib.suppress(OSError):
                    part.unlink()

    def keep_if_best(self, session, progress, row):
        """Saves the weights if no validation before (a dict like a row of valid.csv) was better."""
        best = models_io.best_checkpoint(self._folder)[1]
        if best and best["loss"] <= row["loss"]:
            return
        error = self._save(session, progress, self._best_saver, "best", write_state=False)
        if not error:
            try:
                # In this order, so that the record always names a whole checkpoint.
                models_io.write_json(self._folder / models_io.BEST_RECORD, row)
            except OSError as problem:
                error = str(problem)
                self._remove(f"best-{progress['step']}.*")
        if error:
            print(f"Best weights not saved, the previous ones stay: {error}", flush=True)
            return
        self._remove("best-*.*", keep=f"best-{progress['step']}")
