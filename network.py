"""The networks of both codecs, one function per box of the papers' figures (TF 1.x graph API).

- ``gmm``: Cheng et al., CVPR 2020 (arXiv 2001.01568), figure 3.
- ``gllmm``: Fu et al., TIP 2023 (arXiv 2107.06463), figures 2 and 6: concatenated residual
  blocks, a wider parameter network and a mixture of nine components in three families.

Variable names, shapes and layouts are those of the authors' TF 1.x checkpoints, so that these
restore as they are. All tensors are NHWC; y has 1/16 and z 1/64 of the image's sides. Functions
compute in the dtype of their input (float32 or bfloat16); see layers.py.

N is the number of filters of the layers, M that of y's channels: N in both papers, more where a
narrow codec should not lack latents (Minnen et al., NeurIPS 2018, arXiv 1809.02736, has both).
"""

import collections

import numpy as np
import tensorflow.compat.v1 as tf

from attention import attention_block, concatenated_residual_block, residual_block
from errors import GlicError
from layers import gdn, leaky, signal_conv2d

FAMILIES = ("gmm", "gllmm")
LATENT_STRIDE = 16  # image pixels per position of y: four layers of stride 2
STRIDE = 64  # image pixels per position of z: the padding unit (16 x 4)
CONTEXT_SUPPORT = 5  # side of the masked convolution's kernel

# Widths of the two hidden parameter layers, and groups of M channels that the last one puts out.
ParameterWidths = collections.namedtuple("ParameterWidths", "hidden groups")
PARAMETER_WIDTHS = {
    "gmm": ParameterWidths((640, 640), 9),
    "gllmm": ParameterWidths((640, 1280), 30),
}

# Initial gains, measured so that no activation grows along the networks: an untrained y has a std
# of about 1 and x_hat lies at 0.5 with a std near 0.1. Every block adds its input to its branch,
# and the concatenated blocks of gllmm do so twice; the inverse GDN squares what is large.
BLOCK_GAIN = {"gmm": 0.75, "gllmm": 0.35}  # of the layers that change the resolution
OUTPUT_GAIN = 0.05  # of the last synthesis layer


def check_architecture(family, num_filters, num_latents=None):
    """Raises GlicError unless this family and these numbers of channels can be built."""
    if family not in FAMILIES:
        raise GlicError(f"Family {' or '.join(FAMILIES)} expected, got {family!r}.")
    for what, number in (("filters", num_filters), ("latent channels", num_latents)):
        if number is not None and (number < 8 or number % 8):
            raise GlicError(
                f"A number of {what} that is a positive multiple of 8 expected, got {number}."
            )


def _down_block(t, n, i, suffix, gain):
    """Residual block with stride 2: two 3x3 layers, the second with GDN, and a 1x1 shortcut."""
    shortcut = signal_conv2d(t, n, 1, f"Block_{i}_shortcut", corr=True, down=2, gain=gain)
    name = f"Block_{i}_layer_2{suffix}"
    t = signal_conv2d(t, n, 3, name, corr=True, down=2, activation=leaky, gain=gain)
    t = signal_conv2d(t, n, 3, f"Block_{i}_layer_3{suffix}", corr=True, activation=gdn)
    return t + shortcut


def analysis(x, num_filters, family, num_latents=None):
    """Analysis transform g_a.

    Args:
      x: (B, H, W, 3) in [0, 1]; H and W multiples of 16 (64 with the hyperprior).
      num_filters: N.
      family: "gmm" or "gllmm".
      num_latents: M, or None for N as in both papers.

    Returns:
      y, (B, H/16, W/16, M).
    """
    gain, num_latents = BLOCK_GAIN[family], num_latents or num_filters
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
                t = _down_block(t, num_filters, i, suffix, gain)
            else:
                name = f"Block_3_layer_2{suffix}"
                t = signal_conv2d(t, num_latents, 3, name, corr=True, down=2, use_bias=False)
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


def synthesis(y_hat, num_filters, family):
    """Synthesis transform g_s.

    Args:
      y_hat: (B, h, w, M).
      num_filters: N.
      family: "gmm" or "gllmm".

    Returns:
      x_hat, (B, 16 h, 16 w, 3), not clipped.
    """
    gain = BLOCK_GAIN[family]
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
                t = _up_block(t, num_filters, i, gain)
        t = signal_conv2d(t, 12, 3, "Block_3_layer_2", corr=False, gain=OUTPUT_GAIN, bias_init=0.5)
        return tf.nn.depth_to_space(t, 2)


def hyper_analysis(y, num_filters):
    """Hyper analysis h_a: y (B, h, w, M), not rounded, to z (B, h/4, w/4, N)."""
    with tf.variable_scope("hyper_analysis"):
        t = y
        for i, down in enumerate((1, 1, 2, 1, 2)):
            activation = leaky if i < 4 else None
            t = signal_conv2d(
                t, num_filters, 3, f"layer_{i}", corr=True, down=down, activation=activation
            )
        return t


def hyper_synthesis_layers(num_filters, num_latents=None):
    """(filters, upsampling stride, leaky or not) of each layer of the hyper synthesis."""
    n, wide, out = num_filters, num_filters * 3 // 2, 2 * (num_latents or num_filters)
    return ((n, 1, True), (n, 2, True), (wide, 1, True), (wide, 2, True), (out, 1, False))


def hyper_synthesis(z_hat, num_filters, num_latents=None):
    """Hyper synthesis h_s: z_hat (B, h/4, w/4, N) to phi (B, h, w, 2M); M is N if None."""
    with tf.variable_scope("hyper_synthesis"):
        t = z_hat
        for i, (filters, up, active) in enumerate(hyper_synthesis_layers(num_filters, num_latents)):
            activation = leaky if active else None
            t = signal_conv2d(t, filters, 3, f"layer_{i}", corr=False, up=up, activation=activation)
        return t


def context_mask():
    """Mask "A" of the 5x5 context: the twelve positions that are coded earlier, (5, 5, 1, 1)."""
    mask = np.zeros((CONTEXT_SUPPORT, CONTEXT_SUPPORT, 1, 1), np.float32)
    mask[:2] = 1
    mask[2, :2] = 1
    return mask


def masked_conv2d(y_hat):
    """Masked 5x5 convolution (context model), (B, h, w, M) to (B, h, w, 2M), no activation."""
    m = int(y_hat.shape[-1])
    with tf.variable_scope("masked"):
        shape = (CONTEXT_SUPPORT, CONTEXT_SUPPORT, m, 2 * m)
        weights = tf.get_variable("weights", shape, tf.float32, tf.initializers.glorot_uniform())
        biases = tf.get_variable("biases", (2 * m,), tf.float32, tf.initializers.zeros())
        kernel = tf.cast(weights * context_mask(), y_hat.dtype)
        return tf.nn.conv2d(y_hat, kernel, 1, "SAME") + tf.cast(biases, y_hat.dtype)


def entropy_parameter(y_hat, phi, family):
    """Context model and parameter network.

    Args:
      y_hat: (B, h, w, M), the (noisy or rounded) latents; masked inside.
      phi: (B, h, w, 2M), hyper synthesis output.
      family: "gmm" or "gllmm".

    Returns:
      float32 (B, h, w, 9M) for gmm, (B, h, w, 30M) for gllmm: raw groups of M channels, which
      ``gmm_entropy.split_parameters`` turns into mixtures.
    """
    hidden, groups = PARAMETER_WIDTHS[family]
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
            groups * int(y_hat.shape[-1]),
            1,
            "layer_2",
            corr=True,
            use_bias=False,
            layer_name="signal_conv2d_2",
        )
        return tf.cast(t, tf.float32)
