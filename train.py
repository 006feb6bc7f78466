"""Trains a model: ``python train.py --data FOLDER --name NAME --hours 10``.

The papers' authors published no training code. Loss and networks are theirs (training/losses.py);
what differs is what makes days of two cores do where they used a GPU for weeks: bfloat16
convolutions where they are fast, SOAP as the optimiser, and a schedule over the hours one has.

A run lives in ``runs/NAME`` and continues from there when it is started again; watch it with
``tensorboard --logdir runs`` or in its log.png. Ctrl-C and SIGTERM save and leave. At the end, or
with ``--export``, the model goes where encoder.py finds it. ``--prepare OUT`` makes images for it.
"""

from __future__ import annotations

import preflight  # isort: skip  (first: it says what is missing)
import argparse
import sys
from pathlib import Path

preflight.check()

from cli import errors as cli_errors
from coding import models, released
from layers import session_config
from training import bundle, cluster, run, unbundle
from training.cluster_loop import Machines
from training.loop import Options, TrainingStopped
from training.photographs import HELD_OUT
from training.prepare import FACTOR, LEAST_SIDE, prepare
from training.settings import OPTIONS, SETTINGS, refuse_if


def parser():
    """The command line; its settings default to None, so that a resume knows which were given."""
    p = argparse.ArgumentParser(
        description="Train a gmm (Cheng et al. 2020) or gllmm (Fu et al. 2023) model. A run that "
        "exists under --name is continued; settings not given are then taken from its record.",
    )
    p.add_argument("--name", help="name of the run: its folder in --runs, and of the model")
    p.add_argument(
        "--prepare",
        metavar="OUT",
        help="no training: make a folder of training images from the large JPEG photographs in "
        f"--data: scaled down by {FACTOR}, which removes most traces of JPEG, kept from "
        f"{LEAST_SIDE} pixels on, without flat pictures and near duplicates, as lossless WebP",
    )
    p.add_argument(
        "--data",
        help="folder of training images, subfolders included; any format that Pillow reads; images "
        "under the patch size are skipped",
    )
    p.add_argument(
        "--valid",
        help=f"folder of validation images (default: {HELD_OUT} images of --data, chosen by a hash "
        "of their names, which are then not trained on)",
    )
    for setting in SETTINGS:
        setting.add_to(p)
    p.add_argument("--runs", default="runs", help="folder of all runs (default: runs)")
    for setting in OPTIONS:
        setting.add_to(p, setting.default)
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
    p.add_argument(
        "--to", help="folder of the exported model (default: NAME in models/ beside train.py)"
    )
    bundle.add_options(p)
    cluster.add_options(p)
    return p


def _refuse_others(args, *taken):
    """Raises GlicError for options besides those that a call without training takes."""
    p = parser()
    given = [key for key, value in vars(args).items() if value != p.get_default(key)]
    door, *others = (
        f"--{key.replace('_', '-')}"
        for key in (taken[0], *(key for key in given if key not in taken))
    )
    refuse_if(others, f"{door} does not train: leave {', '.join(others)} out.")


def _refuse_taken(target):
    """Raises GlicError for a folder of models/ whose name is not a new model's to have."""
    if target.resolve().parent != models.MODELS_DIR:
        return
    stands_for = models.aliases(models.MODELS_DIR).get(target.name)
    refuse_if(
        stands_for, f"{target.name} stands for the model {stands_for}: choose another --name."
    )
    names = {row.name for row in released.read(models.MODELS_DIR).values()}
    refuse_if(
        target.name in names,
        f"{target.name} is a released model, which never changes, so that files that it wrote can "
        "be decoded: choose another --name, or a folder elsewhere with --to.",
    )


def main(argv=None):
    """Returns the exit status: 0, or 1 if training had to stop."""
    args = parser().parse_args(argv)
    if args.prepare:
        _refuse_others(args, "prepare", "data")
        refuse_if(not args.data, "Give the folder of photographs with --data.")
        prepare(args.data, args.prepare)
        return 0
    given = {setting.name: getattr(args, setting.name) for setting in SETTINGS}
    if args.bundle:
        own = {key: getattr(args, key) for key in ("rounded", "photos_mib", "half", "cache_mib")}
        _refuse_others(args, "bundle", "data", "valid", *own, *given)
        refuse_if(not args.data, "Give the folder of training images with --data.")
        bundle.write(args.bundle, given, args.data, args.valid, args.init_from, **own)
        return 0
    task = cluster.cluster_from(args)
    if task and not task.is_chief:
        task.start(session_config(args.threads))
        task.serve()
        return 0
    plain = args.name and Path(args.name).name == args.name and not args.name.startswith(".")
    refuse_if(not plain, "Give the run a name with --name, without slashes or a dot at its start.")
    folder, target = Path(args.runs) / args.name, Path(args.to or models.MODELS_DIR / args.name)
    _refuse_taken(target)
    if args.from_bundle:
        _refuse_others(args, "from_bundle", "name", "runs")
        unbundle.take(args.from_bundle, folder)
        return 0
    if args.export:
        _refuse_others(args, "export", "name", "runs", "best", "to")
        run.export(folder, target, args.best)
        return 0
    bundle.refuse_options(args)
    refuse_if(args.best, "--best chooses what to export: give --export, too.")
    refuse_if(not args.data, "Give the folder of training images with --data.")
    rest = {setting.name: getattr(args, setting.name) for setting in OPTIONS}
    options = Options(init_from=args.init_from, **rest)
    machines = Machines(task, args.threads) if task else run.ThisMachine()
    try:
        finished = run.train(folder, target, given, args.data, args.valid, options, machines)
    except TrainingStopped as error:
        print(f"Stopped: {error}", file=sys.stderr)
        return 1
    if finished and task:
        task.finish()
    return 0


if __name__ == "__main__":
    cli_errors.run(main)
