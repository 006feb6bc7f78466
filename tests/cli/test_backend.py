"""--backend, and what --effort makes of it."""

import argparse

import pytest

import decoder
import encoder
from cli import options
from coding import backends
from errors import UsageError


@pytest.fixture
def installed(monkeypatch):
    """Sets which backends are installed."""
    return lambda *names: monkeypatch.setattr(backends, "is_installed", lambda b: b in names)


def chosen(backend=None, effort=0):
    return options.backend(argparse.Namespace(backend=backend, effort=effort))


def test_effort_takes_tensorflow(installed):
    installed("onnx", "tensorflow")
    assert chosen() == "onnx" and chosen("tensorflow") == "tensorflow"
    assert chosen(effort=3) == chosen("tensorflow", 3) == "tensorflow"
    with pytest.raises(UsageError, match="--effort searches in TensorFlow: leave --backend onnx"):
        chosen("onnx", 3)
    installed("onnx")
    with pytest.raises(backends.BackendError, match="--effort needs the package tensorflow"):
        chosen(effort=3)
    # A decoder has no --effort.
    assert options.backend(argparse.Namespace(backend=None)) == "onnx"


@pytest.mark.parametrize("module", [encoder, decoder])
def test_a_missing_backend_is_named_before_any_file_is_looked_at(
    module, installed, run_here, tmp_path
):
    installed("onnx")
    options = ["--backend", "tensorflow", "-o", tmp_path / "out"]
    code, out, err = run_here(module, tmp_path / "no-such-file", *options)
    assert code == 2 and not out and not (tmp_path / "out").exists()
    assert "The backend tensorflow needs the package tensorflow" in err and err.count("\n") == 1


@pytest.mark.parametrize("more", [[], ["--target-bpp", "1"]])
def test_refinement_without_tensorflow_is_refused_in_a_sentence(
    more, installed, run_here, tmp_path
):
    installed("onnx")
    code, out, err = run_here(encoder, tmp_path / "no-such-file", "--effort", "1", *more)
    assert code == 2 and not out and err.count("\n") == 1
    assert "--effort needs the package tensorflow" in err and "requirements.txt" in err
