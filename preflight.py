"""Says in one sentence what is missing before an import fails, and quiets TensorFlow.

Imported first by every script, and by codec.py for the programs that import it. Coding needs ONNX
Runtime or TensorFlow; training and a part of the evaluation need TensorFlow. ``python3
preflight.py`` says before an installation whether one of all is possible. It must run on any Python
from 3.6 on and import nothing that is installed.
"""

import contextlib
import importlib.abc
import importlib.util
import os
import platform
import re
import struct
import sys
import tempfile

OLDEST, NEWEST = (3, 10), (3, 13)  # what TensorFlow 2.14.1 and 2.21 have wheels for
MACHINES = {  # that TensorFlow has packages for
    "Linux": ("x86_64", "amd64", "aarch64", "arm64"),
    "Darwin": ("arm64",),
    "Windows": ("amd64", "x86_64"),
}
# NumPy whose OpenBLAS (0.3.34) crashes in a matrix product on some processors.
BROKEN_NUMPY = (2, 5, 2), (2, 5, 5)
CODING_PACKAGES = ("numpy", "PIL", "threadpoolctl", "tqdm")
NETWORK_PACKAGES = ("onnxruntime", "tensorflow")  # coding needs one of them
PACKAGES = CODING_PACKAGES + ("scipy", "tensorflow")

# What TensorFlow says while it is imported, before its log level counts: news about CUDA, oneDNN
# and its own logging. Anything else, and all of it where the import fails, is shown.
_CHATTER = re.compile(
    r"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} [\d:. ]+ +\d+ \S+\.cc:\d+\]"
    r"|\d{4}-\d\d-\d\d [\d:.]+: [IW] |To enable the following instructions: "
)


def check_system(version=sys.version_info, system=None, machine=None, libc=None):
    """Exits with a sentence (status 1) where TensorFlow has no package for this Python or system.

    Args:
      version: of Python. system, machine, libc: as the module platform tells them.
    """
    found = tuple(version[:2])
    if not OLDEST <= found <= NEWEST:
        sys.exit(
            "Python 3.10 to 3.13 expected, got {}.{}: make the environment with a fitting one, for "
            "example by 'uv venv --seed --python 3.13 .venv' (see README.md, 'Try it').".format(
                *found
            )
        )
    if struct.calcsize("P") < 8:
        sys.exit("A 64-bit Python expected, got one of 32 bits: TensorFlow has no package for it.")
    system, machine = system or platform.system(), (machine or platform.machine()).lower()
    if machine not in MACHINES.get(system, ()):
        sys.exit(
            "Linux on x86-64 or Arm, macOS on Arm, or Windows on x86-64 expected, got "
            f"{system} on {machine}: TensorFlow has no package for it."
        )
    if system == "Linux" and (libc or platform.libc_ver())[0] != "glibc":
        sys.exit(
            "A Linux with glibc expected, not musl (Alpine): TensorFlow has no package for it. In "
            "a container take an image of Debian or Ubuntu."
        )


def _missing(packages):
    return [name for name in packages if importlib.util.find_spec(name) is None]


def check(packages=PACKAGES, requirements="requirements.txt"):
    """Exits with a sentence (status 1) where the system or a package does not fit.

    Scripts that need more than coding does call it before the work whose end would fail.
    """
    missing = _missing(packages)
    if "tensorflow" in missing:
        check_system()
    if missing:
        sys.exit(
            "Packages are missing ({}): run 'pip install -r {}' in this environment.".format(
                ", ".join(missing), requirements
            )
        )


def check_coding():
    """The same for coding alone, where ONNX Runtime does as well as TensorFlow."""
    if tuple(sys.version_info[:2]) < OLDEST:
        check_system()
    networks = _missing(NETWORK_PACKAGES)
    missing = _missing(CODING_PACKAGES) + [" or ".join(networks)] * (len(networks) == 2)
    if missing:
        sys.exit(
            "Packages are missing ({}): run 'pip install -r requirements.txt' in this environment, "
            "or for coding alone 'pip install -r requirements-light.txt'.".format(
                ", ".join(missing)
            )
        )


def check_numpy(version=None):
    """Exits with a sentence where NumPy would crash."""
    from importlib.metadata import version as version_of

    version = version or version_of("numpy")
    oldest, newest = BROKEN_NUMPY
    if oldest <= tuple(int(part) for part in re.findall(r"\d+", version)[:3]) <= newest:
        sys.exit(
            f"NumPy 2.5.1 or older expected, got {version}, which crashes in matrix products on "
            "some processors: run \"pip install 'numpy<2.5.2'\" in this environment."
        )


def check_evaluation(packages=("bjontegaard", "matplotlib")):
    """The same for packages of requirements-eval.txt: BD-rate and plots."""
    check(packages=packages, requirements="requirements-eval.txt")


@contextlib.contextmanager
def without_chatter():
    """Keeps what libraries print on standard error about themselves off the screen."""
    try:
        kept = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
        screen = os.dup(2)
    except OSError:  # there is no place to keep it, or no screen
        yield
        return
    with kept:
        os.dup2(kept.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
            kept.seek(0)
            for line in kept:
                if failed or not _CHATTER.match(line.decode(errors="replace")):
                    os.write(2, line)


class _QuietImport(importlib.abc.MetaPathFinder):
    """Imports TensorFlow ``without_chatter``."""

    def find_spec(self, name, path, target=None):
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                with without_chatter():
                    execute(module)

            spec.loader.exec_module = exec_module
        return spec


if __name__ == "__main__":  # before anything is installed
    check_system()
else:
    check_coding()
    check_numpy()
    # TensorFlow reads this when it is first imported; what it says before that is filtered.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _QuietImport())
