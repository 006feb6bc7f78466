"""The precision in which this machine computes a training's convolutions fastest.

bfloat16 is a gain only where the processor or GPU has units for it. Without them TensorFlow
computes it all the same, slower than float32: more than 20 times on a CPU that was tried.
"""

from __future__ import annotations

import statistics
import time

import tensorflow.compat.v1 as tf

from layers import session_config

# The convolution that is timed: small, so that a CPU without bfloat16 units is through in a second.
CHANNELS, SIDE, BATCH = 64, 32, 4
# How many times float32's speed makes up for bfloat16's rounding (models/EXPERIMENTS.md).
WORTH = 1.2
FIRST = 2  # calls that are not timed: TensorFlow sets things up


def convolution_seconds(dtype, channels=CHANNELS, side=SIDE, batch=BATCH, threads=0, repeats=5):
    """Median time of a 3x3 convolution with both gradients on the default device.

    Args:
      dtype: ``tf.DType`` of images and kernel.
      channels: in and out.
      side, batch: of the square images.
      threads: of TensorFlow, 0 for one for each core.
      repeats: timed calls.

    Raises:
      tf.errors.OpError: this device cannot compute it.
    """
    with tf.Graph().as_default():
        shape = (batch, side, side, channels)
        x, g = (tf.get_variable(n, initializer=tf.ones(shape, dtype)) for n in "xg")
        kernel = tf.get_variable("k", initializer=tf.ones((3, 3, channels, channels), dtype))
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
        ops = [t.op for t in (y, *tf.gradients(y, [x, kernel], g))]
        config = session_config(threads)
        # Grappler removes operations whose results nobody reads.
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        with tf.Session(config=config) as session:
            session.run(tf.global_variables_initializer())
            run = session.make_callable(tf.group(ops))
            times = []
            for _ in range(FIRST + repeats):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
    return statistics.median(times[FIRST:])


def bfloat16_gain(threads=0):
    """How many times as fast as in float32 convolutions are in bfloat16; 0 where they fail."""
    try:
        bfloat16 = convolution_seconds(tf.bfloat16, threads=threads)
    except tf.errors.OpError:
        return 0.0
    return convolution_seconds(tf.float32, threads=threads) / bfloat16


def choose(precision, threads=0, report=print):
    """The precision of a training on this machine.

    Args:
      precision: "bfloat16" or "float32" where it was asked for, else None.
      threads: of TensorFlow.
      report: called with a line about the choice, or about one that costs time.
    """
    if precision == "float32":
        return precision
    gain = bfloat16_gain(threads)
    speed = f"bfloat16 convolutions run at {gain:.2f} times float32's speed here"
    if precision is None:
        precision = "bfloat16" if gain >= WORTH else "float32"
        report(f"Precision: {precision}, as {speed}.")
    elif gain < 1:
        report(f"Slow: {speed}; --precision float32 is faster, also for a run that goes on.")
    return precision
