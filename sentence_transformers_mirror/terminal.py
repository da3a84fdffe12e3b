"""What a terminal shows: progress bars, if somebody looks on, and as much of the libraries below as they ask for."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Of this process; the command line turns them, see `volume`.
bars = True
libraries = False  # whether the libraries below may tell of their work

_lock = threading.Lock()
_inside = 0  # how many are inside `quiet`, in all threads
_before = (0, 0, False)  # as `silence` gives it


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
    """A bar of tqdm on standard error, by default on a terminal and in a notebook; arguments are as for tqdm."""
    from tqdm.auto import tqdm

    shown = (is_terminal(sys.stderr) or "ipykernel" in sys.modules) if show is None else show
    return tqdm(*args, disable=not (bars and shown and sys.stderr is not None), **options)


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers and sentence-transformers tell errors only, and draw no bars but those of downloads.

    Their switches are the process's: the first to come in turns them, and the last to leave turns them back.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = silence()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _set(*_before)


def silence() -> tuple[int, int, bool]:
    """Make both quiet from now on, unless the libraries may talk; gives levels and bars as they were."""
    from transformers.utils import logging as transformers_logging

    level, host = transformers_logging.get_verbosity(), logging.getLogger("sentence_transformers").level
    drawn = transformers_logging.is_progress_bar_enabled()
    if not libraries:
        _set(max(level, logging.ERROR), max(host, logging.ERROR), False)
    return level, host, drawn


def _set(level: int, host: int, drawn: bool) -> None:
    from transformers.utils import logging as transformers_logging

    from sentence_transformers_mirror import _host

    transformers_logging.set_verbosity(level)
    logging.getLogger("sentence_transformers").setLevel(host)
    _host.draw_bars(drawn)


def _alone() -> None:
    """In a forked process: the threads that were inside did not come along."""
    global _lock, _inside
    _lock = threading.Lock()
    if _inside:
        _inside = 0
        _set(*_before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)
