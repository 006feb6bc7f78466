"""What a run keeps in ``runs/NAME`` to go on from, and how starting weights are found.

Checkpoints with the optimiser's state (``step-N.*``), the weights that were best on the validation
images (``best-N.*``), and records as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

from cli.outputs import atomic_write
from coding import models
from errors import GlicError
from training.step import AVERAGE_SCOPE

KEPT = 2  # newest checkpoints
_SCOPE = "progress"
_PROGRESS = {"step": tf.int64, "seconds": tf.float64, "refused": tf.int64, "norm": tf.float64}
SETTINGS_NAME = "settings.json"
BEST_RECORD = "best.json"  # the validation of the best checkpoint


def write_json(path, record):
    """Writes a dict as readable JSON; the file holds all of it or what it held before."""
    atomic_write(path, (json.dumps(record, indent=2) + "\n").encode())


def read_json(path):
    """Reads what ``write_json`` wrote. Raises GlicError where it is damaged."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        if isinstance(record, dict):
            return record
        error = f"an object expected, got {type(record).__name__}"
    except ValueError as problem:
        error = problem
    raise GlicError(f"{path} is damaged ({error}); restore it or start a new run.")


def latest_checkpoint(run):
    """Prefix of the newest checkpoint of a run folder, or None."""
    kept = checkpoints_in(run)
    return kept[-1] if kept else None


def checkpoints_in(run):
    """Prefixes of a run's checkpoints, oldest first: by their names, which nothing can damage."""
    found = [(re.fullmatch(r"step-(\d+)", p.stem), p) for p in Path(run).glob("step-*.index")]
    return [str(p.with_suffix("")) for _, p in sorted((int(m[1]), p) for m, p in found if m)]


def best_checkpoint(run):
    """(Prefix, row of valid.csv as a dict) of a run's best checkpoint; (None, None) without one."""
    record = Path(run) / BEST_RECORD
    if not record.is_file():
        return None, None
    row = read_json(record)
    prefix = Path(run) / f"best-{row['step']:.0f}"
    return (str(prefix), row) if Path(f"{prefix}.index").is_file() else (None, None)


def progress_in(checkpoint):
    """(Steps, seconds) that a training checkpoint has been trained for."""
    reader = tf.train.load_checkpoint(checkpoint)
    return int(reader.get_tensor("progress/step")), float(reader.get_tensor("progress/seconds"))


def start_path(source):
    """The path that a starting point stands for: a model's name for its folder in models/."""
    try:
        return models.folder_of(source, models.MODELS_DIR)
    except models.ModelError:
        return Path(source)  # of a checkpoint, or of nothing


def checkpoint_prefix(source):
    """Prefix of a checkpoint given as such, as a model's name, a model folder or a run folder.

    Raises:
      GlicError: there is none.
    """
    path = start_path(source)
    if Path(f"{path}.index").is_file():
        return str(path)
    for name in (models.CHECKPOINT_PREFIX, f"{models.CHECKPOINT_PREFIX}-0"):
        if (path / f"{name}.index").is_file():
            return str(path / name)
    found = latest_checkpoint(path) if path.is_dir() else None
    if found is None:
        raise GlicError(
            f"{path} is neither a checkpoint prefix nor a folder with a model; expected a path "
            f"such as runs/NAME or path/model-0 (without .index), or a model in "
            f"{models.MODELS_DIR}: {', '.join(models.available(models.MODELS_DIR)) or 'none'}."
        )
    return found


def record_of(source):
    """What config.json or settings.json beside a starting point says, an empty dict without one."""
    path = start_path(source)
    folder = path if path.is_dir() else path.parent
    for name in (models.CONFIG_NAME, SETTINGS_NAME):
        if (folder / name).is_file():
            return read_json(folder / name)
    return {}


def reason(error):
    """The part of an error, TensorFlow's or the system's, that says what happened, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line.lstrip("= ") for line in lines if line and line != "Graph execution error:"]
    lines = list(filter(None, lines))
    return " ".join(lines[:2]) or type(error).__name__


def set_variables(session, variables, values):
    """Sets variables, without adding to the graph, in one call: each call plans the graph anew."""
    starts = [variable.initializer.inputs[1] for variable in variables]
    session.run([v.initializer for v in variables], dict(zip(starts, values)))


class WeightReader:
    """Tensors of a checkpoint by name: a weight's moving average where there is one.

    Attributes:
      names: dict of name to shape.
    """

    def __init__(self, checkpoint):
        self._reader = tf.train.load_checkpoint(checkpoint)
        self.names = self._reader.get_variable_to_shape_map()

    def get_tensor(self, name):
        """NumPy array of a variable; float32 where an exported model has float16."""
        average = f"{AVERAGE_SCOPE}/{name}"
        values = self._reader.get_tensor(average if average in self.names else name)
        return values.astype(np.float32) if values.dtype == np.float16 else values


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
                f"remove its files to go on from the one before, of {self._kept_names()}, or start "
                "a new run with --init-from and the prefix of one that is whole."
            ) from error
        times = [(p, os.path.getmtime(f"{p}.index")) for p in checkpoints_in(self._folder)]
        self._saver.set_last_checkpoints_with_time(times)
        return session.run(self._progress)

    def _kept_names(self):
        names = [Path(p).name for p in checkpoints_in(self._folder)]
        return ", ".join([*names, *sorted(p.stem for p in self._folder.glob("best-*.index"))])

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
            set_variables(session, variables, progress.values())
            with self._graph.as_default():
                saver.save(session, prefix, step, write_meta_graph=False, **options)
        except (tf.errors.OpError, OSError, ValueError) as error:
            self._remove(f"{kind}-{step}.*")
            return reason(error)
        return None

    def _remove(self, pattern, keep=None):
        for part in self._folder.glob(pattern):
            if part.stem != keep:
                with contextlib.suppress(OSError):
                    part.unlink()

    def keep_if_best(self, session, progress, row):
        """Saves the weights if no validation before (a dict like a row of valid.csv) was better."""
        best = best_checkpoint(self._folder)[1]
        if best and best["loss"] <= row["loss"]:
            return
        error = self._save(session, progress, self._best_saver, "best", write_state=False)
        if not error:
            try:
                # In this order, so that the record always names a whole checkpoint.
                write_json(self._folder / BEST_RECORD, row)
            except OSError as problem:
                error = str(problem)
                self._remove(f"best-{progress['step']}.*")
        if error:
            print(f"Best weights not saved, the previous ones stay: {error}", flush=True)
            return
        self._remove("best-*.*", keep=f"best-{progress['step']}")
