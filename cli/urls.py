"""Addresses such as s3://bucket/photo.jpg as files, by fsspec, which is imported for them alone."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import secrets
from pathlib import PurePath, PurePosixPath

from errors import GlicError

_FORM = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)  # two letters or more: c:/ is a drive
# Whose objects appear when they are whole. Elsewhere a file gets its name when it is.
_WHOLE = {"s3", "s3a", "gs", "gcs", "memory"}


class UrlError(GlicError):
    """An address that cannot be read or written; the message is one sentence for the user."""


def is_url(text):
    """Whether a text is an address and no path of a file here."""
    return _FORM.match(str(text)) is not None


@dataclasses.dataclass(frozen=True)
class Url:
    """An address, with what this project uses of ``pathlib.Path``.

    Args:
      text: with the protocol; a "/" at its end means nothing.
    """

    text: str

    def __post_init__(self):
        start = _FORM.match(self.text).end()
        object.__setattr__(self, "text", self.text[:start] + self.text[start:].rstrip("/"))

    def __str__(self):
        return self.text

    def __truediv__(self, other):
        parts = PurePath(other).parts
        return Url("/".join([self.text, *parts])) if parts else self

    @property
    def name(self):
        """What follows the last "/"."""
        return self.text.rpartition("/")[2]

    @property
    def stem(self):
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self):
        """The name's suffix with its dot, or an empty text."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self):
        """The address without its name."""
        return Url(self.text.rpartition("/")[0])


@contextlib.contextmanager
def _access(url, what):
    """The file system and the path in it; what goes wrong there becomes a ``UrlError``."""
    import preflight

    preflight.check(packages=("fsspec",), requirements="requirements-scale.txt")
    import fsspec

    try:
        yield fsspec.core.url_to_fs(url.text)
    except GlicError:
        raise
    except FileNotFoundError:
        raise UrlError(f"{url} does not exist.") from None
    except ImportError as error:
        raise UrlError(
            f"{url} cannot be {what}: {error}; run 'pip install -r requirements-scale.txt' in this "
            "environment."
        ) from None
    except Exception as error:  # each store has its own
        raise UrlError(f"{url} cannot be {what}: {error or type(error).__name__}") from None


def exists(url):
    """Whether there is an object or a folder."""
    with _access(url, "read") as (system, path):
        return system.exists(path)


def is_folder(url):
    """Whether there is anything below."""
    with _access(url, "read") as (system, path):
        return system.isdir(path)


def folder(url, recursive=False):
    """What is in a folder: (list of the ``Url`` of each file, number of its subfolders).

    With ``recursive`` the files of subfolders are in the list. A folder that does not exist is
    empty.
    """
    with _access(url, "listed") as (system, path):
        system.invalidate_cache(path)
        if recursive:
            found, folders = system.find(path), 0
        else:
            try:
                entries = system.ls(path, detail=True)
            except FileNotFoundError:
                entries = []
            found = [entry["name"] for entry in entries if entry["type"] == "file"]
            folders = sum(entry["type"] == "directory" for entry in entries)
        below = sorted(name[len(path) :].lstrip("/") for name in found)
        return [Url(f"{url}/{name}") for name in below], folders


def read(url):
    """The bytes of an object."""
    with _access(url, "read") as (system, path):
        return system.cat_file(path)


def opened(url):
    """An object's bytes as a file."""
    return io.BytesIO(read(url))


def write(url, data, *, overwrite=True, read_back=False):
    """Writes an object so that it appears when it is whole.

    Args:
      url: its address. data: bytes.
      overwrite: whether to replace what has that name. Without it the name is taken atomically in
        stores that can do so (S3: If-None-Match).
      read_back: whether to compare what the store gives back.

    Returns:
      Whether it was written: without ``overwrite``, a name that is taken is left alone.

    Raises:
      UrlError: where it cannot be written, or reads back otherwise; there is then no new object.
    """
    with _access(url, "written") as (system, path):
        protocols = {system.protocol} if isinstance(system.protocol, str) else {*system.protocol}
        try:
            if protocols & _WHOLE:
                system.pipe_file(path, data, mode="overwrite" if overwrite else "create")
            else:
                _put(system, path, data, overwrite)
        except Exception:  # each store has its own for a name that is taken
            if overwrite or not system.exists(path):
                raise
            return False
        if read_back and system.cat_file(path) != data:
            system.rm_file(path)
            raise UrlError(f"{url} reads back other than it was written, and was removed.")
    return True


def _put(system, path, data, overwrite):
    """Writes under another name, and renames."""
    parent, _, name = path.rpartition("/")
    temporary = f"{parent}/.{secrets.token_hex(8)}.tmp"
    system.makedirs(parent, exist_ok=True)
    try:
        system.pipe_file(temporary, data)
        if system.exists(path):
            if not overwrite:
                raise FileExistsError(name)
            system.rm_file(path)  # not every system's move replaces
        system.mv(temporary, path)
    except BaseException:
        with contextlib.suppress(Exception):
            system.rm_file(temporary)
        raise
