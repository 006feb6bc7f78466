"""Bundles as train.py writes them and takes them back; what runs in between is test_xla_loop.py."""

import ast
import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_house import MODULES, ROOT, reached
from tiny_training import command, photograph, rows_of, run_train

import variables
from coding import models
from pictures import images
from training import bundle, packing, unbundle
from training.photographs import read_rgb
from training.table import Table
from training.xla import bundle as layout
from training.xla import files

TINY = ["--num-filters", "8", "--num-latents", "16", "--batch", "2", "--patch", "64"]
TINY += ["--final-patch", "128", "--steps", "20", "--lmbda", "0.002:0.02"]
TINY += ["--precision", "float32"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Seventeen photographs, of which two are held out."""
    folder = tmp_path_factory.mktemp("photos")
    for k in range(17):
        suffix = (".png", ".jpg", ".webp")[k % 3]
        Image.fromarray(photograph(k, 140, 130)).save(folder / f"p{k:02d}{suffix}")
    return folder


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    """A bundle that starts anew."""
    out = tmp_path_factory.mktemp("bundles") / "new"
    assert run_train("--bundle", out, "--data", photos, *TINY) == 0
    return out


def trained(folder, target, step=20, **changes):
    """A copy of a bundle with results as its run.py leaves them, of weights that it starts from."""
    shutil.copytree(folder, target)
    read = layout.Bundle(target)
    weights = {name: read.start()[name] for name in read.record["names"]}
    progress = {"step": step, "refused": 1, "seconds": [30.0, 6.0]}
    record = {"bundle": read.record["id"], "progress": progress, "machine": {"device": "toy"}}
    read.results.mkdir()
    files.write_arrays(read.results / "weights.npz", {**weights, **changes}, record)
    columns = read.record["columns"]
    table = Table(read.results / "log.csv", columns, 0)
    for step in (10, 20, 30):
        table.append({**dict.fromkeys(columns, 1.5), "step": step})
    return target


def test_what_is_in_it(made, photos):
    assert sorted(p.name for p in made.iterdir()) == [
        *("bundle.json", "photographs", "program", "requirements.txt", "run.py", "steps", "valid")
    ]
    read = layout.Bundle(made)
    assert len(read.photographs()) == read.record["photographs"] == 15
    held = {p.read_bytes() for p in photos.iterdir()} - {p.read_bytes() for p in read.photographs()}
    assert len(held) == 2 and len(list((made / "valid").iterdir())) == 2
    noise, rounded = read.record["stages"]
    assert (noise["share"], rounded["share"]) == (0.9, 0.1)
    assert [(p["end"], p["step"]) for p in noise["parts"]] == [
        *((0.8, "noise-2x64"), (1.0, "noise-1x128"))
    ]
    assert [(p["end"], p["step"]) for p in rounded["parts"]] == [(1.0, "rounded-1x128")]
    assert rounded["parts"][0]["settings"]["learning_rate"] == 6e-4
    assert rounded["parts"][0]["settings"]["schedule"] == "cosine"
    steps = read.record["steps"]
    assert steps["noise-2x64"]["inputs"] == ["delta"]
    assert steps["rounded-1x128"]["inputs"] == ["delta", "quantiles"]
    assert sorted(steps["noise-2x64"]["reached"]) == sorted(read.record["names"])
    assert not [n for n in steps["rounded-1x128"]["reached"] if n.startswith("analysis/")]
    assert all(read.step(name) for name in steps)


def test_the_program_is_what_run_py_imports_and_needs_no_tensorflow(made):
    needed = reached("training.xla.run") | {"training.xla.run"}
    lazily = {"functions"}  # of factorized_prior, where TensorFlow is
    assert {str(MODULES[name].relative_to(ROOT)) for name in needed - lazily} == set(bundle.PROGRAM)
    for name in needed - lazily:
        for node in ast.parse(MODULES[name].read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                found = [getattr(node, "module", None) or node.names[0].name]
                tops = {n.split(".")[0] for n in found}
                assert not tops & {"tensorflow", "scipy", "tqdm", "cli"}, name
                if not name.startswith("training.xla"):
                    assert "jax" not in tops, name
    code = "import sys; sys.modules['tensorflow'] = None; sys.path.insert(0, sys.argv[1]); "
    code += "import factorized_prior, training.photographs, training.schedule, training.xla.files"
    done = subprocess.run([sys.executable, "-c", code, made / "program"], cwd=made, check=False)
    assert done.returncode == 0


def test_drawn_weights_are_as_train_py_draws_them(made):
    weights = layout.Bundle(made).start()
    again = layout.Bundle(made).start()
    rules = layout.Bundle(made).record["drawn"]
    assert weights.keys() == rules.keys() and len(weights) == 270
    for name, rule in rules.items():
        np.testing.assert_array_equal(weights[name], again[name])
        assert weights[name].dtype == np.float32
        if "mean" in rule:
            assert weights[name].std() == pytest.approx(rule["deviation"], rel=0.1), name
    assert sum("mean" in rule for rule in rules.values()) >= 3
    np.testing.assert_array_equal(weights["entropy_bottleneck/quantiles"][0, 0], [-10, 0, 10])


def test_weights_to_start_from_travel_also_as_float16(photos, start, tmp_path):
    sizes = []
    for more in ([], ["--half"]):
        out = tmp_path / f"out{len(more)}"
        options = ["--init-from", start, "--rounded", "0", "--num-filters", "8", "--patch", "64"]
        options += ["--batch", "1", "--steps", "2", "--precision", "float32"]
        assert run_train("--bundle", out, "--data", photos, *options, *more) == 0
        read = layout.Bundle(out)
        assert len(read.record["stages"]) == 1
        sizes.append((out / "start.npz").stat().st_size)
        values = read.start()
        assert all(v.dtype == np.float32 for v in values.values())
        name = "synthesis/Block_0_layer_0/signal_conv2d/kernel_rdft"
        if not more:
            exact = values[name]
    np.testing.assert_allclose(values[name], exact, rtol=1e-3, atol=1e-6)
    assert not np.array_equal(values[name], exact) and sizes[1] < 0.65 * sizes[0]


def test_photographs_are_the_files_or_jpeg_2000_within_a_limit(tmp_path):
    rng = np.random.default_rng(4)
    paths = []
    for k in range(4):
        pixels = np.clip(photograph(k, 400, 400) + rng.normal(0, 12, (400, 400, 3)), 0, 255)
        paths.append(tmp_path / f"{k}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    assert packing.pack(paths, tmp_path / "files") == "files as they are"
    copied = sorted((tmp_path / "files").iterdir())
    assert [p.read_bytes() for p in copied] == [p.read_bytes() for p in paths]
    said = packing.pack(paths, tmp_path / "small", 1, report=lambda _: None)
    small = sorted((tmp_path / "small").iterdir())
    assert sum(p.stat().st_size for p in small) <= 1 << 20
    decibels = int(said.split()[3])
    for before, after in zip(paths, small):
        a, b = (images.read_image(p).pixels.astype(float) for p in (before, after))
        assert 10 * np.log10(255**2 / np.mean((a - b) ** 2)) > decibels - 2
    with pytest.raises(ValueError, match="more than --photos-mib 1: give a larger limit"):
        packing.pack(paths * 8, tmp_path / "none", 1)


@pytest.mark.parametrize("suffix", [".heic", ".jxl", ".avif", ".png"])
def test_what_plain_pillow_may_not_read_travels_as_its_pixels(tmp_path, suffix):
    pytest.importorskip({".heic": "pillow_heif", ".jxl": "pillow_jxl"}.get(suffix, "PIL"))
    if suffix not in images.IMAGE_SUFFIXES:
        pytest.skip("this Pillow reads no AVIF")
    if suffix == ".heic":
        sys.modules["pillow_heif"].register_heif_opener()
    paths = [tmp_path / f"a{suffix}", tmp_path / "b.jpg"]
    paths.append(tmp_path / "named.jpg")  # by its contents, not its name
    for k, path in enumerate(paths[:2]):
        Image.fromarray(photograph(k, 96, 80)).save(path)
    shutil.copyfile(paths[0], paths[2])
    said = packing.pack(paths, tmp_path / "out")
    packed = sorted((tmp_path / "out").iterdir())
    converted = suffix != ".png"
    assert said == "files as they are" + ", 2 of them as lossless WebP or PNG" * converted
    ends = [".webp", ".jpg", ".webp"] if converted else [".png", ".jpg", ".jpg"]
    assert [p.suffix for p in packed] == ends
    assert packed[1].read_bytes() == paths[1].read_bytes()
    for before, after in zip(paths, packed):
        np.testing.assert_array_equal(read_rgb(before), read_rgb(after))
        with Image.open(after) as image:
            assert image.format in ("WEBP", "JPEG", "PNG")


def test_what_is_too_large_once_it_is_lossless_becomes_jpeg_2000(tmp_path):
    if ".avif" not in images.IMAGE_SUFFIXES:
        pytest.skip("this Pillow reads no AVIF")
    noise = np.random.default_rng(1).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.avif", quality=60)
    assert (tmp_path / "a.avif").stat().st_size < 1 << 20
    said = packing.pack([tmp_path / "a.avif"], tmp_path / "out", 1, report=lambda _: None)
    assert said.startswith("JPEG 2000 at")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["000000.jp2"]


def test_kernels_are_halved_where_float16_holds_them():
    values = np.float32([1.5, 65504])
    for name in ("a/kernel", "a/kernel_rdft", variables.MASKED_WEIGHTS):
        assert variables.halved(name, values).dtype == np.float16
        for beyond in (70000, np.inf, np.nan):
            assert variables.halved(name, np.float32([1.5, beyond])).dtype == np.float32
    for name in ("a/bias", "a/gdn/reparam_gamma", variables.QUANTILES):
        assert variables.halved(name, values).dtype == np.float32


def test_from_bundle_makes_a_run_that_goes_on_as_usual(made, photos, tmp_path, capsys):
    folder = trained(made, tmp_path / "back")
    runs = tmp_path / "runs"
    take = ["--from-bundle", folder, "--name", "b", "--runs", runs]
    assert run_train(*take) == 0
    assert [row["step"] for row in rows_of(runs / "b" / "log.csv")] == ["10", "20"]
    assert len(rows_of(runs / "b" / "valid.csv")) == 1
    settings = json.loads((runs / "b" / "settings.json").read_text())
    assert settings["machine"]["device"] == "toy" and settings["images"] == 15
    target = tmp_path / "model"
    assert run_train("--name", "b", "--runs", runs, "--export", "--to", target) == 0
    model = models.load_folder(target)
    name = "synthesis/Block_0_layer_0/signal_conv2d/kernel_rdft"
    started = layout.Bundle(made).start()[name]
    np.testing.assert_allclose(model.weights[name], started, rtol=1e-3, atol=1e-6)  # float16
    assert model.config["steps"] == 20 and model.config["refused_steps"] == 1
    assert model.config["hours"] == 0.01 and model.config["machine"]["device"] == "toy"
    assert model.config["validation"]["step"] == 20
    assert run_train(*take) == 0  # the same bundle again
    capsys.readouterr()
    assert run_train("--name", "b", "--runs", runs, "--data", photos, "--steps", "30") == 2
    assert "start a new run from it with --init-from" in capsys.readouterr().err
    more = ["--init-from", runs / "b", "--num-latents", "16", "--steps", "1", "--synthetic", "0"]
    shutil.copytree(photos, tmp_path / "data")
    shutil.copytree(made / "valid", tmp_path / "data" / "more")
    assert command(tmp_path / "data", runs, *more, "--quantisation", "rounded", name="last") == 0


def test_results_that_cannot_be_taken(made, tmp_path, capsys):
    def refused(folder, *more):
        options = ["--from-bundle", folder, "--name", "b", "--runs", tmp_path / "runs"]
        assert run_train(*options, *more) == 2
        assert not list((tmp_path / "runs" / "b").glob("step-*"))
        return capsys.readouterr().err

    assert "weights.npz is missing: train with" in refused(made)
    folder = trained(made, tmp_path / "a")
    (folder / "results" / "log.csv").unlink()
    assert "log.csv is missing" in refused(folder)
    assert "--from-bundle does not train: leave --steps out" in refused(folder, "--steps", "3")
    assert "is of step 0, nothing has been trained yet" in refused(trained(made, tmp_path / "0", 0))
    bias = "synthesis/Block_0_layer_0/signal_conv2d/bias"
    folder = trained(made, tmp_path / "b", **{bias: np.full(8, np.nan, np.float32)})
    assert f"not finite, in {bias}" in refused(folder)
    folder = trained(made, tmp_path / "c")
    path = folder / "results" / "weights.npz"
    path.write_bytes(path.read_bytes()[:-200])
    assert "weights.npz is damaged" in refused(folder)
    folder = trained(made, tmp_path / "d")
    record = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**record, "id": "other"}))
    assert "was trained from another bundle" in refused(folder)
    assert "is no bundle" in refused(tmp_path)


def test_a_run_that_another_trainer_has_just_made_stays(made, tmp_path, monkeypatch, capsys):
    """It comes between the first look and the lock."""
    target = tmp_path / "runs" / "b"

    @contextlib.contextmanager
    def after_another(folder):
        (folder / "settings.json").write_text('{"lmbda": 0.01}')
        (folder / "step-3.index").write_bytes(b"")
        yield

    monkeypatch.setattr(unbundle.lock, "locked", after_another)
    folder = trained(made, tmp_path / "a")
    assert run_train("--from-bundle", folder, "--name", "b", "--runs", tmp_path / "runs") == 2
    assert "b is another run; choose another --name" in capsys.readouterr().err
    assert json.loads((target / "settings.json").read_text()) == {"lmbda": 0.01}


def test_a_checkpoint_never_stands_without_its_record(made, tmp_path, monkeypatch):
    def seen(self, *_):
        assert json.loads((self._folder / "settings.json").read_text())["machine"]["bundle"]
        return "disk full"

    monkeypatch.setattr(unbundle.Checkpoints, "save", seen)
    folder, runs = trained(made, tmp_path / "a"), tmp_path / "runs"
    assert run_train("--from-bundle", folder, "--name", "b", "--runs", runs) == 2
    monkeypatch.undo()
    assert run_train("--from-bundle", folder, "--name", "b", "--runs", runs) == 0


def test_bundles_that_cannot_be_made(photos, made, start, tmp_path, capsys):
    def refused(*options):
        assert run_train(*options) == 2
        return capsys.readouterr().err

    out = tmp_path / "out"
    assert "give --bundle a new one" in refused("--bundle", made, "--data", photos, *TINY)
    assert "Give the folder of training images" in refused("--bundle", out, *TINY)
    assert "leave --name out" in refused("--bundle", out, "--data", photos, *TINY, "--name", "x")
    assert "either --steps or --hours" in refused("--bundle", out, "--data", photos)
    given = ["--data", photos, *TINY, "--metric", "ms-ssim", "--patch", "192"]
    given += ["--final-patch", "192"]
    assert "MS-SSIM runs start from" in refused("--bundle", out, *given)
    rounded = ["--quantisation", "rounded", "--init-from", start]
    for share in ("0.1", "0.2"):
        said = refused("--bundle", out, "--data", photos, *TINY, *rounded, "--rounded", share)
        assert f"without a last stage: leave --rounded {share} out" in said
    said = refused("--name", "x", "--data", photos, "--steps", "1", "--rounded", "0.1")
    assert "--rounded only with --bundle" in said
    said = refused("--name", "x", "--data", photos, "--steps", "1", "--half")
    assert "--half only with --bundle" in said
    assert not out.exists() and not Path("runs/x").exists()


def test_no_half_bundle_stays(photos, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device", "steps")

    monkeypatch.setattr(bundle, "export_step", broken)
    assert run_train("--bundle", tmp_path / "out", "--data", photos, *TINY) == 2
    assert list(tmp_path.iterdir()) == []


def test_run_py_says_what_is_missing(made):
    """In a Python without any package."""
    done = subprocess.run(
        [sys.executable, "-S", made / "run.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "No jax and numpy and PIL here: python -m pip install -r" in done.stderr
