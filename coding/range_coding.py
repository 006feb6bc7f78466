"""The range coder: the package range-coder where there is one, its arithmetic in Python elsewhere.

Both write the same bytes and read the same symbols (FORMAT.md, section 9). range-coder has wheels
for Linux on x86-64 only, and no source package.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from bisect import bisect_right

try:
    import range_coder
except ImportError:
    range_coder = None

PROBE_BYTES = 1 << 14  # more than range-coder buffers
_MASK = (1 << 32) - 1
_TOP = 1 << 24  # below it the range has lost a byte


class PythonEncoder:
    """Encodes symbols by their cumulative frequencies; as ``range_coder.RangeEncoder``."""

    def __init__(self):
        self._low, self._range, self._bytes = 0, _MASK, bytearray()

    def encode(self, symbols, table):
        """Encodes symbols, indices into the strictly rising ``table`` from 0 to its total.

        Raises:
          ValueError: for a symbol without a share of the range.
        """
        low, extent, total = self._low, self._range, table[-1]
        for symbol in symbols:
            start, end = table[symbol], table[symbol + 1]
            if not 0 <= start < end <= total:
                raise ValueError(f"A rising interval expected, got {start} to {end} of {total}.")
            unit = extent // total
            low += start * unit
            # The last symbol gets what the division leaves over.
            extent = extent - start * unit if end == total else (end - start) * unit
            if low > _MASK:
                low &= _MASK
                self._carry()
            while extent < _TOP:
                self._bytes.append(low >> 24)
                low = low << 8 & _MASK
                extent <<= 8
        self._low, self._range = low, extent

    def _carry(self):
        """Adds 1 to the bytes written, as one number."""
        last = len(self._bytes) - 1
        while self._bytes[last] == 0xFF:
            self._bytes[last] = 0
            last -= 1
        self._bytes[last] += 1

    def finish(self):
        """The payload; nothing can be encoded after it."""
        low, high = self._low, self._low + self._range & _MASK
        while low >> 24 == high >> 24:
            self._bytes.append(low >> 24)
            low, high = low << 8 & _MASK, high << 8 & _MASK
        self._bytes.append(low >> 24)
        return bytes(self._bytes)


class PythonDecoder:
    """Decodes what either encoder wrote; as ``range_coder.RangeDecoder``.

    Bytes behind the payload's end read as 0xFF: it is the caller's to notice.
    """

    def __init__(self, data):
        self._data, self._at, self._range = data, 4, _MASK
        self._code = int.from_bytes(data[:4].ljust(4, b"\xff"), "big")

    def decode(self, count, table):
        """List of the next ``count`` symbols of the strictly rising ``table``."""
        data, at, code, extent = self._data, self._at, self._code, self._range
        total, symbols = table[-1], []
        for _ in range(count):
            unit = extent // total
            symbol = bisect_right(table, min(code // unit, total - 1)) - 1
            start, end = table[symbol], table[symbol + 1]
            code -= start * unit
            extent = extent - start * unit if end == total else (end - start) * unit
            while extent < _TOP:
                code = code << 8 & _MASK | (data[at] if at < len(data) else 0xFF)
                extent <<= 8
                at += 1
            symbols.append(symbol)
        self._at, self._code, self._range = at, code, extent
        return symbols


def encode(write):
    """Bytes of what ``write(encoder)`` encodes.

    Raises:
      OSError: where range-coder's scratch file cannot grow. It would not notice a full disk itself
        and leave a payload that is cut off.
    """
    if range_coder is None:
        encoder = PythonEncoder()
        write(encoder)
        return encoder.finish()
    with _scratch_file() as (file, path):
        encoder = range_coder.RangeEncoder(path)
        write(encoder)
        encoder.close()
        size = file.seek(0, os.SEEK_END)
        file.write(bytes(PROBE_BYTES))
        file.flush()
        file.seek(0)
        return file.read(size)


def decode(data, read):
    """The result of ``read(decoder)`` on ``data``."""
    if range_coder is None:
        return read(PythonDecoder(data))
    with _scratch_file() as (file, path):
        file.write(data)
        file.flush()
        decoder = range_coder.RangeDecoder(path)
        try:
            return read(decoder)
        finally:
            decoder.close()


@contextlib.contextmanager
def _scratch_file():
    """An open file and a path to it: range-coder reads and writes files only.

    In memory where the system offers that, so that not even a killed process leaves it behind;
    otherwise in the folder for temporary files.
    """
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        with os.fdopen(os.memfd_create("glic"), "w+b") as file:
            yield file, f"/proc/self/fd/{file.fileno()}"
        return
    handle, path = tempfile.mkstemp(prefix="glic-", suffix=".range")
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file, path
    finally:
        os.unlink(path)
