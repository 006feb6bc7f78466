"""The sentences that a newcomer sees on the wrong Python or without the packages."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import evaluate
import preflight
from pictures import images

FIRST_IMPORT = re.compile(r"^(?:import|from) (?!__future__)(\w+)", re.M)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("version", [(3, 8), (3, 9), (3, 14, 1)])
def test_other_pythons_are_named(version):
    with pytest.raises(SystemExit, match=rf"3\.10 to 3\.13 expected, got 3\.{version[1]}: "):
        preflight.check_system(version)


@pytest.mark.parametrize(
    "system, words",
    [
        (("Darwin", "x86_64", ("", "")), "Darwin on x86_64"),
        (("Linux", "i686", ("glibc", "2.31")), "Linux on i686"),
        (("Linux", "x86_64", ("", "")), r"musl \(Alpine\)"),
        (("Windows", "ARM64", ("", "")), "Windows on arm64"),
    ],
)
def test_systems_without_a_tensorflow_are_named(system, words):
    with pytest.raises(SystemExit, match=words):
        preflight.check_system((3, 12), *system)


@pytest.mark.parametrize(
    "system", [("Darwin", "arm64"), ("Windows", "AMD64"), ("Linux", "aarch64", ("glibc", "2.36"))]
)
def test_systems_with_a_tensorflow_are_taken(system):
    preflight.check_system((3, 10), *system)


def test_missing_packages_are_named():
    with pytest.raises(SystemExit, match=r"missing \(no_such_package\): run 'pip install"):
        preflight.check(packages=("sys", "no_such_package"))


@pytest.fixture
def without(monkeypatch):
    """Takes packages away."""
    found = importlib.util.find_spec

    def take(*packages):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name in packages else found("sys")
        )

    return take


@pytest.mark.parametrize("packages", [["tensorflow", "scipy"], ["onnxruntime"]])
def test_coding_needs_one_of_the_libraries_for_networks(without, packages):
    without(*packages)
    preflight.check_coding()


@pytest.mark.parametrize(
    ("packages", "words"),
    [
        (["tensorflow", "onnxruntime"], r"\(onnxruntime or tensorflow\)"),
        (["tensorflow", "onnxruntime", "tqdm"], r"\(tqdm, onnxruntime or tensorflow\)"),
        (["PIL", "tqdm"], r"\(PIL, tqdm\)"),
    ],
)
def test_what_coding_lacks_is_named_with_both_ways_out(without, packages, words):
    without(*packages)
    expected = rf"missing {words}: run 'pip install -r requirements.txt'.*requirements-light.txt'"
    with pytest.raises(SystemExit, match=expected):
        preflight.check_coding()


def test_training_says_that_it_needs_tensorflow():
    program = (
        "import sys; sys.modules['tensorflow'] = sys.modules['scipy'] = None\n"
        "import importlib.util; found = importlib.util.find_spec\n"
        "def find_spec(name, package=None):\n"
        "    return None if name in ('tensorflow', 'scipy') else found(name, package)\n"
        "importlib.util.find_spec = find_spec\n"
        "import train"
    )
    # Where ONNX Runtime is not installed, coding alone misses it before.
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    if importlib.util.find_spec("onnxruntime"):
        assert "missing (scipy, tensorflow): run 'pip install -r req" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("bjontegaard", ["run", "--images", "no-such-folder"]),
        ("matplotlib", ["run", "--images", "no-such-folder"]),
        ("matplotlib", ["bits", "no-such.png", "--map", "map.png"]),
    ],
)
def test_evaluation_names_what_is_missing_before_it_looks_at_an_image(
    monkeypatch, package, arguments
):
    found = importlib.util.find_spec
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else found("sys")
    )
    with pytest.raises(SystemExit, match=rf"missing \({package}\): .* -r requirements-eval\.txt'"):
        evaluate.main()


@pytest.mark.parametrize("arguments", [["complexity", "--filters", "8"], ["bits", "no-such.png"]])
def test_what_draws_nothing_needs_no_more_packages(monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])

    def check(packages=preflight.PACKAGES, requirements="requirements.txt"):
        if requirements != "requirements.txt":
            pytest.fail("asked for more packages")

    monkeypatch.setattr(preflight, "check", check)
    if arguments[0] == "bits":
        with pytest.raises(images.ImageError, match="no-such"):
            evaluate.main()
    else:
        assert evaluate.main() == 0


@pytest.mark.parametrize("version", ["2.5.2", "2.5.5"])
def test_a_numpy_that_crashes_is_named(version):
    with pytest.raises(SystemExit, match=rf"got {re.escape(version)}, which crashes"):
        preflight.check_numpy(version)


@pytest.mark.parametrize("version", ["1.26.4", "2.5.1", "2.5.6", "2.6.0rc1"])
def test_other_numpys_are_taken(version):
    preflight.check_numpy(version)


def test_the_bounds_are_those_of_pyproject_and_requirements():
    bounds = re.search(
        r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert ((3, int(bounds[1])), (3, int(bounds[2]) - 1)) == (preflight.OLDEST, preflight.NEWEST)
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    for line in lines:
        assert line.startswith("#") or re.search(
            r'; python_version >= "3\.1\d" and python_version < "3\.1\d"', line
        )


CHATTER = """WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795785130.295294   17178 port.cc:153] oneDNN custom operations are on. You may see
2026-11-27 12:25:14.262217: W tensorflow/compiler/tf2tensorrt/utils/py_utils.cc:38] TF-TRT Warning
"""


@pytest.mark.parametrize("fails", [False, True])
def test_chatter_is_kept_off_the_screen_and_nothing_else(fails, capfd):
    try:
        with preflight.without_chatter():
            os.write(2, CHATTER.encode())
            print("A module compiled for NumPy 1 cannot run", file=sys.stderr)
            if fails:
                raise ImportError("libsomething.so: cannot open shared object file")
    except ImportError:
        assert fails
    shown = capfd.readouterr().err
    assert "compiled for NumPy 1" in shown
    assert ("InitializeLog" in shown) == fails and ("oneDNN" in shown) == fails


@pytest.mark.parametrize("script", ["encoder.py", "decoder.py", "train.py", "codec.py"])
def test_every_script_checks_first(script):
    """Before any import of what is installed: cli starts with the check, too.

    The Python API, codec.py, is what programs of others import.
    """
    first = FIRST_IMPORT.search((ROOT / script).read_text())[1]
    assert first in ("preflight", "cli")
    assert FIRST_IMPORT.search((ROOT / "cli" / "__init__.py").read_text())[1] == "preflight"
