"""Standard input and output as files: "-" on the command lines."""

import contextlib
import os
import sys
from pathlib import Path

STREAM = Path("-")  # standard input where an input is meant, else standard output


def to_path(text):
    """The path that an argument names: ``STREAM`` for "-" alone; a file of that name is ./-."""
    path = Path(text)
    return path.absolute() if path == STREAM and str(text) != "-" else path


def name_of(path):
    """What messages call an input."""
    return "standard input" if path == STREAM else str(path)


def opened(path):
    """What to read of an input: the open standard input, or its path."""
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
