"""What is coded of an image: its quantised latents, and what its picture is."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from architecture import LATENT_STRIDE, STRIDE, padded_size
from errors import GlicError
from rates import MAX_K, delta_of

VALUE_LIMIT = 1 << 20  # largest magnitude of a latent that a file can hold


class LatentError(GlicError):
    """Latents that cannot be coded, or bytes that hold no latents."""


class Latents(NamedTuple):
    """The quantised latents of one image.

    y_symbols: int32 (h, w, M), y_hat in quantisation steps. z_symbols: int32 (h/4, w/4, N), before
    the medians are added. height, width: of the picture in pixels; h = ceil(height / 64) * 4, w
    likewise. grey: whether it has one channel. k: the quantisation step of y in units of 1/1024, of
    a model of many rates (``rates.Rates``); None for that of one, whose step is 1.
    """

    y_symbols: np.ndarray
    z_symbols: np.ndarray
    height: int
    width: int
    grey: bool = False
    k: int | None = None

    @property
    def active(self):
        """bool (M,): the channels of y that are not zero everywhere."""
        return self.y_symbols.any(axis=(0, 1))

    def y_hat(self, rows=slice(None), columns=slice(None)):
        """float32 (h, w, M), or a part of it: what the networks see."""
        y_hat = self.y_symbols[rows, columns].astype(np.float32)
        if self.k is not None:
            y_hat *= np.float32(delta_of(self.k))
        return y_hat

    @property
    def checksum(self):
        """CRC-32 of z's symbols, then of all of y's, as little-endian int32, row by row."""
        crc = zlib.crc32(np.ascontiguousarray(self.z_symbols, "<i4"))
        return zlib.crc32(np.ascontiguousarray(self.y_symbols, "<i4"), crc)

    def equals(self, other):
        """Whether ``other`` has the same latents of the same picture."""
        return self[2:] == other[2:] and all(map(np.array_equal, self[:2], other[:2]))

    def check(self, architecture):
        """Raises ValueError for another shape than a codec's, LatentError for values too large."""
        if self.k is not None and not 1 <= self.k <= MAX_K:
            raise ValueError(f"A quantisation step of 1 to {MAX_K} expected, got {self.k}.")
        sides = padded_size(self.height, self.width)
        channels = architecture.num_latents, architecture.num_filters
        for name, values, stride, count in zip("yz", self, (LATENT_STRIDE, STRIDE), channels):
            shape = (*(side // stride for side in sides), count)
            if values.shape != shape:
                raise ValueError(f"Latents {name} of shape {shape} expected, got {values.shape}.")
            check_values(name, values)


def check_values(name, values):
    """Raises LatentError unless all of ``values`` are finite and within +-2^20."""
    # False for NaN, too; without abs, which overflows at the least integer.
    if not (values.min() >= -VALUE_LIMIT and values.max() <= VALUE_LIMIT):
        raise LatentError(
            f"Latents {name} within +-{VALUE_LIMIT} expected, but the model gave larger or "
            "non-finite ones for this image: it cannot code it."
        )
