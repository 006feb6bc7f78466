"""What runs the float networks between pixels and latents: ONNX Runtime, or TensorFlow.

Both take the weights of the same checkpoint. ONNX Runtime is imported in a twentieth of a second
and runs these networks only; TensorFlow, in two seconds, is what they were trained in. Latents that
were decoded do not depend on either, pixels are at most one level apart.
"""

from __future__ import annotations

import abc
import importlib.util
from pathlib import Path

from errors import GlicError

ONNX, TENSORFLOW = "onnx", "tensorflow"
BACKENDS = (ONNX, TENSORFLOW)  # the first that is installed is taken
_PACKAGES = {  # and what has pip install them
    ONNX: ("onnxruntime", "requirements-light.txt"),
    TENSORFLOW: ("tensorflow", "requirements.txt"),
}


class FloatNetworks(abc.ABC):
    """A model's networks between pixels and latents, ready to run.

    Args:
      architecture: ``Architecture``.
      weights: dict of the inference variables by name.
    """

    def __init__(self, architecture, weights):
        self.architecture, self._weights = architecture, weights

    def analysis(self, x):
        """y, float32 (B, h, w, M), of x, float32 (B, H, W, 3) in [0, 1]."""
        return self._run("analysis", x)

    def hyper_analysis(self, y):
        """z, float32 (B, h/4, w/4, N), of y, float32 (B, h, w, M)."""
        return self._run("hyper_analysis", y)

    def synthesis(self, y_hat):
        """x_hat, float32 (B, H, W, 3), not clipped, of y_hat, float32 (B, h, w, M)."""
        return self._run("synthesis", y_hat)

    @abc.abstractmethod
    def close(self):
        """Frees the sessions."""

    @abc.abstractmethod
    def _run(self, name, *values):
        """The output of a network, which is started when it is first needed."""


class BackendError(GlicError):
    """A backend that is not known or not installed."""


def is_installed(backend):
    """Whether the package of one of ``BACKENDS`` is there."""
    return importlib.util.find_spec(_PACKAGES[backend][0]) is not None


def require(backend, what):
    """Raises BackendError unless a backend is installed.

    Args:
      backend: of ``BACKENDS``.
      what: needs it, the beginning of the sentence.
    """
    if not is_installed(backend):
        package, requirements = _PACKAGES[backend]
        raise BackendError(
            f"{what} needs the package {package}, which is not installed: run 'pip install -r "
            f"{requirements}' in this environment."
        )


def choose(backend=None):
    """The backend to take: the one that is named, or for None the first that is installed.

    Raises:
      BackendError: where it is not known or not installed.
    """
    if backend is None:
        backend = next(filter(is_installed, BACKENDS), BACKENDS[0])
    if backend not in BACKENDS:
        raise BackendError(f"Backend {' or '.join(BACKENDS)} expected, got {backend!r}.")
    require(backend, f"The backend {backend}")
    return backend


def networks(backend, architecture, weights):
    """The ``FloatNetworks`` of a model.

    Args:
      backend: of ``BACKENDS``.
      architecture, weights: see there.

    Raises:
      BackendError: where the backend's package does not work.
    """
    try:
        if backend == ONNX:
            from coding.onnx_networks import OnnxNetworks as kind
        else:
            from coding.networks import Networks as kind
    except ImportError as error:
        ours = Path(__file__).resolve().parents[1]
        name = (error.name or "").split(".")[0]
        if name and ((ours / name).is_dir() or (ours / f"{name}.py").is_file()):
            raise  # a fault of ours
        package = _PACKAGES[backend][0]
        other = next(b for b in BACKENDS if b != backend)
        advice = f"; --backend {other} does without it" if is_installed(other) else ""
        raise BackendError(f"The package {package} cannot be imported: {error}{advice}.") from error
    return kind(architecture, weights)
