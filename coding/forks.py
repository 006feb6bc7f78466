"""Libraries whose threads do not live on in a forked process, where a call would wait for ever."""

from __future__ import annotations

import os

from errors import GlicError

_started = {}  # the process in which a library was first started, by its name


class ForkError(GlicError):
    """The process was forked after a library with threads had been started."""


def check(library):
    """Raises ForkError where a library was started in another process than this one."""
    if _started.setdefault(library, os.getpid()) != os.getpid():
        raise ForkError(
            f"This process was forked after {library} had been started, and cannot run it: start "
            'processes with multiprocessing.get_context("spawn"), or load the codec in the child '
            "only."
        )
