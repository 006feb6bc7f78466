"""Runs of train.py on tiny models: resume, refusals, checkpoints, export."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from PIL import Image
from tiny_training import command, photograph, rows_of, run_train, weights_of

from architecture import Architecture
from coding import models
from coding.checkpoint_reader import CheckpointReader
from training import checkpoints, export, loop
from training.checkpoints import WeightReader, latest_checkpoint, progress_in, read_json
from variables import MASKED_WEIGHTS


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A run of six steps in one go, with its exported model."""
    base = tmp_path_factory.mktemp("finished")
    assert command(folder, base / "runs", "--synthetic", "0.4", "--steps", "6") == 0
    return base


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
    # A kernel is rounded once, to float16; what is small keeps its float32.
    rounded = trained[f"average/{name}"].astype(np.float16)
    np.testing.assert_array_equal(model.weights[name], rounded.astype(np.float32))
    bias = name.replace("kernel_rdft", "bias")
    np.testing.assert_array_equal(model.weights[bias], trained[f"average/{bias}"])
    stored = CheckpointReader(target / "model").entries
    kinds = {n: e.dtype for n, e in stored.items() if "kernel" in n or n.endswith("masked/weights")}
    assert len(kinds) > 80 and set(kinds.values()) == {np.float16}
    others = {n: e.dtype for n, e in stored.items() if n not in kinds}
    assert set(others.values()) == {np.float32, np.int32}
    assert np.abs(trained[f"average/{name}"] - trained[name]).max() > 0
    quantiles = model.weights["entropy_bottleneck/quantiles"]
    assert np.all(np.diff(quantiles, axis=-1) > 0) and not np.any(quantiles == 10)
    assert [p.name for p in (finished / "models").iterdir()] == ["tiny"]


def test_a_kernel_that_float16_cannot_hold_stays_as_it_is(start, tmp_path, monkeypatch):
    real, changed = WeightReader.get_tensor, {}

    def get_tensor(self, name):
        values = real(self, name)
        if name in ("synthesis/NLAB_0/conv_1x1/signal_conv2d/kernel", MASKED_WEIGHTS):
            values.flat[0] = 65_503 if name == MASKED_WEIGHTS else 65_530
            changed[name] = values
        return values

    monkeypatch.setattr(WeightReader, "get_tensor", get_tensor)
    architecture, prefix = Architecture("gmm", 8), str(tmp_path / "model")
    expected = export._save_inference_model(start, prefix, architecture)
    (too_large, values), (held, _) = changed.items()
    entries = CheckpointReader(prefix).entries
    assert entries[too_large].dtype == np.float32 and entries[held].dtype == np.float16
    weights = models.read_weights(prefix, architecture)
    np.testing.assert_array_equal(weights[too_large], values)
    for name, found in weights.items():
        np.testing.assert_array_equal(found, expected[name])
        assert found.dtype == expected[name].dtype


def test_export_again_gives_the_same_model(finished, folder):
    again = finished / "again"
    options = ["--name", "tiny", "--runs", finished / "runs", "--export"]
    assert run_train(*options, "--to", str(again)) == 0
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
    assert run_train(*options, "--to", str(tmp_path / "again")) == 0
    assert models.load_folder(tmp_path / "again").config["validation"]["step"] == 6
    for name in ("log.csv", "log.png"):
        first = finished / "models" / "tiny" / name
        assert (tmp_path / "again" / name).read_bytes() == first.read_bytes()


def test_resume_continues_exactly(finished, folder, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    real, suspended = time.monotonic, [0]

    one_step = loop.Loop._one_step

    def interrupted(self, pixels):
        values = one_step(self, pixels)
        if self.step == 2 and hasattr(signal, "SIGCONT"):
            suspended[0] = 3600  # seconds
            signal.raise_signal(signal.SIGCONT)
        if self.step == 3:
            signal.raise_signal(signal.SIGTERM)
            if hasattr(signal, "SIGCONT"):  # as the command timeout does
                signal.raise_signal(signal.SIGCONT)
        return values

    assert threading.current_thread() is threading.main_thread()  # where signals arrive
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_one_step", interrupted)
        patch.setattr(loop.time, "monotonic", lambda: real() + suspended[0])
        assert command(folder, runs, "--synthetic", "0.4", "--steps", "6") == 0
    assert weights_of(runs / "tiny")["progress/step"] == 3
    checkpoint = latest_checkpoint(runs / "tiny")
    assert progress_in(checkpoint)[1] < 1800  # not that it was suspended
    assert rows_of(runs / "tiny" / "log.csv") == []  # no speed of a step that was
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
    assert run_train("--name", "new", "--data", folder) == 2
    assert "either --steps or --hours" in capsys.readouterr().err
    assert run_train("--name", "tiny", "--runs", finished, "--export") == 2
    assert "no checkpoint to export" in capsys.readouterr().err


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


def check_tensorboard(folder):
    """Validations of steps 1 to 4, the last one from a resumed run; scalars and images."""
    steps, pictures = [], []
    for path in sorted(folder.iterdir()):
        for event in tf.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag == "validation/loss":
                    steps.append(event.step)
                    assert value.simple_value > 0
                if value.tag == "validation/0":
                    pictures.append((value.image.height, value.image.width))
    assert sorted(steps) == [1, 2, 3, 4] and pictures == [(192, 192)] * 4


def test_the_best_weights_are_kept_and_exported(large, tmp_path, monkeypatch, capsys):
    runs, step_losses = tmp_path / "runs", {1: 5.0, 2: 3.0, 3: 4.0, 4: 6.0}
    keep = checkpoints.Checkpoints.keep_if_best

    def forced(self, session, progress, row):
        keep(self, session, progress, {**row, "loss": step_losses[row["step"]]})

    monkeypatch.setattr(checkpoints.Checkpoints, "keep_if_best", forced)
    options = ("--valid-every", "1", "--learning-rate", "1e-2")
    assert command(large, runs, *options, "--steps", "3") == 0
    assert command(large, runs, *options, "--steps", "4") == 0  # knows the best one of before
    folder = runs / "tiny"
    assert [p.name for p in sorted(folder.glob("best-*.index"))] == ["best-2.index"]
    export = ["--name", "tiny", "--runs", str(runs), "--export"]
    assert run_train(*export, "--best", "--to", str(tmp_path / "best")) == 0
    best = models.load_folder(tmp_path / "best")
    newest = models.load_folder(tmp_path / "models" / "tiny")
    assert (best.config["steps"], newest.config["steps"]) == (2, 4)
    assert best.config["validation"]["loss"] == 3.0
    assert best.fingerprint != newest.fingerprint
    assert run_train(*export[:-1], "--best", "--data", str(large)) == 2
    assert "--best chooses what to export" in capsys.readouterr().err
    check_tensorboard(folder / "tensorboard")
    (folder / "best.json").unlink()
    assert run_train(*export, "--best", "--to", str(tmp_path / "best")) == 2
    assert "holds no best checkpoint" in capsys.readouterr().err


# --- Where models, runs and photographs are ------------------------------------------------------


@pytest.fixture
def elsewhere(finished, tmp_path, monkeypatch):
    """A finished run in ./runs of another folder than train.py's, and a models/ of its own."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    monkeypatch.setattr(models, "MODELS_DIR", tmp_path / "beside" / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_is_exported_where_encoder_and_decoder_look(elsewhere, capsys):
    assert run_train("--name", "tiny", "--export") == 0
    assert models.available(models.MODELS_DIR) == ["tiny"]
    assert "encoder.py --model tiny codes" in capsys.readouterr().out
    assert run_train("--name", "tiny", "--export", "--to", "other/place") == 0
    said = capsys.readouterr().out
    assert f"decoder.py --model {Path('other/place').resolve()} restores" in said
    assert models.load_folder("other/place").config["steps"] == 6
    assert not (elsewhere / "models").exists()


@pytest.mark.parametrize("options", [["--export"], ["--data", "photos"]])
def test_released_models_and_aliases_are_not_replaced(elsewhere, capsys, options):
    models_dir = models.MODELS_DIR
    models_dir.mkdir(parents=True)
    (models_dir / "aliases.json").write_text('{"newest": "tiny"}')
    row = f"{'1' * 16},tiny,2026-01-01,{'2' * 40},3"
    (models_dir / "released.csv").write_text(f"fingerprint,name,date,commit,bytes\n{row}\n")
    for name, words in (("newest", "stands for the model tiny"), ("tiny", "a released model")):
        assert run_train("--name", name, *options) == 2
        assert words in capsys.readouterr().err
    assert models.available(models_dir) == []
    if "--export" in options:  # what lies elsewhere may have any name
        assert run_train("--name", "tiny", *options, "--to", "elsewhere/tiny") == 0


def test_a_folder_that_holds_no_model_is_not_replaced(elsewhere, folder, capsys):
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine" / "letter.txt").write_text("dear")
    assert run_train("--name", "tiny", "--export", "--to", "mine") == 2
    assert run_train("--name", "new", "--data", folder, "--steps", 1, "--to", "mine") == 2
    assert capsys.readouterr().err.count("mine exists and holds no model") == 2
    assert [p.name for p in (elsewhere / "mine").iterdir()] == ["letter.txt"]
    assert not (elsewhere / "runs" / "new").exists()


def test_a_start_is_found_by_its_name(elsewhere, folder, capsys):
    assert run_train("--name", "tiny", "--export") == 0
    runs, options = elsewhere / "more", ("--steps", "1", "--init-from", "tiny")
    assert command(folder, runs, *options, name="next") == 0
    assert " variables from tiny, adapted 0 to this one; 0 start anew." in capsys.readouterr().out
    assert read_json(runs / "next" / "settings.json")["init_from"] == "models/tiny"


@pytest.mark.parametrize("name", ["../x", "a/b", ".x", ""])
def test_a_name_is_one_plain_folder(name, folder, capsys):
    assert run_train("--name", name, "--data", folder, "--steps", 1) == 2
    assert "Give the run a name with --name" in capsys.readouterr().err


@pytest.mark.usefixtures("stand_in")
def test_one_photograph_more_ends_nothing(folder, tmp_path, capsys):
    photographs = shutil.copytree(folder, tmp_path / "photographs")
    assert command(photographs, tmp_path / "runs", "--steps", "1") == 0
    assert command(photographs, tmp_path / "runs", "--steps", "2") == 0
    assert "Other photographs" not in capsys.readouterr().out
    Image.fromarray(photograph(9)).save(photographs / "9.png")
    assert command(photographs, tmp_path / "runs", "--steps", "3") == 0
    said = capsys.readouterr().out
    assert "Other photographs than at the last start (images 5, files " in said
    assert read_json(tmp_path / "runs" / "tiny" / "settings.json")["images"] == 6
    assert weights_of(tmp_path / "runs" / "tiny")["weight"] == 3


@pytest.mark.parametrize("content", ["", 'model_checkpoint_path: "st'])
def test_a_damaged_list_of_checkpoints_does_not_start_a_run_anew(
    finished, folder, tmp_path, capsys, content
):
    """TensorFlow's file checkpoint, after a power cut: the checkpoints beside it are whole."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "tiny" / "checkpoint").write_text(content)
    assert command(folder, tmp_path / "runs", "--steps", "7") == 0
    assert "Resumed at step 6" in capsys.readouterr().out
    assert progress_in(latest_checkpoint(tmp_path / "runs" / "tiny"))[0] == 7


def test_an_export_that_fails_at_its_end_leaves_the_old_model(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "copy")
    target, real = tmp_path / "copy" / "models" / "tiny", os.replace

    def replace(source, to):
        if Path(to) == target and "-new-" in str(source):
            raise PermissionError(13, "Permission denied", str(to))
        real(source, to)

    monkeypatch.setattr(os, "replace", replace)
    options = ["--name", "tiny", "--runs", tmp_path / "copy" / "runs", "--export"]
    assert run_train(*options, "--to", str(target)) == 2
    assert models.load_folder(target).config["steps"] == 6
    assert [p.name for p in target.parent.iterdir()] == ["tiny"]
