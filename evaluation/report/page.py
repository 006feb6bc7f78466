"""The report: one HTML page with everything in it, which needs no network.

The page is page.html with its style and script put in, the results as JSON, and every
picture as a data URI: originals and our reconstructions as lossless WebP, classic codecs' files as
they are where browsers show them. Error maps are computed by the page from these pixels.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from cli.outputs import atomic_write
from evaluation import classics, measurements, points, tables
from pictures import images
from rates import Rates

_SIDE_LIMIT = 16383  # of WebP
_THUMBNAIL = (120, 84)
_MODEL_FACTS = ("family", "num_filters", "num_latents", "lmbda", "metric", "steps", "hours")
_ROW_FIELDS = ("codec", "bytes", "bpp", "psnr", "ms_ssim", "ms_ssim_db", "setting", "fits")
_TEMPLATE = Path(__file__).with_name("page.html")


def _data_uri(media_type, data):
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _lossless(pixels):
    """Data URI of uint8 pixels, without loss."""
    lossless_webp = max(pixels.shape[:2]) <= _SIDE_LIMIT
    buffer = io.BytesIO()
    # A grey picture goes as RGB: lossless WebP has no grey, and takes no bits for it.
    picture = Image.fromarray(pixels).convert("RGB")
    if lossless_webp:
        picture.save(buffer, "WEBP", lossless=True, method=4)
    else:
        picture.save(buffer, "PNG")
    return _data_uri("image/webp" if lossless_webp else "image/png", buffer.getvalue())


def _thumbnail(pixels):
    picture = Image.fromarray(pixels).convert("RGB")
    picture.thumbnail(_THUMBNAIL)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return _data_uri("image/jpeg", buffer.getvalue())


def _facts_of(row):
    return {name: tables.plain(row.get(name)) for name in _ROW_FIELDS}


def _model_entry(load, row):
    """A model's picture of an image, and its map of bits."""
    from coding import bitstream
    from coding.costs import costs_of
    from evaluation.measure import loaded_codec

    codec = loaded_codec(load)
    container = bitstream.unpack(Path(row["file"]).read_bytes())
    latents = codec.decode(container)
    pixels = codec.synthesise(latents)
    bits = costs_of(codec.entropy_coder, latents).by_position
    return {
        **_facts_of(row),
        "label": tables.point_of(row),
        "source": _lossless(pixels),
        "payload": [len(container.y), len(container.z)],
        # Tenths of a bit, row by row.
        "map": {"width": bits.shape[1], "tenths": np.rint(10 * bits).astype(int).ravel().tolist()},
    }


def _classic_entry(row, grey):
    """A classic codec's picture of an image: its own file if browsers show it."""
    codec = classics.find(row["codec"])
    data = Path(row["file"]).read_bytes()
    if codec.media_type:
        source = _data_uri(codec.media_type, data)
    else:
        source = _lossless(classics.decode(row["codec"], data, grey))
    return {**_facts_of(row), "label": codec.label, "source": source}


def image_entry(item):
    """All that the page shows of one image, for a worker.

    Args:
      item: (path, its "model" and "matched" rows, dict of model name to what loads it).

    Returns:
      Dict for JSON: ``name``, ``width``, ``height``, ``thumbnail``, ``original`` and ``models``, a
      list with the entry of each model, or of each of its lambdas, and its ``classics``.
    """
    path, rows, loads = item
    pixels, _ = images.read_image(path)
    entries = []
    for row in rows:
        if row["kind"] == "model":
            entry = _model_entry(loads[row["codec"]], row)
            point = tables.point_of(row)
            matched = [r for r in rows if r["matched_to"] == point]
            entry["classics"] = [_classic_entry(r, pixels.ndim == 2) for r in matched]
            entries.append(entry)
    height, width = pixels.shape[:2]
    return {
        "name": Path(path).name,
        "width": width,
        "height": height,
        "thumbnail": _thumbnail(pixels),
        "original": _lossless(pixels),
        "models": entries,
    }


def _entries(output, learned, rows, pool):
    """``image_entry`` of every image that all models coded, from the cache where it is there."""
    loads = {codec.name: codec.load for codec in learned}
    by_image = {}
    for row in rows:
        if row["kind"] in ("model", "matched"):
            by_image.setdefault(row["path"], []).append(row)
    own_source = Path(__file__).read_bytes()
    found, items, missing = [], [], []
    for path, own in by_image.items():
        files = [[row["file"], tables.point_of(row), row["matched_to"]] for row in own]
        key = hashlib.sha256(own_source + json.dumps(files).encode()).hexdigest()[:32]
        file = output / measurements.CACHE / f"report-{key}.json"
        try:
            found.append(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            found.append(None)
            missing.append((len(found) - 1, file))
            items.append((path, own, loads))
    for number, entry, problem in measurements.each(pool, image_entry, items, "report"):
        if problem:
            raise problem
        index, file = missing[number]
        found[index] = entry
        atomic_write(file, json.dumps(entry).encode())
    return found


def _script(identity, value):
    """A JSON element in which no "<" can end it early."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{identity}">{text}</script>'


def _lambda_of(config):
    """A model's lambda, or the range of them in words."""
    rates = Rates.of(config)
    return f"{rates.low:g} to {rates.high:g}" if rates else config.get("lmbda")


def _chart(curves):
    """Curves for the page's chart."""
    return [
        {
            "name": curve.name,
            "label": curve.label,
            "kind": curve.kind,
            **{
                metric: [[float(b), float(q)] for b, q in zip(*curve.points(metric))]
                for metric in ("psnr", "ms_ssim_db")
            },
        }
        for curve in curves
    ]


def write(path, output, learned, facts, curves, pool):
    """Writes the page.

    Args:
      path: of the page.
      output: folder with the cache of measurements.
      learned: list of ``session.LearnedCodec``.
      facts: what results.json holds, with ``path`` and ``file`` in the rows.
      curves: for the chart.
      pool: ``cli.workers.Workers``.
    """
    rows = facts["rows"]
    entries = _entries(output, learned, rows, pool)
    means = [
        {k: tables.plain(v) for k, v in mean.items()} | {"label": tables.label_of(mean)}
        for mean in facts["means"]
    ]
    measured = [row for row in rows if row["kind"] == "model"]
    overview = {
        "caption": facts["caption"],
        "left_out": facts["left_out"],
        "command": facts["command"],
        "device": facts["device"],
        "backend": facts["backend"],
        "versions": facts["versions"],
        "threads": measured[0]["threads"] if measured else None,
        "jobs": pool.jobs,
        "curves": _chart(curves),
        "means": means,
        "comparisons": facts["comparisons"],
        "models": [
            {
                "name": codec.name,
                "fingerprint": codec.fingerprint,
                **{k: codec.config.get(k) for k in _MODEL_FACTS},
                "lmbda": _lambda_of(codec.config),
            }
            for codec in learned
        ],
        "points": [points.label(codec.name, lmbda) for codec in learned for lmbda in codec.lambdas],
        "images": [{k: e[k] for k in ("name", "width", "height", "thumbnail")} for e in entries],
        "rows": [
            {
                "image": row["image"],
                "kind": row["kind"],
                "matched_to": row["matched_to"],
                "seconds": [row["encode_seconds"], row["decode_seconds"]],
                **_facts_of(row),
                "codec": tables.point_of(row),
            }
            for row in rows
            if row["kind"] != "classic"
        ],
    }
    blocks = [_script("overview", overview)]
    for i, entry in enumerate(entries):
        pictures = {k: entry[k] for k in ("original", "models")}
        blocks.append(_script(f"image-{i}", pictures))
    page = _TEMPLATE.read_text(encoding="utf-8")
    names = ", ".join(codec.name for codec in learned) or "classic codecs"
    parts = {
        "@@TITLE@@": html.escape(f"Evaluation of {names}"),
        "@@STYLE@@": _TEMPLATE.with_suffix(".css").read_text(encoding="utf-8"),
        "@@SCRIPT@@": _TEMPLATE.with_suffix(".js").read_text(encoding="utf-8")
        + _TEMPLATE.with_name("viewer.js").read_text(encoding="utf-8"),
        "@@DATA@@": "\n".join(blocks),
    }
    for mark, part in parts.items():
        page = page.replace(mark, part)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, page.encode())
