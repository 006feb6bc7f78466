"""The published and measured rate-distortion points: well formed, rising, and documented."""

from __future__ import annotations

import csv
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rd_points import PUBLISHED_COLUMNS, check_own, rises

from coding import released

FOLDER = Path(__file__).parents[2] / "RDdata"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
REFERENCE_FILES = sorted([*FOLDER.glob("*_published.csv"), *FOLDER.glob("classic_*_measured.csv")])
OWN_FILES = sorted(set(FOLDER.glob("*_measured.csv")) - set(REFERENCE_FILES))


def _columns(path):
    """Columns by name; a column without any value is left out, half a column is an error."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        name: [float(value) for value in values]
        for name, values in columns.items()
        if any(value != "" for value in values)
    }


def test_both_papers_are_there():
    names = {path.name for path in REFERENCE_FILES}
    wanted = {f"{s}_{m}_published.csv" for s in ("cheng2020", "gllmm") for m in ("mse", "ms_ssim")}
    assert wanted <= names


@pytest.mark.parametrize("path", REFERENCE_FILES, ids=lambda path: path.stem)
def test_points(path):
    header = path.read_text(encoding="utf-8").splitlines()[0].split(",")
    measured = path.name.endswith("_measured.csv")
    assert header == (["setting"] if measured else []) + PUBLISHED_COLUMNS
    columns = _columns(path)
    assert len(columns["bpp"]) >= 4
    for name in ("bpp", "psnr_db", "ms_ssim", "ms_ssim_db"):
        assert rises(columns.get(name, [])), name
    assert all(0 < value < 5 for value in columns["bpp"])
    assert all(20 < value < 50 for value in columns["psnr_db"])
    if measured:
        assert set(columns) == {"setting", *PUBLISHED_COLUMNS}


@pytest.mark.parametrize("path", REFERENCE_FILES, ids=lambda path: path.stem)
def test_decibels_belong_to_the_linear_values(path):
    columns = _columns(path)
    for linear, db in zip(columns.get("ms_ssim", []), columns.get("ms_ssim_db", [])):
        # Linear values are rounded to six digits, which matters more the nearer they are to 1.
        assert -10 * math.log10(1 - linear) == pytest.approx(db, abs=1e-4 + 5e-6 / (1 - linear))


def test_points_of_our_models():
    listed = released.read(FOLDER.parent / "models")
    for path in OWN_FILES:
        for row in check_own(path):
            assert listed[row["fingerprint"]].name == row["setting"], row


def test_documents_show_these_points():
    command = [sys.executable, "docs/make_results.py", "--check"]
    result = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_readme_names_every_file_and_no_other():
    documented = set(re.findall(r"`([^`*/]+\.csv)`", README))
    assert documented == {path.name for path in FOLDER.glob("*.csv")}
