"""Which backend is taken, and what is said where it is missing."""

import importlib.util

import pytest

from coding import backends


@pytest.fixture
def installed(monkeypatch):
    """Sets which packages are found."""
    real = importlib.util.find_spec

    def install(*packages):
        def find_spec(name, *more):
            if name in ("onnxruntime", "tensorflow"):
                return object() if name in packages else None
            return real(name, *more)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    return install


def test_onnx_runtime_is_taken_where_it_is_installed(installed):
    installed("onnxruntime", "tensorflow")
    assert backends.choose() == "onnx"
    assert [backends.choose(name) for name in backends.BACKENDS] == ["onnx", "tensorflow"]
    installed("tensorflow")
    assert backends.choose() == "tensorflow"
    with pytest.raises(backends.BackendError, match="onnxruntime.*-r requirements-light.txt"):
        backends.choose("onnx")
    installed("onnxruntime")
    assert backends.choose() == "onnx"
    with pytest.raises(backends.BackendError, match="backend tensorflow needs.*requirements.txt"):
        backends.choose("tensorflow")
    installed()
    with pytest.raises(backends.BackendError, match="backend onnx needs the package onnxruntime"):
        backends.choose()
    with pytest.raises(backends.BackendError, match="onnx or tensorflow expected, got 'torch'"):
        backends.choose("torch")


def test_a_package_that_does_not_work_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "coding.onnx_networks", raising=False)
    with pytest.raises(backends.BackendError, match="onnxruntime cannot be imported"):
        backends.networks("onnx", None, {})
