"""Writes what RDdata/ and models/ say into the documents: python docs/make_results.py [--check]

From each model's config.json, from its Kodak points in RDdata/ (evaluate.py --rddata) and from the
count of its graph comes the table of models/README.md; from RDdata/ alone the tables of README.md,
docs/rd_kodak.png and docs/rd_kodak_ms_ssim.png. --check writes nothing and fails where a document
is out of date.
"""

import csv
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli import errors as cli_errors
from cli import options  # sets TensorFlow's log level, so it comes first
from errors import UsageError

from evaluation import complexity as evaluation_complexity  # isort:skip
import preflight
from architecture import Architecture
from evaluation import curves as evaluation_curves
from evaluation import plots as evaluation_plots
from pictures.metrics import to_db

ROOT = options.ROOT
RDDATA, MODELS = ROOT / "RDdata", ROOT / "models"
OTHERS = {
    "classic_jpeg_444_measured": "JPEG 4:4:4, optimised Huffman",
    "classic_jpeg_420_measured": "JPEG 4:2:0, optimised Huffman",
    "classic_webp_measured": "WebP",
    "classic_jpeg2000_rate_measured": "JPEG 2000",
    "classic_avif_444_psnr_s6_measured": "AVIF 4:4:4 (libaom, speed 6)",
    "bpg_444_published": "BPG 4:4:4, published",
    "classic_hevc_444_8b_measured": "HEVC intra 4:4:4 (x265, slow)",
}
# The papers' models that were trained for the quality that is compared.
PAPERS = {
    "psnr": {
        "cheng2020_mse_published": "Cheng et al. 2020, published",
        "gllmm_mse_published": "Fu et al. 2023 (GLLMM), published",
    },
    "ms_ssim_db": {
        "cheng2020_ms_ssim_published": "Cheng et al. 2020 for MS-SSIM, published",
        "gllmm_ms_ssim_published": "Fu et al. 2023 (GLLMM) for MS-SSIM, published",
    },
}
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
        curve = evaluation_curves.published(path.stem)
        found.append((title, rows, curve._replace(label=f"{title} (ours)", kind="model")))
    return found


def dash(value, form):
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def models_table(curves):
    """Markdown table of every model folder, its training, size and Kodak figures."""
    measured = {row["fingerprint"]: row for _, rows, _ in curves[::-1] for row in rows}
    lines = [
        "| name | family | N | M | lambda | metric | started from | steps | hours | images "
        "| parameters | kMAC/pixel | Kodak bpp | PSNR | MS-SSIM |",
        "| --- | --- | ---: | ---: | ---: | --- | --- | ---: | ---: | ---: "
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for path in sorted(MODELS.glob("*/config.json")):
        c = json.loads(path.read_text(encoding="utf-8"))
        architecture = Architecture.of(c)
        counts = evaluation_complexity.count(architecture).values()
        parameters, macs = (sum(values) for values in zip(*counts))
        row = measured.get(c["fingerprint"], {})
        kodak = [float(row[k]) if row.get(k) else None for k in ("bpp", "psnr_db", "ms_ssim")]
        start = f"`{Path(c['init_from']).name}`" if c["init_from"] else "scratch"
        lines.append(
            f"| `{path.parent.name}` | {c['family']} | {architecture.num_filters} "
            f"| {architecture.num_latents} | {c['lmbda']:g} | {c['metric']} | {start} "
            f"| {c['steps']:,} | {c['hours']:.2f} | {c['images']} "
            f"| {parameters:,} | {macs / 1000:.1f} | {dash(kodak[0], '.4f')} "
            f"| {dash(kodak[1], '.2f')} | {dash(kodak[2], '.4f')} |"
        )
    return lines


def rates_table(curves, metric):
    """Markdown table: bits of our curves against the others at equal quality.

    ``metric`` is "psnr", for the models trained for MSE, or "ms_ssim_db", for all.
    """
    shown = [(t, curve) for t, _, curve in curves if metric != "psnr" or " ms-ssim" not in t]
    lines = [
        "| against | " + " | ".join(f"`{title}`" for title, _ in shown) + " |",
        "| --- |" + " ---: |" * len(shown),
    ]
    for name, label in {**OTHERS, **PAPERS[metric]}.items():
        anchor = evaluation_curves.published(name)
        cells = []
        for _, curve in shown:
            rows = evaluation_curves.compare([curve], anchor, True)
            row = next(r for r in rows if r["metric"] == metric)
            part = "" if (row["overlap"] or 1) > 0.995 else f" ({row['overlap']:.0%})"
            cells.append("-" if row["percent"] is None else f"{row['percent']:+.1f} %{part}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def kodak_table(curves):
    """Markdown table of our points."""
    lines = [
        "| curve | model | lambda | bpp | PSNR | MS-SSIM | in dB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for title, rows, _ in curves:
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


def documents(curves):
    """Dict of path to up-to-date text."""
    readme, models = ROOT / "README.md", MODELS / "README.md"
    text = with_table(readme.read_text(encoding="utf-8"), "kodak", kodak_table(curves))
    text = with_table(text, "rates", rates_table(curves, "psnr"))
    text = with_table(text, "rates at equal MS-SSIM", rates_table(curves, "ms_ssim_db"))
    record = with_table(models.read_text(encoding="utf-8"), "models", models_table(curves))
    return {readme: text, models: record}


def draw(own, metric, name):
    """Draws docs/NAME.png: our curves beside others."""
    others = (next(iter(PAPERS[metric])), *PLOTTED)
    shown = own + [below(evaluation_curves.published(other), PLOTTED_BPP) for other in others]
    caption = "24 Kodak images, real files"
    evaluation_plots.draw(shown, metric, ROOT / "docs" / name, caption, [".png"])


def main():
    """Writes or checks."""
    parser = options.parser_for(__doc__)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    preflight.check_evaluation()
    curves = ours()
    texts = documents(curves)
    stale = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    if args.check:
        if stale:
            names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
            print(f"Out of date: {names}; run python docs/make_results.py", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(texts[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    draw([c for title, _, c in curves if " ms-ssim" not in title], "psnr", "rd_kodak")
    plain = [c for title, _, c in curves if "--effort" not in title]
    draw(plain, "ms_ssim_db", "rd_kodak_ms_ssim")
    return 0


if __name__ == "__main__":
    cli_errors.run(main)
