"""ONNX Runtime against TensorFlow: python -m benchmarks.backends [--model NAME] [--repeats N]

Measures in turns, so that both see the same machine, and prints medians of wall and of processor
seconds (all threads) with their ratios:

  encode, decode   encoder.py and decoder.py on one picture, whole processes, with their --backend
  from Python      a process that loads a codec and restores one picture, then another
  24 pictures      compressing and restoring in one process that has coded before

Bars, on two cores with nothing else running, at 64 filters: a ratio of at most 0.35 for one picture
of 768x512, and 2.5 s; 1.2 s for one of 256x256; a ratio of at most 1 for the 24 pictures.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.scaling import picture
from cli import errors as cli_errors
from cli import options
from codec import Codec
from coding.backends import BACKENDS, require
from errors import UsageError
from pictures import images

SIZES = {(512, 768): 2.5, (256, 256): 1.2}  # height, width: the bar in seconds
RATIO_BAR, SERIES_BAR = 0.35, 1.0
SERIES = 24

PROGRAM = """
import sys
from codec import Codec
from pathlib import Path
codec = Codec.load(sys.argv[1], backend=sys.argv[2])
codec.decompress(Path(sys.argv[3]).read_bytes())
"""


def _spent():
    """Processor seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def timed(work):
    """(wall, processor) seconds of ``work()``."""
    start, before = time.perf_counter(), _spent()
    work()
    return time.perf_counter() - start, _spent() - before


def _process(command):
    process = subprocess.run(list(map(str, command)), cwd=options.ROOT, stdout=subprocess.DEVNULL)
    if process.returncode:
        raise UsageError(f"{' '.join(map(str, command[1:3]))} failed ({process.returncode}).")


def in_turns(work, repeats):
    """Dict of backend to the median (wall, processor) seconds of ``work(backend)``.

    One run of each comes before: the files are in memory then, whichever is measured first.
    """
    runs = {backend: [] for backend in BACKENDS}
    for i in range(repeats + 1):
        for backend in BACKENDS:
            seconds = timed(lambda backend=backend: work(backend))
            if i:
                runs[backend].append(seconds)
    return {
        backend: tuple(map(statistics.median, zip(*seconds))) for backend, seconds in runs.items()
    }


def line(what, medians, ratio_bar=None, bar=None):
    """A row of the table."""
    (wall, spent), (other_wall, other_spent) = (medians[backend] for backend in BACKENDS)
    bars = [f"wall {bar} s"] * (bar is not None) + [f"ratio {ratio_bar}"] * (ratio_bar is not None)
    return (
        f"{what:24s} {wall:6.2f} {other_wall:6.2f} {wall / other_wall:6.2f}   "
        f"{spent:6.2f} {other_spent:6.2f} {spent / other_spent:6.2f}   {', '.join(bars)}"
    )


def whole_processes(height, width, model, folder, repeats):
    """Yields (name, medians) of the command lines and of a program on one picture."""
    png, glic = folder / "a.png", folder / "a.glic"
    png.write_bytes(images.png_bytes(picture(height, width)))
    more = ["--overwrite", "--backend"]
    encode = [sys.executable, "encoder.py", png, "--model", model, "-o", glic, *more]
    decode = [sys.executable, "decoder.py", glic, "-o", folder / "b.png", *more]
    yield "encode", in_turns(lambda backend: _process([*encode, backend]), repeats)
    yield "decode", in_turns(lambda backend: _process([*decode, backend]), repeats)
    program = [sys.executable, "-c", PROGRAM, model]
    yield "from Python", in_turns(lambda backend: _process([*program, backend, glic]), repeats)


def series(model, height, width, repeats):
    """Yields (name, medians) of coding ``SERIES`` pictures in this process."""
    whole = picture(height + SERIES, width)
    pictures = [whole[i : i + height] for i in range(SERIES)]
    codecs = {backend: Codec.load(model, backend=backend) for backend in BACKENDS}
    files = [codecs[BACKENDS[0]].compress(pixels) for pixels in pictures]
    yield "compress", in_turns(lambda b: [codecs[b].compress(p) for p in pictures], repeats)
    yield "restore", in_turns(lambda b: [codecs[b].decompress(f) for f in files], repeats)


def main():
    """Prints the table."""
    parser = options.parser_for(__doc__)
    parser.add_argument("--model", default=options.DEFAULT_MODEL, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=options.count, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--series-size",
        type=int,
        nargs=2,
        default=(512, 768),
        metavar=("HEIGHT", "WIDTH"),
        help="of the 24 pictures (default: 512 768)",
    )
    args = parser.parse_args()
    for backend in BACKENDS:
        require(backend, "This benchmark")
    print(f"{args.model}, medians of {args.repeats}, seconds: onnx, tensorflow, ratio")
    print(f"{'':24s} {'wall':^20s}   {'processor':^20s}   bars")
    with tempfile.TemporaryDirectory() as folder:
        for (height, width), bar in SIZES.items():
            ratio_bar = RATIO_BAR if (height, width) == max(SIZES) else None
            found = whole_processes(height, width, args.model, Path(folder), args.repeats)
            for name, medians in found:
                print(line(f"{name} {width}x{height}", medians, ratio_bar, bar), flush=True)
    for name, medians in series(args.model, *args.series_size, max(1, args.repeats // 2)):
        print(line(f"{name} {SERIES} pictures", medians, SERIES_BAR), flush=True)
    return 0


if __name__ == "__main__":
    cli_errors.run_script(main)
