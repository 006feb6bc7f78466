"""Fixtures of the tests of training: photographs, quick sessions, networks of one weight."""

import pytest
import tensorflow.compat.v1 as tf
from PIL import Image
from tiny_training import REAL_CONFIG, photograph

import layers
from training import loop, run
from training.losses import Losses
from training.step import TrainingGraph


@pytest.fixture(scope="module", autouse=True)
def quick_sessions():
    def config(threads=0):
        made = REAL_CONFIG(threads)
        made.graph_options.rewrite_options.disable_meta_optimizer = True
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "session_config", config)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of five images, one of them in a subfolder."""
    path = tmp_path_factory.mktemp("photographs")
    (path / "more").mkdir()
    for i in range(5):
        name = "more/4.png" if i == 4 else f"{i}.png"
        Image.fromarray(photograph(i)).save(path / name)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A folder of three images that are large enough for MS-SSIM, one in a subfolder."""
    path = tmp_path_factory.mktemp("large")
    (path / "more").mkdir()
    for i, name in enumerate(("0.png", "1.png", "more/2.png")):
        Image.fromarray(photograph(i, 200, 216)).save(path / name)
    return path


@pytest.fixture
def stand_in(monkeypatch):
    """Replaces the networks by one weight that counts steps; from step 3 on steps are refused."""

    def build(*, batch, patch, **_):
        x = tf.placeholder(tf.uint8, (batch, patch, patch, 3))
        step = tf.placeholder(tf.int64, ())
        rate, clip = tf.placeholder(tf.float32, ()), tf.placeholder(tf.float32, ())
        weight = tf.get_variable("weight", (), tf.float32, tf.initializers.zeros())
        finite = step < 3
        train_op = tf.cond(finite, lambda: tf.group(weight.assign_add(1.0)), tf.no_op)
        losses = Losses(*[tf.constant(1.0)] * 4)
        made = {"x": x, "step": step, "learning_rate": rate, "clip_norm": clip, "losses": losses}
        made.update(train=train_op, gradient_norm=tf.constant(1.0), finite=finite)
        made.update(suspects={"bpp_y": tf.constant(True), "bpp_z": finite, "mse": finite})
        return TrainingGraph(**made, start_averages=tf.no_op())

    monkeypatch.setattr(loop, "build_training", build)
    monkeypatch.setattr(loop, "build_validation", lambda **_: None)
    monkeypatch.setattr(loop.Loop, "_validate", lambda self: None)
    monkeypatch.setattr(run, "export", lambda *_: None)
