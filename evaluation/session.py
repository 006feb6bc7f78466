"""evaluate.py run and report: from the options to tables, plots and the page."""

from __future__ import annotations

import collections
import re
import sys
from operator import add
from pathlib import Path
from typing import NamedTuple

import tqdm

from cli import options
from cli.inputs import collect
from cli.workers import Workers
from errors import UsageError
from evaluation import classics, curves, measurements, plots, points, rddata, tables
from evaluation.measure import Task
from evaluation.options import ALL_ANCHORS
from pictures import images


class LearnedCodec(NamedTuple):
    """A model to measure.

    name: of the model. load: what ``measure.loaded_codec`` takes. fingerprint: hexadecimal.
    config: of its folder. lambdas: at which it is measured; (None,) for one of one rate.
    """

    name: str
    load: tuple
    fingerprint: str
    config: dict
    lambdas: tuple = (None,)

    @property
    def many(self):
        """Whether it serves many rates."""
        return self.lambdas != (None,)


def learned_codecs(args):
    """The ``LearnedCodec`` of every model that the options name.

    Raises:
      UsageError, models.ModelError: for options or models that cannot be used.
    """
    from coding import models

    if args.checkpoint and args.models:
        raise UsageError("--models or --checkpoint expected, got both.")
    architecture, backend = options.checkpoint_architecture(args), options.backend(args)
    if architecture:
        checkpoint = args.checkpoint, architecture
        load = ("checkpoint", backend, *checkpoint)
        return _checked([_learned(models.load_checkpoint(*checkpoint), load, args)], args)
    names = [options.DEFAULT_MODEL] if args.models is None else args.models
    found = [_learned(models.load_named(name), ("name", backend, name), args) for name in names]
    if len({codec.name for codec in found}) < len(found):
        raise UsageError(
            f"Models of different names expected, got {', '.join(c.name for c in found)}."
        )
    return _checked(found, args)


def _learned(model, load, args):
    lambdas = points.lambdas_of(model.name, model.config, args.lambdas)
    return LearnedCodec(model.name, load, model.fingerprint.hex(), model.config, lambdas)


def _checked(found, args):
    """``found``, or UsageError for --lambdas that none of the models has a use for."""
    if args.lambdas and not any(codec.many for codec in found):
        raise UsageError("--lambdas needs a model of many rates: leave it out, or name one.")
    return found


def series_of(learned):
    """Dict of model name to (curve name, label).

    A model of many rates is a curve of its own. Of those of one rate, models whose names differ in
    a last number make one curve, where they are of one family and were trained for one metric.
    """
    stems = {
        codec.name: codec.name if codec.many else re.sub(r"-[0-9]+$", "", codec.name)
        for codec in learned
    }
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


def first_tasks(paths, learned, codecs):
    """Tasks of the models, and of the classic codecs' ladders."""
    tasks = [
        Task(str(path), "model", codec.name, codec.load, codec.fingerprint, lmbda)
        for codec in learned
        for lmbda in codec.lambdas
        for path in paths
    ]
    for name in codecs:
        for setting in classics.CLASSICS[name].ladder:
            tasks += [Task(str(path), "classic", name, setting=setting) for path in paths]
    return tasks


def matched_tasks(rows, paths, codecs):
    """Tasks of classic codecs at the sizes of the models' files.

    Args:
      rows: results of ``first_tasks``.
      paths: the images; codecs: names of classic ones.
    """
    by_hash = {measurements.image_hash(str(path)): str(path) for path in paths}
    return [
        Task(
            by_hash[row["sha256"]],
            "matched",
            name,
            limit=row["bytes"],
            matched_to=tables.point_of(row),
        )
        for name in codecs
        for row in rows
        if row["kind"] == "model"
    ]


def _measure(args, page, paths, learned, pool):
    """Rows of everything that the options ask for, and the number of failures."""
    tasks = first_tasks(paths, learned, args.codecs)
    cache = args.output / measurements.CACHE
    rows, problems, fresh = measurements.measure_all(tasks, cache, pool)
    if page or args.matched:
        codecs = args.codecs or classics.REPORT_CODECS
        more_tasks = matched_tasks(rows, paths, codecs)
        more = measurements.measure_all(more_tasks, cache, pool, "matched sizes")
        tasks, rows, problems, fresh = tasks + more_tasks, *map(add, (rows, problems, fresh), more)
    for line in describe_problems(problems, tasks):
        print(line, file=sys.stderr)
    print(f"Results: {len(rows)}, {fresh} of them new.")
    return rows, len(problems)


def describe_problems(problems, tasks):
    """One line for an image and what is wrong with it, with the codecs where not all failed.

    Args:
      problems: list of (``Task``, sentence).
      tasks: all that were tried.
    """
    tried, failed = collections.defaultdict(set), {}
    for task in tasks:
        tried[task.path].add(task.codec)
    for task, problem in problems:
        codecs = failed.setdefault((task.path, problem), [])
        codecs += [task.codec] * (task.codec not in codecs)
    return [
        f"{path}: {problem}"
        if tried[path] == set(codecs)
        else f"{path} ({', '.join(codecs)}): {problem}"
        for (path, problem), codecs in failed.items()
    ]


def _warn(line):
    tqdm.tqdm.write(line, file=sys.stderr)  # beside a progress bar


def _workers(args):
    """What measures: also one measurement at a time is a process's, which may die."""
    if args.scheduler:
        from cli.scheduler import Scheduler

        return Scheduler(args.scheduler, args.jobs, _warn)
    return Workers(args.jobs or 1, args.threads, _warn)


def _make_absolute(args):
    """Makes paths in the options such that workers elsewhere find the same files by them."""
    args.images = [Path(path).absolute() for path in args.images]
    args.output = args.output.absolute()
    args.checkpoint = args.checkpoint and str(Path(args.checkpoint).absolute())
    args.models = args.models and [options.absolute_model(name) for name in args.models]


def run(args, page=None):
    """Everything that ``evaluate.py run`` and ``report`` do.

    Args:
      args: the options, see evaluation/options.py.
      page: where to write the page, or None for none.

    Returns:
      The exit code: 0, or 1 where a measurement failed.
    """
    options.check_workers(args)
    if args.scheduler and args.threads:
        raise UsageError("--threads is for this machine: a scheduler's workers have one each.")
    for name in args.codecs:
        classics.find(name)
    if args.matched and not args.codecs:
        raise UsageError("--matched needs --codecs: which codecs are to match?")
    names = curves.PAPER_CURVES if args.curves is None else args.curves
    published = [curves.published(name) for name in names]
    if args.scheduler:
        _make_absolute(args)
    paths = collect(args.images, images.IMAGE_SUFFIXES)
    learned = learned_codecs(args)
    if not learned and not args.codecs:
        raise UsageError("Nothing to measure: name --models or --codecs.")
    if args.rddata:
        curve_names = [name for name, _ in series_of(learned).values()]
        rddata.check(args.rddata, paths, curve_names)
    args.output.mkdir(parents=True, exist_ok=True)
    with _workers(args) as pool:
        rows, failures = _measure(args, page, paths, learned, pool)
        if rows:
            facts, shown = _evaluate(args, learned, published, rows)
            _write(args.output, facts, shown)
            print(f"\nTables and plots are in {args.output}/.")
            if page:
                from evaluation.report import page as report_page

                report_page.write(page, args.output, learned, facts, shown, pool)
                print(f"The report is {page}.")
            if args.rddata:
                rddata.write(args.rddata, facts["means"], learned)
                print(f"The points are in {args.rddata}.")
    return 1 if failures else 0


def _evaluate(args, learned, published, rows):
    """Means, curves and comparisons of measured rows, which it prints.

    Returns:
      ``facts``: dict of what results.json holds; ``shown``: list of all ``Curve``.
    """
    left_out = tables.lossless(rows)
    hashes = {entry["sha256"] for entry in left_out}
    kept = [row for row in rows if row["sha256"] not in hashes]
    means = tables.means(kept)
    measured = tables.curves_of(means, series_of(learned))
    kodak = curves.is_kodak(Path(row["image"]).stem for row in kept)
    # Published points are compared on the same images only, unless asked for: then it is said why.
    compared = measured + published if kodak or args.curves else measured
    comparisons = _compare(args, compared, kodak)
    for row in rows:
        if row["kind"] == "model":
            print(tables.describe_row(row))
    if means:
        print("\n" + "\n".join(tables.describe_means(means)))
    if left_out:
        print("\n" + "\n".join(tables.describe_lossless(left_out)))
    if comparisons:
        print("\n" + "\n".join(curves.describe(comparisons)))
    count = len({row["sha256"] for row in kept})
    where = "the 24 Kodak images" if kodak else f"{count} image" + "s" * (count != 1)
    if left_out:
        where += f", without {len(left_out)} that a codec restored exactly"
    foreign = "; published curves: the 24 Kodak images" if published and not kodak else ""
    facts = {
        "command": " ".join(["evaluate.py", *sys.argv[1:]]),
        "caption": f"Mean over {where}{foreign}",
        "device": measurements.device(options.backend(args)),
        "backend": options.backend(args) if learned else None,
        "versions": measurements.versions(),
        "rows": rows,
        "means": means,
        "left_out": left_out,
        "comparisons": comparisons,
    }
    return facts, measured + published


def _compare(args, shown, kodak):
    """Rows of ``curves.compare`` against what --anchor names."""
    if args.anchor == ALL_ANCHORS:
        ours = [curve for curve in shown if curve.kind == "model"]
        anchors = [curve for curve in shown if curve.kind != "model"]
        if not (ours and anchors):
            raise UsageError(
                f"--anchor {ALL_ANCHORS} needs models and, to compare them with, --codecs or "
                "--curves."
            )
        return [row for a in anchors for row in curves.compare(ours, a, kodak)]
    anchor = _anchor(args, shown)
    return curves.compare(shown, anchor, kodak) if anchor else []


def _anchor(args, shown):
    """The anchor's curve, or None where there is none to choose."""
    names = [args.anchor] if args.anchor else [*args.codecs, *(args.curves or ())][:1]
    if not names and any(curve.kind == "published" for curve in shown):
        names = curves.PAPER_CURVES[:1]
    for curve in shown:
        if curve.name in names:
            return curve
    if args.anchor:
        known = ", ".join(curve.name for curve in shown)
        raise UsageError(f"An --anchor among {known} expected, got {args.anchor}.")
    return None


def _write(output, facts, shown):
    """Writes the tables and the plots to the output folder."""
    tables.write_csv(facts["rows"], tables.COLUMNS, output / "results.csv")
    tables.write_csv(facts["means"], tables.MEAN_COLUMNS, output / "means.csv")
    if facts["comparisons"]:
        tables.write_csv(
            facts["comparisons"], list(facts["comparisons"][0]), output / "bd_rate.csv"
        )
    # Where files lie on this machine is nobody's business.
    rows = [{k: v for k, v in row.items() if k not in ("path", "file")} for row in facts["rows"]]
    tables.write_json({**facts, "rows": rows}, output / "results.json")
    for metric in curves.METRICS:
        plots.draw(shown, metric, output / f"rd_{metric}", facts["caption"])
