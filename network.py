"""The networks of both codecs, one function per box of the papers' figures (TF 1.x graph API).

- ``gmm``: Cheng et al., CVPR 2020 (arXiv 2001.01568), figure 3.
- ``gllmm``: Fu et al., TIP 2023 (arXiv 2107.06463), figures 2 and 6: concatenated residual
  blocks, a wider parameter network and a mixture of nine components in three families.

Variable names, shapes and layouts are those of the authors' TF 1.x checkpoints, so that these
restore as they are. All tensors are NHWC; y has 1/16 and z 1/64 of the image's sides. Functions
compute in the dtype of their input (float32 or bfloat16); see layers.py. N and M are those of
``architecture.Architecture``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow.compat.v1 as tf

import factorized_prior
from architecture import CONTEXT_SUPPORT, context_mask
from attention import attention_block, concatenated_residual_block, residual_block
from layers import gdn, leaky, signal_conv2d

# Initial gains, measured so that no activation grows along the networks: an untrained y has a std
# of about 1 and x_hat lies at 0.5 with a std near 0.1. Every block adds its input to its branch,
# and the concatenated blocks of gllmm do so twice; the inverse GDN squares what is large.
BLOCK_GAIN = {"gmm": 0.75, "gllmm": 0.35}  # of the layers that change the resolution
OUTPUT_GAIN = 0.05  # of the last synthesis layer


def _down_block(t, n, i, suffix, gain):
    """Residual block with stride 2: two 3x3 layers, the second with GDN, and a 1x1 shortcut."""
    shortcut = signal_conv2d(t, n, 1, f"Block_{i}_shortcut", corr=True, down=2, gain=gain)
    name = f"Block_{i}_layer_2{suffix}"
    t = signal_conv2d(t, n, 3, name, corr=True, down=2, activation=leaky, gain=gain)
    t = signal_conv2d(t, n, 3, f"Block_{i}_layer_3{suffix}", corr=True, activation=gdn)
    return t + shortcut


def analysis(x, architecture):
    """Analysis transform g_a.

    Args:
      x: (B, H, W, 3) in [0, 1]; H and W multiples of 16 (64 with the hyperprior).
      architecture: ``Architecture``.

    Returns:
      y, (B, H/16, W/16, M).
    """
    family, gain = architecture.family, BLOCK_GAIN[architecture.family]
    with tf.variable_scope("analysis"):
        t = x
        for i in range(4):
            if i > 0 and family == "gmm":
                t = residual_block(t, f"Block_{i}_layer_0", f"Block_{i}_layer_1", corr=True)
            elif i > 0:
                names = [f"Block_{i}_layer_{k}" for k in range(4)]
                t = concatenated_residual_block(t, names, corr=True)
            # The authors' graph opens these scopes twice in gllmm; TF 1.x then adds "_1".
            suffix = "_1" if i > 0 and family == "gllmm" else ""
            if i < 3:
                t = _down_block(t, architecture.num_filters, i, suffix, gain)
            else:
                name = f"Block_3_layer_2{suffix}"
                m = architecture.num_latents
                t = signal_conv2d(t, m, 3, name, corr=True, down=2, use_bias=False)
            if i in (1, 3):
                t = attention_block(t, f"NLAB_{i // 2}")
        return t


def _up_block(t, n, i, gain):
    """Residual block with subpixel upsampling by 2; the second layer has an inverse GDN."""

    def igdn(x):
        return gdn(x, inverse=True)

    shortcut = signal_conv2d(t, 4 * n, 1, f"Block_{i}_shortcut", corr=False, gain=gain)
    name = f"Block_{i}_layer_2"
    t = signal_conv2d(t, 4 * n, 3, name, corr=False, activation=leaky, gain=gain)
    t = tf.nn.depth_to_space(t, 2)
    t = signal_conv2d(t, n, 3, f"Block_{i}_layer_3", corr=False, activation=igdn)
    return t + tf.nn.depth_to_space(shortcut, 2)


def synthesis(y_hat, architecture):
    """Synthesis transform g_s.

    Args:
      y_hat: (B, h, w, M).
      architecture: ``Architecture``.

    Returns:
      x_hat, (B, 16 h, 16 w, 3), not clipped.
    """
    family, gain = architecture.family, BLOCK_GAIN[architecture.family]
    with tf.variable_scope("synthesis"):
        t = y_hat
        for i in range(4):
            if i in (0, 2):
                t = attention_block(t, f"NLAB_{i // 2}")
            first, second = f"Block_{i}_layer_0", f"Block_{i}_layer_1"
            if family == "gmm":
                t = residual_block(t, first, second, corr=False)
            else:
                # In the authors' graph the second pair's scopes lie inside the first's last one.
                inner = [f"{second}/Block_{i}_layer_{k}" for k in (2, 3)]
                t = concatenated_residual_block(t, [first, second, *inner], corr=False)
            if i < 3:
                t = _up_block(t, architecture.num_filters, i, gain)
        t = signal_conv2d(t, 12, 3, "Block_3_layer_2", corr=False, gain=OUTPUT_GAIN, bias_init=0.5)
        return tf.nn.depth_to_space(t, 2)


def hyper_analysis(y, architecture):
    """Hyper analysis h_a: y (B, h, w, M), not rounded, to z (B, h/4, w/4, N)."""
    n = architecture.num_filters
    with tf.variable_scope("hyper_analysis"):
        t = y
        for i, down in enumerate((1, 1, 2, 1, 2)):
            activation = leaky if i < 4 else None
            t = signal_conv2d(t, n, 3, f"layer_{i}", corr=True, down=down, activation=activation)
        return t


def hyper_synthesis(z_hat, architecture):
    """Hyper synthesis h_s: z_hat (B, h/4, w/4, N) to phi (B, h, w, 2M)."""
    with tf.variable_scope("hyper_synthesis"):
        t = z_hat
        for i, (filters, up, active) in enumerate(architecture.hyper_synthesis):
            activation = leaky if active else None
            t = signal_conv2d(t, filters, 3, f"layer_{i}", corr=False, up=up, activation=activation)
        return t


def masked_conv2d(y_hat):
    """Masked 5x5 convolution (context model), (B, h, w, M) to (B, h, w, 2M), no activation."""
    m = int(y_hat.shape[-1])
    with tf.variable_scope("masked"):
        shape = (CONTEXT_SUPPORT, CONTEXT_SUPPORT, m, 2 * m)
        weights = tf.get_variable("weights", shape, tf.float32, tf.initializers.glorot_uniform())
        biases = tf.get_variable("biases", (2 * m,), tf.float32, tf.initializers.zeros())
        kernel = tf.cast(weights * context_mask(), y_hat.dtype)
        return tf.nn.conv2d(y_hat, kernel, 1, "SAME") + tf.cast(biases, y_hat.dtype)


def entropy_parameter(y_hat, phi, architecture):
    """Context model and parameter network.

    Args:
      y_hat: (B, h, w, M), the (noisy or rounded) latents; masked inside.
      phi: (B, h, w, 2M), hyper synthesis output.
      architecture: ``Architecture``.

    Returns:
      float32 (B, h, w, 9M) for gmm, (B, h, w, 30M) for gllmm: raw groups of M channels, which
      ``gmm_entropy.split_parameters`` turns into mixtures.
    """
    hidden, groups = architecture.parameter_widths
    with tf.variable_scope("entropy_parameter"):
        t = tf.concat([masked_conv2d(y_hat), phi], axis=-1)
        # These layers had no name in the authors' code: Keras numbered them over the graph.
        for i, width in enumerate(hidden):
            layer_name = "signal_conv2d" if i == 0 else f"signal_conv2d_{i}"
            t = signal_conv2d(
                t, width, 1, f"layer_{i}", corr=True, activation=leaky, layer_name=layer_name
            )
        t = signal_conv2d(
            t,
            groups * architecture.num_latents,
            1,
            "layer_2",
            corr=True,
            use_bias=False,
            layer_name="signal_conv2d_2",
        )
        return tf.cast(t, tf.float32)


# --- The chain of the boxes, with a gap where latents are quantised ------------------------------


class Chain(NamedTuple):
    """Everything between an image and its reconstruction, as tensors.

    ``y`` and ``z`` come from the transforms; ``y_hat`` and ``z_hat`` are what became of them where
    they are quantised; ``phi``, ``raw`` (the mixtures' parameters) and ``x_hat`` follow from these.
    """

    y: Any
    z: Any
    y_hat: Any
    z_hat: Any
    phi: Any
    raw: Any
    x_hat: Any


def latents(x, architecture, dtype=tf.float32):
    """Both analysis transforms, computed in ``dtype``: x (B, H, W, 3) to y and z, float32."""
    y = analysis(tf.cast(x, dtype), architecture)
    z = hyper_analysis(y, architecture)
    return tf.cast(y, tf.float32), tf.cast(z, tf.float32)


def mixtures(y_hat, z_hat, architecture, dtype=tf.float32):
    """The entropy model of y: (phi, raw), float32; the hyper synthesis computes in ``dtype``.

    The parameter network is always float32: a bfloat16 mean of 40 is known to 0.25 only, which
    would be noise in the rate.
    """
    phi = tf.cast(hyper_synthesis(tf.cast(z_hat, dtype), architecture), tf.float32)
    return phi, entropy_parameter(y_hat, phi, architecture)


def reconstruction(y_hat, architecture, dtype=tf.float32):
    """x_hat, float32 and not clipped, by the synthesis transform computed in ``dtype``."""
    return tf.cast(synthesis(tf.cast(y_hat, dtype), architecture), tf.float32)


def chain(x, architecture, quantise, *, dtype=tf.float32, analysis_dtype=None):
    """The whole codec but its entropy coder (Cheng et al., figure 2 (d)).

    Args:
      x: (B, H, W, 3) in [0, 1], sides multiples of 64.
      architecture: ``Architecture``.
      quantise: maps (y, z), float32, to (y_hat, z_hat).
      dtype: of the transforms' convolutions; analysis_dtype: of the two analyses', if another.

    Returns:
      ``Chain``.
    """
    y, z = latents(x, architecture, analysis_dtype or dtype)
    y_hat, z_hat = quantise(y, z)
    phi, raw = mixtures(y_hat, z_hat, architecture, dtype)
    return Chain(y, z, y_hat, z_hat, phi, raw, reconstruction(y_hat, architecture, dtype))


def inference_graph(architecture, table_length=3):
    """Builds everything that a model's checkpoint holds in the current graph.

    Args:
      architecture: ``Architecture``.
      table_length: columns of the prior's integer tables.

    Returns:
      The placeholder x, float32 (B, H, W, 3), and a ``Chain`` whose y_hat and z_hat are
      placeholders, too.
    """
    x, y_hat, z_hat = (
        tf.placeholder(tf.float32, (None, None, None, channels))
        for channels in (3, architecture.num_latents, architecture.num_filters)
    )
    made = chain(x, architecture, lambda y, z: (y_hat, z_hat))
    factorized_prior.variables(architecture.num_filters, table_length)
    return x, made
