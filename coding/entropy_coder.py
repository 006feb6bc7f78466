"""``EntropyCoder``: an image's latents to the bytes of a ``.glic`` file and back, exactly."""

from __future__ import annotations

import numpy as np

import factorized_prior
from architecture import LATENT_STRIDE, STRIDE, padded_size
from coding import bitstream, latent_coder, models
from coding.context import EntropyModel
from coding.latents import LatentError, Latents
from errors import GlicError


class EntropyCoder:
    """What a model says of latents, in integers: no network of this class sees pixels.

    Args:
      model: ``models.Model``.

    Attributes:
      medians: float32 (N,), of the prior of z.
      z_tables: ``latent_coder.ZTables``.

    Raises:
      models.ModelError: where the weights do not allow exact coding.
    """

    def __init__(self, model):
        self.model, self.architecture = model, model.architecture
        prior = factorized_prior.weights_of(model.weights)
        self.medians = factorized_prior.medians_of(prior["quantiles"])
        try:
            self._entropy_model = EntropyModel(model.weights, model.architecture)
            self.z_tables = latent_coder.ZTables(
                prior["quantized_cdf"],
                prior["cdf_length"],
                factorized_prior.table_offsets(prior["quantiles"]),
            )
        except GlicError as error:
            raise models.ModelError(f"Model {model.name}: {error}") from error

    def image_model(self, z_symbols, active, k=None):
        """``context.ImageModel`` of the channels of y where ``active``, bool (M,), is set."""
        z_hat = z_symbols.astype(np.float64) + self.medians
        return self._entropy_model.for_image(z_hat, np.flatnonzero(active), k)

    def encode(self, latents):
        """The bytes of a ``.glic`` file.

        Args:
          latents: ``Latents``.

        Raises:
          ValueError: for latents of another size than the picture's.
          LatentError: for latents beyond +-2^20.
        """
        latents.check(self.architecture)
        active, y = latents.active, b""
        if active.any():
            image_model = self.image_model(latents.z_symbols, active, latents.k)
            values = latents.y_symbols[..., active]
            y = latent_coder.encode_y(values, image_model, self.architecture.family)
        return bitstream.pack(
            bitstream.Container(
                fingerprint=self.model.fingerprint,
                height=latents.height,
                width=latents.width,
                mode=bitstream.GREY if latents.grey else bitstream.RGB,
                active=active,
                latents_crc=latents.checksum,
                k=latents.k,
                z=latent_coder.encode_z(latents.z_symbols, self.z_tables),
                y=y,
            )
        )

    def decode(self, container):
        """``Latents`` of an unpacked file.

        Raises:
          models.ModelError: where it was written with another model.
          bitstream.BitstreamError: where the payload does not give the latents it should.
        """
        if container.fingerprint != self.model.fingerprint:
            raise models.ModelError(
                f"The file was written with model {container.fingerprint.hex()}, this one is "
                f"{self.model.name} ({self.model.fingerprint.hex()})."
            )
        if len(container.active) != self.architecture.num_latents:
            raise bitstream.BitstreamError(
                f"Flags of {self.architecture.num_latents} channels expected, got "
                f"{len(container.active)}."
            )
        try:
            latents = self._decode_payloads(container)
        except LatentError as error:
            raise bitstream.BitstreamError(str(error)) from error
        if latents.checksum != container.latents_crc:
            raise bitstream.BitstreamError(
                "The decoded latents do not match the file's checksum: nothing is written."
            )
        return latents

    def _decode_payloads(self, container):
        """``Latents``; payloads that are too short fail before these are made."""
        height, width = padded_size(container.height, container.width)
        h, w, active = height // LATENT_STRIDE, width // LATENT_STRIDE, container.active
        count, family = int(active.sum()), self.architecture.family
        if count:
            latent_coder.check_y_size(container.y, h * w, count)
        elif container.y:
            raise LatentError("The file has latents of y, but no channel for them.")
        z_shape = (height // STRIDE, width // STRIDE, self.architecture.num_filters)
        z_symbols = latent_coder.decode_z(container.z, z_shape, self.z_tables)
        y_symbols = np.zeros((h, w, self.architecture.num_latents), np.int32)
        if count:
            image_model = self.image_model(z_symbols, active, container.k)
            y_symbols[..., active] = latent_coder.decode_y(container.y, image_model, count, family)
        grey, size = container.mode == bitstream.GREY, (container.height, container.width)
        return Latents(y_symbols, z_symbols, *size, grey, container.k)
