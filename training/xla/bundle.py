"""A bundle as it is read: what training/bundle.py wrote, and what a training adds to it."""

from __future__ import annotations

import json
from pathlib import Path

from errors import GlicError
from training.xla import files

VERSION = 1  # of the layout
NAME = "bundle.json"
STEPS, PHOTOGRAPHS, VALIDATION = "steps", "photographs", "valid"  # folders
START = "start.npz"  # weights to start from, where they are not drawn
RESULTS = "results"  # the folder of what a training leaves
WEIGHTS, CHECKPOINT, LOG = "weights.npz", "checkpoint.npz", "log.csv"  # in it


class Bundle:
    """A bundle's folder.

    Attributes:
      folder: pathlib.Path. results: that of what a training leaves.
      record: dict of bundle.json; training/bundle.py has its keys.
      settings: dict of the training's settings.
    """

    def __init__(self, folder):
        """Reads the record. Raises GlicError where there is none that this program knows."""
        self.folder = Path(folder)
        self.results = self.folder / RESULTS
        path = self.folder / NAME
        if not path.is_file():
            raise GlicError(f"{folder} is no bundle: {path} is missing; make one with --bundle.")
        try:
            self.record = json.loads(path.read_text(encoding="utf-8"))
            self.settings = self.record["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise GlicError(f"{path} is damaged ({error}): copy the bundle again.") from error
        if self.record.get("version") != VERSION:
            raise GlicError(
                f"{path} has layout {self.record.get('version')}, {VERSION} expected: use the "
                "run.py of the bundle, and the train.py that made it."
            )

    def step(self, name):
        """Bytes of the HLO of a step."""
        path = self.folder / STEPS / f"{name}.hlo"
        if not path.is_file():
            raise GlicError(f"{path} is missing: copy the whole bundle.")
        return path.read_bytes()

    def photographs(self):
        """Paths of the training photographs, in their order."""
        folder, count = self.folder / PHOTOGRAPHS, self.record["photographs"]
        paths = sorted(p for p in folder.glob("*") if p.name[0] != ".") if folder.is_dir() else []
        if len(paths) != count:
            raise GlicError(
                f"{count} photographs expected in {folder}, got {len(paths)}: copy the whole "
                "bundle."
            )
        return paths

    def start(self):
        """The weights to start from, a dict of name to float32 array, the quantiles included."""
        if self.record["drawn"] is not None:
            return files.drawn(self.record["drawn"], self.settings["seed"])
        path = self.folder / START
        if not path.is_file():
            raise GlicError(f"{path} is missing: copy the whole bundle.")
        return files.read_arrays(path)[0]

    def checkpoint(self):
        """(Arrays, record) of the training's checkpoint, or None.

        Raises GlicError for one of another bundle.
        """
        path = self.results / CHECKPOINT
        if not path.is_file():
            return None
        arrays, record = files.read_arrays(path)
        if record.get("bundle") != self.record["id"]:
            raise GlicError(
                f"{path} is a checkpoint of another bundle: move {self.results} away to start anew."
            )
        return arrays, record
