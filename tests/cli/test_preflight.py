"""The sentences that a newcomer sees on the wrong Python or without the packages."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import evaluate
import preflight
from pictures import images

FIRST_IMPORT = re.compile(r"^(?:import|from) (?!__future__)(\w+)", re.M)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("version", [(3, 8), (3, 12), (3, 13, 1)])
def test_other_pythons_are_named(version):
    with pytest.raises(SystemExit, match=rf"3\.9 to 3\.11 expected, got 3\.{version[1]}: "):
        preflight.check(version)


def test_missing_packages_are_named():
    with pytest.raises(SystemExit, match=r"missing \(no_such_package\): run 'pip install"):
        preflight.check(packages=("sys", "no_such_package"))


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
    monkeypatch.setattr(preflight, "check", lambda **_: pytest.fail("asked for more packages"))
    if arguments[0] == "bits":
        with pytest.raises(images.ImageError, match="no-such"):
            evaluate.main()
    else:
        assert evaluate.main() == 0


def test_the_bounds_are_those_of_pyproject_and_requirements():
    bounds = re.search(
        r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert ((3, int(bounds[1])), (3, int(bounds[2]) - 1)) == (preflight.OLDEST, preflight.NEWEST)
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    marker = 'python_version >= "3.9" and python_version < "3.12"'
    assert all(line.endswith(marker) for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("script", ["encoder.py", "decoder.py", "train.py", "codec.py"])
def test_every_script_checks_first(script):
    """Before any import of what is installed: the package cli starts with the check, too.

    The Python API, codec.py, is what programs of others import.
    """
    first = FIRST_IMPORT.search((ROOT / script).read_text())[1]
    assert first in ("preflight", "cli")
    shared = FIRST_IMPORT.search((ROOT / "cli" / "__init__.py").read_text())[1]
    assert shared == "preflight"
