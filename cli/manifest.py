"""Manifests: JSON lines that say what runs have done, and what the next one need not do again.

A line is written when its file is, in one piece. Where a kill or a power cut leaves half a line at
the end, the next run removes it; what that line would have said is found out again.
"""

from __future__ import annotations

import json
import os

from cli import outputs
from cli.errors import reason
from errors import GlicError

FIELDS = (
    "input",
    "output",
    "bytes",
    "sha256",
    "bpp",
    "seconds",
    "worker",
    "options",
    "error",
)
_BEGIN = b'{"input": '  # of every line


class ManifestError(GlicError):
    """A file that is no manifest."""


class Manifest:
    """The lines of earlier runs, and those that this run adds.

    As a context manager it is open for adding. Of an input and its output the last line counts.

    Args:
      path: of the file; it and its folder are made when it is opened.
      options: text of the options that decide over the outputs: what was done with others is not
        done.

    Raises:
      ManifestError: where the file is no manifest.
      OSError: where it cannot be read.
    """

    def __init__(self, path, options):
        self.path, self._options = path, options
        self._done = {}  # (input, output): SHA-256 of the output, hexadecimal
        self._whole = 0  # bytes of whole lines
        if os.path.lexists(path):
            self._read()

    def _read(self):
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    if not (line.startswith(_BEGIN) or _BEGIN.startswith(line)):
                        raise self._is_none(number)
                    break
                try:
                    row = json.loads(line)
                    key = row["input"], row["output"]
                    if row["error"] is None and row["options"] == self._options:
                        self._done[key] = row["sha256"]
                    else:
                        self._done.pop(key, None)
                except (ValueError, TypeError, KeyError):
                    raise self._is_none(number) from None
                self._whole += len(line)

    def _is_none(self, number):
        return ManifestError(
            f"{self.path} is no manifest (line {number}): name another file with --manifest."
        )

    def __enter__(self):
        outputs.make_folder(self.path.parent)
        # Unbuffered: a line is one call of the system.
        self._file = open(self.path, "ab", buffering=0)
        self._file.truncate(self._whole)
        return self

    def __exit__(self, *error):
        os.fsync(self._file.fileno())
        self._file.close()

    def checksum(self, path, output):
        """SHA-256, hexadecimal, of the output that was made of an input; None where none was."""
        return self._done.get((str(path), str(output)))

    def add(self, job, outcome):
        """Writes the line of a ``jobs.Job`` and its ``running.Outcome``."""
        result, problem = outcome.result or {}, outcome.problem
        row = dict.fromkeys(FIELDS)
        row.update({name: result.get(name) for name in ("bytes", "sha256", "bpp")})
        row.update(
            input=str(job.path),
            output=str(job.output),
            seconds=round(outcome.seconds, 3),
            worker=outcome.worker or None,
            options=self._options,
            error=reason(problem) if problem else None,
        )
        self._file.write(json.dumps(row).encode() + b"\n")
