"""Speed of training and where its time goes: python -m benchmarks.training [--filters 64 128]

For each width, first the peak of TensorFlow's convolution on this machine: 3x3, as many channels in
as out, forward and both gradients, in float32 and bfloat16, the best of several image sizes. Then
train.py's own step on noise pictures: pixels a second, and the share of that peak that the step's
convolutions reach over its whole time. Convolutions are counted on the graph of the networks,
three times for the two gradients. With --profile, a table of a step's time by kind of operation.

Give it a machine with nothing else running. Bars for two cores, 64 filters, bfloat16: 215,000
pixels a second with Adam, 190,000 with SOAP.
"""

import collections
import os
import statistics
import time

import numpy as np
import tensorflow.compat.v1 as tf

from architecture import FAMILIES, Architecture
from cli import errors as cli_errors
from cli import options
from evaluation import complexity
from layers import session_config
from rates import Rate
from training.precision import convolution_seconds
from training.settings import DEFAULTS, OPTIMIZERS, PRECISIONS
from training.step import build_training

BARS = {(64, "bfloat16", "adam"): 215_000, (64, "bfloat16", "soap"): 190_000}
PEAK_SIDES, PEAK_BATCH = (32, 64, 128), 8  # of the peak's images
GRADIENTS = 3  # forward, and the gradients of input and kernel, cost the same
SHOWN_KINDS = 15


def median_seconds(run, repeats, first=2):
    """Median time of a call, after some that set things up."""
    times = []
    for _ in range(first + repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[first:])


def convolution_peak(num_filters, precision):
    """Floating-point operations a second of the fastest 3x3 convolution with its gradients."""
    best = 0.0
    for side in PEAK_SIDES:
        seconds = convolution_seconds([precision], num_filters, side, PEAK_BATCH, repeats=10)
        flops = 2 * 9 * num_filters**2 * PEAK_BATCH * side**2 * GRADIENTS
        best = max(best, flops / seconds[precision])
    return best


def measure(settings, repeats, profile):
    """Median seconds of a training step, and ``tf.RunMetadata`` of one where wanted."""
    keys = ("metric", "precision", "optimizer", "seed", "batch", "patch", "average")
    with tf.Graph().as_default():
        tf.set_random_seed(1)
        graph = build_training(
            architecture=Architecture.of(settings),
            rate=Rate(settings["lmbda"]),
            **{key: settings[key] for key in keys},
        )
        shape = (settings["batch"], settings["patch"], settings["patch"], 3)
        x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        feed = {graph.x: x, graph.learning_rate: 1e-6, graph.clip_norm: np.inf}
        with tf.Session(config=session_config()) as session:
            session.run(tf.global_variables_initializer())
            session.run(graph.start_averages)
            steps = iter(range(10**6))

            def step(**options):
                feed[graph.step] = next(steps)
                session.run([graph.train, graph.losses.given()], feed, **options)

            # SOAP refreshes its bases in turns of ten steps.
            seconds = median_seconds(step, repeats, first=12)
            metadata = tf.RunMetadata()
            if profile:
                trace = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
                step(options=trace, run_metadata=metadata)
    return seconds, metadata


def profile_lines(metadata):
    """Table of the operations' time by kind, longest first; operations run side by side."""
    micros, calls = collections.Counter(), collections.Counter()
    for device in metadata.step_stats.dev_stats:
        for node in device.node_stats:
            kind = node.timeline_label.split(" = ")[-1].split("(")[0] or node.node_name
            micros[kind] += node.op_end_rel_micros - node.op_start_rel_micros
            calls[kind] += 1
    total = sum(micros.values())
    lines = ["| operation | calls | ms | share |", "| --- | ---: | ---: | ---: |"]
    shown = micros.most_common(SHOWN_KINDS)
    rest = total - sum(value for _, value in shown)
    calls["all others"] = sum(calls.values()) - sum(calls[kind] for kind, _ in shown)
    for kind, value in [*shown, ("all others", rest)]:
        lines.append(f"| {kind} | {calls[kind]} | {value / 1000:.1f} | {value / total:.1%} |")
    return lines


def rows(args):
    """(settings, pixels a second, share of the peak, metadata) of each combination."""
    for n in args.filters:
        macs = sum(m for _, m in complexity.count(Architecture(args.family, n)).values())
        for precision in args.precisions:
            peak = convolution_peak(n, precision)
            print(f"\nN = {n}, {precision}: convolution peak {peak / 1e9:.0f} GFLOP/s", flush=True)
            for optimizer in args.optimizers:
                settings = {**DEFAULTS, "num_filters": n, "family": args.family}
                settings.update(precision=precision, optimizer=optimizer)
                seconds, metadata = measure(settings, args.repeats, args.profile)
                pixels = settings["batch"] * settings["patch"] ** 2 / seconds
                share = 2 * macs * GRADIENTS * pixels / peak
                yield settings, pixels, share, metadata


def main():
    """Prints one line for each combination, and its profile."""
    parser = options.parser_for(__doc__)
    parser.add_argument("--family", choices=FAMILIES, default="gmm")
    parser.add_argument("--filters", type=options.count, nargs="+", default=[64], metavar="N")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS)
    parser.add_argument("--repeats", type=options.count, default=30, help="steps (default: 30)")
    parser.add_argument("--profile", action="store_true", help="time by kind of operation")
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, TensorFlow {tf.__version__}, {args.family}, 8 crops of 128x128")
    for settings, pixels, share, metadata in rows(args):
        key = tuple(settings[k] for k in ("num_filters", "precision", "optimizer"))
        bar = f", {pixels / BARS[key]:.2f} of the bar" if key in BARS else ""
        print(
            f"N = {key[0]}, {key[1]}, {key[2]}: {pixels:,.0f} pixels/s, convolutions at "
            f"{share:.0%} of the peak{bar}",
            flush=True,
        )
        if args.profile:
            print("\n" + "\n".join(profile_lines(metadata)) + "\n", flush=True)


if __name__ == "__main__":
    cli_errors.run(main)
