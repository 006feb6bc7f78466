"""Where the bits of a file went: by channel and by latent position.

The cost of a symbol is minus the binary logarithm of the frequency that the coder gave it, plus
the bits of its escape code. Summed up that is the ideal code length. Payloads exceed it by the
range coder's loss, or fall short of it where escapes are many: the coder gives the remainder of its
range to the last symbol, the upper escape. All numbers come from the coder's own tables.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from architecture import PER_Z
from coding import latent_coder
from gmm_entropy import TOTAL


class Costs(NamedTuple):
    """Bits of an image's latents.

    y: float64 (h, w, M), 0 in channels that are not coded. z: float64 (h/4, w/4, N).
    """

    y: np.ndarray
    z: np.ndarray

    @property
    def by_position(self):
        """float64 (h, w): bits per position of y, those of z spread over its sixteen.

        Its sum is the ideal length of both payloads.
        """
        z = self.z.sum(axis=-1).repeat(PER_Z, axis=0).repeat(PER_Z, axis=1) / PER_Z**2
        return self.y.sum(axis=-1) + z


def costs_of(entropy_coder, latents):
    """``Costs`` of ``Latents``, from the tables of an ``EntropyCoder``."""
    active = latents.active
    y = np.zeros(latents.y_symbols.shape)
    if active.any():
        image_model = entropy_coder.image_model(latents.z_symbols, active, latents.k)
        family = entropy_coder.architecture.family
        y[..., active] = _cost_y(latents.y_symbols[..., active], image_model, family)
    return Costs(y, _cost_z(latents.z_symbols, entropy_coder.z_tables))


def _cost_y(values, image_model, family):
    """float64 like the active channels' ``values`` (h, w, C)."""
    costs = np.zeros((values.shape[0] * values.shape[1], values.shape[2]))
    for batch in latent_coder.coded_intervals(values, image_model, family):
        positions, low, high, escapes = batch
        bits = np.log2(TOTAL / (high - low))
        bits[list(escapes)] += [len(code) for code in escapes.values()]
        costs[positions] = bits.reshape(len(positions), -1)
    return costs.reshape(values.shape)


def _cost_z(symbols, z_tables):
    """float64 like ``symbols`` (h/4, w/4, N)."""
    costs = np.zeros(symbols.shape)
    for channel, (table, offset) in enumerate(zip(z_tables.tables, z_tables.offsets)):
        bits = np.log2(TOTAL / np.diff(table))
        values, inverse = np.unique(symbols[..., channel], return_inverse=True)
        coded = [latent_coder.z_symbol(int(v) - offset, len(table) - 2) for v in values]
        each = np.array([bits[symbol] + len(code) for symbol, code in coded])
        costs[..., channel] = each[inverse].reshape(symbols.shape[:2])
    return costs
