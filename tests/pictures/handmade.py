"""Files, colour profiles and transfer functions made by hand, apart from what is tested."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms

# x and y of white, red, green, blue.
PRIMARIES = {
    "sRGB": (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),
    "Adobe RGB": (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06),
    "Display P3": (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    "BT.2020": (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    "DCI-P3": (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    "BT.470 M": (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    "BT.470 BG": (0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    "SMPTE 170M": (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    "film": (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    "EBU 3213": (0.3127, 0.3290, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
    "XYZ": (1 / 3, 1 / 3, 1, 0, 0, 1, 0, 0),
}


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_raw_png(path, samples_, colour_type, depth=16, extra=b""):
    """A PNG written by hand: `samples_` is (H, W * channels); Pillow writes no 16-bit RGB."""
    height, columns = samples_.shape
    width = columns // {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    kind = ">u2" if depth == 16 else "u1"
    rows = b"".join(b"\0" + row.astype(kind).tobytes() for row in samples_)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def write_tiff(path, values, sample_format=1, photometric=1, planes=None):
    """A little-endian uncompressed TIFF of one strip a plane, (H, W) or (planes, H, W)."""
    values = np.atleast_3d(values) if planes is None else values
    height, width = values.shape[-2:] if planes else values.shape[:2]
    count = planes or 1
    bits, size = values.dtype.itemsize * 8, height * width * values.dtype.itemsize
    start = 8 + 2 + 11 * 12 + 4
    data = start + 8 * count + 2 * count

    def entry(tag, kind, number, value):
        return struct.pack("<HHII", tag, kind, number, value)

    one = count == 1
    directory = [
        entry(256, 3, 1, width),
        entry(257, 3, 1, height),
        entry(258, 3, count, bits if one else start + 8 * count),
        entry(259, 3, 1, 1),
        entry(262, 3, 1, photometric),
        entry(273, 4, count, data if one else start),
        entry(277, 3, 1, count),
        entry(278, 3, 1, height),
        entry(279, 4, count, size if one else start + 4 * count),
        entry(284, 3, 1, 1 if one else 2),
        entry(339, 3, 1, sample_format),
    ]
    offsets = [data + size * i for i in range(count)]
    path.write_bytes(
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(directory))
        + b"".join(directory)
        + b"\0\0\0\0"
        + struct.pack(f"<{count}I", *offsets)
        + struct.pack(f"<{count}I", *[size] * count)
        + struct.pack(f"<{count}H", *[bits] * count)
        + values.tobytes()
    )


def _xyz(x, y, z):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * v) for v in (x, y, z)))


_D50 = (63190 / 65536, 1, 54061 / 65536)  # white of every profile


def icc_profile(spaces, tags, kind=b"prtr"):
    """A profile after ICC.1:2001-04; `spaces` are its device and connection space."""
    tags = {**tags, b"wtpt": _xyz(*_D50)}
    directory, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + len(tags) * 12
    for name, data in tags.items():
        directory += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = bytearray(128)
    header[0:4] = struct.pack(">I", offset + len(body))
    header[8:24] = b"\x02\x40\0\0" + kind + spaces
    header[36:40] = b"acsp"
    header[68:80] = _xyz(*_D50)[8:]
    return bytes(header) + directory + body


def colorants(primaries):
    """XYZ of red, green and blue under D50, the columns of (3, 3), by Bradford's adaptation."""
    white, *corners = (np.array([x, y, 1 - x - y]) for x, y in np.reshape(primaries, (4, 2)))
    white = white / white[1]
    matrix = np.array(corners).T
    matrix = matrix * np.linalg.solve(matrix, white)
    cone = np.array(
        [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
    )
    return np.linalg.inv(cone) @ np.diag(cone @ _D50 / (cone @ white)) @ cone @ matrix


def rgb_profile(primaries, *curves):
    """An RGB profile; one curve or three take signals in [0, 1] to light in [0, 1]."""
    tags = {}
    for name, curve in zip((b"rTRC", b"gTRC", b"bTRC"), curves * (3 // len(curves))):
        light = np.rint(curve(np.linspace(0, 1, 4096)).clip(0, 1) * 65535).astype(">u2")
        tags[name] = b"curv\0\0\0\0" + struct.pack(">I", light.size) + light.tobytes()
    for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants(primaries).T):
        tags[name] = _xyz(*xyz)
    return icc_profile(b"RGB XYZ ", tags, kind=b"mntr")


def power(exponent):
    return lambda signal: signal**exponent


def srgb(signal):
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def srgb_signal(light):
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def lattice(step=17):
    """Colours of all kinds, (H, W, 3)."""
    steps = np.arange(0, 256, step, dtype=np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(steps.size, -1, 3)


def by_littlecms(pixels, profile):
    """What LittleCMS makes of pixels of a profile in sRGB."""
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        "RGB",
        "RGB",
        flags=ImageCms.Flags.HIGHRESPRECALC,
    )
    return np.asarray(ImageCms.applyTransform(Image.fromarray(pixels), transform))


def pq_signal(nits):
    """Inverse EOTF of SMPTE ST 2084."""
    power = (np.asarray(nits) / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def pq_light(signal):
    """By its inverse, in units of 203 cd/m2, clipped at 1."""
    nits = np.concatenate([[0], np.geomspace(1e-6, 203, 200000)])
    return np.interp(signal, pq_signal(nits), nits / 203)
