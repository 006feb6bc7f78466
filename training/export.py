"""Model folders and training checkpoints on disk.

A run keeps everything in ``runs/NAME``: checkpoints with the optimiser's state (``step-N.*``), the
settings, the logs, and the weights that were best on the validation images (``best-N.*``). An
export, ``models/NAME``, is what coding needs and nothing else:

    model.index, model.data-*   TF 1.x Saver checkpoint under the authors' variable names
    config.json                 what the model is and how it was made
    log.csv, log.png            the training log, thinned, and a plot of it
"""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
from pathlib import Path

import tensorflow.compat.v1 as tf

import factorized_prior
import network
from architecture import Architecture
from cli.outputs import atomic_write
from coding import models
from errors import GlicError
from training.graph import AVERAGE_SCOPE
from training.log import columns_of, plot_run
from variables import PRIOR_SCOPE

LOG_ROWS = 500  # of an exported log
BEST_RECORD = "best.json"  # in a run's folder: the validation of its best checkpoint


def write_json(path, record):
    """Writes a dict as readable JSON; the file holds all of it or what it held before."""
    atomic_write(path, (json.dumps(record, indent=2) + "\n").encode())


def read_json(path):
    """Reads what ``write_json`` wrote. Raises GlicError where it is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise GlicError(f"{path} is damaged ({error}); restore it or start a new run.") from None


def latest_checkpoint(run):
    """Prefix of the newest checkpoint of a run folder, or None."""
    state = tf.train.get_checkpoint_state(str(run))
    for path in reversed(state.all_model_checkpoint_paths if state else ()):
        prefix = Path(run) / Path(path).name
        if Path(f"{prefix}.index").is_file():
            return str(prefix)
    return None


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


def checkpoint_prefix(path):
    """Prefix of a checkpoint given as such, as a model folder or as a run folder.

    Raises:
      GlicError: there is none.
    """
    if Path(f"{path}.index").is_file():
        return str(path)
    for name in (models.CHECKPOINT_PREFIX, f"{models.CHECKPOINT_PREFIX}-0"):
        if (Path(path) / f"{name}.index").is_file():
            return str(Path(path) / name)
    found = latest_checkpoint(path) if Path(path).is_dir() else None
    if found is None:
        raise GlicError(
            f"{path} is neither a checkpoint prefix nor a folder with a model; expected a path "
            "such as models/NAME or path/model-0 (without .index)."
        )
    return found


def set_variables(session, variables, values):
    """Sets variables, without adding to the graph, in one call: each call plans the graph anew."""
    starts = [variable.initializer.inputs[1] for variable in variables]
    session.run([v.initializer for v in variables], dict(zip(starts, values)))


class WeightReader:
    """Tensors of a training checkpoint by name: a weight's moving average where there is one."""

    def __init__(self, checkpoint):
        self._reader = tf.train.load_checkpoint(checkpoint)
        self.names = self._reader.get_variable_to_shape_map()

    def get_tensor(self, name):
        """NumPy array of a variable."""
        average = f"{AVERAGE_SCOPE}/{name}"
        return self._reader.get_tensor(average if average in self.names else name)


def _prior_arrays(reader):
    """The trained prior of a checkpoint, with solved quantiles and the integer tables."""
    prefix = f"{PRIOR_SCOPE}/"
    arrays = {
        name[len(prefix) :]: reader.get_tensor(name)
        for name in reader.names
        if name.startswith(prefix) and name.split("/")[1].startswith(("matrix", "bias", "factor"))
        if name.count("/") == 1
    }
    arrays["quantiles"] = factorized_prior.solve_quantiles(arrays)
    arrays["quantized_cdf"], arrays["cdf_length"] = factorized_prior.tables(arrays)
    return {prefix + name: array for name, array in arrays.items()}


def _save_inference_model(checkpoint, prefix, architecture):
    """Writes the inference variables with a solved prior; returns them as arrays by name."""
    reader = WeightReader(checkpoint)
    prior = _prior_arrays(reader)
    table_length = prior[f"{PRIOR_SCOPE}/quantized_cdf"].shape[1]
    with tf.Graph().as_default():
        network.inference_graph(architecture, table_length)
        variables = tf.global_variables()
        names = [v.op.name for v in variables]
        weights = {n: prior[n] if n in prior else reader.get_tensor(n) for n in names}
        saver = tf.train.Saver(variables)
        with tf.Session() as session:
            set_variables(session, variables, [weights[n] for n in names])
            saver.save(session, prefix, write_meta_graph=False, write_state=False)
    return weights


def _thin_log(source, target, last_step):
    with open(source, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    rows = [row for row in rows if float(row[0]) <= last_step]
    every = -(-len(rows) // LOG_ROWS) or 1
    # Counted from the end, so that the last row is kept.
    kept = rows[::-1][::every][::-1]
    with open(target, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *kept])


def export(checkpoint, target, config, log):
    """Writes a model folder; a reader never sees half of one.

    Args:
      checkpoint: prefix of a training checkpoint.
      target: folder to make; an older one is replaced.
      config: dict for config.json, with "family", "num_filters" and "steps"; the
        fingerprint is added.
      log: pathlib.Path of the training log, with valid.csv beside it; used up to "steps", since a
        run goes on beyond its checkpoint.

    Raises:
      GlicError: the weights are broken. OSError: the folder cannot be written.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    new, old = (target.parent / f".{target.name}-{kind}-{mark}" for kind in ("new", "old"))
    new.mkdir()
    try:
        architecture, prefix = Architecture.of(config), str(new / models.CHECKPOINT_PREFIX)
        weights = _save_inference_model(checkpoint, prefix, architecture)
        fingerprint = models.fingerprint_of(weights, architecture).hex()
        write_json(new / models.CONFIG_NAME, {**config, "fingerprint": fingerprint})
        _thin_log(log, new / "log.csv", config["steps"])
        plot_run(log.parent, new / "log.png", config["steps"])
        if target.exists():
            os.replace(target, old)
        os.replace(new, target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def last_row(path, step):
    """Last row up to ``step`` of a run's CSV file as a dict of numbers, or None."""
    return {name: float(values[-1]) for name, values in columns_of(path, step).items()} or None
