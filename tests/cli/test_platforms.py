"""What other systems lack is not needed to import any module."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("cli", "coding", "evaluation", "pictures", "search", "training")
# What Windows has not.
LACKING = """
import os, signal, sys
sys.modules["resource"] = None
for name in ("SIGCONT", "SIGTSTP", "SIGSTOP", "SIGUSR1", "SIGHUP"):
    delattr(signal, name)
for name in ("memfd_create", "sched_getaffinity", "getuid", "fchmod"):
    delattr(os, name)
sys.path.insert(0, sys.argv[1])
import importlib
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def modules():
    """Names of all modules of the product."""
    paths = [*ROOT.glob("*.py")] + [p for room in ROOMS for p in (ROOT / room).rglob("*.py")]
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in sorted(paths)]
    with_jax = importlib.util.find_spec("jax") is not None
    return [
        name.removesuffix(".__init__")
        for name in names
        if with_jax or not name.startswith("training.xla.")
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="takes from a POSIX system what Windows lacks")
def test_every_module_imports_without_what_only_posix_has():
    command = [sys.executable, "-c", LACKING, str(ROOT), *modules()]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
