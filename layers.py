"""Convolutions and GDN on variables that carry the authors' TF 1.x names.

The authors' graphs were written for tensorflow-compression 1.2, whose layers created their own
variables. The layers of the 2.x releases no longer create them under those names, so the
variables are made here, in the 1.x parameterisation:

- kernels larger than 1x1 live in the frequency domain (``kernel_rdft``), 1x1 kernels do not;
- GDN parameters are stored as square roots with a small offset (``reparam_*``).

Every function computes in the dtype of its input: feed bfloat16 and the convolutions run in
bfloat16 on float32 master weights, with biases and GDN roots still in float32.
"""

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow.core.protobuf import rewriter_config_pb2

from architecture import GDN_BETA_MIN, GDN_PEDESTAL, LEAKY_SLOPE
from functions import lower_bound
from variables import rdft_matrix


def session_config(threads=0):
    """Session settings for gradients: grappler's remapper fails on the leaky ReLU's, so it is off.

    Args:
      threads: of TensorFlow, 0 for one a core.
    """
    config = tf.ConfigProto(
        intra_op_parallelism_threads=threads,
        inter_op_parallelism_threads=threads,
        allow_soft_placement=True,  # a GPU lacks kernels for some integers and strings
    )
    config.graph_options.rewrite_options.remapping = rewriter_config_pb2.RewriterConfig.OFF
    return config


def leaky(x):
    """Leaky ReLU with the papers' slope of 0.2."""
    return tf.nn.leaky_relu(x, alpha=LEAKY_SLOPE)


def _kernel_initializer(support, cin, cout, gain):
    """Truncated normal of variance ``gain^2 / fan_in`` in the spatial domain, then transformed."""
    spatial = tf.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")

    def init(shape, dtype=None, partition_info=None):
        del partition_info
        kernel = spatial((support, support, cin, cout), dtype=dtype)
        if support == 1:
            return kernel
        transform = tf.constant(rdft_matrix(support).T, dtype)
        return tf.matmul(transform, tf.reshape(kernel, shape))

    return init


def _kernel(support, cin, cout, gain, flip):
    """Creates (or reuses) a kernel variable; returns the spatial kernel (s, s, cin, cout).

    With ``flip`` it is mirrored in both spatial axes, which turns the rows of the transform round.
    """
    init = _kernel_initializer(support, cin, cout, gain)
    if support == 1:
        return tf.get_variable("kernel", (1, 1, cin, cout), tf.float32, init)
    rdft = tf.get_variable("kernel_rdft", (support * support, cin * cout), tf.float32, init)
    transform = rdft_matrix(support)[:: -1 if flip else 1]
    kernel = tf.matmul(tf.constant(transform, tf.float32), rdft)
    return tf.reshape(kernel, (support, support, cin, cout))


def _correlate(x, kernel, down):
    """Correlation with zero padding centred on the kernel, then every ``down``-th position.

    tfc pads with ``padding="EXPLICIT"``, whose bfloat16 gradients oneDNN does not take over: they
    ran twenty times slower than these.
    """
    if down == 1:
        return tf.nn.conv2d(x, kernel, 1, "SAME")
    support = int(kernel.shape[0])
    if support == 1:
        # The same function as a strided 1x1, whose gradient on 3 channels crashes oneDNN.
        return tf.nn.conv2d(x[:, ::down, ::down, :], kernel, 1, "VALID")
    # Padding "SAME" is not centred where the stride is 2.
    before, after = support // 2, (support - 1) // 2
    x = tf.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    return tf.nn.conv2d(x, kernel, down, "VALID")


def _convolve_up(x, kernel, up):
    """Convolution of ``x`` with ``up - 1`` zeros behind each position."""
    support, cout = int(kernel.shape[0]), int(kernel.shape[-1])
    shape = tf.shape(x)
    height, width = up * shape[1], up * shape[2]
    full = (shape[0], height - up + support, width - up + support, cout)
    kernel = tf.transpose(kernel, (0, 1, 3, 2))
    y = tf.nn.conv2d_transpose(x, kernel, full, up, "VALID")
    first = support // 2
    return y[:, first : first + height, first : first + width, :]


def signal_conv2d(
    x,
    filters,
    support,
    name,
    *,
    corr,
    down=1,
    up=1,
    use_bias=True,
    activation=None,
    gain=1.0,
    bias_init=0.0,
    layer_name="signal_conv2d",
):
    """The 1.x layer ``tfc.SignalConv2D`` with zero padding and the authors' variables.

    Args:
      x: (B, H, W, C) tensor, float32 or bfloat16.
      filters: number of output channels.
      support: side of the square kernel, 1 or 3.
      name: variable scope; the variables are ``name/layer_name/{kernel_rdft|kernel}[, bias]``.
      corr: True for cross-correlation, False for convolution (the kernel flipped).
      down, up: stride of down- or upsampling.
      use_bias: whether the layer has a bias.
      activation: function applied after the bias, or None.
      gain: factor on the initial kernel's standard deviation ``1 / sqrt(fan_in)``.
      bias_init: initial value of the bias.
      layer_name: the 1.x name of the layer itself.

    Returns:
      (B, H * up / down, W * up / down, filters), rounded up, in the dtype of ``x``.
    """
    cin = x.shape[-1]
    with tf.variable_scope(name), tf.variable_scope(layer_name):
        kernel = _kernel(support, cin, filters, gain, flip=corr == (up > 1))
        kernel = tf.cast(kernel, x.dtype)
        y = _correlate(x, kernel, down) if up == 1 else _convolve_up(x, kernel, up)
        if use_bias:
            bias = tf.get_variable(
                "bias", (filters,), tf.float32, tf.initializers.constant(bias_init)
            )
            y = tf.nn.bias_add(y, tf.cast(bias, x.dtype))
        return y if activation is None else activation(y)


def gdn(x, *, inverse=False):
    """Generalised divisive normalisation (Balle et al., ICLR 2016), or its approximate inverse.

    ``x / sqrt(beta + x^2 @ gamma)``, or times the root for the inverse. ``tfc.GDN`` computes the
    same, but in graph mode it takes the square through ``tf.pow`` and in bfloat16 the root too;
    here the square is a product and the root is float32.

    Args:
      x: (B, H, W, C) tensor. Its variables are ``gdn|igdn/reparam_{beta,gamma}`` in the current
        variable scope.
    """
    channels = x.shape[-1]
    with tf.variable_scope("igdn" if inverse else "gdn"):
        beta = tf.get_variable(
            "reparam_beta",
            (channels,),
            tf.float32,
            tf.initializers.constant(np.sqrt(1 + GDN_PEDESTAL)),
        )
        gamma = tf.get_variable(
            "reparam_gamma",
            (channels, channels),
            tf.float32,
            tf.initializers.constant(np.sqrt(0.1 * np.eye(channels) + GDN_PEDESTAL)),
        )
    beta = tf.square(lower_bound(beta, (GDN_BETA_MIN + GDN_PEDESTAL) ** 0.5)) - GDN_PEDESTAL
    gamma = tf.square(lower_bound(gamma, GDN_PEDESTAL**0.5)) - GDN_PEDESTAL
    pool = tf.nn.conv2d(tf.square(x), tf.cast(gamma, x.dtype)[None, None], 1, "VALID")
    pool = tf.cast(pool, tf.float32) + beta
    root = tf.sqrt(pool) if inverse else tf.math.rsqrt(pool)
    return x * tf.cast(root, x.dtype)
