"""Rate-distortion plots as PNG and SVG, drawn by matplotlib from the results alone."""

from evaluation.curves import METRICS

# Okabe and Ito's colours, which people with colour blindness can tell apart, and two dark ones.
COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
COLOURS += ("#882255", "#000000")
MARKERS = {"model": "o", "classic": "s", "published": "^"}
STYLES = {"model": "-", "classic": "-", "published": "--"}
_ORDER = ("model", "published", "classic")


def colours_of(curves):
    """Dict of curve name to colour: models first, so that they keep theirs."""
    ranked = sorted(curves, key=lambda c: _ORDER.index(c.kind))
    return {c.name: COLOURS[i % len(COLOURS)] for i, c in enumerate(ranked)}


def draw(curves, metric, path, caption, suffixes=(".png", ".svg")):
    """Writes one plot.

    Args:
      curves: list of ``curves.Curve``; those without the metric are left out.
      metric: "psnr" or "ms_ssim_db".
      path: output, without suffix.
      caption: title, which says on which images.
      suffixes: of the files to write.

    Returns:
      The list of paths written, empty where no curve has the metric.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    shown = [c for c in curves if len(c.points(metric)[0])]
    if not shown:
        return []
    figure = Figure(figsize=(7.2, 5.0), layout="constrained")
    axes = figure.add_subplot()
    colours = colours_of(curves)
    for curve in shown:
        ours, alone = curve.kind == "model", len(curve.points(metric)[0]) == 1
        axes.plot(
            *curve.points(metric),
            label=curve.label,
            color=colours[curve.name],
            linestyle="none" if alone else STYLES[curve.kind],
            linewidth=2.0 if ours else 1.3,
            marker="D" if alone else MARKERS[curve.kind],
            markersize=7 if ours else 4,
            zorder=3 if ours else 2,
        )
    axes.set_xlabel("rate (bits per pixel)")
    axes.set_ylabel(METRICS[metric])
    axes.set_title(caption, fontsize=10)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    paths = [path.with_suffix(suffix) for suffix in suffixes]
    # Text stays text, and without a date and with fixed ids the same results give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "glic"}):
        for file in paths:
            dated = {"metadata": {"Date": None}} if file.suffix == ".svg" else {}
            figure.savefig(file, dpi=150, **dated)
    return paths
