"""Latents to bytes and back through range-coder, driven by integer tables.

z is coded by row, column and channel with the factorised prior's tables, y by wavefront step,
position and channel with the tables of its mixtures. Any integer can be coded: what lies outside
a table is an escape symbol followed by an Exp-Golomb code of equiprobable bits.
"""

import contextlib
import os
import tempfile

import numpy as np
from range_coder import RangeDecoder, RangeEncoder

from context import BATCH_POSITIONS
from gmm_entropy import TOTAL, CodingMixture

BIT = [0, 1, 2]  # table of one equiprobable bit
MAX_GOLOMB_BITS = 24  # longer prefixes do not occur: latents are limited to 2^20
VALUE_LIMIT = 1 << 20


class LatentError(ValueError):
    """Latents that cannot be coded, or bytes that hold no latents."""


@contextlib.contextmanager
def _scratch_file():
    """Path of a temporary file: range-coder reads and writes files only."""
    handle, path = tempfile.mkstemp(prefix="glic-", suffix=".range")
    os.close(handle)
    try:
        yield path
    finally:
        os.unlink(path)


def _encode_to_bytes(write):
    """Bytes of what ``write(encoder)`` encodes."""
    with _scratch_file() as path:
        encoder = RangeEncoder(path)
        write(encoder)
        encoder.close()
        with open(path, "rb") as file:
            return file.read()


def _decode_from_bytes(data, read):
    """The result of ``read(decoder)`` on ``data``."""
    with _scratch_file() as path:
        with open(path, "wb") as file:
            file.write(data)
        decoder = RangeDecoder(path)
        try:
            return read(decoder)
        finally:
            decoder.close()


def _write_golomb(encoder, value, order):
    """Exp-Golomb code of ``value`` >= 0: a unary prefix for the length, then the bits."""
    value += 1 << order
    length = value.bit_length() - 1
    encoder.encode([1] * (length - order) + [0], BIT)
    encoder.encode([value >> i & 1 for i in range(length - 1, -1, -1)], BIT)


def _read_golomb(decoder, order):
    length = order
    while decoder.decode(1, BIT)[0]:
        length += 1
        if length > MAX_GOLOMB_BITS:
            raise LatentError("An escape code is too long: the file's latents are damaged.")
    value = 1
    for bit in decoder.decode(length, BIT):
        value = value << 1 | bit
    return value - (1 << order)


def check_latents(name, values):
    """Raises LatentError unless all of ``values`` are finite and within +-2^20."""
    if not np.all(np.abs(values) <= VALUE_LIMIT):  # False for NaN, too
        raise LatentError(
            f"Latents {name} within +-{VALUE_LIMIT} expected, but the model gave larger or "
            "non-finite ones for this image: it cannot code it."
        )


class ZTables:
    """The factorised prior's integer tables, from a checkpoint's variables.

    Args:
      quantized_cdf: int32 (C, L), rows of cumulative frequencies padded with zeros.
      cdf_length: int32 (C,), valid numbers per row; the last symbol of a row is the escape.
      offsets: int32 (C,), value of the rows' first symbols.

    Raises:
      LatentError: for rows that do not rise strictly from 0 to 65536.
    """

    def __init__(self, quantized_cdf, cdf_length, offsets):
        self.offsets = [int(v) for v in offsets]
        self.tables = [[int(v) for v in row[: int(n)]] for row, n in zip(quantized_cdf, cdf_length)]
        for channel, table in enumerate(self.tables):
            rises = all(a < b for a, b in zip(table, table[1:]))
            if len(table) < 3 or not rises or (table[0], table[-1]) != (0, TOTAL):
                raise LatentError(
                    f"The table of z's channel {channel} does not rise from 0 to {TOTAL}: export "
                    "the model again."
                )


def encode_z(symbols, z_tables):
    """Bytes of int (h, w, C) symbols."""

    def write(encoder):
        for position in symbols.reshape(-1, symbols.shape[-1]).tolist():
            for value, table, offset in zip(position, z_tables.tables, z_tables.offsets):
                value -= offset
                escape = len(table) - 2
                if 0 <= value < escape:
                    encoder.encode([value], table)
                else:
                    encoder.encode([escape], table)
                    # Odd codes lie below the table, even ones above.
                    overflow = -2 * value - 1 if value < 0 else 2 * (value - escape)
                    _write_golomb(encoder, overflow, 0)

    return _encode_to_bytes(write)


def decode_z(data, shape, z_tables):
    """int64 array of ``shape`` (h, w, C) from bytes."""

    def read(decoder):
        values = []
        for _ in range(shape[0] * shape[1]):
            for table, offset in zip(z_tables.tables, z_tables.offsets):
                value = decoder.decode(1, table)[0]
                escape = len(table) - 2
                if value == escape:
                    overflow = _read_golomb(decoder, 0)
                    value = -(overflow + 1) // 2 if overflow % 2 else overflow // 2 + escape
                values.append(value + offset)
        return np.array(values, np.int64).reshape(shape)

    return _decode_from_bytes(data, read)


def encode_y(values, image_model, family):
    """Bytes of y's active channels.

    Args:
      values: int (h, w, C), the active channels' latents.
      image_model: ``context.ImageModel`` of the image.
      family: "gmm" or "gllmm".
    """
    positions = image_model.schedule.positions
    scheduled = values.reshape(-1, values.shape[-1])[positions]
    canvas = image_model.new_canvas()
    image_model.place(canvas, 0, len(positions), scheduled.astype(np.float64))

    def write(encoder):
        encode = encoder.encode
        for start in range(0, len(positions), BATCH_POSITIONS):
            stop = min(start + BATCH_POSITIONS, len(positions))
            mixture = CodingMixture(image_model.parameters(canvas, start, stop), family)
            low, high, excess, order = mixture.intervals(scheduled[start:stop].ravel())
            escaped = set(np.flatnonzero(excess >= 0).tolist())
            for i, (a, b) in enumerate(zip(low.tolist(), high.tolist())):
                # Entry 1 of this table, or 0 where a = 0, is the interval [a, b).
                if a == 0:
                    encode([0], [0, b, TOTAL])
                else:
                    encode([1], [0, a, b, TOTAL] if b < TOTAL else [0, a, TOTAL])
                if i in escaped:
                    _write_golomb(encoder, int(excess[i]), int(order[i]))

    return _encode_to_bytes(write)


def decode_y(data, image_model, channels, family):
    """int64 (h, w, channels) from bytes: the inverse of ``encode_y``, one wavefront at a time."""
    positions, steps = image_model.schedule
    canvas = image_model.new_canvas()
    decoded = np.zeros((len(positions), channels), np.int64)

    def read(decoder):
        decode = decoder.decode
        for start, stop in zip(steps[:-1].tolist(), steps[1:].tolist()):
            mixture = CodingMixture(image_model.parameters(canvas, start, stop), family)
            tables, first, order = mixture.tables()
            symbols = []
            for i, table in enumerate(tables):
                symbol = decode(1, table)[0]
                if symbol == 0:
                    symbol = -_read_golomb(decoder, int(order[i]))
                elif symbol == len(table) - 2:
                    symbol += _read_golomb(decoder, int(order[i]))
                symbols.append(symbol)
            values = (np.array(symbols, np.int64) + first - 1).reshape(stop - start, channels)
            decoded[positions[start:stop]] = values
            image_model.place(canvas, start, stop, values.astype(np.float64))

    _decode_from_bytes(data, read)
    return decoded.reshape(image_model.height, image_model.width, channels)
