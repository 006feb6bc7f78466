"""Outputs: files that appear under their names only when they are whole and on the disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
import time
import zlib
from pathlib import Path

from cli import streams, urls
from cli.urls import Url
from errors import GlicError

# Age of a temporary file that a killed process left. A file is written in one go, so that a young
# one may still be at work, on this machine or on another that shares the folder.
STALE_SECONDS = 3600
# The names that atomic_write gives: process, machine, number.
_TEMPORARY = re.compile(r"\.(\d+)-([0-9a-f]{8})[0-9a-f]{8}\.tmp")
_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"


class OutputError(GlicError):
    """An output that cannot be made, or that is not what it should be."""


class OutputExists(OutputError):
    """An output that is already there and must not be replaced."""


def write(output, data, *, overwrite=True, times=None, read_back=False):
    """Writes bytes to standard output for ``STREAM``, else as ``atomic_write`` does.

    At an address there are no ``times``.

    Raises:
      urls.UrlError: for an address that cannot be written; else as ``atomic_write``.
    """
    if output == streams.STREAM:
        streams.write(data)
    elif isinstance(output, Url):
        written = urls.write(output, data, overwrite=overwrite, read_back=read_back)
        if not (written or urls.read(output) == data):
            raise _taken(output)
    else:
        atomic_write(output, data, overwrite=overwrite, times=times, read_back=read_back)


def exists(output):
    """Whether something has an output's name."""
    return urls.exists(output) if isinstance(output, Url) else os.path.lexists(output)


def checksum(data):
    """SHA-256 of bytes, hexadecimal, as manifests have it."""
    return hashlib.sha256(data).hexdigest()


def checksum_of(output):
    """That of an output, or None where there is none."""
    try:
        return checksum(urls.read(output) if isinstance(output, Url) else output.read_bytes())
    except (OSError, urls.UrlError):
        return None


def _taken(path):
    return OutputExists(
        f"{path} exists with other bytes, which another process wrote meanwhile or changed: add "
        "--overwrite to replace it."
    )


def times_of(path):
    """Times of a file's last access and change, in nanoseconds."""
    status = os.stat(path)
    return status.st_atime_ns, status.st_mtime_ns


def atomic_write(path, data, *, overwrite=True, times=None, read_back=False):
    """Writes bytes so that ``path`` holds either all of them or what it held before.

    They go to a hidden temporary file in the same folder, which gets the name when it is on the
    disk, and is removed on any failure, a keyboard interrupt included. With ``overwrite`` a
    symbolic link is followed, and what is no regular file (a pipe, /dev/null) is written directly.
    Without it the name is taken atomically: where two processes write the same output, neither
    replaces what the other wrote, and the second fails unless it is the same bytes.

    Args:
      path: the file's name in the end.
      data: bytes.
      overwrite: whether to replace what has that name.
      times: of last access and change, in nanoseconds, for the file; None: those of writing it.
      read_back: whether to compare what the disk gives back before the file gets its name.

    Raises:
      OutputExists: where the name is taken by other bytes.
      OutputError: where the file reads back otherwise.
      OSError: where the file cannot be written; its ``filename`` is ``path``.
    """
    target = Path(os.path.realpath(path)) if overwrite else Path(path)
    temporary = target.parent / f".{os.getpid()}-{_MACHINE}{secrets.token_hex(4)}.tmp"
    try:
        if overwrite and os.path.exists(target) and not os.path.isfile(target):
            target.write_bytes(data)
            return
        try:
            _write_whole(temporary, data)
            if read_back and temporary.read_bytes() != data:
                raise OutputError(f"{path} reads back from the disk other than it was written.")
            if times:
                os.utime(temporary, ns=times)
            if overwrite:
                os.replace(temporary, target)
            elif not (_linked(temporary, target) or _holds(target, data)):
                raise _taken(path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    except OSError as error:
        # The temporary name would mean nothing to the user. The number picks the subclass.
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write_whole(path, data):
    # Mode "x" creates the file exclusively and with the permissions that the umask asks for,
    # where tempfile.mkstemp would leave it readable by its owner only.
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # before the name: a power cut must not leave it on nothing


def _linked(temporary, output):
    """Gives a file its name unless it is taken; returns whether it did."""
    try:
        os.link(temporary, output)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if os.path.lexists(output):
            return False
        os.replace(temporary, output)
    return True


def _holds(path, data):
    """Whether a file holds these bytes."""
    try:
        return os.path.getsize(path) == len(data) and Path(path).read_bytes() == data
    except OSError:
        return False


def remove_unfinished(output, pid):
    """Removes what ``atomic_write`` left of an output in a process of this machine that is dead.

    Args:
      output: where it was to be; at an address there is nothing to remove.
      pid: the number of the process.
    """
    if output == streams.STREAM or isinstance(output, Url):
        return
    for folder in {Path(output).parent, Path(os.path.realpath(output)).parent}:
        with contextlib.suppress(OSError):  # no such folder yet, or gone meanwhile
            for entry in folder.iterdir():
                is_ours = _TEMPORARY.fullmatch(entry.name)
                if is_ours and is_ours.groups() == (str(pid), _MACHINE):
                    entry.unlink()


def make_folder(folder):
    """Makes an output folder, and removes what killed processes left in it.

    At an address there is nothing to make: objects have no folders.

    Raises:
      OSError: where it cannot be made or read.
    """
    if isinstance(folder, Url):
        return
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        # OSError: gone meanwhile, or not ours to remove.
        with contextlib.suppress(OSError):
            is_ours = _TEMPORARY.fullmatch(entry.name)
            if is_ours and time.time() - entry.stat().st_mtime > STALE_SECONDS:
                entry.unlink()
