"""Trains a model: ``python train.py --data FOLDER --name NAME --hours 10``.

The papers' authors published no training code. Loss and networks are theirs (see
training_graph.py); what differs is what makes days of two cores do where they used a GPU for
weeks: bfloat16 convolutions where they are fast, SOAP as the optimiser, and a schedule over the
hours one has.

A run lives in ``runs/NAME`` and continues from there when it is started again; watch it with
``tensorboard --logdir runs`` or in its log.png. Ctrl-C and SIGTERM save and leave. At the end, or
with ``--export``, the model goes to ``models/NAME``. ``--prepare OUT`` makes training images.
"""

from __future__ import annotations

import preflight  # noqa: F401  # isort: skip  (first: it says what is missing)
import argparse
import os
import sys
from pathlib import Path

import tensorflow.compat.v1 as tf

from architecture import FAMILIES, Architecture
from errors import GlicError
from layers import session_config
from pictures import metrics
from training import cluster as training_cluster
from training import export as models_io
from training import photographs as training_data
from training import precision as training_precision
from training import prepare as training_prepare
from training.graph import (
    METRICS,
    OPTIMIZERS,
    PRECISIONS,
    QUANTISATIONS,
    SCHEDULES,
)
from training.loop import Run, TrainingStopped
from training.settings import (
    BY_METRIC,
    DEFAULTS,
    EXTENDABLE,
    INIT_FROM_RATES,
    LEARNING_RATES,
    LMBDA_FALLS_UNTIL,
    complete,
    fail_if,
    fraction_done,
    resolve_settings,
    stages,
)
from training.start import check_start

MEBIBYTE = 1 << 20


def parser():
    """The command line; its settings default to None, so that a resume knows which were given."""
    p = argparse.ArgumentParser(
        description="Train a gmm (Cheng et al. 2020) or gllmm (Fu et al. 2023) model. A run that "
        "exists under --name is continued; settings not given are then taken from its record.",
    )

    def setting(name, text, **options):
        default = DEFAULTS[name]
        note = "" if default is None else f" (default: {default})"
        p.add_argument("--" + name.replace("_", "-"), help=text + note, **options)

    p.add_argument("--name", help="name of the run: its folder in --runs")
    p.add_argument(
        "--prepare",
        metavar="OUT",
        help="no training: make a folder of training images from the large JPEG photographs in "
        f"--data: scaled down by {training_prepare.FACTOR}, which removes most traces of JPEG, "
        f"kept from {training_prepare.LEAST_SIDE} pixels on, without flat pictures and near "
        "duplicates, as lossless WebP",
    )
    p.add_argument(
        "--data",
        help="folder of training images, subfolders included; any format that "
        "Pillow reads; images under the patch size are skipped",
    )
    p.add_argument(
        "--valid",
        help="folder of validation images (default: "
        f"{training_data.HELD_OUT} images of --data, chosen by a hash of their names, "
        "which are then not trained on)",
    )
    setting("family", "network and mixture", choices=FAMILIES)
    setting("num_filters", "channels N, a multiple of 8; time grows with its square", type=int)
    setting(
        "num_latents",
        "channels M of y, a multiple of 8 (default: N, as in the papers)",
        type=int,
    )
    setting(
        "lmbda",
        "weight of the distortion against bits per pixel; larger means better and bigger; the "
        "papers use 0.0016 to 0.045 for mse (0 to 255 scale), 3 to 120 for ms-ssim; default for "
        f"ms-ssim: {BY_METRIC['ms-ssim']['lmbda']:g}",
        type=float,
    )
    setting(
        "lmbda_start",
        "lambda at first, from which it falls to --lmbda in the first "
        f"{LMBDA_FALLS_UNTIL:.0%} of the training; twenty times --lmbda wakes channels of y that "
        "stay silent without (default: --lmbda)".replace("%", "%%"),
        type=float,
    )
    setting(
        "metric",
        "distortion that the loss weighs: mean squared error, or 1 - MS-SSIM, which needs "
        "--init-from a model trained for mse",
        choices=METRICS,
    )
    setting("steps", "length in steps; give this or --hours; a resume may extend it", type=int)
    setting(
        "hours",
        "length in hours of training, all resumed parts together; the schedule follows the clock",
        type=float,
    )
    setting("batch", "crops in a step", type=int)
    setting(
        "patch",
        "side of the square crops in pixels, a multiple of 64; the papers use 256; default and "
        f"least for ms-ssim: {BY_METRIC['ms-ssim']['patch']}",
        type=int,
    )
    setting(
        "final_patch",
        "side of the crops in the last fifth of the training, so many fewer in a step that its "
        "pixels stay the same; a resume may change it (default: --patch)",
        type=int,
    )
    setting(
        "precision",
        "of the convolutions (default: bfloat16 where a measurement at the start finds it at "
        f"least {training_precision.WORTH:g} times as fast as float32); a resume may change it; a "
        "float32 run repeats bit by bit after a resume",
        choices=PRECISIONS,
    )
    setting(
        "optimizer", "soap takes fewer steps and more time for each than adam", choices=OPTIMIZERS
    )
    setting(
        "learning_rate",
        "peak learning rate (default: "
        + ", ".join(
            f"{v:g} for {k}, {INIT_FROM_RATES[k]:g} with --init-from"
            for k, v in LEARNING_RATES.items()
        )
        + ")",
        type=float,
    )
    setting(
        "schedule",
        "learning rate after the warm-up: constant, cosine to 0 at the end, step: a tenth in the "
        "last fifth, or cooldown: falling to 0 in the last fifth",
        choices=SCHEDULES,
    )
    setting("warmup", "steps over which the learning rate rises linearly", type=int)
    setting(
        "clip",
        "gradients longer than this many times their running mean are scaled down to it",
        type=float,
    )
    setting(
        "average",
        "decay of the weights' moving averages, which are validated and exported; 0 for none",
        type=float,
    )
    setting(
        "quantisation",
        "of what the synthesis sees in training: y with uniform noise, as in the papers, or y "
        "rounded with the gradient passed straight through (rates see noise with both); rounded: "
        "all see y and z as they are coded, and the analysis transforms stay as they are: the "
        "last stage of a training, with --init-from and large patches",
        choices=QUANTISATIONS,
    )
    setting("seed", "of weights, crops and noise", type=int)
    setting(
        "init_from",
        "start from the weights of models/NAME, runs/NAME or a checkpoint prefix where names and "
        "shapes agree; a gllmm model that starts from a gmm one, or a model that starts from one "
        "with fewer channels, first makes the same pictures",
    )
    p.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    p.add_argument(
        "--valid-every",
        type=int,
        default=2000,
        metavar="STEPS",
        help="steps between validations (default: 2000); one takes seconds",
    )
    p.add_argument(
        "--save-minutes",
        type=float,
        default=10,
        metavar="MINUTES",
        help="minutes between checkpoints (default: 10): what a power cut can cost",
    )
    p.add_argument(
        "--cache-mib",
        type=int,
        default=4096,
        metavar="MIB",
        help="memory for decoded images (default: 4096); what does not fit is decoded "
        "again for every crop",
    )
    p.add_argument(
        "--threads",
        type=int,
        default=0,
        help="threads of TensorFlow (default: 0, one for each core)",
    )
    p.add_argument(
        "--export",
        action="store_true",
        help="only write the newest checkpoint of the run as a model; no training",
    )
    p.add_argument(
        "--best",
        action="store_true",
        help="with --export: take the checkpoint with the lowest validation loss instead",
    )
    p.add_argument("--to", help="folder of the exported model (default: models/NAME)")
    training_cluster.add_options(p)
    return p


def load_images(args, settings):
    """(Photographs, validation crops, description of the data) from the command line's folders."""
    patch = settings["final_patch"] or settings["patch"]
    paths = training_data.find_images(args.data)
    if args.valid:
        valid_paths, valid_name = training_data.find_images(args.valid), Path(args.valid).name
    else:
        paths, valid_paths = training_data.hold_out(paths)
        valid_name = f"{len(valid_paths)} held out"
        print(f"Validation: {valid_name} of {args.data}: {', '.join(p.name for p in valid_paths)}")
    least = metrics.MS_SSIM_MIN_SIDE if settings["metric"] == "ms-ssim" else 1
    crops = training_data.validation_crops(valid_paths, least)
    photographs = training_data.Photographs(
        paths, patch, args.cache_mib * MEBIBYTE, max(2, os.cpu_count() or 1)
    )
    print(
        f"Data: {len(photographs)} images, {photographs.in_memory} of them in "
        f"{photographs.cached_bytes / MEBIBYTE:.0f} MiB of memory; skipped {photographs.too_small} "
        f"smaller than {patch}x{patch} and {len(photographs.unreadable)} unreadable."
    )
    data = {"data": Path(args.data).resolve().name, "images": len(photographs), "valid": valid_name}
    return photographs, crops, data


def init_name(path):
    """How a record names a starting point: by the last two parts of its path."""
    return None if path is None else "/".join(Path(path).parts[-2:])


def recorded_settings(folder):
    """The record of a run that holds a checkpoint, else None."""
    if models_io.latest_checkpoint(folder) is None:
        return None
    record = folder / "settings.json"
    fail_if(not record.is_file(), f"{folder} holds a checkpoint but no settings.json; restore it.")
    return models_io.read_json(record)


def export(folder, target, settings, best=False):
    """Exports the newest checkpoint of a run, or the best one on the validation images."""
    checkpoint, validation = models_io.latest_checkpoint(folder), None
    if best:
        checkpoint, validation = models_io.best_checkpoint(folder)
        fail_if(checkpoint is None, f"{folder} holds no best checkpoint: leave --best out.")
    reader = tf.train.load_checkpoint(checkpoint)
    config = {key: value for key, value in complete(settings).items() if key not in EXTENDABLE}
    config["steps"], seconds = models_io.progress_in(checkpoint)
    config["hours"] = round(seconds / 3600, 3)
    config["refused_steps"] = int(reader.get_tensor("progress/refused"))
    config["validation"] = validation or models_io.last_row(folder / "valid.csv", config["steps"])
    models_io.export(checkpoint, target, config, folder / "log.csv")
    print(f"Exported step {config['steps']} to {target}.")


def placement_for(cluster, batch, report):
    """The devices that share a step of so many crops."""
    if cluster:
        return training_cluster.cluster_placement(cluster.devices(), batch)
    gpus = len(tf.config.experimental.list_physical_devices("GPU"))
    return training_cluster.local_placement(batch, gpus, report)


def run_stages(args, folder, settings, photographs, crops, cluster):
    """Trains one part after the other; each goes on from the checkpoint of the one before.

    Returns:
      Whether the training is complete.
    """
    parts = []
    for end, part in stages(settings):  # refuses before anything is trained
        parts.append((end, part, placement_for(cluster, part["batch"], print)))
    for end, part, placement in parts:
        checkpoint = models_io.latest_checkpoint(folder)
        progress = models_io.progress_in(checkpoint) if checkpoint else (0, 0.0)
        if end < 1 and fraction_done(settings, *progress) >= end:
            continue
        run = Run(
            folder,
            part,
            photographs,
            crops,
            init_from=args.init_from,
            valid_every=args.valid_every,
            save_seconds=60 * args.save_minutes,
            threads=args.threads,
            end=end,
            placement=placement,
            cluster=cluster,
        )
        try:
            if not run.train():
                return False
        finally:
            run.close()
    return True


def train(args, folder, target, cluster):
    """Starts or continues a run, and exports it when it is complete."""
    recorded = recorded_settings(folder)
    fail_if(not args.data, "Give the folder of training images with --data.")
    given = {key: getattr(args, key) for key in DEFAULTS}
    given["init_from"] = init_name(args.init_from)
    settings = resolve_settings(given, recorded)  # refuses before images are decoded
    if args.init_from and not recorded:
        check_start(args.init_from, Architecture.of(settings))
    photographs, crops, data = load_images(args, settings)
    settings = resolve_settings({**given, **data}, recorded)
    settings["precision"] = training_precision.choose(settings["precision"], args.threads)
    folder.mkdir(parents=True, exist_ok=True)
    print("Settings: " + ", ".join(f"{key} {value}" for key, value in settings.items()))
    models_io.write_json(folder / "settings.json", settings)
    try:
        if cluster:
            cluster.start(session_config(args.threads))
            cluster.wait()
        complete = run_stages(args, folder, settings, photographs, crops, cluster)
    finally:
        photographs.close()
    if complete:
        export(folder, target, settings)
        if cluster:
            cluster.finish()


def main(argv=None):
    """Returns the exit status: 0, 1 if training had to stop, 2 for a refused command."""
    args = parser().parse_args(argv)
    try:
        if args.prepare:
            fail_if(not args.data, "Give the folder of photographs with --data.")
            others = [args.name, args.export or None, args.valid, args.to]
            others += [getattr(args, key) for key in training_cluster.OPTIONS]
            others += [getattr(args, key) for key in DEFAULTS]
            fail_if(any(v is not None for v in others), "--prepare takes --data and nothing else.")
            training_prepare.prepare(args.data, args.prepare)
            return 0
        cluster = training_cluster.cluster_from(args)
        if cluster and not cluster.is_chief:
            cluster.start(session_config(args.threads))
            cluster.serve()
            return 0
        fail_if(not args.name, "Give the run a name with --name.")
        folder = Path(args.runs) / args.name
        target = Path(args.to or Path("models") / args.name)
        if args.export:
            fail_if(
                args.data or args.steps or args.hours,
                "--export does not train: leave --data, --steps and --hours out.",
            )
            settings = recorded_settings(folder)
            fail_if(settings is None, f"{folder} holds no checkpoint to export.")
            export(folder, target, settings, args.best)
        else:
            fail_if(args.best, "--best chooses what to export: give --export, too.")
            train(args, folder, target, cluster)
    except TrainingStopped as error:
        print(f"Stopped: {error}", file=sys.stderr)
        return 1
    except (GlicError, OSError) as error:
        print(f"Refused: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # Run.train handles it once steps are made
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
