"""The list of released models, and old ones that come back, in small repositories made here."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from make_kept import kept_path

import decoder
from coding import models, released

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW, OTHER = ("1" * 16, "2" * 16, "3" * 16)

_spec = importlib.util.spec_from_file_location("make_released", ROOT / "docs" / "make_released.py")
make_released = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_released)

if shutil.which("git") is None:
    pytest.skip("git is not installed", allow_module_level=True)


def write(folder, fingerprint, data):
    folder.mkdir(parents=True, exist_ok=True)
    config = {"family": "gmm", "num_filters": 8, "fingerprint": fingerprint}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.data").write_bytes(data)


def commit(root, day):
    """Commits all; returns the commit."""
    released.git(root, "add", "--all")
    date = f"2026-01-{day:02}T12:00:00+00:00"
    who = ["-c", "user.name=A", "-c", "user.email=a@localhost", "-c", "commit.gpgSign=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_COMMITTER_DATE", date)
        released.git(root, *who, "commit", "--quiet", "--allow-empty", f"-m{day}", f"--date={date}")
    return released.git(root, "rev-parse", "HEAD").decode().strip()


def make_list(root, *options):
    return make_released.main(list(options), root / "models")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository in which models/a had other weights before, and models/b is now gone."""
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.chdir(root)
    released.git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    write(root / "models" / "a", OLD, b"old")
    write(root / "models" / "b", OTHER, b"other weights")
    commit(root, 1)
    write(root / "models" / "a", NEW, b"new weights")
    commit(root, 2)
    (root / "models" / "b" / "log.csv").write_text("step\n")
    commit(root, 3)
    shutil.rmtree(root / "models" / "b")
    commit(root, 4)
    assert make_list(root) == 0
    commit(root, 5)
    return root


def row_of(root, fingerprint):
    return released.read(root / "models")[fingerprint]


def commits(root):
    return released.git(root, "log", "--format=%H").decode().split()[::-1]


def test_the_repository_lists_every_model_of_its_history():
    """On this very repository: a change of models/ needs python docs/make_released.py."""
    if not released.is_checkout(ROOT):
        pytest.skip("this is no git checkout")
    if released.is_shallow(ROOT):
        pytest.skip("this clone is shallow: its history cannot be read")
    assert make_released.main(["--check"]) == 0


def test_the_list_has_the_newest_commit_of_each_fingerprint(root):
    first, second, third, *_ = commits(root)
    rows = list(released.read(root / "models").values())
    assert [row[:4] for row in rows] == [
        (OLD, "a", "2026-01-01", first),
        (NEW, "a", "2026-01-02", second),
        (OTHER, "b", "2026-01-03", third),
    ]
    config = len((root / "models" / "a" / "config.json").read_bytes())
    assert [row.bytes for row in rows] == [config + 3, config + 11, config + 13 + 5]


def test_a_new_model_gets_its_commit_in_the_run_after(root, capsys):
    write(root / "models" / "c", "4" * 16, b"c")
    assert make_list(root, "--check") == 0  # git has not been told of it: a user's own
    released.git(root, "add", "--all")
    assert make_list(root, "--check") == 1
    assert f"c ({'4' * 16}) is in models/ and not listed." in capsys.readouterr().err
    assert make_list(root) == 0 and make_list(root, "--check") == 0
    assert (root / "models" / "released.csv").read_text().splitlines()[-1] == "4" * 16 + ",c,,,"
    sixth = commit(root, 6)
    assert make_list(root, "--check") == 0
    # It is in the commit that is checked out, should someone have removed the folder.
    shutil.rmtree(root / "models" / "c")
    assert released.fetch(row_of(root, "4" * 16), root / "models").is_dir()
    commit(root, 7)  # removed, and the list was forgotten
    assert make_list(root, "--check") == 1
    assert "has no commit, and is no longer in models/." in capsys.readouterr().err
    assert make_list(root) == 0 and row_of(root, "4" * 16).commit == sixth
    assert make_list(root, "--check") == 0


def test_a_model_of_the_history_stays_listed(root, capsys):
    path = root / "models" / "released.csv"
    text = path.read_text()
    path.write_text("".join(line for line in text.splitlines(True) if not line.startswith(OLD)))
    assert make_list(root, "--check") == 1
    assert f"a of 2026-01-01 ({OLD}) is in the history and not listed." in capsys.readouterr().err
    assert make_list(root) == 0 and path.read_text() == text
    first, second, *_ = commits(root)
    path.write_text(text.replace(first, second))
    assert make_list(root, "--check") == 1
    assert f"is not in commit {second} of the history." in capsys.readouterr().err
    assert make_list(root) == 0 and path.read_text() == text
    # A row of another history is kept, and complained of.
    path.write_text(text + f"{'5' * 16},x,2026-02-01,{'0' * 39}1,7\n")
    assert make_list(root) == 0 and row_of(root, "5" * 16).name == "x"
    assert make_list(root, "--check") == 1


def test_a_model_of_a_branch_that_was_merged_is_listed(root):
    released.git(root, "checkout", "--quiet", "-b", "branch", "HEAD~2")
    write(root / "models" / "c", "6" * 16, b"c")
    there = commit(root, 6)
    write(root / "models" / "c", "7" * 16, b"d")
    commit(root, 7)
    released.git(root, "checkout", "--quiet", "main")
    who = ["-c", "user.name=A", "-c", "user.email=a@localhost"]
    released.git(root, *who, "merge", "--quiet", "--no-edit", "branch")
    assert make_list(root, "--check") == 1 and make_list(root) == 0
    assert row_of(root, "6" * 16).commit == there and "7" * 16 in released.read(root / "models")


def test_new_weights_need_a_new_name(root, capsys):
    write(root / "models" / "a", "8" * 16, b"newer")
    released.git(root, "add", "--all")
    assert make_list(root, "--check") == 1
    assert "a name of its own" in capsys.readouterr().err
    with pytest.raises(released.ReleasedError, match="a name of its own"):
        make_list(root)


def test_an_alias_of_a_removed_model_is_complained_of(root, capsys):
    (root / "models" / "aliases.json").write_text('{"newest": "a"}')
    assert make_list(root) == 0 == make_list(root, "--check")
    released.git(root, "rm", "--quiet", "-r", "models/a")
    for options in ([], ["--check"]):
        assert make_list(root, *options) == 1
        assert "newest stands for a in aliases.json, which is not in" in capsys.readouterr().err
    (root / "models" / "aliases.json").write_text("[]")
    with pytest.raises(released.ReleasedError, match="aliases.json cannot be used"):
        make_list(root)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "the first line should be fingerprint,name,date,commit,bytes"),
        ("fingerprint,name\n", "the first line should be"),
        ("\xff", "cannot be used"),
        ('HEAD"', "cannot be used"),
        ("HEAD" + f"{OLD},a,2026-01-01,{'c' * 40},3\n" * 2, "line 3 has fingerprint 1+ a second"),
        ("HEAD" + f"{OLD},a,2026-01-01,{'c' * 40}\n", "line 2 should have"),
        ("HEAD" + f"{OLD},a,2026-01-01,{'c' * 12},3\n", "line 2 should have"),
        ("HEAD" + f"{OLD},a,2026-01-01,,3\n", "line 2 should have"),
        ("HEAD" + f"{OLD},../a,2026-01-01,{'c' * 40},3\n", "line 2 should have"),
        ("HEAD" + f"{OLD},a,2026-01-01,{'c' * 40},x\n", "line 2 should have"),
        ("HEAD\n", "line 2 should have"),
    ],
)
def test_a_damaged_list_is_named(tmp_path, text, words):
    head = ",".join(released.Released._fields) + "\n"
    path = tmp_path / "released.csv"
    path.write_bytes(text.replace("HEAD", head).encode("latin-1"))
    with pytest.raises(released.ReleasedError, match=words) as caught:
        released.read(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(models.ModelError, match=f"written with model {OLD}, .* looked up: .*"):
        models.find(bytes.fromhex(OLD), tmp_path)


def test_there_may_be_no_list(tmp_path):
    assert released.read(tmp_path) == {}


def test_an_old_model_comes_back_beside_the_present_one(root):
    fingerprint, models_dir = bytes.fromhex(OLD), root / "models"
    with pytest.raises(models.ModelError, match=rf"a of 2026-01-01 \({OLD}\), .*--fetch-model"):
        models.find(fingerprint, models_dir)
    folder = released.fetch(row_of(root, OLD), models_dir)
    assert folder == models_dir / ".fetched" / "a-11111111" == models.find(fingerprint, models_dir)
    assert (folder / "model.data").read_bytes() == b"old"
    assert (models_dir / "a" / "model.data").read_bytes() == b"new weights"
    # Nothing of the checkout has changed, and no name or target chooses it.
    assert released.git(root, "status", "--porcelain") == b""
    assert models.available(models_dir) == ["a"]
    with pytest.raises(models.ModelError, match="No model named a-11111111"):
        models.folder_of("a-11111111", models_dir)


def test_what_is_damaged_is_fetched_again_and_what_is_whole_is_left(root):
    models_dir = root / "models"
    folder = released.fetch(row_of(root, OLD), models_dir)
    (folder / "mark").touch()
    assert released.fetch(row_of(root, OLD), models_dir) == folder and (folder / "mark").exists()
    (folder / "config.json").write_text("[")
    assert models.search(bytes.fromhex(OLD), models_dir) is None
    released.fetch(row_of(root, OLD), models_dir)
    assert not (folder / "mark").exists() and models.search(bytes.fromhex(OLD), models_dir)
    assert [p.name for p in (models_dir / ".fetched").iterdir()] == ["a-11111111"]


def test_what_a_killed_process_left_is_removed_an_hour_later(root):
    fetched = root / "models" / ".fetched"
    for name, age in ((".a-11111111-new-1-2", 4000), (".a-11111111-new-3-4", 0)):
        (fetched / name).mkdir(parents=True)
        os.utime(fetched / name, (time.time() - age,) * 2)
    released.fetch(row_of(root, OLD), root / "models")
    assert {p.name for p in fetched.iterdir()} == {"a-11111111", ".a-11111111-new-3-4"}


def advised(root, fingerprint):
    """The commands of the decoder's line."""
    with pytest.raises(models.ModelError) as caught:
        models.find(bytes.fromhex(fingerprint), root / "models")
    assert "\n" not in str(caught.value)
    return str(caught.value).partition("or run: ")[2]


def shell(line, cwd):
    subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], cwd=cwd, check=True)


@pytest.mark.parametrize("inside", [True, False])
def test_the_line_has_the_command_that_brings_it(root, tmp_path, monkeypatch, inside):
    monkeypatch.chdir(root if inside else tmp_path)
    line = advised(root, OLD)
    assert line.startswith("git archive ") == inside
    shell(line, Path.cwd())
    assert models.find(bytes.fromhex(OLD), root / "models").name == "a-11111111"
    assert released.git(root, "status", "--porcelain") == b""


@pytest.fixture(params=[1, 2])
def shallow(root, tmp_path, monkeypatch, request):
    """A shallow clone, of one commit or two."""
    clone = tmp_path / "shallow clone"
    released.git(
        tmp_path, "clone", "--quiet", "--depth", str(request.param), root.as_uri(), str(clone)
    )
    monkeypatch.chdir(clone)
    return clone


def test_a_shallow_clone_fetches_that_commit_only(shallow):
    before, first = commits(shallow), row_of(shallow, OLD).commit
    line = advised(shallow, OLD)
    assert line.startswith(f"git fetch --quiet --no-tags --depth 1 origin {first} && git archive ")
    shell(line, shallow)
    assert models.find(bytes.fromhex(OLD), shallow / "models").name == "a-11111111"
    folder = released.fetch(row_of(shallow, OTHER), shallow / "models")
    assert (folder / "model.data").read_bytes() == b"other weights"
    assert commits(shallow) == before and released.is_shallow(shallow)
    assert released.git(shallow, "status", "--porcelain") == b""
    released.git(shallow, "fetch", "--quiet", "--unshallow")
    assert len(commits(shallow)) == 5 and make_list(shallow, "--check") == 0


def test_the_list_is_not_made_of_half_a_history(shallow):
    for options in ([], ["--check"]):
        with pytest.raises(released.ReleasedError, match="git fetch --unshallow"):
            make_list(shallow, *options)


def fails(root, words, fingerprint=OLD):
    """Both ways end in one line, and leave nothing."""
    row, models_dir = row_of(root, fingerprint), root / "models"
    with pytest.raises(released.ReleasedError, match=words) as caught:
        released.fetch(row, models_dir)
    assert str(caught.value).startswith(f"Model {row} cannot be fetched: ")
    assert "\n" not in str(caught.value)
    fetched = models_dir / ".fetched"
    assert not fetched.exists() or not list(fetched.iterdir())


def test_a_clone_without_a_remote_says_so(shallow):
    released.git(shallow, "remote", "remove", "origin")
    fails(shallow, "which this clone does not have, nor a remote")
    with pytest.raises(models.ModelError, match="nor a remote"):
        models.find(bytes.fromhex(OLD), shallow / "models")


def test_a_remote_that_is_gone_says_so(shallow, root):
    root.rename(root.with_name("elsewhere"))
    fails(shallow, "git fetch failed: fatal: ")


@pytest.mark.parametrize("outer", [False, True])
def test_a_copy_without_history_says_which_commit_has_it(root, tmp_path, outer):
    """Such as a download; also one that lies in somebody's own repository."""
    copy = tmp_path / "mine" / "copy"
    shutil.copytree(root, copy, ignore=lambda *_: [".git"])
    if outer:
        released.git(copy.parent, "init", "--quiet")
    first = row_of(root, OLD).commit
    words = f"models/a in commit {first} of this project's repository, of which .* is no git checko"
    fails(copy, words)
    with pytest.raises(models.ModelError, match=words):
        models.find(bytes.fromhex(OLD), copy / "models")
    with pytest.raises(released.ReleasedError, match="A git checkout expected"):
        make_list(copy)


def test_without_git_the_line_says_so(root, monkeypatch):
    monkeypatch.setenv("PATH", str(root))
    fails(root, "git cannot be started .* install it")


def test_git_of_a_hook_does_not_lead_elsewhere(root, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert released.fetch(row_of(root, OLD), root / "models").is_dir()


def test_a_commit_that_has_another_model_is_refused(root):
    path = root / "models" / "released.csv"
    first, second, *_ = commits(root)
    path.write_text(path.read_text().replace(first, second))
    fails(root, "has another one of that name")


def test_a_folder_that_cannot_be_written_leaves_nothing(root, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        released.fetch(row_of(root, OLD), root / "models")
    assert list((root / "models" / ".fetched").iterdir()) == []


# The first models of this repository, and two of other shapes that are no longer shipped.
REAL = ["1512fd71bb2da330", "f1f15d6eda4d2c83", "ccdb53617b69d148"]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone of this repository with its whole history and without a model."""
    if not released.is_checkout(ROOT):
        pytest.skip("this is no git checkout")
    if released.is_shallow(ROOT):
        pytest.skip("this clone is shallow: old models are not in it")
    clone = tmp_path / "clone"
    released.git(tmp_path, "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(clone))
    (clone / "models").mkdir()
    shutil.copy(models.MODELS_DIR / "released.csv", clone / "models")
    monkeypatch.setattr(models, "MODELS_DIR", clone / "models")
    monkeypatch.chdir(clone)
    return clone


@pytest.mark.parametrize("fingerprint", REAL)
def test_the_decoder_fetches_real_old_models(clone, run_here, fingerprint):
    row = row_of(clone, fingerprint)
    code, out, err = run_here(decoder, kept_path(row), "-o", "back.png")
    assert code == 1 and f"written with {row}, " in err and "add --fetch-model" in err
    code, out, err = run_here(decoder, kept_path(row), "-o", "back.png", "--fetch-model")
    assert code == 0 and f"Fetching {row} " in out and row.folder_name in out.splitlines()[-1], err
    code, out, err = run_here(decoder, kept_path(row), "-o", "again.png")
    assert code == 0 and "Fetching" not in out, err


def test_the_line_brings_a_real_old_model(clone, run_here):
    path = kept_path(row_of(clone, REAL[0]))
    _, _, err = run_here(decoder, path, "-o", "back.png")
    line = err.splitlines()[0].partition("or run: ")[2]
    assert shlex.split(line)[:2] == ["git", "archive"]
    shell(line, clone)
    code, _, err = run_here(decoder, path, "-o", "back.png")
    assert code == 0, err


def test_a_file_of_no_released_model_has_nothing_to_fetch(run_here, tmp_path):
    golden = ROOT / "tests" / "golden" / "gmm-1x1.glic"
    files = [shutil.copy(golden, tmp_path / f"{name}.glic") for name in "ab"]
    code, out, err = run_here(decoder, *files, "-o", tmp_path, "--fetch-model")
    assert code == 1 and "Fetching" not in out
    lines = [line for line in err.splitlines() if "cannot be fetched" in line]
    assert len(lines) == 2 and all("released.csv" in line for line in lines)
    assert all("--checkpoint" in line for line in lines)


def test_a_model_that_cannot_be_fetched_is_sought_once(root, run_here, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "MODELS_DIR", root / "models")
    fingerprint = "1512fd71bb2da330"
    row = released.read(ROOT / "models")[fingerprint]
    path = root / "models" / "released.csv"
    with open(path, "a") as file:
        file.write(",".join(map(str, row)) + "\n")
    files = [shutil.copy(kept_path(row), tmp_path / f"{name}.glic") for name in "ab"]
    code, out, err = run_here(decoder, *files, "-o", tmp_path, "--fetch-model")
    assert code == 1 and out.count("Fetching") == 1
    assert err.count("nor a remote to fetch it from") == 2
