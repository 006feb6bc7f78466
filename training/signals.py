"""What a training makes of signals: leave with a checkpoint, and count no time of a suspension."""

from __future__ import annotations

import signal


class Signals:
    """Listens while it is entered; in the main thread only, as all of Python's signal handling.

    Attributes:
      stop: name of the signal that asked to leave (SIGINT or SIGTERM), None before.
    """

    def __init__(self):
        self.stop, self._continued, self._previous = None, False, {}

    def __enter__(self):
        handlers = {signal.SIGINT: self._on_stop, signal.SIGTERM: self._on_stop}
        if hasattr(signal, "SIGCONT"):  # Windows suspends no process
            handlers[signal.SIGCONT] = self._on_continue
        self._previous = {number: signal.signal(number, f) for number, f in handlers.items()}
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def was_suspended(self):
        """Whether the process was suspended (Ctrl-Z, SIGSTOP) since this was asked last."""
        continued, self._continued = self._continued, False
        return continued

    def _on_stop(self, number, frame):
        del frame
        self.stop = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once

    def _on_continue(self, number, frame):
        del number, frame
        self._continued = True
