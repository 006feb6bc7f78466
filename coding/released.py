"""Released models: every fingerprint that ever stood in models/, and the way back to an old one.

``models/released.csv`` has a row for each; ``docs/make_released.py`` writes it from the history of
the repository. A model that is no longer in ``models/`` is brought back from there into a folder
such as ``models/.fetched/gmm-mse-1-f28ae12e/``, its name and the first 8 digits of its fingerprint:
decoders find it there, nothing chooses among these, and no model that a name stands for now is
replaced.

Nothing of the work tree, the index or the branches is touched.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import NamedTuple

from errors import GlicError

LIST_NAME = "released.csv"
FETCHED = ".fetched"  # in the folder of models; hidden, so that its name can be no model's
MAX_LIST_BYTES = 1 << 24

_FORMS = {
    "fingerprint": "[0-9a-f]{16}",
    "name": r"[^./\\:\s][^/\\:\s]*",
    "date": r"(\d{4}-\d\d-\d\d)?",
    "commit": "([0-9a-f]{40})?",
    "bytes": r"\d*",
}


class ReleasedError(GlicError):
    """A list that cannot be used, or a model that cannot be brought from the history."""


class Released(NamedTuple):
    """One released model.

    fingerprint: 16 hexadecimal digits. name: its folder in ``models/``. date: YYYY-MM-DD of the
    commit. commit: 40 hexadecimal digits, the newest commit that changed the folder while the
    fingerprint stood there. bytes: size of the folder in that commit. The last three are empty
    (0) for a model that was not yet committed when the list was written.
    """

    fingerprint: str
    name: str
    date: str = ""
    commit: str = ""
    bytes: int = 0

    @property
    def folder_name(self):
        """The name of its folder in ``FETCHED``."""
        return f"{self.name}-{self.fingerprint[:8]}"

    def __str__(self):
        date = f" of {self.date}" if self.date else ""
        return f"{self.name}{date} ({self.fingerprint})"


def read(models_dir):
    """Dict of fingerprint to ``Released``, in the order of the list; empty where there is no list.

    Raises:
      ReleasedError: for a list that is damaged, or has a fingerprint twice.
    """
    path = Path(models_dir) / LIST_NAME
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_LIST_BYTES).decode("ascii")
        # strict: otherwise a quote that is never closed takes all that follows into its field.
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except FileNotFoundError:
        return {}
    except (ValueError, csv.Error, OSError) as error:
        raise ReleasedError(f"{path} cannot be used: {error}.") from error
    if not lines or tuple(lines[0]) != Released._fields:
        raise ReleasedError(
            f"{path} cannot be used: the first line should be {','.join(Released._fields)}."
        )
    rows = {}
    for number, values in enumerate(lines[1:], 2):
        fits = len(values) == len(_FORMS) and all(map(re.fullmatch, _FORMS.values(), values))
        # The last three come together.
        if not fits or len({bool(value) for value in values[2:]}) != 1:
            raise ReleasedError(
                f"{path} cannot be used: line {number} should have {', '.join(_FORMS)}, got "
                f"{','.join(values)[:100]!r}. Restore the file."
            )
        row = Released(*values[:-1], int(values[-1] or 0))
        if row.fingerprint in rows:
            raise ReleasedError(
                f"{path} cannot be used: line {number} has fingerprint {row.fingerprint} a second "
                "time. Restore the file."
            )
        rows[row.fingerprint] = row
    return rows


def git(root, *arguments, given=None):
    """What a git command in the folder ``root`` prints, as bytes.

    Args:
      root: a folder.
      arguments: of git.
      given: bytes for its standard input, which is empty otherwise.

    Raises:
      ReleasedError: where git is missing, or fails: with its reason.
    """
    # What a hook or an alias of git sets would name another repository.
    environment = {k: v for k, v in os.environ.items() if k not in _LOCAL_VARIABLES}
    environment["LC_ALL"] = "C"  # is_checkout reads what it says
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, input=given or b"", capture_output=True, env=environment)
    except OSError as error:
        raise ReleasedError(
            f"git cannot be started ({error.strerror}): install it, and see that it is on the PATH."
        ) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        reasons = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines
        raise ReleasedError(f"git {arguments[0]} failed: {reasons[0]}")
    return done.stdout


_LOCAL_VARIABLES = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"}
_LOCAL_VARIABLES |= {"GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE"}


def _answer(root, *arguments):
    """What a git command prints, as text without its last line feed; None where it fails."""
    try:
        return git(root, *arguments).decode(errors="replace").rstrip("\n")
    except ReleasedError:
        return None


def is_checkout(root):
    """Whether a folder is the top of a git checkout.

    Raises:
      ReleasedError: where git is missing, or refuses to say.
    """
    try:
        top = git(root, "rev-parse", "--show-toplevel").decode(errors="surrogateescape")
    except ReleasedError as error:
        if "not a git repository" in str(error):
            return False
        raise
    return os.path.realpath(top.rstrip("\n")) == os.path.realpath(root)


def is_shallow(root):
    """Whether a checkout has a part of its history only."""
    return _answer(root, "rev-parse", "--is-shallow-repository") == "true"


def _steps(row, models_dir):
    """The arguments of the git commands that print a model as a tar file.

    Returns:
      Of a command that must run before, or None; and of the one that prints it. Both run in the
      folder above ``models_dir``.

    Raises:
      ReleasedError: where there is no history to bring it from.
    """
    models_dir = Path(models_dir)
    root, commit = models_dir.parent, row.commit or "HEAD"
    where = f"{models_dir.name}/{row.name}"
    if not is_checkout(root):
        which = f"commit {commit}" if row.commit else "the newest commit"
        raise ReleasedError(
            f"it is {where} in {which} of this project's repository, of which {root} is no git "
            f"checkout: take a clone, or copy that folder to {_target(row, models_dir)}"
        )
    before = None
    if _answer(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        remotes = (_answer(root, "remote") or "").split()
        if not remotes:
            raise ReleasedError(
                f"it is {where} in commit {commit}, which this clone does not have, nor a remote "
                "to fetch it from: take a full clone of the repository"
            )
        remote = "origin" if "origin" in remotes else remotes[0]
        # In a full clone, --depth would cut the history off.
        depth = ["--depth", "1"] if is_shallow(root) else []
        before = ["fetch", "--quiet", "--no-tags", *depth, remote, commit]
    prefix = f"{models_dir.name}/{FETCHED}/{row.folder_name}/"
    return before, ["archive", f"--prefix={prefix}", f"{commit}:{where}"]


def way_to(row, models_dir):
    """What a user does to have a model that is missing, as the end of a sentence.

    It is decoder.py's option or the commands that do the same; what is in the way, where there is
    no history.
    """
    try:
        before, archive = _steps(row, models_dir)
    except ReleasedError as error:
        return str(error)
    root = Path(models_dir).parent
    there = [] if os.path.realpath(os.curdir) == os.path.realpath(root) else ["-C", str(root)]
    commands = [shlex.join(["git", *there, *command]) for command in (before, archive) if command]
    unpack = shlex.join(["tar", *there, "-xf", "-"])
    return f"add --fetch-model to decoder.py, or run: {' && '.join(commands)} | {unpack}"


def _put(new, target, row):
    """Gives a fetched folder its name, unless another process was faster."""
    for last in (False, True):
        try:
            os.replace(new, target)
            return
        except OSError:
            if _holds(target, row):
                return
            if last:
                raise
            shutil.rmtree(target, ignore_errors=True)  # what is there is damaged


def _target(row, models_dir):
    return Path(models_dir) / FETCHED / row.folder_name


def fetch(row, models_dir):
    """Brings a released model from the history, or from the remote where the clone is shallow.

    Args:
      row: ``Released``.
      models_dir: the folder of models, in a git checkout.

    Returns:
      The folder, which is whole or does not exist.

    Raises:
      ReleasedError: where that cannot be done.
      OSError: where the folder cannot be written.
    """
    target = _target(row, models_dir)
    root = Path(models_dir).parent
    try:
        before, archive = _steps(row, models_dir)
        if before:
            git(root, *before)
        data = git(root, *archive)
    except ReleasedError as error:
        raise ReleasedError(f"Model {row} cannot be fetched: {error}.") from error
    mark = f".{target.name}-new-"
    for left in target.parent.glob(f"{mark}*"):  # by a process that was killed
        with contextlib.suppress(OSError):  # another process removes it
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)
    new = target.parent / f"{mark}{os.getpid()}-{secrets.token_hex(4)}"
    new.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as files:
            for member in files:
                if member.isfile():
                    content = files.extractfile(member)
                    (new / Path(member.name).name).write_bytes(content.read())
        if not _holds(new, row):
            raise ReleasedError(
                f"Model {row} cannot be fetched: commit {row.commit or 'HEAD'} has another one of "
                f"that name. {Path(models_dir) / LIST_NAME} is wrong: restore the file."
            )
        _put(new, target, row)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return target


def _holds(folder, row):
    """Whether a folder's configuration names a model."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return config["fingerprint"] == row.fingerprint
    except (OSError, ValueError, LookupError, TypeError):
        return False
