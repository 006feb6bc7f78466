"""Time and memory against the image's size: python -m benchmarks.scaling [--model NAME]

Encodes and decodes one picture in sizes from 0.1 to 24 megapixels, each in a fresh process, as
encoder.py --no-metrics and decoder.py do it: from a PNG file to a .glic file and back. Writes
scaling.csv (one row per size and direction) and scaling.png from it to docs/ (or --output).

Seconds leave out starting Python and loading the model; a 64x64 picture is coded first. Peak
memory is that of the whole process, Python, libraries, model and picture included. Of a
wavefront step of the decoder the matrices that it reads are stated, the largest part of what it
moves.

--model random-128 measures an untrained model of 128 filters, whose latents are noise in every
channel: as slow as that many filters get; random-gllmm-128 is one of the other family. Rows are
added to those of other models.

The table is written after every row. --keep leaves out what it has already: so a run that was cut
off continues. --table measures nothing, prints the table and draws the plot. On two cores count on
about 5 minutes for the shipped model and 12 for 128 filters.
"""

import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import network
import preflight
from architecture import LATENT_STRIDE, Architecture, padded_size
from cli import decoding, encoding, options
from cli import errors as cli_errors
from cli.coder import Coder
from cli.inputs import collect
from codec import Codec
from coding import cores, models
from evaluation.measure import peak_memory
from evaluation.options import size
from pictures import images

SIZES = [(256, 384), (512, 768), (1024, 1536), (2048, 3072), (4000, 6000)]  # height, width
COLUMNS = ["model", "family", "filters", "width", "height", "direction", "seconds", "peak_mib"]
COLUMNS += ["bytes", "wavefront_steps", "matrices_mib_per_step", "threads"]
DOCS = options.ROOT / "docs"


def random_model(name):
    """The untrained ``models.Model`` called random-N, or random-gllmm-N; None for other names."""
    import tensorflow.compat.v1 as tf

    found = re.fullmatch("random(-gllmm)?-([0-9]+)", name)
    if not found:
        return None
    architecture = Architecture("gllmm" if found[1] else "gmm", int(found[2]))
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(1)
        network.inference_graph(architecture)
        session.run(tf.global_variables_initializer())
        weights = session.run({v.op.name: v for v in tf.global_variables()})
    fingerprint = models.fingerprint_of(weights, architecture)
    return models.Model(name, architecture, weights, fingerprint, {})


def add_model_options(parser, default=options.DEFAULT_MODEL):
    """Adds what ``load_codec`` reads."""
    parser.add_argument(
        "--model",
        default=default,
        metavar="NAME",
        help="a folder in models/, or an untrained one: random-128, random-gllmm-64 "
        "(default: %(default)s)",
    )
    options.add_memory_option(parser)
    options.add_backend(parser)


def load_codec(args):
    """The codec to measure."""
    model = random_model(args.model) or models.load_named(args.model)
    return Codec(model, options.memory_budget(args), options.backend(args))


def picture(height, width):
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
        encoding.encode_file(Coder(codec), png, glic, with_metrics=False)
    else:

        class Shelf:
            get = staticmethod(lambda fingerprint: codec)

        decoding.decode_file(Shelf, glic, folder / "out.png")
    seconds = time.perf_counter() - start
    measured = {"seconds": round(seconds, 2), "peak_mib": round(peak_memory())}
    print(json.dumps({**measured, **facts(codec, glic)}))


def facts(codec, glic):
    """What the file and the model say about the decoder's wavefront."""
    from coding import bitstream

    data = glic.read_bytes()
    container = bitstream.unpack(data)
    sides = padded_size(container.height, container.width)
    h, w = (side // LATENT_STRIDE for side in sides)
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
    name = Path(models.resolved(args.model)).name
    for height, width in args.sizes:
        own = [[name, str(width), str(height), d] for d in ("encode", "decode")]
        if all(k in known for k in own):
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "in.png").write_bytes(images.png_bytes(picture(height, width)))
            for direction in ("encode", "decode"):
                command = [sys.executable, "-m", "benchmarks.scaling", "--measure", direction]
                command += ["--folder", folder, "--model", args.model]
                command += ["--memory-mib", str(args.memory_mib)]
                result = subprocess.run(
                    command, cwd=options.ROOT, stdout=subprocess.PIPE, text=True
                )
                if result.returncode:
                    sys.exit(f"The {direction} of {width}x{height} failed ({result.returncode}).")
                row = json.loads(result.stdout.splitlines()[-1])
                row.update(width=width, height=height, direction=direction, threads=cores.count())
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
    """The table of docs/results.md: seconds, seconds per megapixel and MiB, encode / decode."""
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


def main():
    """Measures, writes the table and draws it."""
    parser = options.parser_for(__doc__)
    add_model_options(parser)
    parser.add_argument("--sizes", type=size, nargs="+", default=SIZES, help="such as 768x512")
    parser.add_argument("-o", "--output", type=Path, default=DOCS, help="(default: docs/)")
    parser.add_argument("--keep", action="store_true", help="measure only what is missing")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--measure", choices=("encode", "decode"), help="one, in this process")
    parser.add_argument("--folder", type=Path, help="with in.png or in.glic, for --measure")
    args = parser.parse_args()
    if args.measure:
        measure(args, args.folder)
        return
    preflight.check_evaluation(["matplotlib"])
    path = args.output / "scaling.csv"
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
    plot(rows, args.output / "scaling.png")
    print_table(rows)


if __name__ == "__main__":
    cli_errors.run(main)
