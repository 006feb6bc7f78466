"""Fixtures of all tests: the golden models, an untrained one, command lines in this process."""

import signal
import sys
from pathlib import Path

import preflight  # noqa: F401  # isort: skip  (before TensorFlow, which it quiets)

import pytest
from golden_models import checkpoint_of, golden_codecs

# A shell's background job ignores Ctrl-C, and so would the commands that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def codecs():
    """``golden_codecs``, loaded once."""
    return golden_codecs()


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Prefix of a checkpoint of an untrained gmm model of 8 filters, for ``--init-from``."""
    import tensorflow.compat.v1 as tf

    import network
    from architecture import Architecture
    from layers import session_config

    prefix = str(tmp_path_factory.mktemp("start") / "model-0")
    with tf.Graph().as_default():
        tf.set_random_seed(4)
        network.inference_graph(Architecture("gmm", 8))
        with tf.Session(config=session_config(1)) as session:
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
    from cli import errors as cli_errors
    from codec import Codec

    load = Codec.from_checkpoint

    def from_checkpoint(prefix, architecture, **options):
        if (str(prefix), architecture) == (str(checkpoint_of("gmm")), codecs["gmm"].architecture):
            return codecs["gmm"]
        return load(prefix, architecture, **options)

    monkeypatch.setattr(Codec, "from_checkpoint", from_checkpoint)

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [Path(module.__file__).name, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli_errors.run(module.main)
        return (caught.value.code, *capsys.readouterr())

    return run
