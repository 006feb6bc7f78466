"""Inputs to outputs: no output is two inputs', none replaces an input, failures stay alone."""

import os
import time

import pytest

from cli import jobs, running
from cli.inputs import Input, InputError
from cli.report import Report


def plan(folder, *names, keep_suffix=False, **options):
    found = [Input(folder / name) for name in names]

    def output_of(entry):
        name = entry.path.name if keep_suffix else entry.path.stem
        return folder / "out" / f"{name}.glic"

    return jobs.plan(found, output_of, **options)


def process(todo, work, describe, report=None, skip_existing=False):
    """Does jobs here; returns the results and the number of failures."""
    report, results = report or Report(), []
    outcomes = running.here(todo, lambda: work, report, skip_existing)
    failures = running.follow(todo, outcomes, describe, report, keep=results.append)
    return results, failures


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_two_inputs_with_one_stem_do_not_overwrite_each_other(tmp_path):
    names = ["a.png", "b.png", "a.jpg", "sub/b.png"]
    found = plan(tmp_path, *names, overwrite=True)
    assert [bool(job.problem) for job in found] == [False, False, True, True]
    assert "--keep-suffix" in str(found[2].problem) and "another -o" in str(found[3].problem)
    found = plan(tmp_path, *names[:3], keep_suffix=True)
    assert [job.output.name for job in found] == ["a.png.glic", "b.png.glic", "a.jpg.glic"]
    assert not any(job.problem for job in found)


def test_outputs_that_are_one_file_by_a_link_are_refused(tmp_path):
    files(tmp_path, "a.png", "b.png", "out/a.glic")
    (tmp_path / "out" / "b.glic").symlink_to("a.glic")
    found = plan(tmp_path, "a.png", "b.png", overwrite=True)
    assert not found[0].problem and "already that of" in str(found[1].problem)


@pytest.mark.parametrize("option", ["overwrite", "skip_existing"])
def test_names_that_differ_in_case_only_are_the_file_systems_matter(tmp_path, option, capsys):
    files(tmp_path, "a.PNG", "A.PNG", "out/.keep")
    names, options = ["a.PNG", "A.PNG"], {option: True}
    output, other = tmp_path / "out" / "a.glic", tmp_path / "out" / "A.glic"

    def work(path, output):
        output.write_bytes(path.read_bytes())
        return path

    # As a file system does that tells them apart.
    todo = plan(tmp_path, *names, **options)
    skip = option == "skip_existing"
    done, failures = process(todo, work, lambda *_: "", skip_existing=skip)
    assert (len(done), failures) == (2, 0)
    assert (output.read_bytes(), other.read_bytes()) == (b"a.PNG", b"A.PNG")
    output.unlink()
    other.unlink()

    def work_insensitive(path, output):
        work(path, output)
        os.link(output, output.with_name("A.glic"))

    todo = plan(tmp_path, *names, **options)
    _, failures = process(todo, work_insensitive, lambda *_: "", skip_existing=skip)
    assert failures == 1 and output.read_bytes() == b"a.PNG"
    # The next run finds both.
    todo = plan(tmp_path, *names, **options)
    assert [job.path.name for job in todo if job.problem] == ["A.PNG"]
    assert "on this file system the same file" in capsys.readouterr().err


def test_an_output_that_is_an_input_by_another_name_is_refused(tmp_path):
    files(tmp_path, "a.png", "out/x")
    os.link(tmp_path / "a.png", tmp_path / "out" / "a.glic")
    (job,) = plan(tmp_path, "a.png", overwrite=True)
    assert "would replace an input" in str(job.problem)


def test_failures_are_named_once_and_the_rest_go_on(tmp_path, capsys):
    path = tmp_path / "a.png"
    todo = [
        jobs.Job(path, tmp_path / "a", InputError(f"{path} does not exist.")),
        jobs.Job(tmp_path / "b.png", tmp_path / "deep" / "er" / "b"),
        jobs.Job(tmp_path / "c.png", tmp_path / "c"),
        jobs.Job(tmp_path / "d.png", tmp_path / "d"),
    ]

    def work(path, output):
        if path.name == "c.png":
            raise OSError(28, "No space left on device", str(output))
        if path.name == "d.png":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        output.touch()

    results, failures = process(todo, work, lambda *_: "done")
    assert (results, failures) == ([None], 3) and (tmp_path / "deep" / "er" / "b").exists()
    shown = capsys.readouterr()
    assert shown.out == "done\n" and shown.err.splitlines() == [
        f"{path} does not exist.",
        f"{tmp_path / 'c.png'}: {tmp_path / 'c'}: No space left on device",
        f"{tmp_path / 'd.png'}: No such file or directory",
        "3 of 4 files failed, see above.",
    ]


def test_the_failures_of_workers_are_gathered_at_the_end(tmp_path, capsys):
    todo = [jobs.Job(tmp_path / f"{i:02d}.png", tmp_path / f"{i:02d}.glic") for i in range(25)]
    outcomes = [(job, running.Outcome(problem=InputError("bad"))) for job in todo[:22]]
    lines = (("gmm started", True), ("how to decode", False))
    done = running.Outcome({}, worker="worker 1", lines=lines)
    outcomes += [(job, done) for job in todo[22:]]
    failures = running.follow(todo, outcomes, lambda *_: "line", Report(), gather=True)
    out, err = capsys.readouterr()
    assert failures == 22 and err.count("bad") == 22 + running.GATHERED
    gathered = err[err.index("22 of 25 files failed, which are:") :].splitlines()
    assert gathered[1] == f"{tmp_path / '00.png'}: bad" and gathered[-1].startswith(
        "... and 2 more"
    )
    assert out.count("worker 1: gmm started") == 3 and out.count("how to decode") == 1


def test_starting_a_model_is_no_files_time(tmp_path):
    report = Report()

    class Model:
        name = "m"

    class Codec:
        model, architecture = Model, "gmm"

    def work(path, output):
        report.start(lambda: time.sleep(0.3) or Codec, lambda codec: None)

    seconds = []
    todo = [jobs.Job(tmp_path / "a.png", tmp_path / "a")]
    process(todo, work, lambda path, result, s: seconds.append(s) or "", report)
    assert report.starting_seconds >= 0.3 and 0 <= seconds[0] < 0.2
