"""What a bundle has trained as a run: its weights as a checkpoint, its log, its record."""

from __future__ import annotations

import shutil

import numpy as np
import tensorflow.compat.v1 as tf

import factorized_prior
import layers
from architecture import Architecture
from training import lock, run
from training.checkpoints import SETTINGS_NAME, Checkpoints, set_variables, write_json
from training.log import RunLog, plot_run
from training.photographs import read_rgb
from training.schedule import validation_points
from training.settings import complete, refuse_if
from training.validation import build_validation, validate
from training.xla import bundle as layout
from training.xla import files
from variables import QUANTILES


def _results(bundle):
    """(Weights by name with solved quantiles, record) of what a bundle has trained."""
    path = bundle.results / layout.WEIGHTS
    for needed in (path, bundle.results / layout.LOG):
        refuse_if(
            not needed.is_file(),
            f"{needed} is missing: train with {bundle.folder / 'run.py'}, and copy "
            f"{layout.WEIGHTS} and {layout.LOG} of its {layout.RESULTS} back to there.",
        )
    weights, record = files.read_arrays(path)
    refuse_if(
        record.get("bundle") != bundle.record["id"],
        f"{path} was trained from another bundle than {bundle.folder}: give the one it belongs to.",
    )
    refuse_if(
        not record["progress"]["step"],
        f"{path} is of step 0, nothing has been trained yet: train with "
        f"{bundle.folder / 'run.py'}, and copy {layout.RESULTS} back again.",
    )
    names = bundle.record["names"]
    refuse_if(sorted(weights) != sorted(names), f"{path} does not hold this bundle's weights.")
    broken = [name for name, values in weights.items() if not np.isfinite(values).all()]
    refuse_if(broken, f"{path} holds numbers that are not finite, in {', '.join(broken[:3])}.")
    weights[QUANTILES] = factorized_prior.solve_quantiles(factorized_prior.weights_of(weights))
    return weights, record


def _refuse_other_run(target, bundle):
    """Raises GlicError where the target holds a run that is not of this bundle."""
    recorded = run.recorded_settings(target)
    refuse_if(
        recorded and (complete(recorded)["machine"] or {}).get("bundle") != bundle.record["id"],
        f"{target} is another run; choose another --name.",
    )


def take(folder, target):
    """Makes, or replaces, the run of a bundle.

    Args:
      folder: of the bundle.
      target: pathlib.Path of the run; new, or of the same bundle at an earlier step.

    Raises:
      GlicError: the bundle holds no results, or the run is another.
    """
    bundle = layout.Bundle(folder)
    weights, record = _results(bundle)
    progress, machine = record["progress"], {**record["machine"], "bundle": bundle.record["id"]}
    _refuse_other_run(target, bundle)  # before the folder is made
    settings = {**bundle.settings, "machine": machine}
    folder = bundle.folder / layout.VALIDATION
    crops = [read_rgb(path) for path in sorted(folder.glob("*.png"))]
    target.mkdir(parents=True, exist_ok=True)
    with lock.locked(target):
        _refuse_other_run(target, bundle)  # again: a trainer may have just left
        _write_run(target, settings, weights, progress, bundle, crops)
    plot_run(target, target / "log.png")
    print(
        f"Step {progress['step']} in {target}: train.py --name {target.name} --export makes a "
        f"model of it, --init-from {target} starts another run from it."
    )


def _write_run(target, settings, weights, progress, bundle, crops):
    """Writes the files of a run: its checkpoint, record and logs, validated."""
    model = {"architecture": Architecture.of(settings), "metric": settings["metric"]}
    points, power = validation_points(settings), settings["lmbda_power"]
    step, seconds = progress["step"], sum(progress["seconds"])
    with tf.Graph().as_default():
        graph = build_validation(**model, points=points, power=power)
        variables = [v for v in tf.trainable_variables() if v.op.name in weights]
        checkpoints = Checkpoints(target, "")
        with tf.Session(config=layers.session_config()) as session:
            session.run(tf.global_variables_initializer())
            set_variables(session, variables, [weights[v.op.name] for v in variables])
            # Before the checkpoint, which makes the folder a run and says nothing of whose.
            write_json(target / SETTINGS_NAME, settings)
            counts = {"step": step, "seconds": seconds, "refused": progress["refused"], "norm": 0.0}
            error = checkpoints.save(session, counts)
            refuse_if(error, f"The checkpoint could not be saved: {error}")
            for path in target.glob("step-*"):
                if path.stem != f"step-{step}":
                    path.unlink()
            shutil.copyfile(bundle.results / layout.LOG, target / "log.csv")
            log = RunLog(target, settings, step)
            if crops:
                means, shown = validate(session, graph, crops)
                log.add("validation", {"step": step, "hours": seconds / 3600, **means}, shown)
                text = f"loss {means['loss']:.4f}, {means['bpp']:.4f} bpp, {means['psnr']:.2f} dB"
                print(f"Validation: {text}.")
            log.close()
