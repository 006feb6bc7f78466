"""What a run leaves to look at: tables, TensorBoard files, plots."""

import numpy as np
from PIL import Image

from training import log
from training.table import Table


def test_logs_drop_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n50,3\n100,2\n150,1\n20")
    table = Table(path, ["step", "loss"], 100)
    table.append({"step": 150, "loss": 0.5})
    table.close()
    assert path.read_text() == "step,loss\n50,3\n100,2\n150,0.5\n"


def test_rows_that_cannot_be_written_are_written_later(tmp_path, capsys):
    path, away = tmp_path / "log.csv", tmp_path / "away.csv"
    table = Table(path, ["step", "loss"], 0)
    table.append({"step": 50, "loss": 3.0})
    path.rename(away)  # stands for a full disk
    table.append({"step": 100, "loss": 2.0})
    table.append({"step": 150, "loss": 1.0})
    assert capsys.readouterr().out.count("waits for its rows") == 1
    away.rename(path)
    with open(path, "a") as file:
        file.write("100,2")  # what an attempt left behind
    table.append({"step": 200, "loss": 0.5})
    table.close()
    assert path.read_text() == "step,loss\n50,3\n100,2\n150,1\n200,0.5\n"


def test_tensorboard_files_that_cannot_be_written_stop_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    summaries = log.Summaries(tmp_path / "file", 0)
    summaries.scalars("training", {"loss": 2.0}, 1)
    summaries.close()
    assert "TensorBoard files end here" in capsys.readouterr().out


def test_a_plot_that_cannot_be_drawn_stops_nothing(tmp_path, capsys):
    log.plot_run(tmp_path, tmp_path / "missing" / "log.png")
    assert "log.png not drawn" in capsys.readouterr().out


def test_a_plot_leaves_out_means_of_few_steps(tmp_path):
    def drawn(*steps):
        rows = ["step,loss,bpp_y,bpp_z,psnr", *(f"{step},{step},1,1,30" for step in steps)]
        (tmp_path / "log.csv").write_text("\n".join(rows))
        log.plot_run(tmp_path, tmp_path / "log.png")
        with Image.open(tmp_path / "log.png") as image:
            return np.asarray(image)

    np.testing.assert_array_equal(drawn(50, 100, 150, 151), drawn(50, 100, 150))
    assert np.any(drawn(50, 100, 150, 180) != drawn(50, 100, 150))
    assert np.any(drawn(3) != drawn())
