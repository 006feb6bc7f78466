"""Layers on integers, whose results do not depend on the machine.

A float sum's last bit depends on its order, hence on BLAS, threads and batch shape. So here:

- Weights are rounded to 16-bit integers times a power of two per output channel, activations to
  multiples of 2^-12, limited to +-2^10.
- Products are summed by float64 matrix products. Every partial sum is an integer below 2^53
  (checked against the actual weights when a model is loaded), so that no sum ever rounds: the
  result is the exact integer whatever the order, blocking or use of FMA.
- Between layers stand only correctly rounded elementwise operations: scaling by a power of two,
  one product with the leaky slope, rounding half to even.
"""

import numpy as np

from architecture import LEAKY_SLOPE
from errors import GlicError
from gmm_entropy import FRACTION_BITS
from variables import rdft_matrix

WEIGHT_BITS = 16  # signed
ACTIVATION_LIMIT = 2.0**22  # in units of 2^-12: +-1024
EXACT_LIMIT = 2.0**53  # below it every integer is a float64
BATCH_POSITIONS = 4096  # of products: bounds the encoder's memory whatever the image's size


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
