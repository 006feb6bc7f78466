"""Our models' measured points as a file of RDdata/: evaluate.py run --rddata.

One row per point of a curve, by rising rate: of each model of one rate, or at each lambda of one of
many. They are averaged as RDdata/README.md states: bpp, PSNR and linear MS-SSIM are means over the
24 Kodak images, MS-SSIM in dB is that of the mean.
"""

from __future__ import annotations

import csv

from errors import GlicError
from evaluation import tables
from evaluation.curves import KODAK, is_kodak

# The measured classic codecs' columns, and what the model is.
COLUMNS = ("setting", "bpp", "psnr_db", "ms_ssim", "ms_ssim_db", "lmbda", "filters", "fingerprint")
_DIGITS = {"bpp": 5, "psnr_db": 4, "ms_ssim": 6, "ms_ssim_db": 4}
_MEANS = {"psnr_db": "psnr"}  # where a mean goes by another name


class RDdataError(GlicError):
    """Measurements of which no file of RDdata/ can be made."""


def check(path, image_paths, curve_names):
    """Raises RDdataError before anything is measured, where no file could be written.

    Args:
      path: of the file.
      image_paths: what will be measured.
      curve_names: of the models' curves, one for each model.
    """
    if len(image_paths) != len(KODAK) or not is_kodak(p.stem for p in image_paths):
        raise RDdataError(
            "--rddata needs the 24 Kodak images, kodim01 to kodim24, as all of RDdata/ is for "
            f"them; got {len(image_paths)} image{'s' * (len(image_paths) != 1)}."
        )
    if len(set(curve_names)) != 1:
        raise RDdataError(
            "--rddata needs models of one curve: one of many rates, or several of one family and "
            "metric that differ in the last number of their names; got "
            f"{', '.join(sorted(set(curve_names))) or 'none'}."
        )
    if path.exists():
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            header = next(csv.reader(file), [])
        if tuple(header) != COLUMNS:
            raise RDdataError(
                f"{path} exists and holds something else than our models' points: choose another "
                "name for --rddata."
            )


def rounded(row):
    """A row with the measured values rounded to the digits of RDdata/."""
    digits = {name: _DIGITS.get(name) for name, value in row.items() if value is not None}
    return {k: round(v, digits[k]) if digits.get(k) else v for k, v in row.items()}


def rows_of(means, learned):
    """Rows of the models' points, by rising rate.

    Args:
      means: from ``tables.means``.
      learned: list of ``session.LearnedCodec``.

    Raises:
      RDdataError: where an image of a model failed.
    """
    codecs = {codec.name: codec for codec in learned}
    ours = [mean for mean in means if mean["kind"] == "model"]
    expected = sum(len(codec.lambdas) for codec in learned)
    if len(ours) < expected or any(m["images"] != len(KODAK) for m in ours):
        raise RDdataError(
            "--rddata: not all images were measured or count in the means: no file is written."
        )
    rows = []
    for mean in sorted(ours, key=lambda m: m["bpp"]):
        codec = codecs[mean["codec"]]
        values = {name: mean[_MEANS.get(name, name)] for name in _DIGITS}
        values.update(
            setting=codec.name,
            lmbda=codec.config.get("lmbda") if mean["setting"] is None else mean["setting"],
            filters=codec.config.get("num_filters"),
            fingerprint=codec.fingerprint,
        )
        rows.append(rounded(values))
    return rows


def write(path, means, learned):
    """Writes the file; see ``rows_of``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tables.write_csv(rows_of(means, learned), COLUMNS, path)
