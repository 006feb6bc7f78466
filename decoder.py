"""Restores images: python decoder.py [FILES OR FOLDERS] [-o recon/]

Reads .glic files and writes PNG. Each file names the model that wrote it by its fingerprint; the
decoder finds that model in models/.
"""

import commandline


def parse_arguments():
    """The command line's options."""
    parser = commandline.parser_for(__doc__)
    commandline.add_file_options(parser, commandline.Path("images"), "recon")
    commandline.add_model_options(parser)
    return parser.parse_args()


class CodecShelf:
    """Codecs by fingerprint, each loaded once; with --checkpoint only that one."""

    def __init__(self, only=None):
        self._only = only
        self._codecs = {}

    def get(self, fingerprint):
        """The codec that wrote a file (ModelError where there is none)."""
        import models
        from codec import Codec

        if self._only:
            return self._only
        if fingerprint not in self._codecs:
            self._codecs[fingerprint] = Codec(models.load_folder(models.find(fingerprint)))
        return self._codecs[fingerprint]


def decode_file(shelf, path, output):
    """Restores one image.

    Returns:
      Dict of ``height``, ``width``, ``mode`` ("grey" or "RGB") and ``model``.
    """
    import bitstream
    import images

    container = bitstream.unpack(path.read_bytes())
    codec = shelf.get(container.fingerprint)
    grey = container.mode == bitstream.GREY
    latents = codec.decode(container)
    pixels = codec.synthesise(latents, container.height, container.width, grey)
    images.write_png(pixels, output)
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
    import bitstream

    jobs = commandline.prepare(args, [bitstream.EXTENSION], ".png")
    shelf = CodecShelf(commandline.checkpoint_codec(args))
    print(f"to {args.output}/")
    _, failures = commandline.process(
        jobs, lambda path, output: decode_file(shelf, path, output), format_line
    )
    return 1 if failures else 0


if __name__ == "__main__":
    commandline.run(main)
