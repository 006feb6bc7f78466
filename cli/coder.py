"""What codes an image with one model."""

import tqdm

from search.coded import Coded
from search.interruption import SearchInterrupted


class Coder:
    """Codes images with one model: a function of (path, pixels) that returns ``Coded``.

    Args:
      codec: ``codec.Codec``.
      k: the quantisation step of y, of a model of many rates.
      refiner: ``refine.Refiner`` of the codec, or None.
      level: of the refinement, 0 for none.
      bars: whether the refinement shows a progress bar on a terminal.
    """

    def __init__(self, codec, k=None, refiner=None, level=0, bars=True):
        self.codec, self.k, self.level = codec, k, level
        self._refiner, self._bars = refiner, bars

    def __call__(self, path, pixels, k=None):
        """``Coded`` of an image.

        Args:
          path: of the image, for a progress bar.
          pixels: uint8 (H, W, 3), or grey (H, W).
          k: the quantisation step for this image, in place of the coder's.

        Raises:
          SearchInterrupted: on Ctrl-C, with the best so far as ``Coded``.
        """
        k = self.k if k is None else k
        if not self.level:
            latents = self.codec.analyse(pixels, k)
            return Coded(self.codec, latents, self.codec.encode(latents))
        try:
            return self._coded(self._refined(path, pixels, k))
        except SearchInterrupted as stop:
            raise SearchInterrupted(self._coded(stop.result)) from None

    def _coded(self, refined):
        note = f"effort {self.level}: rate + lambda * distortion {-refined.gain:+.1%}"
        return Coded(self.codec, refined.latents, refined.data, (note,))

    def _refined(self, path, pixels, k):
        """``refine.Refined`` of an image, with a progress bar on a terminal."""
        from search import refine

        with tqdm.tqdm(
            total=refine.ITERATIONS[self.level],
            desc=path.name,
            leave=False,
            disable=None if self._bars else True,
        ) as bar:

            def progress(loss):
                bar.set_postfix_str(f"loss {loss:.4f}")
                bar.update()

            return self._refiner.compress(pixels, self.level, progress, k)
