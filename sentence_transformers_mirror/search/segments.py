"""What an index holds: segments of rows that never change, and which of their rows were removed.

Rows are numbered in the order in which they came, through all segments. Growing appends a segment and removing sets a
mark, so a snapshot that a search is reading never changes under it.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.search.errors import BrokenIndexError

if TYPE_CHECKING:
    from sentence_transformers_mirror.search.ann import Structure

# Ids and metadata are JSON in the table, so that an id comes back as the int or str it was, of any size.
SCHEMA = pa.schema([("id", pa.large_string()), ("text", pa.large_string()), ("metadata", pa.large_string())])


class Segment:
    """Rows that are never changed.

    Args:
        vectors: Unit vectors, shape (rows, dimension), float32, C-contiguous.
        entries: A table of `SCHEMA` with a row per vector; or a function that gives it when it is first needed.
        files: The folder and the records of the two files that hold this segment, if it lies on disk.
        mapped: Whether these files are all there is of it.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        entries: pa.Table | Callable[[], pa.Table],
        files: tuple[str, dict[str, Any]] | None = None,
        mapped: bool = False,
    ) -> None:
        self.vectors = vectors
        self.mapped = mapped
        self.files = files
        self.columns: dict[str, Any] = {}  # of metadata, kept by filters.py
        self._entries = entries

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def entries(self) -> pa.Table:
        if not isinstance(self._entries, pa.Table):
            self._entries = self._entries()
        return self._entries

    @cached_property
    def _cells(self) -> tuple[pa.ChunkedArray, ...]:
        return tuple(self.entries.columns)  # a table makes them anew each time, which takes as long as reading a row

    def ids(self) -> list[int | str]:
        found = _parsed("[" + ",".join(self.entries.column("id").to_pylist()) + "]", list)
        if len(found) != len(self) or not all(type(item) in (int, str) for item in found):
            raise _broken()
        return found

    def id(self, row: int) -> int | str:
        return _parsed(self._cells[0][row].as_py(), (int, str))

    def text(self, row: int) -> str:
        return self._cells[1][row].as_py()

    def metadata(self, row: int) -> dict[str, Any]:
        found = self._cells[2][row].as_py()
        return {} if found is None else _parsed(found, dict)

    def all_metadata(self) -> Iterator[dict[str, Any]]:
        """Of each row, in their order."""
        for batch in self.entries.column("metadata").chunks:
            for text in batch.to_pylist():
                yield {} if text is None else _parsed(text, dict)


def _parsed(text: str, kind: type | tuple[type, ...]) -> Any:
    """What a cell says, which in a received index may be anything."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise _broken() from None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise _broken()
    return found


def _broken() -> BrokenIndexError:
    return BrokenIndexError("Ids or metadata of the index are not valid: restore it from a copy or build it again.")


class Vectors:
    """Arrays of vectors, shape (rows, dimension) each, numbered through as if they were one."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *map(len, parts)]).tolist()

    def __len__(self) -> int:
        return self.starts[-1]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """A copy of the vectors of some rows, shape (*rows.shape, dimension); of -1 any vector."""
        if len(self.parts) == 1:
            return self.parts[0][rows]
        owners = np.maximum(np.searchsorted(self.starts, rows, side="right") - 1, 0)
        taken = np.empty((*rows.shape, self.parts[0].shape[1]), np.float32)
        for number in np.unique(owners):
            mine = owners == number
            taken[mine] = self.parts[number][rows[mine] - self.starts[number]]
        return taken


@dataclass(frozen=True)
class Snapshot:
    """Everything that a search reads. Never changed; a change of an index makes a new one.

    Args:
        segments: Rows in their order.
        removed: Whether each row was removed, shape (rows,), bool.
        structure: A FAISS index over the first rows, None if they are scanned, or a function that loads one of these.
        report: How the structure was chosen and what it was measured to be.
        calibration: The last result of ``calibrate``.
        next_id: The number that the next text without an id gets.
    """

    segments: tuple[Segment, ...]
    removed: np.ndarray
    structure: Structure | Callable[[], Structure | None] | None = None
    report: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    next_id: int = 0

    @classmethod
    def of(cls, *segments: Segment) -> Snapshot:
        """All rows of some segments."""
        return cls(segments, np.zeros(sum(map(len, segments)), bool), next_id=next_id(segments))

    @cached_property
    def vectors(self) -> Vectors:
        return Vectors([segment.vectors for segment in self.segments])

    @cached_property
    def loaded(self) -> Structure | None:
        """The structure, loaded if it was not yet."""
        return self.structure() if callable(self.structure) else self.structure

    @cached_property
    def size(self) -> int:
        """Rows that were not removed."""
        return len(self.removed) - int(self.removed.sum())

    @cached_property
    def alive(self) -> np.ndarray | None:
        """A mask of the rows that were not removed, shape (rows,), bool; None if all are there."""
        return None if self.size == len(self.removed) else ~self.removed

    def locate(self, row: int) -> tuple[Segment, int]:
        """The segment of a row and its number in there."""
        number = bisect.bisect_right(self.vectors.starts, row) - 1
        return self.segments[number], row - self.vectors.starts[number]

    def ids(self) -> Iterator[int | str]:
        """The ids that were not removed, in the order of their rows."""
        ids = (item for segment in self.segments for item in segment.ids())
        return (item for item, gone in zip(ids, self.removed.tolist(), strict=True) if not gone)

    def positions(self) -> dict[int | str, int]:
        """The row of each id."""
        return dict(zip(self.ids(), self.rows().tolist(), strict=True))

    def rows(self) -> np.ndarray:
        """The rows that were not removed, int64, ascending."""
        return np.flatnonzero(~self.removed)


def gathered(rows: Iterator[tuple[np.ndarray, pa.Table]]) -> Segment:
    """One segment in memory, of vectors and entries that come in pieces."""
    vectors = np.empty((0, 0), np.float32)
    tables, count = [], 0
    for block, table in rows:
        if count + len(block) > len(vectors):
            # In place, where the system can move pages instead of copying them.
            vectors.resize((max(count + len(block), count * 3 // 2), block.shape[1]), refcheck=False)
        vectors[count : count + len(block)] = block
        count += len(block)
        tables.append(table)
    vectors.resize((count, vectors.shape[1]), refcheck=False)
    return Segment(vectors, pa.concat_tables(tables))


def next_id(segments: Iterable[Segment]) -> int:
    """The number after the largest that is an id."""
    return max([0, *(item + 1 for segment in segments for item in segment.ids() if isinstance(item, int))])


def merged(segments: Sequence[Segment]) -> Segment:
    return Segment(
        np.concatenate([segment.vectors for segment in segments]),
        pa.concat_tables([segment.entries for segment in segments]).combine_chunks(),
    )


def compacted(snapshot: Snapshot) -> Segment:
    """One segment without the rows that were removed."""
    rows = snapshot.rows()
    table = pa.concat_tables([segment.entries for segment in snapshot.segments])
    return Segment(snapshot.vectors.take(rows), table.take(pa.array(rows)).combine_chunks())
