"""Model folders and authors' checkpoints: finding, reading and checking weights.

A folder ``models/NAME/`` holds a TF 1.x Saver checkpoint with the prefix ``model`` (inference
variables only) and ``config.json`` with at least ``family``, ``num_filters`` and ``fingerprint``;
``num_latents`` where y has more or fewer channels than N.
A checkpoint that the authors published is the same without the configuration.
"""

import collections
import functools
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

import factorized_prior
import network
from coding.bitstream import FINGERPRINT_BYTES
from errors import GlicError
from layers import MASKED_WEIGHTS

MODELS_DIR = Path(__file__).resolve().parents[1] / "models"
CHECKPOINT_PREFIX = "model"
CONFIG_NAME = "config.json"
MAX_CONFIG_BYTES = 1 << 20
MAX_FILTERS = 2040  # and latent channels: a file's channel flags have at most 255 bytes
MAX_TABLE_LENGTH = (1 << 16) + 1  # of a table that rises strictly from 0 to 65536
MAX_QUANTILE = 2.0**20  # of the prior of z: latents are within it


_FINGERPRINT = re.compile(f"[0-9a-f]{{{2 * FINGERPRINT_BYTES}}}")


# What TensorFlow's checkpoint reader raises on damaged files.
_UNREADABLE = (
    tf.errors.OpError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    MemoryError,
)


class ModelError(GlicError):
    """A model that is missing, incomplete or not what it says it is."""


# weights: dict of name to NumPy array; fingerprint: bytes; config: dict.
Model = collections.namedtuple("Model", "name family num_filters weights fingerprint config")


def build_inference_graph(num_filters, family, table_length=3, num_latents=None):
    """Builds all networks in the default graph, with float32 placeholders between them.

    Returns:
      Dict of tensors: placeholders ``x`` (B, H, W, 3) and ``y_hat`` (B, h, w, M); ``y`` and ``z``
      computed from ``x``; ``x_hat`` from ``y_hat``; and, for tests and measurements, ``phi`` from
      the placeholder ``z_hat`` and ``raw`` from ``y_hat`` and ``phi_in``.
    """
    n, m = num_filters, num_latents or num_filters
    x = tf.placeholder(tf.float32, (None, None, None, 3), "x")
    y_hat = tf.placeholder(tf.float32, (None, None, None, m), "y_hat")
    z_hat = tf.placeholder(tf.float32, (None, None, None, n), "z_hat")
    phi_in = tf.placeholder(tf.float32, (None, None, None, 2 * m), "phi")
    y = network.analysis(x, n, family, m)
    tensors = {
        "x": x,
        "y": y,
        "z": network.hyper_analysis(y, n),
        "z_hat": z_hat,
        "phi": network.hyper_synthesis(z_hat, n, m),
        "y_hat": y_hat,
        "phi_in": phi_in,
        "raw": network.entropy_parameter(y_hat, phi_in, family),
        "x_hat": network.synthesis(y_hat, n, family),
    }
    factorized_prior.variables(n, table_length)
    return tensors


@functools.lru_cache(maxsize=8)
def inference_variables(num_filters, family, num_latents=None):
    """Dict of every inference variable's name to (shape, NumPy dtype); not to be changed.

    The second dimension of ``entropy_bottleneck/quantized_cdf`` is None: it differs by model.
    """
    network.check_architecture(family, num_filters, num_latents)
    with tf.Graph().as_default():
        build_inference_graph(num_filters, family, num_latents=num_latents)
        found = {
            v.op.name: (tuple(v.shape.as_list()), v.dtype.as_numpy_dtype)
            for v in tf.global_variables()
        }
    name = "entropy_bottleneck/quantized_cdf"
    found[name] = ((num_filters, None), found[name][1])
    return found


def latents_in(weights):
    """M, the channels of y, of a model's weights by name."""
    return weights[MASKED_WEIGHTS].shape[2]


def check_architecture(family, num_filters, num_latents=None):
    """Raises ModelError unless a codec of this family and these numbers of channels can exist."""
    for what, number in (("filters", num_filters), ("latent channels", num_latents)):
        if number is None and what != "filters":
            continue
        if not isinstance(family, str) or type(number) is not int:
            raise ModelError(
                f"A family's name and a whole number of {what} expected, got "
                f"{str(family)[:40]!r} and {str(number)[:40]!r}."
            )
        if number > MAX_FILTERS:
            raise ModelError(f"At most {MAX_FILTERS} {what} expected, got more.")
    try:
        network.check_architecture(family, num_filters, num_latents)
    except GlicError as error:
        raise ModelError(str(error)) from error


def _matches(shape, expected):
    """Whether a shape is the expected one; None stands for a table's length."""
    return len(shape) == len(expected) and all(
        s <= MAX_TABLE_LENGTH if e is None else s == e for s, e in zip(shape, expected)
    )


def read_weights(prefix, num_filters, family, num_latents=None):
    """The inference variables of a checkpoint; whatever else it holds is left alone.

    Args:
      prefix: path of the checkpoint without ``.index``.
      num_filters: N.
      family: "gmm" or "gllmm".
      num_latents: M, or None for N.

    Returns:
      Dict of name to NumPy array.

    Raises:
      ModelError: for a missing or unreadable checkpoint, a missing variable, a wrong shape or
        dtype, or weights that are not finite.
    """
    prefix = str(prefix)
    if not Path(prefix + ".index").is_file():
        raise ModelError(
            f"No checkpoint at {prefix}: {prefix}.index is missing. Give the path without "
            ".index or .data-00000-of-00001."
        )
    weights = {}
    expected = inference_variables(num_filters, family, num_latents)
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        for name, (shape, dtype) in expected.items():
            # Before anything is read: a damaged file may promise any size.
            found = (dtypes[name].as_numpy_dtype, shapes[name]) if name in shapes else None
            if found is None or found[0] != dtype or not _matches(found[1], shape):
                came = "nothing"
                if found:
                    came = f"{np.dtype(found[0]).name} {tuple(found[1])}"
                latents = f" and {num_latents} latent channels" if num_latents else ""
                raise ModelError(
                    f"The checkpoint {prefix} does not fit family {family} with {num_filters} "
                    f"filters{latents}: {name} should be {np.dtype(dtype).name} {shape}, got "
                    f"{came}."
                )
            weights[name] = reader.get_tensor(name)
    except ModelError:
        raise
    except _UNREADABLE as error:
        raise ModelError(
            f"The checkpoint {prefix} cannot be read: {str(error).splitlines()[0]}"
        ) from error
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise ModelError(f"The checkpoint {prefix} holds NaN or infinity in {name}.")
    if np.abs(weights["entropy_bottleneck/quantiles"]).max() > MAX_QUANTILE:
        raise ModelError(
            f"The checkpoint {prefix} is damaged: its quantiles of z pass +-{MAX_QUANTILE:.0f}."
        )
    return weights


def fingerprint_of(weights, num_filters, family):
    """8 bytes that name a model: a SHA-256 over its architecture, names, shapes and values."""
    digest = hashlib.sha256(f"{family} {num_filters}\n".encode())
    for name in sorted(weights):
        values = np.ascontiguousarray(weights[name])
        little_endian = values.astype(values.dtype.newbyteorder("<"))
        digest.update(f"{name} {values.dtype.name} {values.shape}\n".encode())
        digest.update(little_endian.tobytes())
    return digest.digest()[:FINGERPRINT_BYTES]


def read_config(folder):
    """The configuration of a model folder.

    Raises:
      ModelError: where it is missing, is not JSON or lacks a field.
    """
    path = Path(folder) / CONFIG_NAME
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            raise ModelError(f"more than {MAX_CONFIG_BYTES} bytes")
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ModelError(f"an object of settings expected, got {type(config).__name__}")
        missing = [k for k in ("family", "num_filters", "fingerprint") if k not in config]
        if missing:
            raise ModelError(f"it lacks {', '.join(missing)}")
        check_architecture(config["family"], config["num_filters"], config.get("num_latents"))
        if not _FINGERPRINT.fullmatch(str(config["fingerprint"])):
            raise ModelError(
                f"a fingerprint of {2 * FINGERPRINT_BYTES} hexadecimal digits expected, got "
                f"{str(config['fingerprint'])[:40]!r}"
            )
    except FileNotFoundError:
        raise ModelError(f"No model at {folder}: {CONFIG_NAME} is missing.") from None
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"The model's {path} cannot be used: {error}") from error
    return config


def available(models_dir=MODELS_DIR):
    """Sorted names of the folders in ``models_dir`` that hold a model, hidden ones left out."""
    return sorted(p.parent.name for p in Path(models_dir).glob(f"[!.]*/{CONFIG_NAME}"))


def load_folder(folder):
    """The ``Model`` in a folder, checked against its fingerprint."""
    folder = Path(folder)
    config = read_config(folder)
    family, num_filters = config["family"], config["num_filters"]
    prefix = folder / CHECKPOINT_PREFIX
    weights = read_weights(prefix, num_filters, family, config.get("num_latents"))
    fingerprint = fingerprint_of(weights, num_filters, family)
    if fingerprint.hex() != config["fingerprint"]:
        raise ModelError(
            f"The weights in {folder} are not those that its {CONFIG_NAME} names (fingerprint "
            f"{config['fingerprint']} expected, got {fingerprint.hex()}): fetch the model again."
        )
    return Model(folder.name, family, num_filters, weights, fingerprint, config)


def folder_of(name, models_dir=MODELS_DIR):
    """The folder of the model called ``name`` in ``models_dir``, or the folder of that path.

    Raises:
      ModelError: where there is none.
    """
    folder = Path(models_dir) / name
    if not folder.is_dir() and Path(name).is_dir():
        folder = Path(name)
    if not folder.is_dir():
        known = ", ".join(available(models_dir)) or "none"
        raise ModelError(f"No model named {name} in {models_dir}. Available: {known}.")
    return folder


def load_named(name, models_dir=MODELS_DIR):
    """The ``Model`` called ``name`` in ``models_dir``, or in the folder of that path."""
    return load_folder(folder_of(name, models_dir))


def load_checkpoint(prefix, family, num_filters):
    """The ``Model`` of a checkpoint as its authors published it."""
    check_architecture(family, num_filters)
    weights = read_weights(prefix, num_filters, family)
    fingerprint = fingerprint_of(weights, num_filters, family)
    return Model(Path(prefix).name, family, num_filters, weights, fingerprint, {})


def find(fingerprint, models_dir=MODELS_DIR):
    """The folder in ``models_dir`` of the model with this fingerprint (8 bytes).

    Raises:
      ModelError: where there is none.
    """
    for name in available(models_dir):
        folder = Path(models_dir) / name
        try:
            if read_config(folder)["fingerprint"] == fingerprint.hex():
                return folder
        except ModelError:
            continue  # a broken folder must not hide the right one
    known = ", ".join(available(models_dir)) or "none"
    raise ModelError(
        f"The file was written with model {fingerprint.hex()}, which is not in {models_dir} "
        f"(there: {known}). Put its folder there, or name its checkpoint with --checkpoint."
    )
