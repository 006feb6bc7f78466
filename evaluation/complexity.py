"""Parameters, multiply-accumulates and seconds of each network, for any width.

Multiply-accumulates (MACs) are counted on the graph itself: every convolution and transposed
convolution of it, with the shapes that TensorFlow infers for one 64x64 image, divided by its 4096
pixels. Every layer's work is proportional to the image's area, so the figures hold for any size
that is a multiple of 64. GDN's pools are 1x1 convolutions and counted as such. Not counted: biases,
activations, sums, and the transform of kernels from the frequency domain, once per call. The masked
convolution counts with its 25 taps as the graph has it; exact coding visits only the twelve that
the mask leaves.
"""

import time

import numpy as np
import tensorflow.compat.v1 as tf

import factorized_prior
import network
from architecture import STRIDE, Architecture
from coding.backends import TENSORFLOW
from errors import GlicError
from evaluation import tables
from evaluation.measurements import device

PARTS = ("analysis", "hyper_analysis", "hyper_synthesis", "entropy_parameter", "synthesis")
PRIOR = "entropy_bottleneck"
REPEATS = 3  # of each timing; the fastest is reported


def run(args):
    """``evaluate.py complexity``; returns the exit code."""
    rows = table(args.families, args.filters, args.size, args.latents)
    print("\n".join(describe(rows, args.size)))
    if args.size:
        print(f"\nMeasured on {device(TENSORFLOW)}, float32, best of three runs.")
    args.output.mkdir(parents=True, exist_ok=True)
    for row in rows:
        row["device"] = device(TENSORFLOW) if args.size else None
    tables.write_csv(rows, list(rows[0]), args.output / "complexity.csv")
    tables.write_json({"rows": rows, "size": args.size}, args.output / "complexity.json")
    return 0


def _build(architecture, height, width):
    """All networks in the default graph on one image of a static size; ``network.Chain`` and x."""
    x = tf.placeholder(tf.float32, (1, height, width, 3), "x")
    chain = network.chain(x, architecture, lambda y, z: (y, z))
    factorized_prior.variables(architecture.num_filters)
    return chain, x


def _macs(op):
    """Multiply-accumulates of a graph operation; 0 for what is no convolution."""
    if op.type == "Conv2D":
        height, width, cin, _ = op.inputs[1].shape.as_list()
        return op.outputs[0].shape.num_elements() * height * width * cin
    if op.type == "Conv2DBackpropInput":  # transposed: each input meets the whole kernel
        height, width, cout, _ = op.inputs[1].shape.as_list()
        return op.inputs[2].shape.num_elements() * height * width * cout
    return 0


def count(architecture):
    """Parameters and MACs of every part.

    Returns:
      Dict of part to (trainable parameters, MACs per image pixel); the prior of z has no MACs.
    """
    side = STRIDE
    with tf.Graph().as_default() as graph:
        _build(architecture, side, side)
        parameters = dict.fromkeys((*PARTS, PRIOR), 0)
        macs = dict.fromkeys((*PARTS, PRIOR), 0)
        for variable in tf.trainable_variables():
            parameters[variable.op.name.split("/")[0]] += variable.shape.num_elements()
        for op in graph.get_operations():
            macs[op.name.split("/")[0]] = macs.get(op.name.split("/")[0], 0) + _macs(op)
    return {part: (parameters[part], macs[part] / side**2) for part in parameters}


def seconds(architecture, height, width):
    """Measured seconds of every part's float32 graph on one image, with random weights.

    Weights do not change the time of a convolution. The fastest of three runs after a first one,
    which sets TensorFlow up.

    Args:
      architecture: ``Architecture``.
      height, width: of the image, multiples of 64.

    Returns:
      Dict of part to seconds.
    """
    side = STRIDE
    if height < 1 or width < 1 or height % side or width % side:
        raise GlicError(f"Sides that are multiples of {side} expected, got {width}x{height}.")
    random = np.random.default_rng(0)
    with tf.Graph().as_default(), tf.Session() as session:
        c, x = _build(architecture, height, width)
        session.run(tf.global_variables_initializer())
        runs = [(c.y, [x]), (c.z, [c.y]), (c.phi, [c.z]), (c.raw, [c.y, c.phi]), (c.x_hat, [c.y])]
        result = {}
        for part, (output, inputs) in zip(PARTS, runs):
            # The op, not its value: copying the output into NumPy is not the network's work.
            run = session.make_callable(output.op, inputs)
            values = [
                random.normal(0, 1, tensor.shape.as_list()).astype(np.float32) for tensor in inputs
            ]
            times = []
            for _ in range(REPEATS + 1):
                start = time.perf_counter()
                run(*values)
                times.append(time.perf_counter() - start)
            result[part] = min(times[1:])
    return result


def table(families, filters, size=None, num_latents=None):
    """Rows for every architecture and part.

    Args:
      families: of "gmm" and "gllmm".
      filters: numbers of filters.
      size: (height, width) to measure seconds at, or None for counts only.
      num_latents: M of all of them, or None for N.

    Returns:
      List of dicts: family, filters, latents, part ("total" last), parameters, macs_per_pixel,
      seconds (None where not measured).
    """
    rows = []
    for family in families:
        for n in filters:
            architecture = Architecture(family, n, num_latents)
            counts = count(architecture)
            times = seconds(architecture, *size) if size else {}
            described = {"family": family, "filters": n, "latents": architecture.num_latents}
            parts = [
                {
                    **described,
                    "part": part,
                    "parameters": parameters,
                    "macs_per_pixel": macs,
                    "seconds": times.get(part),
                }
                for part, (parameters, macs) in counts.items()
            ]
            total = {**described, "part": "total"}
            for column in ("parameters", "macs_per_pixel"):
                total[column] = sum(row[column] for row in parts)
            total["seconds"] = sum(times.values()) if times else None
            rows += [*parts, total]
    return rows


def describe(rows, size=None):
    """Lines of a Markdown table of ``table``'s rows."""
    timed = f" seconds, {size[1]}x{size[0]} |" if size else ""
    lines = [
        f"| family | N | M | part | parameters | kMAC/pixel |{timed}",
        "| --- | ---: | ---: | --- | ---: | ---: |" + (" ---: |" if size else ""),
    ]
    for row in rows:
        measured = "" if row["seconds"] is None else f"{row['seconds']:.3f}"
        lines.append(
            f"| {row['family']} | {row['filters']} | {row['latents']} "
            f"| {row['part'].replace('_', ' ')} | {row['parameters']:,} "
            f"| {row['macs_per_pixel'] / 1000:.2f} |" + (f" {measured} |" if size else "")
        )
    return lines
