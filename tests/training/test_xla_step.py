"""Steps exported by TensorFlow, under JAX: TensorFlow's losses and gradients; a training."""

import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image
from tiny_training import photograph, run_train

import layers
from architecture import Architecture
from evaluation.complexity import count
from rates import Rate
from training import losses
from training.exported_step import export_step
from training.losses import training_losses
from training.settings import DEFAULTS, resolve

jax = pytest.importorskip("jax")

from training.xla import files, step  # noqa: E402
from variables import QUANTILES  # noqa: E402

pytestmark = pytest.mark.slow  # XLA compiles each for some ten seconds

SEED, NUMBER = 1, 3
LAMBDAS = {"mse": np.float32([0.002, 0.02]), "ms-ssim": np.float32([5, 40])}
DELTA = np.float32([1.7, 0.6])
KINDS = [
    *itertools.product(["gmm", "gllmm"], ["mse", "ms-ssim"], ["noise", "rounded"], [False, True]),
    ("gmm", "mse", "straight-through", True),
]


def settings_of(family, metric, quantisation, is_range):
    given = {"family": family, "metric": metric, "quantisation": quantisation}
    given.update(num_filters=8, num_latents=16, batch=2, steps=1, precision="float32", seed=SEED)
    given.update(init_from="start", patch=64 if metric == "mse" else 192)
    low, high = LAMBDAS[metric].tolist()
    given.update({"lmbda": [low, high], "lmbda_power": 0.3} if is_range else {"lmbda": low})
    return resolve({**dict.fromkeys(DEFAULTS), **given}, None)


def of_tensorflow(settings, pixels):
    """(Losses by name, gradients by name, weights by name) in a session."""
    metric, is_range = settings["metric"], isinstance(settings["lmbda"], list)
    with tf.Graph().as_default(), tf.Session(config=layers.session_config(1)) as session:
        tf.set_random_seed(2)
        found = training_losses(
            tf.constant(pixels, tf.float32) / 255,
            tf.constant(NUMBER, tf.int64),
            architecture=Architecture.of(settings),
            rate=Rate(
                tf.constant(LAMBDAS[metric]),
                tf.constant(DELTA) if is_range else None,
                settings["lmbda_power"],
            ),
            **{key: settings[key] for key in ("metric", "precision", "seed", "quantisation")},
        )
        variables = tf.trainable_variables()
        trained = [v for v in variables if v.op.name != QUANTILES]
        slopes = dict(zip([v.op.name for v in trained], tf.gradients(found.loss, trained)))
        slopes = {name: slope for name, slope in slopes.items() if slope is not None}
        session.run(tf.global_variables_initializer())
        weights = session.run({v.op.name: v for v in variables})
        return *session.run([found.given(), slopes]), weights


@pytest.mark.parametrize("family, metric, quantisation, is_range", KINDS)
def test_losses_and_gradients_are_tensorflows(family, metric, quantisation, is_range, monkeypatch):
    # XLA draws other noise than TensorFlow's own kernels: here both get the same.
    def noise(latents, seed, step, stream, share):
        del seed, step, share
        shape = latents.shape.as_list()
        values = np.random.default_rng(stream).uniform(-0.5, 0.5, shape)
        return tf.constant(values.astype(np.float32))

    monkeypatch.setattr(losses, "_noise", noise)
    settings = settings_of(family, metric, quantisation, is_range)
    pixels = np.stack([photograph(k, settings["patch"], settings["patch"]) for k in range(2)])
    wanted, slopes, weights = of_tensorflow(settings, pixels)
    names = [name for name in weights if name != QUANTILES]
    exported = export_step(names, weights, settings)
    more = {"delta": DELTA, "quantiles": weights[QUANTILES]}
    assert exported.inputs == ["delta"] * is_range + ["quantiles"] * (quantisation != "noise")
    found = jax.jit(step.load(exported.hlo))(
        *[weights[name] for name in names],
        pixels,
        np.int32(NUMBER),
        LAMBDAS[metric],
        *[more[name] for name in exported.inputs],
    )
    found = [np.asarray(value) for value in found]
    values, gradients = found[: len(exported.losses)], found[len(exported.losses) :]
    assert exported.losses == list(wanted) and exported.reached == list(slopes)
    np.testing.assert_allclose(values, list(wanted.values()), rtol=1e-5)
    errors = sum(np.sum((a - b) ** 2) for a, b in zip(gradients, slopes.values()))
    norm = np.sqrt(sum(np.sum(slope**2) for slope in slopes.values()))
    # MS-SSIM subtracts squares of means from means of squares, which costs a digit of float32. Its
    # crops have nine times as many positions, at some of which the last bits decide on which side
    # of its kink a leaky ReLU is: that changes single numbers of a gradient, and not its direction.
    assert np.sqrt(errors) < (1e-5 if metric == "mse" else 1e-4) * norm
    for name, gradient in zip(exported.reached, gradients):
        slope = slopes[name]
        if metric == "mse":
            largest = np.abs(slope).max()
            np.testing.assert_allclose(gradient, slope, atol=1e-4 * largest, err_msg=name)
        else:
            assert np.linalg.norm(gradient - slope) <= 0.02 * np.linalg.norm(slope), name


def test_the_noise_is_uniform_and_another_at_each_step():
    settings = settings_of("gmm", "mse", "noise", False)
    pixels = np.zeros((2, 64, 64, 3), np.uint8)
    _, _, weights = of_tensorflow(settings, pixels)
    names = [name for name in weights if name != QUANTILES]
    call = jax.jit(step.load(export_step(names, weights, settings).hlo))
    values = [weights[name] for name in names]
    rates = [
        [float(v) for v in call(*values, pixels, np.int32(k), LAMBDAS["mse"])[:4]]
        for k in (0, 0, 1)
    ]
    assert rates[0] == rates[1] != rates[2]


def test_a_training_from_photographs_to_a_model(tmp_path):
    """Made here, trained in a process of its own, cut off, continued, taken back, exported."""
    (tmp_path / "photos").mkdir()
    for k in range(4):
        Image.fromarray(photograph(k)).save(tmp_path / "photos" / f"{k}.png")
    tiny = ["--num-filters", "8", "--patch", "64", "--batch", "2", "--precision", "float32"]
    tiny += ["--steps", "10", "--warmup", "2", "--rounded", "0.2", "--lmbda", "0.002:0.02"]
    tiny += ["--optimizer", "adam"]  # compiles faster; test_xla_loop.py resumes SOAP
    folder = tmp_path / "out"
    assert run_train("--bundle", folder, "--data", tmp_path / "photos", *tiny) == 0
    call = [sys.executable, folder / "run.py", "--save-minutes", "0.0001"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, text=True)
    path, until = folder / "results" / "checkpoint.npz", time.monotonic() + 1200
    while time.monotonic() < until and process.poll() is None:
        if path.is_file() and files.read_arrays(path)[1]["progress"]["step"] >= 2:
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.2)
    said = process.communicate()[0]
    assert process.returncode == 0 and "to be continued" in said
    assert 2 <= files.read_arrays(path)[1]["progress"]["step"] < 10
    done = subprocess.run(call, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert "Resumed at step" in done.stdout and "Step 10, complete" in done.stdout
    machine = files.read_arrays(path)[1]["machine"]
    macs = sum(row[1] for row in count(Architecture("gmm", 8)).values())
    # Forth and twice back, but for the first layer's inputs and what lies beyond a crop's edges.
    assert 0.75 * 6 * macs < machine["flops_per_pixel"] < 6 * macs
    options = ["--name", "x", "--runs", tmp_path / "runs"]
    assert run_train("--from-bundle", folder, *options) == 0
    assert run_train(*options, "--export", "--to", tmp_path / "model") == 0
    assert (tmp_path / "model" / "config.json").is_file()
