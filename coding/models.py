"""Model folders and authors' checkpoints: finding, reading and checking weights.

A folder ``models/NAME/`` holds a TF 1.x Saver checkpoint with the prefix ``model`` (inference
variables only) and ``config.json`` with at least ``family``, ``num_filters`` and ``fingerprint``;
``num_latents`` where y has more or fewer channels than N.
A checkpoint that the authors published is the same without the configuration.

A model is found by its name in ``MODELS_DIR``, or anywhere by its folder's path; the model of a
file by its fingerprint, in ``MODELS_DIR`` and in what the caller names besides. A name may also be
an alias: ``aliases.json`` in ``MODELS_DIR`` says for which folder it stands. Released models that
were brought back from the history (``coding.released``) are found by fingerprint only.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from architecture import Architecture
from coding import released
from coding.bitstream import FINGERPRINT_BYTES
from coding.checkpoint_reader import CheckpointError, CheckpointReader
from errors import GlicError
from rates import Rates
from variables import QUANTILES, inference_variables

MODELS_DIR = Path(__file__).resolve().parents[1] / "models"
CHECKPOINT_PREFIX = "model"
CONFIG_NAME = "config.json"
ALIASES_NAME = "aliases.json"
MAX_CONFIG_BYTES = 1 << 20
MAX_TABLE_LENGTH = (1 << 16) + 1  # of a table that rises strictly from 0 to 65536
MAX_QUANTILE = 2.0**20  # of the prior of z: latents are within it


_FINGERPRINT = re.compile(f"[0-9a-f]{{{2 * FINGERPRINT_BYTES}}}")


class ModelError(GlicError):
    """A model that is missing, incomplete or not what it says it is."""


class Model(NamedTuple):
    """A model's weights and what they are.

    architecture: ``Architecture``. weights: dict of variable name to NumPy array. fingerprint: 8
    bytes. config: dict, empty for an authors' checkpoint. path: the folder, or the checkpoint's
    prefix; None where it came from neither.
    """

    name: str
    architecture: Any
    weights: dict
    fingerprint: bytes
    config: dict
    path: Path | None = None

    @property
    def source(self):
        """What ``load`` takes to load it again, which pickles."""
        return str(self.path.resolve()), None if self.config else self.architecture


def _fits(entry, shape, dtype):
    """Whether a checkpoint's ``Entry`` can be a variable; None stands for a table's length."""
    dtypes = (np.float32, np.float16) if dtype == np.float32 else (dtype,)
    return (
        entry.dtype in dtypes
        and len(entry.shape) == len(shape)
        and all(s <= MAX_TABLE_LENGTH if e is None else s == e for s, e in zip(entry.shape, shape))
    )


def read_weights(prefix, architecture, *, check=True):
    """The inference variables of a checkpoint; whatever else it holds is left alone.

    Args:
      prefix: path of the checkpoint without ``.index``.
      architecture: ``Architecture``.
      check: whether to compare the values' checksums, half a second for a model; a model folder's
        fingerprint says more.

    Returns:
      Dict of name to NumPy array, float32 or int32. Kernels may be stored as float16.

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
    try:
        reader = CheckpointReader(prefix)
        for name, (shape, dtype) in inference_variables(architecture).items():
            # Before anything is read: a damaged file may promise any size.
            found = reader.entries.get(name)
            if found is None or not _fits(found, shape, dtype):
                raise ModelError(
                    f"The checkpoint {prefix} does not fit the architecture {architecture}: {name} "
                    f"should be {np.dtype(dtype).name} {shape}, got {found or 'nothing'}."
                )
            weights[name] = reader.read(name, check=check).astype(dtype, copy=False)
    except CheckpointError as error:
        raise ModelError(f"The checkpoint {prefix} cannot be read: {error}.") from error
    except OSError as error:
        why = f"{error.filename}: {error.strerror}" if error.filename else error
        raise ModelError(f"The checkpoint {prefix} cannot be read: {why}.") from error
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise ModelError(f"The checkpoint {prefix} holds NaN or infinity in {name}.")
    if np.abs(weights[QUANTILES]).max() > MAX_QUANTILE:
        raise ModelError(
            f"The checkpoint {prefix} is damaged: its quantiles of z pass +-{MAX_QUANTILE:.0f}."
        )
    return weights


def fingerprint_of(weights, architecture):
    """8 bytes that name a model: a SHA-256 over its architecture, names, shapes and values."""
    digest = hashlib.sha256(f"{architecture.family} {architecture.num_filters}\n".encode())
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
        Architecture.of(config)  # raises
        Rates.of(config)  # raises
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


def aliases(models_dir=MODELS_DIR):
    """Dict of alias to the name of the folder in ``models_dir`` that it stands for.

    Raises:
      ModelError: where ``aliases.json`` is there and is no such object.
    """
    path = Path(models_dir) / ALIASES_NAME
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path} cannot be used: {error}") from error
    if not isinstance(found, dict) or not all(map(_is_name, (*found, *found.values()))):
        raise ModelError(
            f"{path} cannot be used: an object of names of folders expected, such as "
            '{"gmm": "gmm-v2"}.'
        )
    return found


def _is_name(name):
    """Whether something is one part of a path, and so does not lead out of the folder of models."""
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name


def resolved(name, models_dir=MODELS_DIR):
    """A name or path of a model, as text; the name of the folder where it is an alias.

    Raises:
      ModelError: for a list of aliases that is damaged.
    """
    name = str(name)
    if not _is_name(name) or (Path(models_dir) / name).is_dir():
        return name
    return aliases(models_dir).get(name, name)


def load_folder(folder):
    """The ``Model`` in a folder, checked against its fingerprint."""
    folder = Path(folder)
    config = read_config(folder)
    architecture = Architecture.of(config)
    weights = read_weights(folder / CHECKPOINT_PREFIX, architecture, check=False)
    fingerprint = fingerprint_of(weights, architecture)
    if fingerprint.hex() != config["fingerprint"]:
        raise ModelError(
            f"The weights in {folder} are not those that its {CONFIG_NAME} names (fingerprint "
            f"{config['fingerprint']} expected, got {fingerprint.hex()}): remove that folder and "
            "fetch the model again."
        )
    return Model(folder.name, architecture, weights, fingerprint, config, folder)


def folder_of(name, models_dir=MODELS_DIR):
    """The folder of a model: of ``models_dir`` by its name or an alias, else that of a path.

    Raises:
      ModelError: where there is none.
    """
    real = resolved(name, models_dir)
    if _is_name(real) and (Path(models_dir) / real).is_dir():
        return Path(models_dir) / real
    path = Path(name)
    if not path.is_dir():
        known = ", ".join(available(models_dir)) or "none"
        alias = f" ({name} in {ALIASES_NAME})" if real != str(name) else ""
        raise ModelError(
            f"No model named {real}{alias} in {models_dir}, and no folder of that path. "
            f"Available: {known}."
        )
    return path


def load_named(name, models_dir=MODELS_DIR):
    """The ``Model`` called ``name`` in ``models_dir``, or in the folder of that path."""
    return load_folder(folder_of(name, models_dir))


def load_checkpoint(prefix, architecture):
    """The ``Model`` of a checkpoint as its authors published it."""
    weights, path = read_weights(prefix, architecture), Path(prefix)
    return Model(path.name, architecture, weights, fingerprint_of(weights, architecture), {}, path)


def load(source):
    """The ``Model`` of a ``Model.source``: (folder, None), or (prefix, ``Architecture``)."""
    path, architecture = source
    return load_checkpoint(path, architecture) if architecture else load_folder(path)


def search(fingerprint, models_dir=MODELS_DIR, more=()):
    """The folder of the model with this fingerprint (8 bytes), or None.

    Args:
      fingerprint: 8 bytes.
      models_dir: the folder of model folders, and of those that were fetched.
      more: names or paths of further model folders, see ``folder_of``.

    Raises:
      ModelError: where there is none of a name in ``more``.
    """
    fetched = Path(models_dir) / released.FETCHED
    folders = [Path(d) / name for d in (models_dir, fetched) for name in available(d)]
    for folder in (*folders, *(folder_of(name, models_dir) for name in more)):
        try:
            if read_config(folder)["fingerprint"] == fingerprint.hex():
                return folder
        except ModelError:
            continue  # a broken folder must not hide the right one
    return None


def find(fingerprint, models_dir=MODELS_DIR, more=()):
    """The same, but where there is none, an error says what the model is and how to have it.

    Raises:
      ModelError: where there is none.
    """
    folder = search(fingerprint, models_dir, more)
    if folder:
        return folder
    known = f"{models_dir} (there: {', '.join(available(models_dir)) or 'none'})"
    try:
        row = released.read(models_dir).get(fingerprint.hex())
    except released.ReleasedError as error:
        raise ModelError(
            f"The file was written with model {fingerprint.hex()}, which is not in {known}, and "
            f"what that was cannot be looked up: {error}"
        ) from error
    if row:
        raise ModelError(
            f"The file was written with {row}, which is not in {models_dir}: "
            f"{released.way_to(row, models_dir)}"
        )
    raise ModelError(
        f"The file was written with model {fingerprint.hex()}, which is not in {known} nor among "
        f"those released up to now ({released.LIST_NAME}), so that it cannot be fetched. Put its "
        "folder there or name it with --model, or its checkpoint with --checkpoint."
    )
