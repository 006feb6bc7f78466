"""Manifests: a rerun does what is not done, checked by checksums; kills leave whole lines."""

import json
import os

import pytest
from golden_models import NUM_FILTERS, REFERENCE, checkpoint_of
from PIL import Image

import decoder
import encoder
from cli.jobs import Job
from cli.manifest import FIELDS, Manifest, ManifestError
from cli.running import Outcome
from errors import GlicError

MODEL = ["--checkpoint", checkpoint_of("gmm"), "--family", "gmm", "--num-filters", NUM_FILTERS]
WAS_THERE = "outputs were there already and are kept."


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A working folder with in/a.png and in/b.png."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    with Image.open(REFERENCE / "image_120x179.png") as image:
        image.crop((0, 0, 50, 40)).save("in/a.png")
        image.crop((60, 10, 130, 80)).save("in/b.png")
    return tmp_path


@pytest.fixture
def encode(run_here):
    """Runs the encoder on in/ with a manifest; returns (exit code, stdout, stderr, its rows)."""

    def run(*arguments):
        result = run_here(
            encoder, "in", "-o", "out", "--manifest", "m.jsonl", *MODEL, "--no-metrics", *arguments
        )
        with open("m.jsonl", encoding="utf-8") as file:
            return (*result, [json.loads(line) for line in file])

    return run


def test_a_rerun_does_what_is_not_done(photos, encode, run_here):
    (photos / "in" / "broken.png").write_bytes(b"no picture")
    code, _, err, rows = encode()
    assert code == 1 and len(rows) == 3 and all(tuple(row) == FIELDS for row in rows)
    a, b, broken = rows
    assert a["bytes"] == (photos / "out" / "a.glic").stat().st_size and a["error"] is None
    assert a["bpp"] == pytest.approx(8 * a["bytes"] / 2000) and len(a["sha256"]) == 64
    assert b["input"] == os.path.join("in", "b.png") and b["seconds"] > 0
    assert "not an image" in broken["error"] and broken["bytes"] is None
    (photos / "out" / "a.glic").unlink()
    time_of_b = (photos / "out" / "b.glic").stat().st_mtime_ns
    code, out, _, more = encode()
    assert code == 1 and f"1 of 3 {WAS_THERE}" in out
    assert [row["input"][3:] for row in more[3:]] == ["a.png", "broken.png"]
    assert more[3]["sha256"] == a["sha256"]
    assert (photos / "out" / "b.glic").stat().st_mtime_ns == time_of_b
    (photos / "in" / "broken.png").unlink()
    code, out, err, rows = encode()
    assert (code, err, len(rows)) == (0, "", 5) and f"2 of 2 {WAS_THERE}" in out
    assert "started in" not in out  # nothing to do: no model
    code, *_ = run_here(decoder, "out", "-o", "back", "--manifest", "d.jsonl", *MODEL)
    (row, _) = map(json.loads, (photos / "d.jsonl").read_text().splitlines())
    assert code == 0 and row["bpp"] == a["bpp"]
    assert row["bytes"] == (photos / "back" / "a.png").stat().st_size


def test_an_output_that_was_changed_is_named_and_left_alone(photos, encode):
    encode()
    (photos / "out" / "a.glic").write_bytes(b"changed")
    code, out, err, rows = encode()
    assert code == 1 and "exists with other bytes" in err and f"1 of 2 {WAS_THERE}" in out
    assert (photos / "out" / "a.glic").read_bytes() == b"changed" and rows[-1]["error"]
    code, out, _, rows = encode("--overwrite")
    assert code == 0 and rows[-1]["error"] is None and f"1 of 2 {WAS_THERE}" in out
    assert (photos / "out" / "a.glic").read_bytes() != b"changed"


def test_outputs_without_a_line_are_taken_where_they_are_the_same(photos, encode):
    """As a kill leaves them between the file and its line."""
    encode()
    (photos / "m.jsonl").unlink()
    code, out, err, rows = encode()
    assert code == 0 and err == "" and [row["error"] for row in rows] == [None, None]


def test_other_options_make_other_files(photos, encode):
    encode()
    code, _, err, rows = encode("--effort", 1, "--lmbda", 0.01)
    assert code == 1 and err.count("exists with other bytes") == 2
    assert ["--lmbda 0.01 --effort 1" in row["options"] for row in rows] == [False] * 2 + [True] * 2


def row_of(path, manifest, problem=None):
    outcome = Outcome({"bytes": 3, "sha256": "00", "bpp": 1.0}, problem, 0.25)
    manifest.add(Job(path, path.with_suffix(".glic")), outcome)


def test_half_a_line_is_removed(tmp_path):
    path, picture = tmp_path / "m.jsonl", tmp_path / "\udcff picture.png"
    with Manifest(path, "") as manifest:
        row_of(picture, manifest)
        row_of(tmp_path / "b.png", manifest, GlicError("no picture"))
    whole = path.read_bytes()
    row = whole.splitlines(keepends=True)[0]
    for length in (1, 5, len(row) - 1):
        path.write_bytes(whole + row[:length])
        with Manifest(path, "") as manifest:
            assert manifest.checksum(picture, picture.with_suffix(".glic")) == "00"
            assert manifest.checksum(tmp_path / "b.png", tmp_path / "b.glic") is None
        assert path.read_bytes() == whole
    assert Manifest(path, "--effort 3").checksum(picture, picture.with_suffix(".glic")) is None


@pytest.mark.parametrize("content", [b"\x89PNG", b"{}\n", b"[1]\n", b'{"input": \n', b"\xff\n"])
def test_another_file_is_no_manifest(tmp_path, content):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match="is no manifest"):
        Manifest(path, "")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["in/a.png", "--manifest", "m.jsonl", "--skip-existing"], "leave out --skip-existing"),
        (["-", "--manifest", "m.jsonl"], "A manifest is for files"),
        (["-", "--scheduler", "local"], "leave out --scheduler"),
        (["in", "--scheduler", "tcp://here:1", "--jobs", 2], "--jobs is for this machine"),
        (["in", "-o", "s3://a/b", "--keep-times"], "--keep-times means nothing for addresses"),
        (["in", "-o", "s3://a/b", "--scheduler", "local"], "add --manifest FILE"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(photos, run_here, arguments, words):
    code, out, err = run_here(encoder, *arguments, *MODEL)
    assert code == 2 and out == "" and words in err and err.count("\n") == 1
