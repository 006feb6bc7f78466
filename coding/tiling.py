"""Overlapping tiles: how large images pass through the networks in bounded memory.

Every network here is local: an output depends on inputs within a fixed distance, its reach. A
tile that is computed with a border of at least the reach, of which only the middle is kept, has
the values of the whole image. In integers (context.py) they are the same; in float32 they differ
in the last bits, as TensorFlow sums differently shaped tensors in different orders.
"""

import collections
import math

# Reach of the networks: sums over their 3x3 layers of the sampling step that each works at.
# Analysis, in pixels: 117 for gmm, whose residual blocks have two layers, 145 for gllmm with
# four; rounded up to positions of y. Hyper analysis and synthesis, in positions of y: 7; 10.25
# for gmm and 14 for gllmm.
ANALYSIS_REACH = {"gmm": 128, "gllmm": 160}  # pixels
HYPER_ANALYSIS_REACH = 8  # positions of y
SYNTHESIS_REACH = {"gmm": 11, "gllmm": 14}  # positions of y


Span = collections.namedtuple("Span", "start stop low high")  # a part, and with its border


def spans(length, tile, reach, unit=1):
    """Cuts one axis into parts of about the same size.

    Args:
      length: of the axis, a multiple of ``unit``.
      tile: largest size of a part.
      reach: border on either side.
      unit: parts begin at multiples of it.

    Returns:
      List of ``Span``.
    """
    count = -(-length // max(unit, tile // unit * unit))
    size = -(-length // (count * unit)) * unit
    return [
        Span(
            start,
            min(start + size, length),
            max(0, start - reach),
            min(start + size + reach, length),
        )
        for start in range(0, length, size)
    ]


def fill(out, size, side, reach, unit, compute):
    """Fills ``out`` tile by tile.

    Args:
      out: array (H', W', ...) with sides a fixed multiple or part of the input's.
      size: (H, W) of the input, multiples of ``unit``.
      side, reach, unit: of the tiles, see ``spans``, in positions of the input.
      compute: maps two slices of the input to an array with the scale of ``out``.
    """

    def scaled(length):
        return length * out.shape[0] // size[0]

    for row in spans(size[0], side, reach, unit):
        for column in spans(size[1], side, reach, unit):
            tile = compute(slice(row.low, row.high), slice(column.low, column.high))
            own = [slice(scaled(s.start - s.low), scaled(s.stop - s.low)) for s in (row, column)]
            to = [slice(scaled(s.start), scaled(s.stop)) for s in (row, column)]
            out[to[0], to[1]] = tile[own[0], own[1]]


def side_for(area, reach, smallest):
    """Side of a square tile that, with its border, has at most this area; at least ``smallest``."""
    return max(smallest, math.isqrt(max(0, area)) - 2 * reach)


# What a pass of a network takes per pixel of its input or output and per filter, in bytes: 4.5 to
# 5.3 measured (both families, 64 and 128 filters), rounded up.
NETWORK_BYTES = 6
FIXED_BYTES = 640 << 20  # the interpreter, TensorFlow and a model's weights
IMAGE_BYTES = 20  # per pixel: the picture, its padded copy and its decoder's, its reconstruction
LATENT_BYTES = 1 / 8  # per pixel and channel of y: y, y_hat, phi, the canvas of the context model
HYPER_TILE = 512  # positions of y: a hyper analysis of 16 bytes per position and filter


def network_area(budget, pixels, architecture):
    """Pixels, border included, of the largest tile that keeps the process within a budget.

    Args:
      budget: bytes of the whole process.
      pixels: of the padded image.
      architecture: ``Architecture``.
    """
    own = pixels * (IMAGE_BYTES + LATENT_BYTES * architecture.num_latents)
    rest = budget - FIXED_BYTES - own
    return max(0, int(rest / (NETWORK_BYTES * architecture.num_filters)))
