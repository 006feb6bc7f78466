"""Training: data, schedules, refusals, resume, NaN stop and export, on tiny models."""

import csv
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image

import layers
import train
from coding import models
from training import export as models_io
from training import graph as training_graph
from training import log as training_log
from training import loop as training_loop
from training import photographs as training_data

# Grappler takes longer to plan a step than these tests to run it; one of them keeps it on.
REAL_CONFIG = layers.session_config


@pytest.fixture(scope="module", autouse=True)
def quick_sessions():
    def config(threads=0):
        made = REAL_CONFIG(threads)
        made.graph_options.rewrite_options.disable_meta_optimizer = True
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "session_config", config)
        yield


def photograph(seed, height=96, width=112):
    """A smooth colourful image with some noise, uint8."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / 40
    waves = [np.sin(rows * a + columns * b + c) for a, b, c in rng.uniform(0, 3, (3, 3))]
    noisy = 128 + 90 * np.stack(waves, -1) + rng.normal(0, 4, (height, width, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of five images, one of them in a subfolder."""
    path = tmp_path_factory.mktemp("photographs")
    (path / "more").mkdir()
    for i in range(5):
        name = "more/4.png" if i == 4 else f"{i}.png"
        Image.fromarray(photograph(i)).save(path / name)
    return path


def command(folder, runs, *options, name="tiny"):
    """Runs train.py on a tiny model; returns the exit status."""
    tiny = "--num-filters 8 --patch 64 --batch 2 --precision float32 --threads 1 --warmup 2"
    tiny += " --optimizer adam"  # its graph is built faster; test_soap.py resumes SOAP
    place = ["--data", str(folder), "--valid", str(folder / "more"), "--runs", str(runs)]
    place += ["--name", name, "--to", str(runs.parent / "models" / name)]
    return train.main([*place, *tiny.split(), *options])


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def weights_of(run):
    reader = tf.train.load_checkpoint(models_io.latest_checkpoint(run))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if name != "progress/seconds"}


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A run of six steps in one go, with its exported model."""
    base = tmp_path_factory.mktemp("finished")
    assert command(folder, base / "runs", "--steps", "6") == 0
    return base


# --- Data ----------------------------------------------------------------------------------------


def test_data_skips_what_cannot_be_used(folder, tmp_path):
    Image.fromarray(photograph(7, 63, 200)).save(tmp_path / "small.png")
    Image.fromarray(photograph(8)[:, :, 0]).save(tmp_path / "grey.png")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image either")
    said = []
    paths = training_data.find_images(folder) + training_data.find_images(tmp_path)
    photographs = training_data.Photographs(paths, 64, 1 << 30, 2, said.append)
    assert len(photographs) == 6 and photographs.too_small == 1
    assert len(said) == 1 and "broken.jpg" in said[0]
    assert photographs.batch(7, 64, 1, 0).shape == (7, 64, 64, 3)
    photographs.close()


def test_batches_do_not_depend_on_memory_or_on_where_they_start(folder):
    paths = training_data.find_images(folder)
    cached = training_data.Photographs(paths, 64, 1 << 30, 2)
    decoded = training_data.Photographs(paths, 64, 40_000, 2)
    assert cached.in_memory == 5 and decoded.in_memory == 1
    wanted = [cached.batch(3, 64, 5, step) for step in range(4)]
    assert not np.array_equal(wanted[0], wanted[1])
    for photographs, start in ((cached, 0), (decoded, 0), (cached, 2)):
        batches = training_data.Batches(photographs, 3, 64, 5, start)
        for step in range(start, 4):
            np.testing.assert_array_equal(batches.next(), wanted[step])
        batches.close()
    cached.close()
    decoded.close()


def test_epochs_show_each_image_once(folder):
    photographs = training_data.Photographs(training_data.find_images(folder), 96, 1 << 30, 2)
    stored = [photographs._decoded(i) for i in range(5)]
    found = []
    for crop in photographs.batch(5, 96, 3, 2):
        for index, pixels in enumerate(stored):
            flipped = [pixels[::a, ::b] for a in (1, -1) for b in (1, -1)]
            shifts = [f[:, s : s + 96] for f in flipped for s in range(17)]
            if any(np.array_equal(crop, s) for s in shifts):
                found.append(index)
    assert sorted(found) == [0, 1, 2, 3, 4]
    photographs.close()


def test_nothing_usable_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="5 of 5 are smaller"):
        training_data.Photographs(training_data.find_images(folder), 128, 1 << 30, 2)
    with pytest.raises(ValueError, match="hold no image"):
        training_data.find_images(tmp_path)


def test_hold_out_depends_on_names_only(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    kept, held = training_data.hold_out(paths)
    assert len(held) == 5 and sorted(kept + held) == sorted(paths)
    again = training_data.hold_out([p.parent / "elsewhere" / p.name for p in paths[::-1]])[1]
    assert [p.name for p in again] == [p.name for p in held]


# --- Runs ----------------------------------------------------------------------------------------


def test_export_restores_as_a_model(finished):
    target = finished / "models" / "tiny"
    model = models.load_folder(target)
    assert len(model.weights) == 272
    assert model.config["steps"] == 6 and model.config["lmbda"] == 0.0075
    valid = rows_of(finished / "runs" / "tiny" / "valid.csv")
    assert model.config["validation"]["loss"] == float(valid[-1]["loss"])
    assert sorted(p.name for p in target.iterdir()) == [
        *("config.json", "log.csv", "log.png", "model.data-00000-of-00001", "model.index")
    ]
    trained = weights_of(finished / "runs" / "tiny")
    name = "synthesis/Block_0_layer_0/signal_conv2d/kernel_rdft"
    np.testing.assert_array_equal(model.weights[name], trained[f"average/{name}"])
    assert np.abs(trained[f"average/{name}"] - trained[name]).max() > 0
    quantiles = model.weights["entropy_bottleneck/quantiles"]
    assert np.all(np.diff(quantiles, axis=-1) > 0) and not np.any(quantiles == 10)
    assert [p.name for p in (finished / "models").iterdir()] == ["tiny"]


def test_export_again_gives_the_same_model(finished, folder):
    again = finished / "again"
    options = ["--name", "tiny", "--runs", str(finished / "runs"), "--export"]
    assert train.main([*options, "--to", str(again)]) == 0
    first = models.load_folder(finished / "models" / "tiny")
    assert models.load_folder(again).fingerprint == first.fingerprint


def test_export_tells_nothing_of_steps_after_the_checkpoint(finished, tmp_path):
    """A run under way has logged and validated weights that its newest checkpoint does not hold."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    for name in ("log", "valid"):
        path = tmp_path / "runs" / "tiny" / f"{name}.csv"
        last = path.read_text().splitlines()[-1]
        path.write_text(path.read_text() + last.replace("6,", "7,", 1) + "\n")
    options = ["--name", "tiny", "--runs", str(tmp_path / "runs"), "--export"]
    assert train.main([*options, "--to", str(tmp_path / "again")]) == 0
    assert models.load_folder(tmp_path / "again").config["validation"]["step"] == 6
    for name in ("log.csv", "log.png"):
        first = finished / "models" / "tiny" / name
        assert (tmp_path / "again" / name).read_bytes() == first.read_bytes()


def test_resume_continues_exactly(finished, folder, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    real, suspended = time.monotonic, [0]

    def interrupted(self, loop=training_loop.Run._loop, step=training_loop.Run._one_step):
        def three(pixels):
            values = step(self, pixels)
            if self.step == 2:
                suspended[0] = 3600  # seconds
                os.kill(os.getpid(), signal.SIGCONT)
            if self.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return values

        self._one_step = three
        loop(self)

    assert threading.current_thread() is threading.main_thread()  # where signals arrive
    with monkeypatch.context() as patch:
        patch.setattr(training_loop.Run, "_loop", interrupted)
        patch.setattr(training_loop.time, "monotonic", lambda: real() + suspended[0])
        assert command(folder, runs, "--steps", "6") == 0
    assert weights_of(runs / "tiny")["progress/step"] == 3
    assert float(rows_of(runs / "tiny" / "log.csv")[-1]["hours"]) < 0.5  # not that it was suspended
    assert not (tmp_path / "models").exists()
    assert command(folder, runs) == 0
    wanted, found = weights_of(finished / "runs" / "tiny"), weights_of(runs / "tiny")
    assert wanted["progress/step"] == 6 and wanted.keys() == found.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_conflicting_settings_are_refused(finished, folder, capsys):
    def refused(*options):
        assert command(folder, finished / "runs", *options) == 2
        return capsys.readouterr().err

    assert "lmbda 0.0075, not 0.03" in refused("--lmbda", "0.03")
    assert "family gmm, not gllmm" in refused("--family", "gllmm")
    assert "either --steps or --hours" in refused("--steps", "9", "--hours", "1")
    assert train.main(["--name", "new", "--data", str(folder)]) == 2
    assert "either --steps or --hours" in capsys.readouterr().err
    assert train.main(["--name", "tiny", "--runs", str(finished), "--export"]) == 2
    assert "no checkpoint to export" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("num_filters", 12, "multiple of 8"),
        ("patch", 100, "multiple of 64"),
        ("lmbda", -1.0, "positive lmbda"),
        ("steps", 0, "positive --steps"),
        ("lmbda_start", 0.0075, "--lmbda-start above --lmbda 0.0075"),
        ("quantisation", "rounded", "do not train the analysis"),
        ("warmup", -1, "warmup of 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(setting, value, message):
    with pytest.raises(ValueError, match=message):
        train.resolve_settings({"steps": 5, setting: value}, None)


def test_unknown_recorded_settings_are_refused():
    with pytest.raises(ValueError, match="unknown settings: colour"):
        train.resolve_settings({"steps": 5}, {"colour": 1})


@pytest.fixture
def stand_in(monkeypatch):
    """Replaces the networks by one weight that counts steps; from step 3 on steps are refused."""

    def build(*, batch, patch, **_):
        x = tf.placeholder(tf.uint8, (batch, patch, patch, 3))
        step = tf.placeholder(tf.int64, ())
        rate, clip = tf.placeholder(tf.float32, ()), tf.placeholder(tf.float32, ())
        weight = tf.get_variable("weight", (), tf.float32, tf.initializers.zeros())
        finite = step < 3
        train_op = tf.cond(finite, lambda: tf.group(weight.assign_add(1.0)), tf.no_op)
        losses = training_graph.Losses(*[tf.constant(1.0)] * 4)
        made = {"x": x, "step": step, "learning_rate": rate, "clip_norm": clip, "losses": losses}
        made.update(train=train_op, gradient_norm=tf.constant(1.0), finite=finite)
        made.update(suspects={"bpp_y": tf.constant(True), "bpp_z": finite, "mse": finite})
        return training_graph.TrainingGraph(**made, start_averages=tf.no_op())

    monkeypatch.setattr(training_graph, "build_training", build)
    monkeypatch.setattr(training_graph, "build_validation", lambda **_: None)
    monkeypatch.setattr(training_loop.Run, "_validate", lambda self: None)
    monkeypatch.setattr(train, "export", lambda *_: None)


@pytest.mark.usefixtures("stand_in")
def test_not_finite_steps_stop_the_run(folder, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert command(folder, runs, "--steps", "40", "--save-minutes", "0") == 1
    said = capsys.readouterr()
    assert "5 steps in a row were not finite, bpp_z first" in said.err
    assert said.out.count("refused: bpp_z is not finite") == 5
    kept = weights_of(runs / "tiny")
    assert kept["weight"] == 3 and kept["progress/refused"] == 4
    assert not (tmp_path / "models").exists()


@pytest.mark.usefixtures("stand_in")
def test_a_failed_save_keeps_the_previous_checkpoint(folder, tmp_path, monkeypatch, capsys):
    runs = tmp_path / "runs"
    save = tf.train.Saver.save

    def full_disk(self, session, prefix, step=None, **options):
        if step == 2:
            (runs / "tiny" / "step-2.index").write_text("half")
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")
        return save(self, session, prefix, step, **options)

    monkeypatch.setattr(tf.train.Saver, "save", full_disk)
    assert command(folder, runs, "--steps", "2", "--save-minutes", "0") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert weights_of(runs / "tiny")["weight"] == 1
    assert not list((runs / "tiny").glob("step-2.*"))


@pytest.mark.usefixtures("stand_in")
def test_two_checkpoints_are_kept_over_a_resume(folder, tmp_path):
    runs = tmp_path / "runs"
    for steps in ("1", "2", "3"):
        assert command(folder, runs, "--steps", steps) == 0
    kept = sorted(p.name for p in (runs / "tiny").glob("step-*.index"))
    assert kept == ["step-2.index", "step-3.index"]
    assert weights_of(runs / "tiny")["weight"] == 3


@pytest.mark.usefixtures("stand_in")
def test_the_last_fifth_has_larger_crops(tmp_path, monkeypatch, capsys):
    large, runs = tmp_path / "large", tmp_path / "runs"
    (large / "more").mkdir(parents=True)
    for name in ("0.png", "1.png", "more/2.png"):
        Image.fromarray(photograph(0, 130, 140)).save(large / name)
    Image.fromarray(photograph(0)).save(large / "small.png")  # fits the first crops only
    seen, batch = [], training_data.Photographs.batch

    def noted(self, size, patch, seed, step):
        seen.append((step, size, patch))
        return batch(self, size, patch, seed, step)

    monkeypatch.setattr(training_data.Photographs, "batch", noted)
    options = ("--batch", "8", "--final-patch", "128")
    assert command(large, runs, *options, "--steps", "5") == 0
    parts = {patch: min(s for s in seen if s[2] == patch) for *_, patch in seen}
    assert parts == {64: (0, 8, 64), 128: (4, 2, 128)}
    said = capsys.readouterr().out
    assert "Resumed at step 4" in said and "skipped 1 smaller than 128x128" in said
    assert weights_of(runs / "tiny")["progress/step"] == 5
    seen.clear()
    assert command(large, runs, *options, "--steps", "6") == 0  # starts in the second part
    assert {patch for *_, patch in seen} == {128}


@pytest.mark.parametrize("final", ["0", "32", "100"])
def test_final_patches_out_of_range_are_refused(final, folder, tmp_path, capsys):
    options = ("--steps", "5", "--final-patch", final)
    assert command(folder, tmp_path / "runs", *options) == 2
    assert "multiple of 64 from --patch 64 up expected" in capsys.readouterr().err


def test_logs_drop_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n50,3\n100,2\n150,1\n20")
    table = training_log.Table(path, ["step", "loss"], 100)
    table.append(150, 0.5)
    table.close()
    assert path.read_text() == "step,loss\n50,3\n100,2\n150,0.5\n"


def test_rows_that_cannot_be_written_are_written_later(tmp_path, capsys):
    path, away = tmp_path / "log.csv", tmp_path / "away.csv"
    table = training_log.Table(path, ["step", "loss"], 0)
    table.append(50, 3.0)
    path.rename(away)  # stands for a full disk
    table.append(100, 2.0)
    table.append(150, 1.0)
    assert capsys.readouterr().out.count("waits for its rows") == 1
    away.rename(path)
    with open(path, "a") as file:
        file.write("100,2")  # what an attempt left behind
    table.append(200, 0.5)
    table.close()
    assert path.read_text() == "step,loss\n50,3\n100,2\n150,1\n200,0.5\n"


def test_init_from_refuses_what_is_no_model(folder, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert command(folder, runs, "--steps", "1", "--init-from", str(folder)) == 2
    assert "neither a checkpoint" in capsys.readouterr().err
    assert not runs.exists()
