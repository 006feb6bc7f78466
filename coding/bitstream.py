"""The container: one self-describing, checked file per image, extension ``.glic``.

All integers are little endian::

    offset  bytes  field
    0       4      magic "GLIC"
    4       1      format version, 1 or 2
    5       1      mode: 0 grey, 1 RGB
    6       8      model fingerprint: first bytes of the weights' SHA-256
    14      4      image height in pixels, at least 1
    18      4      image width in pixels, at least 1
    22      4      CRC-32 of the latents (see ``latents.Latents.checksum``)
    26      4      length of the z payload in bytes
    30      4      length of the y payload in bytes
    34      1      length F of the channel flags in bytes: channels of y / 8
    35      2      version 2 only: quantisation step of y in units of 1/1024, at least 1
    35, 37  F      channel flags: bit 7 of byte 0 is channel 0; 1 = some latent of y is not 0
    35, 37 + F     z payload, then y payload
    end - 4 4      CRC-32 of everything before it

39 or 41 bytes beside flags and payloads. A model of many rates writes version 2, one of one rate
version 1, in which the step is 1 and not stored. There is no TensorFlow in this module.
"""

import collections
import struct
import zlib

import numpy as np

from architecture import STRIDE
from errors import GlicError

MAGIC = b"GLIC"
VERSIONS = (1, 2)
EXTENSION = ".glic"
FINGERPRINT_BYTES = 8
GREY, RGB = 0, 1
MODES = {GREY: "grey", RGB: "RGB"}
MAX_FILE_BYTES = 1 << 30  # 48 bits per pixel of the largest image
# Refused beyond, unless told otherwise: what Pillow takes for a decompression bomb.
MAX_PIXELS = 178_956_970
COVERED_LIMIT = 2  # times the limit: what an image's blocks may cover

_HEADER = struct.Struct("<4sBB8sIIIIIB")
_STEP = struct.Struct("<H")  # of version 2, behind the rest
_CHECKSUM = struct.Struct("<I")
MAX_OVERHEAD_BYTES = _HEADER.size + _STEP.size + 255 + _CHECKSUM.size


class BitstreamError(GlicError):
    """Bytes that are not a whole, undamaged file of this format and version."""


# fingerprint: bytes; height, width: int; mode: GREY or RGB; active: bool (M,); latents_crc: int;
# z, y: bytes; k: int, the quantisation step of y, or None, which makes it version 1.
Container = collections.namedtuple(
    "Container", "fingerprint height width mode active latents_crc z y k", defaults=[None]
)


def check_size(height, width, max_pixels=MAX_PIXELS):
    """Raises BitstreamError for an image of more pixels than ``max_pixels``.

    Latents come in blocks of 64x64 pixels, so a picture one pixel wide costs 64 times its size:
    what its blocks cover may be twice ``max_pixels``.
    """
    covered = -(-height // STRIDE) * -(-width // STRIDE) * STRIDE**2
    if height * width > max_pixels:
        raise BitstreamError(
            f"The image has {width}x{height} pixels; the limit is {max_pixels} pixels."
        )
    if covered > max(STRIDE**2, COVERED_LIMIT * max_pixels):
        raise BitstreamError(
            f"The image's {width}x{height} pixels fill {STRIDE}x{STRIDE} blocks of {covered} "
            f"pixels; the limit is {COVERED_LIMIT * max_pixels} pixels."
        )


def pack(container):
    """Bytes of a file.

    Raises:
      BitstreamError: for sides or payloads that the header's fields cannot hold.
    """
    flags = np.packbits(np.asarray(container.active, bool)).tobytes()
    if not (1 <= container.height < 1 << 32 and 1 <= container.width < 1 << 32):
        raise BitstreamError(
            "Image sides of 1 to 4294967295 pixels expected, got "
            f"{container.width}x{container.height}."
        )
    if len(container.z) + len(container.y) > MAX_FILE_BYTES - MAX_OVERHEAD_BYTES:
        raise BitstreamError("The file would have more than 1 GiB: split the image.")
    header = _HEADER.pack(
        MAGIC,
        1 if container.k is None else 2,
        container.mode,
        container.fingerprint,
        container.height,
        container.width,
        container.latents_crc,
        len(container.z),
        len(container.y),
        len(flags),
    )
    step = b"" if container.k is None else _STEP.pack(container.k)
    body = header + step + flags + container.z + container.y
    return body + _CHECKSUM.pack(zlib.crc32(body))


def unpack(data, max_pixels=MAX_PIXELS):
    """The ``Container`` of a file's bytes.

    Args:
      data: the whole file.
      max_pixels: images that promise more are refused before anything is allocated, see
        ``check_size``.

    Raises:
      BitstreamError: for anything but a whole and undamaged file of this version.
    """
    if not data:
        raise BitstreamError("The file is empty.")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise BitstreamError("Not a GLIC file: it does not begin with the letters GLIC.")
    if len(data) > 4 and data[4] not in VERSIONS:
        raise BitstreamError(
            f"Format version 1 or 2 expected, got {data[4]}: decode the file with the release "
            "that wrote it (or it is damaged)."
        )
    in_steps = data[4:5] == b"\2"
    header_size = _HEADER.size + in_steps * _STEP.size
    if len(data) < header_size + _CHECKSUM.size:
        raise BitstreamError(
            f"The file is cut off: at least {header_size + _CHECKSUM.size} bytes expected, got "
            f"{len(data)}."
        )
    _, _, mode, fingerprint, height, width, latents_crc, z_size, y_size, flag_size = (
        _HEADER.unpack_from(data)
    )
    expected = header_size + flag_size + z_size + y_size + _CHECKSUM.size
    if len(data) != expected:
        state = "cut off" if len(data) < expected else "damaged or has bytes behind its end"
        raise BitstreamError(f"The file is {state}: {expected} bytes expected, got {len(data)}.")
    (checksum,) = _CHECKSUM.unpack_from(data, expected - _CHECKSUM.size)
    if checksum != zlib.crc32(data[: -_CHECKSUM.size]):
        raise BitstreamError("The file is damaged: its checksum does not match its contents.")
    k = _STEP.unpack_from(data, _HEADER.size)[0] if in_steps else None
    if mode not in MODES or not height or not width or not flag_size or k == 0:
        raise BitstreamError("The file's header holds impossible values: it was not written by us.")
    check_size(height, width, max_pixels)
    flags_end = header_size + flag_size
    flags = np.frombuffer(data, np.uint8, flag_size, header_size)
    return Container(
        fingerprint,
        height,
        width,
        mode,
        np.unpackbits(flags).astype(bool),
        latents_crc,
        data[flags_end : flags_end + z_size],
        data[flags_end + z_size : flags_end + z_size + y_size],
        k,
    )
