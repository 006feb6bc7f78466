"""Outputs under faults: races, full disks, kills, hostile names. No half file gets a name."""

import concurrent.futures
import contextlib
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from golden_models import NUM_FILTERS, REFERENCE, checkpoint_of
from PIL import Image

import decoder
import encoder
from cli import outputs
from codec import Codec
from coding import bitstream, latent_coder
from coding.latents import LatentError

ROOT = Path(__file__).resolve().parents[2]
MODEL = ["--checkpoint", checkpoint_of("gmm"), "--family", "gmm", "--num-filters", NUM_FILTERS]
KILLS = 50


@pytest.fixture
def run(run_here):
    """``run_here`` with the golden checkpoint's options."""
    return lambda module, *arguments: run_here(module, *arguments, *MODEL)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A working folder with in/a.png and in/b.png."""
    monkeypatch.chdir(tmp_path)
    pixels = np.asarray(Image.open(REFERENCE / "image_120x179.png"))
    (tmp_path / "in").mkdir()
    for name, part in (("a", pixels[:40, :50]), ("b", pixels[50:, 90:])):
        Image.fromarray(part).save(tmp_path / "in" / f"{name}.png")
    return tmp_path


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_run_continues_with_skip_existing(run, photos):
    assert run(encoder, "in/a.png", "-o", "out")[0] == 0
    before = (photos / "out" / "a.glic").stat().st_mtime_ns
    code, out, err = run(encoder, "in", "-o", "out", "--skip-existing")
    assert code == 0 and err == "" and "1 of 2 outputs exist" in out and "b.png" in out
    assert (photos / "out" / "a.glic").stat().st_mtime_ns == before
    code, out, err = run(encoder, "in", "-o", "out", "--skip-existing")
    assert code == 0 and "2 of 2" in out
    code, _, err = run(encoder, "in", "-o", "out")
    assert code == 1 and "--skip-existing" in err and "2 of 2 files failed" in err
    assert run(encoder, "in", "-o", "out", "--skip-existing", "--overwrite")[0] == 2


def test_two_writers_do_not_replace_each_other(tmp_path, monkeypatch):
    output, fsync = tmp_path / "a.glic", os.fsync

    def slow_fsync(number):
        output.write_bytes(b"the other process was faster")
        fsync(number)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    with pytest.raises(outputs.OutputExists, match="another process"):
        outputs.atomic_write(output, b"ours", overwrite=False)
    assert output.read_bytes() == b"the other process was faster"
    assert names(tmp_path) == ["a.glic"]
    outputs.atomic_write(output, b"ours")
    assert output.read_bytes() == b"ours" and names(tmp_path) == ["a.glic"]


def test_file_systems_without_links(tmp_path, monkeypatch):
    def no_links(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    output = tmp_path / "a.glic"
    outputs.atomic_write(output, b"1", overwrite=False)
    with pytest.raises(outputs.OutputExists):
        outputs.atomic_write(output, b"2", overwrite=False)
    assert output.read_bytes() == b"1" and names(tmp_path) == ["a.glic"]


@contextlib.contextmanager
def file_size_limit(size):
    """Writes behind ``size`` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, failure):
    path = tmp_path / "a.bin"
    outputs.atomic_write(path, b"old")
    seen = []

    def fail(source, target):
        seen.append((Path(source), Path(target)))
        assert Path(source).read_bytes() == b"new"
        raise failure

    monkeypatch.setattr(os, "replace", fail)
    expected = failure if isinstance(failure, type) else type(failure)
    with pytest.raises(expected):
        outputs.atomic_write(path, b"new")
    ((temporary, target),) = seen
    assert target == path and temporary.parent == tmp_path
    assert temporary.name.startswith(".") and temporary.suffix == ".tmp"
    assert os.listdir(tmp_path) == ["a.bin"] and path.read_bytes() == b"old"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_written_files_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        outputs.atomic_write(tmp_path / "a.bin", b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o666 & ~umask


def test_write_errors_name_the_file_asked_for(tmp_path):
    path = tmp_path / "missing" / "a.bin"
    with pytest.raises(FileNotFoundError) as error:
        outputs.atomic_write(path, b"data")
    assert error.value.filename == str(path)
    with pytest.raises(IsADirectoryError):
        outputs.atomic_write(tmp_path, b"data")


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links and named pipes")
def test_links_are_followed_and_devices_kept(tmp_path):
    outputs.atomic_write(tmp_path / "a.bin", b"old")
    (tmp_path / "link").symlink_to("a.bin")
    outputs.atomic_write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a.bin").read_bytes() == b"new"
    outputs.atomic_write(os.devnull, b"data")
    assert not Path(os.devnull).is_file() and Path(os.devnull).exists()


def test_a_full_disk_leaves_nothing(run, photos):
    with file_size_limit(100):
        code, _, err = run(encoder, "in", "-o", "out")
    assert code == 1 and "2 of 2 files failed" in err and "Traceback" not in err
    assert len(err.splitlines()) == 3 and names(photos / "out") == []
    assert run(encoder, "in", "-o", "out")[0] == 0
    with file_size_limit(3000):
        code, _, err = run(decoder, "out", "-o", "back")
    assert code == 1 and "too large" in err and names(photos / "back") == [], err


def test_data_are_on_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, f=real: calls.append(n) or f(*a))
    outputs.atomic_write(tmp_path / "a", b"1", overwrite=False)
    outputs.atomic_write(tmp_path / "a", b"2")
    assert calls == ["fsync", "link", "fsync", "replace"]


def test_every_truncation_and_every_flipped_bit_is_one_line(run, photos):
    """Through the command: each file is named with a reason, and no picture comes out."""
    Image.fromarray(np.full((3, 5), 90, np.uint8)).save(photos / "in" / "dot.png")
    assert run(encoder, "in/dot.png", "-o", "out")[0] == 0
    sound = (photos / "out" / "dot.glic").read_bytes()
    damaged = {f"cut{n}": sound[:n] for n in range(len(sound))}
    for bit in range(8 * len(sound)):
        value = int.from_bytes(sound, "little") ^ 1 << bit
        damaged[f"bit{bit}"] = value.to_bytes(len(sound), "little")
    folder = photos / "damaged"
    folder.mkdir()
    for name, data in damaged.items():
        (folder / f"{name}.glic").write_bytes(data)
    start = time.process_time()
    code, out, err = run(decoder, "damaged", "-o", "back")
    assert time.process_time() - start < len(damaged) * 0.05
    lines = [line for line in err.splitlines() if line.startswith("damaged/")]
    assert (
        code == 1
        and out.splitlines()[0] == f"{len(damaged)} files to back/"
        and out.count("\n") == 2
        and "Traceback" not in err
    )
    assert sorted(line.split(".glic: ")[0][8:] for line in lines) == sorted(damaged)
    reasons = ("cut off", "damaged", "empty", "Not a GLIC file", "Format version 1 expected")
    assert all(any(r in line for r in reasons) for line in lines)
    assert names(photos / "back") == []


def test_a_folder_that_cannot_be_written_is_one_line(run, photos):
    for folder in ("/proc", "in/a.png", "/proc/nothing"):
        code, _, err = run(encoder, "in/b.png", "-o", folder)
        assert code in (1, 2) and "Traceback" not in err
        assert folder in err and len(err.splitlines()) <= 2


def test_stale_temporary_files_are_removed(run, photos):
    """By their age alone: a process's number means nothing on another machine or system."""
    out = photos / "out"
    out.mkdir()
    old = time.time() - 2 * outputs.STALE_SECONDS
    young, stale = (f".{os.getpid()}-{digit * 16}.tmp" for digit in "12")
    kept = [young, ".notes.tmp", "x.tmp"]
    for name in (*kept, stale):
        (out / name).write_bytes(b"half")
        if name != young:  # another process may be writing it
            os.utime(out / name, (old, old))
    assert run(encoder, "in/a.png", "-o", "out")[0] == 0
    assert names(out) == sorted([*kept, "a.glic"])


def test_what_a_dead_process_left_is_removed_at_once(tmp_path):
    """Where it was a worker of this machine, and in the folder of a link's target, too."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    kill = (
        "import os, pathlib, sys\n"
        "from cli import outputs\n"
        "outputs.os.fsync = lambda handle: os._exit(9)\n"  # when the bytes are in the file
        "outputs.atomic_write(sys.argv[1], b'half')"
    )
    for name in ("file", "link"):
        output = tmp_path / name
        process = subprocess.Popen([sys.executable, "-c", kill, str(output)], cwd=ROOT)
        assert process.wait() == 9
        (left,) = tmp_path.rglob(".*.tmp")
        for other in (process.pid + 1, int(f"{process.pid}1")):
            outputs.remove_unfinished(output, other)
        assert left.exists()
        elsewhere = left.with_name(left.name.replace(outputs._MACHINE, "0" * 8))
        elsewhere.touch()
        outputs.remove_unfinished(output, process.pid)
        assert not left.exists() and elsewhere.exists()
        elsewhere.unlink()
    outputs.remove_unfinished(tmp_path / "nowhere" / "file", process.pid)


def test_hostile_names(run, photos):
    source = (photos / "in" / "a.png").read_bytes()
    hostile = ["-o.png", "--help.png", " .png", "a b\tc.png", "ü 画 😀.png", "line\nbreak.png"]
    hostile += ["$(touch x).png", "\x1b[31mred.png", "'\"`.png", ".png", "..png", "%s{0}.png"]
    folder = photos / "hostile"
    folder.mkdir()
    for name in hostile:
        (folder / name).write_bytes(source)
    (folder / os.fsdecode(b"\xff\xfe.png")).write_bytes(source)
    visible = [p for p in folder.iterdir() if not p.name.startswith(".")]
    code, out, err = run(encoder, "hostile", "-o", "out")
    assert code == 0 and "\x1b" not in out
    assert err == "Left out: 1 x hidden file (name it to take it).\n"
    assert len(out.splitlines()) == len(visible) + 4
    assert names(photos / "out") == sorted(p.stem + ".glic" for p in visible)
    code, out, err = run(decoder, "out", "-o", "back")
    assert code == 0 and names(photos / "back") == sorted(p.stem + ".png" for p in visible)
    assert not (photos / "x").exists()
    os.chdir(folder)
    code, _, err = run(encoder, "-o", "../out2", "./-o.png", ".png")
    assert code == 0 and names(photos / "out2") == ["-o.glic", ".png.glic"]


def test_a_name_that_is_too_long_fails_alone(run, photos):
    (photos / "in" / ("n" * 251 + ".png")).write_bytes((photos / "in" / "a.png").read_bytes())
    code, _, err = run(encoder, "in", "-o", "out")
    assert code == 1 and "File name too long" in err and "1 of 3 files failed" in err
    assert names(photos / "out") == ["a.glic", "b.glic"]


def test_an_output_never_replaces_an_input(run, photos):
    trick = photos / "in" / "c.glic"
    trick.write_bytes((photos / "in" / "a.png").read_bytes())  # an image under an odd name
    code, _, err = run(encoder, trick, "-o", "in", "--overwrite")
    assert code == 1 and "would replace an input" in err
    assert trick.read_bytes() == (photos / "in" / "a.png").read_bytes()
    (photos / "link.glic").symlink_to(trick)
    code, _, err = run(encoder, trick, "-o", "in", "--overwrite")
    assert code == 1


def test_symbolic_links_are_outputs_that_exist(run, photos):
    out = photos / "out"
    out.mkdir()
    (out / "a.glic").symlink_to("nowhere")
    code, _, err = run(encoder, "in/a.png", "-o", "out")
    assert code == 1 and "exists" in err and (out / "a.glic").is_symlink()


def test_what_cannot_be_measured_is_not_written(run, photos, codecs, monkeypatch):
    """Else the next run would find the file of an input that counted as failed."""
    broken = np.full((1, 128, 192, 3), np.nan, np.float32)
    monkeypatch.setattr(codecs["gmm"].networks, "synthesis", lambda y_hat: broken)
    code, _, err = run(encoder, "in/a.png", "-o", "out")
    assert code != 0 and "not finite" in err and names(photos / "out") == []


def test_verify_accepts_what_is_sound(run, photos):
    code, out, _ = run(encoder, "in", "-o", "out", "--verify")
    assert code == 0 and names(photos / "out") == ["a.glic", "b.glic"]


def test_verify_refuses_what_does_not_decode(run, photos, monkeypatch):
    encode = Codec.encode

    def damaged(self, latents, *args):
        container = bitstream.unpack(encode(self, latents, *args))
        return bitstream.pack(container._replace(y=container.y[:-20]))

    def other(self, latents, *args):
        return encode(self, latents._replace(y_symbols=latents.y_symbols + 1), *args)

    for broken, words in ((damaged, "does not decode"), (other, "other latents")):
        monkeypatch.setattr(Codec, "encode", broken)
        code, _, err = run(encoder, "in/a.png", "-o", "out", "--verify")
        assert code == 1 and words in err and names(photos / "out") == []


def test_what_the_disk_changes_is_refused(tmp_path, monkeypatch):
    write = outputs._write_whole
    monkeypatch.setattr(outputs, "_write_whole", lambda path, data: write(path, data[:-1] + b"?"))
    for overwrite in (True, False):
        with pytest.raises(outputs.OutputError, match="x.glic reads back"):
            outputs.atomic_write(tmp_path / "x.glic", b"data", overwrite=overwrite, read_back=True)
    assert names(tmp_path) == []


def test_a_device_is_no_picture(run, photos):
    code, _, err = run(decoder, "/dev/zero", "-o", "back")
    assert code == 1 and "Not a GLIC file" in err and len(err.splitlines()) == 2


def test_limits_are_options(run, photos):
    assert run(encoder, "in", "-o", "out", "--memory-mib", 256)[0] == 0
    code, _, err = run(decoder, "out", "-o", "back", "--max-pixels", 5000)
    assert code == 1 and "the limit is 5000 pixels" in err and names(photos / "back") == ["a.png"]
    code, _, err = run(encoder, "in", "-o", "other", "--memory-mib", 1)
    assert code == 2 and "at least 256" in err


def test_a_picture_that_is_not_finite_is_refused(run, photos, codecs, monkeypatch):
    assert run(encoder, "in/a.png", "-o", "out")[0] == 0
    networks = codecs["gmm"].networks
    broken = networks.synthesis(np.zeros((1, 8, 12, NUM_FILTERS), np.float32)) * np.float32(np.inf)
    monkeypatch.setattr(networks, "synthesis", lambda y_hat: broken)
    code, _, err = run(decoder, "out", "-o", "back")
    assert code == 1 and "not finite" in err and names(photos / "back") == []


def command(*arguments):
    return [sys.executable, str(ROOT / "encoder.py"), *map(str, (*arguments, *MODEL))]


def many_photos(folder, count):
    folder.mkdir()
    pixels = np.asarray(Image.open(REFERENCE / "image_120x179.png"))
    for i in range(count):
        Image.fromarray(pixels[i : i + 70, i : i + 90]).save(folder / f"{i:03d}.png")


@pytest.mark.slow
def test_two_encoders_share_a_folder(tmp_path, codecs):
    many_photos(tmp_path / "in", 30)
    start = command(tmp_path / "in", "-o", tmp_path / "out", "--no-metrics", "--skip-existing")
    both = [subprocess.Popen(start, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [p.wait() for p in both] == [0, 0]
    assert names(tmp_path / "out") == [f"{i:03d}.glic" for i in range(30)]
    for path in (tmp_path / "out").iterdir():
        codecs["gmm"].decode(bitstream.unpack(path.read_bytes()))


def kill_encoders(inputs, base, count, seed):
    """Kills encoders of one folder at random moments; the last one is left to complete the run.

    Every other kill strikes while files are written, however slow the machine. Returns the bytes
    that each file ever had, by name; they are whole, and the same after every kill.
    """
    rng, kills, seen, out = random.Random(seed), 0, {}, base / "0"
    while kills < count:
        start = command(inputs, "-o", out, "--no-metrics", "--skip-existing")
        process = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for line in process.stdout:
            if b"filters, started" in line:
                break
        before = set(out.glob("*.glic"))
        while kills % 2 and process.poll() is None and set(out.glob("*.glic")) == before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        for path in out.glob("*.glic"):
            data = path.read_bytes()
            bitstream.unpack(data)
            assert seen.setdefault(path.name, data) == data
        if process.returncode == 0:  # it was done before the kill: begin anew
            out = base / str(kills)
    start = command(inputs, "-o", out, "--no-metrics", "--skip-existing")
    assert subprocess.run(start, stdout=subprocess.DEVNULL).returncode == 0
    whole = list(out.glob("*.glic"))
    assert {p.stem for p in whole} == {p.stem for p in inputs.iterdir()}
    for path in whole:
        assert seen.setdefault(path.name, path.read_bytes()) == path.read_bytes()
    return seen


@pytest.mark.slow
def test_killed_encoders_leave_whole_files(tmp_path):
    """SIGKILL at 50 random moments; each rerun goes on where the last one was killed."""
    many_photos(tmp_path / "in", 120)
    bases = [tmp_path / "a", tmp_path / "b"]
    for base in bases:
        base.mkdir()
    with concurrent.futures.ThreadPoolExecutor() as pool:  # side by side: starting takes longest
        first, second = pool.map(
            lambda i: kill_encoders(tmp_path / "in", bases[i], KILLS // 2, i), range(2)
        )
    assert first == second and len(first) == 120


def test_the_escape_code_has_an_end():
    class Ones:
        def decode(self, count, table):
            return [1] * count

    with pytest.raises(LatentError, match="too long"):
        latent_coder._read_golomb(Ones(), 0)
