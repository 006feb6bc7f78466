"""What a command line makes of errors: one line for what a user caused, else a traceback."""

import contextlib
import os
import sys
import warnings
from pathlib import Path

from cli import streams
from errors import GlicError

# Bad input or a bad environment: one line. Whatever else is raised is a bug and shows a traceback.
EXPECTED_ERRORS = (GlicError, OSError, MemoryError)


def reason(error):
    """One line that says what went wrong."""
    if isinstance(error, MemoryError):
        return "not enough memory for an image of this size"
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # without "[Errno 28]"
        text = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return printable((text or type(error).__name__).strip())


def printable(text):
    """The text with control and undecodable characters, which names may have, escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def run(main):
    """Calls ``main()`` and turns expected errors into one line and an exit code."""
    with contextlib.suppress(AttributeError):  # a stream of another kind
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    if not sys.warnoptions:  # python -W shows them: they come with lines of source
        warnings.simplefilter("ignore")
    try:
        code = main()
    except KeyboardInterrupt:
        print("Interrupted: files already written are whole.", file=sys.stderr)
        code = 130
    except EXPECTED_ERRORS as error:
        if isinstance(error, BrokenPipeError):  # the report's reader is gone, such as head
            streams.discard_output()
        print(f"{Path(sys.argv[0]).name}: {reason(error)}", file=sys.stderr)
        code = 2
    sys.exit(code)


def run_script(main):
    """``run`` in a process of its own, which ends without taking TensorFlow's modules apart.

    That takes 0.8 seconds of processor time.
    """
    try:
        run(main)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):
                stream.flush()
        os._exit(end.code)
