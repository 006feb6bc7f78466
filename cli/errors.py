"""What a command line makes of errors: one line for what a user caused, else a traceback."""

import contextlib
import sys
from pathlib import Path

from errors import GlicError

# Bad input or a bad environment: one line. Whatever else is raised is a bug and shows a traceback.
EXPECTED_ERRORS = (GlicError, OSError, MemoryError)


def reason(error):
    """One line that says what went wrong."""
    if isinstance(error, MemoryError):
        return "not enough memory for an image of this size"
    return printable((str(error) or type(error).__name__).strip())


def printable(text):
    """The text with control and undecodable characters, which names may have, escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def run(main):
    """Calls ``main()`` and turns expected errors into one line and an exit code."""
    with contextlib.suppress(AttributeError):  # a stream of another kind
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    try:
        code = main()
    except KeyboardInterrupt:
        print("Interrupted: files already written are whole.", file=sys.stderr)
        code = 130
    except EXPECTED_ERRORS as error:
        print(f"{Path(sys.argv[0]).name}: {reason(error)}", file=sys.stderr)
        code = 2
    sys.exit(code)
