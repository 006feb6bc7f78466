"""Processor time of TensorFlow's command lines: python -m benchmarks.startup [--model NAME]

Runs encoder.py --no-metrics and decoder.py with --backend tensorflow on one 256x256 picture,
several times, each in a process of its own, and prints the medians of the processor seconds of all
threads (benchmarks.backends compares the backends):

  interpreter      starting Python, NumPy and the options
  tensorflow       import tensorflow
  imports          everything else that is imported
  model            reading and checking the weights, exact integer tables
  graphs           building TensorFlow's graphs and sessions
  passes           the float32 networks, TensorFlow's set-up of the first pass included
  entropy coding   latents to bytes or back
  rest             pictures, files
  exit             ending the process

Bar: at most 1.5 seconds beside import tensorflow and the passes.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cli import errors as cli_errors
from cli import options
from errors import UsageError

SIDE = 256
BAR = 1.5
NOT_OURS = ("tensorflow", "passes")
PARTS = ("interpreter", "tensorflow", "imports", "model", "graphs", "passes", "entropy coding")


class Clock:
    """Processor seconds of parts, each without those that are measured within it."""

    def __init__(self):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._inner = 0.0

    @contextlib.contextmanager
    def part(self, name):
        """Counts a block for a part."""
        start, outer, self._inner = time.process_time(), self._inner, 0.0
        try:
            yield
        finally:
            spent = time.process_time() - start
            self.seconds[name] += spent - self._inner
            self._inner = outer + spent

    def watch(self, owner, function, name):
        """Counts all calls of ``owner.function`` for a part."""
        original = getattr(owner, function)

        def timed(*args, **kwargs):
            with self.part(name):
                return original(*args, **kwargs)

        setattr(owner, function, timed)


def measure(script, arguments):
    """Runs a command line in this process; prints the parts' seconds as JSON."""
    clock = Clock()
    clock.seconds["interpreter"] = time.process_time()
    with clock.part("tensorflow"):
        import tensorflow.compat.v1 as tf  # noqa: F401
    with clock.part("imports"):
        import codec  # noqa: F401
        import decoder
        import encoder
        from coding import models
        from coding.entropy_coder import EntropyCoder
        from coding.networks import Networks
        from pictures import images  # noqa: F401
        from search import refine  # noqa: F401
    for name in ("load_folder", "find"):
        clock.watch(models, name, "model")
    clock.watch(EntropyCoder, "__init__", "model")
    clock.watch(EntropyCoder, "encode", "entropy coding")
    clock.watch(EntropyCoder, "decode", "entropy coding")
    clock.watch(Networks, "_start", "graphs")
    clock.watch(Networks, "_run", "passes")
    sys.argv = [f"{script}.py", *arguments]
    start = time.process_time()
    code = {"encoder": encoder, "decoder": decoder}[script].main()
    spent = time.process_time() - start
    counted = ("model", "graphs", "passes", "entropy coding")
    clock.seconds["rest"] = spent - sum(clock.seconds[name] for name in counted)
    print(json.dumps(clock.seconds))
    return code


def seconds_of(script, arguments):
    """Dict of part to processor seconds of one process."""
    command = [sys.executable, "-m", "benchmarks.startup", "--measure", script, "--", *arguments]
    before = os.times()
    process = subprocess.run(command, cwd=options.ROOT, stdout=subprocess.PIPE, text=True)
    after = os.times()
    if process.returncode:
        raise UsageError(f"{script}.py failed ({process.returncode}).")
    seconds = json.loads(process.stdout.splitlines()[-1])
    whole = sum(after[2:4]) - sum(before[2:4])  # of this process's children
    return {**seconds, "exit": whole - sum(seconds.values())}


def report(script, runs):
    """Text lines of the medians of several runs."""
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    ours = statistics.median(
        sum(s for name, s in run.items() if name not in NOT_OURS) for run in runs
    )
    whole = statistics.median(sum(run.values()) for run in runs)
    return [
        f"{script}.py, {SIDE}x{SIDE}, processor seconds, medians of {len(runs)}",
        *(f"  {name:15s} {seconds:6.2f}" for name, seconds in medians.items()),
        f"  {'whole':15s} {whole:6.2f}",
        f"  {'ours':15s} {ours:6.2f}  bar {BAR} s: {ours / BAR:.2f} of it",
    ]


def main():
    """Prints the parts of both command lines."""
    parser = options.parser_for(__doc__)
    parser.add_argument("--model", default=options.DEFAULT_MODEL, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=options.count, default=5, help="(default: %(default)s)")
    parser.add_argument("--measure", choices=("encoder", "decoder"), help="one, in this process")
    parser.add_argument("arguments", nargs="*", help="of that command line, after --")
    args = parser.parse_args()
    if args.measure:
        return measure(args.measure, args.arguments)
    from benchmarks.scaling import picture
    from pictures import images

    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder, "a.png")
        png.write_bytes(images.png_bytes(picture(SIDE, SIDE)))
        options_of = {
            "encoder": [str(png), "--model", args.model, "--no-metrics"],
            "decoder": [str(png.with_suffix(".glic"))],
        }
        for script, arguments in options_of.items():
            arguments += ["-o", folder, "--overwrite", "--backend", "tensorflow"]
            if script == "decoder":
                png.unlink()  # its output's name
            runs = [seconds_of(script, arguments) for _ in range(args.repeats)]
            print("\n".join(report(script, runs)), flush=True)
    return 0


if __name__ == "__main__":
    cli_errors.run_script(main)
