"""CRC-32C (Castagnoli, RFC 3720 appendix B.4), as TensorFlow's checkpoints have it, in NumPy.

Parts of the data are worked on side by side, two bytes at a time, and their registers joined: the
register is linear in the data, so that what n more zeros make of it is a matrix over GF(2).
"""

from __future__ import annotations

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78  # reversed
_START = 0xFFFFFFFF
_WORDS = 64  # of two bytes, in a part: about as many steps side by side as parts to be joined
_MAX_PARTS = 1 << 13  # at a time


@functools.cache
def _table():
    """uint32 (65536,): what becomes of a register whose upper half is 0 in 16 steps."""
    table = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1)
    return table


def _through(columns, registers):
    """uint32 registers multiplied by the matrix that has these columns, uint32 (32,)."""
    result = np.zeros_like(registers)
    for bit in range(32):
        result ^= (registers >> np.uint32(bit) & np.uint32(1)) * columns[bit]
    return result


def _after(words, registers):
    """uint32 registers after that many words of zeros."""
    table = _table()
    for _ in range(words):
        registers = table[registers & 0xFFFF] ^ registers >> np.uint32(16)
    return registers


def crc32c(data):
    """The checksum of bytes, an int of 32 bits."""
    data = np.frombuffer(data, np.uint8)
    table = _table()
    if len(data) <= 2 * _WORDS:
        register = _START
        for byte in data.tolist():
            register = int(table[(register ^ byte) << 8 & 0xFFFF]) ^ register >> 8
        return register ^ _START
    parts = min(_MAX_PARTS, 1 << (len(data) // (2 * _WORDS)).bit_length() - 1)
    words = -(-len(data) // (2 * parts))
    # Zeros before the data leave a register of 0 as it is; the one to start with is put on the
    # data's first bytes instead.
    padded = np.zeros(2 * parts * words, np.uint8)
    padded[-len(data) :] = data
    padded[-len(data) :][:4] ^= 0xFF
    registers = np.zeros(parts, np.uint32)
    for row in np.ascontiguousarray(padded.view("<u2").reshape(parts, words).T):
        registers = table[(registers ^ row) & 0xFFFF] ^ registers >> np.uint32(16)
    columns = _after(words, np.uint32(1) << np.arange(32, dtype=np.uint32))
    while len(registers) > 1:
        registers = _through(columns, registers[::2]) ^ registers[1::2]
        columns = _through(columns, columns)  # twice as many zeros
    return int(registers[0]) ^ _START


def masked_crc32c(data):
    """The checksum as LevelDB and TensorFlow store it: rotated, plus a constant."""
    checksum = crc32c(data)
    return (checksum >> 15 | checksum << 17) + 0xA282EAD8 & 0xFFFFFFFF
