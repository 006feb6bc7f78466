"""What a kept result depends on, and what is recorded with it."""

import importlib.metadata
import json
import pickle
import subprocess
import sys
from pathlib import Path

from golden_models import NUM_FILTERS, REFERENCE, checkpoint_of

from architecture import Architecture
from coding import backends
from evaluation import measure, measurements
from evaluation.measure import Task

ROOT = Path(__file__).resolve().parents[2]
PICTURES = [REFERENCE / "image_120x179.png", REFERENCE / "image_128x192.png"]


def test_a_damaged_result_is_not_used(tmp_path):
    (tmp_path / "key.json").write_text('{"suffix": ".glic", "bytes": 3}', encoding="utf-8")
    assert measurements._cached(tmp_path, "key") is None  # its file is missing
    (tmp_path / "key.glic").write_bytes(b"ab")
    assert measurements._cached(tmp_path, "key") is None  # or cut off
    (tmp_path / "key.glic").write_bytes(b"abc")
    assert measurements._cached(tmp_path, "key")["bytes"] == 3
    (tmp_path / "key.json").write_text('{"suffix":', encoding="utf-8")
    assert measurements._cached(tmp_path, "key") is None


def test_the_key_depends_on_everything_that_counts():
    task = Task(str(PICTURES[0]), "model", "a", fingerprint="00")
    key = measurements.cache_key(task, 2, 1)
    assert key == measurements.cache_key(task._replace(codec="another name"), 2, 1)
    others = [
        (task._replace(path=str(PICTURES[1])), 2, 1),
        (task._replace(fingerprint="01"), 2, 1),
        (task._replace(load=("name", "onnx", "a")), 2, 1),
        (task, 1, 1),
        (task, 2, 2),
        (Task(task.path, "classic", "jpeg", setting=10), 2, 1),
        (Task(task.path, "classic", "jpeg", setting=11), 2, 1),
        (Task(task.path, "matched", "jpeg", limit=10), 2, 1),
    ]
    assert len({key, *(measurements.cache_key(*other) for other in others)}) == len(others) + 1


def test_all_code_that_measuring_imports_decides_over_a_kept_result():
    """A module that is not among the sources could change what is measured unseen."""
    checkpoint = str(checkpoint_of("gmm")), Architecture("gmm", NUM_FILTERS)
    installed = [backend for backend in backends.BACKENDS if backends.is_installed(backend)]
    tasks = [
        *(Task(str(PICTURES[0]), "model", "a", ("checkpoint", b, *checkpoint)) for b in installed),
        Task(str(PICTURES[0]), "classic", "jpeg", setting=20),
        Task(str(PICTURES[0]), "matched", "jpeg", limit=4000),
    ]
    code = (
        "import json, pickle, sys\n"
        "from evaluation.measure import measure\n"
        "for task in pickle.load(sys.stdin.buffer): measure(task)\n"
        "files = [getattr(module, '__file__', None) for module in sys.modules.values()]\n"
        "print(json.dumps([file for file in files if file]))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(tasks),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    loaded = {Path(file).resolve() for file in json.loads(process.stdout)}
    own = {path for path in loaded if ROOT in path.parents and ".venv" not in path.parts}
    empty = {path for path in own if path.name == "__init__.py"}
    assert ROOT / "coding" / "context.py" in own  # what the codec imports late counts, too
    assert own - empty <= set(measurements.source_files())


def test_a_package_under_another_name_has_a_version(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert measurements._version("numpy")[0].isdigit()  # as tensorflow-cpu is no tensorflow
    monkeypatch.setitem(sys.modules, "range_coder", None)
    assert measurements._version("range-coder") == "missing"


def test_peak_memory_without_proc_and_without_resource(monkeypatch):
    def no_file(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(measure, "open", no_file, raising=False)
    assert measure.reset_peak_memory() == "process" and measure.peak_memory() > 20
    monkeypatch.setitem(sys.modules, "resource", None)
    assert measure.peak_memory() is None
