"""What the headers of PNG, AVIF, HEIC, JPEG 2000 and JPEG XL state and Pillow does not pass on."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JXL_CODESTREAM = b"\xff\x0a"
_JXL_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_JPEG_2000_CONTAINER = b"\0\0\0\x0cjP  \r\n\x87\n"
_JPEG_2000_CODESTREAM = b"\xff\x4f\xff\x51"
_HEIC_BRANDS = frozenset(
    [b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"]
)

_HEAD_BYTES = 65536  # enough to reach the start of a JPEG 2000 codestream
# Width to height in a JPEG XL header that states no width, by its three bits (ISO/IEC 18181-1).
_JXL_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_JXL_HEADER_BYTES = 64  # more than size and bit depth take


class Colours(NamedTuple):
    """Colour space by the code points of ITU-T H.273, 2 meaning unspecified.

    narrow: samples from 16 to 235 (times the depth) are left to the caller to spread; the
      readers of AVIF and HEIC do that themselves, as they apply the YCbCr matrix.
    """

    primaries: int
    transfer: int
    narrow: bool


class Headers(NamedTuple):
    """What `read_headers` returns.

    kind: "PNG", "AVIF", "HEIC", "JPEG XL", "JPEG 2000", or "" for any other.
    bits: bits of a sample, 0 if not said.
    colours: of a PNG's cICP chunk or of the nclx property of an AVIF or HEIC picture.
    size: (width, height) before rotation, for JPEG XL only, whose reader decodes as it opens.
    """

    kind: str = ""
    bits: int = 0
    colours: Colours | None = None
    size: tuple[int, int] | None = None


def read_headers(file: BinaryIO) -> Headers:
    """Look at a seekable image file; its position is the start before and after.

    Damaged headers state nothing here: whoever decodes the file complains.
    """
    head = file.read(_HEAD_BYTES)
    kind = _kind(head)
    try:
        if kind == "PNG":
            file.seek(len(_PNG_SIGNATURE))
            return Headers(kind, colours=_png_colours(file))
        if kind in ("AVIF", "HEIC"):  # their boxes may lie behind the samples
            return Headers(kind, *_picture_item(head + file.read()))
        if kind == "JPEG XL":
            return Headers(kind, *_jxl_header(head + file.read()))
        if kind == "JPEG 2000":
            # SOC, SIZ, Lsiz, Rsiz, eight 32-bit sizes, Csiz; then Ssiz = bits - 1 and a sign bit.
            ssiz = head[head.index(_JPEG_2000_CODESTREAM) + 42]
            return Headers(kind, bits=(ssiz & 0x7F) + 1)
    except (struct.error, IndexError, ValueError):
        pass
    finally:
        file.seek(0)
    return Headers(kind)


def _kind(head: bytes) -> str:
    if head.startswith(_PNG_SIGNATURE):
        return "PNG"
    if head.startswith((_JXL_CODESTREAM, _JXL_CONTAINER)):
        return "JPEG XL"
    if head[4:8] == b"ftyp":
        size = int.from_bytes(head[:4], "big")
        brands = {head[i : i + 4] for i in (8, *range(16, min(size, len(head)), 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
    is_jpeg_2000 = head.startswith((_JPEG_2000_CODESTREAM, _JPEG_2000_CONTAINER))
    return "JPEG 2000" if is_jpeg_2000 else ""


def _png_colours(file: BinaryIO) -> Colours | None:
    while True:  # cICP has to come before the samples
        length, name = struct.unpack(">I4s", file.read(8))
        if name == b"cICP":
            primaries, transfer, _, full = struct.unpack(">4B", file.read(4))
            return Colours(primaries, transfer, narrow=not full)
        if name in (b"IDAT", b"IEND"):
            return None
        file.seek(length + 4, 1)  # and the checksum


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the contents of the boxes (ISO/IEC 14496-12) between two places."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        body = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, body)
            body += 8
        stop = min(start + size, end) if size else end
        if stop < body:
            return
        yield kind, body, stop
        start = stop


def _picture_item(data: bytes) -> tuple[int, Colours | None]:
    """Bits and colours of the primary item of an AVIF or HEIC file (ISO/IEC 23008-12)."""
    properties = _primary_properties(data)
    colours, bits = None, 0
    for kind, value in properties:
        if kind == b"colr" and value[:4] == b"nclx":
            colours = Colours(*struct.unpack_from(">HH", value, 4), narrow=False)
        elif kind == b"pixi":  # version and flags, number of channels, bits of each
            bits = max(value[5 : 5 + value[4]], default=0)
        elif kind == b"av1C" and not bits and value[2] & 0x40:  # high_bitdepth, then twelve_bit
            bits = 12 if value[2] & 0x20 else 10
    return bits, colours


def _primary_properties(data: bytes) -> list[tuple[bytes, bytes]]:
    meta = next(((a, b) for kind, a, b in _boxes(data, 0, len(data)) if kind == b"meta"), None)
    if meta is None:
        return []
    children = {kind: (a, b) for kind, a, b in _boxes(data, meta[0] + 4, meta[1])}
    if b"pitm" not in children or b"iprp" not in children:
        return []
    at = children[b"pitm"][0]
    (primary,) = struct.unpack_from(">I" if data[at] else ">H", data, at + 4)
    known, used = [], []
    for kind, start, end in _boxes(data, *children[b"iprp"]):
        if kind == b"ipco":
            known = [(k, data[a:b]) for k, a, b in _boxes(data, start, end)]
        elif kind == b"ipma":
            used += _associations(data, start, primary)
    return [known[index - 1] for index in used if 0 < index <= len(known)]


def _associations(data: bytes, at: int, item: int) -> list[int]:
    """The indices, from 1, that an ipma box at `at` gives an item."""
    flags, entries = struct.unpack_from(">II", data, at)
    id_format = ">IB" if flags >> 24 else ">HB"
    index_format, index_mask = (">H", 0x7FFF) if flags & 1 else (">B", 0x7F)
    at, indices = at + 8, []
    for _ in range(entries):
        owner, count = struct.unpack_from(id_format, data, at)
        at += struct.calcsize(id_format)
        for _ in range(count):
            (index,) = struct.unpack_from(index_format, data, at)
            at += struct.calcsize(index_format)
            if owner == item:
                indices.append(index & index_mask)
    return indices


def _jxl_header(head: bytes) -> tuple[int, None, tuple[int, int]]:
    """Bits, no colours (the reader hands out an ICC profile) and size of a JPEG XL picture."""
    codestream = head
    if head.startswith(_JXL_CONTAINER):
        codestream = b""
        for kind, start, end in _boxes(head, 0, len(head)):
            if kind in (b"jxlc", b"jxlp"):  # a part starts with its number
                codestream += head[start + 4 * (kind == b"jxlp") : end]
        if not codestream:
            raise ValueError("no codestream")
    padded = codestream[2:_JXL_HEADER_BYTES].ljust(_JXL_HEADER_BYTES, b"\0")
    bits = _Bits(int.from_bytes(padded, "little"))
    size = _jxl_size(bits)
    if bits.take(1):  # everything else has its default
        return 8, None, size
    if bits.take(1):  # extra fields
        bits.take(3)  # orientation
        if bits.take(1):
            _jxl_size(bits)  # the size to be shown at
        if bits.take(1):
            return 0, None, size  # a preview, which nobody writes
        if bits.take(1):  # an animation: ticks a second, loops, time codes
            for choices in ((0, 0, 10, 30), (0, 0, 8, 10), (0, 3, 16, 32)):
                bits.take(choices[bits.take(2)])
            bits.take(1)
    is_float = bits.take(1)
    depths = (32, 16, 24) if is_float else (8, 10, 12)
    choice = bits.take(2)
    return depths[choice] if choice < 3 else bits.take(6) + 1, None, size


class _Bits:
    """Bits of an integer, the lowest first."""

    def __init__(self, value: int):
        self._value = value

    def take(self, count: int) -> int:
        """The next `count` bits as an unsigned integer."""
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken


def _jxl_size(bits: _Bits) -> tuple[int, int]:
    in_eights = bits.take(1)

    def side():
        if in_eights:
            return 8 * (bits.take(5) + 1)
        return bits.take((9, 13, 18, 30)[bits.take(2)]) + 1

    height, ratio = side(), bits.take(3)
    if not ratio:
        return side(), height
    numerator, denominator = _JXL_RATIOS[ratio]
    return height * numerator // denominator, height
