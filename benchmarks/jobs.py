"""Images an hour of encoder.py by --jobs: python -m benchmarks.jobs [FILE_OR_FOLDER ...]

Makes photographs of one size, crops of those that are named (default: valid/), and codes them on
the worker processes of encoder.py --jobs without measuring quality, for each number of jobs in
turn, --repeats times. Prints for each the images an hour once all models have started, and the
processor seconds of all threads for an image; and of the medians of images an hour the ratio to the
first number of jobs.

Where other programs run, more processes take a larger share of the machine: the ratio counts on a
machine that does nothing else.
"""

import statistics
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np

import encoder
from cli import encoding, options, running, workers
from cli import errors as cli_errors
from cli.inputs import collect
from cli.jobs import Job
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


def timed(item):
    """``running.do`` in a worker: (its problem, processor seconds of all threads)."""
    before = time.process_time()
    outcome = running.do(item)
    return outcome.problem, time.process_time() - before


def measure(pictures, output, args, jobs):
    """Codes pictures.

    Args:
      pictures: list of paths. output: folder to write to.
      args: the options of encoder.py.
      jobs: how many processes.

    Returns:
      Images an hour, and mean processor seconds for an image.

    Raises:
      GlicError: where a picture cannot be coded, or a worker died.
    """
    work = running.Work(encoding.make_work, args, uuid.uuid4().hex)
    items = [(work, Job(path, output / f"{path.stem}.glic"), False) for path in pictures]

    def code(pool, some):
        seconds = []
        for done in pool.map(timed, some):
            problem, processor = done.result or (done.problem, 0)
            if problem:
                raise problem
            seconds.append(processor)
        return seconds

    with workers.Workers(jobs) as pool:
        code(pool, items[:1] * jobs)  # one for each, which starts its model
        start = time.perf_counter()
        seconds = code(pool, items)
        return 3600 * len(items) / (time.perf_counter() - start), statistics.mean(seconds)


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
    coding = encoder.parse_arguments(["--no-metrics", "--overwrite", "--model", args.model])
    rates = {jobs: [] for jobs in args.jobs}
    with tempfile.TemporaryDirectory() as folder:
        output, pictures = Path(folder, "out"), []
        output.mkdir()
        for i, pixels in enumerate(crops(paths, args.count, *args.size)):
            pictures.append(Path(folder, f"{i:04d}.png"))
            pictures[-1].write_bytes(images.png_bytes(pixels))
        for _ in range(args.repeats):
            for jobs in rates:
                rate, processor = measure(pictures, output, coding, jobs)
                rates[jobs].append(rate)
                print(
                    f"--jobs {jobs}: {rate:.0f} images an hour, {processor:.3f} processor seconds "
                    "an image",
                    flush=True,
                )
    medians = {jobs: statistics.median(found) for jobs, found in rates.items()}
    first = args.jobs[0]
    for jobs, median in medians.items():
        print(f"--jobs {jobs} / --jobs {first}: {median / medians[first]:.2f}")
    return 0


if __name__ == "__main__":
    cli_errors.run_script(main)
