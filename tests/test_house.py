"""The order of the rooms: imports point one way, which this reads off the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("pictures", "coding", "search", "cli", "training", "evaluation")
# What a room's modules may not import, and neither may what they import.
FORBIDDEN = {
    "pictures": {"coding", "cli", "search", "training", "evaluation"},
    "coding": {"cli", "search", "training", "evaluation"},
    "search": {"cli", "training", "evaluation"},
    "cli": {"training", "evaluation"},
    "training": {"search", "evaluation"},
}
DOORS = {"encoder", "decoder", "codec"}  # what codes needs nothing of training


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for path in [*ROOT.glob("*.py"), *(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))]
}


def imports(name):
    """The modules of this project that a module names, anywhere in its source."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} imports relative to itself"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found & MODULES.keys()


def reached(name):
    """The modules that a module imports, directly or through others."""
    found, waiting = set(), [name]
    while waiting:
        new = imports(waiting.pop()) - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_import_one_way(room):
    for name in MODULES:
        if name.split(".")[0] == room:
            rooms = {other.split(".")[0] for other in reached(name)}
            assert not rooms & FORBIDDEN[room], name


@pytest.mark.parametrize("door", sorted(DOORS))
def test_coding_needs_no_training(door):
    assert {"network", "coding.models"} <= reached(door)
    assert not [n for n in reached(door) if n.split(".")[0] in ("training", "evaluation", "train")]


def test_one_machine_needs_no_cluster():
    for name in MODULES:
        if name.split(".")[0] == "training" and not name.startswith("training.cluster"):
            assert not [n for n in reached(name) if n.startswith("training.cluster")], name
            assert "cluster" not in MODULES[name].read_text(encoding="utf-8").lower(), name
