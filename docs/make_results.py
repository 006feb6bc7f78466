"""Writes what RDdata/ and models/ say into the documents: python docs/make_results.py [--check]

From each model's config.json, from its Kodak points in RDdata/ (evaluate.py run --rddata) and from
the count of its graph comes the table of models/README.md; from RDdata/ alone the tables of
docs/results.md, the summary in README.md, docs/rd_kodak.png and docs/rd_kodak_ms_ssim.png. --check
writes nothing and fails where a document is out of date.
"""

import csv
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli import errors as cli_errors
from cli import options  # sets TensorFlow's log level, so it comes first
from errors import UsageError

from evaluation import complexity  # isort:skip
import preflight
from architecture import Architecture
from evaluation import curves, plots
from pictures.metrics import to_db
from rates import Rates

ROOT = options.ROOT
RDDATA, MODELS = ROOT / "RDdata", ROOT / "models"
OTHERS = (
    "classic_jpeg_444_measured",
    "classic_jpeg_420_measured",
    "classic_webp_measured",
    "classic_jpeg2000_rate_measured",
    "classic_avif_444_psnr_s6_measured",
    "bpg_444_published",
    "classic_hevc_444_8b_measured",
)
# The papers' models that were trained for the quality that is compared.
PAPERS = {
    "psnr": ("cheng2020_mse_published", "gllmm_mse_published"),
    "ms_ssim_db": ("cheng2020_ms_ssim_published", "gllmm_ms_ssim_published"),
}
# README.md's table: the others, and our curves.
SUMMARY = (
    "classic_jpeg_444_measured",
    "classic_webp_measured",
    "classic_avif_444_psnr_s6_measured",
    "classic_hevc_444_8b_measured",
    "cheng2020_mse_published",
)
SUMMARY_OURS = ("gmm mse", "gmm mse --effort 3")
PLOTTED = (  # beside the first of PAPERS
    "classic_hevc_444_8b_measured",
    "classic_webp_measured",
    "classic_jpeg2000_rate_measured",
    "classic_jpeg_444_measured",
)
PLOTTED_BPP = 1.0  # the plot ends there


def below(curve, bpp):
    """The part of a curve up to a rate."""
    kept = curve.bpp <= bpp
    return curve._replace(**{f: getattr(curve, f)[kept] for f in ("bpp", "psnr", "ms_ssim_db")})


def ours():
    """Our measured curves: list of (title, rows of the file, ``Curve``), plain ones first."""
    found = []
    for path in sorted(RDDATA.glob("g*_measured.csv"), key=lambda p: (len(p.stem), p.stem)):
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        title = path.stem.replace("_measured", "").replace("_ms_ssim", "_ms-ssim")
        title = title.replace("_", " ").replace("effort", "--effort ")
        curve = curves.published(path.stem)
        found.append((title, rows, curve._replace(label=f"{title} (ours)", kind="model")))
    return found


def ends(rows, column, form):
    """The least and the largest of a column, one number where they are one, or a dash for none."""
    values = sorted(float(row[column]) for row in rows if row.get(column))
    if not values:
        return "-"
    return " to ".join(format(value, form) for value in dict.fromkeys((values[0], values[-1])))


def models_table(own):
    """Markdown table of every model folder, its training, size and Kodak figures."""
    measured = {}  # the plain curves' rows, which come first in ``own``
    for _, rows, _ in own:
        for fingerprint in {row["fingerprint"] for row in rows}:
            found = [row for row in rows if row["fingerprint"] == fingerprint]
            measured.setdefault(fingerprint, found)
    lines = [
        "| name | family | N | M | lambda | metric | started from | steps | hours | images "
        "| parameters | kMAC/pixel | Kodak bpp | PSNR | MS-SSIM |",
        "| --- | --- | ---: | ---: | ---: | --- | --- | ---: | ---: | ---: "
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for path in sorted(MODELS.glob("*/config.json")):
        c = json.loads(path.read_text(encoding="utf-8"))
        architecture = Architecture.of(c)
        counts = complexity.count(architecture).values()
        parameters, macs = (sum(values) for values in zip(*counts))
        rows = measured.get(c["fingerprint"], [])
        rates = Rates.of(c)
        lambdas = f"{rates.low:g} to {rates.high:g}" if rates else f"{c['lmbda']:g}"
        start = f"`{Path(c['init_from']).name}`" if c["init_from"] else "scratch"
        lines.append(
            f"| `{path.parent.name}` | {c['family']} | {architecture.num_filters} "
            f"| {architecture.num_latents} | {lambdas} | {c['metric']} | {start} "
            f"| {c['steps']:,} | {c['hours']:.2f} | {c['images']} "
            f"| {parameters:,} | {macs / 1000:.1f} | {ends(rows, 'bpp', '.4f')} "
            f"| {ends(rows, 'psnr_db', '.2f')} | {ends(rows, 'ms_ssim', '.4f')} |"
        )
    return lines


def rates_table(own, metric, others):
    """Markdown table: bits of our curves against the ``others``, their names, at equal quality.

    ``metric`` is "psnr" or "ms_ssim_db".
    """
    lines = [
        "| against | " + " | ".join(f"`{title}`" for title, _, _ in own) + " |",
        "| --- |" + " ---: |" * len(own),
    ]
    for name in others:
        anchor = curves.published(name)
        cells = []
        for _, _, curve in own:
            rows = curves.compare([curve], anchor, True)
            row = next(r for r in rows if r["metric"] == metric)
            part = "" if (row["overlap"] or 1) > 0.995 else f" ({row['overlap']:.0%})"
            cells.append("-" if row["percent"] is None else f"{row['percent']:+.1f} %{part}")
        lines.append(f"| {anchor.label} | " + " | ".join(cells) + " |")
    return lines


def kodak_table(own):
    """Markdown table of our points."""
    lines = [
        "| curve | model | lambda | bpp | PSNR | MS-SSIM | in dB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for title, rows, _ in own:
        for row in rows:
            similarity = float(row["ms_ssim"])
            lines.append(
                f"| {title} | `{row['setting']}` | {row['lmbda']} | {float(row['bpp']):.4f} "
                f"| {float(row['psnr_db']):.2f} | {similarity:.4f} | {to_db(similarity):.2f} |"
            )
    return lines


def with_table(text, mark, lines):
    """A document with new lines between ``<!-- MARK -->`` and ``<!-- end MARK -->``."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- end {mark} -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise UsageError(f"No {begin.strip()} ... {end} in the document.")
    return head + begin + "\n".join(lines) + "\n" + closed + tail


def documents(own):
    """Dict of path to up-to-date text."""
    for_mse = [entry for entry in own if " ms-ssim" not in entry[0]]
    summary = [entry for entry in own if entry[0] in SUMMARY_OURS]
    tables = {
        ROOT / "README.md": {"summary": rates_table(summary, "psnr", SUMMARY)},
        ROOT / "docs" / "results.md": {
            "kodak": kodak_table(own),
            "rates": rates_table(for_mse, "psnr", OTHERS + PAPERS["psnr"]),
            "rates at equal MS-SSIM": rates_table(own, "ms_ssim_db", OTHERS + PAPERS["ms_ssim_db"]),
        },
        MODELS / "README.md": {"models": models_table(own)},
    }
    texts = {}
    for path, own_tables in tables.items():
        texts[path] = path.read_text(encoding="utf-8")
        for mark, lines in own_tables.items():
            texts[path] = with_table(texts[path], mark, lines)
    return texts


def draw(own, metric, name):
    """Draws docs/NAME.png: our curves beside others."""
    others = (PAPERS[metric][0], *PLOTTED)
    shown = own + [below(curves.published(other), PLOTTED_BPP) for other in others]
    plots.draw(shown, metric, ROOT / "docs" / name, "24 Kodak images, real files", [".png"])


def main():
    """Writes or checks."""
    parser = options.parser_for(__doc__)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    preflight.check_evaluation()
    own = ours()
    texts = documents(own)
    stale = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    if args.check:
        if stale:
            names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
            print(f"Out of date: {names}; run python docs/make_results.py", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(texts[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    shipped = [entry for entry in own if " one rate" not in entry[0]]  # the plots' curves
    draw([c for title, _, c in shipped if " ms-ssim" not in title], "psnr", "rd_kodak")
    plain = [c for title, _, c in shipped if "--effort" not in title]
    draw(plain, "ms_ssim_db", "rd_kodak_ms_ssim")
    return 0


if __name__ == "__main__":
    cli_errors.run(main)
