"""Latents to bytes and back through a range coder, driven by integer tables.

z is coded by row, column and channel with the factorised prior's tables, y by wavefront step,
position and channel with the tables of its mixtures. Any integer can be coded: what lies outside
a table is an escape symbol followed by an Exp-Golomb code of equiprobable bits.
"""

import numpy as np
import threadpoolctl

from coding import range_coding
from coding.context import BATCH_POSITIONS
from coding.latents import LatentError
from gmm_entropy import RADII, TOTAL, CodingMixture

BIT = [0, 1, 2]  # table of one equiprobable bit
MAX_GOLOMB_BITS = 24  # longer prefixes do not occur: latents are limited to 2^20
METER_SLACK = 1.0  # bits, over the rounding of sums of logarithms
LEAST_ENTRIES = 2 * RADII[0] + 2  # of a table of y beside the symbol that is coded
DECODE_SYMBOLS = 1 << 13  # of y whose tables exist at a time: bounds the decoder's memory


class _Meter:
    """Stops decoding where more bits were read than the payload has.

    range-coder goes on behind its file's end and returns garbage. A symbol with a share p of the
    range takes at least log2(1 / p) bits, and those of a whole string fit into its bytes: a file
    that runs out is named within a wavefront step instead of at the end of a huge image.
    """

    def __init__(self, data):
        self._left = 8 * len(data) + METER_SLACK

    def spend(self, bits):
        """Raises LatentError when the payload has too few bits."""
        self._left -= bits
        if self._left < 0:
            raise LatentError("The payload ends before the image does: the file is damaged.")


def _bits_of(frequencies, last):
    """Fewest bits that intervals take.

    Args:
      frequencies: their widths, out of 65536.
      last: whether they end at 65536; range-coder adds there what its division leaves over, less
        than 256 units.
    """
    width = np.asarray(frequencies, np.float64) + np.where(last, 256, 0)
    return np.log2(TOTAL / np.minimum(width, TOTAL))


def escape_code(value, order):
    """Exp-Golomb code of ``value`` >= 0, a list of bits: a unary prefix for the length, then it."""
    value += 1 << order
    length = value.bit_length() - 1
    return [1] * (length - order) + [0] + [value >> i & 1 for i in range(length - 1, -1, -1)]


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
        # Fewest bits of each symbol, and of a whole position.
        self.bits = []
        for table in self.tables:
            last = np.arange(len(table) - 1) == len(table) - 2
            self.bits.append(_bits_of(np.diff(table), last).tolist())
        self.least_bits = sum(min(bits) for bits in self.bits)


def z_symbol(value, escape):
    """(Symbol, escape code) of ``value``, counted from a table's first; ``escape`` is its last.

    The code is empty for values that the table holds.
    """
    if 0 <= value < escape:
        return value, []
    # Odd codes lie below the table, even ones above.
    return escape, escape_code(-2 * value - 1 if value < 0 else 2 * (value - escape), 0)


def encode_z(symbols, z_tables):
    """Bytes of int (h, w, C) symbols."""

    def write(encoder):
        for position in symbols.reshape(-1, symbols.shape[-1]).tolist():
            for value, table, offset in zip(position, z_tables.tables, z_tables.offsets):
                symbol, code = z_symbol(value - offset, len(table) - 2)
                encoder.encode([symbol], table)
                if code:
                    encoder.encode(code, BIT)

    return range_coding.encode(write)


def decode_z(data, shape, z_tables):
    """int32 array of ``shape`` (h, w, C) from bytes.

    Raises:
      LatentError: for a payload that is too short for the shape, before anything is allocated
        where that is certain.
    """
    meter = _Meter(data)
    _Meter(data).spend(shape[0] * shape[1] * z_tables.least_bits)
    channels = list(zip(z_tables.tables, z_tables.offsets, z_tables.bits))
    symbols = np.empty(shape, np.int32)

    def read_position(decoder):
        values, spent = [], 0.0
        for table, offset, bits in channels:
            value = decoder.decode(1, table)[0]
            spent += bits[value]
            escape = len(table) - 2
            if value == escape:
                overflow = _read_golomb(decoder, 0)
                value = -(overflow + 1) // 2 if overflow % 2 else overflow // 2 + escape
            values.append(value + offset)
        meter.spend(spent)
        return values

    def read(decoder):
        for row in symbols:
            for position in row:
                position[:] = read_position(decoder)
        return symbols

    return range_coding.decode(data, read)


def coded_intervals(values, image_model, family):
    """Yields how y's active channels are coded, batch by batch in coding order.

    Args:
      values: int (h, w, C), the active channels' symbols.
      image_model: ``context.ImageModel`` of the image.
      family: "gmm" or "gllmm".

    Yields:
      ``positions``, (P,) indices among the h * w; ``low``, ``high``, (P * C,) the interval out of
      65536 of each latent; ``escapes``, dict of an index among these to its escape code.
    """
    positions = image_model.schedule.positions
    flat = values.reshape(-1, values.shape[-1])
    canvas = image_model.new_canvas()
    batches = [
        (start, min(start + BATCH_POSITIONS, len(positions)))
        for start in range(0, len(positions), BATCH_POSITIONS)
    ]
    for start, stop in batches:
        image_model.place(canvas, start, stop, flat[positions[start:stop]])
    for start, stop in batches:
        parameters = image_model.parameters(canvas, start, stop)
        mixture = CodingMixture(parameters, family, image_model.k)
        low, high, excess, order = mixture.intervals(flat[positions[start:stop]].ravel())
        escapes = {
            int(i): escape_code(int(excess[i]), int(order[i])) for i in np.flatnonzero(excess >= 0)
        }
        yield positions[start:stop], low, high, escapes


def encode_y(values, image_model, family):
    """Bytes of y's active channels; see ``coded_intervals``."""

    def write(encoder):
        encode = encoder.encode
        for _, low, high, escapes in coded_intervals(values, image_model, family):
            for i, (a, b) in enumerate(zip(low.tolist(), high.tolist())):
                # Entry 1 of this table, or 0 where a = 0, is the interval [a, b).
                if a == 0:
                    encode([0], [0, b, TOTAL])
                else:
                    encode([1], [0, a, b, TOTAL] if b < TOTAL else [0, a, TOTAL])
                if i in escapes:
                    encode(escapes[i], BIT)

    return range_coding.encode(write)


def check_y_size(data, positions, channels):
    """Raises LatentError where so few bytes cannot hold y, whatever its probabilities."""
    least = float(_bits_of(TOTAL - LEAST_ENTRIES, False))
    _Meter(data).spend(positions * channels * least)


def _read_symbols(decode, decoder, mixture, meter):
    """int64 (S,) symbols of a ``CodingMixture`` of as many."""
    tables, first, order = mixture.tables()
    symbols, widths, above = [], [], []
    for i, table in enumerate(tables):
        symbol = decode(1, table)[0]
        widths.append(table[symbol + 1] - table[symbol])
        if symbol == 0:
            symbol = -_read_golomb(decoder, int(order[i]))
        elif symbol == len(table) - 2:
            above.append(i)
            symbol += _read_golomb(decoder, int(order[i]))
        symbols.append(symbol)
    last = np.zeros(len(widths), bool)
    last[above] = True
    meter.spend(float(_bits_of(widths, last).sum()))
    return np.array(symbols, np.int64) + first - 1


def decode_y(data, image_model, channels, family):
    """int32 (h, w, channels) from bytes: the inverse of ``encode_y``, one wavefront at a time.

    Raises:
      LatentError: for a payload that ends before the image does.
    """
    positions, steps = image_model.schedule
    canvas = image_model.new_canvas()
    decoded = np.zeros((len(positions), channels), np.int32)
    meter = _Meter(data)

    def read(decoder):
        decode = decoder.decode
        for start, stop in zip(steps[:-1].tolist(), steps[1:].tolist()):
            parameters = image_model.parameters(canvas, start, stop)
            parts = []
            for i in range(0, parameters.shape[1], DECODE_SYMBOLS):
                own = parameters[:, i : i + DECODE_SYMBOLS]
                mixture = CodingMixture(own, family, image_model.k)
                parts.append(_read_symbols(decode, decoder, mixture, meter))
            values = np.concatenate(parts).reshape(stop - start, channels)
            decoded[positions[start:stop]] = values
            image_model.place(canvas, start, stop, values)

    # A step multiplies a few dozen rows. Threads that share that spin between the steps: beside
    # another busy process they took twice the time and twice the CPU.
    with threadpoolctl.get_cached_controller().limit(limits=1, user_api="blas"):
        range_coding.decode(data, read)
    return decoded.reshape(image_model.height, image_model.width, channels)
