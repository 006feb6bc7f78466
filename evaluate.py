"""Numbers and pictures about the codecs: python evaluate.py run|report|complexity|bits

  python evaluate.py run --images photos/ --models gmm --codecs jpeg avif --matched
  python evaluate.py report --images photos/ --models gmm gllmm-mse-3
  python evaluate.py complexity --filters 64 128 192 --size 768x512
  python evaluate.py bits photo.png

run codes images with models and classic codecs to real files and back, prints a table, and writes
results.csv, results.json, means.csv, bd_rate.csv and rate-distortion plots to the output folder.
What was measured is kept there: a second run only does what is new. report is a run that also
writes one HTML page. Each command has its --help; docs/evaluation.md describes them.
"""

import preflight
from cli import errors as cli_errors
from cli import options as cli_options
from evaluation import options


def _run(args, page=None):
    preflight.check_evaluation()
    from evaluation import session

    return session.run(args, page)


def _report(args):
    return _run(args, args.page or args.output / options.PAGE)


def _complexity(args):
    preflight.check()
    from evaluation import complexity

    return complexity.run(args)


def _bits(args):
    if args.map:
        preflight.check_evaluation(["matplotlib"])
    preflight.check()
    from evaluation import bits

    return bits.run(args)


COMMANDS = (
    ("run", "measure models and classic codecs on images", options.add_run_options, _run),
    ("report", "the same, and one HTML page to look at it", options.add_report_options, _report),
    (
        "complexity",
        "parameters, multiply-accumulates and seconds of each network",
        options.add_complexity_options,
        _complexity,
    ),
    ("bits", "what is in a file, by part and by channel", options.add_bits_options, _bits),
)


def main():
    """Returns the exit code: 0, or 1 where an image failed."""
    parser = cli_options.parser_for(__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary, add_options, work in COMMANDS:
        command = commands.add_parser(name, help=summary, description=f"{name}: {summary}.")
        add_options(command)
        command.set_defaults(work=work)
    args = parser.parse_args()
    return args.work(args)


if __name__ == "__main__":
    cli_errors.run(main)
