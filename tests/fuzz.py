"""Feeds damaged files to the decoder: python tests/fuzz.py [COUNT] [--payload-share S] [--seed N]

Every input is a golden stream after one to three mutations, mostly with lengths and checksum set
right again, so that the damage reaches what lies behind them. Allowed outcomes: latents of a golden
stream (where the mutation changed nothing that matters), or a BitstreamError or ModelError.
Anything else, more than a second of processor time or more than 256 MiB beyond the start fails,
with the input's number: the same seed gives the same input again.

Inputs are of two kinds. Container inputs go through ``bitstream.unpack``; payload inputs are
unpacked and decoded to latents, with the default limit of 179 megapixels.
"""

import argparse
import collections
import json
import random
import resource
import struct
import time
import zlib

HEADER = struct.Struct("<4sBB8sIIIIIB")
STEP = struct.Struct("<H")
FIELDS = ["magic", "version", "mode", "fingerprint", "height", "width", "crc", "z", "y", "flags"]
NUMBERS = (0, 1, 2, 63, 64, 65, 255, 256, 1000, 4096, 13377, 65535, 65536, 2**24, 2**31, 2**32 - 1)
SECONDS = 1.0  # of processor time, of one input
MEMORY_MIB = 256  # that all inputs together may add


class FuzzError(Exception):
    """An input that did what none may."""


def split(data):
    """Dict of a sound file's header fields, and its flags, z and y as bytearrays."""
    header = dict(zip(FIELDS, HEADER.unpack_from(data)))
    start, parts = HEADER.size, []
    if header["version"] == 2:
        (header["step"],) = STEP.unpack_from(data, start)
        start += STEP.size
    for field in ("flags", "z", "y"):
        parts.append(bytearray(data[start : start + header[field]]))
        start += header[field]
    return header, parts


def join(header, parts, lengths_right=True):
    """A file with a right checksum."""
    if lengths_right:
        header = dict(header, flags=len(parts[0]) & 0xFF, z=len(parts[1]), y=len(parts[2]))
    body = HEADER.pack(*(header[f] for f in FIELDS))
    if "step" in header:
        body += STEP.pack(header["step"])
    body += b"".join(parts)
    return body + struct.pack("<I", zlib.crc32(body))


def damage(rng, data):
    """Mutates a bytearray in place, once."""
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(8)
    if kind == 0 and data:
        data[at % len(data)] ^= 1 << rng.randrange(8)
    elif kind == 1 and data:
        data[at % len(data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at : at + rng.randrange(1, 9)]
    elif kind == 4:
        data[at:at] = rng.randbytes(rng.randrange(1, 9))
    elif kind == 5:
        data[at:] = rng.randbytes(len(data) - at)
    elif kind == 6:
        data[at:] = bytes([rng.choice((0, 0xFF))]) * (len(data) - at)
    else:
        data += rng.randbytes(rng.choice((1, 100, 2000)))


def mutate(rng, data):
    """Bytes of a damaged file."""
    kind = rng.randrange(4)
    if kind == 0:  # anywhere, nothing repaired
        data = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            damage(rng, data)
        return bytes(data)
    header, parts = split(data)
    for _ in range(rng.randrange(1, 4)):
        if kind == 1:  # a header field; the checksum is right
            field = rng.choice(list(header)[1:])
            bits = {"version": 8, "mode": 8, "flags": 8, "step": 16, "fingerprint": 64}
            limit = bits.get(field, 32)
            value = rng.choice((rng.choice(NUMBERS), rng.randrange(1 << 16), rng.getrandbits(32)))
            value %= 1 << limit
            header[field] = struct.pack("<Q", value) if field == "fingerprint" else value
        else:  # flags and payloads; lengths and checksum are right
            damage(rng, parts[rng.choice((0, 1, 1, 2, 2, 2))])
    if kind == 3:
        header["height"], header["width"] = (rng.choice(NUMBERS[1:11]) for _ in range(2))
    return join(header, parts, lengths_right=kind != 1)


def feed(data, codec, sound=None):
    """The outcome of one input.

    Args:
      data: bytes of a file.
      codec: ``Codec``, or None for container inputs.
      sound: set of the latents, as SHA-256, that may come out; latents that do not are a
        FuzzError. None adds nothing to the check.
    """
    from make_golden import latents_sha256

    from coding import bitstream, models

    try:
        container = bitstream.unpack(data)
        if codec is None:
            return "unpacked"
        latents = codec.decode(container)
        if sound is not None and latents_sha256(latents) not in sound:
            raise FuzzError("latents that no sound file has")
    except bitstream.BitstreamError as error:
        # Without numbers, to count the kinds of refusal.
        return "".join(c for c in str(error) if not c.isdigit())[:60]
    except models.ModelError:
        return "another model"
    return "decoded"


def fuzz(codecs, streams, count, payload_share, seed, sound=None):
    """Feeds ``count`` inputs.

    Args:
      codecs: dict of family to ``Codec``.
      streams: list of (family, bytes) of sound files.
      count: number of inputs.
      payload_share: part of them that is decoded to latents.
      seed: of the mutations.
      sound: set of the streams' latents, see ``feed``.

    Returns:
      Counter of outcomes, slowest input in seconds, growth of the peak memory in MiB.

    Raises:
      FuzzError: for an input that raised anything unexpected or took too long or too much.
    """
    for family, data in streams:  # warm caches and tables
        feed(data, codecs[family])
    outcomes, slowest = collections.Counter(), 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        family, data = rng.choice(streams)
        codec = codecs[family] if rng.random() < payload_share else None
        data = mutate(rng, data)
        start = time.process_time()  # of this process: a busy machine is not the decoder's fault
        try:
            outcome = feed(data, codec, sound)
        except Exception as error:
            raise FuzzError(f"seed {seed}, input {number}: {error!r}") from error
        slowest = max(slowest, time.process_time() - start)
        if slowest > SECONDS:
            raise FuzzError(f"seed {seed}, input {number}: {slowest:.2f} s, {outcome}")
        outcomes["payload" if codec else "container", outcome] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > MEMORY_MIB:
        raise FuzzError(f"seed {seed}: {grown:.0f} MiB beyond the start")
    return outcomes, slowest, grown


def golden_manifest():
    """Dict of each golden stream's name to its entry."""
    from make_golden import MANIFEST

    return json.loads(MANIFEST.read_text(encoding="utf-8"))


def golden_streams():
    """(family, bytes) of every golden stream."""
    from make_golden import GOLDEN

    return [
        (entry["family"], (GOLDEN / f"{name}.glic").read_bytes())
        for name, entry in golden_manifest().items()
    ]


def golden_latents():
    """Set of the golden streams' latents, as SHA-256."""
    return {entry["latents_sha256"] for entry in golden_manifest().values()}


def main():
    """Prints the counts."""
    from golden_models import golden_codecs

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("count", nargs="?", type=int, default=10_000, help="(default: 10,000)")
    parser.add_argument("--payload-share", type=float, default=0.5, help="(default: 0.5)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    args = parser.parse_args()
    codecs = golden_codecs()
    start = time.perf_counter()
    outcomes, slowest, grown = fuzz(
        codecs, golden_streams(), args.count, args.payload_share, args.seed, golden_latents()
    )
    for (kind, outcome), number in outcomes.most_common():
        print(f"{number:8d}  {kind:9s}  {outcome}")
    print(
        f"{args.count} inputs in {time.perf_counter() - start:.0f} s; slowest {slowest:.3f} s, "
        f"{grown:.0f} MiB beyond the start"
    )


if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
    main()
