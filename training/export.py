"""A checkpoint of a training as a model: what coding needs and nothing else, in a folder.

model.index, model.data-*   TF 1.x checkpoint under the authors' variable names, kernels as float16
config.json                 what the model is and how it was made
log.csv, log.png            the training log, thinned, and a plot of it
"""

from __future__ import annotations

import csv
import os
import secrets
import shutil
from pathlib import Path

import tensorflow.compat.v1 as tf

import factorized_prior
from architecture import Architecture
from coding import models
from errors import GlicError
from training.checkpoints import WeightReader, write_json
from training.log import plot_run
from variables import PRIOR_SCOPE, halved, inference_variables

LOG_ROWS = 500  # of an exported log


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
    """Writes the inference variables with a solved prior.

    Returns:
      Dict of name to array, float32 or int32: what ``models.read_weights`` will give.
    """
    reader = WeightReader(checkpoint)
    prior = _prior_arrays(reader)
    variables = inference_variables(architecture)
    weights = {n: prior[n] if n in prior else halved(n, reader.get_tensor(n)) for n in variables}
    names = list(weights)
    with tf.Graph().as_default(), tf.Session() as session:
        # As tf.train.Saver does it, whose variables would not be those of the stored dtypes.
        tensors = [tf.placeholder(weights[name].dtype, weights[name].shape) for name in names]
        save = tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors
        )
        session.run(save, {tensor: weights[name] for tensor, name in zip(tensors, names)})
    return {n: weights[n].astype(dtype, copy=False) for n, (_, dtype) in variables.items()}


def _thin_log(source, target, last_step):
    with open(source, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    rows = [row for row in rows if float(row[0]) <= last_step]
    every = -(-len(rows) // LOG_ROWS) or 1
    # Counted from the end, so that the last row is kept.
    kept = rows[::-1][::every][::-1]
    with open(target, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *kept])


def check_target(target):
    """Raises GlicError for a folder that an export must not replace: one that holds no model."""
    target = Path(target)
    used = target.exists() and (not target.is_dir() or any(target.iterdir()))
    if used and not (target / models.CONFIG_NAME).is_file():
        raise GlicError(f"{target} exists and holds no model; give --to a new folder.")


def export_model(checkpoint, target, config, log):
    """Writes a model folder; a reader never sees half of one.

    Args:
      checkpoint: prefix of a training checkpoint.
      target: folder to make; an older one is replaced.
      config: dict for config.json, with "family", "num_filters" and "steps"; the
        fingerprint is added.
      log: pathlib.Path of the training log, with valid.csv beside it; used up to "steps", since a
        run goes on beyond its checkpoint.

    Raises:
      GlicError: the weights are broken, or ``target`` is no model's folder.
      OSError: the folder cannot be written.
    """
    check_target(target)
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
        if old.exists() and not target.exists():
            os.replace(old, target)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
