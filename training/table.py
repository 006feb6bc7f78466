"""The CSV tables of a training: log.csv and valid.csv."""

from __future__ import annotations

import csv
import io

from training.xla.files import write_whole


class Table:
    """A CSV file that rows are appended to; rows that a full disk refuses are written later."""

    def __init__(self, path, columns, last_step):
        """Reads the file and drops what an interrupted run wrote after its last checkpoint.

        Args:
          path: pathlib.Path.
          columns: list of names, "step" first.
          last_step: of that checkpoint, 0 for none.
        """
        rows = []
        if path.is_file() and last_step > 0:
            with open(path, newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file)][1:]
        rows = [row for row in rows if len(row) == len(columns) and row[0].isdigit()]
        rows = [row for row in rows if int(row[0]) <= last_step]
        self._path, self._columns, self._complained = path, columns, False
        write_whole(path, self._text([columns, *rows]))
        self._size, self._pending = path.stat().st_size, b""

    @staticmethod
    def _text(rows):
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(rows)
        return buffer.getvalue().encode()

    def append(self, row):
        """Adds a row, a dict by column; floats get six significant digits."""
        values = [row[column] for column in self._columns]
        values = [f"{v:.6g}" if isinstance(v, float) else v for v in values]
        self._pending += self._text([values])
        self._write()

    def _write(self):
        try:
            with open(self._path, "r+b") as file:
                file.truncate(self._size)  # what an attempt before left behind
                file.seek(self._size)
                file.write(self._pending)
        except OSError as error:
            if not self._complained:
                print(f"{self._path} waits for its rows ({error}); training goes on.", flush=True)
            self._complained = True
            return
        self._size, self._pending = self._size + len(self._pending), b""

    def close(self):
        """Writes what could not be written before."""
        if self._pending:
            self._write()
