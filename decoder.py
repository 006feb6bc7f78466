"""Restores images: python decoder.py [FILES OR FOLDERS] [-o recon/]

Reads .glic files and writes PNG. Each file names the model that wrote it by its fingerprint; the
decoder finds that model in models/.
"""

from cli import errors as cli_errors  # isort: skip  (first: it says what is missing)
from cli import jobs, options, outputs  # isort: skip
from pathlib import Path

from coding.bitstream import MAX_PIXELS


def parse_arguments():
    """The command line's options."""
    parser = options.parser_for(__doc__)
    options.add_file_options(parser, Path("images"), "recon")
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="refuse files that promise more pixels, before any memory is taken for them; files "
        "of the encoder have at most the default (default: %(default)s)",
    )
    options.add_memory_option(parser)
    options.add_model_options(parser)
    return parser.parse_args()


class CodecShelf:
    """Codecs by fingerprint, each loaded once; with --checkpoint only that one.

    Args:
      only: the ``Codec`` of --checkpoint, or None.
      options: further arguments of ``Codec``.
    """

    def __init__(self, only=None, **options):
        self._only, self._options = only, options
        self._codecs = {}

    def get(self, fingerprint):
        """The codec that wrote a file (ModelError where there is none)."""
        from codec import Codec
        from coding import models

        if self._only:
            return self._only
        if fingerprint not in self._codecs:
            model = models.load_folder(models.find(fingerprint))
            self._codecs[fingerprint] = Codec(model, **self._options)
        return self._codecs[fingerprint]


def read_file(path, max_pixels):
    """The ``Container`` of a file; of what is none at first sight only that is read."""
    from coding import bitstream

    with open(path, "rb") as file:
        data = file.read(len(bitstream.MAGIC))
        if data == bitstream.MAGIC:  # a device may have no end
            data += file.read(bitstream.MAX_FILE_BYTES + 1 - len(data))
    if len(data) > bitstream.MAX_FILE_BYTES:
        raise bitstream.BitstreamError(
            f"The file is damaged: it has more than {bitstream.MAX_FILE_BYTES} bytes."
        )
    return bitstream.unpack(data, max_pixels)


def decode_file(shelf, path, output, *, max_pixels=MAX_PIXELS, overwrite=True):
    """Restores one image.

    Args:
      shelf: a ``CodecShelf``.
      path, output: of the ``.glic`` file and the PNG file.
      max_pixels: images that promise more are refused.
      overwrite: whether an ``output`` that exists is replaced.

    Returns:
      Dict of ``height``, ``width``, ``mode`` ("grey" or "RGB") and ``model``.
    """
    from coding import bitstream
    from pictures import images

    container = read_file(path, max_pixels)
    codec = shelf.get(container.fingerprint)
    pixels = codec.synthesise(codec.decode(container))
    outputs.publish(lambda p: images.write_png(pixels, p), output, overwrite)
    return {
        "height": container.height,
        "width": container.width,
        "mode": bitstream.MODES[container.mode],
        "model": codec.model.name,
    }


def format_line(path, result, seconds):
    """The report line of one file."""
    size = f"{result['width']}x{result['height']}"
    return f"{path.name:24s} {size:>10s}  {result['mode']:4s}  {result['model']}  {seconds:6.2f} s"


def main():
    """Returns the exit code: 0, or 1 where a file failed."""
    args = parse_arguments()
    from coding import bitstream

    todo = jobs.prepare(args, [bitstream.EXTENSION], ".png")
    if not todo:
        return 0
    budget = options.memory_budget(args)
    only = options.checkpoint_codec(args, memory_budget=budget)
    shelf = CodecShelf(only, memory_budget=budget)
    print(f"to {args.output}/")
    _, failures = jobs.process(
        todo,
        lambda path, output: decode_file(
            shelf, path, output, max_pixels=args.max_pixels, overwrite=args.overwrite
        ),
        format_line,
        args.skip_existing,
    )
    return 1 if failures else 0


if __name__ == "__main__":
    cli_errors.run(main)
