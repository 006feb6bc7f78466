"""Starting weights from a model with fewer filters: more channels, the same function at first.

After Net2Net (Chen et al., ICLR 2016, arXiv 1511.05641), without copies of channels: the old
channels come first, in each group of N where a layer has several (mixtures, subpixels), and do not
see the new ones, whose kernels to them are 0 and have a gradient all the same. The new channels
start as those of a new model do. So x_hat and the likelihoods of the old latents are those of the
old model; the bits of the new latents come on top until the training has found a use for them.
"""

from __future__ import annotations

import numpy as np

from layers import rdft_kernel_shape

WIDTH_MARK = "hyper_analysis/layer_0/signal_conv2d/bias"  # has one element for each filter
_KERNELS = ("/kernel_rdft", "/kernel", "masked/weights")  # their last two axes are (in, out)


def num_filters(shapes):
    """N of the model whose variables have these shapes (name to shape), None if it is none."""
    shape = shapes.get(WIDTH_MARK)
    return None if shape is None else shape[0]


def _positions(old, new, n, m):
    """Where the ``old`` channels of an axis lie among ``new``, for N = n made N = m.

    Raises:
      ValueError: the axis does not grow as N does.
    """
    if old == new:
        return np.arange(old)
    if old * m != new * n:
        raise ValueError(f"An axis of {old * m / n:g} channels expected, got {new}.")
    groups = old // n if old % n == 0 else 1
    starts = np.arange(groups)[:, None] * (new // groups)
    return (starts + np.arange(old // groups)).ravel()


def _open(name, value, shapes):
    """``value`` with the input and output channels of a kernel as its last two axes."""
    if not name.endswith("/kernel_rdft"):
        return value
    return value.reshape(rdft_kernel_shape(name, shapes, num_filters(shapes)))


def widened(name, value, initial, shapes, wider):
    """The starting value of a variable of a wider model.

    Args:
      name: of the variable, the same in both models.
      value: float array of the narrow model.
      initial: float array of the wide model's variable before any training.
      shapes, wider: name to shape of all variables of the narrow and of the wide model.

    Returns:
      Array like ``initial``.

    Raises:
      ValueError: the variable does not grow as the number of filters does.
    """
    n, m = num_filters(shapes), num_filters(wider)
    small, grown = _open(name, value, shapes), _open(name, initial, wider).copy()
    if small.ndim != grown.ndim:
        raise ValueError(f"{name} with {small.ndim} axes expected, got {grown.ndim}.")
    places = [_positions(old, new, n, m) for old, new in zip(small.shape, grown.shape)]
    if name.endswith(_KERNELS):
        grown[..., places[-1]] = 0
    grown[np.ix_(*places)] = small
    return grown.reshape(initial.shape)
