"""The precision in which this machine computes a training's convolutions fastest.

bfloat16 is a gain only where the processor or GPU has units for it. Without them TensorFlow
computes it all the same, slower than float32: more than 20 times on a CPU that was tried.
"""

from __future__ import annotations

import contextlib
import time

import tensorflow.compat.v1 as tf

from layers import session_config
from training.settings import PRECISIONS, WORTH

# The convolution that is timed: small, so that a CPU without bfloat16 units is through in a second.
CHANNELS, SIDE, BATCH = 64, 32, 4
FIRST = 2  # calls that are not timed: TensorFlow sets things up
REPEATS = 7  # timed calls, of which the fastest counts


@contextlib.contextmanager
def _convolution(dtype, channels, side, batch, threads):
    """A callable that computes a 3x3 convolution with both gradients on the default device."""
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
            yield session.make_callable(tf.group(ops))


def convolution_seconds(
    dtypes, channels=CHANNELS, side=SIDE, batch=BATCH, threads=0, repeats=REPEATS
):
    """Times of a 3x3 convolution with both gradients on the default device.

    Types take turns and the fastest call of each counts: what else the machine does in the meantime
    slows both down, and hardly all of one's calls.

    Args:
      dtypes: names of types of images and kernel.
      channels: in and out.
      side, batch: of the square images.
      threads: of TensorFlow, 0 for one for each core.
      repeats: timed calls of each.

    Returns:
      Dict of name to seconds, infinite where this device cannot compute it.
    """
    best = dict.fromkeys(dtypes, float("inf"))
    with contextlib.ExitStack() as stack:
        runs = {}
        for name in dtypes:
            with contextlib.suppress(tf.errors.OpError):
                options = (channels, side, batch, threads)
                run = stack.enter_context(_convolution(tf.as_dtype(name), *options))
                for _ in range(FIRST):
                    run()
                runs[name] = run
        for _ in range(repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def choose(precision, threads=0, report=print):
    """The precision of a training on this machine.

    Args:
      precision: "bfloat16" or "float32" where it was asked for, else None.
      threads: of TensorFlow.
      report: called with a line about the choice, or about one that costs time.

    Returns:
      The precision; what was measured, a dict of precision to seconds, or None.
    """
    if precision == "float32":
        return precision, None
    seconds = convolution_seconds(PRECISIONS, threads=threads)
    gain = seconds["float32"] / seconds["bfloat16"]  # 0 where bfloat16 fails
    speed = f"bfloat16 convolutions run at {gain:.2f} times float32's speed here"
    if precision is None:
        precision = "bfloat16" if gain >= WORTH else "float32"
        report(f"Precision: {precision}, as {speed}.")
    elif gain < 1:
        report(f"Slow: {speed}; --precision float32 is faster, also for a run that goes on.")
    return precision, {name: value for name, value in seconds.items() if value < float("inf")}
