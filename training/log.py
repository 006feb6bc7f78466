"""What a training run leaves to look at: CSV tables, TensorBoard event files and a plot."""

from __future__ import annotations

import csv
import io
import math
import time

import numpy as np
import tensorflow.compat.v1 as tf
from PIL import Image

from pictures import metrics
from training.table import Table

LOG_COLUMNS = [
    *("step", "hours", "loss", "bpp_y", "bpp_z", "psnr", "learning_rate"),
    *("gradient_norm", "pixels_per_second", "waiting", "refused"),
]
VALID_COLUMNS = ["step", "hours", "loss", "bpp", "bpp_y", "bpp_z", "psnr"]
MS_SSIM_COLUMNS = ["ms_ssim_db"]  # at the end of both for the metric "ms-ssim"
LMBDA_COLUMNS = ["lmbda"]  # at the end of the first where it changes


def psnr(mse):
    """PSNR in dB of a mean squared error on the 0 to 255 scale."""
    return 10 * math.log10(metrics.PEAK**2 / max(mse, 1e-10))


class Averages:
    """Means over the steps since the last row of the log."""

    def __init__(self, waited):
        self._start, self._waited, self._rows = time.monotonic(), waited, []

    def add(self, values):
        """Adds a step's values, a dict of numbers with the same names at each step."""
        self._rows.append(values)

    def __len__(self):
        return len(self._rows)

    def take(self, waited):
        """(dict of means, steps per second, share of time spent waiting)."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        columns = {name: [row[name] for row in self._rows] for name in self._rows[0]}
        means = {name: float(np.mean(values, dtype=float)) for name, values in columns.items()}
        return means, len(self._rows) / seconds, (waited - self._waited) / seconds


class Summaries:
    """TensorBoard event files; that they cannot be written is said once and stops no training."""

    def __init__(self, folder, step):
        """Opens the files; TensorBoard drops what an interrupted run wrote from ``step`` on."""
        self._writer, self._folder = None, folder
        self._guarded(self._open, step)

    def _open(self, step):
        with tf.Graph().as_default():
            self._writer = tf.summary.FileWriter(str(self._folder))
        status = tf.SessionLog(status=tf.SessionLog.START)
        self._writer.add_session_log(status, step + 1)

    def _guarded(self, action, *arguments):
        try:
            action(*arguments)
        except (OSError, tf.errors.OpError) as error:
            print(f"TensorBoard files end here ({error}); training goes on.", flush=True)
            self._writer = None

    def _add(self, values, step):
        self._writer.add_summary(tf.Summary(value=values), step)
        self._writer.flush()

    def scalars(self, group, row, step):
        """Adds a dict of numbers as ``group/name``."""
        if self._writer:
            pairs = row.items()
            values = [tf.Summary.Value(tag=f"{group}/{c}", simple_value=v) for c, v in pairs]
            self._guarded(self._add, values, step)

    def images(self, group, pictures, step):
        """Adds uint8 (H, W, 3) pictures as ``group/0`` and so on."""
        if self._writer:
            values = [
                tf.Summary.Value(tag=f"{group}/{i}", image=_image_summary(pixels))
                for i, pixels in enumerate(pictures)
            ]
            self._guarded(self._add, values, step)

    def close(self):
        """Closes the files."""
        if self._writer:
            self._guarded(self._writer.close)


def _image_summary(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    height, width = pixels.shape[:2]
    return tf.Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue()
    )


class RunLog:
    """What a run's folder shows of it: log.csv, valid.csv and TensorBoard's event files."""

    def __init__(self, folder, settings, last_step):
        """Opens them to go on after ``last_step``; ``settings`` are those of the run."""
        more = MS_SSIM_COLUMNS if settings["metric"] == "ms-ssim" else []
        lmbda = LMBDA_COLUMNS if settings["lmbda_start"] is not None else []
        self._columns = {"training": LOG_COLUMNS + more + lmbda, "validation": VALID_COLUMNS + more}
        self._tables = {
            group: Table(folder / f"{name}.csv", self._columns[group], last_step)
            for group, name in (("training", "log"), ("validation", "valid"))
        }
        self._summaries = Summaries(folder / "tensorboard", last_step)

    def add(self, group, row, pictures=()):
        """Adds a row to "training" or "validation", a dict that has all of its columns."""
        self._tables[group].append(row)
        shown = {name: row[name] for name in self._columns[group] if name != "step"}
        self._summaries.scalars(group, shown, row["step"])
        if pictures:
            self._summaries.images(group, pictures, row["step"])

    def close(self):
        """Writes what could not be written before, and closes the files."""
        for file in (*self._tables.values(), self._summaries):
            file.close()


def columns_of(path, last_step=np.inf):
    """Columns of a run's CSV file up to a step, as dict of name to float array.

    Empty without a file or rows.
    """
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    rows = [row for row in rows if len(row) == len(header) and float(row[0]) <= last_step]
    values = np.array(rows, np.float64)
    return dict(zip(header, values.T)) if len(values) else {}


def last_row(path, step):
    """Last row up to ``step`` of a run's CSV file as a dict of numbers, or None."""
    return {name: float(values[-1]) for name, values in columns_of(path, step).items()} or None


def _without_short_rows(columns):
    counts = np.diff(columns["step"], prepend=0)
    usual = counts >= np.median(counts) / 2
    return {name: values[usual] for name, values in columns.items()}


def plot_run(folder, target, last_step=np.inf):
    """Draws log.csv and valid.csv of a run's folder (loss, rate, PSNR) up to a step as PNG.

    Rows of log.csv that stand for fewer than half the usual number of steps, as the last one of a
    run often does, are left out: means of so few crops look like jumps. A plot that cannot be
    drawn or written is named on screen and ends nothing.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

        tables = {name: columns_of(folder / f"{name}.csv", last_step) for name in ("log", "valid")}
        if tables["log"]:
            tables["log"] = _without_short_rows(tables["log"])
            tables["log"]["bpp"] = tables["log"]["bpp_y"] + tables["log"]["bpp_z"]
        panels = {"loss": "loss", "bpp": "bits per pixel", "psnr": "PSNR in dB"}
        if "ms_ssim_db" in tables["log"]:
            panels["ms_ssim_db"] = "MS-SSIM in dB"
        figure = Figure(figsize=(4 * len(panels), 3.5), layout="constrained")
        for axes, (column, label) in zip(figure.subplots(1, len(panels)), panels.items()):
            for name, style in (("log", "-"), ("valid", "o-")):
                if tables[name]:
                    text = "training" if name == "log" else "validation"
                    axes.plot(tables[name]["step"], tables[name][column], style, ms=3, label=text)
                    axes.legend()
            axes.set(xlabel="step", ylabel=label)
            axes.grid(alpha=0.3)
            if column in ("loss", "bpp"):
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(MaxNLocator(6))  # a run spans few decades
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                axes.yaxis.set_minor_locator(NullLocator())
        figure.savefig(target, format="png", dpi=100)
    except (ImportError, OSError, ValueError) as error:
        print(f"{target} not drawn: {error}", flush=True)
