"""Says in one sentence what is missing before an import fails, and quiets TensorFlow.

Imported first by every script, and by codec.py for the programs that import it. It must run on any
Python 3 and import nothing that is installed.
"""

import importlib.util
import os
import sys

OLDEST, NEWEST = (3, 9), (3, 11)  # what TensorFlow 2.14.1 and range-coder 1.1 have wheels for
PACKAGES = (
    "numpy",
    "PIL",
    "range_coder",
    "scipy",
    "tensorflow",
    "tensorflow_compression",
    "tensorflow_probability",
    "tqdm",
)


def check(version=sys.version_info, packages=PACKAGES, requirements="requirements.txt"):
    """Exits with a sentence (status 1) where Python or a package does not fit.

    Scripts that need more call it again, before the work whose end would fail.
    """
    found = tuple(version[:2])
    if not OLDEST <= found <= NEWEST:
        sys.exit(
            "Python 3.9 to 3.11 expected, got {}.{}: make the environment with a fitting one, for "
            "example by 'uv venv --seed --python 3.11 .venv' (see README.md, 'Try it').".format(
                *found
            )
        )
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            "Packages are missing ({}): run 'pip install -r {}' in this environment.".format(
                ", ".join(missing), requirements
            )
        )


def check_evaluation(packages=("bjontegaard", "matplotlib")):
    """The same for packages of requirements-eval.txt: BD-rate and plots."""
    check(packages=packages, requirements="requirements-eval.txt")


check()
# TensorFlow greets with a dozen lines about CUDA; it reads this when it is first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
