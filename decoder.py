"""Restores images: python decoder.py [FILES OR FOLDERS] [-o recon/]

Reads .glic files and writes PNG. Each file names the model that wrote it by its fingerprint; the
decoder finds that model in models/. One that was released and is no longer there comes back with
--fetch-model.
"""

from cli import errors as cli_errors  # isort: skip  (first: it says what is missing)
from cli import decoding, options  # isort: skip
from pathlib import Path


def parse_arguments():
    """The command line's options."""
    parser = options.parser_for(__doc__)
    options.add_file_options(parser, Path("images"), "recon", ".png")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="PATH",
        help="folder of a model to search besides those in models/; may be given several times",
    )
    parser.add_argument(
        "--fetch-model",
        action="store_true",
        help="bring the released models that the files need and models/ no longer has from the "
        "history of this git checkout, or of the remote where it is shallow; into models/.fetched/",
    )
    options.add_limits(parser)
    options.add_workers(parser)
    options.add_backend(parser)
    options.add_model_options(parser)
    return parser.parse_args()


def main():
    """Returns the exit code: 0, or 1 where a file failed."""
    return decoding.run(parse_arguments())


if __name__ == "__main__":
    cli_errors.run_script(main)
