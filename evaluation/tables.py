"""Results as tables: means, text lines, CSV and JSON, and the curves that the means make."""

from __future__ import annotations

import csv
import io
import json
import math

from cli.outputs import atomic_write
from evaluation import classics, points
from evaluation.curves import make_curve
from pictures import metrics

# fmt: off
COLUMNS = (
    "image", "sha256", "width", "height", "mode", "notes", "kind", "codec", "setting", "lmbda",
    "matched_to", "fits", "family", "filters", "latents", "backend", "fingerprint", "bytes", "bpp",
    "psnr", "ms_ssim", "ms_ssim_db", "encode_seconds", "encode_networks_seconds",
    "encode_entropy_seconds",
    "decode_seconds", "decode_entropy_seconds", "decode_networks_seconds", "encode_peak_mib",
    "decode_peak_mib", "peak_scope", "device", "threads", "jobs", "library", "versions",
)
# fmt: on
MEAN_KEYS = ("kind", "codec", "setting", "matched_to")
# fmt: off
_AVERAGED = (
    "bpp", "psnr", "ms_ssim", "encode_seconds", "encode_networks_seconds",
    "encode_entropy_seconds", "decode_seconds", "decode_entropy_seconds",
    "decode_networks_seconds",
)
# fmt: on
_LARGEST = ("encode_peak_mib", "decode_peak_mib")
MEAN_COLUMNS = (
    *MEAN_KEYS,
    "lmbda",
    "images",
    *_AVERAGED[:3],
    "ms_ssim_db",
    *_AVERAGED[3:],
    *_LARGEST,
)


def point_of(row):
    """A row's or a mean's codec, with the lambda of a model of many rates."""
    return points.label(row["codec"], row.get("setting") if row["kind"] == "model" else None)


def _group(row):
    """What rows have in common that are averaged together: a matched codec's setting varies."""
    setting = None if row["kind"] == "matched" else row.get("setting")
    return row["kind"], row["codec"], setting, row["matched_to"]


def _mean(values):
    """Plain mean of what is known, or None."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def is_exact(psnr, ms_ssim):
    """Whether a picture was restored exactly: PSNR is infinite, or MS-SSIM 1 and infinite in dB.

    So would be every mean with it.
    """
    return math.isinf(psnr) or (ms_ssim is not None and ms_ssim >= 1)


def lossless(rows):
    """Images that a codec restored exactly.

    They are left out of the means of all codecs, which stay comparable so.

    Returns:
      List of dicts: image, sha256, codecs (labels).
    """
    found = {}
    for row in rows:
        if is_exact(row["psnr"], row["ms_ssim"]):
            entry = {"image": row["image"], "sha256": row["sha256"], "codecs": []}
            labels = found.setdefault(row["sha256"], entry)["codecs"]
            classic = row["kind"] != "model"
            label = classics.CLASSICS[row["codec"]].label if classic else row["codec"]
            labels += [label] * (label not in labels)
    return list(found.values())


def means(rows):
    """A dict per codec and setting, in the order of appearance.

    bpp, PSNR, linear MS-SSIM and seconds are means over the images (MS-SSIM over those that have
    it), ``ms_ssim_db`` is the dB value of the mean MS-SSIM, as in RDdata/, memory the largest. That
    is the whole process's, with TensorFlow, and not given for classic codecs, which need little.
    """
    groups = {}
    for row in rows:
        groups.setdefault(_group(row), []).append(row)
    result = []
    for group, members in groups.items():
        mean = dict(zip(MEAN_KEYS, group), lmbda=members[0].get("lmbda"), images=len(members))
        for column in _AVERAGED:
            mean[column] = _mean([m.get(column) for m in members])
        ms_ssim = mean["ms_ssim"]
        mean["ms_ssim_db"] = None if ms_ssim is None else metrics.to_db(ms_ssim)
        for column in _LARGEST:
            known = [m[column] for m in members if m.get(column) is not None]
            mean[column] = max(known, default=None)
        result.append(mean)
    return result


def label_of(mean):
    """A name for people."""
    if mean["kind"] == "model":
        return point_of(mean)
    label = classics.CLASSICS[mean["codec"]].label
    if mean["kind"] == "matched":
        return f"{label} at the size of {mean['matched_to']}"
    return f"{label}, {mean['setting']}"


def curves_of(all_means, series):
    """Measured curves.

    Args:
      all_means: from ``means``.
      series: dict of model name to (curve name, label), see ``session.series_of``.

    Returns:
      List of ``Curve``, models first.
    """
    by_curve = {}
    for mean in all_means:
        if mean["kind"] == "model":
            name, label = series[mean["codec"]]
        elif mean["kind"] == "classic":
            name, label = mean["codec"], classics.CLASSICS[mean["codec"]].label
        else:
            continue
        point = mean["bpp"], mean["psnr"], mean["ms_ssim_db"]
        by_curve.setdefault((mean["kind"], name, label), []).append(point)
    ordered = sorted(by_curve.items(), key=lambda item: item[0][0] != "model")
    return [make_curve(name, label, kind, values) for (kind, name, label), values in ordered]


def _number(value, form, unknown="-"):
    return unknown if value is None else format(value, form)


def describe_row(row):
    """The line of one image."""
    name = point_of(row) if not row["matched_to"] else f"{row['codec']} = {row['matched_to']}"
    line = (
        f"{row['image']:20s} {name:24s} {row['bpp']:7.4f} bpp  PSNR {row['psnr']:6.3f} dB  "
        f"MS-SSIM {_number(row['ms_ssim'], '.5f')} ({_number(row['ms_ssim_db'], '.3f')} dB)"
    )
    if row["kind"] == "matched" and not row["fits"]:
        line += "  [its smallest file is larger]"
    return line


def describe_means(all_means):
    """Text lines of the means."""
    lines = [
        f"{'mean over the images':44s} {'n':>3s} {'bpp':>7s} {'PSNR':>7s} {'MS-SSIM':>8s} "
        f"{'dB':>7s} {'enc s':>7s} {'dec s':>7s} {'MiB':>6s}"
    ]
    for m in all_means:
        memory = max((m[c] for c in _LARGEST if m[c] is not None), default=None)
        lines.append(
            f"{label_of(m):44s} {m['images']:3d} {m['bpp']:7.4f} {m['psnr']:7.3f} "
            f"{_number(m['ms_ssim'], '.5f'):>8s} {_number(m['ms_ssim_db'], '.3f'):>7s} "
            f"{m['encode_seconds']:7.3f} {m['decode_seconds']:7.3f} {_number(memory, '.0f'):>6s}"
        )
    for m in all_means:
        if m["encode_networks_seconds"] is not None:
            lines.append(
                f"{label_of(m)}: encoding {m['encode_networks_seconds']:.3f} s networks + "
                f"{m['encode_entropy_seconds']:.3f} s entropy coding, decoding "
                f"{m['decode_entropy_seconds']:.3f} s entropy coding + "
                f"{m['decode_networks_seconds']:.3f} s networks"
            )
    return lines


def describe_lossless(left_out):
    """Text lines of ``lossless``'s images."""
    if not left_out:
        return []
    count = len(left_out)
    lines = [f"Left out of all means: {count} image{'s' * (count != 1)} restored exactly"]
    return lines + [f"  {entry['image']} by {', '.join(entry['codecs'])}" for entry in left_out]


def write_csv(rows, columns, path):
    """Writes dicts as CSV; unknown values are empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({c: "" if row.get(c) is None else row[c] for c in columns})
    atomic_write(path, buffer.getvalue().encode())


def plain(value):
    """JSON has no infinity, the PSNR of equal pictures: null stands for it, at any depth."""
    if isinstance(value, dict):
        return {name: plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(facts, path):
    """Writes dicts, lists, strings and numbers as JSON."""
    text = json.dumps(plain(facts), indent=1, allow_nan=False, ensure_ascii=False)
    atomic_write(path, (text + "\n").encode())
