"""What runs the float networks between pixels and latents: ONNX Runtime, or TensorFlow.

Both take the weights of the same checkpoint. ONNX Runtime is imported in a twentieth of a second
and runs these networks only; TensorFlow, in two seconds, is what they were trained in. Latents that
were decoded do not depend on either, pixels are at most one level apart.
"""

from __future__ import annotations

import importlib.util

from errors import GlicError

ONNX, TENSORFLOW = "onnx", "tensorflow"
BACKENDS = (ONNX, TENSORFLOW)  # the first that is installed is taken
_PACKAGES = {  # and what has pip install them
    ONNX: ("onnxruntime", "requirements-light.txt"),
    TENSORFLOW: ("tensorflow", "requirements.txt"),
}


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
    """The float networks of a model, ``analysis``, ``hyper_analysis`` and ``synthesis``.

    Args:
      backend: of ``BACKENDS``.
      architecture: ``Architecture``.
      weights: dict of the inference variables by name.

    Returns:
      ``networks.Networks`` or ``onnx_networks.OnnxNetworks``.

    Raises:
      BackendError: where the backend's package does not work.
    """
    try:
        if backend == ONNX:
            from coding.onnx_networks import OnnxNetworks as kind
        else:
            from coding.networks import Networks as kind
    except ImportError as error:
        package = _PACKAGES[backend][0]
        if not (error.name or package).startswith(package):
            raise  # a fault of ours
        raise BackendError(f"The package {package} cannot be imported: {error}") from error
    return kind(architecture, weights)
