"""Panels of curves with logarithmic axes; the same picture from the same numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def panels(path: Path, width: float, xlabel: str, titles: Sequence[str]) -> Iterator[list]:
    """A matplotlib Axes for each title, to draw into while the context is open; then they are saved as SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = path.stem
    figure = Figure(figsize=(width, 3.6), layout="constrained")
    drawn = list(figure.subplots(1, len(titles)))
    yield drawn
    for axes, title in zip(drawn, titles, strict=True):
        axes.set(xscale="log", yscale="log", xlabel=xlabel, title=title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, metadata={"Date": None})
