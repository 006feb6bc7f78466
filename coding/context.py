"""Exact evaluation of the hyper synthesis, context and parameter networks, for coding.

A decoder must find bit for bit the probabilities that the encoder used, on any machine. Floats
do not give that, so the networks that feed the entropy coder run on integers here: see exact.py.

The context of a position (h, w) reaches right only to w + 2 in the rows above, so that all
positions with equal w + 3 h are independent of each other. The decoder walks these wavefronts;
the encoder, which knows all latents, evaluates large batches. Exactness makes both agree.
"""

import collections

import numpy as np

from architecture import CONTEXT_SUPPORT, context_mask
from coding import tiling
from coding.exact import (
    ACTIVATION_LIMIT,
    BATCH_POSITIONS,
    ExactConvolution,
    ExactLayer,
    spatial_kernel,
)
from gmm_entropy import FRACTION_BITS
from rates import K_ONE
from variables import MASKED_WEIGHTS

LATENT_LIMIT = 2.0**15  # of the context's inputs; larger latents are coded, but seen as this
# In a model of many rates the inputs are y's symbols times k: y_hat in units of 1/1024.
STEP_BITS = K_ONE.bit_length() - 1
STEP_LIMIT = 2.0**22
PHI_HALO = 4  # positions of z around a tile that its phi depends on, see EntropyModel.phi
PHI_TILE = 32  # side of such a tile: bounds the memory of the hyper synthesis
CONTEXT_REACH = CONTEXT_SUPPORT // 2
WAVEFRONT_SLOPE = CONTEXT_REACH + 1  # columns that a row lags behind the one above

# Offsets (row, column) of the twelve causal taps, row-major as in the kernel.
_MASK = context_mask()[:, :, 0, 0].astype(bool)
CONTEXT_TAPS = [(int(r) - CONTEXT_REACH, int(c) - CONTEXT_REACH) for r, c in np.argwhere(_MASK)]


Schedule = collections.namedtuple("Schedule", "positions steps")


def wavefront(height, width):
    """The order in which the positions of y are coded.

    Args:
      height, width: of y, in positions.

    Returns:
      ``Schedule``: ``positions`` int64 (height * width,), flat indices h * width + w by step
      w + 3 h, then by row; ``steps`` int64, the bounds of the steps within it.
    """
    rows, columns = np.divmod(np.arange(height * width), width)
    step = columns + WAVEFRONT_SLOPE * rows
    order = np.argsort(step, kind="stable")
    bounds = np.flatnonzero(np.diff(step[order], prepend=-1, append=step.max() + 1))
    return Schedule(order, bounds)


class EntropyModel:
    """The entropy model's networks of one codec, on integers.

    Args:
      weights: dict of the checkpoint's variables by name, float32 NumPy arrays.
      architecture: ``Architecture``.

    Raises:
      GlicError: where the weights do not allow exact sums.
    """

    def __init__(self, weights, architecture):
        masked = weights[MASKED_WEIGHTS][_MASK]  # (12, M, 2M)
        self.architecture = architecture
        self._hyper = []
        cin = architecture.num_filters
        for i, (filters, up, active) in enumerate(architecture.hyper_synthesis):
            prefix = f"hyper_synthesis/layer_{i}/signal_conv2d/"
            kernel = spatial_kernel(weights[prefix + "kernel_rdft"], cin)
            self._hyper.append(ExactConvolution(kernel, weights[prefix + "bias"], up, active))
            cin = filters
        kernel = masked.reshape(-1, 2 * architecture.num_latents)
        bias = weights["entropy_parameter/masked/biases"]
        # By the fractional bits of the inputs.
        self._context = {
            bits: ExactLayer(kernel, bias, leaky=False, input_bits=bits, input_limit=limit)
            for bits, limit in ((0, LATENT_LIMIT), (STEP_BITS, STEP_LIMIT))
        }
        self._layers = []
        for i in range(3):
            name = "signal_conv2d" + (f"_{i}" if i else "")
            prefix = f"entropy_parameter/layer_{i}/{name}/"
            kernel, bias = weights[prefix + "kernel"][0, 0], weights.get(prefix + "bias")
            self._layers.append(ExactLayer(kernel, bias, leaky=i < 2))

    def phi(self, z_hat):
        """Hyper synthesis.

        Args:
          z_hat: float64 (h/4, w/4, N), symbols plus medians.

        Returns:
          float32 (h * w, 2M) of integers in units of 2^-12, below 2^24 and therefore exact.
        """
        return np.concatenate(list(self.phi_bands(z_hat)))

    def phi_bands(self, z_hat):
        """Yields phi from top to bottom in float32 (b * w, 2M), b rows of positions each."""
        # Layers reach 1, 1, 1/2, 1/2 and 1/4 positions of z: tiles with a border of 4 are exact.
        rows, columns = (tiling.spans(length, PHI_TILE, PHI_HALO) for length in z_hat.shape[:2])
        for row in rows:
            height, channels = 4 * (row.stop - row.start), 2 * self.architecture.num_latents
            band = np.empty((height, 4 * z_hat.shape[1], channels), np.float32)
            above = 4 * (row.start - row.low)
            for column in columns:
                tile = self._hyper_synthesis(z_hat[row.low : row.high, column.low : column.high])
                before, width = 4 * (column.start - column.low), 4 * (column.stop - column.start)
                own = tile[above : above + height, before : before + width]
                band[:, 4 * column.start : 4 * column.stop] = own
            yield band.reshape(-1, channels)

    def _hyper_synthesis(self, z_hat):
        """float64 (4h, 4w, 2M) of a tile of z_hat (h, w, N)."""
        t = np.clip(np.rint(z_hat * 2.0**FRACTION_BITS), -ACTIVATION_LIMIT, ACTIVATION_LIMIT)
        for layer in self._hyper:
            t = layer(t)
        return t

    def for_image(self, z_hat, active, k=None):
        """An ``ImageModel``.

        Args:
          z_hat: see ``phi``.
          active: the channels of y that are coded.
          k: the quantisation step of y, see ``latents.Latents``.
        """
        return ImageModel(self, z_hat, np.asarray(active), k)


class ImageModel:
    """Mixture parameters of the active channels of one image's y.

    Inputs that are zero everywhere and outputs that nobody asks for are left out of the matrix
    products; sums being exact, that changes no bit of the rest.

    Attributes:
      k: the quantisation step of y, see ``latents.Latents``.
      schedule: ``Schedule``.
    """

    def __init__(self, model, z_hat, active, k):
        self.k = k
        m = model.architecture.num_latents
        groups = model.architecture.parameter_widths.groups
        self.height, self.width = 4 * z_hat.shape[0], 4 * z_hat.shape[1]
        self.schedule = wavefront(self.height, self.width)
        self._groups, self._channels = groups, len(active)
        first, self._second, last = model._layers
        taps = (np.arange(len(CONTEXT_TAPS))[:, None] * m + active).ravel()
        self._context = model._context[0 if k is None else STEP_BITS]
        self._context_kernel = self._context.rows(taps)
        self._first, self._first_kernel = first, first.rows(slice(0, 2 * m))
        self._last = last.columns((np.arange(groups)[:, None] * m + active).ravel())
        # Made band by band when it is needed: a damaged file fails before most of the work.
        self._bands, self._known = model.phi_bands(z_hat), 0
        self._phi = np.empty((self.height * self.width, 2 * m), np.float32)
        self._phi_kernel = first.rows(slice(2 * m, None))
        self._share = (0, 0, None)  # start, stop, value of the last ``_from_phi``
        self._row = self.width + 2 * CONTEXT_REACH  # of y padded left, right and above
        positions = self.schedule.positions
        self._corner = positions // self.width * self._row + positions % self.width
        offsets = [(r + CONTEXT_REACH) * self._row + c + CONTEXT_REACH for r, c in CONTEXT_TAPS]
        self._offsets = np.array(offsets)

    def new_canvas(self):
        """Zeros for the context's inputs with their border, float32 (positions, channels)."""
        return np.zeros(((self.height + CONTEXT_REACH) * self._row, self._channels), np.float32)

    def place(self, canvas, start, stop, values):
        """Writes y's symbols (stop - start, C) at the scheduled positions start..stop."""
        own = CONTEXT_REACH * self._row + CONTEXT_REACH
        limit = LATENT_LIMIT
        if self.k is not None:
            values, limit = values.astype(np.int64) * self.k, STEP_LIMIT
        canvas[self._corner[start:stop] + own] = np.clip(values, -limit, limit)

    def _from_phi(self, start, stop):
        """phi's share of the first layer's sums, float64 (stop - start, K).

        The same for every position: computed ahead in large products, of which one is kept.
        """
        first, last, share = self._share
        if not first <= start <= stop <= last:
            first, last = start, max(stop, min(start + BATCH_POSITIONS, len(self._corner)))
            positions = self.schedule.positions[first:last]
            while self._known <= positions.max():
                band = next(self._bands)
                self._phi[self._known : self._known + len(band)] = band
                self._known += len(band)
            share = self._phi[positions].astype(np.float64) @ self._phi_kernel
            self._share = first, last, share
        return share[start - first : stop - first]

    def parameters(self, canvas, start, stop):
        """Mixture parameters at the scheduled positions start..stop.

        Returns:
          float64 (G, (stop - start) * C): integers in units of 2^-12; symbols in coding order,
          by position, then by channel.
        """
        count = stop - start
        patches = canvas[self._corner[start:stop, None] + self._offsets].reshape(count, -1)
        t = self._context.finish(patches.astype(np.float64) @ self._context_kernel)
        t = t @ self._first_kernel
        t += self._from_phi(start, stop)
        t = self._last(self._second(self._first.finish(t)))
        return t.reshape(count, self._groups, -1).transpose(1, 0, 2).reshape(self._groups, -1)
