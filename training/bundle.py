"""A bundle: a training as a folder for a machine that has JAX and no TensorFlow.

run.py           trains there: ``python BUNDLE/run.py``
requirements.txt what it needs there
program/         training/xla and the modules of this project that it imports
bundle.json      the settings, the stages, how the steps are called and how weights are drawn
steps/*.hlo      losses and gradients of each stage and size of crops, as XLA HLO
start.npz        weights to start from, with --init-from
photographs/     the training images, numbered in their order
valid/           crops for validation, which train.py --from-bundle makes
results/         comes there: weights.npz, log.csv, checkpoint.npz
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shutil
from pathlib import Path

import tensorflow.compat.v1 as tf
from PIL import Image

import layers
import network
from architecture import Architecture
from training import packing, run
from training.exported_step import export_step
from training.log import LMBDA_COLUMNS, LOG_COLUMNS, MS_SSIM_COLUMNS
from training.schedule import stages
from training.settings import INIT_FROM_RATES, Setting, count, refuse_if, share
from training.start import transfer
from training.step import factor_shapes
from training.xla import bundle as layout
from training.xla import files
from variables import QUANTILES

# The files that a bundle's run.py imports.
PROGRAM = (
    *("architecture.py", "errors.py", "factorized_prior.py", "rates.py", "variables.py"),
    *(f"pictures/{n}.py" for n in ("__init__", "colour", "containers", "images", "metrics")),
    *(f"pictures/{n}.py" for n in ("quiet", "samples")),
    *(f"training/{n}.py" for n in ("__init__", "lock", "photographs", "schedule", "signals")),
    *("training/synthetic.py", "training/table.py"),
    *(f"training/xla/{n}.py" for n in ("__init__", "bundle", "files", "loop", "run", "soap")),
    *(f"training/xla/{n}.py" for n in ("step", "steps")),
)
RUN = '''"""Trains from this bundle: python run.py --help."""

import importlib.util
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
missing = [name for name in ("jax", "numpy", "PIL") if importlib.util.find_spec(name) is None]
if missing:
    text = "No {} here: python -m pip install -r {}"
    sys.exit(text.format(" and ".join(missing), HERE / "requirements.txt"))
sys.path.insert(0, str(HERE / "program"))

from training.xla import run  # noqa: E402

if __name__ == "__main__":
    code = run.main(HERE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # what is still being compiled is waited for otherwise
'''
ROOT = Path(__file__).resolve().parents[1]
ROUNDED = 0.1  # share of the stage on rounded latents
# Of that stage, beside the settings' own (docs/training.md, On another machine).
_ROUNDED = {"quantisation": "rounded", "schedule": "cosine", "warmup": 50}
_ROUNDED.update(lmbda_start=None, final_patch=None)
_ROUNDED_RATES = ", ".join(f"{rate:g} for {name}" for name, rate in INIT_FROM_RATES.items())
OPTIONS = (
    Setting(
        "rounded",
        share,
        None,
        "with --bundle: share of the training, at its end, on rounded latents, from the moving "
        "averages of the rest, as --quantisation rounded trains; 0 for none; its peak learning "
        f"rate is {_ROUNDED_RATES}, whatever --learning-rate is, its schedule cosine, its warm-up "
        f"{_ROUNDED['warmup']} steps",
        otherwise=f"{ROUNDED:g}; 0 with --quantisation rounded, which is such a training as a "
        "whole",
    ),
    Setting(
        "photos_mib",
        count,
        None,
        "with --bundle: what the photographs may take in MiB; they are then JPEG 2000 at the best "
        "quality that fits",
        otherwise="the files as they are, lossless WebP for HEIC, JPEG XL and AVIF",
    ),
)


def add_options(parser):
    """Adds those of bundles to an ``argparse.ArgumentParser``."""
    parser.add_argument(
        "--bundle",
        metavar="OUT",
        help="no training: make a folder that trains on another machine, by python OUT/run.py with "
        "JAX and without TensorFlow",
    )
    parser.add_argument(
        "--from-bundle",
        metavar="OUT",
        help="no training: take what a bundle has trained as the run --name",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="with --bundle: weights travel as float16, in half the size, both ways",
    )
    for setting in OPTIONS:
        setting.add_to(parser, setting.default)


def refuse_options(args):
    """Raises GlicError for options of --bundle where there is none."""
    keys = ("half", *(setting.name for setting in OPTIONS))
    defaults = {"half": False, **{setting.name: setting.default for setting in OPTIONS}}
    given = [f"--{k.replace('_', '-')}" for k in keys if getattr(args, k) != defaults[k]]
    refuse_if(given, f"{', '.join(given)} only with --bundle.")


def _start_weights(settings, source):
    """(Names of the trained weights, dict of their factor shapes, of all weights, ``drawn``)."""
    with tf.Graph().as_default(), tf.Session(config=layers.session_config()) as session:
        tf.set_random_seed(settings["seed"])
        network.inference_graph(Architecture.of(settings))
        session.run(tf.global_variables_initializer())
        variables = tf.trainable_variables()
        if source is not None:
            taken, adapted, new = transfer(session, variables, source)
            print(
                f"Took {len(taken)} variables from {source}, adapted {len(adapted)}; {len(new)} "
                "start anew."
            )
        weights = session.run({v.op.name: v.read_value() for v in variables})
        trained = [v for v in variables if v.op.name != QUANTILES]
        names = [v.op.name for v in trained]
        factors = {k: list(map(int, v)) for k, v in factor_shapes(trained).items()}
    drawn = None
    if source is None:
        drawn = {name: files.rule_of(values) for name, values in weights.items()}
    return names, factors, weights, drawn


def _stages_of(settings, rounded):
    """The stages of a training as a list of dicts; see ``training/xla/loop.py``."""
    wanted = [(1 - rounded, settings)]
    if rounded:
        rate = INIT_FROM_RATES[settings["optimizer"]]
        wanted.append((rounded, {**stages(settings)[-1][1], **_ROUNDED, "learning_rate": rate}))
    made = []
    for part_of, chosen in wanted:
        parts = [
            {"end": end, "step": "{quantisation}-{batch}x{patch}".format(**part), "settings": part}
            for end, part in stages(chosen)
        ]
        made.append({"share": part_of, "parts": parts})
    return made


def _columns(settings):
    more = MS_SSIM_COLUMNS if settings["metric"] == "ms-ssim" else []
    return LOG_COLUMNS + more + (LMBDA_COLUMNS if settings["lmbda_start"] is not None else [])


def _write_program(folder):
    for name in PROGRAM:
        target = folder / "program" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    (folder / "run.py").write_text(RUN, encoding="utf-8")
    shutil.copyfile(ROOT / "requirements-jax.txt", folder / "requirements.txt")


def _write_crops(folder, crops):
    folder.mkdir()
    for k, pixels in enumerate(crops):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        (folder / f"{k:02d}.png").write_bytes(buffer.getvalue())


@contextlib.contextmanager
def _whole(out):
    """A folder to fill, which becomes ``out`` at the end, or is removed."""
    new = out.parent / f".{out.name}-new-{os.getpid()}-{secrets.token_hex(4)}"
    out.parent.mkdir(parents=True, exist_ok=True)
    new.mkdir()
    try:
        yield new
        if out.exists():
            out.rmdir()  # it was empty
        os.replace(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write(out, given, data, valid, init_from, *, rounded, photos_mib, half, cache_mib):
    """Writes a bundle; nobody sees half of one.

    Args:
      out: folder to make, new or empty.
      given: dict of the settings that were given; see ``settings.SETTINGS``.
      data: folder of training images. valid: of validation images, or None.
      init_from: see ``checkpoints.checkpoint_prefix``, or None.
      rounded, photos_mib, half: see ``OPTIONS`` and ``add_options``.
      cache_mib: memory for looking at the images.

    Raises:
      GlicError: something that was given cannot be used.
      OSError: the folder cannot be written.
    """
    out = Path(out)
    used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    refuse_if(used, f"{out} exists and is not an empty folder; give --bundle a new one.")
    # The other machine's precision: nothing that this one could measure.
    given = {**given, "precision": given["precision"] or "bfloat16"}
    settings = run.new_settings(given, init_from)
    whole = settings["quantisation"] == "rounded"
    refuse_if(
        rounded and whole,
        "--quantisation rounded is on rounded latents from its start, without a last stage: leave "
        f"--rounded {rounded} out.",
    )
    if rounded is None:
        rounded = 0 if whole else ROUNDED
    photographs, crops, found = run.load_images(data, valid, settings, cache_mib)
    photographs.close()
    settings.update(found)
    names, factors, weights, drawn = _start_weights(settings, init_from)
    planned, exported = _stages_of(settings, rounded), {}
    with _whole(out) as folder:
        _write_program(folder)
        quality = packing.pack(photographs.paths, folder / layout.PHOTOGRAPHS, photos_mib)
        _write_crops(folder / layout.VALIDATION, crops)
        (folder / layout.STEPS).mkdir()
        for part in (part for stage in planned for part in stage["parts"]):
            if part["step"] not in exported:
                step = export_step(names, weights, part["settings"])
                (folder / layout.STEPS / f"{part['step']}.hlo").write_bytes(step.hlo)
                exported[part["step"]] = step.record()
                print(f"Step {part['step']}: {len(step.hlo) / 2**20:.1f} MiB of HLO.", flush=True)
        if drawn is None:
            files.write_arrays(folder / layout.START, weights, {}, half)
        record = {
            "version": layout.VERSION,
            "id": secrets.token_hex(8),
            "settings": settings,
            "stages": planned,
            "steps": exported,
            "names": names,
            "factors": factors,
            "drawn": drawn,
            "half": half,
            "columns": _columns(settings),
            "photographs": len(photographs),
            "photographs_quality": quality,
        }
        (folder / layout.NAME).write_text(json.dumps(record), encoding="utf-8")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"{out}: {size / 2**20:.1f} MiB, {len(photographs)} photographs ({quality}). There: "
        f"python {out.name}/run.py; then here: train.py --from-bundle {out} --name NAME."
    )
