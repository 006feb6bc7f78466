"""A run as a whole: from its settings and photographs to an exported model."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import tensorflow.compat.v1 as tf

from architecture import Architecture
from coding import models
from pictures import metrics
from rates import is_range
from training import checkpoints, lock, precision
from training.export import check_target, export_model
from training.log import last_row
from training.loop import Loop
from training.photographs import (
    Photographs,
    digest,
    find_images,
    hold_out,
    validation_crops,
)
from training.placement import among_gpus
from training.schedule import fraction_done, stages
from training.settings import LENGTHS, changed_data, complete, refuse_if, resolve
from training.start import check_start

MEBIBYTE = 1 << 20


class ThisMachine:
    """Trains on this machine alone: on all of its GPUs, or its CPU."""

    loop = Loop

    def placement(self, batch):
        """``Placement`` of a step of so many crops."""
        return among_gpus(batch, len(tf.config.experimental.list_physical_devices("GPU")))


def init_name(source):
    """How a record names a starting point: by the last two parts of its path."""
    return None if source is None else "/".join(checkpoints.start_path(source).parts[-2:])


def start_reference(source, metric):
    """The lambda, for a metric, at which a starting point rounds to whole numbers, or None."""
    record = {} if source is None else checkpoints.record_of(source)
    if record.get("metric") != metric:
        return None
    return record.get("lmbda_reference") or record.get("lmbda")


def new_settings(given, init_from):
    """Complete settings of a new run.

    Args:
      given: dict of the settings that were given; see ``settings.SETTINGS``.
      init_from: see ``checkpoints.checkpoint_prefix``, or None.

    Raises:
      GlicError: settings that cannot be used, or a start that does not fit them.
    """
    given = {**given, "init_from": init_name(init_from)}
    if is_range(given["lmbda"]):
        reference = start_reference(init_from, given["metric"] or "mse")
        given["lmbda_reference"] = given["lmbda_reference"] or reference
    settings = resolve(given, None)
    if init_from:
        check_start(init_from, Architecture.of(settings))
    return settings


def recorded_settings(folder):
    """The record of a run that holds a checkpoint, else None."""
    if checkpoints.latest_checkpoint(folder) is None:
        return None
    record = folder / checkpoints.SETTINGS_NAME
    missing = f"{folder} holds a checkpoint but no settings.json; restore it."
    refuse_if(not record.is_file(), missing)
    return checkpoints.read_json(record)


def load_images(folder, valid, settings, cache_mib):
    """(Photographs, validation crops, dict of ``settings.DATA_KEYS``) of a training.

    Raises GlicError where no image is usable.
    """
    patch = settings["final_patch"] or settings["patch"]
    paths = find_images(folder)
    if valid:
        valid_paths, valid_name = find_images(valid), Path(valid).resolve().name
    else:
        paths, valid_paths = hold_out(paths)
        valid_name = f"{len(valid_paths)} held out"
        print(f"Validation: {valid_name} of {folder}: {', '.join(p.name for p in valid_paths)}")
    crops = validation_crops(
        valid_paths, metrics.MS_SSIM_MIN_SIDE if settings["metric"] == "ms-ssim" else 1
    )
    workers = max(2, os.cpu_count() or 1)
    photographs = Photographs(
        paths, patch, cache_mib * MEBIBYTE, workers, drawn=settings["synthetic"]
    )
    print(
        f"Data: {len(photographs)} images, {photographs.in_memory} of them in "
        f"{photographs.cached_bytes / MEBIBYTE:.0f} MiB of memory; skipped {photographs.too_small} "
        f"smaller than {patch}x{patch} and {len(photographs.unreadable)} unreadable."
    )
    data = {"data": Path(folder).resolve().name, "images": len(photographs), "valid": valid_name}
    return photographs, crops, {**data, "files": digest(photographs.paths, valid_paths)}


def train(folder, target, given, data, valid, options, machines):
    """Starts or continues a run, and exports it when it is complete.

    Args:
      folder: pathlib.Path of the run.
      target: pathlib.Path of the exported model.
      given: dict of the settings that were given; see ``settings.SETTINGS``.
      data: folder of training images.
      valid: folder of validation images, None to hold some of ``data`` out.
      options: ``loop.Options``.
      machines: where to train: ``ThisMachine``, or what has its attributes.

    Returns:
      Whether the training is complete.

    Raises:
      GlicError: something that was given cannot be used; nothing has been changed.
      TrainingStopped: see ``Loop.train``.
    """
    check_target(target)
    recorded = recorded_settings(folder)
    refuse_if(
        (recorded or {}).get("machine"),
        f"{folder} was trained on another machine, from a bundle, and holds no optimiser's state: "
        f"start a new run from it with --init-from {folder}.",
    )
    if recorded:
        given = {**given, "init_from": init_name(options.init_from)}
        resolve(given, recorded)
    else:
        settings = new_settings(given, options.init_from)
        given = {**given, **{k: settings[k] for k in ("init_from", "lmbda_reference")}}
    find_images(data)  # refuses before the folder is made
    folder.mkdir(parents=True, exist_ok=True)
    with lock.locked(folder), contextlib.ExitStack() as stack:
        recorded = recorded_settings(folder)  # again: the last trainer may have just left
        settings = resolve(given, recorded)
        photographs, crops, found = load_images(data, valid, settings, options.cache_mib)
        stack.callback(photographs.close)
        change = changed_data(recorded, found)
        if change:
            print(change)
        settings.update(found)
        chosen, seconds = precision.choose(settings["precision"], options.threads)
        if settings["precision"] is None:
            settings["precision_seconds"] = seconds
        settings["precision"] = chosen
        print("Settings: " + ", ".join(f"{key} {value}" for key, value in settings.items()))
        checkpoints.write_json(folder / checkpoints.SETTINGS_NAME, settings)
        finished = _train_parts(folder, settings, photographs, crops, options, machines)
        if finished:
            export(folder, target)
    return finished


def _train_parts(folder, settings, photographs, crops, options, machines):
    """Trains one part after the other; each goes on from the checkpoint of the one before.

    Returns:
      Whether the training is complete.
    """
    # A batch that cannot be shared out is refused before anything is trained.
    parts = [(end, part, machines.placement(part["batch"])) for end, part in stages(settings)]
    for end, part, placement in parts:
        checkpoint = checkpoints.latest_checkpoint(folder)
        progress = checkpoints.progress_in(checkpoint) if checkpoint else (0, 0.0)
        if end < 1 and fraction_done(settings, *progress) >= end:
            continue
        loop = machines.loop(
            folder, part, photographs, crops, options, placement=placement, end=end
        )
        with contextlib.closing(loop):
            if not loop.train():
                return False
    return True


def export(folder, target, best=False):
    """Exports the newest checkpoint of a run, or the best one on the validation images.

    Args:
      folder: pathlib.Path of the run.
      target: pathlib.Path of the model's folder.
      best: take the checkpoint with the lowest validation loss.

    Raises:
      GlicError: there is no such checkpoint, or ``target`` is no model's folder.
    """
    recorded = recorded_settings(folder)
    refuse_if(recorded is None, f"{folder} holds no checkpoint to export.")
    checkpoint, validation = checkpoints.latest_checkpoint(folder), None
    if best:
        checkpoint, validation = checkpoints.best_checkpoint(folder)
        refuse_if(checkpoint is None, f"{folder} holds no best checkpoint: leave --best out.")
    left_out = (*LENGTHS, "precision_seconds")
    config = {key: value for key, value in complete(recorded).items() if key not in left_out}
    config["steps"], seconds = checkpoints.progress_in(checkpoint)
    config["hours"] = round(seconds / 3600, 3)
    reader = tf.train.load_checkpoint(checkpoint)
    config["refused_steps"] = int(reader.get_tensor("progress/refused"))
    config["validation"] = validation or last_row(folder / "valid.csv", config["steps"])
    export_model(checkpoint, target, config, folder / "log.csv")
    print(f"Exported step {config['steps']} to {target}.")
    if target.resolve().parent == models.MODELS_DIR:
        print(f"encoder.py --model {target.name} codes with it, and decoder.py finds it.")
    else:
        path = target.resolve()  # a bare name would stand for a model in models/
        print(f"encoder.py --model {path} codes with it, decoder.py --model {path} restores.")
