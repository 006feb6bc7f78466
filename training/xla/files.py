"""The files of a bundle: weights and checkpoints as .npz, whole or not there."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from errors import GlicError
from variables import halved

RECORD = "record"  # the member of a .npz that is a JSON object
FEW = 4096  # numbers of a variable that is listed instead of drawn


def write_whole(path, data):
    """Writes bytes: the file holds all of them or what it held before."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}-{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_unfinished(folder):
    """Removes what calls of ``write_whole`` left that were killed; nobody else may write there."""
    for path in Path(folder).glob(".*-*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def write_arrays(path, arrays, record, half=False):
    """Writes arrays by name and a record.

    Args:
      path: of the .npz.
      arrays: dict of name to array.
      record: dict that JSON can hold.
      half: store float32 kernels as ``variables.halved`` gives them.
    """
    stored = {RECORD: np.array(json.dumps(record))}
    for name, values in arrays.items():
        values = np.asarray(values)
        stored[name] = halved(name, values) if half else values
    buffer = io.BytesIO()
    np.savez(buffer, **stored)
    write_whole(path, buffer.getbuffer())


def read_arrays(path):
    """(Arrays by name, record) of a file of ``write_arrays``; float16 comes as float32.

    Raises:
      GlicError: the file is damaged.
      OSError: it cannot be read.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        record = json.loads(str(arrays.pop(RECORD)))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise GlicError(f"{path} is damaged ({error}): copy it again, or remove it.") from error
    halves = {n: v.astype(np.float32) for n, v in arrays.items() if v.dtype == np.float16}
    return {**arrays, **halves}, record


def rule_of(values):
    """How to draw a variable anew, as a dict: its values where they are few or not random, else
    their mean and deviation."""
    square = values.ndim == 2 and values.shape[0] == values.shape[1]  # GDN's is near a diagonal
    if values.size <= FEW or square or values.std() == 0:
        listed = np.unique(values)[0].item() if values.std() == 0 else values.ravel().tolist()
        return {"shape": list(values.shape), "values": listed}
    mean, deviation = float(values.mean()), float(values.std())
    return {"shape": list(values.shape), "mean": mean, "deviation": deviation}


def drawn(rules, seed):
    """Weights by name from a dict of ``rule_of``: normal around the mean; float32."""
    random, weights = np.random.default_rng((seed, 4)), {}
    for name, rule in sorted(rules.items()):
        if "values" in rule:
            values = np.broadcast_to(np.ravel(rule["values"]), int(np.prod(rule["shape"])))
            weights[name] = values.reshape(rule["shape"]).astype(np.float32)
        else:
            normal = random.standard_normal(rule["shape"], np.float32)
            weights[name] = (rule["mean"] + rule["deviation"] * normal).astype(np.float32)
    return weights
