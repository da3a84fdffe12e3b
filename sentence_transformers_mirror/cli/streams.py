"""``-`` for standard input and standard output, where a verb reads or writes a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STANDARD = "-"
_COLUMNS = ("column", "title", "ids", "metadata")  # flags that name columns, which lines of text have none of


@contextmanager
def texts_from_standard_input(args: argparse.Namespace) -> Iterator[None]:
    """Where ``--texts`` is ``-``: a file of what standard input gives, for as long as a verb runs.

    It holds a text a line, or a JSON object a line where a flag names a column. A verb reads its texts twice, to
    complain before it loads a model, and a pipe can be read once.
    """
    if getattr(args, "texts", None) != STANDARD:
        yield
        return
    if sys.stdin is None:
        raise ValueError("Standard input is closed: name a file with --texts.")
    import shutil
    from tempfile import TemporaryDirectory

    named = any(getattr(args, flag, None) for flag in _COLUMNS)
    with TemporaryDirectory() as folder:
        path = Path(folder, "standard-input.jsonl" if named else "standard-input.txt")
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        args.texts = str(path)
        try:
            yield
        except (ValueError, OSError) as error:
            error.args = tuple(
                part.replace(repr(str(path)), "standard input") if isinstance(part, str) else part
                for part in error.args
            )
            raise


@contextmanager
def file_or_standard_output(output: str) -> Iterator[str]:
    """The path to write to; what is written there goes to standard output where it is ``-``."""
    if output != STANDARD:
        yield output
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder, "standard-output")
        yield str(path)
        sys.stdout.flush()
        sys.stdout.buffer.write(path.read_bytes() + b"\n")  # as it stands, whatever a terminal is set to
        sys.stdout.buffer.flush()


def refuse_both(args: argparse.Namespace) -> None:
    """Standard output is for one thing."""
    if args.json and args.output == STANDARD:
        raise ValueError("--json and --output - both write to standard output: choose one.")
