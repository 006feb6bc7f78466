"""Time and memory against the image's size: python benchmarks/scaling.py [--model NAME]

Encodes and decodes one picture in sizes from 0.1 to 24 megapixels, each in a fresh process, as
encoder.py --no-metrics and decoder.py do it: from a PNG file to a .glic file and back. Writes
docs/scaling.csv (one row per size and direction) and docs/scaling.png from it.

Seconds leave out starting Python and loading the model; a 64x64 picture is coded first. Peak
memory is that of the whole process, Python, TensorFlow, model and picture included. Of a
wavefront step of the decoder the matrices that it reads are stated, the largest part of what it
moves.

--random-filters N measures an untrained model of N filters instead, whose latents are noise in
every channel: as slow as that many filters get. Rows are added to those of other models.

The table is written after every row. --keep leaves out what it has already: so a run that was cut
off continues. --table measures nothing, prints the README's table and draws the plot. On two cores
count on about 5 minutes for the shipped model and 12 for 128 filters.
"""

import csv
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli import options  # sets TensorFlow's log level, so it comes first

import numpy as np  # isort:skip

import network
import preflight
from architecture import FAMILIES, LATENT_STRIDE, Architecture
from cli import decoding, encoding
from cli.inputs import collect
from codec import MEMORY_BUDGET, Codec
from coding import models
from pictures import images

SIZES = [(384, 256), (768, 512), (1536, 1024), (3072, 2048), (6000, 4000)]  # width, height
COLUMNS = ["model", "family", "filters", "width", "height", "direction", "seconds", "peak_mib"]
COLUMNS += ["bytes", "wavefront_steps", "matrices_mib_per_step", "threads"]
DOCS = options.ROOT / "docs"


def random_name(num_filters, family):
    """Name of an untrained model."""
    return f"random-{num_filters}" if family == "gmm" else f"random-{family}-{num_filters}"


def random_model(num_filters, family="gmm"):
    """An untrained ``models.Model``."""
    import tensorflow.compat.v1 as tf

    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        architecture = Architecture(family, num_filters)
        network.inference_graph(architecture)
        session.run(tf.global_variables_initializer())
        weights = {v.op.name: session.run(v) for v in tf.global_variables()}
    fingerprint, name = (
        models.fingerprint_of(weights, architecture),
        random_name(num_filters, family),
    )
    return models.Model(name, architecture, weights, fingerprint, {})


def add_model_options(parser):
    """Adds what ``load_codec`` reads."""
    parser.add_argument("--model", default=options.DEFAULT_MODEL, help="(default: %(default)s)")
    parser.add_argument("--random-filters", type=int, default=0, metavar="N", help="instead of it")
    parser.add_argument("--family", choices=FAMILIES, default="gmm", help="of --random-filters")
    parser.add_argument("--memory-mib", type=int, default=MEMORY_BUDGET >> 20)


def load_codec(args):
    """The codec to measure."""
    budget = args.memory_mib << 20
    if args.random_filters:
        return Codec(random_model(args.random_filters, args.family), budget)
    return Codec.load(args.model, memory_budget=budget)


def picture(width, height):
    """uint8 (height, width, 3): the photographs of valid/, mirrored to fill any size."""
    photos = [
        images.read_image(p).pixels
        for p in collect([options.ROOT / "valid"], images.IMAGE_SUFFIXES)
    ]
    photo = max((p for p in photos if p.ndim == 3), key=lambda p: p.size)
    down, right = (2 * -(-a // (2 * b)) for a, b in zip((height, width), photo.shape))
    row = np.concatenate([photo, photo[:, ::-1]] * (right // 2 or 1), axis=1)
    return np.concatenate([row, row[::-1]] * (down // 2 or 1))[:height, :width]


def measure(args, folder):
    """Encodes or decodes once in this process; prints the row as JSON."""
    codec = load_codec(args)
    codec.decompress(codec.compress(np.zeros((64, 64, 3), np.uint8)))
    png, glic = folder / "in.png", folder / "in.glic"
    start = time.perf_counter()
    if args.measure == "encode":
        coder = functools.partial(encoding.code_image, codec, None, 0)
        encoding.encode_file(coder, png, glic, with_metrics=False)
    else:

        class Shelf:
            get = staticmethod(lambda fingerprint: codec)

        decoding.decode_file(Shelf, glic, folder / "out.png")
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(seconds, 2), "peak_mib": round(peak), **facts(codec, glic)}))


def facts(codec, glic):
    """What the file and the model say about the decoder's wavefront."""
    from coding import bitstream

    data = glic.read_bytes()
    container = bitstream.unpack(data)
    h, w = (-(-side // 64) * 64 // LATENT_STRIDE for side in (container.height, container.width))
    z_symbols = np.zeros((1, 1, codec.architecture.num_filters), np.int32)
    image_model = codec.entropy_coder.image_model(z_symbols, container.active)
    kernels = [image_model._context_kernel, image_model._first_kernel]
    kernels += [image_model._second.kernel, image_model._last.kernel]
    return {
        "model": codec.model.name,
        "family": codec.architecture.family,
        "filters": codec.architecture.num_filters,
        "bytes": len(data),
        "wavefront_steps": w + 3 * (h - 1),
        "matrices_mib_per_step": round(sum(k.nbytes for k in kernels) / 2**20, 2),
    }


def key(row):
    """What names a row; a later measurement replaces it."""
    return [str(row[c]) for c in ("model", "width", "height", "direction")]


def rows_of(args, known):
    """Measures every size in both directions, but those whose keys are all known."""
    threads = len(os.sched_getaffinity(0))
    name = args.model if not args.random_filters else random_name(args.random_filters, args.family)
    for width, height in args.sizes:
        own = [[name, str(width), str(height), d] for d in ("encode", "decode")]
        if all(k in known for k in own):
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "in.png").write_bytes(images.png_bytes(picture(width, height)))
            for direction in ("encode", "decode"):
                command = [sys.executable, __file__, "--measure", direction, "--folder", folder]
                command += ["--model", args.model, "--memory-mib", str(args.memory_mib)]
                command += ["--random-filters", str(args.random_filters)]
                command += ["--family", args.family]
                result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
                if result.returncode:
                    sys.exit(f"{direction} of {width}x{height} failed ({result.returncode}).")
                row = json.loads(result.stdout.splitlines()[-1])
                row.update(width=width, height=height, direction=direction, threads=threads)
                print({c: row[c] for c in COLUMNS}, flush=True)
                yield row


def plot(rows, path):
    """Seconds and peak memory against megapixels, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for name in sorted({r["model"] for r in rows}):
        for direction, marker in (("encode", "o"), ("decode", "s")):
            own = [r for r in rows if (r["model"], r["direction"]) == (name, direction)]
            own.sort(key=lambda r: int(r["width"]) * int(r["height"]))
            x = [int(r["width"]) * int(r["height"]) / 1e6 for r in own]
            for axis, column in zip(axes, ("seconds", "peak_mib")):
                label = f"{name}, {own[0]['filters']} filters, {direction}"
                axis.plot(x, [float(r[column]) for r in own], marker=marker, label=label)
    for axis, title in zip(axes, ("seconds", "peak memory of the process, MiB")):
        axis.set(xscale="log", yscale="log", xlabel="megapixels", title=title)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def print_table(rows):
    """The README's table: seconds, seconds per megapixel and MiB, encode / decode."""
    print("| model | size | megapixels | seconds | per megapixel | peak MiB | steps |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    pairs = {}
    for row in rows:
        pairs.setdefault(tuple(key(row)[:3]), {})[row["direction"]] = row
    for (name, width, height), pair in pairs.items():
        if len(pair) < 2:
            continue
        pixels = int(width) * int(height) / 1e6
        both = [pair["encode"], pair["decode"]]
        seconds = [float(r["seconds"]) for r in both]
        cells = [f"`{name}`", f"{width}x{height}", f"{pixels:.2f}"]
        cells += [" / ".join(f"{s:.1f}" for s in seconds)]
        cells += [" / ".join(f"{s / pixels:.2f}" for s in seconds)]
        cells += [" / ".join(str(r["peak_mib"]) for r in both), str(both[1]["wavefront_steps"])]
        print(f"| {' | '.join(cells)} |")


def size(text):
    """(width, height) of a text such as 768x512."""
    width, height = text.split("x")
    return int(width), int(height)


def main():
    """Measures, writes the table and draws it."""
    parser = options.parser_for(__doc__)
    add_model_options(parser)
    parser.add_argument("--sizes", type=size, nargs="+", default=SIZES, help="such as 768x512")
    parser.add_argument("--keep", action="store_true", help="measure only what is missing")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--measure", choices=("encode", "decode"), help="one, in this process")
    parser.add_argument("--folder", type=Path, help="with in.png or in.glic, for --measure")
    args = parser.parse_args()
    if args.measure:
        measure(args, args.folder)
        return
    preflight.check_evaluation(["matplotlib"])
    path = DOCS / "scaling.csv"
    rows = []
    if path.exists():
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    known = [key(r) for r in rows] if args.keep else []
    for row in () if args.table else rows_of(args, known):
        rows = [r for r in rows if key(r) != key(row)] + [row]
        rows.sort(key=lambda r: (r["model"], int(r["width"]) * int(r["height"])))
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    plot(rows, DOCS / "scaling.png")
    print_table(rows)


if __name__ == "__main__":
    main()
