"""Warnings of Pillow and its plugins, kept from the screen; threads may read images at once."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

# Without a handler, Python prints what Pillow logs about damaged files to standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_lock = threading.Lock()
_of_this_thread = threading.local()
_shared: tuple[warnings.catch_warnings, int] | None = None  # and how many threads are inside


@contextlib.contextmanager
def caught_warnings() -> Iterator[list[str]]:
    """Collects "MODULE: TEXT" of the warnings that the calling thread causes; not reentrant.

    `warnings.catch_warnings` changes the whole process and is restored wrongly where two threads
    overlap. Here the first thread in sets it up and the last one out restores it; meanwhile all
    warnings of threads that are not inside are shown, filtered or not.
    """
    global _shared
    with _lock:
        if _shared is None:
            catcher = warnings.catch_warnings()
            catcher.__enter__()
            show = warnings.showwarning

            def record(message, category, filename, *rest):
                messages = getattr(_of_this_thread, "messages", None)
                if messages is None:
                    show(message, category, filename, *rest)
                else:
                    messages.append(f"{Path(filename).stem}: {message}")

            warnings.simplefilter("always")
            warnings.showwarning = record
            _shared = catcher, 0
        catcher, inside = _shared
        _shared = catcher, inside + 1
    _of_this_thread.messages = []
    try:
        yield _of_this_thread.messages
    finally:
        _of_this_thread.messages = None
        with _lock:
            catcher, inside = _shared
            _shared = (catcher, inside - 1) if inside > 1 else None
            if _shared is None:
                catcher.__exit__(None, None, None)
