"""Load or save a model without the tables and bars that transformers and sentence-transformers tell of each."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sentence_transformers_mirror import _host, terminal


class _Switches(NamedTuple):
    transformers: int  # level of its log
    host: int  # level of the log of sentence-transformers
    bars: bool


_lock = threading.Lock()
_depth = 0  # how many are inside, in all threads
_before: _Switches


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, both tell errors only, and draw no bars but those of downloads.

    Their switches are the process's: the first to come in turns them, and the last to leave turns them back.
    """
    global _depth, _before
    with _lock:
        if not _depth:
            _before = silence()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth:
                _set(_before)


def silence() -> _Switches:
    """Make both quiet from now on, unless the libraries may talk; gives what was."""
    from transformers.utils import logging as transformers_logging

    level, host = transformers_logging.get_verbosity(), logging.getLogger("sentence_transformers").level
    bars = transformers_logging.is_progress_bar_enabled()
    if not terminal.libraries:
        _set(_Switches(max(level, logging.ERROR), max(host, logging.ERROR), False))
    return _Switches(level, host, bars)


def _set(switches: _Switches) -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity(switches.transformers)
    logging.getLogger("sentence_transformers").setLevel(switches.host)
    _host.draw_bars(switches.bars)


def _alone() -> None:
    """In a forked process: the threads that were inside did not come along."""
    global _lock, _depth
    _lock = threading.Lock()
    if _depth:
        _depth = 0
        _set(_before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)
