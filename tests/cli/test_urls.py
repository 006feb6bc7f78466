"""Addresses: file:// here, and a real S3 interface on loopback."""

import os
import pickle
from pathlib import Path

import pytest
from golden_models import NUM_FILTERS, REFERENCE, checkpoint_of
from PIL import Image

import decoder
import encoder
from cli import inputs, outputs, streams, urls
from cli.urls import Url, UrlError

MODEL = ["--checkpoint", checkpoint_of("gmm"), "--family", "gmm", "--num-filters", NUM_FILTERS]


def test_an_address_is_a_path_as_far_as_that_is_used():
    url = Url("s3://bucket/day 1/a.b.png/")
    assert (str(url), url.name, url.stem, url.suffix) == (
        "s3://bucket/day 1/a.b.png",
        "a.b.png",
        "a.b",
        ".png",
    )
    assert url.parent / Path() / "x" == Url("s3://bucket/day 1/x")
    assert url / Path("deep") / "y" == Url(f"{url}/deep/y")
    assert pickle.loads(pickle.dumps(url)) == url and len({url, Url(str(url))}) == 1


def test_what_is_an_address(tmp_path):
    assert isinstance(streams.to_path("s3://a/b"), Url)
    assert streams.to_path(f"file://{tmp_path}/a b%20c") == tmp_path / "a b%20c"
    for text in ("a.png", "c:/a.png", "C:\\a.png", "://a", "-"):
        assert isinstance(streams.to_path(text), Path)


def test_files_by_their_address(tmp_path, run_here):
    with Image.open(REFERENCE / "image_120x179.png") as image:
        image.crop((0, 0, 50, 40)).save(tmp_path / "a.png")
    code, out, err = run_here(
        encoder, f"file://{tmp_path}/a.png", "-o", f"file://{tmp_path}/out", *MODEL
    )
    assert code == 0 and os.listdir(tmp_path / "out") == ["a.glic"], err


def test_what_is_missing_is_one_sentence(monkeypatch):
    pytest.importorskip("fsspec", reason="addresses need requirements-scale.txt")
    with pytest.raises(UrlError, match="nothing://a/b cannot be read"):
        urls.read(Url("nothing://a/b"))
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UrlError, match="requirements-scale.txt"):
        urls.read(Url("s3://a/b"))


@pytest.fixture
def store(monkeypatch):
    """Address of an empty folder in a store whose files get their names when they are whole."""
    pytest.importorskip("fsspec", reason="addresses need requirements-scale.txt")
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    return Url("memory://bucket")


@pytest.mark.parametrize("whole", [True, False])
def test_objects_are_whole_and_not_replaced(store, monkeypatch, whole):
    if not whole:
        monkeypatch.setattr(urls, "_WHOLE", set())
    url = store / "a.glic"
    outputs.write(url, b"one", overwrite=False, read_back=True)
    outputs.write(url, b"one", overwrite=False)  # the same bytes are no other file
    with pytest.raises(outputs.OutputExists, match="other bytes"):
        outputs.write(url, b"two", overwrite=False)
    assert urls.read(url) == b"one"
    outputs.write(url, b"three")
    assert urls.read(url) == b"three" and outputs.checksum_of(url) == outputs.checksum(b"three")
    assert urls.folder(store) == ([url], 0)  # no temporary file
    assert outputs.checksum_of(store / "none") is None
    with pytest.raises(UrlError, match="does not exist"):
        urls.read(store / "none")


def test_what_reads_back_otherwise_is_removed(store, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_: b"other")
    with pytest.raises(UrlError, match="reads back other"):
        outputs.write(store / "a", b"data", read_back=True)
    assert not urls.exists(store / "a")


def test_folders_of_a_store_are_read_as_folders_are(store):
    for name in ("b.png", "a.JPG", "note.txt", ".hidden.png", "day 1/c.png", "out/a.glic"):
        outputs.write(store / name, name.encode())

    def found(*arguments, **options):
        result = inputs.find(arguments, [".png", ".jpg"], lambda suffix: "no images", **options)
        return [str(i.path)[len("memory://") :] for i in result.inputs if not i.problem], result

    names, result = found(str(store))
    assert names == ["bucket/a.JPG", "bucket/b.png"]
    assert "2 x folder (add --recursive)" in result.left_out and ".txt" in result.left_out
    assert "1 x hidden file" in result.left_out
    names, result = found(str(store), recursive=True, apart=store / "out")
    assert [Path(name).name for name in names] == ["a.JPG", "b.png", "c.png"]
    assert result.inputs[-1].below == Path("day 1")
    assert "1 x file (its folder takes the outputs)" in result.left_out
    names, result = found(f"{store}/b.png", f"{store}/none.png", f"{store}/out")
    assert [Path(name).name for name in names] == ["b.png"]
    problems = [str(entry.problem) for entry in result.inputs if entry.problem]
    assert "none.png does not exist" in problems[0] and "holds no image" in problems[1]


@pytest.fixture
def s3(monkeypatch):
    """An S3 server on loopback with a bucket "photos"; its file system."""
    s3fs = pytest.importorskip("s3fs", reason="addresses need requirements-scale.txt")
    server = pytest.importorskip("moto.server", reason="the S3 server for tests is moto[server]>=5")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("photos")
    yield system
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_bucket_is_coded_and_restored(s3, tmp_path, run_here, codecs):
    with Image.open(REFERENCE / "image_120x179.png") as image:
        image.crop((0, 0, 50, 40)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for name in ("a.png", "day 1/b.png"):
        s3.pipe_file(f"photos/in/{name}", data)
    s3.pipe_file("photos/in/broken.png", b"no picture")
    manifest = ["--manifest", tmp_path / "m.jsonl"]
    encode = [encoder, "s3://photos/in", "-r", "-o", "s3://photos/out", *manifest, *MODEL]
    code, out, err = run_here(*encode)
    assert code == 1 and "s3://photos/in/broken.png is not an image" in err, err
    assert sorted(s3.find("photos/out")) == ["photos/out/a.glic", "photos/out/day 1/b.glic"]
    assert "3 files to s3://photos/out/" in out
    code, out, _ = run_here(*encode)
    assert "2 of 3 outputs were there already" in out
    changed = s3.cat_file("photos/out/a.glic")[:-1] + b"?"
    s3.pipe_file("photos/out/a.glic", changed)
    code, _, err = run_here(*encode, "--no-metrics")
    assert code == 1 and "a.glic exists with other bytes" in err
    assert s3.cat_file("photos/out/a.glic") == changed
    assert run_here(*encode, "--overwrite", "--verify")[0] == 1
    code, _, err = run_here(decoder, "s3://photos/out", "-r", "-o", tmp_path / "back", *MODEL)
    assert code == 0 and (tmp_path / "back" / "day 1" / "b.png").is_file(), err
    code, _, err = run_here(encoder, "s3://photos/in/a.png", "-o", "s3://photos/out", *MODEL)
    assert code == 1 and "exists: add --overwrite" in err
    code, _, err = run_here(encoder, "s3://nowhere/a.png", "-o", tmp_path / "out", *MODEL)
    assert code == 1 and "s3://nowhere/a.png" in err and "Traceback" not in err
    code, _, err = run_here(encoder, tmp_path / "a.png", "-o", "s3://nowhere/out", *MODEL)
    assert code in (1, 2) and "s3://nowhere/out" in err and "Traceback" not in err
