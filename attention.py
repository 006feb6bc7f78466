"""Residual blocks and the simplified attention module of both papers.

Cheng et al., CVPR 2020, section 3.3 and figure 5; Fu et al., TIP 2023, section III-C and
figure 6. Variable names are those of the authors' graphs: what the papers draw as one block is
spread there over scopes named after its layers, so the callers pass the names in.
"""

import tensorflow.compat.v1 as tf

from layers import leaky, signal_conv2d

BRANCH_GAIN = 0.5  # initial gain of the last layer of a branch: 16 blocks in a row stay tame


def bottleneck_block(t, name):
    """Residual bottleneck inside the attention module: 1x1 to C/2, 3x3, 1x1 back to C.

    Args:
      t: (B, H, W, C) tensor.
      name: variable scope.

    Returns:
      A tensor like ``t``; there is no activation after the sum.
    """
    channels = t.shape[-1]
    with tf.variable_scope(name):
        s = signal_conv2d(t, channels // 2, 1, "conv0", corr=True, activation=tf.nn.relu)
        s = signal_conv2d(s, channels // 2, 3, "conv1", corr=True, activation=tf.nn.relu)
        s = signal_conv2d(s, channels, 1, "conv2", corr=True, gain=BRANCH_GAIN)
    return t + s


def attention_block(t, name):
    """Simplified attention: ``t + sigmoid(mask(t)) * trunk(t)``.

    Cheng et al., figure 5 (b). The authors' scope is called NLAB, yet the non-local operation was
    dropped in the paper and in the code. All convolutions are ``corr=True``, also in synthesis.

    Args:
      t: (B, H, W, C) tensor.
      name: variable scope, ``NLAB_0`` or ``NLAB_1``.
    """
    with tf.variable_scope(name):
        trunk = mask = t
        for i in range(3):
            trunk = bottleneck_block(trunk, f"trunk_RB_{i}")
        for i in range(3):
            mask = bottleneck_block(mask, f"attention_RB_{i}")
        mask = signal_conv2d(mask, t.shape[-1], 1, "conv_1x1", corr=True, activation=tf.sigmoid)
    return t + mask * trunk


def residual_block(t, first, second, *, corr):
    """Residual block of two 3x3 layers, each with a leaky ReLU (Cheng et al., figure 4).

    Args:
      t: (B, H, W, C) tensor.
      first, second: variable scopes of the two layers.
      corr: whether the layers correlate (analysis) or convolve (synthesis).

    Returns:
      A tensor like ``t``; the sum is taken after the second activation.
    """
    channels = t.shape[-1]
    s = signal_conv2d(t, channels, 3, first, corr=corr, activation=leaky)
    s = signal_conv2d(s, channels, 3, second, corr=corr, activation=leaky, gain=BRANCH_GAIN)
    return t + s


def concatenated_residual_block(t, names, *, corr):
    """Two residual blocks in a row with a common shortcut (Fu et al., figure 6).

    ``a = t + f(t)``, result ``t + (a + g(a))``. In the authors' graph the second block correlates
    also in synthesis, where the first one convolves.

    Args:
      t: (B, H, W, C) tensor.
      names: the four layers' variable scopes.
      corr: whether the first block correlates.
    """
    a = residual_block(t, names[0], names[1], corr=corr)
    return t + residual_block(a, names[2], names[3], corr=True)
