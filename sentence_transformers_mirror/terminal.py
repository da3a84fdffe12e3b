"""Whether somebody looks on: progress bars are for them alone."""

from __future__ import annotations

import sys
from typing import Any, TextIO


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
    return tqdm(*args, disable=not (shown and sys.stderr is not None), **options)
