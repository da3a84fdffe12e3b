"""Which rows a condition on metadata lets through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sentence_transformers_mirror.printable import printable, quoted
from sentence_transformers_mirror.scalars import plain
from sentence_transformers_mirror.search.segments import Segment
from sentence_transformers_mirror.search.snapshot import Snapshot

Where = Mapping[str, Any]


def mask(snapshot: Snapshot, where: Where) -> np.ndarray:
    """The rows whose metadata meets every condition, shape (rows,), bool; removed rows are left out.

    Conditions are as for ``SearchIndex.search``. A list in the metadata (tags) meets one if one of its elements does;
    an entry without the key, or with a dictionary under it, meets none. ``1`` and ``1.0`` are equal, ``1`` and
    ``True`` are not.
    """
    if not isinstance(where, Mapping) or not all(isinstance(key, str) for key in where):
        raise TypeError(f"where must be a dictionary of metadata keys and values, not {quoted(where)}.")
    allowed = ~snapshot.removed
    for key, wanted in where.items():
        test = _test(key, wanted)
        known = False
        for start, segment in zip(snapshot.vectors.starts, snapshot.segments, strict=False):
            rows, codes, values = _column(segment, key)
            known = known or bool(values)
            passed = np.zeros(len(segment), bool)
            passes = np.fromiter(map(test, values), bool, len(values))
            passed[rows[passes[codes]]] = True
            allowed[start : start + len(segment)] &= passed
        if not known:
            keys = sorted({key for one in snapshot.segments for metadata in one.all_metadata() for key in metadata})
            there = ", ".join(printable(f"{key:.60}") for key in keys[:50]) or "none"
            raise ValueError(f"No entry has a value under {quoted(key)} in its metadata; the keys are: {there}.")
    return allowed


def _test(key: str, wanted: Any) -> Callable[[Any], bool]:
    if callable(wanted):
        return lambda value: bool(wanted(value))
    wanted = plain(wanted)
    several = hasattr(wanted, "__iter__") and not isinstance(wanted, (str, bytes, Mapping))
    options = [plain(option) for option in wanted] if several else [wanted]
    if not all(isinstance(option, (str, int, float, bool, type(None))) for option in options):
        raise TypeError(
            f"where[{key!r}] must be strings, numbers, bools or None, or a function, not {quoted(wanted)}."
        )
    chosen = {_comparable(option) for option in options}
    return lambda value: _comparable(value) in chosen


def _comparable(value: Any) -> tuple[bool, Any]:
    return isinstance(value, bool), value


def _column(segment: Segment, key: str) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """Rows that have a key and the number of the value of each, and the distinct values; made once per segment."""
    if key not in segment.columns:
        rows, codes = [], []
        values: dict[tuple[bool, Any], int] = {}
        for row, metadata in enumerate(segment.all_metadata()):
            if key in metadata:
                found = metadata[key]
                for value in found if isinstance(found, list) else [found]:
                    if not isinstance(value, (list, dict)):
                        rows.append(row)
                        codes.append(values.setdefault(_comparable(value), len(values)))
        distinct = [value for _, value in values]
        segment.columns[key] = np.array(rows, np.int64), np.array(codes, np.int64), distinct
    return segment.columns[key]
