"""What the tests of training share: photographs, and train.py on a tiny model."""

import csv

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import layers
import train
from cli import errors as cli_errors
from training.checkpoints import latest_checkpoint

# Grappler takes longer to plan a step than these tests to run it; one of them keeps it on.
REAL_CONFIG = layers.session_config


def photograph(seed, height=96, width=112):
    """A smooth colourful image with some noise, uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / 40
    waves = [np.sin(rows * a + columns * b + c) for a, b, c in rng.uniform(0, 3, (3, 3))]
    noisy = 128 + 90 * np.stack(waves, -1) + rng.normal(0, 4, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def run_train(*options):
    """Runs train.py as a command in this process; returns the exit status."""
    with pytest.raises(SystemExit) as caught:
        cli_errors.run(lambda: train.main([str(option) for option in options]))
    return caught.value.code


def command(folder, runs, *options, name="tiny"):
    """Runs train.py on a tiny model; returns the exit status."""
    tiny = "--num-filters 8 --patch 64 --batch 2 --precision float32 --threads 1 --warmup 2"
    tiny += " --optimizer adam"  # its graph is built faster; test_soap.py resumes SOAP
    place = ["--data", str(folder), "--valid", str(folder / "more"), "--runs", str(runs)]
    place += ["--name", name, "--to", str(runs.parent / "models" / name)]
    return run_train(*place, *tiny.split(), *options)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def weights_of(run):
    reader = tf.train.load_checkpoint(latest_checkpoint(run))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name != "progress/seconds"}
