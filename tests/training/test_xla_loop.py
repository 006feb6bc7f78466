"""Training from a bundle with JAX: resume, clock, refusals, files; its step is a toy's."""

import csv
import json
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
import toy_bundle
from PIL import Image

jax = pytest.importorskip("jax")

from training.lock import locked  # noqa: E402
from training.xla import files, loop, run, step, steps  # noqa: E402


@pytest.fixture(autouse=True)
def toy_step(monkeypatch):
    monkeypatch.setattr(step, "load", toy_bundle.load)


def results(folder):
    """(weights, record) of a bundle."""
    return files.read_arrays(folder / "results" / "weights.npz")


def log_of(folder):
    with open(folder / "results" / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


def signalled_at(monkeypatch, number, name="SIGTERM"):
    turn = loop.Trainer._turn

    def interrupted(self, *arguments):
        suspended = turn(self, *arguments)
        if self.progress["step"] == number:
            signal.raise_signal(getattr(signal, name))
        return suspended

    monkeypatch.setattr(loop.Trainer, "_turn", interrupted)


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
@pytest.mark.parametrize("number", [3, 7])  # in the first stage, and in the last
def test_a_resume_is_exact(tmp_path, monkeypatch, optimizer, number):
    whole, cut = (toy_bundle.make(tmp_path / n, optimizer=optimizer) for n in "ab")
    assert run.main(whole, []) == 0
    with monkeypatch.context() as patch:
        signalled_at(patch, number)
        assert run.main(cut, []) == 0
    assert results(cut)[1]["progress"]["step"] == number
    assert run.main(cut, []) == 0
    for name in ("weights.npz", "checkpoint.npz"):
        first, second = (files.read_arrays(f / "results" / name)[0] for f in (whole, cut))
        assert first.keys() == second.keys()
        for key in first:
            np.testing.assert_array_equal(first[key], second[key], key)
    assert results(cut)[1]["progress"]["step"] == 8
    start = files.read_arrays(whole / "start.npz")[0]
    trained = results(whole)[0]
    np.testing.assert_array_equal(trained["frozen/kernel"], start["frozen/kernel"])
    assert np.abs(trained["hyper/kernel"] - start["hyper/kernel"]).max() > 0


def test_steps_in_one_call_are_those_of_single_calls(tmp_path):
    single, many = (toy_bundle.make(tmp_path / n) for n in "ab")
    assert run.main(single, []) == run.main(many, ["--chunk", "4"]) == 0
    first, second = results(single), results(many)
    for key in first[0]:
        np.testing.assert_allclose(first[0][key], second[0][key], rtol=1e-5, atol=1e-6)
    assert first[1]["progress"]["pixels"] == second[1]["progress"]["pixels"] == 8 * 2 * 64**2


def test_the_log_and_the_record(tmp_path, monkeypatch, capsys):
    folder = toy_bundle.make(tmp_path / "a", steps=4)
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    monkeypatch.setattr(steps.Steps, "_count", lambda *_: 8.192e6)
    assert run.main(folder, ["--peak", "2"]) == 0
    rows = log_of(folder)
    assert [int(row["step"]) for row in rows] == [2, 3, 4]
    assert float(rows[0]["lmbda"]) > 3 * float(rows[-1]["lmbda"])  # lmbda_start
    assert list(rows[0]) == toy_bundle.COLUMNS
    machine = results(folder)[1]["machine"]
    assert machine["steps"] == 4 and machine["jax"] == jax.__version__
    assert machine["flops_per_pixel"] == 1000 and machine["compile_seconds"] > 0
    share = 1000 * machine["pixels_per_second"] / 2e12
    assert machine["share_of_peak"] == pytest.approx(share, abs=1e-4)
    assert "pixels_per_second" in capsys.readouterr().out
    left = folder / "results" / ".checkpoint.npz-1.tmp"  # of a process that was killed
    left.write_bytes(b"half")
    assert run.main(folder, []) == 0
    assert not left.exists() and (folder / "results" / "checkpoint.npz").exists()
    assert "This training is complete." in capsys.readouterr().out


class Clock:
    """In place of the loop's: every reading is some seconds after the one before.

    Compiling takes no time by it, so that what is tested does not depend on the machine.
    """

    def __init__(self, monkeypatch, seconds=0.05):
        self._seconds, self.now = seconds, 0.0
        monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=self.read))
        monkeypatch.setattr(loop.Trainer, "_awaited", lambda _, future: future.result())
        monkeypatch.setattr(loop, "LOG_EVERY", 1)
        monkeypatch.setattr(run, "BEGUN", 0.0)
        monkeypatch.setattr(run, "RESERVE", 1.0)

    def read(self):
        self.now += self._seconds
        return self.now

    def suspend_at(self, monkeypatch, number, seconds):
        """The process stands still for some seconds in a step."""
        turn = loop.Trainer._turn

        def stopped(trainer, *arguments):
            if trainer.progress["step"] == number:
                self.now += seconds
                trainer._signals._on_continue(signal.SIGCONT, None)
            return turn(trainer, *arguments)

        monkeypatch.setattr(loop.Trainer, "_turn", stopped)


@pytest.mark.parametrize("seconds", [0.04, 0.05, 0.06, 0.07])
def test_a_time_budget_is_kept_and_the_schedules_end_in_it(tmp_path, monkeypatch, seconds):
    folder = toy_bundle.make(tmp_path / "a", steps=10**6, warmup=0)
    clock = Clock(monkeypatch, seconds)
    assert run.main(folder, ["--minutes", "0.5", "--save-minutes", "0.1"]) == 0
    assert 28 <= clock.now < 30
    progress = results(folder)[1]["progress"]
    assert progress["stage"] == 2 and progress["step"] > 80
    first, last = progress["seconds"]
    assert first + last > 26 and first / last == pytest.approx(3, rel=0.2)
    assert float(log_of(folder)[-1]["learning_rate"]) < 0.1 * 0.0015


def test_a_later_call_shares_out_its_own_time_budget(tmp_path, monkeypatch):
    folder = toy_bundle.make(tmp_path / "a", steps=10**6, warmup=0)
    Clock(monkeypatch)
    with monkeypatch.context() as patch:
        signalled_at(patch, 40)
        assert run.main(folder, ["--minutes", "0.5"]) == 0
    before = results(folder)[1]["progress"]
    left = 1 - before["seconds"][0] / (3600 * before["hours"][0])
    Clock(monkeypatch)
    assert run.main(folder, ["--minutes", "0.5", "--save-minutes", "0.04"]) == 0
    progress = results(folder)[1]["progress"]
    first = progress["seconds"][0] - before["seconds"][0]
    assert progress["stage"] == 2 and 0.2 < left < 0.8
    assert first / progress["seconds"][1] == pytest.approx(3 * left, rel=0.2)


def test_a_suspension_leaves_the_schedules_what_is_left_of_a_time_budget(tmp_path, monkeypatch):
    folder = toy_bundle.make(tmp_path / "a", steps=10**6, warmup=0)
    clock = Clock(monkeypatch)
    clock.suspend_at(monkeypatch, 20, 10)
    assert run.main(folder, ["--minutes", "0.5"]) == 0
    assert 28 <= clock.now < 30
    progress = results(folder)[1]["progress"]
    assert progress["stage"] == 2 and 17 < sum(progress["seconds"]) < 20
    assert float(log_of(folder)[-1]["learning_rate"]) < 0.1 * 0.0015


def test_a_suspension_past_the_time_budget_leaves_a_training_to_be_continued(
    tmp_path, monkeypatch, capsys
):
    folder = toy_bundle.make(tmp_path / "a", steps=10**6, warmup=0)
    with monkeypatch.context() as patch:
        Clock(patch).suspend_at(patch, 20, 60)
        assert run.main(folder, ["--minutes", "0.5"]) == 0
        assert results(folder)[1]["progress"]["step"] == 21
        assert "Step 21, to be continued by the same command" in capsys.readouterr().out
    Clock(monkeypatch)
    assert run.main(folder, ["--minutes", "0.5"]) == 0
    assert results(folder)[1]["progress"]["stage"] == 2


def test_a_time_budget_ends_where_compiling_takes_all_of_it(tmp_path, monkeypatch, capsys):
    folder, awaited = toy_bundle.make(tmp_path / "a", steps=10**6), loop.Trainer._awaited
    with monkeypatch.context() as patch:
        clock = Clock(patch, seconds=5)
        patch.setattr(loop.Trainer, "_awaited", awaited)  # by the clock, 5 seconds a look
        patch.setattr(loop.Trainer, "_compile", lambda *_: time.sleep(5))
        assert run.main(folder, ["--minutes", "1"]) == 0
    assert 59 <= clock.now < 90
    assert results(folder)[1]["progress"]["step"] == 0
    assert "Step 0, to be continued by the same command" in capsys.readouterr().out
    Clock(monkeypatch)
    assert run.main(folder, ["--minutes", "0.5"]) == 0
    assert results(folder)[1]["progress"]["stage"] == 2


def test_a_later_call_has_the_bundles_length_again(tmp_path, monkeypatch):
    folder, lengths = toy_bundle.make(tmp_path / "a", steps=None, hours=8), []
    Clock(monkeypatch)
    for number, options in ((2, ["--minutes", "5"]), (4, [])):
        with monkeypatch.context() as patch:
            signalled_at(patch, number)
            assert run.main(folder, options) == 0
        lengths.append(results(folder)[1]["progress"]["hours"])
    assert sum(lengths[0]) < 5 / 60 and lengths[1] == [6, 2]


def test_hours_follow_the_clock(tmp_path, monkeypatch):
    folder = toy_bundle.make(tmp_path / "a", steps=None, hours=2 / 3600)
    Clock(monkeypatch, 0.005)
    assert run.main(folder, []) == 0
    first, last = results(folder)[1]["progress"]["seconds"]
    assert 1.5 <= first < 1.6 and 0.5 <= last < 0.6


def test_a_step_that_is_not_finite_changes_nothing(tmp_path, monkeypatch):
    whole, broken = (toy_bundle.make(tmp_path / n, optimizer="soap") for n in "ab")
    with monkeypatch.context() as patch:
        signalled_at(patch, 3)
        run.main(whole, [])
    monkeypatch.setattr(step, "load", lambda hlo: toy_bundle.load(hlo, broken=(3,)))
    with monkeypatch.context() as patch:
        signalled_at(patch, 4)
        run.main(broken, [])
    first, second = (
        files.read_arrays(f / "results" / "checkpoint.npz")[0] for f in (whole, broken)
    )
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], key)
    assert results(broken)[1]["progress"]["refused"] == 1
    assert run.main(broken, []) == 0 and results(broken)[1]["progress"]["step"] == 8


@pytest.mark.parametrize("chunk", [1, 12])
def test_five_in_a_row_stop_the_training(tmp_path, monkeypatch, capsys, chunk):
    """Also where a row of the log ends among them, and where a call goes on to better steps."""
    folder = toy_bundle.make(tmp_path / "a", steps=16)
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    monkeypatch.setattr(step, "load", lambda hlo: toy_bundle.load(hlo, broken=range(1, 6)))
    assert run.main(folder, ["--chunk", str(chunk)]) == 2
    said = capsys.readouterr().err
    assert "5 steps in a row were not finite, loss first, at step 6" in said
    assert all(np.isfinite(v).all() for v in results(folder)[0].values())


def test_what_is_cut_off_in_writing_leaves_what_was_there(tmp_path, monkeypatch):
    folder = toy_bundle.make(tmp_path / "a")
    with monkeypatch.context() as patch:
        signalled_at(patch, 3, "SIGINT")
        run.main(folder, [])
    before = {p.name: p.read_bytes() for p in (folder / "results").glob("*.npz")}

    def full(*_):
        raise OSError(28, "No space left on device", "weights.npz")

    monkeypatch.setattr(files.os, "fsync", full)
    assert run.main(folder, []) == 2
    assert {p.name: p.read_bytes() for p in (folder / "results").glob("*.npz")} == before
    assert not list((folder / "results").glob(".*"))


def test_refusals(tmp_path, capsys):
    def refused(folder):
        assert run.main(folder, []) == 2
        return capsys.readouterr().err

    assert "is no bundle" in refused(tmp_path / "none")
    folder = toy_bundle.make(tmp_path / "a")
    (folder / "photographs" / "000001.png").unlink()
    assert "3 photographs expected" in refused(folder)
    folder = toy_bundle.make(tmp_path / "b")
    (folder / "steps" / "rounded.hlo").unlink()
    assert "rounded.hlo is missing: copy the whole bundle" in refused(folder)
    folder = toy_bundle.make(tmp_path / "c")
    (folder / "start.npz").write_bytes((folder / "start.npz").read_bytes()[:900])
    assert "start.npz is damaged" in refused(folder)
    folder = toy_bundle.make(tmp_path / "d")
    assert run.main(folder, []) == 0
    record = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**record, "id": "other"}))
    assert "is a checkpoint of another bundle" in refused(folder)
    left = folder / "results" / ".weights.npz-1.tmp"  # of the other training
    left.write_bytes(b"half")
    with locked(folder / "results"):
        assert "Another training is at work" in refused(folder)
    assert left.exists()
    (folder / "bundle.json").write_text(json.dumps({**record, "version": 9}))
    assert "has layout 9, 1 expected" in refused(folder)


def test_photographs_that_cannot_be_used_there_are_refused(tmp_path, capsys):
    def refused():
        assert run.main(folder, []) == 2
        return capsys.readouterr().err

    folder = toy_bundle.make(tmp_path / "a")
    photographs = folder / "photographs"
    Image.new("RGB", (63, 90)).save(photographs / "000002.png")
    said = refused()
    assert "3 photographs expected, got 2 that can be used here" in said
    assert "000002.png has a side under 64 pixels" in said
    (photographs / "000001.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    said = refused()
    assert "got 1 that can be used here" in said and "000001.png is" in said
    for path in photographs.iterdir():
        path.write_bytes(b"")
    said = refused()
    assert "0 of 3 are smaller, 3 unreadable. One of them: " in said and " is empty" in said
    assert not (folder / "results").exists()


def test_known_peaks():
    assert run.known_peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989
    assert run.known_peak("NVIDIA H100 PCIe", "bfloat16") == 756
    assert run.known_peak("NVIDIA H100 80GB HBM3", "float32") is None
    assert run.known_peak("cpu", "bfloat16") is None


@pytest.mark.parametrize(
    "other",
    [
        *("NVIDIA L40S", "NVIDIA L40", "NVIDIA H100 NVL", "NVIDIA H200 NVL", "NVIDIA GH200 480GB"),
        *("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA A100X"),
        *("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "TPU v4 lite", "TPU v5"),
    ],
)
def test_no_peak_of_another_device_with_a_like_name(other):
    assert run.known_peak(other, "bfloat16") is None


@pytest.mark.parametrize("name", [*run.PEAKS, "NVIDIA A100 80GB PCIe"])
def test_peaks_by_name(name):
    assert run.known_peak(name, "bfloat16") == run.PEAKS.get(name, 312)
