"""Exact evaluation of the hyper synthesis, context and parameter networks, for coding.

A decoder must find bit for bit the probabilities that the encoder used, on any machine. Floats
do not give that: a sum's last bit depends on its order, hence on BLAS, threads and batch shape.
So the networks that feed the entropy coder run on integers here:

- Weights are rounded to 16-bit integers times a power of two per output channel, activations to
  multiples of 2^-12, limited to +-2^10.
- Products are summed by float64 matrix products. Every partial sum is an integer below 2^53
  (checked against the actual weights when a model is loaded), so that no sum ever rounds: the
  result is the exact integer whatever the order, blocking or use of FMA.
- Between layers stand only correctly rounded elementwise operations: scaling by a power of two,
  one product with the leaky slope, rounding half to even.

The context of a position (h, w) reaches right only to w + 2 in the rows above, so that all
positions with equal w + 3 h are independent of each other. The decoder walks these wavefronts;
the encoder, which knows all latents, evaluates large batches. Exactness makes both agree.
"""

import collections

import numpy as np

from coding import tiling
from errors import GlicError
from gmm_entropy import FRACTION_BITS
from layers import LEAKY_SLOPE, MASKED_WEIGHTS, rdft_matrix
from network import CONTEXT_SUPPORT, PARAMETER_WIDTHS, context_mask, hyper_synthesis_layers

WEIGHT_BITS = 16  # signed
ACTIVATION_LIMIT = 2.0**22  # in units of 2^-12: +-1024
LATENT_LIMIT = 2.0**15  # of the context's inputs; larger latents are coded, but seen as this
EXACT_LIMIT = 2.0**53  # below it every integer is a float64
PHI_HALO = 4  # positions of z around a tile that its phi depends on, see EntropyModel.phi
PHI_TILE = 32  # side of such a tile: bounds the memory of the hyper synthesis
CONTEXT_REACH = CONTEXT_SUPPORT // 2
WAVEFRONT_SLOPE = CONTEXT_REACH + 1  # columns that a row lags behind the one above
BATCH_POSITIONS = 4096  # of the encoder: bounds its memory whatever the image's size

# Offsets (row, column) of the twelve causal taps, row-major as in the kernel.
_MASK = context_mask()[:, :, 0, 0].astype(bool)
CONTEXT_TAPS = [(int(r) - CONTEXT_REACH, int(c) - CONTEXT_REACH) for r, c in np.argwhere(_MASK)]


class ExactLayer:
    """One linear layer on integers, with an optional leaky ReLU.

    Args:
      kernel: float (K, cout).
      bias: float (cout,) or None.
      leaky: whether a leaky ReLU follows.
      input_bits: fractional bits of the inputs, 0 for latents.
      input_limit: largest magnitude of an input integer.

    Raises:
      GlicError: where a weight is not finite or a sum could reach 2^53.
    """

    def __init__(self, kernel, bias, leaky, input_bits=FRACTION_BITS, input_limit=ACTIVATION_LIMIT):
        kernel = np.asarray(kernel, np.float64)
        bias = np.zeros(kernel.shape[1]) if bias is None else np.asarray(bias, np.float64)
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise GlicError("Finite weights expected, but the entropy model has NaN or infinity.")
        # The exponent e with max |w| < 2^(15 + e), by frexp: exact, no logarithm.
        _, exponent = np.frexp(np.abs(kernel).max(axis=0))
        exponent = np.maximum(exponent, -64) - (WEIGHT_BITS - 1)
        self.leaky = leaky
        self.kernel = np.rint(np.ldexp(kernel, -exponent))
        self.bias = np.rint(np.ldexp(bias, input_bits - exponent))
        self.scale = np.ldexp(1.0, exponent + FRACTION_BITS - input_bits)
        largest = np.abs(self.kernel).sum(axis=0) * input_limit + np.abs(self.bias)
        if largest.max() >= EXACT_LIMIT:
            raise GlicError(
                "The entropy model's weights are too large for exact coding: a sum may reach "
                f"{largest.max():.3g}, the limit is 2^53. Is the checkpoint damaged?"
            )

    def finish(self, sums):
        """Activations (integers in float64) from the products' exact sums, in place."""
        sums += self.bias
        sums *= self.scale
        if self.leaky:
            np.maximum(sums, sums * LEAKY_SLOPE, out=sums)
        np.rint(sums, out=sums)
        return np.clip(sums, -ACTIVATION_LIMIT, ACTIVATION_LIMIT, out=sums)

    def __call__(self, inputs):
        """(P, K) integers in float64 to (P, cout) activations."""
        return self.finish(inputs @ self.kernel)

    def rows(self, selection):
        """The kernel's part for some of the inputs."""
        return np.ascontiguousarray(self.kernel[selection])

    def columns(self, selection):
        """A layer with some of the outputs, which come out just as in the full layer."""
        part = object.__new__(ExactLayer)
        part.leaky = self.leaky
        part.kernel = np.ascontiguousarray(self.kernel[:, selection])
        part.bias, part.scale = self.bias[selection], self.scale[selection]
        return part


def spatial_kernel(kernel_rdft, cin):
    """float64 (3, 3, cin, cout) of a ``kernel_rdft`` (9, cin * cout).

    Summed term by term with elementwise operations, not by a matrix product, so that every
    machine rounds to the same integer weights.
    """
    transform = rdft_matrix(3)
    kernel = np.zeros(kernel_rdft.shape, np.float64)
    for frequency in range(9):
        kernel += transform[:, frequency, None] * kernel_rdft[frequency].astype(np.float64)
    return kernel.reshape(3, 3, cin, -1)


class ExactConvolution:
    """3x3 convolution (``corr=False``, zero padding) on integers, stride 1 or 2 upwards.

    An output sample of the upsampled grid reads only the taps that fall on input samples, so the
    four parities of (row, column) are four small convolutions of the input.
    """

    def __init__(self, kernel, bias, up, leaky):
        cin, cout = kernel.shape[2:]
        self._layer = ExactLayer(kernel.reshape(9 * cin, cout), bias, leaky)
        self._taps = self._layer.kernel.reshape(3, 3, cin, cout)
        self._up = up

    def _axis_taps(self, parity):
        """(input offset, kernel index) pairs of one axis for outputs of this parity."""
        if self._up == 1:
            return [(1 - k, k) for k in range(3)]
        return [(0, 1)] if parity == 0 else [(1, 0), (0, 2)]

    def __call__(self, x):
        """(h, w, cin) integers in float64 to (up * h, up * w, cout)."""
        h, w, cin = x.shape
        cout = self._taps.shape[-1]
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        out = np.empty((h * self._up, w * self._up, cout))
        rows = max(1, BATCH_POSITIONS // w)
        for top in range(0, h, rows):
            count = min(rows, h - top)
            for row_parity in range(self._up):
                for column_parity in range(self._up):
                    taps = [
                        (padded[top + 1 + r : top + 1 + r + count, 1 + c : 1 + c + w], i, j)
                        for r, i in self._axis_taps(row_parity)
                        for c, j in self._axis_taps(column_parity)
                    ]
                    patches = np.concatenate([t for t, _, _ in taps], axis=-1)
                    kernel = np.concatenate([self._taps[i, j] for _, i, j in taps])
                    sums = patches.reshape(count * w, -1) @ kernel
                    first = top * self._up + row_parity
                    last = (top + count) * self._up
                    out[first : last : self._up, column_parity :: self._up] = self._layer.finish(
                        sums
                    ).reshape(count, w, cout)
        return out


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
      num_filters: N.
      family: "gmm" or "gllmm".

    Raises:
      GlicError: where the weights do not allow exact sums.
    """

    def __init__(self, weights, num_filters, family):
        masked = weights[MASKED_WEIGHTS][_MASK]  # (12, M, 2M)
        self.num_latents, self.family = masked.shape[1], family
        self.groups = PARAMETER_WIDTHS[family].groups
        self._hyper = []
        cin, layers = num_filters, hyper_synthesis_layers(num_filters, self.num_latents)
        for i, (filters, up, active) in enumerate(layers):
            prefix = f"hyper_synthesis/layer_{i}/signal_conv2d/"
            kernel = spatial_kernel(weights[prefix + "kernel_rdft"], cin)
            self._hyper.append(ExactConvolution(kernel, weights[prefix + "bias"], up, active))
            cin = filters
        self._context = ExactLayer(
            masked.reshape(-1, 2 * self.num_latents),
            weights["entropy_parameter/masked/biases"],
            leaky=False,
            input_bits=0,
            input_limit=LATENT_LIMIT,
        )
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
            height = 4 * (row.stop - row.start)
            band = np.empty((height, 4 * z_hat.shape[1], 2 * self.num_latents), np.float32)
            above = 4 * (row.start - row.low)
            for column in columns:
                tile = self._hyper_synthesis(z_hat[row.low : row.high, column.low : column.high])
                before, width = 4 * (column.start - column.low), 4 * (column.stop - column.start)
                own = tile[above : above + height, before : before + width]
                band[:, 4 * column.start : 4 * column.stop] = own
            yield band.reshape(-1, 2 * self.num_latents)

    def _hyper_synthesis(self, z_hat):
        """float64 (4h, 4w, 2M) of a tile of z_hat (h, w, N)."""
        t = np.clip(np.rint(z_hat * 2.0**FRACTION_BITS), -ACTIVATION_LIMIT, ACTIVATION_LIMIT)
        for layer in self._hyper:
            t = layer(t)
        return t

    def for_image(self, z_hat, active):
        """An ``ImageModel`` for an image's z_hat and the channels of y that are coded."""
        return ImageModel(self, z_hat, np.asarray(active))


class ImageModel:
    """Mixture parameters of the active channels of one image's y.

    Inputs that are zero everywhere and outputs that nobody asks for are left out of the matrix
    products; sums being exact, that changes no bit of the rest.
    """

    def __init__(self, model, z_hat, active):
        m = model.num_latents
        self.height, self.width = 4 * z_hat.shape[0], 4 * z_hat.shape[1]
        self.schedule = wavefront(self.height, self.width)
        self._groups, self._channels = model.groups, len(active)
        first, self._second, last = model._layers
        taps = (np.arange(len(CONTEXT_TAPS))[:, None] * m + active).ravel()
        self._context, self._context_kernel = model._context, model._context.rows(taps)
        self._first, self._first_kernel = first, first.rows(slice(0, 2 * m))
        self._last = last.columns((np.arange(model.groups)[:, None] * m + active).ravel())
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
        """Zeros for y_hat with its border, float32 (positions with border, active channels)."""
        return np.zeros(((self.height + CONTEXT_REACH) * self._row, self._channels), np.float32)

    def place(self, canvas, start, stop, values):
        """Writes latents (stop - start, C) at the scheduled positions start..stop."""
        own = CONTEXT_REACH * self._row + CONTEXT_REACH
        canvas[self._corner[start:stop] + own] = np.clip(values, -LATENT_LIMIT, LATENT_LIMIT)

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
