"""One run of evaluate.py on images: from its options to tables, plots and the report."""

from __future__ import annotations

import collections
import re
import sys
from pathlib import Path
from typing import NamedTuple

from cli import options
from cli.inputs import collect
from errors import UsageError
from evaluation import classics as evaluation_codecs
from evaluation import curves as evaluation_curves
from evaluation import plots as evaluation_plots
from evaluation import rddata as evaluation_rddata
from evaluation import tables as evaluation_tables
from evaluation import workers as evaluation_run
from evaluation.measure import Task
from pictures import images

ALL_ANCHORS = "all"  # --anchor: every curve but ours


class LearnedCodec(NamedTuple):
    """A model to measure: name, what loads it, fingerprint, and the config of its folder."""

    name: str
    load: tuple
    fingerprint: str
    config: dict


def learned_codecs(args):
    """The ``LearnedCodec`` of every model that the options name.

    Raises:
      UsageError, models.ModelError: for options or models that cannot be used.
    """
    from coding import models

    if args.checkpoint and args.models:
        raise UsageError("--models or --checkpoint expected, got both.")
    architecture = options.checkpoint_architecture(args)
    if architecture:
        checkpoint = args.checkpoint, architecture
        return [_learned(models.load_checkpoint(*checkpoint), ("checkpoint", *checkpoint))]
    names = [options.DEFAULT_MODEL] if args.models is None else args.models
    found = [_learned(models.load_named(name), ("name", name)) for name in names]
    if len({codec.name for codec in found}) < len(found):
        raise UsageError(
            f"Models of different names expected, got {', '.join(c.name for c in found)}."
        )
    return found


def _learned(model, load):
    return LearnedCodec(model.name, load, model.fingerprint.hex(), model.config)


def series_of(learned):
    """Dict of model name to (curve name, label).

    Models whose names differ in a last number make one curve, where they are of one family and
    were trained for one metric.
    """
    stems = {codec.name: re.sub(r"-[0-9]+$", "", codec.name) for codec in learned}
    sizes = collections.Counter(stems.values())
    kinds = collections.defaultdict(set)
    for codec in learned:
        config = codec.config
        kinds[stems[codec.name]].add((config.get("family"), config.get("metric")))
    return {
        name: (stem, f"{stem} (ours)")
        if sizes[stem] > 1 and len(kinds[stem]) == 1
        else (name, f"{name} (ours)")
        for name, stem in stems.items()
    }


def first_tasks(paths, learned, classics):
    """Tasks of the models, and of the classic codecs' ladders."""
    tasks = [
        Task(str(path), "model", codec.name, codec.load, codec.fingerprint)
        for codec in learned
        for path in paths
    ]
    for name in classics:
        for setting in evaluation_codecs.CLASSICS[name].ladder:
            tasks += [Task(str(path), "classic", name, setting=setting) for path in paths]
    return tasks


def matched_tasks(rows, paths, classics):
    """Tasks of classic codecs at the sizes of the models' files.

    Args:
      rows: results of ``first_tasks``.
      paths: the images; classics: names of codecs.
    """
    by_hash = {evaluation_run.image_hash(str(path)): str(path) for path in paths}
    return [
        Task(by_hash[row["sha256"]], "matched", name, limit=row["bytes"], matched_to=row["codec"])
        for name in classics
        for row in rows
        if row["kind"] == "model"
    ]


def _measure(args, paths, learned, workers):
    """Rows of everything that the options ask for, and the number of failures."""
    report_codecs = args.codecs or (evaluation_codecs.REPORT_CODECS if args.report else [])
    matched = report_codecs if args.report or args.matched else []
    cache = args.output / evaluation_run.CACHE
    tasks = first_tasks(paths, learned, args.codecs)
    rows, problems, fresh = evaluation_run.measure_all(tasks, cache, workers)
    if matched:
        tasks = matched_tasks(rows, paths, matched)
        more = evaluation_run.measure_all(tasks, cache, workers, "matched sizes")
        rows, problems, fresh = rows + more[0], problems + more[1], fresh + more[2]
    for task, problem in problems:
        print(f"{task.path} ({task.codec}): {problem}", file=sys.stderr)
    print(f"Results: {len(rows)}, {fresh} of them new.")
    return rows, len(problems)


def run(args):
    """Everything that ``evaluate.py`` does with images.

    Args:
      args: the options, see evaluate.py.

    Returns:
      The exit code: 0, or 1 where a measurement failed.
    """
    for name in args.codecs:
        evaluation_codecs.find(name)
    if args.matched and not args.codecs:
        raise UsageError("--matched needs --codecs: which codecs are to match?")
    names = evaluation_curves.PAPER_CURVES if args.curves is None else args.curves
    published = [evaluation_curves.published(name) for name in names]
    paths = collect(args.images, images.IMAGE_SUFFIXES)
    learned = learned_codecs(args)
    if not learned and not args.codecs:
        raise UsageError("Nothing to measure: name --models or --codecs.")
    if args.rddata:
        curve_names = [name for name, _ in series_of(learned).values()]
        evaluation_rddata.check(args.rddata, paths, curve_names)
    args.output.mkdir(parents=True, exist_ok=True)
    with evaluation_run.Workers(args.jobs, args.threads) as workers:
        rows, failures = _measure(args, paths, learned, workers)
        if rows:
            facts, curves = _evaluate(args, learned, published, rows)
            _write(args, facts, curves)
            print(f"\nTables and plots are in {args.output}/.")
            if args.report:
                from evaluation import report as evaluation_report

                evaluation_report.write(args, learned, facts, curves, workers)
                print(f"The report is {args.report}.")
            if args.rddata:
                evaluation_rddata.write(args.rddata, facts["means"], learned)
                print(f"The points are in {args.rddata}.")
    return 1 if failures else 0


def _evaluate(args, learned, published, rows):
    """Means, curves and comparisons of measured rows, which it prints.

    Returns:
      ``facts``: dict of what results.json holds; ``curves``: list of all ``Curve``.
    """
    means = evaluation_tables.means(rows)
    measured = evaluation_tables.curves_of(means, series_of(learned))
    kodak = evaluation_curves.is_kodak(Path(row["image"]).stem for row in rows)
    # Published points are compared on the same images only, unless asked for: then it is said why.
    compared = measured + published if kodak or args.curves else measured
    comparisons = _compare(args, compared, kodak)
    for row in rows:
        if row["kind"] == "model":
            print(evaluation_tables.describe_row(row))
    print("\n" + "\n".join(evaluation_tables.describe_means(means)))
    if comparisons:
        print("\n" + "\n".join(evaluation_curves.describe(comparisons)))
    count = len({row["sha256"] for row in rows})
    where = "the 24 Kodak images" if kodak else f"{count} image" + "s" * (count != 1)
    foreign = "; published curves: the 24 Kodak images" if published and not kodak else ""
    facts = {
        "command": " ".join(["evaluate.py", *sys.argv[1:]]),
        "caption": f"Mean over {where}{foreign}",
        "device": evaluation_run.device(),
        "versions": evaluation_run.versions(),
        "rows": rows,
        "means": means,
        "comparisons": comparisons,
    }
    return facts, measured + published


def _compare(args, curves, kodak):
    """Rows of ``evaluation_curves.compare`` against what --anchor names."""
    if args.anchor == ALL_ANCHORS:
        ours = [curve for curve in curves if curve.kind == "model"]
        anchors = [curve for curve in curves if curve.kind != "model"]
        if not (ours and anchors):
            raise UsageError(
                "--anchor all needs models and, to compare them with, --codecs or --curves."
            )
        return [row for a in anchors for row in evaluation_curves.compare(ours, a, kodak)]
    anchor = _anchor(args, curves)
    return evaluation_curves.compare(curves, anchor, kodak) if anchor else []


def _anchor(args, curves):
    """The anchor's curve, or None where there is none to choose."""
    names = [args.anchor] if args.anchor else [*args.codecs, *(args.curves or ())][:1]
    if not names and any(curve.kind == "published" for curve in curves):
        names = evaluation_curves.PAPER_CURVES[:1]
    for curve in curves:
        if curve.name in names:
            return curve
    if args.anchor:
        known = ", ".join(curve.name for curve in curves)
        raise UsageError(f"An --anchor among {known} expected, got {args.anchor}.")
    return None


def _write(args, facts, curves):
    """Writes the tables and the plots to the output folder."""
    output = args.output
    evaluation_tables.write_csv(facts["rows"], evaluation_tables.COLUMNS, output / "results.csv")
    evaluation_tables.write_csv(
        facts["means"], evaluation_tables.MEAN_COLUMNS, output / "means.csv"
    )
    if facts["comparisons"]:
        columns = list(facts["comparisons"][0])
        evaluation_tables.write_csv(facts["comparisons"], columns, output / "bd_rate.csv")
    # Where files lie on this machine is nobody's business.
    rows = [{k: v for k, v in row.items() if k not in ("path", "file")} for row in facts["rows"]]
    evaluation_tables.write_json({**facts, "rows": rows}, output / "results.json")
    for metric in evaluation_curves.METRICS:
        evaluation_plots.draw(curves, metric, output / f"rd_{metric}", facts["caption"])
