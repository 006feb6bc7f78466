"""Rate-distortion curves: published ones, measured ones, and how far apart two of them are.

BD-rate is Bjontegaard's delta (VCEG-M33): the mean difference of log rate over the common interval
of quality, as percent. It is computed by the package ``bjontegaard`` with piecewise cubic (pchip)
interpolation. A codec that has one point only is compared at equal quality instead.
"""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from errors import GlicError

RDDATA = Path(__file__).resolve().parents[1] / "RDdata"
# Both papers, each trained for MSE: the curves that ours aim at.
PAPER_CURVES = ("cheng2020_mse_published", "gllmm_mse_published")
LABELS = {
    "cheng2020_mse_published": "Cheng et al. 2020, published",
    "cheng2020_ms_ssim_published": "Cheng et al. 2020 for MS-SSIM, published",
    "gllmm_mse_published": "Fu et al. 2023 (GLLMM), published",
    "gllmm_ms_ssim_published": "Fu et al. 2023 (GLLMM) for MS-SSIM, published",
    "bpg_444_published": "BPG 4:4:4, published",
    "classic_jpeg_444_measured": "JPEG 4:4:4, optimised Huffman",
    "classic_jpeg_420_measured": "JPEG 4:2:0, optimised Huffman",
    "classic_jpeg2000_rate_measured": "JPEG 2000",
    "classic_webp_measured": "WebP",
    "classic_avif_444_psnr_s6_measured": "AVIF 4:4:4 (libaom, speed 6)",
    "classic_jxl_e7_measured": "JPEG XL",
    "classic_hevc_444_8b_measured": "HEVC intra 4:4:4 (x265, slow)",
}
METRICS = {"psnr": "PSNR (dB)", "ms_ssim_db": "MS-SSIM (dB)"}
_COLUMNS = {"psnr": "psnr_db", "ms_ssim_db": "ms_ssim_db"}  # in RDdata/
MIN_POINTS = 3  # of a curve: with two, BD-rate would compare straight lines
KODAK = frozenset(f"kodim{i:02d}" for i in range(1, 25))


class CurveError(GlicError):
    """Curves that cannot be compared; the message is one sentence that says why."""


class Curve(NamedTuple):
    """A rate-distortion curve.

    name: unique, for files and options. label: for people. kind: "model", "classic" or
    "published". bpp, psnr, ms_ssim_db: float arrays of one length by rising bpp; NaN where unknown.
    """

    name: str
    label: str
    kind: str
    bpp: np.ndarray
    psnr: np.ndarray
    ms_ssim_db: np.ndarray

    def points(self, metric):
        """(bpp, quality) arrays of the points that have ``metric`` ("psnr" or "ms_ssim_db")."""
        quality = getattr(self, metric)
        known = np.isfinite(quality)
        return self.bpp[known], quality[known]


def make_curve(name, label, kind, points):
    """A ``Curve`` of (bpp, psnr, ms_ssim_db) triples in any order; None stands for unknown."""
    columns = np.array(sorted(points, key=lambda p: p[0]), np.float64).reshape(-1, 3).T
    return Curve(name, label, kind, *columns)


def published(name):
    """The curve of ``RDdata/NAME.csv``.

    Raises:
      CurveError: where there is no such file.
    """
    path = RDDATA / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RDDATA.glob("*.csv")))
        raise CurveError(f"No curve named {name!r} in RDdata/; there are: {known}.")
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def value(row, column):
        return float(row[column]) if row.get(column) else None

    points = [(value(r, "bpp"), *(value(r, c) for c in _COLUMNS.values())) for r in rows]
    label = LABELS.get(name, name.replace("_", " "))
    if "fingerprint" in rows[0]:  # written by evaluate.py run --rddata
        label = f"{name.replace('_measured', '').replace('_', ' ')} (ours, RDdata)"
    return make_curve(name, label, "published", points)


def is_kodak(stems):
    """Whether images of these names without suffix are the 24 Kodak images."""
    return frozenset(stems) == KODAK


def check_same_images(a, b, kodak):
    """Raises CurveError where one curve is published, for Kodak, and the other is not for Kodak."""
    if not kodak and "published" in (a.kind, b.kind) and a.kind != b.kind:
        raise CurveError(
            "Published points are for the 24 Kodak images, the measured ones are for others."
        )


def _rising(curve, metric):
    """The curve's points as (bpp, quality); CurveError unless the quality rises with the rate."""
    bpp, quality = curve.points(metric)
    if np.any(np.diff(quality) <= 0) or np.any(np.diff(bpp) <= 0):
        raise CurveError(f"The {METRICS[metric]} of {curve.label} does not rise with the rate.")
    return bpp, quality


def overlap(anchor, test, metric):
    """Share of the test curve's quality interval that the anchor's covers, 0 to 1."""
    (_, a), (_, b) = anchor.points(metric), test.points(metric)
    if not len(a) or not len(b) or b[-1] == b[0]:
        return 0.0
    return float(max(0.0, min(a.max(), b.max()) - max(a.min(), b.min())) / (b.max() - b.min()))


def bd_rate(anchor, test, metric):
    """Bjontegaard delta rate of ``test`` against ``anchor`` in percent; negative saves bits.

    Args:
      anchor, test: ``Curve``.
      metric: "psnr" or "ms_ssim_db".

    Raises:
      CurveError: for fewer than three points, a quality that does not rise with the rate, or
        curves without a common interval of quality.
    """
    import bjontegaard

    curves = []
    for curve in (anchor, test):
        bpp, quality = _rising(curve, metric)
        if len(bpp) < MIN_POINTS:
            raise CurveError(
                f"{MIN_POINTS} or more points with {METRICS[metric]} expected for BD-rate, but "
                f"{curve.label} has {len(bpp)}."
            )
        curves += [bpp, quality]
    if overlap(anchor, test, metric) == 0:
        raise CurveError(
            f"{test.label} and {anchor.label} have no {METRICS[metric]} in common: "
            f"{curves[3][0]:.2f} to {curves[3][-1]:.2f} against {curves[1][0]:.2f} to "
            f"{curves[1][-1]:.2f} dB."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a small overlap, which our tables state
        return float(bjontegaard.bd_rate(*curves, method="pchip", require_matching_points=False))


def rate_at_equal_quality(anchor, point, metric):
    """How many percent more bits ``point`` takes than the anchor at the same quality.

    The anchor's log rate is interpolated over quality by pchip, as for BD-rate.

    Args:
      anchor: ``Curve``.
      point: ``Curve`` of a single point.
      metric: "psnr" or "ms_ssim_db".

    Raises:
      CurveError: where the point's quality lies outside the anchor's.
    """
    from scipy.interpolate import PchipInterpolator

    bpp, quality = _rising(anchor, metric)
    (own_bpp, own_quality) = point.points(metric)
    if len(bpp) < 2 or not len(own_bpp):
        raise CurveError(f"{anchor.label} or {point.label} has no curve of {METRICS[metric]}.")
    if not quality[0] <= own_quality[0] <= quality[-1]:
        raise CurveError(
            f"{point.label} has {own_quality[0]:.2f} dB, outside of {anchor.label}, which goes "
            f"from {quality[0]:.2f} to {quality[-1]:.2f} dB."
        )
    log_rate = PchipInterpolator(quality, np.log(bpp))(own_quality[0])
    return float(100 * (own_bpp[0] / np.exp(log_rate) - 1))


def compare(curves, anchor, kodak):
    """Every curve against the anchor, by both metrics.

    Args:
      curves: list of ``Curve``.
      anchor: one of them.
      kodak: whether the measured curves are for the 24 Kodak images.

    Returns:
      List of dicts: curve, label, anchor, anchor_label, metric, kind ("BD-rate" or "equal
      quality"), percent (None where refused), overlap (None for equal quality), reason ("" or the
      refusal).
    """
    rows = []
    for curve in curves:
        if curve.name == anchor.name:
            continue
        for metric in METRICS:
            single = len(curve.points(metric)[0]) == 1
            row = {
                "curve": curve.name,
                "label": curve.label,
                "anchor": anchor.name,
                "anchor_label": anchor.label,
                "metric": metric,
                "kind": "equal quality" if single else "BD-rate",
                "percent": None,
                "overlap": None if single else overlap(anchor, curve, metric),
                "reason": "",
            }
            try:
                check_same_images(anchor, curve, kodak)
                measure = rate_at_equal_quality if single else bd_rate
                row["percent"] = measure(anchor, curve, metric)
            except CurveError as error:
                row["reason"] = str(error)
            rows.append(row)
    return rows


def describe(rows):
    """Text lines of ``compare``'s rows, against one anchor or several."""
    if not rows:
        return []
    title, names = f"against {rows[0]['anchor']}", [row["label"] for row in rows]
    if len({row["anchor"] for row in rows}) > 1:
        title, names = "", [f"{row['label']} against {row['anchor_label']}" for row in rows]
    width = max(44, *map(len, names))
    lines = [f"{title:{width}s} {'metric':>10s} {'bits':>9s}  how"]
    for name, row in zip(names, rows):
        percent = "-" if row["percent"] is None else f"{row['percent']:+.1f} %"
        how = row["reason"] or row["kind"]
        if not row["reason"] and row["overlap"] is not None:
            how += f" over {row['overlap']:.0%} of its quality range"
        lines.append(f"{name:{width}s} {row['metric']:>10s} {percent:>9s}  {how}")
    return lines
