"""The command line of a bundle: ``python BUNDLE/run.py`` trains it, or goes on where it was.

Needs jax, NumPy and Pillow. Ctrl-C and SIGTERM save and leave; the same command continues. What is
to be taken back is BUNDLE/results: weights.npz and log.csv.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

BEGUN = time.monotonic()

import jax  # noqa: E402  (its import counts as part of --minutes)

from errors import GlicError  # noqa: E402
from training.lock import locked  # noqa: E402
from training.photographs import Photographs  # noqa: E402
from training.xla import files  # noqa: E402
from training.xla.bundle import LOG, WEIGHTS, Bundle  # noqa: E402
from training.xla.loop import RESERVE, Trainer  # noqa: E402

MEBIBYTE = 1 << 20
CHUNK = 25  # steps in one call of an accelerator, which would wait for Python between them
# Peaks of dense bfloat16 products in TFLOP/s, by the first words of JAX's name of the device; the
# makers' data sheets.
PEAKS = {
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100": 989,
    "NVIDIA H200": 989,
    "NVIDIA A100": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA L4": 121,
    "NVIDIA GeForce RTX 4090": 165,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
}
# Words behind such a name that make it another device, or a part of one.
OTHERS = {"NVL", "Laptop", "D", "MIG", "lite"}


def _above_zero(text):
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 expected, got {text!r}.")
    return value


def _count(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 expected, got {text!r}.")
    return value


def parser():
    p = argparse.ArgumentParser(description="Train from this bundle, or go on where it was.")
    p.add_argument(
        "--minutes",
        type=_above_zero,
        help="of this call from start to end, compiling, reading and saving included, in place of "
        "the bundle's length, which later calls without it have again: the schedules run to their "
        "end in them",
    )
    p.add_argument(
        "--peak",
        type=_above_zero,
        metavar="TFLOPS",
        help="of the device, to report the share that is reached (default: known for some "
        "devices, with bfloat16)",
    )
    p.add_argument(
        "--save-minutes",
        type=_above_zero,
        default=2.0,
        help="between checkpoints (default: 2)",
    )
    p.add_argument(
        "--chunk",
        type=_count,
        help=f"steps in one call of the device (default: {CHUNK}, on a CPU 1)",
    )
    p.add_argument(
        "--refresh",
        type=_count,
        default=10,
        help="steps between refreshes of SOAP's bases (default: 10); more takes less time",
    )
    p.add_argument(
        "--cache-mib",
        type=_count,
        default=16384,
        help="memory for decoded photographs in MiB; what does not fit is decoded again for "
        "every crop (default: 16384)",
    )
    return p


def known_peak(device_kind, precision):
    """TFLOP/s of a device in bfloat16, None where it is not known."""
    if precision != "bfloat16":
        return None
    found = [name for name in PEAKS if f"{device_kind} ".startswith(f"{name} ")]
    longest = max(found, key=len, default=None)
    if longest is None or OTHERS & set(device_kind[len(longest) :].split()):
        return None
    return PEAKS[longest]


def read_photographs(bundle, cache_mib):
    """The ``Photographs`` of a bundle.

    Raises:
      GlicError: one that was usable where the bundle was made is not here; without it every crop
        would be another.
    """
    parts = [part["settings"] for stage in bundle.record["stages"] for part in stage["parts"]]
    paths, least = bundle.photographs(), max(part["patch"] for part in parts)
    photographs = Photographs(
        paths,
        least,
        cache_mib * MEBIBYTE,
        max(2, os.cpu_count() or 1),
        drawn=bundle.settings["synthetic"],
    )
    expected = bundle.record["photographs"]
    if len(photographs) != expected:
        photographs.close()
        path = next(path for path in paths if path not in photographs.paths)
        about = (text for text in photographs.unreadable if str(path) in text)
        raise GlicError(
            f"{expected} photographs expected, got {len(photographs)} that can be used here: "
            + next(about, f"{path} has a side under {least} pixels.")
            + " Copy the whole bundle again, or mend what is missing here."
        )
    return photographs


def train(folder, options):
    """Trains a bundle's folder with parsed options. Raises GlicError; returns the exit status."""
    bundle = Bundle(folder)
    settings = bundle.settings
    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.device_kind}", flush=True)
    if len(jax.devices()) > 1:
        print(f"One of {len(jax.devices())} devices is used.", flush=True)
    options.peak = options.peak or known_peak(device.device_kind, settings["precision"])
    options.chunk = options.chunk or (1 if jax.default_backend() == "cpu" else CHUNK)
    photographs = read_photographs(bundle, options.cache_mib)
    size = photographs.cached_bytes / MEBIBYTE
    print(f"{len(photographs)} photographs, {size:.0f} MiB in memory.", flush=True)
    limit = options.minutes and BEGUN + 60 * options.minutes - RESERVE
    bundle.results.mkdir(exist_ok=True)
    with contextlib.closing(photographs), locked(bundle.results, "copy the bundle"):
        files.remove_unfinished(bundle.results)
        trainer = Trainer(bundle, photographs, options, limit)
        if trainer.complete:
            print("This training is complete.")
        else:
            trainer.train()
    for name, value in trainer.machine().items():
        print(f"{name}: {value}")
    state = "complete" if trainer.complete else "to be continued by the same command"
    print(f"Step {trainer.progress['step']}, {state}: {bundle.results / WEIGHTS} and {LOG}.")
    return 0


def main(folder, argv=None):
    """Returns the exit status: 0, or 2 for what a user can mend."""
    options = parser().parse_args(argv)
    try:
        return train(Path(folder), options)
    except (GlicError, OSError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
