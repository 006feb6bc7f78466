"""What a run says: a line for each file, for each model that starts, and for each failure."""

import contextlib
import sys
import time

import tqdm

from cli.errors import printable, reason
from cli.streams import name_of
from errors import GlicError


class Report:
    """The lines of a run.

    Args:
      to_stderr: whether they go to standard error, as where standard output is a picture's.

    Attributes:
      starting_seconds: what starting models took so far, which is no file's own time.
      shows_bars: whether the work on one file may show how far it is.
    """

    shows_bars = True

    def __init__(self, to_stderr=False):
        self._to_stderr = to_stderr
        self.starting_seconds = 0.0

    def line(self, text):
        """Says something."""
        self._write(text, sys.stderr if self._to_stderr else sys.stdout)

    def warning(self, text):
        """Says something on standard error."""
        self._write(text, sys.stderr)

    def failure(self, path, error):
        """Names an input that failed and the reason, its path once."""
        name, text = printable(name_of(path)), reason(error)
        if not text.startswith((f"{name} ", f"{name}:")):
            text = f"{name}: {text}"
        self._write(text, sys.stderr)

    def start(self, load, warm_up):
        """The ``Codec`` that ``load()`` returns, with a line that names it and its seconds.

        ``warm_up(codec)`` has its networks built, which would be the first file's time. Where it
        fails, each file will say so itself.
        """
        start = time.perf_counter()
        try:
            codec = load()
            with contextlib.suppress(GlicError):
                warm_up(codec)
        finally:
            seconds = time.perf_counter() - start
            self.starting_seconds += seconds
        self.started(f"{codec.model.name}: {codec.architecture}, started in {seconds:.1f} s")
        return codec

    def started(self, text):
        """Says that a model has started."""
        self.line(text)

    @staticmethod
    def _write(text, stream):
        tqdm.tqdm.write(printable(text), file=stream)  # beside a progress bar
        stream.flush()


class Recorder(Report):
    """The lines of a worker, which its parent will say."""

    shows_bars = False

    def __init__(self):
        super().__init__()
        self._lines = []

    def line(self, text):
        """Keeps a line that is the same from every worker."""
        self._lines.append((text, False))

    def started(self, text):
        """Keeps a line that is this worker's own."""
        self._lines.append((text, True))

    def take(self):
        """The lines so far, as a tuple of (text, whether it is this worker's own)."""
        lines, self._lines = self._lines, []
        return tuple(lines)
