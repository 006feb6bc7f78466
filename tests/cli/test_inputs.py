"""What arguments stand for, and that nothing is left out without a word."""

import os
from pathlib import Path

import pytest

from cli import inputs
from cli.streams import STREAM, to_path
from pictures import images


def why(suffix):
    return {".heic": "install it", ".cr2": "develop it"}.get(suffix, "no images")


def find(*arguments, **options):
    return inputs.find(arguments, [".png", ".JPG"], why, **options)


def tree(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def good(found):
    return [entry.path for entry in found.inputs if not entry.problem]


def problems(found):
    return [str(entry.problem) for entry in found.inputs if entry.problem]


def test_what_is_left_out_is_counted_by_kind_with_its_reason(tmp_path):
    tree(tmp_path, "b.png", "a.PNG", "c.jpg", ".d.png", "1.heic", "2.HEIC", "x.cr2", "x.txt")
    tree(tmp_path, "Makefile", ".DS_Store", "sub/e.png", "other.png/f.png")
    found = find(tmp_path)
    assert good(found) == [tmp_path / name for name in ("a.PNG", "b.png", "c.jpg")]
    assert set(found.left_out.split("; ")) == {
        "1 x hidden file (name it to take it)",
        "2 x .heic (install it)",
        "1 x .cr2 (develop it)",
        "1 x file without a suffix, 1 x .txt (no images)",
        "2 x folder (add --recursive)",
    }
    assert find(tmp_path / "b.png").left_out == ""


def test_recursion_keeps_the_tree_and_says_what_it_left_out(tmp_path):
    tree(tmp_path, "b.png", "d/e/c.png", "d/a.png", "d/x.heic", ".git/x.png", "z/out/w.png")
    found = find(tmp_path, recursive=True, apart=tmp_path / "z" / "out")
    assert [(entry.path.name, entry.below) for entry in found.inputs] == [
        ("b.png", Path()),
        ("a.png", Path("d")),
        ("c.png", Path("d/e")),
    ]
    assert set(found.left_out.split("; ")) == {
        "1 x hidden folder (name it to take it)",
        "1 x .heic (install it)",
        "1 x folder (it takes the outputs)",
    }


def test_links_to_folders_are_followed_only_where_they_are_named(tmp_path):
    tree(tmp_path, "photos/a.png", "elsewhere/b.png")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "more").symlink_to(tmp_path / "elsewhere")
    found = find(tmp_path / "photos", recursive=True)
    assert good(found) == [tmp_path / "photos" / "a.png"]
    assert found.left_out == "2 x link to a folder (name it to follow it)"
    found = find(tmp_path / "photos" / "more", tmp_path / "photos" / "loop")
    assert [p.name for p in good(found)] == ["b.png", "a.png"]


def test_what_cannot_be_read_is_an_input_that_failed(tmp_path):
    tree(tmp_path, "a.png", "empty/notes.txt")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "round.png").symlink_to("round.png")
    named = [tmp_path / n for n in ("no-such.png", "gone.png", "round.png", "empty", "a.png")]
    found = find(*named, tmp_path)
    assert good(found) == [tmp_path / "a.png"]
    texts = problems(found)
    assert len(texts) == 6  # the links in the folder once more
    assert "no-such.png does not exist" in texts[0] and "is a link to nothing" in texts[1]
    assert "link to nothing" in texts[2] and "holds no image that can be read" in texts[3]
    assert "further name" in found.left_out


def test_a_folder_that_cannot_be_listed_fails_alone(tmp_path, monkeypatch):
    tree(tmp_path, "a/x.png", "b/y.png", "c/z.png")
    listdir = os.listdir

    def refuse(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    found = find(tmp_path, recursive=True)
    assert [p.name for p in good(found)] == ["x.png", "z.png"]
    assert problems(found) == [f"{tmp_path / 'b'} cannot be read (Permission denied)."]


def test_a_file_is_one_input_however_it_is_named(tmp_path, monkeypatch):
    tree(tmp_path, "in/a.png", "in/b.png")
    (tmp_path / "link.png").symlink_to("in/a.png")
    monkeypatch.chdir(tmp_path)
    found = find("in/a.png", "./in/../in/a.png", "in", "link.png", tmp_path / "in" / "b.png")
    assert good(found) == [Path("in/a.png"), Path("in/b.png")] and problems(found) == []
    assert found.left_out == "4 x further name (of a file that is an input already)"


def test_pipes_in_folders_are_left_out_and_read_where_they_are_named(tmp_path):
    tree(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    found = find(tmp_path)
    assert good(found) == [tmp_path / "a.png"] and "1 x device or pipe" in found.left_out
    assert good(find(tmp_path / "pipe.png")) == [tmp_path / "pipe.png"]


def test_a_dash_is_standard_input_and_a_file_of_that_name_has_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, "-")
    assert good(find("-")) == [STREAM] and good(find("./-")) == [tmp_path / "-"]
    assert to_path("./-") != STREAM == to_path(STREAM) == to_path("-")


def test_collect_lists_files_or_raises(tmp_path):
    tree(tmp_path, "b.png", "a.PNG", "c.jpg", "notes.txt", "sub.png/d.png", "none/x.txt")
    assert inputs.collect([tmp_path], [".Png"]) == [tmp_path / "a.PNG", tmp_path / "b.png"]
    given = [str(tmp_path / "notes.txt"), tmp_path / "sub.png"]
    files = [tmp_path / "notes.txt", tmp_path / "sub.png" / "d.png"]
    assert inputs.collect(given, [".png"]) == files
    with pytest.raises(inputs.InputError, match="gone does not exist"):
        inputs.collect([tmp_path / "gone"], [".png"])
    with pytest.raises(inputs.InputError, match="none holds no image"):
        inputs.collect([tmp_path / "none"], images.IMAGE_SUFFIXES)
