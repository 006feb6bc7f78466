"""Images an hour of encoder.py by --jobs: python -m benchmarks.jobs [FILE_OR_FOLDER ...]

Makes photographs of one size, crops of those that are named (default: valid/), and has encoder.py
code them without measuring quality, once for each number of jobs in turn, --repeats times. Prints
for each the images an hour from when all models have started, the whole command's seconds, in
which the start counts, and the processor seconds of all its threads; and of the medians of images
an hour the ratio to the first number of jobs.

Where other programs run, more processes take a larger share of the machine: the ratio counts on a
machine that does nothing else.
"""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cli import errors as cli_errors
from cli import options
from cli.inputs import collect
from errors import UsageError
from evaluation.options import size
from pictures import images


def crops(paths, count, height, width):
    """Yields uint8 (height, width, 3) or (height, width) crops of pictures, each at another place.

    Raises:
      UsageError: where no picture is large enough.
    """
    rng, made = np.random.default_rng(0), 0
    while made < count:
        before = made
        for path in paths:
            pixels = images.read_image(path).pixels
            room = pixels.shape[0] - height, pixels.shape[1] - width
            if min(room) < 0 or made == count:
                continue
            top, left = (rng.integers(0, n + 1) for n in room)
            yield pixels[top : top + height, left : left + width]
            made += 1
        if made == before:
            raise UsageError(f"Pictures of {width}x{height} or more expected, got none.")


def measure(folder, output, model, jobs):
    """Codes a folder's pictures.

    Returns:
      Images an hour, the command's seconds, and its processor seconds.

    Raises:
      UsageError: where the encoder fails, or has too few files to measure a rate.
    """
    command = [sys.executable, "encoder.py", str(folder), "-o", str(output), "--overwrite"]
    command += ["--no-metrics", "--model", model, "--jobs", str(jobs)]
    start, before, begin, times = time.perf_counter(), os.times(), None, []
    with subprocess.Popen(command, cwd=options.ROOT, stdout=subprocess.PIPE, text=True) as run:
        for line in run.stdout:
            if re.search(r", started in [0-9.]+ s$", line):
                begin = time.perf_counter()
                times = []
            elif " bpp" in line and not line.startswith("mean "):
                times.append(time.perf_counter())
    seconds, after = time.perf_counter() - start, os.times()
    if run.returncode or begin is None:
        raise UsageError(f"encoder.py failed ({run.returncode}).")
    if len(times) < 2:
        raise UsageError("More pictures expected: too few were left when all models had started.")
    # From the first file on, of which a worker's line of its start tells too late.
    rate = 3600 * (len(times) - 1) / (times[-1] - times[0])
    return rate, seconds, sum(after[2:4]) - sum(before[2:4])  # of this process's children


def main():
    """Prints the rates and their ratio."""
    parser = options.parser_for(__doc__)
    parser.add_argument("images", nargs="*", metavar="FILE_OR_FOLDER")
    parser.add_argument("--model", default=options.DEFAULT_MODEL, help="(default: %(default)s)")
    parser.add_argument("--count", type=options.count, default=100, help="(default: %(default)s)")
    parser.add_argument(
        "--size",
        type=size,
        default=(512, 768),
        metavar="WIDTHxHEIGHT",
        help="of the photographs (default: 768x512)",
    )
    parser.add_argument(
        "--jobs", nargs="+", type=options.count, default=[1, 2], help="(default: 1 2)"
    )
    parser.add_argument("--repeats", type=options.count, default=1, help="(default: %(default)s)")
    args = parser.parse_args()
    paths = collect(args.images or [options.ROOT / "valid"], images.IMAGE_SUFFIXES)
    rates = {jobs: [] for jobs in args.jobs}
    with tempfile.TemporaryDirectory() as folder:
        pictures, output = Path(folder, "in"), Path(folder, "out")
        pictures.mkdir()
        for i, pixels in enumerate(crops(paths, args.count, *args.size)):
            (pictures / f"{i:04d}.png").write_bytes(images.png_bytes(pixels))
        for _ in range(args.repeats):
            for jobs in rates:
                rate, seconds, processor = measure(pictures, output, args.model, jobs)
                rates[jobs].append(rate)
                print(
                    f"--jobs {jobs}: {rate:.0f} images an hour; {seconds:.1f} s, "
                    f"{processor:.1f} processor seconds",
                    flush=True,
                )
    medians = {jobs: statistics.median(found) for jobs, found in rates.items()}
    first = args.jobs[0]
    for jobs, median in medians.items():
        print(f"--jobs {jobs} / --jobs {first}: {median / medians[first]:.2f}")
    return 0


if __name__ == "__main__":
    cli_errors.run_script(main)
