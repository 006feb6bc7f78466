"""encoder.py --verify: a file is known to decode before it gets its name."""

from coding import bitstream
from errors import GlicError


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
