"""Outputs that appear under their names only when they are whole."""

import contextlib
import os
import re
import secrets
import time

from pictures.images import ImageError

STALE_SECONDS = 60  # age of a temporary file whose process no longer runs
# The names that publish and images.atomic_write give to what is not whole yet.
_TEMPORARY = re.compile(r"\.(\d+)-[0-9a-f]{16}\.tmp")


class OutputExists(ImageError):
    """An output that is already there and must not be replaced."""


def publish(write, output, overwrite):
    """Lets ``write(path)`` make a file and gives it its name when it is whole.

    Without ``overwrite`` the name is taken atomically: where two processes write the same output,
    the second fails, and neither replaces what the other wrote.

    Args:
      write: writes a file at the path it is given.
      output: the file's name in the end.
      overwrite: whether to replace what has that name.

    Raises:
      OutputExists: where the name is taken; OSError: where the file cannot be written.
    """
    temporary = output.parent / f".{os.getpid()}-{secrets.token_hex(8)}.tmp"
    try:
        write(temporary)
        if overwrite:
            os.replace(temporary, os.path.realpath(output))
        else:
            _link(temporary, output)
    except OSError as error:
        # The temporary name would mean nothing to the user.
        raise OSError(error.errno, error.strerror, str(output)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _link(temporary, output):
    """Gives a file its name unless it is taken."""
    taken = OutputExists(f"{output} exists: another process has written it meanwhile")
    try:
        os.link(temporary, output)
    except FileExistsError:
        raise taken from None
    except OSError:  # a file system without hard links
        if os.path.lexists(output):
            raise taken from None
        os.replace(temporary, output)


def remove_stale(folder):
    """Removes the temporary files that killed processes left in an output folder."""
    for entry in folder.iterdir():
        match = _TEMPORARY.fullmatch(entry.name)
        # OSError: gone meanwhile, or not ours to remove.
        with contextlib.suppress(OSError):
            if match and _is_stale(entry, int(match[1])):
                entry.unlink()


def _is_stale(entry, pid):
    """Whether a temporary file's process is gone; the age is for those of other machines."""
    if time.time() - entry.stat().st_mtime < STALE_SECONDS:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
