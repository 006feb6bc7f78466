"""Fixtures: the golden models and tensors made with the authors' original software."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

REFERENCE = Path(__file__).parent / "reference"
FAMILIES = ("gmm", "gllmm")
IMAGES = ("image_120x179", "image_128x192")
NUM_FILTERS = 32


def checkpoint_of(family):
    """Prefix of the golden checkpoint of a family (32 filters, random weights)."""
    return REFERENCE / f"{family}_n{NUM_FILTERS}" / "model-0"


def golden_arrays(family, image):
    """Dict of the golden arrays of a family on an image."""
    with np.load(REFERENCE / f"{family}_n{NUM_FILTERS}" / f"{image}.npz") as arrays:
        return dict(arrays)


def golden_scalars(family, image):
    """Dict of the golden scalars."""
    path = REFERENCE / f"{family}_n{NUM_FILTERS}" / f"{image}.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def codecs():
    """Codec of each family's golden checkpoint."""
    from codec import Codec

    return {f: Codec.from_checkpoint(checkpoint_of(f), f, NUM_FILTERS) for f in FAMILIES}


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Prefix of a checkpoint of an untrained gmm model of 8 filters, for ``--init-from``."""
    import tensorflow.compat.v1 as tf

    from coding import models
    from training import graph as training_graph

    prefix = str(tmp_path_factory.mktemp("start") / "model-0")
    with tf.Graph().as_default():
        tf.set_random_seed(4)
        models.build_inference_graph(8, "gmm")
        with tf.Session(config=training_graph.session_config(1)) as session:
            session.run(tf.global_variables_initializer())
            saver = tf.train.Saver()
            saver.save(session, prefix, write_meta_graph=False, write_state=False)
    return prefix


@pytest.fixture
def run_here(codecs, monkeypatch, capsys):
    """Runs encoder.py or decoder.py as a command in this process, which has TensorFlow already.

    ``run_here(module, *arguments)`` returns (exit code, stdout, stderr). Where its options name the
    golden checkpoint it gets the session's codec; anything else is loaded as always.
    """
    from cli import commandline
    from codec import Codec

    load = Codec.from_checkpoint

    def from_checkpoint(prefix, family, num_filters, **options):
        if (str(prefix), family, num_filters) == (str(checkpoint_of("gmm")), "gmm", NUM_FILTERS):
            return codecs["gmm"]
        return load(prefix, family, num_filters, **options)

    monkeypatch.setattr(Codec, "from_checkpoint", from_checkpoint)

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [Path(module.__file__).name, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            commandline.run(module.main)
        return (caught.value.code, *capsys.readouterr())

    return run
