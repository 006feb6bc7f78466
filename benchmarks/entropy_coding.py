"""Entropy coding against the networks' time: python benchmarks/entropy_coding.py [--model NAME]

Times, in one run and on one image of 768x512, the exact entropy coding of y at 128 filters and
the float32 analysis and synthesis passes of TensorFlow at 128 filters, and prints their ratios.
Below 1 the entropy coder is the smaller part.

The 128-filter entropy model is the shipped 64-filter model set into the corner of a wider
network whose other channels are dead: real latents and real probabilities, half of the channels
active (as in the authors' models), and the full cost of 128 filters.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli import options  # sets TensorFlow's log level, so it comes first

import numpy as np  # isort:skip
import tensorflow.compat.v1 as tf  # isort:skip

from coding import latent_coder, models
from coding.context import EntropyModel
from network import PARAMETER_WIDTHS, hyper_synthesis_layers
from pictures import images

HEIGHT, WIDTH = 512, 768
BARS = {"encode y": 0.4, "decode y": 0.8}  # seconds on two cores with nothing else running


def embed(array, shape, *axes_of_blocks):
    """Sets an array into zeros of ``shape``, block by block along the last two axes.

    ``axes_of_blocks`` are (axis, blocks): that axis is a sequence of ``blocks`` equal blocks, each
    of which widens on its own.
    """
    blocks = dict(axes_of_blocks)
    indices = []
    for axis, (small, large) in enumerate(zip(array.shape, shape)):
        count = blocks.get(axis, 1)
        base = np.arange(small // count)
        indices.append((np.arange(count)[:, None] * (large // count) + base).ravel())
    wide = np.zeros(shape, np.float32)
    wide[np.ix_(*indices)] = array
    return wide


def widen(weights, family, n, wide):
    """Entropy-model weights of n filters as those of a network with ``wide`` filters."""
    result = {}
    cin_n, cin_w = n, wide
    pairs = zip(hyper_synthesis_layers(n), hyper_synthesis_layers(wide))
    for i, ((out_n, _, _), (out_w, _, _)) in enumerate(pairs):
        prefix = f"hyper_synthesis/layer_{i}/signal_conv2d/"
        kernel = weights[prefix + "kernel_rdft"].reshape(9, cin_n, out_n)
        result[prefix + "kernel_rdft"] = embed(kernel, (9, cin_w, out_w)).reshape(9, -1)
        result[prefix + "bias"] = embed(weights[prefix + "bias"], (out_w,))
        cin_n, cin_w = out_n, out_w
    prefix = "entropy_parameter/masked/"
    result[prefix + "weights"] = embed(weights[prefix + "weights"], (5, 5, wide, 2 * wide))
    result[prefix + "biases"] = embed(weights[prefix + "biases"], (2 * wide,))
    hidden, groups = PARAMETER_WIDTHS[family]
    for i in range(3):
        prefix = f"entropy_parameter/layer_{i}/signal_conv2d" + (f"_{i}/" if i else "/")
        kernel = weights[prefix + "kernel"]
        if i == 0:  # inputs: the context's 2N, then phi's 2N
            kernel = embed(kernel, (1, 1, 4 * wide, hidden[0]), (2, 2))
        if i == 2:
            kernel = embed(kernel, (1, 1, hidden[1], groups * wide), (3, groups))
        result[prefix + "kernel"] = kernel
        if i < 2:
            result[prefix + "bias"] = weights[prefix + "bias"]
    return result


def seconds(function, repeats):
    """Median seconds of ``function()`` after one warm-up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def test_image():
    """uint8 (512, 768, 3): the photographs of valid/ side by side, cut to size."""
    folder = options.ROOT / "valid"
    left = images.read_image(folder / "astronaut.png").pixels
    right = images.read_image(folder / "rocket.png").pixels[:, :256]
    right = np.pad(right, ((0, HEIGHT - len(right)), (0, 0), (0, 0)), "reflect")
    return np.concatenate([left, right], axis=1)


def network_seconds(num_filters, family, repeats):
    """Median seconds of the float32 analysis (with hyper analysis) and synthesis passes."""
    with tf.Graph().as_default(), tf.Session() as session:
        tensors = models.build_inference_graph(num_filters, family)
        session.run(tf.global_variables_initializer())
        x = np.random.default_rng(0).random((1, HEIGHT, WIDTH, 3), np.float32)
        y_hat = np.zeros((1, HEIGHT // 16, WIDTH // 16, num_filters), np.float32)

        def analyse():
            session.run([tensors["y"], tensors["z"]], {tensors["x"]: x})

        def synthesise():
            session.run(tensors["x_hat"], {tensors["y_hat"]: y_hat})

        return seconds(analyse, repeats), seconds(synthesise, repeats)


def main():
    """Prints seconds, bars and ratios."""
    from codec import Codec

    parser = options.parser_for(__doc__)
    parser.add_argument("--model", default=options.DEFAULT_MODEL, help="64-filter model")
    parser.add_argument("--num-filters", type=int, default=128, help="of the timed networks")
    parser.add_argument("--repeats", type=int, default=5, help="runs of which to take the median")
    args = parser.parse_args()
    codec = Codec.load(args.model)
    if codec.num_latents != codec.num_filters:
        raise SystemExit(f"A model with as many latents as filters expected, got {args.model}.")
    latents = codec.analyse(test_image())
    weights = widen(codec.model.weights, codec.family, codec.num_filters, args.num_filters)
    entropy_model = EntropyModel(weights, args.num_filters, codec.family)
    active = np.flatnonzero(latents.y_hat.any(axis=(0, 1)))
    values = latents.y_hat[..., active]
    z_hat = np.zeros((*latents.z_symbols.shape[:2], args.num_filters))
    z_hat[..., : codec.num_filters] = latents.z_symbols + codec.medians
    codec.close()

    def encode():
        image_model = entropy_model.for_image(z_hat, active)
        return latent_coder.encode_y(values, image_model, codec.family)

    data = encode()

    def decode():
        image_model = entropy_model.for_image(z_hat, active)
        return latent_coder.decode_y(data, image_model, len(active), codec.family)

    if not np.array_equal(decode(), values):
        raise SystemExit("The decoded latents differ from the encoded ones.")
    times = {"encode y": seconds(encode, args.repeats), "decode y": seconds(decode, args.repeats)}
    analysis, synthesis = network_seconds(args.num_filters, codec.family, args.repeats)
    print(
        f"{codec.family}, {args.num_filters} filters, {WIDTH}x{HEIGHT}, {len(active)} active "
        f"channels, {len(data)} bytes; medians of {args.repeats}"
    )
    print(f"analysis  {analysis:6.3f} s\nsynthesis {synthesis:6.3f} s")
    for (name, taken), network in zip(times.items(), (analysis, synthesis)):
        print(
            f"{name}  {taken:6.3f} s  bar {BARS[name]} s: {taken / BARS[name]:.2f} of it; "
            f"{taken / network:.2f} of the network's pass"
        )


if __name__ == "__main__":
    main()
