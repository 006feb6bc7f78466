"""What a file must meet: encoder.py --target-bpp, --target-bytes and --target-psnr."""

from __future__ import annotations

import math
from typing import NamedTuple

from errors import GlicError

RATE_TOLERANCE = 0.01  # of the limit: a file of at least 99 % of it is near enough
PSNR_TOLERANCE = 0.02  # dB


class TargetError(GlicError):
    """A target that no candidate meets, or candidates between which nothing can be chosen."""


class Target(NamedTuple):
    """What a file must meet.

    kind: "bpp" or "bytes", a limit on the whole file, in bits per pixel or in bytes; "psnr", the
    least dB of what the decoder restores. value: the number.
    """

    kind: str
    value: float

    @property
    def is_rate(self):
        """Whether it limits the file, and not the error."""
        return self.kind != "psnr"

    def rate_of(self, size, height, width):
        """A file's size in the target's unit.

        Args:
          size: in bytes.
          height, width: of the picture in pixels.
        """
        return size if self.kind == "bytes" else 8 * size / (height * width)

    def met(self, value):
        """Whether a file of this rate or PSNR meets the target."""
        return value <= self.value if self.is_rate else value >= self.value

    def near(self, value):
        """Whether it meets the target, and a better one could gain next to nothing."""
        if self.is_rate:
            return (1 - RATE_TOLERANCE) * self.value <= value <= self.value
        return self.value <= value <= self.value + PSNR_TOLERANCE

    def offset(self, value):
        """How far a rate or PSNR lies above the middle of what is near: in nats, or in dB."""
        if self.is_rate:
            return math.log(value / ((1 - RATE_TOLERANCE / 2) * self.value))
        return value - (self.value + PSNR_TOLERANCE / 2)

    def nearest(self, value):
        """A phrase for the best rate or PSNR there is, where it does not meet the target.

        It is rounded so that the figure as printed can be met.
        """
        if self.kind == "psnr":
            return f"the best has {math.floor(value * 1e3) / 1e3:.3f} dB"
        if self.kind == "bytes":
            return f"the smallest has {value} bytes"
        return f"the smallest has {math.ceil(value * 1e4) / 1e4:.4f} bpp"

    def __str__(self):
        if self.kind == "psnr":
            return f"at least {self.value:g} dB PSNR"
        if self.kind == "bytes":
            return f"at most {self.value} bytes"
        return f"at most {self.value:g} bpp"
