"""What decoder.py does: .glic files to PNG, with a line for each."""

from __future__ import annotations

import contextlib
import functools
import shutil

import numpy as np

from cli import jobs, options, outputs, running, streams
from coding import bitstream, released
from pictures import images

READ_BYTES = 1 << 24  # of a file at a time


class CodecShelf:
    """Codecs by fingerprint, each loaded once.

    Args:
      report: a ``report.Report`` that says which model starts.
      codec: the ``Codec`` of --checkpoint, or None.
      more: names or paths of models to search besides those in models/.
      fetch: whether a released model that is missing is brought from the history.
      options: further arguments of ``Codec``.
    """

    def __init__(self, report, codec=None, more=(), fetch=False, **options):
        self._report, self._more, self._fetch, self._options = report, more, fetch, options
        self._codecs = {codec.fingerprint: codec} if codec else {}
        self._missing = {}  # the error by fingerprint: none is sought or fetched twice

    def get(self, fingerprint):
        """The codec that wrote a file.

        Raises:
          ModelError, ReleasedError: where there is none. OSError: where it cannot be written.
        """

        def load():
            from codec import Codec  # here, as importing it is part of starting
            from coding import models

            folder = self._folder_of(fingerprint)
            try:
                model = models.load_folder(folder)
            except models.ModelError:
                if not self._fetch or folder.parent.name != released.FETCHED:
                    raise
                shutil.rmtree(folder)  # damaged since it was fetched
                model = models.load_folder(self._folder_of(fingerprint))
            return Codec(model, **self._options)

        if fingerprint not in self._codecs:
            self._codecs[fingerprint] = self._report.start(load, warm_up)
        return self._codecs[fingerprint]

    def _folder_of(self, fingerprint):
        """The model's folder, fetched where that is asked for."""
        from coding import models

        if fingerprint in self._missing:
            raise self._missing[fingerprint]
        models_dir = models.MODELS_DIR
        try:
            if self._fetch and not models.search(fingerprint, models_dir, self._more):
                row = released.read(models_dir).get(fingerprint.hex())
                if row:
                    self._report.line(f"Fetching {row} from the repository's history")
                    return released.fetch(row, models_dir)
            return models.find(fingerprint, models_dir, self._more)
        except (models.ModelError, released.ReleasedError, OSError) as error:
            self._missing[fingerprint] = error
            raise


def warm_up(codec):
    """Restores a small picture, so that no file's seconds hold the start of the networks."""
    codec.networks.synthesis(np.zeros((1, 4, 4, codec.architecture.num_latents), np.float32))


def run(args):
    """Decodes what the options of decoder.py name.

    Returns:
      The exit code: 0, or 1 where a file failed.

    Raises:
      GlicError: for options or models that cannot be used.
    """
    options.memory_budget(args)  # one that means nothing ends the run, and so do the next
    options.backend(args)
    options.checkpoint_architecture(args)
    todo, report, manifest = jobs.prepare(
        args, [bitstream.EXTENSION], ".png", lambda suffix: "no .glic files", kind=".glic file"
    )
    if args.model and any(not job.problem for job in todo):
        from coding import models

        for name in args.model:
            models.read_config(models.folder_of(name))  # one that cannot be used ends the run
    failures = running.run(args, todo, make_work, format_line, report, manifest)
    return 1 if failures else 0


def make_work(args, report):
    """The function of (path, output) that decodes a file as the options say."""
    how = {"memory_budget": options.memory_budget(args), "backend": options.backend(args)}
    codec = None
    if options.checkpoint_architecture(args):
        codec = report.start(lambda: options.checkpoint_codec(args, **how), warm_up)
    shelf = CodecShelf(report, codec, args.model, args.fetch_model, **how)
    return functools.partial(
        decode_file,
        shelf,
        max_pixels=args.max_pixels,
        overwrite=args.overwrite,
        keep_times=args.keep_times,
    )


def read_file(path):
    """The bytes of a file; of what is none at first sight only the first ones."""
    source = streams.opened(path)
    with contextlib.nullcontext(source) if source is not path else open(path, "rb") as file:
        data = file.read(len(bitstream.MAGIC))
        if data == bitstream.MAGIC:
            # In parts: a device may have no end, and all at once would be memory for the largest.
            while len(data) <= bitstream.MAX_FILE_BYTES and (part := file.read(READ_BYTES)):
                data += part
    if len(data) > bitstream.MAX_FILE_BYTES:
        raise bitstream.BitstreamError(
            f"The file is damaged: it has more than {bitstream.MAX_FILE_BYTES} bytes."
        )
    return data


def decode_file(
    shelf, path, output, *, max_pixels=bitstream.MAX_PIXELS, overwrite=True, keep_times=False
):
    """Restores one image.

    Args:
      shelf: a ``CodecShelf``.
      path, output: of the ``.glic`` file and the PNG file; ``streams.STREAM`` is standard input
        and output.
      max_pixels: images that promise more are refused.
      overwrite: whether an ``output`` that exists is replaced.
      keep_times: whether the PNG file gets the file's times.

    Returns:
      Dict of ``height``, ``width``, ``mode`` ("grey" or "RGB"), ``model``, ``bpp`` of
      the ``.glic`` file, ``bytes`` and ``sha256`` (hexadecimal) of the PNG file.

    Raises:
      GlicError, OSError, MemoryError: where one of these cannot be done; ``output`` is then what
        it was.
    """
    times = outputs.times_of(path) if keep_times else None
    coded = read_file(path)
    container = bitstream.unpack(coded, max_pixels)
    codec = shelf.get(container.fingerprint)
    data = images.png_bytes(codec.synthesise(codec.decode(container)))
    outputs.write(output, data, overwrite=overwrite, times=times)
    return {
        "height": container.height,
        "width": container.width,
        "mode": bitstream.MODES[container.mode],
        "model": codec.model.name,
        "bpp": 8 * len(coded) / (container.height * container.width),
        "bytes": len(data),
        "sha256": outputs.checksum(data),
    }


def format_line(path, result, seconds):
    """The report line of one file."""
    size = f"{result['width']}x{result['height']}"
    return f"{path.name:24s} {size:>10s}  {result['mode']:4s}  {result['model']}  {seconds:6.2f} s"
