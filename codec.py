"""``Codec``: images to bytes and back, and the latents between.

The networks that see pixels (analysis, hyper analysis, synthesis) run in float32, in ONNX Runtime
or TensorFlow (coding/backends.py). What decides over bits runs exactly, in context.py,
gmm_entropy.py and latent_coder.py. Decoded latents are therefore the same on every machine; pixels
are the same on one machine and may differ by one level between machines, or backends.
"""

import preflight  # noqa: F401  # isort: skip  (first: it says what is missing)

import numpy as np

from architecture import LATENT_STRIDE, PER_Z, STRIDE, padded_size
from coding import backends, bitstream, models, tiling
from coding.entropy_coder import EntropyCoder
from coding.latents import LatentError, Latents, check_values
from errors import GlicError
from rates import MAX_K, Rates, chosen_k, delta_of

# Bytes that a process should stay within: an image that would pass it goes through the networks
# in tiles.
MEMORY_BUDGET = 3 << 30
SMALLEST_TILE = 256  # pixels; a budget that is too small for it is passed


def pad(pixels):
    """Pads uint8 (H, W, 3) below and to the right to multiples of 64 by reflection.

    Cheng et al.'s code does the same; NumPy reflects repeatedly where a side is shorter than its
    padding. Fu et al.'s centres the image in zeros, which costs bits at the edges.
    """
    height, width = pixels.shape[:2]
    to_height, to_width = padded_size(height, width)
    return np.pad(pixels, ((0, to_height - height), (0, to_width - width), (0, 0)), "reflect")


class Codec:
    """A model ready to code images.

    It can be pickled, and then loads its model again from where it was: for processes that
    ``multiprocessing.get_context("spawn")`` starts. A process that was forked after the
    networks had started cannot use it (``coding.forks.ForkError``).

    Args:
      model: a ``models.Model``, see ``Codec.load`` and ``Codec.from_checkpoint``.
      memory_budget: bytes that the process should stay within. Images that need more pass through
        the networks in overlapping tiles, which takes longer (the borders are computed twice) and
        may change single latents and pixels by one level, as another machine may. Neither the
        image nor its latents are tiled: 20 bytes per pixel plus 1/8 per channel of y, and the
        640 MiB that TensorFlow may take, are counted in any case.
      backend: "onnx" or "tensorflow" for the networks that see pixels; None takes ONNX Runtime
        where it is installed.

    Attributes:
      rates: ``rates.Rates`` of a model that serves many; None for one of one rate.

    Raises:
      models.ModelError: where the weights do not allow exact coding.
      backends.BackendError: where the backend is not installed.
    """

    def __init__(self, model, memory_budget=MEMORY_BUDGET, backend=None):
        self.model, self.memory_budget = model, memory_budget
        self.rates = Rates.of(model.config)
        self.backend = backends.choose(backend)
        self.architecture, self.fingerprint = model.architecture, model.fingerprint
        self.entropy_coder = EntropyCoder(model)
        self.networks = backends.networks(self.backend, model.architecture, model.weights)

    @classmethod
    def load(cls, name, models_dir=models.MODELS_DIR, memory_budget=MEMORY_BUDGET, backend=None):
        """The codec of the model ``name`` in ``models_dir`` (or of a model folder's path)."""
        return cls(models.load_named(name, models_dir), memory_budget, backend)

    @classmethod
    def from_checkpoint(cls, prefix, architecture, memory_budget=MEMORY_BUDGET, backend=None):
        """The codec of a checkpoint as its authors published it."""
        return cls(models.load_checkpoint(prefix, architecture), memory_budget, backend)

    def __reduce__(self):
        rest = self.memory_budget, self.backend
        if self.model.path is None:
            return type(self), (self.model, *rest)
        return _reload, (type(self), self.model.source, *rest)

    def close(self):
        """Frees the networks' sessions."""
        self.networks.close()

    def k_of(self, quality=None, lmbda=None):
        """The quantisation step of y for a rate, as an integer in units of 1/1024.

        Args:
          quality: 0 to 100, log-linear over the model's lambdas, or
          lmbda: weight of the distortion, in the model's range; neither is a quality of 50.

        Returns:
          What ``quantise`` and ``analyse`` take as k; None for a model of one rate.

        Raises:
          GlicError: for a quality or lambda that the model does not serve, and for both.
        """
        return chosen_k(self.rates, self.model.name, quality, lmbda)

    def _step(self, k):
        """``k`` checked, or the default of a model of many rates."""
        if k is None:
            return self.k_of()
        if self.rates is None:
            raise GlicError(f"Model {self.model.name} has one rate: it takes no k.")
        if not 1 <= k <= MAX_K:
            raise GlicError(f"A quantisation step of 1 to {MAX_K} expected, got {k}.")
        return int(k)

    def transform(self, pixels):
        """Latents of an image before they are rounded.

        Args:
          pixels: uint8 (H, W, 3) for RGB or (H, W) for grey, any size from 1x1.

        Returns:
          y, float32 (h, w, M), and z, float32 (h/4, w/4, N), of the padded image.

        Raises:
          ValueError: for another dtype or shape.
          bitstream.BitstreamError: for more pixels than a decoder accepts.
          LatentError: where the model gives latents that cannot be coded.
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
        check_values("y", y)
        z = self._hyper_analysis(y)
        check_values("z", z)
        return y, z

    def quantise(self, y, z, height, width, grey=False, k=None):
        """``Latents`` of ``transform``'s y and z: y rounded in its steps, z to its medians.

        Args:
          y, z: see ``transform``.
          height, width, grey: of the picture, see ``Latents``.
          k: the quantisation step of y, see ``k_of``; None is that of a quality of 50.

        Raises:
          GlicError: for a k that the model does not take.
        """
        k = self._step(k)
        z_symbols = np.floor(z + (np.float32(0.5) - self.entropy_coder.medians))
        y_symbols = np.rint(y if k is None else y / np.float32(delta_of(k)))
        symbols = y_symbols.astype(np.int32), z_symbols.astype(np.int32)
        return Latents(*symbols, height, width, grey, k)

    def analyse(self, pixels, k=None):
        """``Latents`` of an image; takes and raises what ``transform`` and ``quantise`` do."""
        pixels, k = np.asarray(pixels), self._step(k)
        return self.quantise(*self.transform(pixels), *pixels.shape[:2], pixels.ndim == 2, k)

    def _tile_side(self, height, width, reach):
        """Side in pixels of a tile without its border, a multiple of 64."""
        area = tiling.network_area(self.memory_budget, height * width, self.architecture)
        if height * width <= area:
            return max(height, width)
        return tiling.side_for(area, reach, SMALLEST_TILE) // STRIDE * STRIDE

    def _analysis(self, pixels):
        """y, float32 (H/16, W/16, M), of padded uint8 (H, W, 1 or 3)."""
        height, width = pixels.shape[:2]
        reach = tiling.ANALYSIS_REACH[self.architecture.family]
        side = self._tile_side(height, width, reach)
        sides = height // LATENT_STRIDE, width // LATENT_STRIDE
        y = np.empty((*sides, self.architecture.num_latents), np.float32)

        def tile(rows, columns):
            x = pixels[rows, columns].astype(np.float32) / np.float32(255)
            x = np.broadcast_to(x, (*x.shape[:2], 3))
            return self.networks.analysis(x[None])[0]

        tiling.fill(y, (height, width), side, reach, LATENT_STRIDE, tile)
        return y

    def _hyper_analysis(self, y):
        """z, float32 (h/4, w/4, N), of y (h, w, M)."""
        h, w = y.shape[:2]
        z = np.empty((h // PER_Z, w // PER_Z, self.architecture.num_filters), np.float32)

        def tile(rows, columns):
            return self.networks.hyper_analysis(y[None, rows, columns])[0]

        reach = tiling.HYPER_ANALYSIS_REACH
        tiling.fill(z, (h, w), tiling.HYPER_TILE, reach, PER_Z, tile)
        return z

    def synthesise(self, latents):
        """Pixels of ``Latents``.

        Returns:
          uint8 (height, width, 3), or where the picture is grey (height, width): the rounded mean
          of the three.

        Raises:
          LatentError: where the network gives values that are not finite.
        """
        grey = latents.grey
        h, w = latents.y_symbols.shape[:2]
        sides = LATENT_STRIDE * h, LATENT_STRIDE * w
        reach = tiling.SYNTHESIS_REACH[self.architecture.family]
        side = self._tile_side(*sides, LATENT_STRIDE * reach) // LATENT_STRIDE
        pixels = np.empty(sides if grey else (*sides, 3), np.uint8)

        def tile(rows, columns):
            y_hat = latents.y_hat(rows, columns)[None]
            return self._to_pixels(self.networks.synthesis(y_hat)[0], grey)

        tiling.fill(pixels, (h, w), side, reach, 1, tile)
        return pixels[: latents.height, : latents.width]

    def _to_pixels(self, x_hat, grey):
        """uint8 (H, W, 3), or (H, W) where grey, of float32 (H, W, 3)."""
        if not np.isfinite(x_hat).all():
            raise LatentError(
                f"Model {self.model.name} gives pixels that are not finite for these latents: no "
                "picture is made of them."
            )
        x_hat = np.clip(x_hat, 0, 1)
        if grey:
            x_hat = x_hat.mean(axis=-1)
        return np.rint(x_hat * np.float32(255)).astype(np.uint8)

    def encode(self, latents):
        """The bytes of a ``.glic`` file; see ``EntropyCoder.encode``."""
        return self.entropy_coder.encode(latents)

    def decode(self, container):
        """``Latents`` of an unpacked file; see ``EntropyCoder.decode``."""
        return self.entropy_coder.decode(container)

    def compress(self, pixels, quality=None, lmbda=None):
        """Bytes of a ``.glic`` file.

        Args:
          pixels: uint8 (H, W, 3) or grey (H, W).
          quality, lmbda: of a model of many rates, see ``k_of``.
        """
        return self.encode(self.analyse(pixels, self.k_of(quality, lmbda)))

    def decompress(self, data, max_pixels=bitstream.MAX_PIXELS):
        """uint8 (H, W, 3) or grey (H, W) pixels from the bytes of a ``.glic`` file."""
        return self.synthesise(self.decode(bitstream.unpack(data, max_pixels)))


def _reload(codec_class, source, memory_budget, backend):
    """The codec that was pickled."""
    return codec_class(models.load(source), memory_budget, backend)
