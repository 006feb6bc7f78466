"""Writes models/released.csv from the history: python docs/make_released.py [--check]

Every fingerprint that ever stood in models/ in a commit of the present history has a row there, so
that a decoder finds the model of an old file (coding/released.py). Rows are added and completed,
never dropped. Run it after any change of models/, when git add or git rm has told git of it. A
model that is not yet committed gets a row whose commit a later run fills in.

--check writes nothing and fails where a model that git knows, now or in the history, is missing
from the list, a row names no commit that brings its model, or an alias leads to none. Both need the
whole history, which a shallow clone does not have.

It lies beside make_results.py, which writes models/README.md: both say what models/ holds.
"""

import argparse
import csv
import datetime
import io
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli import errors as cli_errors  # isort: skip  (first: it says what is missing)
from cli.outputs import atomic_write
from coding.released import (
    LIST_NAME,
    Released,
    ReleasedError,
    git,
    is_checkout,
    is_shallow,
    read,
)

MODELS = Path(__file__).resolve().parents[1] / "models"
FINGERPRINT = re.compile("[0-9a-f]{16}")


def fingerprints(root, places):
    """The fingerprints of model folders in commits; None where there is no such model.

    Args:
      root: the checkout.
      places: list of (commit, folder), such as ("HEAD", "models/gmm-v1"); "" for the index.
    """
    asked = "".join(f"{commit}:{folder}/config.json\n" for commit, folder in places)
    data, found = git(root, "cat-file", "--batch", given=asked.encode()), []
    while data:
        head, _, data = data.partition(b"\n")
        if head.endswith(b" missing"):
            found.append(None)
            continue
        size = int(head.split()[-1])
        try:
            fingerprint = str(json.loads(data[:size])["fingerprint"])
        except (ValueError, LookupError, TypeError):
            fingerprint = ""  # no configuration
        found.append(fingerprint if FINGERPRINT.fullmatch(fingerprint) else None)
        data = data[size + 1 :]
    return found


def changes(root, models_dir):
    """(commit, its time in seconds, model's folder) of every change below models/, newest first."""
    log = git(
        root, "log", "-m", "-z", "--raw", "--no-renames", "--format=commit %H %ct", "--", models_dir
    )
    found = {}
    for field in log.decode(errors="replace").split("\0"):
        for part in field.strip("\n").split(
            "\n"
        ):  # a commit without changes has no field of its own
            if part.startswith("commit "):
                _, commit, seconds = part.split()
            elif part.startswith(f"{models_dir}/") and part.count("/") > 1:
                found[commit, int(seconds), "/".join(part.split("/")[:2])] = None
    return list(found)


def size_of(root, commit, folder):
    """Bytes of the files of a folder in a commit."""
    listing = git(root, "ls-tree", "-r", "-l", commit, "--", f"{folder}/").decode()
    return sum(int(line.split()[3]) for line in listing.splitlines())


def history(models_dir):
    """Dict of fingerprint to ``Released`` of all commits from the present one back, by date."""
    root = models_dir.parent
    found = {}
    seen = changes(root, models_dir.name)
    there = fingerprints(root, [(commit, folder) for commit, _, folder in seen])
    for (commit, seconds, folder), fingerprint in zip(seen, there):
        # Newest first by the clocks of those who committed, which may be wrong.
        if fingerprint and (fingerprint not in found or found[fingerprint][0] < seconds):
            found[fingerprint] = seconds, commit, folder
    rows = {}
    for fingerprint, (seconds, commit, folder) in sorted(found.items(), key=lambda i: i[1][::2]):
        date = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).date()
        size, name = size_of(root, commit, folder), folder.split("/")[1]
        rows[fingerprint] = Released(fingerprint, name, str(date), commit, size)
    return rows


def present(models_dir):
    """Dict of fingerprint to name of the models that the index has, which the next commit will."""
    root, inside = models_dir.parent, f"{models_dir.name}/"
    files = git(root, "ls-files", "-z", "--", inside).decode(errors="replace").split("\0")
    folders = [
        name.rsplit("/", 1)[0] for name in files if re.fullmatch(f"{inside}[^/]+/config.json", name)
    ]
    there = fingerprints(root, [("", folder) for folder in folders])
    return {
        fingerprint: folder.split("/")[1]
        for fingerprint, folder in zip(there, folders)
        if fingerprint
    }


def merged(listed, past, now):
    """The rows that the list should have.

    Args:
      listed: dict of fingerprint to ``Released``, the list as it is.
      past: the same, of the history.
      now: dict of fingerprint to name, of the index.

    Returns:
      List of ``Released`` by date, those without one last.
    """
    waiting = {fingerprint: Released(fingerprint, name) for fingerprint, name in now.items()}
    rows = {**waiting, **listed, **past}.values()
    return sorted(rows, key=lambda row: (not row.date, row.date, row.name, row.fingerprint))


def renewed(listed, past, now):
    """Sentences on models of the index that have the name of one that was released before."""
    names = {row.name: row for row in (*listed.values(), *past.values())}
    return [
        f"{names[name]} was released, and {fingerprint} is to replace it: give the new model a "
        "name of its own, with a version, such as gmm-v1"
        for fingerprint, name in now.items()
        if name in names and fingerprint not in listed and fingerprint not in past
    ]


def astray(models_dir, now):
    """Sentences on aliases of models that the index does not have."""
    path = models_dir / "aliases.json"
    try:
        aliases = json.loads(path.read_bytes()).items()
    except FileNotFoundError:
        return []
    except (ValueError, AttributeError) as error:
        raise ReleasedError(f"{path} cannot be used: {error}.") from error
    return [
        f"{alias} stands for {name} in {path.name}, which is not in {models_dir.name}/: let it "
        "stand for another"
        for alias, name in aliases
        if name not in now.values()
    ]


def complaints(listed, past, now, models_dir):
    """What is wrong with a list, in sentences; see ``merged``."""
    found = [
        f"{row} is in the history and not listed" for f, row in past.items() if f not in listed
    ]
    found += renewed(listed, past, now) + astray(models_dir, now)
    for fingerprint, name in now.items():
        if fingerprint not in listed and fingerprint not in past:
            found.append(f"{name} ({fingerprint}) is in {models_dir.name}/ and not listed")
    for fingerprint, row in listed.items():
        if not row.commit and fingerprint not in now:
            found.append(f"{row} has no commit, and is no longer in {models_dir.name}/")
    root, rows = models_dir.parent, [row for row in listed.values() if row.commit]
    reached = set(git(root, "rev-list", "HEAD").decode().split())
    places = [(row.commit, f"{models_dir.name}/{row.name}") for row in rows]
    for row, fingerprint in zip(rows, fingerprints(root, places)):
        if row.commit not in reached or fingerprint != row.fingerprint:
            found.append(f"{row} is not in commit {row.commit} of the history")
    return found


def main(arguments=None, models_dir=MODELS):
    """Returns the exit code: 0, or 1 where --check finds the list wrong, or an alias is.

    Raises:
      ReleasedError: without git, a checkout or its whole history; for a list that is damaged; for
        a new model of an old name.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing, fail where it is wrong"
    )
    args = parser.parse_args(arguments)
    root, path = models_dir.parent, models_dir / LIST_NAME
    if not is_checkout(root):
        raise ReleasedError(f"A git checkout expected, got {root}: the list is made from history.")
    if is_shallow(root):
        raise ReleasedError(
            "The whole history expected, got a shallow clone: run git fetch --unshallow first."
        )
    listed, past, now = read(models_dir), history(models_dir), present(models_dir)
    if args.check:
        wrong = complaints(listed, past, now, models_dir)
        for sentence in wrong:
            print(f"{path.name}: {sentence}.", file=sys.stderr)
        if wrong:
            print("Run python docs/make_released.py and commit the list.", file=sys.stderr)
        return 1 if wrong else 0
    taken = renewed(listed, past, now)
    if taken:
        raise ReleasedError(f"{taken[0]}.")
    rows = merged(listed, past, now)
    foreign = [row.name for row in rows if not row.name.isascii()]
    if foreign:
        raise ReleasedError(f"Names of models in ASCII expected, got {', '.join(foreign)}: rename.")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(Released._fields)
    writer.writerows([*row[:-1], row.bytes or ""] for row in rows)
    atomic_write(path, buffer.getvalue().encode("ascii"))
    print(f"{len(rows)} models in {path.name}, of which {len(now)} are in {models_dir.name}/.")
    wrong = astray(models_dir, now)
    for sentence in wrong:
        print(f"{sentence}.", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    cli_errors.run(main)
