"""``Codec``: images to bytes and back, and the latents between.

The networks that see pixels (analysis, hyper analysis, synthesis) run in TensorFlow, in float32.
What decides over bits runs exactly, in context.py, gmm_entropy.py and latent_coder.py. Decoded
latents are therefore the same on every machine; pixels are the same on one machine and may differ
by one level between machines.
"""

import preflight  # noqa: F401  # isort: skip  (first: it says what is missing)
import collections

import numpy as np
import tensorflow.compat.v1 as tf

import factorized_prior
from coding import bitstream, latent_coder, models, tiling
from coding.context import EntropyModel
from errors import GlicError
from network import LATENT_STRIDE, STRIDE

# y_hat: int32 (h, w, N); z_symbols: int32 (h/4, w/4, N), before the medians are added.
Latents = collections.namedtuple("Latents", "y_hat z_symbols")

# Bytes that a process should stay within: an image that would pass it goes through the networks
# in tiles.
MEMORY_BUDGET = 3 << 30
SMALLEST_TILE = 256  # pixels; a budget that is too small for it is passed


def padded_size(height, width):
    """Sides rounded up to multiples of 64."""
    return -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE


def pad(pixels):
    """Pads uint8 (H, W, 3) below and to the right to multiples of 64 by reflection.

    Cheng et al.'s code does the same; NumPy reflects repeatedly where a side is shorter than its
    padding. Fu et al.'s centres the image in zeros, which costs bits at the edges.
    """
    height, width = pixels.shape[:2]
    to_height, to_width = padded_size(height, width)
    return np.pad(pixels, ((0, to_height - height), (0, to_width - width), (0, 0)), "reflect")


class Codec:
    """A model ready to code images. Building one loads TensorFlow's graph once.

    Args:
      model: a ``models.Model``, see ``Codec.load`` and ``Codec.from_checkpoint``.
      memory_budget: bytes that the process should stay within. Images that need more pass through
        the networks in overlapping tiles, which takes longer (the borders are computed twice) and
        may change single latents and pixels by one level, as another machine may. Neither the
        image nor its latents are tiled: 20 bytes per pixel plus 1/8 per channel of y, and
        TensorFlow's 640 MiB, are the least that is taken.

    Raises:
      models.ModelError: where the weights do not allow exact coding.
    """

    def __init__(self, model, memory_budget=MEMORY_BUDGET):
        self.model, self.memory_budget = model, memory_budget
        self.family, self.num_filters = model.family, model.num_filters
        self.num_latents = models.latents_in(model.weights)
        self.fingerprint = model.fingerprint
        prior = {
            name.split("/", 1)[1]: value
            for name, value in model.weights.items()
            if name.startswith("entropy_bottleneck/")
        }
        self.medians = factorized_prior.medians_of(prior["quantiles"])
        try:
            self._entropy_model = EntropyModel(model.weights, model.num_filters, model.family)
            self._z_tables = latent_coder.ZTables(
                prior["quantized_cdf"],
                prior["cdf_length"],
                factorized_prior.table_offsets(prior["quantiles"]),
            )
        except GlicError as error:
            raise models.ModelError(f"Model {model.name}: {error}") from error
        self._start_session()

    @classmethod
    def load(cls, name, models_dir=models.MODELS_DIR, memory_budget=MEMORY_BUDGET):
        """The codec of the model ``name`` in ``models_dir`` (or of a model folder's path)."""
        return cls(models.load_named(name, models_dir), memory_budget)

    @classmethod
    def from_checkpoint(cls, prefix, family, num_filters, memory_budget=MEMORY_BUDGET):
        """The codec of a checkpoint as its authors published it."""
        return cls(models.load_checkpoint(prefix, family, num_filters), memory_budget)

    def _start_session(self):
        """Builds the graph and loads the weights."""
        weights = self.model.weights
        with tf.Graph().as_default() as graph:
            table_length = weights["entropy_bottleneck/quantized_cdf"].shape[1]
            self._tensors = models.build_inference_graph(
                self.num_filters, self.family, table_length, self.num_latents
            )
            self._session = tf.Session(graph=graph)
            variables = tf.global_variables()
            # Feeding the initialisers loads the values without an assignment op per variable.
            self._session.run(
                [v.initializer for v in variables],
                {v.initializer.inputs[1]: weights[v.op.name] for v in variables},
            )
            graph.finalize()

    def close(self):
        """Frees the TensorFlow session."""
        self._session.close()

    def run(self, fetches, feeds):
        """Evaluates tensors of ``models.build_inference_graph`` by name.

        Args:
          fetches: name, or list of names.
          feeds: dict of name to NumPy array.
        """
        single = isinstance(fetches, str)
        names = [fetches] if single else fetches
        try:
            values = self._session.run(
                [self._tensors[n] for n in names], {self._tensors[k]: v for k, v in feeds.items()}
            )
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(str(error).splitlines()[0]) from error
        return values[0] if single else values

    def transform(self, pixels):
        """Latents of an image before they are rounded.

        Args:
          pixels: uint8 (H, W, 3) for RGB or (H, W) for grey, any size from 1x1.

        Returns:
          y, float32 (h, w, M), and z, float32 (h/4, w/4, N), of the padded image.

        Raises:
          ValueError: for another dtype or shape.
          bitstream.BitstreamError: for more pixels than a decoder accepts.
          latent_coder.LatentError: where the model gives latents that cannot be coded.
        """
        pixels = np.asarray(pixels)
        grey = pixels.ndim == 2
        if pixels.dtype != np.uint8 or not (grey or pixels.shape[2:] == (3,)) or not pixels.size:
            raise ValueError(
                "A uint8 array of shape (H, W, 3) or (H, W) expected, got "
                f"{pixels.dtype} {pixels.shape}."
            )
        bitstream.check_size(*pixels.shape[:2])
        y = self._analysis(pad(pixels[..., None] if grey else pixels))
        latent_coder.check_latents("y", y)
        z = self._hyper_analysis(y)
        latent_coder.check_latents("z", z)
        return y, z

    def quantise(self, y, z):
        """``Latents`` of ``transform``'s y and z: y rounded, z rounded to its medians."""
        z_symbols = np.floor(z + (np.float32(0.5) - self.medians))
        return Latents(np.rint(y).astype(np.int32), z_symbols.astype(np.int32))

    def analyse(self, pixels):
        """``Latents`` of an image; takes and raises what ``transform`` does."""
        return self.quantise(*self.transform(pixels))

    def _tile_side(self, height, width, reach):
        """Side in pixels of a tile without its border, a multiple of 64."""
        sizes = height * width, self.num_filters, self.num_latents
        area = tiling.network_area(self.memory_budget, *sizes)
        if height * width <= area:
            return max(height, width)
        return tiling.side_for(area, reach, SMALLEST_TILE) // STRIDE * STRIDE

    def _analysis(self, pixels):
        """y, float32 (H/16, W/16, M), of padded uint8 (H, W, 1 or 3)."""
        height, width = pixels.shape[:2]
        reach = tiling.ANALYSIS_REACH[self.family]
        side = self._tile_side(height, width, reach)
        y = np.empty(
            (height // LATENT_STRIDE, width // LATENT_STRIDE, self.num_latents), np.float32
        )

        def tile(rows, columns):
            x = pixels[rows, columns].astype(np.float32) / np.float32(255)
            x = np.broadcast_to(x, (*x.shape[:2], 3))
            return self.run("y", {"x": x[None]})[0]

        tiling.fill(y, (height, width), side, reach, LATENT_STRIDE, tile)
        return y

    def _hyper_analysis(self, y):
        """z, float32 (h/4, w/4, N), of y (h, w, M)."""
        stride = STRIDE // LATENT_STRIDE
        h, w = y.shape[:2]
        z = np.empty((h // stride, w // stride, self.num_filters), np.float32)

        def tile(rows, columns):
            return self.run("z", {"y": y[None, rows, columns]})[0]

        reach = tiling.HYPER_ANALYSIS_REACH
        tiling.fill(z, (h, w), tiling.HYPER_TILE, reach, stride, tile)
        return z

    def synthesise(self, latents, height, width, grey=False):
        """Pixels of latents.

        Args:
          latents: ``Latents``.
          height, width: of the image.
          grey: whether to return one channel, the rounded mean of the three.

        Returns:
          uint8 (height, width, 3), or (height, width) where grey.

        Raises:
          latent_coder.LatentError: where the network gives values that are not finite.
        """
        h, w = latents.y_hat.shape[:2]
        sides = LATENT_STRIDE * h, LATENT_STRIDE * w
        reach = tiling.SYNTHESIS_REACH[self.family]
        side = self._tile_side(*sides, LATENT_STRIDE * reach) // LATENT_STRIDE
        pixels = np.empty(sides if grey else (*sides, 3), np.uint8)

        def tile(rows, columns):
            y_hat = latents.y_hat[None, rows, columns].astype(np.float32)
            return self._to_pixels(self.run("x_hat", {"y_hat": y_hat})[0], grey)

        tiling.fill(pixels, (h, w), side, reach, 1, tile)
        return pixels[:height, :width]

    def _to_pixels(self, x_hat, grey):
        """uint8 (H, W, 3), or (H, W) where grey, of float32 (H, W, 3)."""
        if not np.isfinite(x_hat).all():
            raise latent_coder.LatentError(
                f"Model {self.model.name} gives pixels that are not finite for these latents: no "
                "picture is made of them."
            )
        x_hat = np.clip(x_hat, 0, 1)
        if grey:
            x_hat = x_hat.mean(axis=-1)
        return np.rint(x_hat * np.float32(255)).astype(np.uint8)

    def encode(self, latents, height, width, grey=False):
        """The bytes of a ``.glic`` file.

        Args:
          latents: ``Latents`` of the padded image.
          height, width: of the image before padding.
          grey: whether the image has one channel.

        Raises:
          ValueError: for latents of another size than the image's.
          latent_coder.LatentError: for latents beyond +-2^20.
        """
        sides = padded_size(height, width)
        strides, channels = (LATENT_STRIDE, STRIDE), (self.num_latents, self.num_filters)
        for name, values, stride, count in zip("yz", latents, strides, channels):
            shape = (*(side // stride for side in sides), count)
            if values.shape != shape:
                raise ValueError(f"Latents {name} of shape {shape} expected, got {values.shape}.")
            latent_coder.check_latents(name, values)
        active = latents.y_hat.any(axis=(0, 1))
        y = b""
        if active.any():
            y = latent_coder.encode_y(
                latents.y_hat[..., active],
                self._image_model(latents.z_symbols, active),
                self.family,
            )
        return bitstream.pack(
            bitstream.Container(
                fingerprint=self.fingerprint,
                height=height,
                width=width,
                mode=bitstream.GREY if grey else bitstream.RGB,
                active=active,
                latents_crc=bitstream.latents_checksum(latents.z_symbols, latents.y_hat),
                z=latent_coder.encode_z(latents.z_symbols, self._z_tables),
                y=y,
            )
        )

    def decode(self, container):
        """``Latents`` of an unpacked file.

        Raises:
          models.ModelError: where it was written with another model.
          bitstream.BitstreamError: where the payload does not give the latents it should.
        """
        if container.fingerprint != self.fingerprint:
            raise models.ModelError(
                f"The file was written with model {container.fingerprint.hex()}, this one is "
                f"{self.model.name} ({self.fingerprint.hex()})."
            )
        if len(container.active) != self.num_latents:
            raise bitstream.BitstreamError(
                f"Flags of {self.num_latents} channels expected, got {len(container.active)}."
            )
        try:
            z_symbols, y_hat = self._decode_payloads(container)
        except latent_coder.LatentError as error:
            raise bitstream.BitstreamError(str(error)) from error
        if bitstream.latents_checksum(z_symbols, y_hat) != container.latents_crc:
            raise bitstream.BitstreamError(
                "The decoded latents do not match the file's checksum: nothing is written."
            )
        return Latents(y_hat, z_symbols)

    def _decode_payloads(self, container):
        """int32 z_symbols and y_hat; payloads that are too short fail before they are made."""
        height, width = padded_size(container.height, container.width)
        h, w, active = height // LATENT_STRIDE, width // LATENT_STRIDE, container.active
        if active.any():
            latent_coder.check_y_size(container.y, h * w, int(active.sum()))
        elif container.y:
            raise latent_coder.LatentError("The file has latents of y, but no channel for them.")
        z_shape = (height // STRIDE, width // STRIDE, self.num_filters)
        z_symbols = latent_coder.decode_z(container.z, z_shape, self._z_tables)
        y_hat = np.zeros((h, w, self.num_latents), np.int32)
        if active.any():
            y_hat[..., active] = latent_coder.decode_y(
                container.y,
                self._image_model(z_symbols, active),
                int(active.sum()),
                self.family,
            )
        return z_symbols, y_hat

    def _image_model(self, z_symbols, active):
        z_hat = z_symbols.astype(np.float64) + self.medians
        return self._entropy_model.for_image(z_hat, np.flatnonzero(active))

    def compress(self, pixels):
        """Bytes of a ``.glic`` file from uint8 (H, W, 3) or grey (H, W) pixels."""
        pixels = np.asarray(pixels)
        latents = self.analyse(pixels)
        return self.encode(latents, *pixels.shape[:2], grey=pixels.ndim == 2)

    def decompress(self, data, max_pixels=bitstream.MAX_PIXELS):
        """uint8 (H, W, 3) or grey (H, W) pixels from the bytes of a ``.glic`` file."""
        container = bitstream.unpack(data, max_pixels)
        latents = self.decode(container)
        grey = container.mode == bitstream.GREY
        return self.synthesise(latents, container.height, container.width, grey)
