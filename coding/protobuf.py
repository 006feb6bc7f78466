"""The wire format of protocol buffers: enough to read a checkpoint's index and to write a network.

https://protobuf.dev/programming-guides/encoding: a message is fields one after the other, each with
its number and one of four kinds of value. The package protobuf would need the messages' compiled
descriptions, which TensorFlow and onnx bring and which are larger than all of this.
"""

from __future__ import annotations

import struct

from errors import GlicError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # kinds of value on the wire
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}
MAX_VARINT_BYTES = 10


class ProtobufError(GlicError):
    """Bytes that are no message."""


def varint(data, at):
    """(Value, end) of the unsigned number of up to 64 bits at a position of bytes.

    Raises:
      ProtobufError: where there is none.
    """
    value = 0
    for shift, byte in enumerate(bytes(data[at : at + MAX_VARINT_BYTES])):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at + shift + 1
    raise ProtobufError("a number is cut off or has more than 64 bits")


def fields(data):
    """List of the (number, value) pairs of a message; values are int, or bytes where they nest.

    Raises:
      ProtobufError: for what is no message.
    """
    found, at = [], 0
    while at < len(data):
        tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = varint(data, at)
        else:
            if kind == _BYTES:
                width, at = varint(data, at)
            else:
                width = _WIDTHS.get(kind)
            if width is None or width > len(data) - at:
                raise ProtobufError("a field is cut off or of a kind that is not known")
            value, at = bytes(data[at : at + width]), at + width
            value = value if kind == _BYTES else int.from_bytes(value, "little")
        found.append((number, value))
    return found


def every(found, number, kind):
    """Yields the values of a field in a message's ``fields``.

    Raises:
      ProtobufError: for a value that is no ``kind``, int or bytes.
    """
    for this, value in found:
        if this == number:
            if not isinstance(value, kind):
                raise ProtobufError(f"field {number} is of another kind")
            yield value


def last(found, number, kind, default):
    """The value of a field that counts, the last; ``default`` where the message lacks it."""
    value = default
    for value in every(found, number, kind):  # noqa: B007
        pass
    return value


def message(*pairs):
    """Bytes of a message.

    Args:
      pairs: (number, value) of each field; a value is an int from 0, a float (32 bits), a str, or
        bytes; None leaves the field out.
    """
    parts = []
    for number, value in pairs:
        if value is None:
            continue
        if isinstance(value, int):
            parts += [_number(number << 3 | _VARINT), _number(value)]
        elif isinstance(value, float):
            parts += [_number(number << 3 | _FIXED32), struct.pack("<f", value)]
        else:
            value = value.encode() if isinstance(value, str) else value
            parts += [_number(number << 3 | _BYTES), _number(len(value)), value]
    return b"".join(parts)


def _number(value):
    """Bytes of an unsigned number."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
