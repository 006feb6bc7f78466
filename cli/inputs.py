"""Inputs: from the files and folders of a command line to files, and what was left out.

A file is taken whatever its suffix. A folder stands for its files with a fitting suffix in any
case, sorted by name; hidden ones are left out. With ``recursive`` it stands for those of its
subfolders as well, but links to folders are followed only where they are named themselves, so that
no link leads round in circles. A file that is named twice is one input. Folders of object stores
are read the same way.
"""

from __future__ import annotations

import collections
import os
from pathlib import Path
from typing import NamedTuple

from cli import urls
from cli.streams import STREAM, to_path
from cli.urls import Url
from errors import GlicError


class InputError(GlicError):
    """A file or folder that cannot be an input."""


class Input(NamedTuple):
    """One file to read.

    path: the file, its ``Url``, or ``STREAM`` for standard input. below: the folders between the
    folder that was named and the file. problem: None, or the exception that says why it cannot be
    read.
    """

    path: Path
    below: Path = Path()
    problem: Exception | None = None


class Found(NamedTuple):
    """What ``find`` returns.

    inputs: list of ``Input``. left_out: what was left out of folders, how many of each kind and
    why, such as "2 .heic (install pillow-heif), 1 folder (add --recursive)"; empty if nothing.
    """

    inputs: list
    left_out: str


def find(arguments, suffixes, why, *, kind="image", recursive=False, apart=None):
    """Files for the arguments of a command line, in their order.

    Args:
      arguments: texts or paths; "-" is standard input, s3://... an object or a folder of them.
      suffixes: of the files to take from folders, with the dot.
      why: maps any other lower-case suffix to the reason why such files are left out.
      kind: what the files are, for messages.
      recursive: whether subfolders are searched.
      apart: a folder that is no input where it lies in one: the outputs'. None: there is none.

    Returns:
      ``Found``.
    """
    search = _Search({s.lower() for s in suffixes}, why, recursive, apart)
    for path in map(to_path, arguments):
        if path == STREAM:
            search.add(path)
        elif isinstance(path, Url):
            search.add_url(path, kind)
        elif os.path.isdir(path):  # unlike Path.is_dir, never raises
            before = search.size
            search.add_folder(path, Path())
            if search.size == before:
                search.fail(path, f"{path} holds no {kind} that can be read here.")
        elif os.path.exists(path):
            search.add(path)
        else:
            search.fail(path, _missing(path))
    return Found(search.inputs, search.left_out())


def collect(arguments, suffixes):
    """Paths of the files that the arguments stand for; any problem is raised.

    Raises:
      InputError: for what does not exist or cannot be read, a folder without such a file, and an
        address.
    """
    for argument in arguments:
        if isinstance(to_path(argument), Url):
            raise InputError(f"A file or folder of this machine expected here, got {argument}.")
    found = find(arguments, suffixes, lambda suffix: "")
    for entry in found.inputs:
        if entry.problem:
            raise entry.problem
    return [entry.path for entry in found.inputs]


def _missing(path):
    if not isinstance(path, Url) and os.path.islink(path):
        return f"{path} is a link to nothing; give a file or a folder."
    return f"{path} does not exist; give a file or a folder."


class _Search:
    """What was found so far; see ``find``."""

    def __init__(self, suffixes, why, recursive, apart):
        self._suffixes, self._why, self._recursive = suffixes, why, recursive
        self._apart = apart if isinstance(apart, Url) else apart and os.path.realpath(apart)
        self._seen = set()
        self._left_out = collections.defaultdict(collections.Counter)  # of kinds, by reason
        self.inputs = []
        self.size = 0  # inputs and further names of such

    def add(self, path, below=Path()):
        """Adds a file once."""
        self.size += 1
        real = str(path) if isinstance(path, Url) else os.path.realpath(path)
        if real in self._seen:
            self._leave("further name", "of a file that is an input already")
            return
        self._seen.add(real)
        self.inputs.append(Input(path, below))

    def fail(self, path, message, below=Path()):
        """Adds an input that cannot be read."""
        self.size += 1
        self.inputs.append(Input(path, below, InputError(message)))

    def add_url(self, url, kind):
        """Adds an object, or those of a folder."""
        try:
            if not urls.is_folder(url):
                missing = not urls.exists(url)
                self.fail(url, _missing(url)) if missing else self.add(url)
                return
            files, folders = urls.folder(url, self._recursive)
        except urls.UrlError as error:
            self.inputs.append(Input(url, problem=error))
            return
        before = self.size
        if folders:
            self._left_out["add --recursive"]["folder"] += folders
        apart = isinstance(self._apart, Url) and self._apart != url and f"{self._apart}/"
        for file in files:
            *parents, name = str(file)[len(str(url)) + 1 :].split("/")
            if apart and str(file).startswith(apart):
                self._leave("file", "its folder takes the outputs")
                continue
            suffix = file.suffix.lower()
            if any(part.startswith(".") for part in (*parents, name)):
                if suffix in self._suffixes:
                    self._leave("hidden file", "name it to take it")
            elif suffix in self._suffixes:
                self.add(file, Path(*parents))
            else:
                self._leave(suffix or "file without a suffix", self._why(suffix))
        if self.size == before:
            self.fail(url, f"{url} holds no {kind} that can be read here.")

    def add_folder(self, folder, below):
        """Adds a folder's files."""
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            self.fail(folder, f"{folder} cannot be read ({error.strerror}).", below)
            return
        for name in names:
            path = folder / name
            fits = path.suffix.lower() in self._suffixes
            if os.path.isdir(path):
                self._add_subfolder(path, below / name)
            elif name.startswith("."):
                if fits:
                    self._leave("hidden file", "name it to take it")
            elif not fits:
                suffix = path.suffix.lower()
                self._leave(suffix or "file without a suffix", self._why(suffix))
            elif os.path.isfile(path):
                self.add(path, below)
            elif os.path.exists(path):
                self._leave("device or pipe", "name it to take it")
            else:
                self.fail(path, _missing(path), below)

    def _add_subfolder(self, path, below):
        if os.path.realpath(path) == self._apart:
            self._leave("folder", "it takes the outputs")
        elif not self._recursive:
            self._leave("folder", "add --recursive")
        elif path.name.startswith("."):
            self._leave("hidden folder", "name it to take it")
        elif path.is_symlink():
            self._leave("link to a folder", "name it to follow it")
        else:
            self.add_folder(path, below)

    def _leave(self, kind, why):
        self._left_out[why][kind] += 1

    def left_out(self):
        """The text for ``Found``."""
        groups = []
        for why, counts in self._left_out.items():
            kinds = ", ".join(f"{number} x {kind}" for kind, number in counts.most_common())
            groups.append(f"{kinds} ({why})")
        return "; ".join(groups)
