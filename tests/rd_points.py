"""Checks of rate-distortion points in the form of RDdata/."""

from __future__ import annotations

import csv
import math
import re

import pytest

PUBLISHED_COLUMNS = ["bpp", "psnr_db", "ms_ssim", "ms_ssim_db"]


def rises(values):
    """Whether each value is above the one before."""
    return all(a < b for a, b in zip(values, values[1:]))


def check_own(path):
    """Asserts that a file of our models' points is as evaluate.py run --rddata writes it."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    header = path.read_text(encoding="utf-8").splitlines()[0].split(",")
    assert header == ["setting", *PUBLISHED_COLUMNS, "lmbda", "filters", "fingerprint"]
    for name in ("bpp", "psnr_db", "ms_ssim", "ms_ssim_db"):
        assert rises([float(row[name]) for row in rows]), name
    for row in rows:
        assert re.fullmatch(r"[0-9a-f]{16}", row["fingerprint"]) and int(row["filters"]) % 8 == 0
        linear = float(row["ms_ssim"])
        expected = pytest.approx(float(row["ms_ssim_db"]), abs=1e-4 + 5e-6 / (1 - linear))
        assert -10 * math.log10(1 - linear) == expected
    return rows
