"""encoder.py --verify: a file is known to decode before it gets its name."""

from cli import outputs
from coding import bitstream
from errors import GlicError
from pictures import images


class VerifyError(GlicError):
    """A file that is not what it should be."""


def check_decodes(codec, data, latents):
    """Raises VerifyError unless a file's bytes decode to these ``Latents``."""
    try:
        decoded = codec.decode(bitstream.unpack(data))
    except GlicError as error:
        raise VerifyError(f"The file just made does not decode ({error})") from error
    if not decoded.equals(latents):
        raise VerifyError("The file just made decodes to other latents: nothing is written.")


def write(codec, data, latents, output, overwrite):
    """Writes a file that decodes, and compares what the disk gives back.

    Raises:
      VerifyError: where it does not decode, or reads back other than it was written; in both
        cases ``output`` is what it was before.
    """
    check_decodes(codec, data, latents)

    def write_and_compare(path):
        images.atomic_write(path, data)
        if path.read_bytes() != data:
            raise VerifyError(f"{output} reads back from the disk other than it was written.")

    outputs.publish(write_and_compare, output, overwrite)
