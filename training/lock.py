"""One trainer for a run: a lock that the operating system drops when its process ends, however."""

from __future__ import annotations

import contextlib
import errno
import os

from errors import GlicError

NAME = "lock"  # the file in a run's folder; it stays there, what counts is who holds it
# File systems, some of networks, that know no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


def _take(file):
    """Locks an open file; raises BlockingIOError or PermissionError where another holds it."""
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def locked(folder, otherwise="choose another --name"):
    """Keeps other trainers from a run while the context lasts.

    Args:
      folder: pathlib.Path of the run, which exists.
      otherwise: what one may do instead of waiting for or stopping the other.

    Raises:
      GlicError: another trainer is at work there.
      OSError: the file of the lock cannot be written.
    """
    with open(folder / NAME, "ab") as file:  # closed, also by a kill, it is free
        try:
            _take(file)
        except (BlockingIOError, PermissionError):
            raise GlicError(
                f"Another training is at work on {folder}: wait for it, stop it, or {otherwise}."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            print(f"{folder} cannot be locked here ({error}): start no second training on it.")
        yield
