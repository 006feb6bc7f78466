"""What the arguments of command lines name: files, addresses, standard input and output ("-")."""

import contextlib
import os
import sys
from pathlib import Path

from cli import urls
from cli.urls import Url

_LOCAL = "file://"
STREAM = Path("-")  # standard input where an input is meant, else standard output


def to_path(text):
    """What an argument names.

    Returns:
      ``STREAM`` for "-" alone (a file of that name is ./-), a ``Path`` for a path and for file://,
      a ``Url`` for any other address.
    """
    if str(text).startswith(_LOCAL):
        local = str(text)[len(_LOCAL) :]
        return Path(local.lstrip("/") if os.name == "nt" else local)
    if urls.is_url(text):
        return Url(str(text))
    path = Path(text)
    return path.absolute() if path == STREAM and str(text) != "-" else path


def name_of(path):
    """What messages call an input."""
    return "standard input" if path == STREAM else str(path)


def opened(path):
    """What to read of an input: the open standard input, an object's bytes, or the path."""
    if isinstance(path, Url):
        return urls.opened(path)
    return sys.stdin.buffer if path == STREAM else path


def write(data):
    """Writes bytes to standard output (OSError where its reader is gone)."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError:
        discard_output()
        raise


def discard_output():
    """Sends standard output nowhere: Python would write its rest at exit, and fail again."""
    with contextlib.suppress(OSError, ValueError):  # no file behind it
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
