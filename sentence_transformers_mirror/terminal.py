"""Whether somebody looks on: progress bars are for them alone, and how much is said is theirs to say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Of this process; the command line turns them, see `volume`.
bars = True
libraries = False  # whether the libraries below may tell of their work


@contextmanager
def volume(quiet: bool, verbose: bool) -> Iterator[None]:
    """Inside, no bars are drawn if ``quiet``, and the libraries below are not silenced if ``verbose``."""
    global bars, libraries
    before = bars, libraries
    bars, libraries = not quiet, verbose
    try:
        yield
    finally:
        bars, libraries = before


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream leads to a terminal; one that was closed is None, and so are those of a service."""
    return stream is not None and not stream.closed and stream.isatty()


def bar(*args: Any, show: bool | None = None, **options: Any) -> Any:
    """A bar of tqdm on standard error.

    Args:
        *args: As for tqdm.
        show: Whether it is drawn; by default on a terminal and in a notebook.
        **options: As for tqdm.
    """
    from tqdm.auto import tqdm

    shown = (is_terminal(sys.stderr) or "ipykernel" in sys.modules) if show is None else show
    return tqdm(*args, disable=not (bars and shown and sys.stderr is not None), **options)
