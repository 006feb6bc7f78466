"""The one error that users can cause; everything else that is raised is a bug of ours.

Command lines turn it, and the operating system's errors, into one line and an exit code. Any other
exception shows its traceback.
"""


class GlicError(ValueError):
    """Bad input, a bad file, or options that cannot be used: the message is for the user.

    It is one sentence or two, with what was expected, what came and what to do. A ``ValueError``,
    since programs on the Python interface may catch that.
    """


class UsageError(GlicError):
    """Options that contradict each other."""
