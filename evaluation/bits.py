"""What is in a file: its fields, and where its bits went; evaluate.py bits.

The coder's own costs stand beside what the float32 networks promise, as training and most papers
count, and the real bytes.
"""

import numpy as np
import tensorflow.compat.v1 as tf

import factorized_prior
import gmm_entropy
from cli import options
from codec import Codec
from coding import backends, bitstream, models
from coding.costs import costs_of
from errors import UsageError
from evaluation import tables
from pictures import images
from rates import delta_of


def run(args):
    """``evaluate.py bits``; returns the exit code."""
    how = {"backend": backends.TENSORFLOW}  # which has the entropy model in float, too
    codec = options.checkpoint_codec(args, **how)
    if codec and args.model:
        raise UsageError("--model or --checkpoint expected, got both.")
    if args.file.suffix.lower() == bitstream.EXTENSION:
        if args.quality is not None or args.lmbda is not None:
            raise UsageError("--quality and --lmbda are for images, which are coded first.")
        data = args.file.read_bytes()
        fingerprint = bitstream.unpack(data).fingerprint
        codec = codec or Codec.load(args.model or models.find(fingerprint), **how)
    else:
        pixels, _ = images.read_image(args.file)
        codec = codec or Codec.load(args.model or options.DEFAULT_MODEL, **how)
        data = codec.compress(pixels, args.quality, args.lmbda)
    facts = account(codec, data)
    print("\n".join(describe(facts)))
    if args.json:
        tables.write_json(facts, args.json)
    if args.map:
        draw_map(facts, args.map)
    return 0


def network_estimate(codec, latents):
    """Bits that the float32 networks promise, as training and most papers count them.

    Returns:
      ``y``, ``z``: floats, sums of -log2 of the likelihoods over all channels.
    """
    z_hat = (latents.z_symbols + codec.entropy_coder.medians)[None].astype(np.float32)
    y_hat = latents.y_hat()[None]
    _, raw = codec.networks.mixtures(y_hat, z_hat)
    prior = factorized_prior.weights_of(codec.model.weights)
    with tf.Graph().as_default(), tf.Session() as session:
        holders = [tf.placeholder(tf.float32, (None,) * 3 + v.shape[3:]) for v in (y_hat, raw)]
        delta = None if latents.k is None else delta_of(latents.k)
        nats_y = gmm_entropy.log_likelihood(*holders, codec.architecture.family, delta)
        bits_y = -tf.reduce_sum(nats_y) / np.log(2)
        z = tf.placeholder(tf.float32, (None,) * 3 + z_hat.shape[3:])
        bits_z = -tf.reduce_sum(tf.log(factorized_prior.likelihood(z, prior))) / np.log(2)
        y_sum, z_sum = session.run([bits_y, bits_z], {holders[0]: y_hat, holders[1]: raw, z: z_hat})
    return float(y_sum), float(z_sum)


def _rate(codec, k):
    """Header fields of a file whose y has a quantisation step of its own."""
    if k is None:
        return {}
    fields = {"quantisation_step": delta_of(k)}
    if codec.rates:
        fields["lmbda"] = float(f"{codec.rates.lmbda_of(k):.4g}")
    return fields


def account(codec, data):
    """Everything there is to say about a file.

    Args:
      codec: the ``Codec`` that wrote it.
      data: the file's bytes.

    Returns:
      Dict for JSON: ``header`` (fields), ``bytes`` (by part, sum = file size), ``bits`` (ideal,
      networks' estimate and real, for y and z), ``channels`` (of y: list of dicts with index,
      bits, share and largest magnitude, by falling bits) and ``map`` (h, w) bits per position.
    """
    container = bitstream.unpack(data)
    latents = codec.decode(container)
    costs = costs_of(codec.entropy_coder, latents)
    estimate_y, estimate_z = network_estimate(codec, latents)
    by_channel = costs.y.sum(axis=(0, 1))
    total = max(by_channel.sum(), 1e-9)
    channels = [
        {
            "channel": int(c),
            "bits": float(by_channel[c]),
            "share": float(by_channel[c] / total),
            "largest": int(np.abs(latents.y_symbols[..., c]).max()),
        }
        for c in np.argsort(-by_channel, kind="stable")
        if container.active[c]
    ]
    flags = len(container.active) // 8
    payload = len(container.z) + len(container.y)
    return {
        "header": {
            "format_version": data[4],
            "mode": bitstream.MODES[container.mode],
            "model": codec.model.name,
            "fingerprint": container.fingerprint.hex(),
            "width": container.width,
            "height": container.height,
            "latents_crc": f"{container.latents_crc:08x}",
            **_rate(codec, container.k),
            "filters": codec.architecture.num_filters,
            "latent_channels": len(container.active),
            "coded_channels": int(container.active.sum()),
        },
        "bytes": {
            "header_and_checksum": len(data) - payload - flags,
            "channel_flags": flags,
            "z": len(container.z),
            "y": len(container.y),
            "file": len(data),
        },
        "bits": {
            "y": {
                "ideal": float(costs.y.sum()),
                "networks": estimate_y,
                "real": 8 * len(container.y),
            },
            "z": {
                "ideal": float(costs.z.sum()),
                "networks": estimate_z,
                "real": 8 * len(container.z),
            },
        },
        "channels": channels,
        "map": np.round(costs.by_position, 3).tolist(),
    }


def describe(facts, shown_channels=10):
    """Text lines of ``account``'s result."""
    header, sizes = facts["header"], facts["bytes"]
    pixels = header["width"] * header["height"]
    lines = [f"{name.replace('_', ' '):20s} {value}" for name, value in header.items()]
    lines += ["", f"{'part':20s} {'bytes':>9s} {'bpp':>9s} {'share':>7s}"]
    for name, size in sizes.items():
        share = size / sizes["file"]
        lines.append(
            f"{name.replace('_', ' '):20s} {size:9d} {8 * size / pixels:9.5f} {share:7.2%}"
        )
    lines += ["", f"{'bits':20s} {'networks':>11s} {'ideal':>11s} {'real':>9s} {'real/ideal':>11s}"]
    for name, bits in facts["bits"].items():
        over = f"{bits['real'] / bits['ideal'] - 1:+11.3%}" if bits["ideal"] else ""
        lines.append(
            f"{name:20s} {bits['networks']:11.1f} {bits['ideal']:11.1f} {bits['real']:9d} {over}"
        )
    channels = facts["channels"]
    lines += ["", f"{'channel of y':20s} {'bits':>9s} {'share':>7s} {'largest':>8s}"]
    for c in channels[:shown_channels]:
        lines.append(f"{c['channel']:<20d} {c['bits']:9.0f} {c['share']:7.2%} {c['largest']:8d}")
    rest = channels[shown_channels:]
    if rest:
        bits, share = sum(c["bits"] for c in rest), sum(c["share"] for c in rest)
        lines.append(f"{f'{len(rest)} others':20s} {bits:9.0f} {share:7.2%}")
    count = header["latent_channels"]
    silent = count - header["coded_channels"]
    if silent:
        lines.append(f"{silent} of {count} channels are zero everywhere and cost a flag each.")
    return lines


def draw_map(facts, path):
    """Writes the map of bits per latent position as PNG or SVG (by the path's suffix)."""
    from matplotlib.figure import Figure

    values = np.array(facts["map"])
    height, width = values.shape
    figure = Figure(figsize=(7.2, 0.6 + 6.2 * height / width), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="magma", vmin=0)
    axes.set_title("Bits per latent position (16x16 pixels), z included", fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    figure.colorbar(image, ax=axes, label="bits")
    figure.savefig(path, dpi=150)
