"""What an index holds at one moment: segments, which of their rows were removed, and the caches over them.

Rows are numbered in the order in which they came, through all segments. Growing appends a segment and removing sets a
mark, so a snapshot that a search is reading never changes under it.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from sentence_transformers_mirror.errors import BrokenIndexError
from sentence_transformers_mirror.search import words
from sentence_transformers_mirror.search.reports import Calibration, Report
from sentence_transformers_mirror.search.segments import Segment, next_id
from sentence_transformers_mirror.search.structure import Structure
from sentence_transformers_mirror.search.vectors import Vectors

_CENTRE = 10_000  # rows


@dataclass(frozen=True)
class Snapshot:
    """Everything that a search reads. Never changed; a change of an index makes a new one."""

    segments: tuple[Segment, ...]
    removed: np.ndarray  # whether each row was, shape (rows,), bool
    # A FAISS index over the first rows, None if they are scanned, or a function that loads one of these.
    structure: Structure | Callable[[], Structure | None] | None = None
    report: Report | None = None  # how it was chosen; None in an index without rows
    calibration: Calibration | None = None
    next_id: int = 0  # the number that the next text without an id gets
    language: str | None = None  # whose words are stemmed for a search by words
    passages: int | None = None  # tokens of the passages that texts are cut into, which are then the rows

    @classmethod
    def of(cls, *segments: Segment) -> Snapshot:
        return cls(segments, np.zeros(sum(map(len, segments)), bool), next_id=next_id(segments))

    @cached_property
    def vectors(self) -> Vectors:
        return Vectors([segment.vectors for segment in self.segments])

    @cached_property
    def lexicon(self) -> words.Lexicon:
        parts = [part for segment in self.segments for part in segment.words(self.language)]
        return words.Lexicon(parts, self.alive, self.language)

    @cached_property
    def centre(self) -> np.ndarray:
        """The mean of up to 10,000 vectors, evenly spread: a query's product with it is its mean cosine with all."""
        rows = self.rows()
        return self.vectors.take(rows[:: -(-len(rows) // _CENTRE)]).mean(axis=0)

    @cached_property
    def loaded(self) -> Structure | None:
        return self.structure() if callable(self.structure) else self.structure

    @cached_property
    def size(self) -> int:
        """Rows that were not removed."""
        return len(self.removed) - int(self.removed.sum())

    @cached_property
    def owners(self) -> np.ndarray | None:
        """The first row of the text of each row, shape (rows,), int64; None where texts are not cut."""
        if self.passages is None:
            return None
        numbers = [segment.numbers for segment in self.segments]
        owners = np.arange(len(self.removed)) - np.concatenate([np.zeros(0, np.int64), *numbers])
        if not np.array_equal(self.removed, self.removed[owners]):
            raise BrokenIndexError(
                "A text of the index is removed in parts: restore the index from a copy or build it again."
            )
        return owners

    @cached_property
    def texts(self) -> np.ndarray:
        """The first rows of texts that were not removed, int64, ascending."""
        rows = self.rows()
        return rows if self.owners is None else rows[self.owners[rows] == rows]

    @cached_property
    def count(self) -> int:
        """Texts that were not removed."""
        return self.size if self.owners is None else len(self.texts)

    def whole(self, rows: list[int]) -> np.ndarray:
        """All rows of the texts that begin at some rows."""
        return np.array(rows, np.int64) if self.owners is None else np.flatnonzero(np.isin(self.owners, rows))

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
        there = ~self.removed
        if self.owners is not None:
            there &= self.owners == np.arange(len(there))
        for start, segment in zip(self.vectors.starts, self.segments, strict=False):
            yield from itertools.compress(segment.ids(), there[start : start + len(segment)])

    def rows(self) -> np.ndarray:
        """The rows that were not removed, int64, ascending."""
        return np.flatnonzero(~self.removed)


def compacted(snapshot: Snapshot) -> Segment:
    """One segment without the rows that were removed."""
    rows = snapshot.rows()
    table = pa.concat_tables([segment.entries for segment in snapshot.segments])
    return Segment(snapshot.vectors.take(rows), table.take(pa.array(rows)).combine_chunks())
