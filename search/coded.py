"""One image as it was coded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:  # TensorFlow is imported late
    from codec import Codec
    from coding.latents import Latents


class Coded(NamedTuple):
    """A coded image.

    codec: what coded it. latents: its latents. data: the file's bytes. notes: phrases for the
    report line. restored: the decoded pixels, uint8 (H, W, 3) or grey (H, W), where they are
    known.
    """

    codec: Codec
    latents: Latents
    data: bytes
    notes: tuple[str, ...] = ()
    restored: np.ndarray | None = None

    def with_restored(self):
        """The same with the decoded pixels."""
        if self.restored is not None:
            return self
        return self._replace(restored=self.codec.synthesise(self.latents))
