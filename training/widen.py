"""Starting weights from a model with fewer channels: more of them, the same function at first.

After Net2Net (Chen et al., ICLR 2016, arXiv 1511.05641), without copies of channels: the old
channels come first, in each group of N or M where a layer has several (mixtures, subpixels), and do
not see the new ones, whose kernels to them are 0 and have a gradient all the same. The new channels
start as those of a new model do. So x_hat and the likelihoods of the old latents are those of the
old model; the bits of the new latents come on top until the training has found a use for them.
"""

from __future__ import annotations

import numpy as np

from errors import GlicError
from variables import KERNELS, MASKED_WEIGHTS, rdft_kernel_shape

WIDTH_MARK = "hyper_analysis/layer_0/signal_conv2d/bias"  # has one element for each filter


def channels(shapes):
    """(N, M) of the model whose variables have these shapes (name to shape), None if it is none."""
    if WIDTH_MARK not in shapes or MASKED_WEIGHTS not in shapes:
        return None
    return shapes[WIDTH_MARK][0], shapes[MASKED_WEIGHTS][2]


def growth(narrow, wide):
    """(Before, after) of the number of channels that grows: N, or M where N stays.

    Args:
      narrow, wide: (N, M) of the two models.

    Raises:
      GlicError: a number shrinks, or N and M grow apart: an axis would not tell which it counts.
    """
    (n, m), (wider_n, wider_m) = narrow, wide
    if n > wider_n or m > wider_m:
        raise GlicError("a model never starts from one with more filters or latent channels")
    if n < wider_n and m < wider_m and (n, wider_n) != (m, wider_m):
        raise GlicError("grow the filters first, then the latent channels of that model")
    return (n, wider_n) if n < wider_n else (m, wider_m)


def _positions(old, new, before, after):
    """Where the ``old`` channels of an axis lie among ``new``, with ``growth`` before and after.

    Raises:
      GlicError: the axis does not grow like that.
    """
    if old == new:
        return np.arange(old)
    if old * after != new * before:
        raise GlicError(f"An axis of {old * after / before:g} channels expected, got {new}.")
    groups = old // before if old % before == 0 else 1
    starts = np.arange(groups)[:, None] * (new // groups)
    return (starts + np.arange(old // groups)).ravel()


def _open(name, value, shapes):
    """``value`` with the input and output channels of a kernel as its last two axes."""
    if not name.endswith("/kernel_rdft"):
        return value
    return value.reshape(rdft_kernel_shape(name, shapes))


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
      GlicError: the variable does not grow as N or M does.
    """
    grows = growth(channels(shapes), channels(wider))
    small, grown = _open(name, value, shapes), _open(name, initial, wider).copy()
    if small.ndim != grown.ndim:
        raise GlicError(f"{name} with {small.ndim} axes expected, got {grown.ndim}.")
    places = [_positions(old, new, *grows) for old, new in zip(small.shape, grown.shape)]
    if name.endswith(KERNELS):
        grown[..., places[-1]] = 0
    grown[np.ix_(*places)] = small
    return grown.reshape(initial.shape)
