"""docs/scale.md: its commands are commands, and its table is that of a manifest."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import decoder
import encoder
from cli.manifest import FIELDS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
LINES = "".join(re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S)).splitlines()
WORDS = [shlex.split(line, comments=True) for line in LINES]


def test_coding_commands_have_the_options_that_they_name(monkeypatch):
    modules = {"encoder.py": encoder, "decoder.py": decoder}
    parsed = []
    for words in WORDS:
        if words[1] in modules:
            monkeypatch.setattr(sys, "argv", words[1:])
            parsed.append(modules[words[1]].parse_arguments())
    assert [args.jobs for args in parsed] == [8, 8, None, None]
    assert [args.scheduler for args in parsed[2:]] == ["tcp://HOST:8786"] * 2


def test_dask_commands_have_the_options_that_they_name():
    pytest.importorskip("distributed", reason="--scheduler: requirements-scale.txt")
    found = [words for words in WORDS if words[1:3] == ["-m", "dask"]]
    assert [words[3] for words in found] == ["scheduler", "worker"]
    for words in found:
        command = [sys.executable, "-m", "dask", words[3], "--help"]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for option in words[4:]:
            assert not option.startswith("--") or option in usage


def test_the_table_has_all_fields_of_a_manifest():
    section = TEXT.partition("## The manifest")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == list(FIELDS)
