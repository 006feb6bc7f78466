"""What a codec is built of: the paper's networks, N filters, M latent channels. No TensorFlow here.

- ``gmm``: Cheng et al., CVPR 2020 (arXiv 2001.01568).
- ``gllmm``: Fu et al., TIP 2023 (arXiv 2107.06463).

N is the number of filters of the layers, M that of y's channels: N in both papers, more where a
narrow codec should not lack latents (Minnen et al., NeurIPS 2018, arXiv 1809.02736, has both).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from errors import GlicError

FAMILIES = ("gmm", "gllmm")
LATENT_STRIDE = 16  # image pixels per position of y: four layers of stride 2
STRIDE = 64  # image pixels per position of z (16 x 4): sides are padded to multiples of it
PER_Z = STRIDE // LATENT_STRIDE  # positions of y per position of z, along an axis
CONTEXT_SUPPORT = 5  # side of the masked convolution's kernel
LEAKY_SLOPE = 0.2  # both papers' code: tf.nn.leaky_relu's default
GDN_PEDESTAL = 2.0**-36  # tfc's reparam_offset squared: keeps the gradient of the square alive
GDN_BETA_MIN = 1e-6
CHANNEL_UNIT = 8  # N and M are multiples of it: a file flags eight channels in a byte
MAX_CHANNELS = 2040  # of a file's channel flags, which have at most 255 bytes


class ParameterWidths(NamedTuple):
    """Of the parameter network: widths of its two hidden layers, groups of M channels it gives."""

    hidden: tuple
    groups: int


class HyperLayer(NamedTuple):
    """A layer of the hyper synthesis: its filters, its upsampling, whether a leaky ReLU follows."""

    filters: int
    up: int
    leaky: bool


_PARAMETER_WIDTHS = {
    "gmm": ParameterWidths((640, 640), 9),
    "gllmm": ParameterWidths((640, 1280), 30),
}


class ArchitectureError(GlicError):
    """A family or number of channels of which no codec can be built."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An architecture that can be built.

    Args:
      family: "gmm" or "gllmm".
      num_filters: N, a multiple of 8 up to 2040.
      num_latents: M, likewise; None stands for N, as in both papers, and is replaced by it.

    Raises:
      ArchitectureError: for anything else.
    """

    family: str
    num_filters: int
    num_latents: int = None

    def __post_init__(self):
        if self.num_latents is None:
            object.__setattr__(self, "num_latents", self.num_filters)
        if self.family not in FAMILIES:
            raise ArchitectureError(
                f"Family {' or '.join(FAMILIES)} expected, got {str(self.family)[:40]!r}."
            )
        numbers = {"filters": self.num_filters, "latent channels": self.num_latents}
        for what, number in numbers.items():
            if type(number) is not int or number % CHANNEL_UNIT or not 0 < number <= MAX_CHANNELS:
                raise ArchitectureError(
                    f"A number of {what} that is a positive multiple of {CHANNEL_UNIT} up to "
                    f"{MAX_CHANNELS} expected, got {str(number)[:40]}."
                )

    def __str__(self):
        latents = f", {self.num_latents} latent channels"
        return f"{self.family}, {self.num_filters} filters" + (
            latents if self.num_latents != self.num_filters else ""
        )

    @classmethod
    def of(cls, record):
        """The architecture that a mapping states under this class's names (num_latents may lack).

        Raises:
          ArchitectureError: where it states none that can be built.
        """
        return cls(record.get("family"), record.get("num_filters"), record.get("num_latents"))

    @property
    def parameter_widths(self):
        """``ParameterWidths`` of the parameter network."""
        return _PARAMETER_WIDTHS[self.family]

    @property
    def hyper_synthesis(self):
        """``HyperLayer`` of each layer of the hyper synthesis, whose output phi has 2M channels."""
        n, wide, out = self.num_filters, self.num_filters * 3 // 2, 2 * self.num_latents
        layers = (n, 1, True), (n, 2, True), (wide, 1, True), (wide, 2, True), (out, 1, False)
        return tuple(HyperLayer(*layer) for layer in layers)


def padded_size(height, width):
    """Sides rounded up to multiples of 64."""
    return -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE


def context_mask():
    """Mask "A" of the 5x5 context: the twelve positions that are coded earlier, (5, 5, 1, 1)."""
    mask = np.zeros((CONTEXT_SUPPORT, CONTEXT_SUPPORT, 1, 1), np.float32)
    middle = CONTEXT_SUPPORT // 2
    mask[:middle] = 1
    mask[middle, :middle] = 1
    return mask
