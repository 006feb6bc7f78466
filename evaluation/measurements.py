"""Many measurements on worker processes, and a cache of their results.

Every measurement is done in a worker process, so that threads can be limited and a crash costs one
image. A result is kept under a hash of all that it depends on: the image's bytes, the model's
fingerprint and lambda or the classic codec's options, the source of the code that measures, the
versions of the libraries, the device, and the numbers of threads and processes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import json
import platform
from pathlib import Path

import tqdm

from cli import errors as cli_errors
from cli import options
from cli.outputs import atomic_write
from cli.workers import Workers
from coding import backends, cores
from evaluation import classics
from evaluation.measure import measure

# What decides over a result, beside the inputs. A change of any file of these measures anew.
_SOURCES = (
    "*.py",
    "coding/*.py",
    "pictures/*.py",
    "evaluation/classics.py",
    "evaluation/measure.py",
)
# Packages under the names that they are mostly installed by, and their modules.
_PACKAGES = {
    "onnxruntime": "onnxruntime",
    "tensorflow": "tensorflow",
    "range-coder": "range_coder",
    "numpy": "numpy",
    "pillow": "PIL",
}
CACHE = "cache"  # folder within the output folder


def source_files():
    """Sorted paths of the code that measures."""
    return sorted({path for pattern in _SOURCES for path in options.ROOT.glob(pattern)})


@functools.cache
def source_hash():
    """SHA-256 of the code that measures, hexadecimal."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in source_files())).hexdigest()


def _processor():
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@functools.cache
def device(backend=None):
    """What the networks of a backend run on, in words; None stands for no networks."""
    gpus = []
    if backend == backends.TENSORFLOW:
        import tensorflow as tf

        gpus = [
            tf.config.experimental.get_device_details(d).get("device_name", d.name)
            for d in tf.config.list_physical_devices("GPU")
        ]
    return ", ".join([*gpus, f"{_processor()}, {cores.count()} cores"])


@functools.cache
def versions():
    """Versions of what takes part, in one line."""
    parts = [f"Python {platform.python_version()}"]
    return ", ".join(parts + [f"{name} {_version(name)}" for name in _PACKAGES])


def _version(package):
    """A package's version; of one that is installed under another name, what its module says."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    try:
        return getattr(importlib.import_module(_PACKAGES[package]), "__version__", "unknown")
    except ImportError:
        return "missing"


@functools.lru_cache(maxsize=4096)
def image_hash(path):
    """SHA-256 of an image file's bytes, hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def cache_key(task, threads, jobs):
    """Name under which the result of a task is kept."""
    identity = {
        "image": image_hash(task.path),
        "kind": task.kind,
        "source": source_hash(),
        "versions": versions(),
        "device": device(task.backend),
        "threads": threads,
        "jobs": jobs,
    }
    if task.kind == "model":
        identity["fingerprint"], identity["backend"] = task.fingerprint, task.backend
        identity["setting"] = task.setting
    else:
        codec = classics.find(task.codec)
        identity["codec"] = [task.codec, classics.library_version(task.codec)]
        identity["options"] = codec.options
        identity["setting"], identity["limit"] = task.setting, task.limit
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def _measure_and_keep(arguments):
    """``measure`` for a worker: keeps the result in the cache, and returns (row, problem)."""
    task, folder, key, conditions = arguments
    try:
        row, data = measure(task)
        row.update(conditions)
        if "device" not in conditions:
            row.update(device=device(task.backend), versions=versions())
        file = folder / (key + row["suffix"])
        atomic_write(file, data)
        atomic_write(folder / f"{key}.json", json.dumps(row).encode())
        return row, None
    except cli_errors.EXPECTED_ERRORS as error:
        return None, cli_errors.reason(error)


def each(workers, work, items, title):
    """Yields (index, result, problem) of ``work(item)`` for all items, beside a progress bar.

    Args:
      workers: ``cli.workers.Workers``; work, items: see its ``map``.
      title: of the progress bar.
    """
    done = workers.map(work, items)
    for index, result, problem, _ in tqdm.tqdm(
        done, title, len(items), unit="image", disable=None if items else True
    ):
        yield index, result, problem


def _cached(folder, key):
    """The kept row, or None where there is none or it is damaged."""
    try:
        row = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
        whole = (folder / (key + row["suffix"])).stat().st_size == row["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return row if whole else None


def measure_all(tasks, folder, workers, title="measuring"):
    """Rows of all tasks, from the cache where they are there.

    Args:
      tasks: list of ``measure.Task``.
      folder: of the cache, made if missing.
      workers: ``cli.workers.Workers``.
      title: of the progress bar.

    Returns:
      ``rows``: list of dicts in the tasks' order, without the failed ones; each has the task's
      names and ``file``, the path of the coded file. ``problems``: list of (task, sentence).
      ``fresh``: how many were measured in this call.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    keys = [cache_key(task, workers.threads, workers.jobs) for task in tasks]
    found = [_cached(folder, key) for key in keys]
    conditions = {"threads": workers.threads, "jobs": workers.jobs}

    def conditions_of(task):
        if isinstance(workers, Workers):
            return {**conditions, "device": device(task.backend), "versions": versions()}
        return conditions  # a scheduler's workers say themselves what they are

    missing = [i for i, row in enumerate(found) if row is None]
    items = [(tasks[i], folder, keys[i], conditions_of(tasks[i])) for i in missing]
    problems = []
    for number, result, lost in each(workers, _measure_and_keep, items, title):
        row, problem = result or (None, cli_errors.reason(lost))
        found[missing[number]] = row
        if problem:
            problems.append((tasks[missing[number]], problem))
    rows = [_named(t, k, r, folder) for t, k, r in zip(tasks, keys, found) if r is not None]
    return rows, problems, len(missing) - len(problems)


def _named(task, key, row, folder):
    """A kept row with the names that it goes by in this run."""
    names = {
        "path": task.path,
        "image": Path(task.path).name,
        "sha256": image_hash(task.path),
        "kind": task.kind,
        "codec": task.codec,
        "fingerprint": task.fingerprint,
        "matched_to": task.matched_to,
        "file": str(folder / (key + row["suffix"])),
    }
    return {**names, **row}
