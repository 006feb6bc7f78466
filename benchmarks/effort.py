"""What --effort gains: python -m benchmarks.effort FOLDER [--models NAME ...] [--levels 0 3 9]

Codes each image with each model at each level, with real bytes, and prints a line per model and
level, of a model of many rates also per lambda (--lambdas; those of ``evaluate.py run`` unless
given): iterations, median seconds per image, mean bpp, PSNR, MS-SSIM and the mean change of rate +
lambda * distortion. With three points or more the BD-rate of each level against level 0 follows.
An image that is restored exactly at any of them is named and left out of all means.
The images' rows go to --output, one as soon as it is done; a second run does what is missing. After
a change of the search itself remove that file.
--rddata FOLDER writes the points of each level but 0 on the 24 Kodak images there, in the form of
RDdata/: gmm_mse_effort3_measured.csv and so on.
"""

import csv
import statistics
import time
from pathlib import Path

import preflight
from cli import errors as cli_errors
from cli import options
from cli.inputs import collect
from codec import Codec
from coding import models
from errors import UsageError
from evaluation import curves, points, rddata, tables
from pictures import images, metrics
from search import refine

KEY = ("model", "fingerprint", "lmbda", "level", "iterations", "image")
COLUMNS = [*KEY, "seconds", "bpp", "psnr", "ms_ssim", "gain"]


def read_rows(path):
    """Rows of an earlier run."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise UsageError(f"{path} holds another table: choose another --output.")
        return list(reader)


def measure(codec, refiner, level, pixels, k):
    """Results of one image at one level and quantisation step."""
    start = time.perf_counter()
    result = refiner.compress(pixels, level, k=k)
    seconds = time.perf_counter() - start
    restored = codec.decompress(result.data)
    similarity = metrics.ms_ssim(pixels, restored)
    return {
        "seconds": round(seconds, 3),
        "bpp": 8 * len(result.data) / (pixels.shape[0] * pixels.shape[1]),
        "psnr": metrics.psnr(pixels, restored),
        "ms_ssim": "" if similarity is None else similarity,
        "gain": result.gain,
    }


def run_model(name, paths, levels, lambdas, output, rows):
    """Adds a model's missing rows to ``rows`` and to the file.

    ``lambdas``: of a model of many rates, or None for those of ``points.lambdas_of``.

    Returns:
      A list of its points: (label, lambda, configuration, rows).
    """
    codec = Codec.load(name, backend="tensorflow")  # as encoder.py --effort
    config = codec.model.config
    lmbda = None if codec.rates else config["lmbda"]
    refiner = refine.Refiner(codec, lmbda, config.get("metric", "mse"))
    found = []
    for setting in points.lambdas_of(codec.model.name, config, lambdas):
        k = codec.k_of(lmbda=setting)
        at = lmbda if setting is None else setting
        own = []
        for path in paths:
            for level in levels:
                iterations = refine.ITERATIONS[level]
                key = (codec.model.name, codec.fingerprint.hex(), at, level, iterations, path.name)
                key = tuple(map(str, key))
                row = next((r for r in rows if tuple(str(r[c]) for c in KEY) == key), None)
                if row is None:
                    row = dict(zip(KEY, key))
                    row.update(measure(codec, refiner, level, images.read_image(path).pixels, k))
                    rows.append(row)
                    fresh = not output.exists()
                    with open(output, "a", newline="", encoding="utf-8") as file:
                        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                        if fresh:
                            writer.writeheader()
                        writer.writerow(row)
                own.append(row)
        found.append((points.label(codec.model.name, setting), at, config, own))
    codec.close()
    return found


def summary(rows, level):
    """Means of a model's rows at one level."""
    own = [r for r in rows if int(r["level"]) == level]
    ms_ssims = [float(r["ms_ssim"]) for r in own if r["ms_ssim"] != ""]
    return {
        "level": level,
        "iterations": refine.ITERATIONS[level],
        "seconds": statistics.median(float(r["seconds"]) for r in own),
        **{k: statistics.mean(float(r[k]) for r in own) for k in ("bpp", "psnr", "gain")},
        "ms_ssim": statistics.mean(ms_ssims) if ms_ssims else None,
    }


def restored_exactly(rows):
    """Names of the images that were restored exactly in any row."""
    ms_ssims = [None if r["ms_ssim"] == "" else float(r["ms_ssim"]) for r in rows]
    return {r["image"] for r, m in zip(rows, ms_ssims) if tables.is_exact(float(r["psnr"]), m)}


def curve(level, summaries):
    """A level's ``curves.Curve`` over the points."""
    triples = [
        (s["bpp"], s["psnr"], s["ms_ssim"] and metrics.to_db(s["ms_ssim"]))
        for s in summaries
        if s["level"] == level
    ]
    return curves.make_curve(f"effort-{level}", f"effort {level}", "model", triples)


def kind_of(config):
    """Family and metric of a model."""
    return config["family"], config.get("metric", "mse")


def check_rddata(paths, names):
    """Raises UsageError before anything is measured of which no file of RDdata/ could be made."""
    if not curves.is_kodak(path.stem for path in paths):
        raise UsageError("--rddata needs the 24 Kodak images, kodim01 to kodim24.")
    if len({kind_of(models.read_config(models.folder_of(name))) for name in names}) != 1:
        raise UsageError("--rddata needs models of one family and metric.")


def write_rddata(folder, level, summaries):
    """Writes the points of one level, as ``rddata`` does those without a search."""
    own = [s for s in summaries if s["level"] == level]
    rows = []
    for s in sorted(own, key=lambda s: s["bpp"]):
        row = dict(zip(rddata.COLUMNS[1:4], (s["bpp"], s["psnr"], s["ms_ssim"])))
        config = s["config"]
        row.update(setting=s["model"], lmbda=s["lmbda"], filters=config["num_filters"])
        row.update(ms_ssim_db=metrics.to_db(s["ms_ssim"]), fingerprint=config["fingerprint"])
        rows.append(rddata.rounded(row))
    family, metric = kind_of(own[0]["config"])
    path = folder / f"{family}_{metric.replace('-', '_')}_effort{level}_measured.csv"
    tables.write_csv(rows, rddata.COLUMNS, path)
    print(f"wrote {path}")


def main():
    """Measures what is missing and prints the tables."""
    parser = options.parser_for(__doc__)
    parser.add_argument("images", type=Path, nargs="+", help="files and folders")
    parser.add_argument("--models", nargs="+", default=[options.DEFAULT_MODEL])
    parser.add_argument("--levels", type=int, nargs="+", choices=range(10), default=[0, 3, 9])
    parser.add_argument(
        "--lambdas", type=options.positive, nargs="+", metavar="X", help="of models of many rates"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/effort.csv"))
    parser.add_argument("--rddata", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    args.models = [models.resolved(name) for name in args.models]
    paths = collect(args.images, images.IMAGE_SUFFIXES)
    if args.rddata:
        check_rddata(paths, args.models)
    configs = [models.read_config(models.folder_of(name)) for name in args.models]
    count = sum(len(points.lambdas_of(*pair, args.lambdas)) for pair in zip(args.models, configs))
    compared = 0 in args.levels and count >= curves.MIN_POINTS
    if compared:
        preflight.check_evaluation(["bjontegaard"])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    rows = read_rows(args.output)
    measured = [
        point
        for name in args.models
        for point in run_model(name, paths, args.levels, args.lambdas, args.output, rows)
    ]
    exact = restored_exactly([row for *_, own in measured for row in own])
    if exact:
        print(f"Left out of all means, as restored exactly: {', '.join(sorted(exact))}")
    if len(exact) == len(paths):
        return
    width = max(18, *(len(label) for label, *_ in measured))
    print(f"{'model':{width}s} level iterations seconds    bpp   PSNR MS-SSIM rate+lambda*D")
    summaries = []
    for label, lmbda, config, own in measured:
        kept = [row for row in own if row["image"] not in exact]
        for level in args.levels:
            s = {"model": own[0]["model"], "lmbda": lmbda, "config": config}
            s.update(summary(kept, level))
            similarity = "      -" if s["ms_ssim"] is None else f"{s['ms_ssim']:7.4f}"
            print(
                f"{label:{width}s} {level:5d} {s['iterations']:10d} {s['seconds']:7.1f} "
                f"{s['bpp']:6.4f} {s['psnr']:6.2f} {similarity} {-s['gain']:+13.2%}"
            )
            summaries.append(s)
    if compared:
        levels = [curve(level, summaries) for level in args.levels]
        anchor = next(c for c in levels if c.name == "effort-0")
        print("\n".join(curves.describe(curves.compare(levels, anchor, False))))
    for level in filter(None, args.levels if args.rddata else ()):
        write_rddata(args.rddata, level, summaries)


if __name__ == "__main__":
    cli_errors.run(main)
